// The Kubernetes objects that a cluster publishes to the mesh, as plain values: of each kind what
// the mesh needs of it, checked by whoever reads it (sources/config, later sources/kubernetes).
// Names and labels keep to Kubernetes' rules, so that they can stand in keys and label strings.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/ip.hpp"
#include "model/string_map.hpp"
#include "model/types.hpp"

namespace mesh::model::k8s {

/// Says whose work an EndpointSlice is.
inline constexpr std::string_view kManagedByLabel = "endpointslice.kubernetes.io/managed-by";
/// Slices that mirror remote backends; never to be exported. @source services.md §6
inline constexpr std::string_view kMeshSliceController = "endpointslice-mesh-controller.cilium.io";
inline constexpr std::string_view kSourceClusterLabel = "multicluster.kubernetes.io/source-cluster";
inline constexpr std::string_view kServiceNameLabel = "kubernetes.io/service-name";
inline constexpr std::string_view kHeadlessLabel = "service.kubernetes.io/headless";

struct Metadata {
    std::string namespace_;  ///< empty for kinds without one
    std::string name;
    std::string creation_timestamp;  ///< RFC 3339 as written; may be empty
    StringMap labels, annotations;
    friend bool operator==(const Metadata&, const Metadata&) = default;
};

struct Service {
    Metadata meta;
    std::string type = "ClusterIP";
    bool headless = false;               ///< clusterIP None, or so labelled
    std::vector<IpAddress> cluster_ips;  ///< in the order given
    std::vector<IpAddress> external_ips;
    /// Of the load balancer's ingress; not those of ipMode Proxy, whose traffic must go there.
    std::vector<IpAddress> load_balancer_ips;
    std::vector<model::ServicePort> ports;
    OptionalStringMap selector;
    std::uint32_t client_ip_affinity_seconds = 0;  ///< sessionAffinity ClientIP; 0 = None
    bool internal_traffic_local = false;           ///< internalTrafficPolicy Local
    bool external_traffic_local = false;           ///< externalTrafficPolicy Local
    friend bool operator==(const Service&, const Service&) = default;
};

struct Endpoint {
    std::vector<IpAddress> addresses;
    bool ready = true;
    bool serving = true;
    bool terminating = false;
    std::string hostname, node, zone;
    std::vector<std::string> for_zones;
    friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

struct EndpointSlice {
    Metadata meta;
    std::string address_type;  ///< "IPv4", "IPv6"; "FQDN" has no endpoints here
    std::vector<Endpoint> endpoints;
    SharedList<model::ServicePort> ports;  ///< sorted by name; those without a number are left out
    /// The Service it belongs to; empty = none.
    [[nodiscard]] std::string_view service() const {
        return meta.labels.get(kServiceNameLabel).value_or("");
    }
    /// Whether its endpoints were learned from the mesh.
    [[nodiscard]] bool from_mesh() const {
        return meta.labels.get(kManagedByLabel) == kMeshSliceController ||
               meta.labels.contains(kSourceClusterLabel);
    }
    friend bool operator==(const EndpointSlice&, const EndpointSlice&) = default;
};

struct Pod {
    Metadata meta;
    std::string node;
    std::string service_account = "default";
    std::string phase;  ///< "Pending", "Running", "Succeeded", "Failed", "Unknown", ""
    bool host_network = false;
    std::optional<IpAddress> host_ip;
    std::vector<IpAddress> ips;
    /// Of all containers, those with a name; sorted by it.
    SharedList<model::NamedPort> ports;
    friend bool operator==(const Pod&, const Pod&) = default;
};

struct NodeAddress {
    std::string type;     ///< "InternalIP", "ExternalIP", "Hostname", ...
    std::string address;  ///< as written
    friend bool operator==(const NodeAddress&, const NodeAddress&) = default;
};

struct Node {
    Metadata meta;
    std::vector<IpPrefix> pod_cidrs;
    std::vector<NodeAddress> addresses;
    std::string boot_id;
    friend bool operator==(const Node&, const Node&) = default;
};

struct Namespace {
    Metadata meta;
    friend bool operator==(const Namespace&, const Namespace&) = default;
};

/// Kind and Object's alternatives stand in the same order.
enum class Kind : std::uint8_t { kNamespace, kNode, kPod, kService, kEndpointSlice };
using Object = std::variant<Namespace, Node, Pod, Service, EndpointSlice>;

/// "Service" and the like.
[[nodiscard]] constexpr std::string_view to_string(Kind kind) noexcept {
    switch (kind) {
        case Kind::kNamespace:
            return "Namespace";
        case Kind::kNode:
            return "Node";
        case Kind::kPod:
            return "Pod";
        case Kind::kService:
            return "Service";
        case Kind::kEndpointSlice:
            return "EndpointSlice";
    }
    return "?";
}

[[nodiscard]] inline Kind kind_of(const Object& object) noexcept {
    return static_cast<Kind>(object.index());
}
[[nodiscard]] inline const Metadata& metadata_of(const Object& object) {
    return std::visit([](const auto& o) -> const Metadata& { return o.meta; }, object);
}

/// What names an object in a cluster.
struct ObjectKey {
    Kind kind = Kind::kNamespace;
    std::string namespace_;
    std::string name;
    /// "Service shop/cart" or "Node n1".
    [[nodiscard]] std::string to_string() const {
        std::string text(k8s::to_string(kind));
        text += ' ';
        if (!namespace_.empty()) text.append(namespace_).append("/");
        return text.append(name);
    }
    friend auto operator<=>(const ObjectKey&, const ObjectKey&) = default;
};

[[nodiscard]] inline ObjectKey key_of(const Object& object) {
    const Metadata& meta = metadata_of(object);
    return {kind_of(object), meta.namespace_, meta.name};
}

/// One change of a cluster's objects: the new value, or null when the object is gone.
struct ObjectChange {
    ObjectKey key;
    std::shared_ptr<const Object> object;
};

}  // namespace mesh::model::k8s
