// Which backends of one frontend are programmed, and which of these get new connections: the
// filters and the table of spec services.md §4, and after them what the traffic annotations say
// (README.md). A pure function over the candidates of one frontend. Used by frontend_compiler.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "model/traffic_annotations.hpp"
#include "model/types.hpp"

namespace mesh::compile {

/// A backend that offers what a frontend asks for, before selection.
struct Candidate {
    BackendRow row;         ///< select() sets programmed, selected and reason
    std::size_t rank = 0;   ///< of its cluster in the order of preference; 0 = the own cluster
    std::string_view node;  ///< empty = not known
    std::vector<std::string_view> for_zones;  ///< zone hints
    /// Why it should get no new connections, by probes.
    std::optional<Reason> unhealthy = std::nullopt;
    /// Set by select_backends(): why it, or its cluster gets no new connections of this service.
    std::optional<Reason> barred = std::nullopt;

    [[nodiscard]] bool remote() const noexcept { return rank != 0; }
};

/// What the traffic annotations of a service say of one cluster.
struct ClusterSteering {
    static constexpr std::size_t kNotNamed = std::numeric_limits<std::size_t>::max();
    std::string cluster;
    std::size_t order = 0;  ///< place in cluster-order, 0 = first; kNotNamed = not to be used
    std::uint16_t weight = model::kDefaultClusterWeight;  ///< 0 = only if nothing else is left
    bool closed = false;                                  ///< stale, and the service fails closed
    unsigned percent = 100;  ///< of its share, by slow start: 10..100; not for the selection
};

/// What a selection follows, of the service and of this node.
struct SelectionPolicy {
    model::Affinity affinity = model::Affinity::kNone;
    bool this_node_only = false;                     ///< internalTrafficPolicy Local
    std::string_view node = {};                      ///< empty = not on a node
    std::string_view zone = {};                      ///< empty = zone hints are not used
    std::span<const ClusterSteering> clusters = {};  ///< by rank; empty = not steered
    std::uint32_t min_local = 0;  ///< active local ones below which affinity local spills over
};

/// Orders the candidates by rank, address and port, leaves one of those that a cluster lists twice
/// (the one in the best state), and decides on each. @complexity O(n log n)
/// @source services.md §2, §4; README.md for what follows them
void select_backends(std::vector<Candidate>& candidates, const SelectionPolicy& policy);

}  // namespace mesh::compile
