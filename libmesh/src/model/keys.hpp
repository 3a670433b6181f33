// Every key of the mesh (spec wire.md §2, §9, §12) and our own ones below mesh/local/: builders,
// the prefixes to watch, and a parser that tells what a key is. No I/O, no allocation in the
// parser.
#pragma once

#include <array>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/types.hpp"

namespace mesh::model {

inline constexpr std::string_view kStatePrefix = "cilium/state/";
inline constexpr std::string_view kCachePrefix = "cilium/cache/";
inline constexpr std::string_view kHeartbeatKey = "cilium/.heartbeat";
/// 1.14 to 1.16: "true" says that a missing cluster-config is an error.
inline constexpr std::string_view kHasClusterConfigKey = "cilium/.has-cluster-config";
inline constexpr std::string_view kClusterConfigPrefix = "cilium/cluster-config/";
inline constexpr std::string_view kSyncedPrefix = "cilium/synced/";
/// The fixed name that stands for the cluster in a live ip key.
inline constexpr std::string_view kIpAddressSpace = "default";
/// Own keys: what the agents of a cluster need and no proxy serves to a remote.
inline constexpr std::string_view kLocalPrefix = "mesh/local/";
inline constexpr std::string_view kLocalServicesPrefix = "mesh/local/services/v1/";
inline constexpr std::string_view kLocalIpsPrefix = "mesh/local/ips/v1/";
inline constexpr std::string_view kLocalPoliciesPrefix = "mesh/local/policies/v1/";
inline constexpr std::string_view kLocalWorkloadsPrefix = "mesh/local/workloads/v1/";
inline constexpr std::string_view kLocalWorkloadStatusPrefix = "mesh/local/workload-status/v1/";

/// A resource that is watched by prefix and has a canary.
enum class Resource : std::uint8_t { kNodes, kServices, kIps, kIdentities, kServiceExports };
inline constexpr std::array<Resource, 5> kResources{Resource::kNodes, Resource::kServices,
                                                    Resource::kIps, Resource::kIdentities,
                                                    Resource::kServiceExports};

/// The path part of a resource: "nodes", "services", "ip", "identities", "serviceexports".
[[nodiscard]] std::string_view to_string(Resource resource) noexcept;

/// Where a cluster's data stands: in its own etcd (state), or in another's as a copy (cache).
enum class Layout : std::uint8_t { kState, kCache };

// The prefix to list and watch for one cluster's objects of a resource, with a trailing slash:
//   cilium/state/nodes/v1/<cluster>/    cilium/cache/nodes/v1/<cluster>/
//   cilium/state/ip/v1/default/         cilium/cache/ip/v1/<cluster>/
//   cilium/state/identities/v1/id/      cilium/cache/identities/v1/<cluster>/id/
[[nodiscard]] std::string resource_prefix(Resource resource, std::string_view cluster,
                                          Layout layout = Layout::kState);

// Builders. Names are taken as they are: they must not be empty nor hold a slash (see
// check_key_part).
[[nodiscard]] std::string cluster_config_key(std::string_view cluster);
[[nodiscard]] std::string node_key(std::string_view cluster, std::string_view name,
                                   Layout layout = Layout::kState);
[[nodiscard]] std::string service_key(std::string_view cluster, std::string_view namespace_name,
                                      std::string_view name, Layout layout = Layout::kState);
[[nodiscard]] std::string service_export_key(std::string_view cluster,
                                             std::string_view namespace_name, std::string_view name,
                                             Layout layout = Layout::kState);
/// @param cluster only used with Layout::kCache
[[nodiscard]] std::string ip_key(const IpIdentityPair& pair, std::string_view cluster = {},
                                 Layout layout = Layout::kState);
/// As above; a full-length prefix is a host entry and has no "/len".
[[nodiscard]] std::string ip_key(const IpPrefix& prefix, std::string_view cluster = {},
                                 Layout layout = Layout::kState);
/// The last part of an ip key: "10.7.1.20" or "10.7.0.0/16".
[[nodiscard]] std::string ip_key_tail(const IpIdentityPair& pair);
[[nodiscard]] std::string identity_key(IdentityId id, std::string_view cluster = {},
                                       Layout layout = Layout::kState);
/// cilium/state/identities/v1/value/<labels>/<node>: kvstore mode's reference. @source wire.md §7
[[nodiscard]] std::string identity_value_key(const std::vector<Label>& labels,
                                             std::string_view node);
/// cilium/synced/<cluster>/, the prefix of all canaries of a cluster.
[[nodiscard]] std::string synced_prefix(std::string_view cluster);
/// cilium/synced/<cluster>/cilium/state/nodes/v1 and the like. @source wire.md §9
[[nodiscard]] std::string synced_key(std::string_view cluster, Resource resource,
                                     Layout layout = Layout::kState);
/// mesh/local/services/v1/<namespace>/<name>.
[[nodiscard]] std::string local_service_key(std::string_view namespace_name, std::string_view name);
/// mesh/local/ips/v1/<address>.
[[nodiscard]] std::string local_ip_key(const IpAddress& address);
/// The state key's copy in another cluster's etcd, as KVStoreMesh would write it (wire.md §12):
/// cilium/state/ip/v1/default/P of cluster C becomes cilium/cache/ip/v1/C/P. Keys that are a cache
/// already, cluster-configs and canaries stay as they are, save that a canary's inner prefix
/// follows.
/// @errors kInvalidArgument for any other key
[[nodiscard]] Result<std::string> reflected_key(std::string_view key, std::string_view cluster);

/// What a key is.
enum class KeyKind : std::uint8_t {
    kUnknown,  ///< none of ours: ignore it (wire.md §13)
    kClusterConfig,
    kNode,
    kService,
    kServiceExport,
    kIp,
    kIdentity,
    kIdentityValue,  ///< the reference .../value/<labels>/<node>
    kIdentityLock,
    kSynced,
    kHeartbeat,
    kHasClusterConfig,
    kLocalService,
    kLocalPolicy,
    kLocalIp,
    kLocalWorkload,
    kLocalWorkloadStatus,
};

/// A key taken apart; the views are into the key, which must outlive this.
struct ParsedKey {
    KeyKind kind = KeyKind::kUnknown;
    Layout layout = Layout::kState;  ///< of a canary: of the prefix it speaks of
    std::string_view full;           ///< the whole key
    std::string_view cluster;        ///< empty for live ip and identity keys, heartbeat, local ones
    std::string_view namespace_name;  ///< services, service exports, local services and policies
    std::string_view name;            ///< node, service, service export, local policy, workload
    /// ip: "10.7.1.20" or "10.7.0.0/16"; identity: the decimal id as written; identity value:
    /// "<labels>/<node>"; local policy: its kind; local ip: the address.
    std::string_view tail;
    Resource resource{};  ///< of a canary
};

/// Takes a key apart by its form alone. A key with a part missing, empty or too many is kUnknown;
/// the tail of ips and identities is not looked at (the codecs and validators do).
/// @thread any thread
[[nodiscard]] ParsedKey parse_key(std::string_view key) noexcept;

/// Whether a name may stand as one part of a key. @errors kInvalidArgument for "", ".", ".." and
/// anything with a slash or a zero byte
[[nodiscard]] Result<void> check_key_part(std::string_view what, std::string_view name);

}  // namespace mesh::model
