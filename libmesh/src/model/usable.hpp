// Which addresses can be a node's or a pod's of a cluster at all, whatever clusters announce.
//
// Used by compile/routes, compile/ipcache, compile/encryption and workload.cpp.
#pragma once

#include <optional>

#include "model/ip.hpp"

namespace mesh::model {

/// False for unspecified, loopback, link-local, multicast, reserved and broadcast addresses.
[[nodiscard]] bool is_usable(const IpAddress& address);
/// The first block of addresses that are not usable which holds the prefix or lies within it.
[[nodiscard]] std::optional<IpPrefix> unusable_part(const IpPrefix& prefix);

}  // namespace mesh::model
