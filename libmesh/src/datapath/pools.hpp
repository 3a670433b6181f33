// Free ids and free ranges of table entries. What is given back was visible to readers a moment
// ago, so it waits until pass_grace(): the owner calls that after every reader that could have seen
// it has ended.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace mesh::datapath {

/// Ids 1..limit-1; 0 is never given. @thread same object not concurrently
class IdPool {
  public:
    explicit IdPool(std::uint32_t limit) : limit_(limit) {}

    /// Marks an id as taken, while the tables of an earlier process are read; then call seal().
    void adopt(std::uint32_t id) { adopted_.insert(id); }
    /// Everything below the highest adopted id that was not adopted is free.
    void seal();

    /// An id that no reader can hold, nullopt when none is left (pass_grace() may free some).
    [[nodiscard]] std::optional<std::uint32_t> take();
    /// Back at once: the id was never visible to readers.
    void untake(std::uint32_t id) { ready_.push_front(id); }
    /// Back after the next grace period.
    void release(std::uint32_t id) { waiting_.push_back(id); }
    void pass_grace();
    [[nodiscard]] bool has_waiting() const noexcept { return !waiting_.empty(); }
    /// How many could be taken if a grace period passed now.
    [[nodiscard]] std::uint32_t available() const noexcept {
        return static_cast<std::uint32_t>(ready_.size() + waiting_.size()) + (limit_ - next_);
    }
    [[nodiscard]] std::uint32_t in_use() const noexcept { return limit_ - 1 - available(); }
    [[nodiscard]] std::uint32_t capacity() const noexcept { return limit_ - 1; }

  private:
    std::uint32_t limit_;
    std::uint32_t next_ = 1;  // never used from here on
    std::deque<std::uint32_t> ready_;
    std::vector<std::uint32_t> waiting_;
    std::set<std::uint32_t> adopted_;
};

/// Ranges of consecutive entries, best fit, neighbours joined. @thread same object not concurrently
class RangePool {
  public:
    explicit RangePool(std::uint32_t size) : size_(size), free_entries_(size) { insert(0, size); }

    /// Takes an exact range, while the tables of an earlier process are read.
    /// @return false if part of it is taken already or out of bounds
    [[nodiscard]] bool adopt(std::uint32_t base, std::uint32_t count);
    /// A range of `count` > 0 entries that no reader can hold.
    [[nodiscard]] std::optional<std::uint32_t> take(std::uint32_t count);
    void untake(std::uint32_t base, std::uint32_t count);
    void release(std::uint32_t base, std::uint32_t count) { waiting_.emplace_back(base, count); }
    void pass_grace();
    [[nodiscard]] bool has_waiting() const noexcept { return !waiting_.empty(); }
    [[nodiscard]] std::uint32_t in_use() const noexcept;
    [[nodiscard]] std::uint32_t capacity() const noexcept { return size_; }

  private:
    void insert(std::uint32_t base, std::uint32_t count);
    void erase(std::map<std::uint32_t, std::uint32_t>::iterator at);

    std::uint32_t size_;
    std::uint32_t free_entries_;
    std::map<std::uint32_t, std::uint32_t> by_base_;                // base -> count
    std::set<std::pair<std::uint32_t, std::uint32_t>> by_count_;    // (count, base)
    std::vector<std::pair<std::uint32_t, std::uint32_t>> waiting_;  // (base, count)
};

}  // namespace mesh::datapath
