#include "compile/ipcache/claims.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <tuple>
#include <utility>

#include "model/usable.hpp"
#include "state/tables/row_codec.hpp"

namespace mesh::compile {
namespace {

using model::IpAddress;
using model::IpPrefix;
using state::ClusterKey;

std::size_t index_of(bool v4) {
    return v4 ? 0 : 1;
}

/// What is in one of two sorted ranges and not in the other.
template <class T, class A, class B>
std::vector<T> differences(const A& a, const B& b) {
    std::vector<T> result;
    std::ranges::set_symmetric_difference(a, b, std::back_inserter(result));
    return result;
}

std::vector<IpAddress> underlay_of(const NodeClaims& claims) {
    std::vector<IpAddress> addresses;
    for (const auto& [address, claim] : claims) {
        if (claim.is_underlay() && (addresses.empty() || addresses.back() != address)) {
            addresses.push_back(address);
        }
    }
    return addresses;
}

}  // namespace

bool ByPreference::operator()(const ClusterKey& a, const ClusterKey& b) const {
    const auto rank = [this](const ClusterKey& key) {
        return std::tuple(key.name != own_cluster, key.id, std::string_view(key.name));
    };
    return rank(a) < rank(b);
}

bool ClusterClaims::empty() const noexcept {
    return announced.empty() && returned.empty() && nodes[0].empty() && nodes[1].empty();
}

Claims::Claims(const state::ClusterTables& tables, const RouteTable& routes, IpcacheOptions options)
    : tables_(&tables),
      routes_(&routes),
      options_(std::move(options)),
      clusters_(ByPreference{options_.own_cluster}) {}

// ---- what changes ----

void Claims::note(const ClusterKey& key, const state::Changed<model::IpIdentityPair>& change) {
    const auto& pair = change.after != nullptr ? *change.after : *change.before;
    const IpPrefix prefix = state::prefix_of(pair);
    if (change.before != nullptr && change.after != nullptr) {
        const auto row = [](const model::IpIdentityPair& p) {
            return std::tuple(p.id, p.host_ip, p.key);
        };
        if (row(*change.before) == row(*change.after)) return;
    }
    if (unusable_part(prefix)) return;
    ClusterClaims& claims = cluster(key);
    if (change.after != nullptr) {
        claims.announced.insert(prefix);
        claims.changed.insert(prefix);
    } else {
        claims.announced.erase(prefix);
        claims.changed.erase(prefix);
    }
    dirty_.insert(prefix);
}

void Claims::note(const ClusterKey& key, const state::Changed<model::Node>& change) {
    replace_claims(key, change.before, change.after);
    const auto cidrs = [](const model::Node* node) {
        return node != nullptr ? node_cidrs(*node) : std::vector<IpPrefix>{};
    };
    const auto before = cidrs(change.before);
    const auto after = cidrs(change.after);
    // Their rows have the node's key. A node that was deleted and is back may have kept its routes.
    if (change.before == nullptr || change.after == nullptr ||
        change.before->encryption_key != change.after->encryption_key) {
        for (const IpPrefix& cidr : after) dirty_.insert(cidr);
    }
    if (!is_own(key)) return;
    // A CIDR of the own cluster holds others off whether it has a route or not.
    for (const IpPrefix& cidr : differences<IpPrefix>(before, after)) mark_within(cidr, key);
    const auto& name = (change.after != nullptr ? change.after : change.before)->name;
    if (name == options_.own_node) move_own_addresses(change.after);
}

void Claims::replace_claims(const ClusterKey& key, const model::Node* before,
                            const model::Node* after) {
    const auto claims_of = [&](const model::Node* node) {
        if (node == nullptr) return NodeClaims{};
        return node_claims(*node, is_own(key) && node->name == options_.own_node);
    };
    const NodeClaims had = claims_of(before);
    NodeClaims has = claims_of(after);
    if (had == has) return;
    ClusterClaims& claims = cluster(key);
    for (const auto& [address, claim] : had) {
        auto& nodes = claims.nodes[index_of(address.is_v4())];
        const auto at = nodes.find(address);
        std::erase(at->second, claim);
        if (at->second.empty()) nodes.erase(at);
        dirty_.insert(IpPrefix(address, 128));
    }
    const auto underlay_before = underlay_of(had);
    const auto underlay_after = underlay_of(has);
    for (auto& [address, claim] : has) {
        auto& at = claims.nodes[index_of(address.is_v4())][address];
        at.insert(std::ranges::upper_bound(at, claim), std::move(claim));
        dirty_.insert(IpPrefix(address, 128));
    }
    for (const IpAddress& address : differences<IpAddress>(underlay_before, underlay_after)) {
        auto& underlay = claims.underlay[index_of(address.is_v4())];
        if (std::ranges::binary_search(underlay_after, address)) {
            underlay.insert(address);
        } else {
            underlay.erase(underlay.find(address));
        }
        mark_around(address, key);
    }
}

/// Rows that lead to this node need no tunnel: rare, so that no index of endpoints is kept for it.
void Claims::move_own_addresses(const model::Node* after) {
    std::set<IpAddress> addresses;
    if (after != nullptr) {
        for (const IpAddress& address : node_addresses(*after)) addresses.insert(address);
    }
    const auto moved = differences<IpAddress>(own_addresses_, addresses);
    own_addresses_ = std::move(addresses);
    if (moved.empty()) return;
    const auto is_moved = [&](const std::optional<IpAddress>& tunnel) {
        return tunnel && std::ranges::binary_search(moved, *tunnel);
    };
    for (auto& [key, claims] : clusters_) {
        for (const auto& family : claims.nodes) {
            for (const auto& [address, nodes] : family) {
                if (is_moved(nodes.front().tunnel)) dirty_.insert(IpPrefix(address, 128));
            }
        }
        if (claims.announced.empty()) continue;
        tables_->for_each_ip(key.name, [&, &its = claims](const model::IpIdentityPair& pair) {
            const IpPrefix prefix = state::prefix_of(pair);
            if (!is_moved(pair.host_ip) || !its.announced.contains(prefix)) return;
            its.changed.insert(prefix);
            dirty_.insert(prefix);
        });
    }
    for (const auto& [prefix, route] : cidrs_) {
        if (is_moved(route.gateway)) dirty_.insert(prefix);
    }
}

void Claims::note(const RouteChanges& changes) {
    const ByPreference& goes_first = clusters_.key_comp();
    for (const IpPrefix& prefix : changes.removed) {
        const auto held = cidrs_.find(prefix);
        if (held == cidrs_.end()) continue;
        dirty_.insert(prefix);
        mark_within(prefix, held->second.node.cluster);
        cidrs_.erase(held);
    }
    for (const Route& route : changes.upserts) {
        dirty_.insert(route.prefix);
        const auto [held, is_new] = cidrs_.try_emplace(route.prefix, route);
        if (is_new) {
            mark_within(route.prefix, route.node.cluster);
            continue;
        }
        const ClusterKey had = std::exchange(held->second, route).node.cluster;
        if (had == route.node.cluster) continue;
        mark_within(route.prefix, std::min(had, route.node.cluster, goes_first));
    }
}

/// Marks what clusters that go later than `first` claim within the prefix.
void Claims::mark_within(const IpPrefix& prefix, const ClusterKey& first) {
    for (auto at = clusters_.upper_bound(first); at != clusters_.end(); ++at) {
        at->second.announced.for_each_within(prefix,
                                             [this](const IpPrefix& p) { dirty_.insert(p); });
        const auto& nodes = at->second.nodes[index_of(prefix.is_v4())];
        for (auto node = nodes.lower_bound(prefix.address());
             node != nodes.end() && prefix.contains(node->first); ++node) {
            dirty_.insert(IpPrefix(node->first, 128));
        }
    }
}

/// Marks prefixes of clusters that go later than `first` which hold the address.
void Claims::mark_around(const IpAddress& address, const ClusterKey& first) {
    for (auto at = clusters_.upper_bound(first); at != clusters_.end(); ++at) {
        at->second.announced.for_each_around(address,
                                             [this](const IpPrefix& p) { dirty_.insert(p); });
    }
}

// ---- who claims what ----

const std::vector<Claim>& Claims::of(const IpPrefix& prefix) {
    found_.clear();
    const auto cidr = cidrs_.find(prefix);
    for (auto& [key, claims] : clusters_) {
        const Claim base{.cluster = &key, .of = &claims};
        const std::size_t first = found_.size();
        if (prefix.is_host()) {
            const auto& nodes = claims.nodes[index_of(prefix.is_v4())];
            if (const auto at = nodes.find(prefix.address()); at != nodes.end()) {
                found_.push_back(base);
                found_.back().source = IpcacheSource::kNode;
                found_.back().node = &at->second.front();
            }
        }
        if (claims.announced.contains(prefix)) found_.push_back(base);
        if (found_.size() > first && is_suppressed(key, prefix)) {
            for (std::size_t i = first; i < found_.size(); ++i) found_[i].suppressed = true;
        }
        if (cidr != cidrs_.end() && cidr->second.node.cluster == key) {
            found_.push_back(base);
            found_.back().source = IpcacheSource::kCidr;
            found_.back().route = &cidr->second;
        }
    }
    return found_;
}

bool Claims::is_suppressed(const ClusterKey& key, const IpPrefix& prefix) const {
    return routes_->find_preferred_around(key, prefix).has_value() ||
           held_address(key, prefix).has_value();
}

std::optional<Claims::HeldAddress> Claims::held_address(const ClusterKey& key,
                                                        const IpPrefix& prefix) const {
    if (prefix.is_host()) return std::nullopt;  // an equal prefix, which precedence settles
    for (const auto& [other, claims] : clusters_) {
        if (!clusters_.key_comp()(other, key)) break;
        const auto& underlay = claims.underlay[index_of(prefix.is_v4())];
        const auto at = underlay.lower_bound(prefix.address());
        if (at != underlay.end() && prefix.contains(*at)) return HeldAddress{&other, *at};
    }
    return std::nullopt;
}

std::string Claims::reason(const Claim& claim, const IpPrefix& prefix) const {
    if (const auto around = routes_->find_preferred_around(*claim.cluster, prefix)) {
        return fmt::format("it lies within {} of {}/{}, which goes first",
                           around->prefix.to_string(), around->node->cluster.name,
                           around->node->name);
    }
    if (const auto held = held_address(*claim.cluster, prefix)) {
        return fmt::format("it holds {}, the address of a node of {}, which goes first",
                           held->address.to_string(), held->cluster->name);
    }
    return {};
}

ClusterClaims* Claims::holder(const IpPrefix& prefix) {
    for (auto& [key, claims] : clusters_) {
        if (claims.returned.contains(prefix)) return &claims;
    }
    return nullptr;
}

void Claims::forget_empty() {
    std::erase_if(clusters_, [](const auto& entry) { return entry.second.empty(); });
}

std::size_t Claims::bytes() const noexcept {
    constexpr std::size_t kNode = 4 * sizeof(void*) + 16;  // of a tree, with malloc's
    std::size_t total = dirty_.bytes() + cidrs_.size() * (kNode + sizeof(IpPrefix) + sizeof(Route));
    for (const auto& [key, claims] : clusters_) {
        total += kNode + sizeof(key) + sizeof(claims) + claims.announced.bytes() +
                 claims.returned.bytes() + claims.changed.bytes();
        for (const std::size_t family : {0U, 1U}) {
            total += claims.underlay[family].size() * (kNode + sizeof(IpAddress));
            for (const auto& [address, nodes] : claims.nodes[family]) {
                total += kNode + sizeof(address) + sizeof(nodes) +
                         nodes.capacity() * sizeof(NodeClaim) + 16;
            }
        }
    }
    return total;
}

}  // namespace mesh::compile
