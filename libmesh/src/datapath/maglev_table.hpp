// The look-up tables of Maglev consistent hashing: which backend a hash belongs to. All nodes make
// the same table of the same backends, and when one comes or goes few others change places, so a
// flow finds its backend again whichever node its packets reach.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "datapath/datapath.hpp"

namespace mesh::datapath {

/// Cilium's has 16,381. This one takes 16 KiB per frontend, and evens out within a percent or so up
/// to 40 backends, within some ten up to 400.
inline constexpr std::uint32_t kDefaultMaglevSize = 4093;

/// Whether a table may have that many entries: Cilium's list of primes, 251 to 131,071.
[[nodiscard]] bool is_maglev_size(std::uint32_t size) noexcept;

/// Makes the table of `size` entries: for each the index of its backend. A backend's share is that
/// of its weight; one of weight 0 has none. The order of the backends matters where they compete
/// for a place: give them by address and port.
/// @param size one of is_maglev_size()
/// @return empty if no backend has a weight
/// @complexity O(size × backends) at worst, O(size × log size) with equal weights
/// @source "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4
[[nodiscard]] std::vector<std::uint32_t> make_maglev_table(std::span<const Backend> backends,
                                                           std::uint32_t size);

}  // namespace mesh::datapath
