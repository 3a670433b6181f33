// Turns the nodes of all clusters into the native routes that this node wants: pod CIDR → node
// address. Incremental: an effect on the tables marks the prefixes of its node; flush() returns the
// routes that differ from what was returned before.
//
// Two nodes that announce the same or overlapping prefixes are a conflict. The order of preference
// is: the own cluster, then the lowest cluster id, then the cluster's name, then the node's name.
// - Equal prefixes: the preferred node gets the route.
// - A prefix within one of a preferred cluster gets no route, as the more specific route would take
//   that cluster's traffic. Within one cluster that is the cluster's own matter.
// - A prefix that holds one of a preferred cluster gets its route, as the more specific one wins in
//   the kernel; the conflict is reported nevertheless.
// A remote's prefix that cannot have a route, see skipped(), takes no part in this.
// The rule looks at what is announced now, not at what came last or who holds the route, so that no
// order of arrival and no repetition makes it flap.
//
// Used by engine after each batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/ip.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile {

/// A node of a cluster.
struct NodeKey {
    state::ClusterKey cluster;
    std::string name;
    friend auto operator<=>(const NodeKey&, const NodeKey&) = default;
};

/// Packets to the prefix go to that node's address, of the same family unless any_underlay.
struct Route {
    model::IpPrefix prefix;
    model::IpAddress gateway;
    NodeKey node;
    friend bool operator==(const Route&, const Route&) = default;
};

/// A prefix that a node announces.
struct Announcement {
    model::IpPrefix prefix;
    const NodeKey* node = nullptr;  ///< lives until the table's next note()
};

/// The difference to what was returned before; both in the order of prefixes.
struct RouteChanges {
    std::vector<Route> upserts;
    std::vector<model::IpPrefix> removed;
    [[nodiscard]] bool empty() const noexcept { return upserts.empty() && removed.empty(); }
};

/// Two announcements that overlap.
struct RouteConflict {
    model::IpPrefix prefix;  ///< of the loser
    NodeKey loser;
    model::IpPrefix other_prefix;
    NodeKey winner;
    std::string text;  ///< one sentence that names all four
    friend bool operator==(const RouteConflict&, const RouteConflict&) = default;
};

struct RouteOptions {
    std::string own_cluster;
    std::string own_node;  ///< gets no routes; its prefixes are local
    /// The gateway may be of the other family, as when packets are encapsulated: IPv4 if the node
    /// has such an address, for all of its prefixes.
    bool any_underlay = false;
};

/// The desired native routes.
/// @thread same object not concurrently
class RouteTable {
  public:
    explicit RouteTable(RouteOptions options);
    ~RouteTable();
    RouteTable(RouteTable&&) noexcept;
    RouteTable& operator=(RouteTable&&) noexcept;

    /// Takes a node's change; kinds other than nodes are ignored.
    void note(const state::Effect& effect);
    /// The routes that changed since the last call.
    /// @complexity the prefixes of the changed nodes, and those that overlap them
    [[nodiscard]] RouteChanges flush();
    /// The shortest announced prefix that holds or equals `prefix`, belongs to a cluster that goes
    /// before `cluster`, and takes part: nothing of `cluster` within it gets any traffic. Looks at
    /// what was noted, flushed or not.
    ///
    /// The answer changes only for prefixes within those of RouteChanges and within those of the
    /// own cluster's nodes: any other announced prefix that takes part and has no route lies within
    /// one that goes before it, which blocks whatever it would.
    /// @complexity prefix lengths in use × O(log n)
    [[nodiscard]] std::optional<Announcement> find_preferred_around(
        const state::ClusterKey& cluster, const model::IpPrefix& prefix) const;
    /// The overlaps there are now, in the order of the losers' prefixes and names.
    [[nodiscard]] std::vector<RouteConflict> conflicts() const;
    /// Pod CIDRs that cannot have a route whatever others announce, a sentence each: the node has
    /// no usable address of the family, or the prefix overlaps what is never routed (loopback,
    /// multicast, link-local), holds the node's own address, holds the address of a node of the own
    /// cluster or of one that goes before the node's, or is a remote's and shorter than /8 (IPv4)
    /// or /16 (IPv6).
    [[nodiscard]] std::vector<std::string> skipped() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mesh::compile
