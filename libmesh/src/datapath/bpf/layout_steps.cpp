#include "datapath/bpf/layout_steps.hpp"

#include <array>

#include "bpf/layout.h"

namespace mesh::datapath {
namespace {

// One line for each version that was raised, with the structs of the older layout and their
// functions above it (README.md). No released layout is older than those of today.
constexpr std::array<LayoutStep, 0> kServicesSteps{};
constexpr std::array<LayoutStep, 0> kPodsSteps{};

}  // namespace

Layout services_layout() {
    return {"meta", MESH_LAYOUT_VERSION, kServicesSteps};
}

Layout pods_layout() {
    return {"settings", MESH_PODS_LAYOUT_VERSION, kPodsSteps};
}

}  // namespace mesh::datapath
