// Ends sockets through sock_diag (SOCK_DESTROY), chosen by what the socket load balancer stored
// with them. Internal to this folder.
#pragma once

#include <functional>
#include <mesh/error.hpp>
#include <span>
#include <string>

#include "bpf/layout.h"
#include "datapath/bpf/bpf_datapath.hpp"

namespace mesh::datapath {

/// Descriptors of the maps `sockets` and `udp_connected`; borrowed.
struct SocketMapFds {
    int sockets, udp_connected;
};

/// Ends the connected sockets of these network namespaces for which `is_stale` says so.
/// @param is_stale called on another thread, while the caller waits
/// @errors as BpfDatapath::end_stale_sockets
[[nodiscard]] Result<SweepStats> end_sockets(
    std::span<const std::string> netns_paths, SocketMapFds maps, bool tcp_too,
    const std::function<bool(const mesh_socket&)>& is_stale);

}  // namespace mesh::datapath
