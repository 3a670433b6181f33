// Which backends of one frontend are programmed, and which of these get new connections: the
// filters and the table of spec services.md §4. A pure function over the candidates of one
// frontend. Used by frontend_compiler.cpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "model/types.hpp"

namespace mesh::compile {

/// A backend that offers what a frontend asks for, before selection.
struct Candidate {
    BackendRow row;         ///< select() sets programmed, selected and reason
    std::size_t rank = 0;   ///< of its cluster in the order of preference; 0 = the own cluster
    std::string_view node;  ///< empty = not known
    std::vector<std::string_view> for_zones;  ///< zone hints

    [[nodiscard]] bool remote() const noexcept { return rank != 0; }
};

/// What a selection follows, of the service and of this node.
struct SelectionPolicy {
    model::Affinity affinity = model::Affinity::kNone;
    bool this_node_only = false;  ///< internalTrafficPolicy Local
    std::string_view node = {};   ///< empty = not on a node
    std::string_view zone = {};   ///< empty = zone hints are not used
};

/// Orders the candidates by rank, address and port, leaves one of those that a cluster lists twice
/// (the one in the best state), and decides on each. @complexity O(n log n)
/// @source services.md §2, §4
void select_backends(std::vector<Candidate>& candidates, const SelectionPolicy& policy);

}  // namespace mesh::compile
