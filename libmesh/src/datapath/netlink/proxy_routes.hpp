// How packets for this node's proxies, whatever their destination, come to its sockets: a rule that
// gives packets with a mark a table of their own, where all addresses are the node's.
// @source Documentation/networking/tproxy.rst (Linux)
#pragma once

#include <cstdint>
#include <mesh/error.hpp>

#include "datapath/netlink/rtnetlink.hpp"

namespace mesh::datapath {

/// The table, and the place of its rules: before those of encryption and of the main table.
inline constexpr std::uint32_t kProxyTable = 202;
inline constexpr std::uint32_t kProxyRulePriority = 108;

/// Makes the rules and routes exist, of both families, and removes rules for other marks; what is
/// right is not touched. A kernel without IPv6 gets those of IPv4.
/// @param mark PolicySettings::proxy_mark
/// @errors as Rtnetlink
[[nodiscard]] Result<void> set_proxy_routes(Rtnetlink& netlink, std::uint32_t mark);
/// Removes them. Nothing happens when they are not there.
[[nodiscard]] Result<void> clear_proxy_routes(Rtnetlink& netlink);

}  // namespace mesh::datapath
