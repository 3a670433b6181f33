#include "state/store/key_index.hpp"

#include <algorithm>
#include <memory>

namespace mesh::store {

bool contains(const KeyRange& range, std::string_view key) noexcept {
    if (range.range_end.empty()) return key == range.key;
    return key >= range.key && (open_ended(range.range_end) || key < range.range_end);
}

std::string prefix_end(std::string_view prefix) {
    std::string end(prefix);
    while (!end.empty() && static_cast<unsigned char>(end.back()) == 0xff) end.pop_back();
    if (end.empty()) return std::string(1, '\0');
    end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
    return end;
}

// --- Slot
// ---------------------------------------------------------------------------------------------

KeyIndex::Slot::~Slot() {
    if (bits_ == 0) return;
    if (History* many = history())
        delete many;
    else
        const KeyValue dropped = KeyValue::attach(single());
}

std::string_view KeyIndex::Slot::key() const noexcept {
    if (const History* many = history()) return many->versions.front().key();
    return {single()->bytes(), single()->key_size};
}

KeyValue KeyIndex::Slot::newest() const noexcept {
    if (const History* many = history()) return many->versions.back();
    KeyValue borrowed = KeyValue::attach(single());
    KeyValue copy = borrowed;
    (void)borrowed.detach();
    return copy;
}

std::vector<KeyValue>::const_iterator KeyIndex::Slot::after(const std::vector<KeyValue>& versions,
                                                            Revision revision) noexcept {
    return std::upper_bound(
        versions.begin(), versions.end(), revision,
        [](Revision wanted, const KeyValue& kv) { return wanted < kv.mod_revision(); });
}

bool KeyIndex::Slot::last_is(Revision mod, Revision revision) const noexcept {
    const History* many = history();
    if (many == nullptr) return single()->mod_revision == mod;
    const auto next = after(many->versions, revision);
    return next != many->versions.begin() && std::prev(next)->mod_revision() == mod;
}

KeyValue KeyIndex::Slot::at(Revision revision) const noexcept {
    const History* many = history();
    if (many == nullptr) {
        const bool visible =
            single()->mod_revision <= revision && (single()->sub_revision_and_tombstone & 1) == 0;
        return visible ? newest() : KeyValue();
    }
    const auto& versions = many->versions;
    const auto next = after(versions, revision);
    if (next == versions.begin() || std::prev(next)->tombstone()) return {};
    return *std::prev(next);
}

void KeyIndex::Slot::append(KeyValue kv) {
    if (History* many = history()) {
        many->versions.push_back(std::move(kv));
        return;
    }
    auto many = std::make_unique<History>();
    many->versions.reserve(2);
    many->versions.push_back(KeyValue::attach(single()));
    many->versions.push_back(std::move(kv));
    bits_ = reinterpret_cast<std::uintptr_t>(many.release()) | 1;
}

bool KeyIndex::Slot::pop() {
    History* many = history();
    if (many == nullptr) {
        const KeyValue dropped = KeyValue::attach(single());
        bits_ = 0;
        return false;
    }
    many->versions.pop_back();
    return settle(many);
}

bool KeyIndex::Slot::settle(History* many) {
    if (many->versions.size() > 1) return true;
    const std::unique_ptr<History> owned(many);
    bits_ = many->versions.empty()
                ? 0
                : reinterpret_cast<std::uintptr_t>(many->versions.front().detach());
    return bits_ != 0;
}

std::size_t KeyIndex::Slot::trimmable(Revision revision) const noexcept {
    const auto gone = [revision](Revision mod, bool tombstone) {
        return tombstone && mod < revision;
    };
    const History* many = history();
    if (many == nullptr)
        return gone(single()->mod_revision, (single()->sub_revision_and_tombstone & 1) != 0) ? 1
                                                                                             : 0;
    const auto& versions = many->versions;
    const auto next = after(versions, revision);
    if (next == versions.begin()) return 0;
    const KeyValue& seen = *std::prev(next);
    const auto up_to_seen = static_cast<std::size_t>(next - versions.begin());
    return gone(seen.mod_revision(), seen.tombstone()) ? up_to_seen : up_to_seen - 1;
}

std::vector<KeyValue> KeyIndex::Slot::oldest(std::size_t count) const {
    if (count == 0) return {};
    const History* many = history();
    if (many == nullptr) return {newest()};
    return {many->versions.begin(), many->versions.begin() + static_cast<std::ptrdiff_t>(count)};
}

bool KeyIndex::Slot::drop_oldest(std::size_t count) {
    if (count == 0) return true;
    History* many = history();
    if (many == nullptr) return pop();
    auto& versions = many->versions;
    versions.erase(versions.begin(), versions.begin() + static_cast<std::ptrdiff_t>(count));
    return settle(many);
}

// --- Chunks
// -------------------------------------------------------------------------------------------

KeyIndex::Position KeyIndex::lower_bound(std::string_view key) const {
    // The chunk that may hold key is the last one that begins at or before it.
    auto chunk = std::upper_bound(
        chunks_.begin(), chunks_.end(), key,
        [](std::string_view wanted, const Chunk& c) { return wanted < c.slots.front().key(); });
    if (chunk != chunks_.begin()) --chunk;
    if (chunk == chunks_.end()) return {};
    const auto& slots = chunk->slots;
    const auto slot =
        std::lower_bound(slots.begin(), slots.end(), key,
                         [](const Slot& s, std::string_view wanted) { return s.key() < wanted; });
    return {static_cast<std::size_t>(chunk - chunks_.begin()),
            static_cast<std::size_t>(slot - slots.begin())};
}

bool KeyIndex::holds(Position at, std::string_view key) const {
    return at.chunk < chunks_.size() && at.slot < chunks_[at.chunk].slots.size() &&
           chunks_[at.chunk].slots[at.slot].key() == key;
}

KeyValue KeyIndex::find(std::string_view key, Revision revision) const {
    const Position at = lower_bound(key);
    return holds(at, key) ? chunks_[at.chunk].slots[at.slot].at(revision) : KeyValue();
}

KeyValue KeyIndex::newest(std::string_view key) const {
    const Position at = lower_bound(key);
    return holds(at, key) ? chunks_[at.chunk].slots[at.slot].newest() : KeyValue();
}

void KeyIndex::adjust_live(Chunk& chunk, bool before, bool after) noexcept {
    if (before == after) return;
    if (after) {
        ++chunk.live;
        ++live_;
    } else {
        --chunk.live;
        --live_;
    }
}

void KeyIndex::append(KeyValue kv) {
    const Position at = lower_bound(kv.key());
    if (!holds(at, kv.key())) {
        insert(at, std::move(kv));
        return;
    }
    Chunk& chunk = chunks_[at.chunk];
    Slot& slot = chunk.slots[at.slot];
    adjust_live(chunk, !slot.newest().tombstone(), !kv.tombstone());
    chunk.max_mod = std::max(chunk.max_mod, kv.mod_revision());
    slot.append(std::move(kv));
}

void KeyIndex::insert(Position at, KeyValue kv) {
    if (chunks_.empty()) chunks_.emplace_back();
    if (chunks_[at.chunk].slots.size() >= kChunk) {
        Chunk upper;
        Chunk& lower = chunks_[at.chunk];
        upper.max_mod = lower.max_mod;
        // Keys that come in order fill the last chunk to the end instead of halving it.
        const bool appending = at.chunk + 1 == chunks_.size() && at.slot == lower.slots.size();
        const std::size_t keep = appending ? lower.slots.size() : lower.slots.size() / 2;
        for (std::size_t i = keep; i < lower.slots.size(); ++i) {
            upper.live += lower.slots[i].newest().tombstone() ? 0 : 1;
            upper.slots.push_back(std::move(lower.slots[i]));
        }
        lower.live -= upper.live;
        lower.slots.erase(lower.slots.begin() + static_cast<std::ptrdiff_t>(keep),
                          lower.slots.end());
        chunks_.insert(chunks_.begin() + static_cast<std::ptrdiff_t>(at.chunk) + 1,
                       std::move(upper));
        if (at.slot > keep || appending) at = {at.chunk + 1, at.slot - keep};
    }
    Chunk& chunk = chunks_[at.chunk];
    adjust_live(chunk, false, !kv.tombstone());
    chunk.max_mod = std::max(chunk.max_mod, kv.mod_revision());
    chunk.slots.insert(chunk.slots.begin() + static_cast<std::ptrdiff_t>(at.slot),
                       Slot(std::move(kv)));
}

void KeyIndex::erase(Position at) {
    auto& slots = chunks_[at.chunk].slots;
    slots.erase(slots.begin() + static_cast<std::ptrdiff_t>(at.slot));
    if (slots.empty()) chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(at.chunk));
}

