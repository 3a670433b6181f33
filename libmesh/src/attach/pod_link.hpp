// How a pod is wired to its node, by whoever does it (mesh-cni, the sandbox): a veth pair, the
// pod's addresses as single addresses, a default route to a link-local gateway that exists nowhere
// but as a permanent neighbour, and on the node a route and a neighbour for each address. No ARP
// and no neighbour discovery is needed. @source spec datapath-host.md, "several nodes of several
// clusters"
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/rtnetlink.hpp"
#include "model/ip.hpp"

namespace mesh::attach {

/// A link to be made.
struct PodLink {
    const datapath::Netns* node = nullptr;  ///< both outlive the call
    const datapath::Netns* pod = nullptr;
    std::string node_device;            ///< name of the node's end
    std::string pod_device = "eth0";    ///< name of the pod's end
    std::vector<model::IpAddress> ips;  ///< of the pod; IPv4 first
    std::uint32_t mtu = 1500;           ///< bytes
    /// Routed to the node beside the default route. One of length 0 is that route already.
    std::vector<model::IpPrefix> routes{};
};

/// The link layer addresses of a link.
struct LinkMacs {
    datapath::MacAddress pod{};
    datapath::MacAddress node{};
};

/// "lxc0a0a0105" for 10.10.1.5; of an IPv6 address its last four bytes and an "x" before them.
[[nodiscard]] std::string node_device_of(const model::IpAddress& ip);

/// "lxc" and 12 digits, derived from the container and its device: who knows these finds the link,
/// whatever else is lost.
[[nodiscard]] std::string node_device_of(std::string_view container_id,
                                         std::string_view pod_device);

/// Derived from the first address, which is unique on its node.
[[nodiscard]] LinkMacs macs_of(const model::IpAddress& ip);

/// The gateway that pods route to.
[[nodiscard]] model::IpAddress pod_gateway(bool v4);

/// Makes the link, up, with addresses, routes and neighbours on both sides.
/// @errors kConflict when the node's device exists; else as Rtnetlink. What was made before a
///   failure goes with the device: call detach_pod()
[[nodiscard]] Result<LinkMacs> attach_pod(const PodLink& link);

/// Removes the node's end, and with it the pod's. Nothing happens when there is none.
[[nodiscard]] Result<void> detach_pod(const datapath::Netns& node, const std::string& node_device);

/// Whether the link is as attach_pod() makes it.
/// @errors kNotFound naming what is missing: a device, an address or a route; kUnavailable when a
///   device is down
[[nodiscard]] Result<void> check_pod(const PodLink& link);

/// What every namespace of nodes and pods needs: no reverse path filter, no duplicate address
/// detection, no router advertisements.
[[nodiscard]] Result<void> set_common_sysctls(const datapath::Netns& netns);

}  // namespace mesh::attach
