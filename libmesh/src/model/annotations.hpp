// The annotations of a Kubernetes Service that steer its part in the mesh (spec services.md §1),
// read into flags, and the one of a Namespace. Used by whoever turns Services into
// model::LocalService; none of the annotations travel to other clusters.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

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
/// Of a Namespace.
inline constexpr std::string_view kGlobalNamespaceAnnotation = "clustermesh.cilium.io/global";

/// What the annotations of a Service say.
struct ServiceAnnotations {
    bool global = false;
    bool shared = false;                  ///< true by default of a global service; never without it
    Affinity affinity = Affinity::kNone;  ///< kNone unless global
    /// Mirror remote endpoints as EndpointSlices; true by default of a headless service.
    bool sync_endpoint_slices = false;
    /// One sentence for each annotation whose value is not one of those expected, naming both. Such
    /// a flag is off and such an affinity is none, as Cilium reads them.
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

/// Whether the pods of a namespace take part in the mesh: true unless its annotation
/// clustermesh.cilium.io/global is there and not "true".
/// @param warnings receives a sentence if the value is neither true nor false
/// @thread any thread
/// @source protocol.md §11
[[nodiscard]] bool parse_namespace_global(const StringMap& annotations,
                                          std::vector<std::string>& warnings);

}  // namespace mesh::model
