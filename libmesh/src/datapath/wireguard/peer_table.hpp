// The peers that this node's WireGuard device should have, made so: an upsert or a removal becomes
// the few steps that the device needs, and after a restart what it holds is read and only what
// differs is sent. A peer that stays as it is keeps its session.
//
// How a node changes its key without losing a packet. WireGuard gives an allowed ip to one peer,
// for sending as for receiving, so a peer that is added *before* the switch either has no allowed
// ips, and then what the node sends under its new key is dropped until they are moved, or has them,
// and then what it still sends under the old one is dropped. Hence:
//   1. the node writes the new key to its file, then set_private_key(). What it was sent under old
//      sessions it still decrypts; what it sends now waits in its own queue (128 packets for each
//      peer, in the kernel as in wireguard-go) for a handshake that nobody answers yet;
//   2. it publishes the new public key;
//   3. each peer, as it learns it, calls apply() once with the removal of the old peer and the new
//      one. The table sends the new peer first, which takes the allowed ips over, then the removal;
//      and as the new peer replaces one, makes it shake hands at once. That ends the waiting of 1.
// So nothing is lost unless more than 128 packets to one peer come between 1 and 3, the time that a
// key takes through the mesh. Removal and new peer in two calls would lose what comes in between.
//
// Used by engine on the control thread; calls wait for the device (device.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <set>
#include <span>
#include <variant>
#include <vector>

#include "datapath/wireguard/device.hpp"

namespace mesh::datapath {

/// The peer as it should be, or the key of one that should not be.
using WireguardChange = std::variant<WireguardPeer, model::WireguardPublicKey>;

/// Which allowed ip a peer loses to another, and whether the new one steps into the place of one
/// that goes: the decisions of the table, plain computation.
/// @param desired  peers as they should be; no prefix is in two of them
/// @param held     what the device has
/// @param touched  the keys to look at; others are as they should be
/// @return steps in this order: peers in the order of keys, then removals
[[nodiscard]] std::vector<WireguardPeerChange> plan_wireguard_peers(
    const std::map<model::WireguardPublicKey, WireguardPeer>& desired,
    const std::map<model::WireguardPublicKey, WireguardPeerState>& held,
    const std::set<model::WireguardPublicKey>& touched);

struct WireguardOutcome {
    bool device_made = false;  ///< it was not there, or its process had died
    std::size_t added = 0, changed = 0, removed = 0;
    friend bool operator==(const WireguardOutcome&, const WireguardOutcome&) = default;
};

/// What becomes of peers that the device has and nobody asked for yet.
enum class UnknownPeers : std::uint8_t {
    kRemove,
    kKeep,  ///< after a restart, until everybody had their say
};

/// The desired peers of one device.
/// @errors of the device; the desired state is kept then, and the next call of any kind reads the
///   device anew and mends it
/// @thread same object not concurrently
class WireguardTable {
  public:
    /// @param settings all three must be set
    WireguardTable(std::unique_ptr<WireguardDevice> device, WireguardSettings settings);

    /// Makes the device exist, be configured, up, and have exactly the desired peers: at start with
    /// all peers applied before, when the device ended, and from time to time. Idempotent; a device
    /// that is right is only read.
    /// What kKeep kept is kept by later calls, too, until one with kRemove.
    [[nodiscard]] Result<WireguardOutcome> reconcile(UnknownPeers unknown = UnknownPeers::kRemove);

    /// Takes changes, in order. A prefix that two peers claim is the later one's, as in WireGuard
    /// itself. Before the first reconcile() they are only noted.
    /// @complexity the changed peers and their prefixes
    [[nodiscard]] Result<WireguardOutcome> apply(std::span<const WireguardChange> changes);

    /// Gives the device a new key; see above for the order. Its file is the caller's.
    [[nodiscard]] Result<void> set_private_key(const WireguardPrivateKey& key);

    /// Ends the device. The desired peers stay.
    [[nodiscard]] Result<void> remove();

    [[nodiscard]] WireguardDevice& device() noexcept { return *device_; }
    [[nodiscard]] const std::map<model::WireguardPublicKey, WireguardPeer>& peers() const noexcept {
        return desired_;
    }

  private:
    using Keys = std::set<model::WireguardPublicKey>;
    void desire(WireguardPeer peer, Keys& touched);
    void forget(const model::WireguardPublicKey& key, Keys& touched);
    [[nodiscard]] Result<WireguardOutcome> send(const Keys& touched, bool start_sessions = false);
    [[nodiscard]] Result<void> configure(const WireguardState& state);

    std::unique_ptr<WireguardDevice> device_;
    WireguardSettings settings_;
    std::map<model::WireguardPublicKey, WireguardPeer> desired_;
    std::map<model::IpPrefix, model::WireguardPublicKey> owners_;  ///< of desired_'s allowed ips
    std::map<model::WireguardPublicKey, WireguardPeerState> held_;
    bool started_ = false;
    bool known_ = false;  ///< held_ is what the device has
    UnknownPeers unknown_ = UnknownPeers::kRemove;
};

}  // namespace mesh::datapath
