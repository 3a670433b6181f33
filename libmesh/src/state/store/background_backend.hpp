// A backend whose commits are made by a thread of its own, gathered: for a mirror, which must not
// wait for a disk and may lose the newest second, since it resumes from what is durable.
#pragma once

#include <cstddef>
#include <memory>

#include "runtime/clock.hpp"
#include "state/store/backend.hpp"

namespace mesh::store {

struct BackgroundOptions {
    /// Between two commits; what comes meanwhile is gathered. What may be lost is this and the time
    /// of a commit.
    Duration gather = std::chrono::seconds(1);
    /// Most bytes of records that wait for the disk; beyond that commit() fails.
    std::size_t max_waiting_bytes = std::size_t{256} << 20;
};

/// commit() takes a batch and returns at once. Once one could not be made durable, what is durable
/// stays as it is and commit() answers with that error, until a batch with `replace` comes. Sizes
/// are those after the last commit. The destructor waits until all is durable, or refused.
/// @param inner keeps_mirror(); from the first commit() on used by the thread alone
[[nodiscard]] std::unique_ptr<Backend> in_background(std::unique_ptr<Backend> inner,
                                                     const BackgroundOptions& options);

}  // namespace mesh::store
