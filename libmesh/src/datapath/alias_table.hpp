// Weighted choice in constant time: Walker's alias method, in integers. Row i of the table is
// chosen uniformly; a second random number below `threshold` takes entry i itself, otherwise
// `alias`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mesh::datapath {

struct AliasRow {
    std::uint32_t alias = 0;  ///< index of the other entry; the row's own index if there is none
    std::uint32_t threshold = 0;  ///< share of the row's own entry, in 1/2^32
    friend bool operator==(const AliasRow&, const AliasRow&) = default;
};

/// Makes the table of n rows for n weights; the result depends only on the weights.
/// @param weights each 1..65535, at most 2^20 of them
/// @complexity O(n)
/// @source M. D. Vose, "A linear algorithm for generating random numbers with a given
///         distribution", IEEE TSE 17(9), 1991
[[nodiscard]] std::vector<AliasRow> make_alias_table(std::span<const std::uint16_t> weights);

}  // namespace mesh::datapath
