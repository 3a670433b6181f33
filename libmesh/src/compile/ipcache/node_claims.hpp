// What a node's record says of single addresses: its own, its health endpoint's, its ingress's.
//
// Used by IpcacheCompiler only.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/ip.hpp"
#include "model/types.hpp"

namespace mesh::compile {

/// What an address is to a node; between several of one cluster the first decides.
enum class NodeAddressKind : std::uint8_t {
    kInternal,
    kExternal,
    kCiliumInternal,  ///< of its router, inside the pod network
    kHealth,
    kIngress,
};

/// A node says that an address is its own.
struct NodeClaim {
    NodeAddressKind kind = NodeAddressKind::kInternal;
    std::string node;
    bool own_node = false;
    /// Where packets to an address inside the pod network go; nullopt for the others.
    std::optional<model::IpAddress> tunnel;
    std::uint8_t encryption_key = 0;
    friend auto operator<=>(const NodeClaim&, const NodeClaim&) = default;

    /// True for an address that the node has in the network below.
    [[nodiscard]] bool is_underlay() const noexcept { return kind <= NodeAddressKind::kExternal; }
    [[nodiscard]] bool is_node() const noexcept { return kind <= NodeAddressKind::kCiliumInternal; }
};

using NodeClaims = std::vector<std::pair<model::IpAddress, NodeClaim>>;

/// The claims of a node, in order, each once; addresses that nobody can have are left out.
/// @param own_node whether it is this node
[[nodiscard]] NodeClaims node_claims(const model::Node& node, bool own_node);
/// All addresses of the node, except those of its health endpoint and ingress; in order, each once.
[[nodiscard]] std::vector<model::IpAddress> node_addresses(const model::Node& node);
/// The pod CIDRs of the node, in order, each once.
[[nodiscard]] std::vector<model::IpPrefix> node_cidrs(const model::Node& node);

}  // namespace mesh::compile
