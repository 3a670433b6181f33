// The objects that clusters publish, as plain values (spec wire.md §3-§8). Codecs are in codec.hpp.
// An absent-or-null map of the wire is std::nullopt, an empty one is an empty value, so that a
// decoded object encodes to the same bytes again. Kinds that come by the hundred thousand
// (services, ips, labels) hold their strings as Text and their port lists as SharedList, which read
// like std::string_view and std::vector and are eight bytes each.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "model/shared_list.hpp"
#include "model/string_map.hpp"
#include "model/text.hpp"

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

/// wire.md §3: key cilium/cluster-config/<name>.
struct ClusterConfig {
    ClusterId id{};
    bool synced_canaries = false;
    bool cached = false;
    std::uint32_t max_connected_clusters = 0;     ///< 255 or 511; 0 = not told
    std::optional<bool> service_exports_enabled;  ///< nullopt = not supported by the writer
    friend bool operator==(const ClusterConfig&, const ClusterConfig&) = default;
};

struct NodeAddress {
    std::string type;  ///< "InternalIP", "ExternalIP", "CiliumInternalIP", "Hostname", ...
    std::string ip;    ///< canonical text, or empty
    friend bool operator==(const NodeAddress&, const NodeAddress&) = default;
};

/// Which of a node's four CIDR fields.
enum class NodeCidrField : std::uint8_t { kIpv4, kIpv4Secondary, kIpv6, kIpv6Secondary };

/// A CIDR whose published form an IpPrefix cannot hold (host bits set, a mask that is not canonical
/// or of the wrong length, no address): kept only so that the node encodes to the same bytes again.
struct UnusualCidr {
    NodeCidrField field = NodeCidrField::kIpv4;
    std::uint32_t index = 0;  ///< in the published list; 0 for the two single fields
    bool usable = false;      ///< true if its IpPrefix stands in the usual field, too
    bool is_null = false;     ///< a null element of a list
    bool is_empty = false;    ///< {}: neither address nor mask
    std::optional<IpAddress> ip;
    std::optional<std::string> mask;  ///< bytes
    friend bool operator==(const UnusualCidr&, const UnusualCidr&) = default;
};

/// wire.md §4: key cilium/state/nodes/v1/<cluster>/<name>. The CIDR fields hold what is usable as
/// a prefix, host bits cleared.
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
    std::vector<UnusualCidr> unusual_cidrs;  ///< nearly always empty; each field by index
    friend bool operator==(const Node&, const Node&) = default;
};

/// One entry of a port map: name → protocol and port.
struct ServicePort {
    Text name;      ///< may be empty (single unnamed port)
    Text protocol;  ///< "TCP", "UDP", "SCTP" as published; others are kept and never matched
    std::uint16_t port = 0;
    std::uint16_t node_port = 0;  ///< of a LocalService's frontend port; else, and of none, 0
    friend bool operator==(const ServicePort&, const ServicePort&) = default;
};

/// An address of a service with its ports, sorted by port name.
struct ServiceAddress {
    IpAddress address;
    SharedList<ServicePort> ports;
    /// The published text where it is not address.to_string(): another spelling, or with a zone
    /// (fe80::1%eth0). Empty otherwise.
    Text spelling;
    /// The key under which hostnames and zones of the service list this address.
    [[nodiscard]] std::string text() const {
        return spelling.empty() ? address.to_string() : spelling.str();
    }
    friend bool operator==(const ServiceAddress&, const ServiceAddress&) = default;
};

struct ServiceZone {
    Text zone;
    SharedList<Text> for_zones;
    friend bool operator==(const ServiceZone&, const ServiceZone&) = default;
};

/// wire.md §5: a service as its cluster offers it to the mesh;
/// key cilium/state/services/v1/<cluster>/<namespace>/<name>.
struct Service {
    Text cluster;
    Text namespace_;
    Text name;
    std::vector<ServiceAddress> frontends;  ///< in the bytewise order of their published text
    std::vector<ServiceAddress> backends;   ///< likewise
    StringMap hostnames;                    ///< ServiceAddress::text() of a backend → hostname
    std::map<Text, ServiceZone, std::less<>> zones;  ///< keyed likewise
    OptionalStringMap labels, selector;
    bool include_external = false;
    bool shared = false;
    bool frontends_null = false;  ///< published as null, not {}
    bool backends_null = false;
    ClusterId cluster_id{};
    friend bool operator==(const Service&, const Service&) = default;
};

