// From the rules that hold for a peer to the fewest entries that say the same (policy.md §8): what
// a broader entry decides already is left out.
#pragma once

#include <span>
#include <vector>

#include "compile/policy/entries.hpp"

namespace mesh::compile {

/// The blocks of ports that a range is: aligned, of power-of-two size. @param last >= first
[[nodiscard]] std::vector<EntryShape> port_blocks(std::uint8_t protocol, std::uint16_t first,
                                                  std::uint16_t last);

/// The narrowest of an ascending list that covers the shape, or nullptr.
/// @complexity O(log n)
[[nodiscard]] const EntryShape* narrowest_covering(std::span<const EntryShape> list,
                                                   const EntryShape& shape);

/// Reduces the shapes of all rules that hold for a peer, in any order, to those to enter for it.
/// @param wildcard what is entered for any peer, ascending; empty when these are what is reduced
/// @return ascending @complexity O(n log(n + size of wildcard))
[[nodiscard]] std::vector<EntryShape> reduce(std::vector<EntryShape> shapes,
                                             std::span<const EntryShape> wildcard);

}  // namespace mesh::compile
