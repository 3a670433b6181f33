#include "datapath/netlink/route_table.hpp"

#include <fmt/format.h>

#include <set>

namespace mesh::datapath {
namespace {

// The metric that the kernel gives a route without one; it is part of a route's identity.
std::uint32_t default_metric(const model::IpPrefix& prefix) {
    return prefix.is_v4() ? 0 : 1024;
}

bool same_hop(const Route& route, const NextHop& hop) {
    return route.via == hop.via && route.onlink == hop.onlink && route.source == hop.source &&
           (hop.device.empty() || hop.device == route.device);
}

}  // namespace

RoutePlan plan_routes(const DesiredRoutes& desired, const std::vector<Route>& existing,
                      std::uint32_t table) {
    RoutePlan plan;
    std::set<model::IpPrefix> foreign;
    std::map<model::IpPrefix, const Route*> ours;
    for (const Route& route : existing) {
        if (route.table != table) continue;
        const bool usual = route.metric == default_metric(route.destination);
        if (route.protocol != kRouteProtocol) {
            if (usual) foreign.insert(route.destination);
        } else if (!usual || !desired.contains(route.destination) ||
                   !ours.emplace(route.destination, &route).second) {
            // Not wanted, or a second one to the same prefix.
            plan.remove.push_back(route);
        }
    }
    for (const auto& [prefix, hop] : desired) {
        const auto found = ours.find(prefix);
        if (found != ours.end() && same_hop(*found->second, hop)) continue;
        if (foreign.contains(prefix)) {
            plan.taken.push_back(prefix);
            continue;
        }
        Route route;
        route.destination = prefix;
        route.via = hop.via;
        route.device = hop.device;
        route.onlink = hop.onlink;
        route.source = hop.source;
        route.table = table;
        (found == ours.end() ? plan.add : plan.replace).push_back(std::move(route));
    }
    return plan;
}

Result<RouteOutcome> RouteTable::reconcile(const DesiredRoutes& desired) {
    MESH_TRY(const std::vector<Route> existing, netlink_.routes(table_));
    const RoutePlan plan = plan_routes(desired, existing, table_);
    RouteOutcome outcome;
    const auto note = [&](const Result<void>& result, std::size_t& counter) {
        if (result) {
            ++counter;
        } else {
            outcome.failures.push_back(result.error());
        }
    };
    for (const Route& route : plan.add) note(netlink_.add_route(route), outcome.added);
    for (const Route& route : plan.replace) note(netlink_.replace_route(route), outcome.replaced);
    for (const Route& route : plan.remove) note(netlink_.delete_route(route), outcome.removed);
    for (const model::IpPrefix& prefix : plan.taken) {
        outcome.failures.push_back(Error(
            Errc::kConflict,
            fmt::format("route to {}: another program has a route to it", prefix.to_string())));
    }
    return outcome;
}

}  // namespace mesh::datapath
