// Whether an executor's context is being destroyed, with all handlers in it that were never run: an
// embedder's may be, while objects of ours wait for theirs. Then tasks go without having ended.
#pragma once

#include <boost/asio/any_io_executor.hpp>

namespace mesh {

/// Has is_ending() tell the truth about the context from now on. Makes the services of the context
/// that hold handlers of ours, if there are none yet.
/// @thread as the executor's context allows services to be added: any
void watch_for_end(const boost::asio::any_io_executor& executor);

/// @thread any thread
[[nodiscard]] bool is_ending(const boost::asio::any_io_executor& executor) noexcept;

}  // namespace mesh
