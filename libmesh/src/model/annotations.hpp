// The annotations of a Kubernetes Service that steer its part in the mesh (spec services.md §1),
// read into flags, and the one of a Namespace. Used by whoever turns Services into
// model::LocalService; none of the annotations travel to other clusters.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/label_selector.hpp"
#include "model/types.hpp"

namespace mesh::model {

inline constexpr std::string_view kGlobalAnnotation = "service.cilium.io/global";
inline constexpr std::string_view kGlobalAnnotationAlias = "io.cilium/global-service";
inline constexpr std::string_view kSharedAnnotation = "service.cilium.io/shared";
inline constexpr std::string_view kSharedAnnotationAlias = "io.cilium/shared-service";
inline constexpr std::string_view kAffinityAnnotation = "service.cilium.io/affinity";
inline constexpr std::string_view kAffinityAnnotationAlias = "io.cilium/service-affinity";
inline constexpr std::string_view kSyncSlicesAnnotation =
    "service.cilium.io/global-sync-endpoint-slices";
inline constexpr std::string_view kTypeAnnotation = "service.cilium.io/type";
/// Also the name of the node's label that it is compared with.
inline constexpr std::string_view kNodeAnnotation = "service.cilium.io/node";
inline constexpr std::string_view kNodeSelectorAnnotation = "service.cilium.io/node-selector";
/// Of a Namespace.
inline constexpr std::string_view kGlobalNamespaceAnnotation = "clustermesh.cilium.io/global";

/// What the annotations of a Service say.
struct ServiceAnnotations {
    bool global = false;
    bool shared = false;                  ///< true by default of a global service; never without it
    Affinity affinity = Affinity::kNone;  ///< kNone unless global
    /// Mirror remote endpoints as EndpointSlices; true by default of a headless service.
    bool sync_endpoint_slices = false;
    /// One sentence for each annotation whose value is not one of those expected, naming both (such
    /// a flag is off and such an affinity is none, as Cilium reads them), and for each that would
    /// steer Cilium and has no effect here.
    std::vector<std::string> warnings;
    friend bool operator==(const ServiceAnnotations&, const ServiceAnnotations&) = default;
};

/// Reads the flags. The name under service.cilium.io/ wins over its older io.cilium/ alias,
/// whatever its value. Values are compared in lower case; a flag is on only for "true".
/// @param annotations of the Service's metadata; nullopt as if empty
/// @param headless clusterIP None, or label service.kubernetes.io/headless
/// @thread any thread
/// @source services.md §1
[[nodiscard]] ServiceAnnotations parse_service_annotations(const OptionalStringMap& annotations,
                                                           bool headless);

/// Which frontends of a Service are installed, and on which nodes.
struct ServiceExposure {
    bool cluster_ip = true;
    bool node_port = true;
    bool load_balancer = true;
    bool external_ips = true;
    /// On nodes with this label only; the selector goes first.
    std::optional<std::string> node_label_value;
    std::optional<LabelSelector> node_selector;
    /// One sentence for each value that is not understood. Such a type is as if it were not there;
    /// with such a selector the service is installed on all nodes.
    std::vector<std::string> warnings;

    /// Whether the service is installed on some nodes only.
    [[nodiscard]] bool node_bound() const noexcept { return node_label_value || node_selector; }
    [[nodiscard]] bool on_node(const StringMap& node_labels) const;
    friend bool operator==(const ServiceExposure&, const ServiceExposure&) = default;
};

/// Reads the annotations type (a comma list of ClusterIP, NodePort, LoadBalancer, ExternalIPs, in
/// any case), node and node-selector.
/// @param annotations of the Service's metadata; nullopt as if empty
/// @thread any thread
/// @source services.md §1
[[nodiscard]] ServiceExposure parse_service_exposure(const OptionalStringMap& annotations);

/// Whether the pods of a namespace take part in the mesh: true unless its annotation
/// clustermesh.cilium.io/global is there and not "true".
/// @param warnings receives a sentence if the value is neither true nor false
/// @thread any thread
/// @source protocol.md §11
[[nodiscard]] bool parse_namespace_global(const StringMap& annotations,
                                          std::vector<std::string>& warnings);

}  // namespace mesh::model
