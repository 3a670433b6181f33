// The history of changes in order of revision, back to the last compaction: one handle a change.
// Internal to the store.
#pragma once

#include <algorithm>
#include <deque>

#include "state/store/key_value.hpp"

namespace mesh::store {

/// @thread control thread
class RevisionLog {
  public:
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    [[nodiscard]] const KeyValue& operator[](std::size_t i) const { return entries_[i]; }
    [[nodiscard]] const KeyValue& back() const { return entries_.back(); }
    /// kv's mod revision is not below that of the last entry.
    void append(KeyValue kv) { entries_.push_back(std::move(kv)); }
    void pop_back() { entries_.pop_back(); }
    void pop_front() { entries_.pop_front(); }
    void clear() { std::deque<KeyValue>().swap(entries_); }
    /// Index of the first entry with a mod revision >= revision.
    [[nodiscard]] std::size_t lower_bound(Revision revision) const {
        const auto found = std::lower_bound(
            entries_.begin(), entries_.end(), revision,
            [](const KeyValue& kv, Revision wanted) { return kv.mod_revision() < wanted; });
        return static_cast<std::size_t>(found - entries_.begin());
    }

  private:
    std::deque<KeyValue> entries_;
};

}  // namespace mesh::store
