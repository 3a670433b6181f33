// What a WireGuard device is told and what it holds, as plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "datapath/wireguard/keys.hpp"
#include "model/ip.hpp"
#include "model/wireguard_key.hpp"

namespace mesh::datapath {

/// The UDP port of Cilium's nodes; the mesh has no other way to tell a port.
inline constexpr std::uint16_t kWireguardPort = 51871;

struct WireguardEndpoint {
    model::IpAddress address;
    std::uint16_t port = kWireguardPort;
    friend bool operator==(const WireguardEndpoint&, const WireguardEndpoint&) = default;
};

/// A peer as it should be.
struct WireguardPeer {
    model::WireguardPublicKey public_key;
    WireguardEndpoint endpoint;
    /// Its source addresses that are believed, and the destinations that go to it: in order, each
    /// once. A prefix belongs to one peer of a device.
    std::vector<model::IpPrefix> allowed_ips;
    std::chrono::seconds keepalive{0};  ///< 0 = none; at most 65535
    friend bool operator==(const WireguardPeer&, const WireguardPeer&) = default;
};

/// What a device says of a peer.
struct WireguardPeerState {
    std::optional<WireguardEndpoint> endpoint;  ///< where its last packet came from, else as set
    std::vector<model::IpPrefix> allowed_ips;   ///< in order
    std::chrono::seconds keepalive{0};
    std::chrono::nanoseconds last_handshake{0};  ///< since 1970; 0 = never
    std::uint64_t received_bytes = 0, sent_bytes = 0;
};

/// What a device says of itself.
struct WireguardState {
    std::optional<WireguardPrivateKey> private_key;
    std::uint16_t port = 0;
    std::uint32_t mark = 0;
    std::map<model::WireguardPublicKey, WireguardPeerState> peers;
};

/// The device's own settings; nullopt = as it is.
struct WireguardSettings {
    std::optional<WireguardPrivateKey> private_key;
    std::optional<std::uint16_t> port;
    std::optional<std::uint32_t> mark;  ///< SO_MARK of the encrypted packets; 0 = none
};

/// One step that a device is told, in order. Only what it names changes.
struct WireguardPeerChange {
    model::WireguardPublicKey public_key;
    bool remove = false;  ///< then nothing else matters
    std::optional<WireguardEndpoint> endpoint;
    std::optional<std::chrono::seconds> keepalive;
    bool replace_allowed_ips = false;  ///< drop those it has first
    /// Added; taken from the peer that has them without a moment at which none has.
    std::vector<model::IpPrefix> allowed_ips;
    /// Shake hands now rather than with the next packet.
    bool start_session = false;
    friend bool operator==(const WireguardPeerChange&, const WireguardPeerChange&) = default;
};

}  // namespace mesh::datapath
