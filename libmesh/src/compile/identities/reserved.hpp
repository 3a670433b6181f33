// Identities that are the same on every node of every cluster, and the scope of those that only
// one node knows. @source wire.md §15
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "model/ip.hpp"
#include "model/types.hpp"

namespace mesh::compile {

/// Numbers that only this node knows: of blocks of addresses and of DNS names' addresses.
inline constexpr std::uint32_t kFirstLocalIdentity = 0x01000001;
inline constexpr std::uint32_t kLastLocalIdentity = 0x01ffffff;
[[nodiscard]] constexpr bool is_local_identity(std::uint32_t id) noexcept {
    return id >= kFirstLocalIdentity && id <= kLastLocalIdentity;
}

/// An identity that stands for no pods, as policies see it.
struct LocalIdentity {
    std::uint32_t id = 0;
    std::vector<model::Label> labels;     ///< sorted by source and key
    std::optional<model::IpPrefix> cidr;  ///< the narrowest claimed block that holds its addresses
    friend bool operator==(const LocalIdentity&, const LocalIdentity&) = default;
};

/// The reserved identities that policies may select, ascending.
/// @param dual_stack nodes have IPv4 and IPv6: what no row of the ipcache holds is 9 or 10 by its
///        family; else it is 2
[[nodiscard]] std::vector<LocalIdentity> reserved_identities(bool dual_stack);

/// The world's label for an address: "world", in dual stack "world-ipv4" or "world-ipv6".
[[nodiscard]] model::Label world_label(bool v4, bool dual_stack);
/// The label of a block, "cidr:10.0.0.0/8" or "cidr:2001-db8--0/32". @source wire.md §16
[[nodiscard]] model::Label cidr_label(const model::IpPrefix& prefix);

}  // namespace mesh::compile
