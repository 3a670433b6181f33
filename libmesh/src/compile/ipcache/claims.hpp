// Who claims which prefix, over all clusters, and whose claim goes first: the input side of
// IpcacheCompiler. Knows the rules of precedence, and which prefixes a change may concern; it marks
// those in `dirty`.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compile/ipcache/ipcache_compiler.hpp"
#include "compile/ipcache/node_claims.hpp"
#include "compile/ipcache/prefix_set.hpp"
#include "compile/routes/route_table.hpp"
#include "model/ip.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile {

/// The order of preference: that of ClusterTables::clusters().
struct ByPreference {
    std::string own_cluster;
    bool operator()(const state::ClusterKey& a, const state::ClusterKey& b) const;
};

/// What one cluster claims.
struct ClusterClaims {
    PrefixSet announced;  ///< ips
    PrefixSet returned;   ///< prefixes whose row is that of this cluster's ip
    PrefixSet changed;    ///< those of announced whose row is not as it was returned
    std::array<std::map<model::IpAddress, std::vector<NodeClaim>>, 2> nodes;  ///< by family
    std::array<std::multiset<model::IpAddress>, 2> underlay;  ///< InternalIPs and ExternalIPs

    [[nodiscard]] bool empty() const noexcept;
};

/// A claim of one prefix.
struct Claim {
    const state::ClusterKey* cluster = nullptr;
    ClusterClaims* of = nullptr;
    IpcacheSource source = IpcacheSource::kIp;
    const NodeClaim* node = nullptr;  ///< of kNode
    const Route* route = nullptr;     ///< of kCidr
    bool suppressed = false;          ///< gets no row whoever else claims the prefix
};

/// @thread same object not concurrently
class Claims {
  public:
    Claims(const state::ClusterTables& tables, const RouteTable& routes, IpcacheOptions options);

    void note(const state::ClusterKey& cluster, const state::Changed<model::Node>& change);
    void note(const state::ClusterKey& cluster,
              const state::Changed<model::IpIdentityPair>& change);
    void note(const RouteChanges& changes);

    /// The claims of a prefix, in the order of preference, valid until the next call or change.
    [[nodiscard]] const std::vector<Claim>& of(const model::IpPrefix& prefix);
    /// Why a claim is suppressed, e.g. "it lies within 10.1.0.0/24 of ape/n1, which goes first".
    [[nodiscard]] std::string reason(const Claim& claim, const model::IpPrefix& prefix) const;
    [[nodiscard]] bool is_own_address(const model::IpAddress& address) const {
        return own_addresses_.contains(address);
    }
    [[nodiscard]] bool is_own(const state::ClusterKey& cluster) const {
        return cluster.name == options_.own_cluster;
    }

    [[nodiscard]] PrefixSet& dirty() noexcept { return dirty_; }
    [[nodiscard]] const PrefixSet& dirty() const noexcept { return dirty_; }
    /// Of which cluster's ip the row was returned.
    [[nodiscard]] ClusterClaims* holder(const model::IpPrefix& prefix);
    /// Forgets clusters that claim nothing and have no rows.
    void forget_empty();
    [[nodiscard]] std::size_t bytes() const noexcept;

  private:
    using Clusters = std::map<state::ClusterKey, ClusterClaims, ByPreference>;

    [[nodiscard]] ClusterClaims& cluster(const state::ClusterKey& key) { return clusters_[key]; }
    void replace_claims(const state::ClusterKey& key, const model::Node* before,
                        const model::Node* after);
    void move_own_addresses(const model::Node* after);
    void mark_within(const model::IpPrefix& prefix, const state::ClusterKey& first);
    void mark_around(const model::IpAddress& address, const state::ClusterKey& first);
    [[nodiscard]] bool is_suppressed(const state::ClusterKey& key, const model::IpPrefix& p) const;
    /// The cluster that goes before `key` and has a node whose address the prefix holds.
    struct HeldAddress {
        const state::ClusterKey* cluster = nullptr;
        model::IpAddress address;
    };
    [[nodiscard]] std::optional<HeldAddress> held_address(const state::ClusterKey& key,
                                                          const model::IpPrefix& prefix) const;

    const state::ClusterTables* tables_;
    const RouteTable* routes_;
    IpcacheOptions options_;
    Clusters clusters_;
    std::map<model::IpPrefix, Route> cidrs_;  ///< that have a route
    std::set<model::IpAddress> own_addresses_;
    PrefixSet dirty_;
    std::vector<Claim> found_;
};

}  // namespace mesh::compile
