// Kubernetes objects → the records of the mesh, one function per record; no state.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/kubernetes.hpp"
#include "model/types.hpp"

namespace mesh::publish {

/// Who publishes.
struct ClusterInfo {
    std::string name;
    model::ClusterId id{};
    std::uint32_t max_clusters = 255;  ///< 255 or 511
};

/// A Service's EndpointSlices by name.
using Slices = std::map<std::string, std::shared_ptr<const model::k8s::EndpointSlice>>;

/// @param warnings receives a sentence per annotation that is not what it should be
/// @source wire.md §4, adapted to the core Node: addresses that are no IPs are left out; the first
///   CIDR of a family is its AllocCIDR; Cilium's node annotations give its router and health
///   addresses and the WireGuard key
[[nodiscard]] model::Node make_node(const model::k8s::Node& node, const ClusterInfo& cluster,
                                    std::vector<std::string>& warnings);

/// The Service as the cluster's own agents see it, with every backend that is ready, or serving
/// while it terminates. Slices learned from the mesh are left out. @source services.md §1, §6, §7
[[nodiscard]] model::LocalService make_local_service(const model::k8s::Service& service,
                                                     const Slices& slices,
                                                     std::vector<std::string>& warnings);

/// The record for other clusters; nullopt unless global and shared (and no ExternalName).
/// @source wire.md §5, services.md §7
[[nodiscard]] std::optional<model::Service> make_service(const model::LocalService& local,
                                                         const ClusterInfo& cluster);

/// The node's address as tunnel endpoint: its first IPv4 InternalIP, else its first IPv4
/// ExternalIP, else likewise of IPv6. As Cilium's endpoints have one node address for the pod's
/// addresses of both families. @source wire.md §4
[[nodiscard]] std::optional<model::IpAddress> node_address(const model::k8s::Node& node);

}  // namespace mesh::publish
