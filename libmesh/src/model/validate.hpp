// What a remote may publish (spec wire.md §4-§8, §15, §17; protocol.md §4, §6), as pure functions
// of the connection and a decoded object. Each error names key and field; the caller drops that one
// entry, counts it, and keeps the last good one.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/keys.hpp"
#include "model/types.hpp"

namespace mesh::model {

/// Whose checks: what Cilium 1.15 looked at, or what 1.19 does (the default, strict).
enum class Generation : std::uint8_t { k115, k119 };

/// The remote that an object came from, and ourselves.
struct Connection {
    std::string cluster;               ///< the remote's name
    ClusterId id{};                    ///< as its cluster-config said
    ClusterId local_id{};              ///< ours; 0 = not in a mesh
    std::uint32_t max_clusters = 255;  ///< ours: 255 or 511
    Generation generation = Generation::k119;
    /// The remote has no cluster-config (a writer before 1.13): cluster ids are not compared.
    bool legacy = false;
};

/// An inclusive range of identities.
struct IdentityRange {
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    [[nodiscard]] constexpr bool contains(IdentityId id) const noexcept {
        return number(id) >= first && number(id) <= last;
    }
    friend bool operator==(const IdentityRange&, const IdentityRange&) = default;
};

/// Identities below this are the same in every cluster (wire.md §15).
inline constexpr std::uint32_t kReservedIdentities = 256;
inline constexpr IdentityId kIdentityHost{1};
inline constexpr IdentityId kIdentityWorld{2};
inline constexpr IdentityId kIdentityHealth{4};
inline constexpr IdentityId kIdentityRemoteNode{6};
inline constexpr IdentityId kIdentityIngress{8};
/// The label that says whose an identity is, source k8s.
inline constexpr std::string_view kClusterLabel = "io.cilium.k8s.policy.cluster";

/// How far the cluster id is shifted in an identity: 16 for 255 clusters, 15 for 511.
[[nodiscard]] constexpr unsigned identity_shift(std::uint32_t max_clusters) noexcept {
    return max_clusters == 511 ? 15 : 16;
}
/// The identities that cluster `id` may allocate. Cluster 0 begins at 256. @source wire.md §15
[[nodiscard]] constexpr IdentityRange identity_range(ClusterId id,
                                                     std::uint32_t max_clusters) noexcept {
    const unsigned shift = identity_shift(max_clusters);
    const std::uint32_t size = std::uint32_t{1} << shift;
    if (number(id) == 0) return {kReservedIdentities, size - 1};
    return {number(id) << shift, (number(id) << shift) + size - 1};
}
/// The cluster an identity belongs to, by its bits.
[[nodiscard]] constexpr ClusterId cluster_of(IdentityId id, std::uint32_t max_clusters) noexcept {
    return ClusterId{(number(id) >> identity_shift(max_clusters)) & max_clusters};
}

/// 1 to 32 characters of a-z, 0-9 and '-', alphanumeric at both ends. @errors kInvalidArgument
[[nodiscard]] Result<void> check_cluster_name(std::string_view name);
/// The name's rule, the id's range, and that "default" is only used with id 0.
/// @param max_clusters 255 or 511; anything else is an error, too
[[nodiscard]] Result<void> check_local_cluster(std::string_view name, ClusterId id,
                                               std::uint32_t max_clusters);

// validate_x(connection, key, object): @errors kInvalidArgument, the entry must not be used.
// @thread any thread. An identity's or node's delete needs no check but check_identity_id().

/// Whether a remote with this config may be joined. That no other remote has the id is the caller's
/// check. k115: id 0 and our own id pass. @source protocol.md §4
[[nodiscard]] Result<void> validate_cluster_config(const Connection& connection,
                                                   const ClusterConfig& config);
[[nodiscard]] Result<void> validate_node(const Connection& connection, const ParsedKey& key,
                                         const Node& node);
/// Does not look at `shared`: a service that is not is to be treated as deleted.
[[nodiscard]] Result<void> validate_service(const Connection& connection, const ParsedKey& key,
                                            const Service& service);
/// Rewrites identity 1 (host) to 6 (remote-node).
[[nodiscard]] Result<void> validate_ip(const Connection& connection, const ParsedKey& key,
                                       IpIdentityPair& pair);
[[nodiscard]] Result<void> validate_identity(const Connection& connection, const ParsedKey& key,
                                             const Identity& identity);
/// For deletes of identities, which carry no labels.
[[nodiscard]] Result<void> check_identity_id(const Connection& connection, const ParsedKey& key,
                                             IdentityId id);
[[nodiscard]] Result<void> validate_service_export(const Connection& connection,
                                                   const ParsedKey& key,
                                                   const ServiceExport& service_export);

/// The named ports that policy can use, by name: in lower case, of equal names the last, protocol
/// TCP where none is told; ports without a name, with port 0 or an unknown protocol are left out.
[[nodiscard]] std::vector<NamedPort> usable_named_ports(const IpIdentityPair& pair);

}  // namespace mesh::model
