// The steps of the layout that make_next_layout.py invents: from today's.
#include <array>
#include <cstring>

#include "bpf/layout.h"
#include "bpf/old_structs.h"
#include "datapath/bpf/layout_steps.hpp"

namespace mesh::datapath {
namespace {

template <class Key, class Old, class New>
bool widen(const Key& old_key, const Old& old, Key& key, New& entry) {
    key = old_key;
    entry.next_layout_field = 1;
    std::memcpy(reinterpret_cast<char*>(&entry) + sizeof entry.next_layout_field, &old, sizeof old);
    return true;
}

constexpr std::array kServices{
    map_change<&widen<std::uint32_t, old_mesh_service, mesh_service>>("services"),
    map_change<&widen<std::uint32_t, old_mesh_backend, mesh_backend>>("backends"),
};
constexpr std::array kPods{
    map_change<&widen<mesh_ipcache_key, old_mesh_ipcache_entry, mesh_ipcache_entry>>("ipcache"),
    map_change<&widen<mesh_address, old_mesh_endpoint, mesh_endpoint>>("endpoints"),
    map_change<&widen<mesh_nat_key, old_mesh_nat, mesh_nat>>("nat"),
};
constexpr std::array kServicesSteps{LayoutStep{MESH_LAYOUT_VERSION - 1, kServices}};
constexpr std::array kPodsSteps{LayoutStep{MESH_PODS_LAYOUT_VERSION - 1, kPods}};

}  // namespace

Layout services_layout() {
    return {"meta", MESH_LAYOUT_VERSION, kServicesSteps};
}

Layout pods_layout() {
    return {"settings", MESH_PODS_LAYOUT_VERSION, kPodsSteps};
}

}  // namespace mesh::datapath
