#include "engine/encryption_routes.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace mesh::engine {
namespace {

using datapath::Route;
using datapath::RoutingRule;
using model::IpPrefix;

// Behind the metric of the routes themselves, which is 1024 for IPv6.
constexpr std::uint32_t kBlackHoleMetric = 4000;

Result<void> unless(Errc code, Result<void> result) {
    if (!result && result.error().code() == code) return {};
    return result;
}

Result<std::vector<RoutingRule>> own_rules(datapath::Rtnetlink& netlink) {
    MESH_TRY(std::vector<RoutingRule> rules, netlink.rules());
    std::erase_if(rules, [](const RoutingRule& rule) { return rule.table != kEncryptionTable; });
    return rules;
}

// As the kernel tells it.
bool holds(const std::vector<Route>& existing, Route wanted) {
    if (wanted.metric == 0 && !wanted.destination.is_v4()) wanted.metric = 1024;
    return std::ranges::find(existing, wanted) != existing.end();
}

}  // namespace

Route EncryptionRoutes::route_to(const IpPrefix& prefix) const {
    Route route;
    route.destination = prefix;
    route.device = settings_.device;
    route.source = prefix.is_v4() ? settings_.source4 : settings_.source6;
    route.table = kEncryptionTable;
    return route;
}

Route EncryptionRoutes::black_hole_of(const IpPrefix& prefix) const {
    Route route;
    route.destination = prefix;
    route.blackhole = true;
    route.metric = kBlackHoleMetric;
    route.table = kEncryptionTable;
    return route;
}

Result<std::size_t> EncryptionRoutes::set_rules() {
    std::size_t added_rules = 0;
    std::vector<RoutingRule> wanted;
    for (const bool v4 : {true, false}) {
        RoutingRule rule;
        rule.v4 = v4;
        rule.priority = kEncryptionRulePriority;
        rule.table = kEncryptionTable;
        if (settings_.tunnel_port != 0) {
            rule.protocol = IPPROTO_UDP;
            rule.destination_port = settings_.tunnel_port;
        }
        wanted.push_back(rule);
    }
    MESH_TRY(const std::vector<RoutingRule> existing, own_rules(netlink_));
    for (const RoutingRule& rule : wanted) {
        if (std::ranges::find(existing, rule) != existing.end()) continue;
        auto added = unless(Errc::kConflict, netlink_.add_rule(rule));
        // A kernel without IPv6 needs no rule for it.
        if (!added && (rule.v4 || settings_.source6)) return added.error();
        if (added) ++added_rules;
    }
    for (const RoutingRule& rule : existing) {
        if (std::ranges::find(wanted, rule) != wanted.end()) continue;
        MESH_CHECK(unless(Errc::kNotFound, netlink_.delete_rule(rule)));
    }
    return added_rules;
}

Result<std::size_t> EncryptionRoutes::sync(const std::set<IpPrefix>& wanted, bool prune) {
    MESH_TRY(const std::vector<Route> existing, netlink_.routes(kEncryptionTable));
    std::size_t added = 0;
    for (const IpPrefix& prefix : wanted) {
        if (settings_.strict && !holds(existing, black_hole_of(prefix))) {
            MESH_CHECK(netlink_.replace_route(black_hole_of(prefix)));
            ++added;
        }
        if (!holds(existing, route_to(prefix))) {
            MESH_CHECK(netlink_.replace_route(route_to(prefix)));
            ++added;
        }
    }
    MESH_TRY(const std::size_t rules, set_rules());
    for (const Route& route : existing) {
        const bool leftover = route.blackhole && !settings_.strict;
        if (!leftover && (!prune || wanted.contains(route.destination))) continue;
        MESH_CHECK(unless(Errc::kNotFound, netlink_.delete_route(route)));
    }
    return added + rules;
}

Result<void> EncryptionRoutes::add(const IpPrefix& prefix) {
    if (settings_.strict) MESH_CHECK(netlink_.replace_route(black_hole_of(prefix)));
    return netlink_.replace_route(route_to(prefix));
}

Result<void> EncryptionRoutes::remove(const IpPrefix& prefix) {
    MESH_CHECK(unless(Errc::kNotFound, netlink_.delete_route(route_to(prefix))));
    if (!settings_.strict) return {};
    return unless(Errc::kNotFound, netlink_.delete_route(black_hole_of(prefix)));
}

Result<void> EncryptionRoutes::clear(datapath::Rtnetlink& netlink) {
    MESH_TRY(const std::vector<RoutingRule> rules, own_rules(netlink));
    if (rules.empty()) return {};
    for (const RoutingRule& rule : rules) {
        MESH_CHECK(unless(Errc::kNotFound, netlink.delete_rule(rule)));
    }
    MESH_TRY(const std::vector<Route> routes, netlink.routes(kEncryptionTable));
    for (const Route& route : routes) {
        MESH_CHECK(unless(Errc::kNotFound, netlink.delete_route(route)));
    }
    return {};
}

}  // namespace mesh::engine
