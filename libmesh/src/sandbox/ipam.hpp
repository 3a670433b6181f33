// Which addresses a sandbox hands out: a block per node out of the pod CIDR, an address per pod out
// of its node's block, a cluster IP per Service out of the service CIDR. Plain computation.
#pragma once

#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <string_view>
#include <vector>

#include "model/ip.hpp"

namespace mesh::sandbox {

/// The block of node `number` (from 1): the number-th /24 of an IPv4 pod CIDR, /64 of an IPv6 one;
/// as many bits of a smaller CIDR as `nodes` need.
/// @errors kInvalidArgument when the CIDR is too small for `nodes` blocks of 8 addresses
[[nodiscard]] Result<model::IpPrefix> node_block(const model::IpPrefix& pod_cidr,
                                                 std::uint32_t number, std::uint32_t nodes);

/// Parses "<IPv4 CIDR>[,<IPv6 CIDR>]".
/// @param what for errors, e.g. "--pod-cidr"
/// @errors kInvalidArgument: not CIDRs, host bits set, the IPv4 one missing or not first
[[nodiscard]] Result<std::vector<model::IpPrefix>> parse_cidrs(std::string_view what,
                                                               std::string_view text);

/// The `offset`-th address of a block.
[[nodiscard]] model::IpAddress address_at(const model::IpPrefix& block, std::uint64_t offset);

/// Takes the next free address of a block, beginning after the one taken last, so that an address
/// is not given out again at once. The first two and an IPv4 block's last are never taken.
/// @param cursor  offset taken last; updated
/// @errors kCapacity when all are in use
[[nodiscard]] Result<model::IpAddress> take_address(
    const model::IpPrefix& block, std::uint64_t& cursor,
    const std::function<bool(const model::IpAddress&)>& in_use);

}  // namespace mesh::sandbox
