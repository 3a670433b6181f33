// The objects that clusters publish, as plain values (spec wire.md §3-§8). Codecs are in codec.hpp.
// An absent-or-null map of the wire is std::nullopt, an empty one is an empty value, so that a
// decoded object encodes to the same bytes again.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/ip.hpp"

namespace mesh::model {

/// A cluster's id: 1..255 or 1..511 (wire.md §17); 0 = not in a mesh.
enum class ClusterId : std::uint32_t {};
/// A numeric security identity (wire.md §15).
enum class IdentityId : std::uint32_t {};

[[nodiscard]] constexpr std::uint32_t number(ClusterId id) noexcept {
    return static_cast<std::uint32_t>(id);
}
[[nodiscard]] constexpr std::uint32_t number(IdentityId id) noexcept {
    return static_cast<std::uint32_t>(id);
}

using StringMap = std::map<std::string, std::string, std::less<>>;
using OptionalStringMap = std::optional<StringMap>;

/// wire.md §3: key cilium/cluster-config/<name>.
struct ClusterConfig {
    ClusterId id{};
    bool synced_canaries = false;
    bool cached = false;
    std::uint32_t max_connected_clusters = 0;      ///< 255 or 511; 0 = not told
    std::optional<bool> service_exports_enabled;   ///< nullopt = not supported by the writer
    friend bool operator==(const ClusterConfig&, const ClusterConfig&) = default;
};

struct NodeAddress {
    std::string type;  ///< "InternalIP", "ExternalIP", "CiliumInternalIP", "Hostname", ...
    std::string ip;    ///< text as published; parsed where it is used
    friend bool operator==(const NodeAddress&, const NodeAddress&) = default;
};

/// wire.md §4: key cilium/state/nodes/v1/<cluster>/<name>.
struct Node {
    std::string name;
    std::string cluster;
    std::optional<std::vector<NodeAddress>> addresses;
    std::optional<IpPrefix> ipv4_alloc_cidr;
    std::optional<std::vector<IpPrefix>> ipv4_secondary_alloc_cidrs;
    std::optional<IpPrefix> ipv6_alloc_cidr;
    std::optional<std::vector<IpPrefix>> ipv6_secondary_alloc_cidrs;
    std::optional<IpAddress> ipv4_health_ip, ipv6_health_ip;
    std::optional<IpAddress> ipv4_ingress_ip, ipv6_ingress_ip;
    ClusterId cluster_id{};
    std::string source;
    std::uint8_t encryption_key = 0;
    OptionalStringMap labels, annotations;
    IdentityId node_identity{};
    std::string wireguard_public_key;
    std::string boot_id;
    friend bool operator==(const Node&, const Node&) = default;
};

/// One entry of a port map: name → protocol and port.
struct ServicePort {
    std::string name;      ///< may be empty (single unnamed port)
    std::string protocol;  ///< "TCP", "UDP", "SCTP" as published; others are kept and never matched
    std::uint16_t port = 0;
    friend bool operator==(const ServicePort&, const ServicePort&) = default;
};

/// An address of a service with its ports, sorted by port name.
struct ServiceAddress {
    IpAddress address;
    std::vector<ServicePort> ports;
    friend bool operator==(const ServiceAddress&, const ServiceAddress&) = default;
};

struct ServiceZone {
    std::string zone;
    std::vector<std::string> for_zones;
    friend bool operator==(const ServiceZone&, const ServiceZone&) = default;
};

/// wire.md §5: a service as its cluster offers it to the mesh;
/// key cilium/state/services/v1/<cluster>/<namespace>/<name>.
struct Service {
    std::string cluster;
    std::string namespace_;
    std::string name;
    std::vector<ServiceAddress> frontends;  ///< in the bytewise order of their published text
    std::vector<ServiceAddress> backends;   ///< likewise
    std::map<IpAddress, std::string> hostnames;
    std::map<IpAddress, ServiceZone> zones;
    OptionalStringMap labels, selector;
    bool include_external = false;
    bool shared = false;
    ClusterId cluster_id{};
    friend bool operator==(const Service&, const Service&) = default;
};

struct NamedPort {
    std::string name;
    std::uint16_t port = 0;
    std::string protocol;
    friend bool operator==(const NamedPort&, const NamedPort&) = default;
};

/// wire.md §6: key cilium/state/ip/v1/default/<ip or ip/len>.
struct IpIdentityPair {
    IpAddress ip;
    std::optional<std::uint8_t> prefix_length;  ///< of the family; nullopt = host entry
    std::optional<IpAddress> host_ip;           ///< node that has it = tunnel endpoint
    IdentityId id{};
    std::uint8_t key = 0;                       ///< encryption key index, 0 = none
    std::string metadata;
    std::string k8s_namespace;
    std::string k8s_pod_name;
    std::string k8s_service_account;
    std::vector<NamedPort> named_ports;
    friend bool operator==(const IpIdentityPair&, const IpIdentityPair&) = default;
};

struct Label {
    std::string source, key, value;
    friend auto operator<=>(const Label&, const Label&) = default;
};

/// wire.md §7: id → labels; key cilium/state/identities/v1/id/<id>.
struct Identity {
    IdentityId id{};
    std::vector<Label> labels;  ///< in published order (sorted by key when we write)
    friend bool operator==(const Identity&, const Identity&) = default;
};

/// wire.md §8: key cilium/state/serviceexports/v1/<cluster>/<namespace>/<name>.
struct ServiceExportPort {
    std::string name, protocol, app_protocol;
    std::int32_t port = 0;
    friend bool operator==(const ServiceExportPort&, const ServiceExportPort&) = default;
};
struct ServiceExport {
    std::string cluster, namespace_, name;
    StringMap annotations, labels;
    std::string creation_timestamp;  ///< RFC 3339, seconds
    std::vector<ServiceExportPort> ports;
    std::string type;                ///< "ClusterSetIP" or "Headless"
    std::string session_affinity;    ///< "ClientIP" or "None"
    std::optional<std::int32_t> session_affinity_timeout;  ///< seconds
    std::vector<std::string> ip_families;
    std::string internal_traffic_policy;
    std::string traffic_distribution;
    friend bool operator==(const ServiceExport&, const ServiceExport&) = default;
};

/// Where a service prefers its backends (services.md §4).
enum class Affinity : std::uint8_t { kNone, kLocal, kRemote };

/// What an EndpointSlice says of a backend (services.md §4, §7).
enum class BackendState : std::uint8_t { kActive, kTerminating, kQuarantined, kMaintenance };

struct LocalBackend {
    IpAddress address;
    std::vector<ServicePort> ports;  ///< sorted by name
    BackendState state = BackendState::kActive;
    std::string node;
    std::string zone;
    std::string hostname;
    std::vector<std::string> for_zones;  ///< topology hints of the EndpointSlice; empty = none
    std::uint16_t weight = 1;
    friend bool operator==(const LocalBackend&, const LocalBackend&) = default;
};

/// A Service of the own cluster with all that its agents need and remotes never see: flags,
/// affinity, backend states. Written by mesh-operator below the prefix mesh/local/, which no proxy
/// serves to a remote; key mesh/local/services/v1/<namespace>/<name>. Our own format, JSON with
/// camelCase names; see codec.hpp.
struct LocalService {
    std::string namespace_;
    std::string name;
    std::string type;  ///< "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"
    bool headless = false;
    std::vector<IpAddress> cluster_ips;
    std::vector<ServicePort> ports;        ///< frontend ports, sorted by name
    std::vector<LocalBackend> backends;    ///< sorted by address
    bool global = false;
    bool shared = false;                   ///< only true if global
    Affinity affinity = Affinity::kNone;
    std::uint32_t client_ip_affinity_seconds = 0;  ///< sessionAffinity ClientIP; 0 = none
    bool internal_traffic_local = false;           ///< internalTrafficPolicy Local
    OptionalStringMap labels, selector, annotations;
    friend bool operator==(const LocalService&, const LocalService&) = default;
};

}  // namespace mesh::model
