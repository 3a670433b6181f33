#include "datapath/bpf/layout_steps.hpp"

#include <array>

#include "bpf/layout.h"

namespace mesh::datapath {
namespace {

// The oldest layouts that an upgrade starts from: no released one is older.
constexpr std::uint32_t kOldestServices = 2;
constexpr std::uint32_t kOldestPods = 1;

// A line for each version that was raised, {old version, changes}, with the structs of the older
// layout and their functions above it (README.md). Without changes, there are only new maps.
constexpr std::array kServicesSteps{
    LayoutStep{2, {}},  // balances and maglev are new, and a flag of a backend
};
constexpr std::array kPodsSteps{
    LayoutStep{1, {}},  // flows, answers and flow_filter are new
};

static_assert(kOldestServices + kServicesSteps.size() == MESH_LAYOUT_VERSION,
              "MESH_LAYOUT_VERSION was raised: how do older maps become such? Add the step.");
static_assert(kOldestPods + kPodsSteps.size() == MESH_PODS_LAYOUT_VERSION,
              "MESH_PODS_LAYOUT_VERSION was raised: how do older maps become such? Add the step.");

}  // namespace

Layout services_layout() {
    return {"meta", MESH_LAYOUT_VERSION, kServicesSteps};
}

Layout pods_layout() {
    return {"settings", MESH_PODS_LAYOUT_VERSION, kPodsSteps};
}

}  // namespace mesh::datapath
