// One node's state in the middle of the flow: typed batches of clusters in, tables, merger and
// route table, rows out to the datapath. Knows no network and no thread; Mesh drives it, and tests
// drive it with MemoryDatapath.
//
// Invariant: after a successful flush() the datapath holds exactly what the tables compile to, save
// rows that it rejected or truncated (kept in rejected() and truncated()) and what it adopted and
// nobody has confirmed yet.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mesh/error.hpp>
#include <mesh/mesh.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "compile/ipcache/ipcache_compiler.hpp"
#include "compile/routes/route_table.hpp"
#include "compile/services/service_merger.hpp"
#include "datapath/datapath.hpp"
#include "datapath/netlink/route_table.hpp"
#include "datapath/pods.hpp"
#include "engine/resets.hpp"
#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// What a flush changed, for who acts on it.
struct FlushResult {
    bool routes_changed = false;  ///< desired_routes() is another than before
};

struct NodeStateOptions {
    /// Of a node with a pod network, else null; outlives the NodeState.
    datapath::PodDatapath* pods = nullptr;
    bool tunnel = false;            ///< pods of other nodes are reached by encapsulation
    bool service_topology = false;  ///< follow zone hints; the zone is the own node's label
    bool health = false;            ///< nodes and backends are probed
    ResetOptions resets = {};
    /// Told each change of the tables as well; may be empty.
    std::function<void(const state::Effect&)> on_effect{};
    /// Told all that the merger flushes; may be empty.
    std::function<void(const compile::FrontendChanges&)> on_services{};
};

/// @thread same object not concurrently
class NodeState {
  public:
    /// @param own the own cluster; its id is that of this node's configuration
    /// @param datapath outlives this object
    NodeState(state::ClusterKey own, std::string node, std::uint64_t hash_seed,
              datapath::Datapath& datapath, Logger log, NodeStateOptions options = {});

    /// Takes a batch into the tables; nothing reaches the datapath before flush().
    void apply(const state::ClusterBatch& batch);
    /// Forgets a cluster, or the given kinds of it.
    void drain(std::string_view cluster, state::KindSet kinds = state::KindSet::all());

    /// The identity that this node has for a prefix; nullopt: none any more.
    /// @see IpcacheCompiler::note_local
    void note_local(const model::IpPrefix& prefix, std::optional<std::uint32_t> identity);
    /// How fresh a remote is, for services with a stale-policy. @see ServiceMerger::note_freshness
    void note_freshness(const state::ClusterKey& cluster, bool connected,
                        TimePoint last_proof_of_life);
    /// The time is `now`; call it before flush().
    void advance(TimePoint now);
    /// When advance() and flush() are wanted next, whatever else happens; nullopt = not.
    [[nodiscard]] std::optional<TimePoint> next_due() const;

    /// What probes found, and what is to be probed. @see ServiceMerger
    void note_host(const compile::HostProbe& probe, const compile::Finding& finding);
    void note_backend(const compile::BackendProbe& probe, const compile::Finding& finding);
    [[nodiscard]] compile::ProbeChanges take_probe_changes() {
        return merger_.take_probe_changes();
    }

    /// Compiles what changed and writes it: the ways to backends before the backends, and what goes
    /// in the reverse order. After an error the rows are kept and written by the next flush().
    /// @param on_routes called between the two when desired_routes() has new ones, to set them
    /// @errors as Datapath::apply
    [[nodiscard]] Result<FlushResult> flush(const std::function<void()>& on_routes = {});
    /// True if a flush() would have something to do.
    [[nodiscard]] bool dirty() const noexcept { return dirty_; }

    /// The first list of a cluster is complete: what was adopted of it and not confirmed goes, once
    /// the own cluster, which says which services there are, is complete too. Call after flush().
    [[nodiscard]] Result<void> cluster_synced(const state::ClusterKey& cluster);
    /// No source is waited for any longer: everything that nobody confirmed goes.
    [[nodiscard]] Result<void> finish_adopt();
    /// True if backends went since the last call, by whichever of the above: sockets may be
    /// connected to them.
    [[nodiscard]] bool take_backends_removed() noexcept;
    /// Which connections are to be ended, and when, as of the last flush().
    [[nodiscard]] Resets& resets() noexcept { return resets_; }
    [[nodiscard]] const Resets& resets() const noexcept { return resets_; }

