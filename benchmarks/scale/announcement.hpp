// What the clusters of a large mesh publish, made by our own codecs: every entry is one that a
// reader takes. Clusters are "cluster1" and so on, of ids 1 and so on; the first is the reader's
// own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "model/ip.hpp"

namespace mesh::bench {

struct MeshSize {
    std::uint32_t clusters = 4;      ///< at most 15
    std::uint32_t nodes = 200;       ///< of each cluster, at most 4,096
    std::uint32_t pods = 50;         ///< of each node, at most 250
    std::uint32_t identities = 500;  ///< of each cluster
    std::uint32_t services = 1'000;  ///< the same global services in each cluster
    std::uint32_t backends = 10;     ///< of each service in each cluster
};

[[nodiscard]] std::string cluster_name(std::uint32_t cluster);
/// Node n of a cluster has 10.(16 cluster).n.0/24, counted on from there.
[[nodiscard]] model::IpAddress pod_address(std::uint32_t cluster, std::uint32_t node,
                                           std::uint32_t pod);
[[nodiscard]] std::uint32_t pod_identity(std::uint32_t cluster, std::uint32_t node,
                                         std::uint32_t pod, const MeshSize& size);
/// 172.(15 + cluster).0.1 and so on.
[[nodiscard]] model::IpAddress node_address(std::uint32_t cluster, std::uint32_t node);
[[nodiscard]] model::IpAddress service_address(std::uint32_t service);
inline constexpr std::uint16_t kServicePort = 80;

using Put = std::function<void(std::string key, std::string value)>;

/// What a cluster without any objects publishes: cluster-config, canaries and heartbeat.
/// @param unix_seconds the time that canaries and heartbeat tell
void announce_cluster(std::uint32_t cluster, std::int64_t unix_seconds, const Put& put);

/// Calls `put` with each object of one cluster: nodes, identities, addresses, services; of the
/// first cluster also its own Services.
void announce_objects(std::uint32_t cluster, const MeshSize& size, const Put& put);

}  // namespace mesh::bench
