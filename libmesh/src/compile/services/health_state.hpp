// What is known of the health of nodes and backends, and what is to be probed: which nodes have
// backends of which services, verdicts of probes, nodes whose records went. Without I/O and without
// a clock. Incremental: a verdict marks the services that have the node or backend, and looks at no
// others. Used by service_merger.cpp and explanation.cpp; engine does the probing.
//
// No remote chooses what we probe: a backend is probed only at an address that is a pod's or node's
// of the cluster that lists it, as far as clusters that go first do not have it; a node only at its
// InternalIP, under the same rule.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "model/health_check.hpp"
#include "model/types.hpp"
#include "runtime/clock.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile {

class HealthState {
  public:
    /// Services that are to be compiled again.
    using Marks = std::set<state::ObjectName>;

    /// Takes the nodes that the tables hold.
    /// @param node of this process, which is not probed
    HealthState(const state::ClusterTables& tables, std::string own_cluster, std::string node);

    /// Takes changes of nodes and ips; others are ignored.
    void note(const state::Effect& effect, Marks& marks);
    /// @complexity O(services that have a backend there)
    void note_host(const HostProbe& probe, const Finding& finding, Marks& marks);
    void note_backend(const BackendProbe& probe, const Finding& finding, Marks& marks);

    /// Why a backend should get no new connections; nullopt = nothing is known against it.
    /// @param check of its service, or null
    [[nodiscard]] std::optional<Reason> verdict(std::string_view cluster,
                                                const model::IpAddress& address, std::uint16_t port,
                                                Protocol protocol,
                                                const model::HealthCheck* check) const;

    /// The service was compiled to these rows.
    /// @complexity O(n log n) for n backends
    void settle(const state::ObjectName& name, const model::HealthCheck* check,
                const std::vector<FrontendRow>& rows);
    void forget(const state::ObjectName& name);

    /// What is to be probed from now on, and no longer.
    [[nodiscard]] ProbeChanges take_changes();

    /// What of all this concerns the service, a sentence each.
    [[nodiscard]] std::vector<std::string> notes(const model::HealthCheck* check,
                                                 const std::vector<FrontendRow>& rows) const;

    /// Whether the address is that of a node.
    [[nodiscard]] bool is_node(const model::IpAddress& address) const;

  private:
    struct Host {
        std::set<std::string> nodes;  ///< whose records have this InternalIP
        std::unordered_set<const state::ObjectName*> services;  ///< with backends there
        Finding finding;
        bool lost = false;    ///< its record went while services had backends there
        bool probed = false;  ///< told by take_changes(), or about to be
        [[nodiscard]] bool bad() const noexcept { return lost || !finding.healthy; }
    };
    struct Backend {
        std::set<state::ObjectName> services;
        Finding finding;
    };
    struct Placed {
        std::vector<const HostProbe*> hosts;  ///< sorted
        std::vector<BackendProbe> probes;     ///< sorted
        std::vector<model::IpAddress> unplaced;
    };
    using Hosts = std::map<HostProbe, Host>;

    void note_node(const std::string& cluster, const model::Node* before, const model::Node* after,
                   Marks& marks);
    void note_ip(const std::string& cluster, const model::IpIdentityPair* before,
                 const model::IpIdentityPair* after, Marks& marks);
    void add_node(const HostProbe& host, const std::string& node, Marks& marks);
    void remove_node(const HostProbe& host, const std::string& node, Marks& marks);
    void set_bad(Host& host, bool was_bad, Marks& marks);
    void review(const model::IpAddress& address);
    void review(Hosts::iterator host);
    [[nodiscard]] bool is_own_node(const HostProbe& host, const Host& held) const;
    [[nodiscard]] bool goes_first(std::string_view cluster, const model::IpAddress& address) const;
    [[nodiscard]] bool is_trusted(std::string_view cluster, const model::IpAddress& address) const;
    [[nodiscard]] std::optional<model::IpAddress> host_of(const std::string& cluster,
                                                          const model::IpAddress& address) const;
    void place(const state::ObjectName* name, Placed& placed, std::vector<const HostProbe*> hosts);
    void set_probes(const state::ObjectName& name, Placed& placed,
                    std::vector<BackendProbe> probes);
    void set_unplaced(const state::ObjectName& name, Placed& placed,
                      std::vector<model::IpAddress> addresses);

    const state::ClusterTables& tables_;
    std::string own_;
    std::string node_;
    Hosts hosts_;
    std::map<model::IpAddress, std::set<std::string, std::less<>>> node_addresses_;  ///< → clusters
    std::size_t bad_hosts_ = 0;
    std::map<BackendProbe, Backend> backends_;
    std::size_t bad_backends_ = 0;
    std::map<state::ObjectName, Placed> services_;
    /// Backends whose node was not known when their services were compiled.
    std::map<model::IpAddress, std::set<state::ObjectName>> unplaced_;
    ProbeChanges changes_;
    Marks late_marks_;  ///< by review(), until the next note()
};

}  // namespace mesh::compile
