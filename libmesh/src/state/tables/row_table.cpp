#include "state/tables/row_table.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/heap.hpp"

namespace mesh::state {
namespace {

constexpr std::size_t kHeader = 2 * sizeof(std::uint32_t);
constexpr std::size_t kSmallest = 8;

}  // namespace

RowTable::Row RowTable::row_of(const Slot& slot) noexcept {
    std::uint32_t lengths[2];
    std::memcpy(lengths, slot.get(), kHeader);
    const char* key = slot.get() + kHeader;
    return {{key, lengths[0]}, {key + lengths[0], lengths[1]}};
}

std::size_t RowTable::home(std::string_view key) const noexcept {
    return static_cast<std::size_t>(sip_hash(key_, key)) & (slots_.size() - 1);
}

std::size_t RowTable::probe(std::string_view key) const noexcept {
    std::size_t slot = home(key);
    while (slots_[slot] && row_of(slots_[slot]).key != key) slot = (slot + 1) & (slots_.size() - 1);
    return slot;
}

std::optional<std::string_view> RowTable::find(std::string_view key) const noexcept {
    if (slots_.empty()) return std::nullopt;
    const Slot& slot = slots_[probe(key)];
    if (!slot) return std::nullopt;
    return row_of(slot).payload;
}

void RowTable::put(std::string_view key, std::string_view payload) {
    const std::size_t size = kHeader + key.size() + payload.size();
    Slot block = std::make_unique_for_overwrite<char[]>(size);
    const std::uint32_t lengths[2] = {static_cast<std::uint32_t>(key.size()),
                                      static_cast<std::uint32_t>(payload.size())};
    std::memcpy(block.get(), lengths, kHeader);
    std::ranges::copy(key, block.get() + kHeader);
    std::ranges::copy(payload, block.get() + kHeader + key.size());

    if ((used_ + 1) * 8 > slots_.size() * 7) resize(std::max(kSmallest, slots_.size() * 2));
    Slot& slot = slots_[probe(key)];
    row_bytes_ += heap_bytes(size);
    if (slot) {
        const Row old = row_of(slot);
        row_bytes_ -= heap_bytes(kHeader + old.key.size() + old.payload.size());
    } else {
        ++used_;
    }
    slot = std::move(block);
}

bool RowTable::erase(std::string_view key) {
    if (slots_.empty()) return false;
    std::size_t hole = probe(key);
    if (!slots_[hole]) return false;
    const Row old = row_of(slots_[hole]);
    row_bytes_ -= heap_bytes(kHeader + old.key.size() + old.payload.size());
    slots_[hole].reset();
    --used_;
    const std::size_t mask = slots_.size() - 1;
    // Linear probing without tombstones: pull back each later row of the run that may stand here.
    for (std::size_t next = (hole + 1) & mask; slots_[next]; next = (next + 1) & mask) {
        const std::size_t wanted = home(row_of(slots_[next]).key);
        if (((next - wanted) & mask) < ((next - hole) & mask)) continue;
        slots_[hole] = std::move(slots_[next]);
        hole = next;
    }
    if (slots_.size() > kSmallest && used_ * 8 < slots_.size()) resize(slots_.size() / 2);
    return true;
}

void RowTable::resize(std::size_t capacity) {
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    for (Slot& slot : old) {
        if (slot) slots_[probe(row_of(slot).key)] = std::move(slot);
    }
}

std::pmr::vector<RowTable::Row> RowTable::sorted() const {
    // Of 100,000 ips 3 MB, for a moment.
    std::pmr::vector<Row> rows(&large_pieces());
    rows.reserve(used_);
    for (const Slot& slot : slots_) {
        if (slot) rows.push_back(row_of(slot));
    }
    std::ranges::sort(rows, {}, &Row::key);
    return rows;
}

}  // namespace mesh::state
