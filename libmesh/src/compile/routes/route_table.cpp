#include "compile/routes/route_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <variant>

#include "model/usable.hpp"

namespace mesh::compile {
namespace {

using model::IpAddress;
using model::IpPrefix;

/// Compares by preference.
auto rank_of(const state::ClusterKey& cluster, bool own) {
    return std::tuple(!own, cluster.id, std::string_view(cluster.name));
}

/// rank_of() that keeps the name.
using OwnedRank = std::tuple<bool, model::ClusterId, std::string>;

/// Remotes' prefixes that are shorter are no pods' of one node, whatever they say.
constexpr std::uint8_t kShortestV4 = 8;
constexpr std::uint8_t kShortestV6 = 16;

/// A node with what it announces.
struct Announcer {
    NodeKey key;
    bool own_cluster = false;
    bool own_node = false;
    std::vector<IpPrefix> prefixes;  ///< in order, each once
    std::optional<IpAddress> gateway_v4, gateway_v6;
    std::vector<IpAddress> addresses;  ///< InternalIP and ExternalIP

    [[nodiscard]] const std::optional<IpAddress>& gateway(bool v4) const {
        return v4 ? gateway_v4 : gateway_v6;
    }
    [[nodiscard]] auto cluster_rank() const { return rank_of(key.cluster, own_cluster); }
    [[nodiscard]] OwnedRank owned_rank() const {
        return {!own_cluster, key.cluster.id, key.cluster.name};
    }
    [[nodiscard]] std::string text() const { return key.cluster.name + "/" + key.name; }
};

/// The order of preference.
struct ByRank {
    bool operator()(const Announcer* a, const Announcer* b) const {
        return std::tuple(a->cluster_rank(), std::string_view(a->key.name)) <
               std::tuple(b->cluster_rank(), std::string_view(b->key.name));
    }
};

/// The address that routes to the node use: the first InternalIP of the family, else the first
/// ExternalIP (wire.md §4).
std::optional<IpAddress> gateway_of(const std::vector<std::pair<bool, IpAddress>>& addresses,
                                    bool v4) {
    std::optional<IpAddress> external;
    for (const auto& [internal, address] : addresses) {
        if (address.is_v4() != v4 || !is_usable(address)) continue;
        if (internal) return address;
        if (!external) external = address;
    }
    return external;
}

Announcer read_node(const state::ClusterKey& cluster, const model::Node& node,
                    const RouteOptions& options) {
    Announcer result;
    result.key = {cluster, node.name};
    result.own_cluster = cluster.name == options.own_cluster;
    result.own_node = result.own_cluster && node.name == options.own_node;
    const auto add = [&](const IpPrefix& prefix) { result.prefixes.push_back(prefix); };
    if (node.ipv4_alloc_cidr) add(*node.ipv4_alloc_cidr);
    if (node.ipv6_alloc_cidr) add(*node.ipv6_alloc_cidr);
    for (const auto* more : {&node.ipv4_secondary_alloc_cidrs, &node.ipv6_secondary_alloc_cidrs}) {
        if (*more) std::ranges::for_each(**more, add);
    }
    std::ranges::sort(result.prefixes);
    result.prefixes.erase(std::unique(result.prefixes.begin(), result.prefixes.end()),
                          result.prefixes.end());

    std::vector<std::pair<bool, IpAddress>> addresses;
    if (node.addresses) {
        for (const model::NodeAddress& a : *node.addresses) {
            if (a.type != "InternalIP" && a.type != "ExternalIP") continue;
            if (const auto parsed = IpAddress::parse(a.ip)) {
                addresses.emplace_back(a.type == "InternalIP", *parsed);
                result.addresses.push_back(*parsed);
            }
        }
    }
    result.gateway_v4 = gateway_of(addresses, true);
    result.gateway_v6 = gateway_of(addresses, false);
    if (options.any_underlay) {
        if (!result.gateway_v4) result.gateway_v4 = result.gateway_v6;
        result.gateway_v6 = result.gateway_v4;
    }
    return result;
}

/// The announcements of one family.
struct Family {
    using Announcers = std::set<const Announcer*, ByRank>;
    std::map<IpPrefix, Announcers> announced;
    std::map<std::uint8_t, std::size_t> lengths;               ///< of announced, longest last
    std::multiset<IpAddress> addresses;                        ///< of all nodes
    std::map<OwnedRank, std::multiset<IpAddress>> by_cluster;  ///< the same

