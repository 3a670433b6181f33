// Nodes and ips of three clusters for the tests of this folder, and what a flush returns as text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compile/ipcache/ipcache_compiler.hpp"
#include "model/types.hpp"
#include "state/tables/changes.hpp"

namespace mesh::compile::testing {

const state::ClusterKey kOwn{"ape",
                             model::ClusterId{9}};  // preferred, though its id is the highest
const state::ClusterKey kBee{"bee", model::ClusterId{2}};
const state::ClusterKey kCat{"cat", model::ClusterId{3}};

inline model::IpPrefix prefix(std::string_view text) {
    return *model::IpPrefix::parse(text);
}

/// The first CIDR of each family is the main one, others are secondary.
inline model::Node node(const state::ClusterKey& cluster, std::string name,
                        std::vector<model::NodeAddress> addresses,
                        const std::vector<std::string>& cidrs) {
    model::Node n;
    n.name = std::move(name);
    n.cluster = cluster.name;
    n.cluster_id = cluster.id;
    n.addresses = std::move(addresses);
    for (const auto& text : cidrs) {
        const model::IpPrefix p = prefix(text);
        auto& first = p.is_v4() ? n.ipv4_alloc_cidr : n.ipv6_alloc_cidr;
        auto& more = p.is_v4() ? n.ipv4_secondary_alloc_cidrs : n.ipv6_secondary_alloc_cidrs;
        if (!first) {
            first = p;
        } else if (!more) {
            more = {p};
        } else {
            more->push_back(p);
        }
    }
    return n;
}
inline model::Node node(const state::ClusterKey& cluster, std::string name, std::string address,
                        const std::vector<std::string>& cidrs) {
    return node(cluster, std::move(name), {{"InternalIP", std::move(address)}}, cidrs);
}

/// @param where "10.0.0.1" or "10.0.0.0/24"
/// @param host empty = none
inline model::IpIdentityPair pair(std::string_view where, std::string_view host, std::uint32_t id) {
    const model::IpPrefix p = prefix(where);
    model::IpIdentityPair result;
    result.ip = p.address();
    if (!p.is_host()) result.prefix_length = p.length();
    if (!host.empty()) result.host_ip = *model::IpAddress::parse(host);
    result.id = model::IdentityId{id};
    return result;
}

/// "10.0.0.1/32 id 70000 of 2 via 192.0.2.1 key 3 node cidr".
inline std::string text(const IpcacheRow& row) {
    std::string line = row.prefix.to_string() + " id " +
                       std::to_string(model::number(row.identity)) + " of " +
                       std::to_string(model::number(row.cluster));
    if (row.tunnel) line += " via " + row.tunnel->to_string();
    if (row.encryption_key != 0) line += " key " + std::to_string(row.encryption_key);
    if (row.is_node) line += " node";
    if (row.is_cidr) line += " cidr";
    return line;
}
/// "+ row", "- prefix", "+ peer", "- peer".
inline std::vector<std::string> text(const IpcacheChanges& changes) {
    std::vector<std::string> lines;
    for (const auto& row : changes.upserts) lines.push_back("+ " + text(row));
    for (const auto& p : changes.removed) lines.push_back("- " + p.to_string());
    for (const auto& peer : changes.nodes_upserts) {
        lines.push_back("+ peer " + peer.address.to_string() + " of " +
                        std::to_string(model::number(peer.cluster)));
    }
    for (const auto& address : changes.nodes_removed) {
        lines.push_back("- peer " + address.to_string());
    }
    return lines;
}

}  // namespace mesh::compile::testing
