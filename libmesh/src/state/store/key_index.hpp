// The sorted index: key → its versions. Keys stand in chunks of at most kChunk slots, the chunks in
// one sorted vector (a B-tree of two levels): 8 to 16 bytes a key. A slot is the only version's
// record itself, or, once there are several, a History. Internal to the store.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "state/store/key_value.hpp"
#include "state/store/ops.hpp"

namespace mesh::store {

inline constexpr Revision kNewest = std::numeric_limits<Revision>::max();

/// Whether key lies in range, by etcd's conventions.
[[nodiscard]] bool contains(const KeyRange& range, std::string_view key) noexcept;
/// Whether range_end means "no end".
[[nodiscard]] inline bool open_ended(std::string_view range_end) noexcept {
    return range_end.size() == 1 && range_end[0] == '\0';
}

/// @thread control thread
class KeyIndex {
  public:
    KeyIndex() = default;
    KeyIndex(const KeyIndex&) = delete;
    KeyIndex& operator=(const KeyIndex&) = delete;
    ~KeyIndex() = default;

    /// The version that a reader at revision sees; null if none or deleted.
    [[nodiscard]] KeyValue find(std::string_view key, Revision revision) const;
    /// The newest version, also if a tombstone; null if the key is unknown.
    [[nodiscard]] KeyValue newest(std::string_view key) const;
    /// Adds kv, which is newer than every version of its key.
    void append(KeyValue kv);
    /// Takes back the last append of this key.
    void undo(std::string_view key);
    /// Drops what nobody at or after revision can see: versions superseded at it, and a tombstone
    /// older than it.
    void trim(std::string_view key, Revision revision);
    /// If change is the last one of its key up to revision: the versions that trim() would drop.
    /// Otherwise none, so that going through all changes gives each version once.
    [[nodiscard]] std::vector<KeyValue> superseded(const KeyValue& change, Revision revision) const;
    /// Calls visitor(const KeyValue&) for what a reader at revision sees, ascending by key, until
    /// it returns false.
    template <class Visitor>
    void visit(const KeyRange& range, Revision revision, Visitor&& visitor) const;
    /// How many keys visit() would give. @complexity O(log n + n / kChunk) at the newest revision
    [[nodiscard]] std::int64_t count(const KeyRange& range, Revision revision) const;
    /// Live keys at the newest revision.
    [[nodiscard]] std::size_t live() const noexcept { return live_; }
    void clear() noexcept;

  private:
    static constexpr std::size_t kChunk = 128;
    struct History {
        std::vector<KeyValue> versions;  // ascending, at least two
    };

    /// One key: a KeyRecord* with bit 0 clear, or a History* with bit 0 set.
    class Slot {
      public:
        explicit Slot(KeyValue kv) noexcept
            : bits_(reinterpret_cast<std::uintptr_t>(kv.detach())) {}
        Slot(Slot&& other) noexcept : bits_(std::exchange(other.bits_, 0)) {}
        Slot& operator=(Slot&& other) noexcept {
            std::swap(bits_, other.bits_);
            return *this;
        }
        ~Slot();
        [[nodiscard]] std::string_view key() const noexcept;
        [[nodiscard]] KeyValue newest() const noexcept;
        [[nodiscard]] KeyValue at(Revision revision) const noexcept;
        void append(KeyValue kv);
        /// @return whether anything is left
        bool pop();
        /// Whether the newest version up to revision is that of mod.
        [[nodiscard]] bool last_is(Revision mod, Revision revision) const noexcept;
        /// How many versions, from the oldest, nobody at or after revision can see.
        [[nodiscard]] std::size_t trimmable(Revision revision) const noexcept;
        [[nodiscard]] std::vector<KeyValue> oldest(std::size_t count) const;
        bool drop_oldest(std::size_t count);

      private:
        [[nodiscard]] History* history() const noexcept {
            return (bits_ & 1) != 0 ? reinterpret_cast<History*>(bits_ & ~std::uintptr_t{1})
                                    : nullptr;
        }
        /// The first of the versions that is newer than revision.
        [[nodiscard]] static std::vector<KeyValue>::const_iterator after(
            const std::vector<KeyValue>& versions, Revision revision) noexcept;
        [[nodiscard]] KeyRecord* single() const noexcept {
            return reinterpret_cast<KeyRecord*>(bits_);
        }
        bool settle(History* history);
        std::uintptr_t bits_;
    };

    struct Chunk {
        std::vector<Slot> slots;
        std::size_t live = 0;
        Revision max_mod = 0;  // no slot has a newer version; may be too high
    };
    struct Position {
        std::size_t chunk = 0;
        std::size_t slot = 0;
    };

    [[nodiscard]] Position lower_bound(std::string_view key) const;
    [[nodiscard]] bool holds(Position at, std::string_view key) const;
    void insert(Position at, KeyValue kv);
    void erase(Position at);
    void adjust_live(Chunk& chunk, bool before, bool after) noexcept;

    std::vector<Chunk> chunks_;
    std::size_t live_ = 0;
};

template <class Visitor>
void KeyIndex::visit(const KeyRange& range, Revision revision, Visitor&& visitor) const {
    if (range.range_end.empty()) {
        if (KeyValue kv = find(range.key, revision)) visitor(std::as_const(kv));
        return;
    }
    const bool open = open_ended(range.range_end);
    Position at = lower_bound(range.key);
    for (; at.chunk < chunks_.size(); ++at.chunk, at.slot = 0) {
        const Chunk& chunk = chunks_[at.chunk];
        for (; at.slot < chunk.slots.size(); ++at.slot) {
            const Slot& slot = chunk.slots[at.slot];
            if (!open && slot.key() >= range.range_end) return;
            const KeyValue kv = slot.at(revision);
            if (kv && !visitor(kv)) return;
        }
    }
}

}  // namespace mesh::store
