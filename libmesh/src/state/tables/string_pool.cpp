#include "state/tables/string_pool.hpp"

#include <cassert>
#include <cstring>

#include "state/tables/row_table.hpp"

namespace mesh::state {

StringPool::StringPool(const SipKey& key) : key_(key), entries_(1), index_(16, 0) {}

std::size_t StringPool::home(std::string_view text) const noexcept {
    return static_cast<std::size_t>(sip_hash(key_, text)) & (index_.size() - 1);
}

StringPool::Id StringPool::intern(std::string_view text) {
    if (text.empty()) return 0;
    const std::size_t mask = index_.size() - 1;
    std::size_t slot = home(text);
    for (; index_[slot] != 0; slot = (slot + 1) & mask) {
        if (view(index_[slot]) != text) continue;
        ++entries_[index_[slot]].count;
        return index_[slot];
    }
    Id id = free_;
    if (id != 0) {
        free_ = entries_[id].next_free;
    } else {
        id = static_cast<Id>(entries_.size());
        entries_.emplace_back();
    }
    Entry& entry = entries_[id];
    entry.count = 1;
    entry.length = static_cast<std::uint32_t>(text.size());
    entry.text = std::make_unique_for_overwrite<char[]>(text.size());
    std::memcpy(entry.text.get(), text.data(), text.size());
    text_bytes_ += heap_bytes(text.size());
    index_[slot] = id;
    if (++used_ * 8 > index_.size() * 7) grow();
    return id;
}

void StringPool::grow() {
    const std::vector<Id> old = std::move(index_);
    index_.assign(old.size() * 2, 0);
    const std::size_t mask = index_.size() - 1;
    for (const Id id : old) {
        if (id == 0) continue;
        std::size_t slot = home(view(id));
        while (index_[slot] != 0) slot = (slot + 1) & mask;
        index_[slot] = id;
    }
}

void StringPool::release(Id id) {
    if (id == 0) return;
    Entry& entry = entries_[id];
    assert(entry.count > 0);
    if (--entry.count > 0) return;
    remove_from_index(id);
    text_bytes_ -= heap_bytes(entry.length);
    entry.text.reset();
    entry.length = 0;
    entry.next_free = free_;
    free_ = id;
    --used_;
}

void StringPool::remove_from_index(Id id) {
    const std::size_t mask = index_.size() - 1;
    std::size_t hole = home(view(id));
    while (index_[hole] != id) hole = (hole + 1) & mask;
    // Linear probing without tombstones: pull back each later string of the run that may stand
    // here.
    for (std::size_t next = (hole + 1) & mask; index_[next] != 0; next = (next + 1) & mask) {
        const std::size_t wanted = home(view(index_[next]));
        if (((next - wanted) & mask) < ((next - hole) & mask)) continue;
        index_[hole] = index_[next];
        hole = next;
    }
    index_[hole] = 0;
}

std::string_view StringPool::view(Id id) const noexcept {
    return {entries_[id].text.get(), entries_[id].length};
}

std::size_t StringPool::bytes() const noexcept {
    return text_bytes_ + entries_.capacity() * sizeof(Entry) + index_.capacity() * sizeof(Id);
}

}  // namespace mesh::state