    struct Found {
        IpAddress address;
        std::string_view cluster;
    };
    [[nodiscard]] static std::optional<IpAddress> first_in(const std::multiset<IpAddress>& all,
                                                           const IpPrefix& prefix) {
        const auto at = all.lower_bound(prefix.address());
        if (at == all.end() || !prefix.contains(*at)) return std::nullopt;
        return *at;
    }
    /// An address of a node within the prefix which forbids that `node` announces it: one of the
    /// own cluster, or of one that goes before the node's.
    [[nodiscard]] std::optional<Found> forbidding_address(const IpPrefix& prefix,
                                                          const Announcer& node) const {
        if (!first_in(addresses, prefix)) return std::nullopt;
        for (const auto& [owned, of_cluster] : by_cluster) {
            const auto& [not_own, id, name] = owned;
            const auto rank = std::tuple(not_own, id, std::string_view(name));
            if (not_own && !(rank < node.cluster_rank())) break;
            if (const auto address = first_in(of_cluster, prefix)) return Found{*address, name};
        }
        return std::nullopt;
    }
    void add_address(const IpAddress& address, const Announcer& node) {
        addresses.insert(address);
        by_cluster[node.owned_rank()].insert(address);
    }
    void remove_address(const IpAddress& address, const Announcer& node) {
        addresses.erase(addresses.find(address));
        const auto at = by_cluster.find(node.owned_rank());
        at->second.erase(at->second.find(address));
        if (at->second.empty()) by_cluster.erase(at);
    }
    /// Calls with each announced prefix that strictly holds `prefix`, shortest first, until true.
    template <class Call>
    bool any_around(const IpPrefix& prefix, Call&& call) const {
        for (const auto& [length, count] : lengths) {
            if (length >= prefix.length()) break;
            const auto at = announced.find(IpPrefix(prefix.address(), length));
            if (at != announced.end() && call(at->first, at->second)) return true;
        }
        return false;
    }
};

}  // namespace

struct RouteTable::State {
    explicit State(RouteOptions its_options) : options(std::move(its_options)) {}

    RouteOptions options;
    std::map<NodeKey, Announcer> nodes;
    std::array<Family, 2> families;  ///< IPv4, IPv6
    std::set<IpPrefix> dirty;
    std::map<IpPrefix, Route> routes;  ///< as returned

    [[nodiscard]] Family& family(bool v4) { return families[v4 ? 0 : 1]; }
    [[nodiscard]] const Family& family(bool v4) const { return families[v4 ? 0 : 1]; }

