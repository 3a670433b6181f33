// An event loop on a thread of its own, for objects that live on a loop but are owned from another
// thread.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <string_view>

namespace mesh {

/// How many cores this process may run on; at least 1. @thread any thread
[[nodiscard]] unsigned usable_cores() noexcept;

/// @thread every member function may be called from any thread
class LoopThread {
  public:
    /// Called on the loop with the text of an exception that left a handler; the loop goes on.
    using OnFailure = std::function<void(std::string_view what)>;

    explicit LoopThread(OnFailure on_failure);
    /// stop(), then handlers that were not run are dropped.
    ~LoopThread();
    LoopThread(const LoopThread&) = delete;
    LoopThread& operator=(const LoopThread&) = delete;

    /// Runs one handler at a time, in order.
    [[nodiscard]] boost::asio::any_io_executor executor() const;
    /// Stops the loop and joins. From within a handler: the thread ends when that returns, on its
    /// own. Not by two threads at once.
    void stop();

  private:
    struct State;
    std::shared_ptr<State> state_;  ///< the thread has a share
};

}  // namespace mesh
