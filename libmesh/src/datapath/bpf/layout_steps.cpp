#include "datapath/bpf/layout_steps.hpp"

#include <array>

#include "bpf/layout.h"

namespace mesh::datapath {
namespace {

// The oldest layouts that an upgrade starts from: no released one is older.
constexpr std::uint32_t kOldestServices = 2;
constexpr std::uint32_t kOldestPods = 1;

/// Before policies: endpoints had no number, settings no flags of policy.
struct OldEndpoint {
    std::uint32_t ifindex, identity;
    std::uint8_t pod_mac[6], node_mac[6];
};
struct OldPodsSettings {
    std::uint32_t layout_version, flags, overlay_ifindex, device_ifindex;
    mesh_address node4, node6, router4, router6;
    std::uint32_t identity_shift;
    std::uint16_t overlay_port, pad;
};
static_assert(sizeof(OldEndpoint) == 20 && sizeof(OldPodsSettings) == 88);

/// What is new follows what was there, and is zero.
template <class Key, class Old, class New>
bool append(const Key& old_key, const Old& old, Key& key, New& entry) {
    static_assert(sizeof(Old) < sizeof(New));
    key = old_key;
    std::memcpy(&entry, &old, sizeof old);
    return true;
}

constexpr std::array kPolicyChanges{
    map_change<&append<mesh_address, OldEndpoint, mesh_endpoint>>("endpoints"),
    map_change<&append<std::uint32_t, OldPodsSettings, mesh_pods_settings>>("settings"),
};

// A line for each version that was raised, {old version, changes}, with the structs of the older
// layout and their functions above it (README.md). Without changes, there are only new maps.
constexpr std::array kServicesSteps{
    LayoutStep{2, {}},  // balances and maglev are new, and a flag of a backend
};
constexpr std::array kPodsSteps{
    LayoutStep{1, {}},  // flows, answers and flow_filter are new
    LayoutStep{2, kPolicyChanges},
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
