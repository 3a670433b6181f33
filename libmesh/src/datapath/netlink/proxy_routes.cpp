#include "datapath/netlink/proxy_routes.hpp"

#include <algorithm>
#include <vector>

namespace mesh::datapath {
namespace {

/// A result that is no error although it has that code.
Result<void> unless(Errc code, Result<void> result) {
    if (!result && result.error().code() == code) return {};
    return result;
}

RoutingRule rule_of(bool v4, std::uint32_t mark) {
    RoutingRule rule;
    rule.v4 = v4;
    rule.priority = kProxyRulePriority;
    rule.table = kProxyTable;
    rule.mark = mark;
    return rule;
}

Route everything(bool v4) {
    Route route;
    route.destination =
        model::IpPrefix(v4 ? model::IpAddress::v4(0) : model::IpAddress(), /*length=*/0);
    route.device = "lo";
    route.table = kProxyTable;
    route.local = true;
    return route;
}

Result<void> set_family(Rtnetlink& netlink, bool v4, std::uint32_t mark, bool has_rule) {
    // Before the rule: a packet that found none would go on to the main table.
    MESH_CHECK(netlink.replace_route(everything(v4)));
    if (has_rule) return {};
    return unless(Errc::kConflict, netlink.add_rule(rule_of(v4, mark)));
}

}  // namespace

Result<void> set_proxy_routes(Rtnetlink& netlink, std::uint32_t mark) {
    if (mark == 0) return invalid_argument("mark of packets for proxies: expected one, found 0");
    MESH_TRY(std::vector<RoutingRule> rules, netlink.rules());
    std::erase_if(rules, [](const RoutingRule& rule) { return rule.table != kProxyTable; });
    for (const bool v4 : {true, false}) {
        const bool has_rule = std::ranges::find(rules, rule_of(v4, mark)) != rules.end();
        const auto set = set_family(netlink, v4, mark, has_rule);
        if (!set && v4) return set.error();
    }
    for (const RoutingRule& rule : rules) {
        if (rule == rule_of(rule.v4, mark)) continue;
        MESH_CHECK(unless(Errc::kNotFound, netlink.delete_rule(rule)));
    }
    return {};
}

Result<void> clear_proxy_routes(Rtnetlink& netlink) {
    MESH_TRY(const std::vector<RoutingRule> rules, netlink.rules());
    for (const RoutingRule& rule : rules) {
        if (rule.table != kProxyTable) continue;
        MESH_CHECK(unless(Errc::kNotFound, netlink.delete_rule(rule)));
    }
    for (const bool v4 : {true, false}) {
        const auto gone = unless(Errc::kNotFound, netlink.delete_route(everything(v4)));
        if (!gone && v4) return gone.error();
    }
    return {};
}

}  // namespace mesh::datapath
