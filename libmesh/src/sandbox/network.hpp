// The wires of a sandbox: the underlay that all nodes are plugged into, a namespace per node, a
// namespace per pod. @source spec datapath-host.md, "several nodes of several clusters"
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "model/ip.hpp"
#include "sandbox/names.hpp"

namespace mesh::sandbox {

inline constexpr std::uint32_t kNodeMtu = 1500;
/// A pod's link, where its packets are encapsulated: leaves room for a VXLAN header.
inline constexpr std::uint32_t kTunnelPodMtu = 1450;

/// What WireGuard takes of each packet.
inline constexpr std::uint32_t kWireguardOverhead = 80;

/// Makes the underlay if there is none, and finds the lowest free place on it. The caller holds the
/// underlay's lock.
/// @errors kCapacity when all places are taken
[[nodiscard]] Result<std::uint32_t> reserve_slot();

/// Makes a node's namespace and plugs it in.
[[nodiscard]] Result<void> add_node(const Names& names, std::uint32_t slot, std::uint32_t number);

struct PodWires {
    std::string node, namespace_, name;
    std::string uid;  ///< tells it from an earlier pod of the same name and address
    std::vector<model::IpAddress> ips;  ///< IPv4 first
    std::uint32_t mtu = kNodeMtu;
    std::string endpoints;  ///< folder of the node's endpoint files
};
/// Makes a pod's namespace and its link to the node, and tells the node's agent.
[[nodiscard]] Result<void> add_pod(const Names& names, const PodWires& pod);

/// Takes a pod back from the agent, removes its namespace and device; what is missing is no error.
[[nodiscard]] Result<void> remove_pod(const Names& names, const PodWires& pod);

/// Removes every namespace that begins with the sandbox's prefix, with its devices.
[[nodiscard]] Result<void> remove_namespaces(const Names& names);

/// Removes the underlay when no node is plugged in. The caller holds the underlay's lock.
[[nodiscard]] Result<void> remove_underlay_if_unused();

}  // namespace mesh::sandbox
