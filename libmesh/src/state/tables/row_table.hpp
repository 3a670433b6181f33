// A hash table of byte rows: key → payload, each row one heap block, the table one array of
// pointers. It knows nothing of what the bytes mean (row_codec.hpp does). Chosen over node-based
// maps for its cost: 8 bytes of lengths and 8 to 18 of index for each row. Used by ClusterTables
// only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string_view>
#include <vector>

#include "state/tables/sip_hash.hpp"

namespace mesh::state {

/// What glibc's malloc takes for a block: 8 bytes of its own, 16-byte steps, at least 32.
[[nodiscard]] constexpr std::size_t heap_bytes(std::size_t size) noexcept {
    const std::size_t rounded = (size + 8 + 15) / 16 * 16;
    return rounded < 32 ? 32 : rounded;
}

/// Rows by key.
/// @thread same object not concurrently
class RowTable {
  public:
    struct Row {
        std::string_view key;
        std::string_view payload;
    };

    explicit RowTable(const SipKey& key) : key_(key) {}

    /// The payload, valid until the row changes.
    [[nodiscard]] std::optional<std::string_view> find(std::string_view key) const noexcept;
    /// Adds the row, or replaces its payload. Lengths of 4 GiB and more are not possible.
    void put(std::string_view key, std::string_view payload);
    /// @return whether there was such a row
    bool erase(std::string_view key);

    [[nodiscard]] std::size_t size() const noexcept { return used_; }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return row_bytes_ + slots_.capacity() * sizeof(Slot);
    }
    /// Calls for each row, in an order that means nothing; the table must not change meanwhile.
    template <class Call>
    void for_each(Call&& call) const {
        for (const Slot& slot : slots_) {
            if (slot) call(row_of(slot));
        }
    }
    /// All rows in the bytewise order of keys; valid until the table changes.
    [[nodiscard]] std::pmr::vector<Row> sorted() const;

  private:
    using Slot = std::unique_ptr<char[]>;  ///< key length, payload length, key, payload

    [[nodiscard]] static Row row_of(const Slot& slot) noexcept;
    [[nodiscard]] std::size_t home(std::string_view key) const noexcept;
    /// The slot of the key, or the free one where it belongs; slots_ must not be empty.
    [[nodiscard]] std::size_t probe(std::string_view key) const noexcept;
    void resize(std::size_t capacity);

    SipKey key_;
    std::vector<Slot> slots_;  ///< open addressing, linear probing; a power of two, or none
    std::size_t used_ = 0;
    std::size_t row_bytes_ = 0;
};

}  // namespace mesh::state
