#include "compile/ipcache/node_claims.hpp"

#include <algorithm>

#include "model/usable.hpp"

namespace mesh::compile {
namespace {

using model::IpAddress;
using model::IpPrefix;

std::optional<NodeAddressKind> kind_of(const std::string& type) {
    if (type == "InternalIP") return NodeAddressKind::kInternal;
    if (type == "ExternalIP") return NodeAddressKind::kExternal;
    if (type == "CiliumInternalIP") return NodeAddressKind::kCiliumInternal;
    return std::nullopt;
}

using Addresses = std::vector<std::pair<NodeAddressKind, IpAddress>>;

/// In published order.
Addresses usable_addresses(const model::Node& node) {
    Addresses found;
    if (!node.addresses) return found;
    for (const model::NodeAddress& address : *node.addresses) {
        const auto kind = kind_of(address.type);
        IpAddress parsed;
        if (kind && IpAddress::parse_into(address.ip, parsed) && is_usable(parsed)) {
            found.emplace_back(*kind, parsed);
        }
    }
    return found;
}

/// The first IPv4 InternalIP, else the first IPv4 ExternalIP, else likewise of IPv6: whatever the
/// family of the packets inside, as RouteTable has it for encapsulation.
std::optional<IpAddress> tunnel_to(const Addresses& addresses) {
    for (const bool family : {true, false}) {
        for (const auto kind : {NodeAddressKind::kInternal, NodeAddressKind::kExternal}) {
            for (const auto& [its_kind, address] : addresses) {
                if (its_kind == kind && address.is_v4() == family) return address;
            }
        }
    }
    return std::nullopt;
}

template <class T>
void sort_unique(std::vector<T>& values) {
    std::ranges::sort(values);
    values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace

NodeClaims node_claims(const model::Node& node, bool own_node) {
    const Addresses addresses = usable_addresses(node);
    NodeClaims claims;
    const auto add = [&](NodeAddressKind kind, const IpAddress& address) {
        NodeClaim claim{.kind = kind,
                        .node = node.name,
                        .own_node = own_node,
                        .tunnel = std::nullopt,
                        .encryption_key = node.encryption_key};
        if (!claim.is_underlay() && !own_node) claim.tunnel = tunnel_to(addresses);
        claims.emplace_back(address, std::move(claim));
    };
    for (const auto& [kind, address] : addresses) add(kind, address);
    for (const auto* health : {&node.ipv4_health_ip, &node.ipv6_health_ip}) {
        if (*health && is_usable(**health)) add(NodeAddressKind::kHealth, **health);
    }
    for (const auto* ingress : {&node.ipv4_ingress_ip, &node.ipv6_ingress_ip}) {
        if (*ingress && is_usable(**ingress)) add(NodeAddressKind::kIngress, **ingress);
    }
    sort_unique(claims);
    return claims;
}

std::vector<IpAddress> node_addresses(const model::Node& node) {
    std::vector<IpAddress> addresses;
    for (const auto& [kind, address] : usable_addresses(node)) addresses.push_back(address);
    sort_unique(addresses);
    return addresses;
}

std::vector<IpPrefix> node_cidrs(const model::Node& node) {
    std::vector<IpPrefix> cidrs;
    const auto add = [&](const IpPrefix& cidr) { cidrs.push_back(cidr); };
    if (node.ipv4_alloc_cidr) add(*node.ipv4_alloc_cidr);
    if (node.ipv6_alloc_cidr) add(*node.ipv6_alloc_cidr);
    for (const auto* more : {&node.ipv4_secondary_alloc_cidrs, &node.ipv6_secondary_alloc_cidrs}) {
        if (*more) std::ranges::for_each(**more, add);
    }
    sort_unique(cidrs);
    return cidrs;
}

}  // namespace mesh::compile
