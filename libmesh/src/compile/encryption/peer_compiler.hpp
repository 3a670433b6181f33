// Turns the nodes of all clusters into the WireGuard peers that this node should have: one for each
// other node that publishes a key, at the node's address, for the node's addresses and pod CIDRs.
// Incremental: an effect on the tables marks the nodes that it concerns; flush() returns the peers
// that differ from what was returned before.
//
// A key and a prefix belong to one peer. Who gets what two nodes claim is decided as for routes
// (compile/routes), by what is announced now: this node, then its cluster, then the lowest cluster
// id, the cluster's name, the node's name. So nothing flaps.
// - Equal prefixes, equal keys: the preferred node's. The other gets no allowed ip, or no peer.
// - A prefix within one of a preferred cluster is not allowed, as the more specific one would take
//   that cluster's traffic and let its addresses be used as a source. Within one cluster that is
//   the cluster's own matter.
// - A remote's prefix that holds one of the own cluster is not allowed either: the own one may have
//   no peer that is more specific (this node has none).
// - A node whose own address is another's gets no peer.
// Nodes without a key take part in all this, so that nobody takes what is theirs. A node's address
// counts as a prefix of full length.
//
// Used by engine after each batch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/ip.hpp"
#include "model/wireguard_key.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile {

/// A node of a cluster.
struct EncryptionNode {
    state::ClusterKey cluster;
    std::string name;
    friend auto operator<=>(const EncryptionNode&, const EncryptionNode&) = default;
};

/// A peer as it should be.
struct EncryptionPeer {
    model::WireguardPublicKey public_key;
    /// The node's first IPv4 InternalIP, else its first IPv6 one, else likewise of its ExternalIPs.
    model::IpAddress endpoint;
    /// InternalIPs, CiliumInternalIPs, the endpoint, and pod CIDRs; in order, each once.
    std::vector<model::IpPrefix> allowed_ips;
    EncryptionNode node;
    friend bool operator==(const EncryptionPeer&, const EncryptionPeer&) = default;
};

/// The difference to what was returned before; both in the order of keys. A node whose key changed
/// is a removal and an upsert of one flush: apply them together.
struct EncryptionChanges {
    std::vector<EncryptionPeer> upserts;
    std::vector<model::WireguardPublicKey> removed;
    [[nodiscard]] bool empty() const noexcept { return upserts.empty() && removed.empty(); }
};

struct EncryptionOptions {
    std::string own_cluster;
    std::string own_node;
};

/// The desired peers.
/// @thread same object not concurrently
class EncryptionCompiler {
  public:
    explicit EncryptionCompiler(EncryptionOptions options);
    ~EncryptionCompiler();
    EncryptionCompiler(EncryptionCompiler&&) noexcept;
    EncryptionCompiler& operator=(EncryptionCompiler&&) noexcept;

    /// Takes a node's change; kinds other than nodes are ignored.
    void note(const state::Effect& effect);
    /// The peers that changed since the last call.
    /// @complexity the prefixes of the changed nodes and those that overlap them
    [[nodiscard]] EncryptionChanges flush();

    /// What a node with a key claims and does not get as another has it, a sentence each that names
    /// both; in the order of nodes.
    [[nodiscard]] std::vector<std::string> conflicts() const;
    /// What a node publishes that cannot be used whatever others do, a sentence each: a key that is
    /// none, no usable address, a prefix that overlaps loopback, multicast or link-local ones.
    [[nodiscard]] std::vector<std::string> skipped() const;
    /// The nodes but this one that publish no key: what goes to them is not encrypted.
    [[nodiscard]] std::vector<EncryptionNode> without_key() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mesh::compile
