// The annotations of a Kubernetes Service that steer its new connections between clusters. They are
// ours, not Cilium's, and act beside its affinity; compile/services/README.md says what each does.
// LocalService carries them to the agents as they stand; mesh-operator reads them only to warn, the
// merger to follow them. None of them travels to other clusters.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/health_check.hpp"
#include "model/types.hpp"

namespace mesh::model {

inline constexpr std::string_view kTrafficPrefix = "libmesh.io/";
inline constexpr std::string_view kClusterWeightsAnnotation = "libmesh.io/cluster-weights";
inline constexpr std::string_view kClusterOrderAnnotation = "libmesh.io/cluster-order";
inline constexpr std::string_view kMinLocalBackendsAnnotation = "libmesh.io/min-local-backends";
inline constexpr std::string_view kSlowStartAnnotation = "libmesh.io/slow-start";
inline constexpr std::string_view kStalePolicyAnnotation = "libmesh.io/stale-policy";

/// The share of a cluster that cluster-weights does not name.
inline constexpr std::uint16_t kDefaultClusterWeight = 100;

struct ClusterWeight {
    std::string cluster;
    std::uint16_t weight = kDefaultClusterWeight;  ///< 0..1000; 0 = only if nothing else is left
    friend bool operator==(const ClusterWeight&, const ClusterWeight&) = default;
};

/// What the annotations ask for; each is off by default.
struct TrafficPolicy {
    std::vector<ClusterWeight> cluster_weights;  ///< by name; empty = each backend counts the same
    std::vector<std::string> cluster_order;      ///< "*" = all not named; empty = no order
    std::uint32_t min_local_backends = 0;        ///< 1..65535; 0 = off
    std::chrono::seconds slow_start{0};          ///< 1 s to 1 h; 0 = off
    /// 10 s to 24 h without proof of life after which a remote is not used; nullopt = static. A
    /// connected remote proves that it lives every 5 s, so that no shorter time makes sense.
    std::optional<std::chrono::seconds> close_when_stale;

    /// Nothing is asked for.
    [[nodiscard]] bool empty() const noexcept { return *this == TrafficPolicy{}; }
    friend bool operator==(const TrafficPolicy&, const TrafficPolicy&) = default;
};

struct TrafficAnnotations {
    TrafficPolicy policy;
    /// Its backends are probed; unlike the policy also of services that are not global.
    std::optional<HealthCheck> health_check;
    bool reset_connections = true;  ///< likewise
    /// One sentence for each annotation whose value is not of its form, naming annotation, value
    /// and form. Such an annotation is as if it were not there.
    std::vector<std::string> warnings;
    friend bool operator==(const TrafficAnnotations&, const TrafficAnnotations&) = default;
};

/// Whether there is anything below libmesh.io/: cheap, for the many services that have nothing.
/// @thread any thread
/// @complexity O(log n)
[[nodiscard]] bool has_traffic_annotations(const OptionalStringMap& annotations) noexcept;

/// Reads the annotations. Spaces around the parts of a list are passed over, and upper case is read
/// as lower case: names of clusters have none.
/// @param annotations of the Service's metadata; nullopt as if empty
/// @thread any thread
[[nodiscard]] TrafficAnnotations parse_traffic_annotations(const OptionalStringMap& annotations);

}  // namespace mesh::model