void KeyIndex::undo(std::string_view key) {
    const Position at = lower_bound(key);
    if (!holds(at, key)) return;
    Chunk& chunk = chunks_[at.chunk];
    Slot& slot = chunk.slots[at.slot];
    const bool before = !slot.newest().tombstone();
    const bool left = slot.pop();
    adjust_live(chunk, before, left && !slot.newest().tombstone());
    if (!left) erase(at);
}

void KeyIndex::trim(std::string_view key, Revision revision) {
    const Position at = lower_bound(key);
    if (!holds(at, key)) return;
    // Only tombstones and superseded versions go: the count of live keys stays.
    Slot& slot = chunks_[at.chunk].slots[at.slot];
    if (!slot.drop_oldest(slot.trimmable(revision))) erase(at);
}

std::vector<KeyValue> KeyIndex::superseded(const KeyValue& change, Revision revision) const {
    const Position at = lower_bound(change.key());
    if (!holds(at, change.key())) return {};
    const Slot& slot = chunks_[at.chunk].slots[at.slot];
    if (!slot.last_is(change.mod_revision(), revision)) return {};
    return slot.oldest(slot.trimmable(revision));
}

std::int64_t KeyIndex::count(const KeyRange& range, Revision revision) const {
    if (range.range_end.empty()) return find(range.key, revision) ? 1 : 0;
    const bool open = open_ended(range.range_end);
    std::int64_t total = 0;
    Position at = lower_bound(range.key);
    for (; at.chunk < chunks_.size(); ++at.chunk, at.slot = 0) {
        const Chunk& chunk = chunks_[at.chunk];
        const auto& slots = chunk.slots;
        if (at.slot < slots.size() && !open && slots[at.slot].key() >= range.range_end) break;
        const bool whole = at.slot == 0 && (open || slots.back().key() < range.range_end);
        if (whole && chunk.max_mod <= revision) {
            total += static_cast<std::int64_t>(chunk.live);
            continue;
        }
        for (; at.slot < slots.size(); ++at.slot) {
            if (!open && slots[at.slot].key() >= range.range_end) return total;
            if (slots[at.slot].at(revision)) ++total;
        }
    }
    return total;
}

void KeyIndex::clear() noexcept {
    chunks_.clear();
    live_ = 0;
}

}  // namespace mesh::store
