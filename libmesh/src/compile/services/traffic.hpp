// What the traffic annotations of one service ask for, and the weights that follow from it. Plain
// computation over one service; what lasts from one compile to the next is in traffic_state.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "compile/services/selection.hpp"
#include "compile/services/service_merger.hpp"
#include "model/traffic_annotations.hpp"
#include "model/types.hpp"

namespace mesh::compile {

/// The annotations of a service, brought to the clusters that it has records in.
struct ServiceTraffic {
    model::TrafficPolicy policy;
    model::Affinity affinity = model::Affinity::kNone;
    std::vector<ClusterSteering> clusters;  ///< by rank: the own cluster, then the remotes

    [[nodiscard]] bool weighted() const noexcept { return !policy.cluster_weights.empty(); }
    /// Cilium's affinity and an order of ours would say two things: affinity wins.
    [[nodiscard]] bool ordered() const noexcept {
        return !policy.cluster_order.empty() && affinity == model::Affinity::kNone;
    }
    /// 0 = connections do not spill over.
    [[nodiscard]] std::uint32_t min_local() const noexcept {
        return affinity == model::Affinity::kLocal ? policy.min_local_backends : 0;
    }
};

/// Gives each cluster its share of the frontend's new connections, whatever the number of its
/// backends: sets the weights of selected backends. Nothing changes where each backend counts by
/// its own weight, or where one cluster has them all.
///
/// A cluster's share is its weight, or without cluster-weights the sum of its backends' weights.
/// Where connections spill over, n of N wanted local backends have n/N, and the others share the
/// rest. Slow start lowers a share to its percentage. Shares come out exact to 1/60000 of the
/// largest backend's; a backend whose part rounds to 0 is not selected.
/// @param row with the weights of its backends, as compile_frontends() made it
/// @complexity O(n log n) for n backends
void spread_weights(FrontendRow& row, const ServiceTraffic& traffic);

}  // namespace mesh::compile
