// The kernel's WireGuard messages (linux/wireguard.h, generic netlink family "wireguard"): what is
// sent and what comes back, as plain computation. Internal to this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "datapath/netlink/message.hpp"
#include "datapath/wireguard/peer.hpp"

namespace mesh::datapath::genetlink {

/// Asks the controller for the id of the family; its kernel module is loaded for that if possible.
[[nodiscard]] detail::Message encode_get_family();
/// The id in the controller's answer: the body, i.e. what follows nlmsghdr.
[[nodiscard]] std::optional<std::uint16_t> parse_family(std::span<const std::byte> body);

/// Asks for all that the device holds; it comes in several messages.
[[nodiscard]] detail::Message encode_get(std::uint16_t family, std::string_view device);
/// Adds one message of that answer to `state`. A peer whose allowed ips need several messages is
/// continued in the next.
void parse_state(std::span<const std::byte> body, WireguardState& state);

/// The message holds the private key if the settings do: wipe it.
[[nodiscard]] detail::Message encode(std::uint16_t family, std::string_view device,
                                     const WireguardSettings& settings);
/// The messages of the changes, in order. Each is below 16 KiB, as a nested attribute has 16 bits
/// of length: a peer with many allowed ips is continued in the next message.
[[nodiscard]] std::vector<detail::Message> encode(std::uint16_t family, std::string_view device,
                                                  std::span<const WireguardPeerChange> changes);

/// A new, empty device, down.
[[nodiscard]] detail::Message encode_new_link(std::string_view device, std::uint32_t mtu);

}  // namespace mesh::datapath::genetlink
