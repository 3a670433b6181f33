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

/// Ends the connected sockets of these network namespaces for which `ends` says so.
/// @param ends gets the socket, `live` not set, and the choice that the load balancer stored with
///        it (MESH_CHOICE); called on another thread, while the caller waits
/// @errors as BpfDatapath::end_stale_sockets
[[nodiscard]] Result<SweepStats> end_sockets(
    std::span<const std::string> netns_paths, SocketMapFds maps, BpfDatapath::SocketKinds kinds,
    const std::function<bool(ServiceSocket&, std::uint64_t choice)>& ends);

}  // namespace mesh::datapath