struct NamedPort {
    Text name;
    Text protocol;
    std::uint16_t port = 0;
    friend bool operator==(const NamedPort&, const NamedPort&) = default;
};

/// wire.md §6: key cilium/state/ip/v1/default/<ip or ip/len>.
struct IpIdentityPair {
    IpAddress ip;                               ///< with host bits, as published
    std::optional<std::uint8_t> prefix_length;  ///< of the family; nullopt = host entry
    std::optional<IpAddress> host_ip;           ///< node that has it = tunnel endpoint
    std::uint8_t key = 0;                       ///< encryption key index, 0 = none
    IdentityId id{};
    Text metadata;
    Text k8s_namespace;
    Text k8s_pod_name;
    Text k8s_service_account;
    SharedList<NamedPort> named_ports;  ///< as published; see usable_named_ports()
    friend bool operator==(const IpIdentityPair&, const IpIdentityPair&) = default;
};

/// An address of a pod that takes no part in the mesh (of a namespace that is not global), for the
/// agents of its own cluster: who it is. Below mesh/local/, which no proxy serves to a remote; key
/// mesh/local/ips/v1/<address>, value as of an ip.
struct LocalIp {
    IpIdentityPair pair;
    friend bool operator==(const LocalIp&, const LocalIp&) = default;
};

struct Label {
    Text source, key, value;
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
    Text cluster, namespace_, name;
    StringMap annotations, labels;
    std::string creation_timestamp;  ///< RFC 3339, seconds
    std::vector<ServiceExportPort> ports;
    std::string type;                                      ///< "ClusterSetIP" or "Headless"
    std::string session_affinity;                          ///< "ClientIP" or "None"
    std::optional<std::int32_t> session_affinity_timeout;  ///< seconds
    std::vector<std::string> ip_families;
    std::string internal_traffic_policy;
    std::string traffic_distribution;
    friend bool operator==(const ServiceExport&, const ServiceExport&) = default;
};

/// Where a service prefers its backends (services.md §4).
enum class Affinity : std::uint8_t { kNone, kLocal, kRemote };

/// "none", "local" or "remote", as the annotation has it.
[[nodiscard]] constexpr std::string_view to_string(Affinity affinity) noexcept {
    switch (affinity) {
        case Affinity::kNone:
            return "none";
        case Affinity::kLocal:
            return "local";
        case Affinity::kRemote:
            return "remote";
    }
    return "unknown";
}

/// What an EndpointSlice says of a backend (services.md §4, §7).
enum class BackendState : std::uint8_t { kActive, kTerminating, kQuarantined, kMaintenance };

struct LocalBackend {
    IpAddress address;
    SharedList<ServicePort> ports;  ///< sorted by name
    Text node;
    Text zone;
    Text hostname;
    BackendState state = BackendState::kActive;
    std::vector<std::string> for_zones;  ///< topology hints of the EndpointSlice; empty = none
    std::uint16_t weight = 1;
    friend bool operator==(const LocalBackend&, const LocalBackend&) = default;
};

/// A Service of the own cluster with all that its agents need and remotes never see: flags,
/// affinity, backend states. Written by mesh-operator below the prefix mesh/local/, which no proxy
/// serves to a remote; key mesh/local/services/v1/<namespace>/<name>. Our own format, JSON with
/// camelCase names; see codec.hpp.
struct LocalService {
    Text namespace_;
    Text name;
    Text type;  ///< "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"
    bool headless = false;
    std::vector<IpAddress> cluster_ips;
    std::vector<IpAddress> external_ips;       ///< spec.externalIPs
    std::vector<IpAddress> load_balancer_ips;  ///< status.loadBalancer.ingress, those of mode VIP
    std::vector<ServicePort> ports;            ///< frontend ports, sorted by name
    std::vector<LocalBackend> backends;        ///< sorted by address
    bool global = false;
    bool shared = false;  ///< only true if global
    Affinity affinity = Affinity::kNone;
    std::uint32_t client_ip_affinity_seconds = 0;  ///< sessionAffinity ClientIP; 0 = none
    bool internal_traffic_local = false;           ///< internalTrafficPolicy Local
    bool external_traffic_local = false;           ///< externalTrafficPolicy Local
    OptionalStringMap labels, selector, annotations;
    friend bool operator==(const LocalService&, const LocalService&) = default;
};

}  // namespace mesh::model
