// The text protocol of userspace WireGuard (https://www.wireguard.com/xplatform/): what is sent and
// what comes back, as plain computation. Keys are hexadecimal, a request and an answer end with an
// empty line. Internal to this folder.
#pragma once

#include <mesh/error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/wireguard/peer.hpp"

namespace mesh::datapath::uapi {

inline constexpr std::string_view kGet = "get=1\n\n";

/// The text holds the private key if the settings do: wipe it.
[[nodiscard]] std::string encode(const WireguardSettings& settings);
/// Requests of at most `most` changes each.
[[nodiscard]] std::vector<std::string> encode(std::span<const WireguardPeerChange> changes,
                                              std::size_t most = 256);
/// The answer to a set. @errors kInvalidArgument, kUnavailable, kCorrupt with its errno
[[nodiscard]] Result<void> parse_outcome(std::string_view answer);
/// The answer to a get. Unknown lines are skipped. @errors as parse_outcome()
[[nodiscard]] Result<WireguardState> parse_state(std::string_view answer);

}  // namespace mesh::datapath::uapi
