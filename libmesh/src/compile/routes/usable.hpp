// Which addresses can be a node's or a pod's of a cluster at all, whatever clusters announce.
//
// Used by compile/routes, compile/ipcache and compile/encryption.
#pragma once

#include <optional>

#include "model/ip.hpp"

namespace mesh::compile {

/// False for unspecified, loopback, link-local, multicast, reserved and broadcast addresses.
[[nodiscard]] bool is_usable(const model::IpAddress& address);
/// The first block of addresses that are not usable which holds the prefix or lies within it.
[[nodiscard]] std::optional<model::IpPrefix> unusable_part(const model::IpPrefix& prefix);

}  // namespace mesh::compile