    [[nodiscard]] std::vector<ServiceView> services() const;
    [[nodiscard]] std::optional<ServiceView> service(const state::ObjectName& name) const;
    [[nodiscard]] const state::ClusterTables& tables() const noexcept { return tables_; }
    [[nodiscard]] const compile::ServiceMerger& merger() const noexcept { return merger_; }
    [[nodiscard]] const compile::RouteTable& routes() const noexcept { return routes_; }
    /// Null without a pod network.
    [[nodiscard]] const compile::IpcacheCompiler* ipcache() const noexcept {
        return ipcache_ ? &*ipcache_ : nullptr;
    }
    /// Rows of the ipcache that found no room: tried again when others go.
    [[nodiscard]] const std::map<model::IpPrefix, datapath::IpcacheEntry>& ipcache_refused()
        const noexcept {
        return ipcache_refused_;
    }
    /// Likewise, nodes that may send to the tunnel device.
    [[nodiscard]] const std::map<model::IpAddress, datapath::PeerNode>& nodes_refused()
        const noexcept {
        return nodes_refused_;
    }
    /// Native routes to the pod CIDRs of all other nodes.
    [[nodiscard]] const datapath::DesiredRoutes& desired_routes() const noexcept {
        return desired_routes_;
    }
    /// Rows that the datapath refused, by frontend.
    [[nodiscard]] const std::map<datapath::ServiceFrontend, datapath::RejectedRow>& rejected()
        const noexcept {
        return rejected_;
    }
    /// Rows that the datapath took in part, by frontend. They and the above are tried again when
    /// room becomes free.
    [[nodiscard]] const std::map<datapath::ServiceFrontend, datapath::TruncatedRow>& truncated()
        const noexcept {
        return truncated_;
    }

  private:
    void note(const state::Effect& effect);
    [[nodiscard]] Result<datapath::ApplyStats> write(const compile::FrontendChanges& changes);
    [[nodiscard]] Result<datapath::ApplyStats> write_pending();
    [[nodiscard]] Result<void> retry_unfit();
    [[nodiscard]] Result<void> write_services();
    [[nodiscard]] Result<void> write_ipcache();
    [[nodiscard]] Result<void> remove_from_ipcache();
    [[nodiscard]] Result<void> apply_to_ipcache();
    void keep_refused(const datapath::PodsStats& stats);
    [[nodiscard]] Result<void> finish_adopt_cluster(const state::ClusterKey& cluster);
    void note_removed(const datapath::ApplyStats& stats) noexcept;

    state::ClusterKey own_;
    datapath::Datapath& datapath_;
    datapath::PodDatapath* pods_;
    Logger log_;
    std::function<void(const state::Effect&)> on_effect_;
    std::function<void(const compile::FrontendChanges&)> on_services_;
    state::ClusterTables tables_;
    compile::ServiceMerger merger_;
    compile::RouteTable routes_;
    std::optional<compile::IpcacheCompiler> ipcache_;
    datapath::PodsChanges pending_ipcache_;  ///< compiled and not yet accepted
    std::map<model::IpPrefix, datapath::IpcacheEntry> ipcache_refused_;
    std::map<model::IpAddress, datapath::PeerNode> nodes_refused_;
    bool refusal_told_ = false;  ///< that something found no room was logged
    /// Rows that go once no service leads there.
    std::set<model::IpPrefix> leaving_prefixes_, leaving_routes_;
    std::set<model::IpAddress> leaving_nodes_;
    bool new_routes_ = false;
    /// Compiled and not yet accepted by the datapath.
    std::map<datapath::ServiceFrontend, datapath::ServiceChange> pending_;
    std::map<datapath::ServiceFrontend, datapath::RejectedRow> rejected_;
    std::map<datapath::ServiceFrontend, datapath::TruncatedRow> truncated_;
    /// The changes of rejected_ and truncated_.
    std::map<datapath::ServiceFrontend, datapath::ServiceChange> unfit_;
    datapath::ServiceFrontend last_retried_;
    datapath::DesiredRoutes desired_routes_;
    std::set<state::ClusterKey> synced_;
    Resets resets_;
    TimePoint now_{};
    bool backends_removed_ = false;  ///< and take_backends_removed() has not told yet
    bool dirty_ = false;
};

}  // namespace mesh::engine
