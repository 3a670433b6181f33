// What waits for one subscriber: blocks of changes, bounded in bytes. The mesh's thread puts, any
// thread takes. When the bound is passed all that waits is dropped and a new snapshot is due, which
// is made only when the subscriber comes for it.
//
// Invariant: what is taken is a snapshot, every later change in order, and so on anew: never a
// change without the snapshot that it belongs to.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mesh/error.hpp>
#include <mutex>
#include <vector>

#include "observe/block.hpp"

namespace mesh::observe {

/// @thread any thread
class Queue {
  public:
    /// @param objects MESH_OBJECT_* bits of interest
    /// @param most_bytes of changes that wait
    /// @errors kCapacity: no file descriptor is left
    [[nodiscard]] static Result<std::shared_ptr<Queue>> make(std::uint32_t objects,
                                                             std::size_t most_bytes);
    ~Queue();
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    [[nodiscard]] std::uint32_t objects() const noexcept { return objects_; }
    /// Readable while take() gives anything but kNothing.
    [[nodiscard]] int fd() const noexcept { return fd_; }

    enum class Next : std::uint8_t { kNothing, kBlock, kSnapshotDue, kClosed };
    /// @param block set with kBlock
    [[nodiscard]] Next take(BlockPtr& block);
    /// Waits until there is something to take.
    /// @param timeout negative = no limit
    /// @return false if `timeout` passed first
    [[nodiscard]] bool wait(std::chrono::milliseconds timeout) const;

    // By the observer:
    [[nodiscard]] bool snapshot_due() const noexcept;
    void put(const BlockPtr& block);
    /// Answers kSnapshotDue, unless another has done so: then what waits stays.
    void set_snapshot(std::vector<BlockPtr> blocks);
    /// What waits is still told, then kClosed; or at once, if `now`.
    void close(bool now) noexcept;
    [[nodiscard]] bool closed() const noexcept;
    /// Snapshots that were due because the bound was passed.
    [[nodiscard]] std::uint64_t overflows() const noexcept;

  private:
    Queue(std::uint32_t objects, std::size_t most_bytes, int fd)
        : objects_(objects), most_bytes_(most_bytes), fd_(fd) {}
    void update_signal() noexcept;

    const std::uint32_t objects_;
    const std::size_t most_bytes_;
    const int fd_;
    mutable std::mutex mutex_;  // guards all below
    std::deque<BlockPtr> snapshot_, changes_;
    std::size_t bytes_ = 0;  ///< of changes_
    bool snapshot_due_ = true;
    bool closed_ = false;
    bool signalled_ = false;
    std::uint64_t overflows_ = 0;
};

}  // namespace mesh::observe
