// Between the rows of datapath/pods.hpp and the map entries of bpf/layout.h. Internal to this
// folder.
#pragma once

#include "bpf/layout.h"
#include "datapath/bpf/bpf_pods.hpp"
#include "datapath/pods.hpp"

namespace mesh::datapath {

[[nodiscard]] mesh_address to_kernel(const model::IpAddress& address);
[[nodiscard]] mesh_ipcache_key to_kernel(const model::IpPrefix& prefix);
[[nodiscard]] mesh_ipcache_entry to_kernel(const IpcacheEntry& entry);
[[nodiscard]] mesh_endpoint to_kernel(const Endpoint& endpoint);
[[nodiscard]] mesh_encryption to_kernel(const PodsEncryption& encryption);
[[nodiscard]] mesh_pods_settings to_kernel(const PodsSettings& settings);

[[nodiscard]] model::IpAddress from_kernel(const mesh_address& address);
[[nodiscard]] IpcacheEntry from_kernel(const model::IpPrefix& prefix,
                                       const mesh_ipcache_entry& entry);
[[nodiscard]] Endpoint from_kernel(const model::IpAddress& address, const mesh_endpoint& endpoint);
[[nodiscard]] PodsSettings from_kernel(const mesh_pods_settings& settings);
[[nodiscard]] PodEvent from_kernel(const mesh_event& event);

}  // namespace mesh::datapath
