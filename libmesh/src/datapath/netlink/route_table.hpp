// The routes that this host should have of ours, made so: a desired set of prefix → next hop is
// diffed against the routes that carry our protocol number. Routes of others are never changed, not
// even when a desired prefix is taken by one.
#pragma once

#include <cstddef>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <vector>

#include "datapath/netlink/rtnetlink.hpp"
#include "model/ip.hpp"

namespace mesh::datapath {

struct NextHop {
    std::optional<model::IpAddress> via;  ///< nullopt = on the link; then `device` is needed
    std::string device;                   ///< "" = where `via` is reached
    bool onlink = false;
    std::optional<model::IpAddress> source{};  ///< which own address packets get; nullopt = any
    friend bool operator==(const NextHop&, const NextHop&) = default;
};
using DesiredRoutes = std::map<model::IpPrefix, NextHop>;

/// What to do, in this order: nothing that stays is ever absent in between.
struct RoutePlan {
    std::vector<Route> add, replace, remove;
    /// Desired, but another program has a route to exactly that prefix.
    std::vector<model::IpPrefix> taken;
};

/// Plain computation.
/// @param existing all routes of the table, of every protocol
/// @complexity O(n log n)
[[nodiscard]] RoutePlan plan_routes(const DesiredRoutes& desired,
                                    const std::vector<Route>& existing, std::uint32_t table = 254);

struct RouteOutcome {
    std::size_t added = 0, replaced = 0, removed = 0;
    /// One sentence per route that could not be set or removed, naming it; try again later.
    std::vector<Error> failures;
};

/// Keeps our routes of one table of one namespace.
/// @thread any thread, the same object not concurrently
class RouteTable {
  public:
    explicit RouteTable(Rtnetlink netlink, std::uint32_t table = 254)
        : netlink_(std::move(netlink)), table_(table) {}

    /// Makes the kernel's routes of ours equal to `desired`. One failing route does not keep the
    /// others from being set. Idempotent.
    /// @errors only when the routes cannot be listed
    [[nodiscard]] Result<RouteOutcome> reconcile(const DesiredRoutes& desired);

  private:
    Rtnetlink netlink_;
    std::uint32_t table_;
};

}  // namespace mesh::datapath
