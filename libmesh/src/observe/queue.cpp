#include "observe/queue.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

namespace mesh::observe {

Result<std::shared_ptr<Queue>> Queue::make(std::uint32_t objects, std::size_t most_bytes) {
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return Error(Errc::kCapacity,
                     fmt::format("subscription: no eventfd: {}", std::strerror(errno)));
    }
    std::shared_ptr<Queue> queue(new Queue(objects, most_bytes, fd));
    const std::lock_guard lock(queue->mutex_);
    queue->update_signal();
    return queue;
}

Queue::~Queue() {
    ::close(fd_);
}

/// The descriptor is readable exactly while there is something to take; two system calls for each
/// time that the queue runs full and empty, however many blocks pass.
void Queue::update_signal() noexcept {
    const bool wanted = closed_ || snapshot_due_ || !snapshot_.empty() || !changes_.empty();
    if (wanted == signalled_) return;
    signalled_ = wanted;
    std::uint64_t count = 1;
    if (wanted) {
        [[maybe_unused]] const auto n = ::write(fd_, &count, sizeof count);
    } else {
        [[maybe_unused]] const auto n = ::read(fd_, &count, sizeof count);
    }
}

Queue::Next Queue::take(BlockPtr& block) {
    const std::lock_guard lock(mutex_);
    // The rest of a snapshot goes first, also when the changes behind it were lost: a reader that
    // is too slow gets whole snapshots, one after the other.
    if (!snapshot_.empty()) {
        block = std::move(snapshot_.front());
        snapshot_.pop_front();
        update_signal();
        return Next::kBlock;
    }
    if (!changes_.empty()) {
        block = std::move(changes_.front());
        changes_.pop_front();
        bytes_ -= block->bytes();
        update_signal();
        return Next::kBlock;
    }
    if (closed_) return Next::kClosed;
    return snapshot_due_ ? Next::kSnapshotDue : Next::kNothing;
}

bool Queue::wait(std::chrono::milliseconds timeout) const {
    using std::chrono::milliseconds;
    using std::chrono::steady_clock;
    const bool forever = timeout < milliseconds::zero();
    constexpr milliseconds kMost{std::numeric_limits<int>::max()};
    const auto end = steady_clock::now() + std::clamp(timeout, milliseconds::zero(), kMost);
    pollfd item{fd_, POLLIN, 0};
    for (;;) {
        int left = -1;
        if (!forever) {
            const auto rest = std::chrono::ceil<milliseconds>(end - steady_clock::now());
            left = static_cast<int>(std::max(rest, milliseconds::zero()).count());
        }
        const int n = ::poll(&item, 1, left);
        if (n > 0) return true;
        if (n == 0) return false;
        if (errno != EINTR) return true;
    }
}

void Queue::put(const BlockPtr& block) {
    const std::lock_guard lock(mutex_);
    if (snapshot_due_ || closed_ || (block->objects() & objects_) == 0) return;
    if (!changes_.empty() && bytes_ + block->bytes() > most_bytes_) {
        changes_.clear();
        bytes_ = 0;
        snapshot_due_ = true;
        ++overflows_;
    } else {
        changes_.push_back(block);
        bytes_ += block->bytes();
    }
    update_signal();
}

void Queue::set_snapshot(std::vector<BlockPtr> blocks) {
    const std::lock_guard lock(mutex_);
    if (closed_ || !snapshot_due_) return;
    snapshot_due_ = false;
    snapshot_.assign(std::make_move_iterator(blocks.begin()),
                     std::make_move_iterator(blocks.end()));
    update_signal();
}

void Queue::close(bool now) noexcept {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    snapshot_due_ = false;
    if (now) {
        snapshot_.clear();
        changes_.clear();
        bytes_ = 0;
    }
    update_signal();
}

bool Queue::snapshot_due() const noexcept {
    const std::lock_guard lock(mutex_);
    return snapshot_due_;
}

bool Queue::closed() const noexcept {
    const std::lock_guard lock(mutex_);
    return closed_;
}

std::uint64_t Queue::overflows() const noexcept {
    const std::lock_guard lock(mutex_);
    return overflows_;
}

}  // namespace mesh::observe
