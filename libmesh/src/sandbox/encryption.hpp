// WireGuard keys of a sandbox's nodes, and what a sandbox leaves of wireguard-go. The one who
// writes the nodes' manifests publishes their keys, so it makes them, too. Internal to this folder,
// save rotate_wireguard_key().
#pragma once

#include <string>
#include <string_view>

#include "sandbox/names.hpp"
#include "sandbox/sandbox.hpp"
#include "sandbox/state.hpp"

namespace mesh::sandbox {

/// What a sandbox's pods get as MTU.
[[nodiscard]] std::uint32_t pod_mtu(const State& state) noexcept;

/// Where a node's private key is.
[[nodiscard]] std::string wireguard_key_file(const Paths& paths, std::string_view node);

/// Makes each node's key that there is not yet, and notes the public ones in the state.
[[nodiscard]] Result<void> make_wireguard_keys(const Paths& paths, State& state);

/// Removes the sockets that killed wireguard-go processes of a node left behind.
void remove_wireguard_sockets(std::string_view sandbox, std::string_view node);

}  // namespace mesh::sandbox
