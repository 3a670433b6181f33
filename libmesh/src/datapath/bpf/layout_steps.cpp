#include "datapath/bpf/layout_steps.hpp"

#include <array>

#include "bpf/layout.h"

namespace mesh::datapath {
namespace {

// One line for each version that was raised, with the structs of the older layout and their
// functions above it (README.md). No released layout is older than those of today.
constexpr std::array kServicesSteps{
    LayoutStep{2, {}},  // balances, maglev
};
constexpr std::array kPodsSteps{
    LayoutStep{1, {}},  // flows, answers, flow_filter
};

}  // namespace

Layout services_layout() {
    return {"meta", MESH_LAYOUT_VERSION, kServicesSteps};
}

Layout pods_layout() {
    return {"settings", MESH_PODS_LAYOUT_VERSION, kPodsSteps};
}

}  // namespace mesh::datapath