    void mark_with_inner(const IpPrefix& prefix);
    void mark_around(const IpAddress& address, const Announcer& of);
    void add(Announcer announcer);
    void remove(const NodeKey& key);
    [[nodiscard]] std::optional<std::string> obstacle(const IpPrefix& prefix,
                                                      const Announcer& node) const;
    [[nodiscard]] bool takes_part(const IpPrefix& prefix, const Announcer& node) const {
        return node.own_cluster || !obstacle(prefix, node);
    }
    [[nodiscard]] const Announcer* preferred(const IpPrefix& prefix,
                                             const Family::Announcers& announcers) const;
    [[nodiscard]] std::optional<Route> desired(const IpPrefix& prefix) const;
    void list_equal(const IpPrefix& prefix, const Family::Announcers& announcers,
                    std::vector<RouteConflict>& found) const;
    void list_around(const IpPrefix& prefix, const Announcer& node,
                     std::vector<RouteConflict>& found) const;
};

/// A prefix that comes or goes changes what holds for all within it.
void RouteTable::State::mark_with_inner(const IpPrefix& prefix) {
    dirty.insert(prefix);
    const auto& announced = family(prefix.is_v4()).announced;
    for (auto at = announced.lower_bound(prefix);
         at != announced.end() && prefix.contains(at->first); ++at) {
        dirty.insert(at->first);
    }
}

/// A node's address that comes or goes changes what holds for the prefixes that hold it, unless
/// another one there forbids the same. Call it while the address is not among addresses.
void RouteTable::State::mark_around(const IpAddress& address, const Announcer& of) {
    const IpPrefix host(address, 128);
    const Family& f = family(address.is_v4());
    f.any_around(host, [&](const IpPrefix& prefix, const auto& announcers) {
        const bool matters = std::ranges::any_of(announcers, [&](const Announcer* node) {
            return (of.own_cluster || of.cluster_rank() < node->cluster_rank()) &&
                   !f.forbidding_address(prefix, *node);
        });
        if (matters) mark_with_inner(prefix);
        return false;
    });
    dirty.insert(host);
}

void RouteTable::State::add(Announcer announcer) {
    const NodeKey key = announcer.key;
    const Announcer& node = nodes.emplace(key, std::move(announcer)).first->second;
    for (const IpPrefix& prefix : node.prefixes) {
        Family& f = family(prefix.is_v4());
        auto& announcers = f.announced[prefix];
        if (announcers.empty()) ++f.lengths[prefix.length()];
        announcers.insert(&node);
        mark_with_inner(prefix);
    }
    for (const IpAddress& address : node.addresses) {
        mark_around(address, node);
        family(address.is_v4()).add_address(address, node);
    }
}

void RouteTable::State::remove(const NodeKey& key) {
    const auto held = nodes.find(key);
    if (held == nodes.end()) return;
    const Announcer& node = held->second;
    for (const IpPrefix& prefix : node.prefixes) {
        mark_with_inner(prefix);
        Family& f = family(prefix.is_v4());
        const auto at = f.announced.find(prefix);
        at->second.erase(&node);
        if (!at->second.empty()) continue;
        f.announced.erase(at);
        if (--f.lengths[prefix.length()] == 0) f.lengths.erase(prefix.length());
    }
    for (const IpAddress& address : node.addresses) {
        family(address.is_v4()).remove_address(address, node);
        mark_around(address, node);
    }
    nodes.erase(held);
}

/// Why the node's prefix cannot have a route at all.
std::optional<std::string> RouteTable::State::obstacle(const IpPrefix& prefix,
                                                       const Announcer& node) const {
    if (const auto never = unusable_part(prefix)) {
        return fmt::format("it overlaps {}, which is never routed", never->to_string());
    }
    const std::uint8_t shortest = prefix.is_v4() ? kShortestV4 : kShortestV6;
    if (!node.own_cluster && prefix.length() < shortest) {
        return fmt::format("it is shorter than /{}", shortest);
    }
    const auto& gateway = node.gateway(prefix.is_v4());
    if (!gateway) {
        return fmt::format("the node has no usable {}address", options.any_underlay ? ""
                                                               : prefix.is_v4()     ? "IPv4 "
                                                                                    : "IPv6 ");
    }
    if (prefix.contains(*gateway)) {
        return fmt::format("it holds the node's own address {}", gateway->to_string());
    }
    if (const auto found = family(prefix.is_v4()).forbidding_address(prefix, node)) {
        return fmt::format("it holds {}, the address of a node of {}", found->address.to_string(),
                           found->cluster);
    }
    return std::nullopt;
}

const Announcer* RouteTable::State::preferred(const IpPrefix& prefix,
                                              const Family::Announcers& announcers) const {
    const auto at = std::ranges::find_if(
        announcers, [&](const Announcer* node) { return takes_part(prefix, *node); });
    return at == announcers.end() ? nullptr : *at;
}

std::optional<Route> RouteTable::State::desired(const IpPrefix& prefix) const {
    const Family& f = family(prefix.is_v4());
    const auto at = f.announced.find(prefix);
    if (at == f.announced.end()) return std::nullopt;
    const Announcer* node = preferred(prefix, at->second);
    if (node == nullptr || node->own_node || obstacle(prefix, *node)) return std::nullopt;
    const bool blocked = f.any_around(prefix, [&](const IpPrefix& outer, const auto& announcers) {
        const Announcer* other = preferred(outer, announcers);
        return other != nullptr && other->cluster_rank() < node->cluster_rank();
    });
    if (blocked) return std::nullopt;
    return Route{prefix, *node->gateway(prefix.is_v4()), node->key};
}

void RouteTable::State::list_equal(const IpPrefix& prefix, const Family::Announcers& announcers,
                                   std::vector<RouteConflict>& found) const {
    const Announcer* winner = nullptr;
    for (const Announcer* node : announcers) {
        if (!takes_part(prefix, *node)) continue;
        if (winner == nullptr) {
            winner = node;
            continue;
        }
        found.push_back({prefix, node->key, prefix, winner->key,
                         fmt::format("{} of {} gets no route: {} announces the same and goes first",
                                     prefix.to_string(), node->text(), winner->text())});
    }
}

void RouteTable::State::list_around(const IpPrefix& prefix, const Announcer& node,
                                    std::vector<RouteConflict>& found) const {
    family(prefix.is_v4()).any_around(prefix, [&](const IpPrefix& outer, const auto& announcers) {
        const Announcer* other = preferred(outer, announcers);
        if (other == nullptr || other->key.cluster == node.key.cluster) return false;
        if (other->cluster_rank() < node.cluster_rank()) {
            found.push_back(
                {prefix, node.key, outer, other->key,
                 fmt::format("{} of {} gets no route: it lies within {} of {}, which goes first",
                             prefix.to_string(), node.text(), outer.to_string(), other->text())});
        } else {
            found.push_back(
                {outer, other->key, prefix, node.key,
                 fmt::format("{} of {} does not get the traffic to {} of {}, which it holds",
                             outer.to_string(), other->text(), prefix.to_string(), node.text())});
        }
        return false;
    });
}

RouteTable::RouteTable(RouteOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}
RouteTable::~RouteTable() = default;
RouteTable::RouteTable(RouteTable&&) noexcept = default;
RouteTable& RouteTable::operator=(RouteTable&&) noexcept = default;

void RouteTable::note(const state::Effect& effect) {
    const auto* change = std::get_if<state::Changed<model::Node>>(&effect.change);
    if (change == nullptr) return;
    const auto& name = (change->after != nullptr ? change->after : change->before)->name;
    state_->remove({effect.cluster, name});
    if (change->after != nullptr) {
        state_->add(read_node(effect.cluster, *change->after, state_->options));
    }
}

RouteChanges RouteTable::flush() {
    RouteChanges changes;
    for (const IpPrefix& prefix : std::exchange(state_->dirty, {})) {
        const auto wanted = state_->desired(prefix);
        const auto held = state_->routes.find(prefix);
        if (wanted) {
            if (held != state_->routes.end() && held->second == *wanted) continue;
            state_->routes.insert_or_assign(prefix, *wanted);
            changes.upserts.push_back(*wanted);
        } else if (held != state_->routes.end()) {
            state_->routes.erase(held);
            changes.removed.push_back(prefix);
        }
    }
    return changes;
}

std::optional<Announcement> RouteTable::find_preferred_around(const state::ClusterKey& cluster,
                                                              const IpPrefix& prefix) const {
    const bool own = cluster.name == state_->options.own_cluster;
    if (own) return std::nullopt;
    const auto rank = rank_of(cluster, own);
    std::optional<Announcement> found;
    const auto look = [&](const IpPrefix& around, const Family::Announcers& announcers) {
        for (const Announcer* node : announcers) {
            if (!(node->cluster_rank() < rank)) break;
            if (!state_->takes_part(around, *node)) continue;
            found = Announcement{around, &node->key};
            break;
        }
        return found.has_value();
    };
    const Family& f = state_->family(prefix.is_v4());
    if (f.any_around(prefix, look)) return found;
    const auto equal = f.announced.find(prefix);
    if (equal != f.announced.end()) look(equal->first, equal->second);
    return found;
}

std::vector<RouteConflict> RouteTable::conflicts() const {
    std::vector<RouteConflict> found;
    for (const Family& family : state_->families) {
        for (const auto& [prefix, announcers] : family.announced) {
            state_->list_equal(prefix, announcers, found);
            const Announcer* node = state_->preferred(prefix, announcers);
            if (node != nullptr) state_->list_around(prefix, *node, found);
        }
    }
    std::ranges::sort(found, {}, [](const RouteConflict& c) {
        return std::tie(c.prefix, c.loser, c.other_prefix, c.winner);
    });
    return found;
}

std::vector<std::string> RouteTable::skipped() const {
    std::vector<std::string> sentences;
    for (const auto& [key, node] : state_->nodes) {
        if (node.own_node) continue;
        for (const IpPrefix& prefix : node.prefixes) {
            if (const auto obstacle = state_->obstacle(prefix, node)) {
                sentences.push_back(fmt::format("{} of {} gets no route: {}", prefix.to_string(),
                                                node.text(), *obstacle));
            }
        }
    }
    return sentences;
}

}  // namespace mesh::compile
