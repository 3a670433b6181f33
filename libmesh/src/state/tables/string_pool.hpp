// Byte strings that many rows share, each kept once and counted: namespaces, label keys and values,
// port lists, node addresses. A row holds the number of a string in place of the string.
// Used by row_codec.hpp only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "state/tables/sip_hash.hpp"

namespace mesh::state {

/// Counted strings. The number 0 is the empty string, which is not counted.
/// @thread same object not concurrently
class StringPool {
  public:
    using Id = std::uint32_t;

    explicit StringPool(const SipKey& key);

    /// The string's number; the caller owns one count of it and gives it back with release().
    [[nodiscard]] Id intern(std::string_view text);
    void release(Id id);
    /// Valid until the last count of the id is released.
    [[nodiscard]] std::string_view view(Id id) const noexcept;

    [[nodiscard]] std::size_t size() const noexcept { return used_; }
    [[nodiscard]] std::size_t bytes() const noexcept;

  private:
    struct Entry {
        std::uint32_t count = 0;
        std::uint32_t length = 0;
        std::unique_ptr<char[]> text;
        Id next_free = 0;
    };

    [[nodiscard]] std::size_t home(std::string_view text) const noexcept;
    void grow();
    void remove_from_index(Id id);

    SipKey key_;
    std::vector<Entry> entries_;  ///< [0] is the empty string
    std::vector<Id> index_;       ///< open addressing, linear probing; 0 = free
    std::size_t used_ = 0;
    std::size_t text_bytes_ = 0;
    Id free_ = 0;
};

}  // namespace mesh::state
