// Turns the services of all clusters into the frontends that the datapath serves: the merger of
// global services (spec services.md §2-§5). Incremental: an effect on the tables marks its service;
// flush() compiles the marked ones and returns the frontends that differ from what was returned
// before. Its result is always that of a merger that sees the same tables for the first time (but
// for slow starts, which are about what was before).
//
// Rules where services.md leaves a choice:
// - Two clusters that list the same backend (address, port, protocol) of a service: the own cluster
//   wins, then the lowest cluster id, then the name. The loser's returns as soon as the winner's
//   goes. This leaves services.md §2, where among the mesh's clusters the last update wins: see
//   ARCHITECTURE.md.
// - Two services with the same frontend (address, port, protocol), as seen for a moment when a
// cluster
//   IP is used again: the one whose namespace/name sorts first is served.
// - internalTrafficPolicy Local keeps only backends of this node, and so no remote ones, as
// Kubernetes
//   says. (Cilium 1.19 lets remote backends pass, whose node it does not know.)
// - externalTrafficPolicy Local: of clients outside of the cluster, only; and likewise.
// - Quarantined backends, those in maintenance and those of weight 0 never get new connections.
//   Terminating ones get them only if no active one is programmed.
//
// Traffic annotations (README.md) may make a service follow the time and the freshness of remotes,
// too. Both are arguments: advance() and note_freshness() mark services as effects do, next_due()
// says when to call again. Services without such annotations are not concerned.
//
// Probes of nodes and backends (MergerOptions::health) are made elsewhere: take_probe_changes()
// says of what, note_host() and note_backend() take what they found.
//
// Used by engine after each batch, and by whoever answers `meshctl service get`.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/health_check.hpp"
#include "model/ip.hpp"
#include "model/types.hpp"
#include "runtime/clock.hpp"
#include "state/tables/changes.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile {

/// With the numbers of IANA.
enum class Protocol : std::uint8_t { kTcp = 6, kUdp = 17, kSctp = 132 };
/// "TCP", "UDP" or "SCTP".
[[nodiscard]] std::string_view to_string(Protocol protocol) noexcept;

struct FrontendKey {
    model::IpAddress address;
    std::uint16_t port = 0;
    Protocol protocol = Protocol::kTcp;
    friend auto operator<=>(const FrontendKey&, const FrontendKey&) = default;
};

/// Why a backend of a frontend is selected, or not. The text is for people.
enum class Reason : std::uint8_t {
    kActive,           ///< selected
    kRemoteFallback,   ///< selected: affinity local, but no active local backend
    kLocalFallback,    ///< selected: affinity remote, but no healthy remote backend
    kLastTerminating,  ///< selected: terminating, and no active backend is left
    kTerminating,      ///< programmed only: finishes the connections it has
    kQuarantined,      ///< programmed only: failed its health checks
    kMaintenance,      ///< programmed only: taken out of service, or weight 0
    kPrefersLocal,     ///< affinity local, and there are active local backends
    kPrefersRemote,    ///< affinity remote, and there are healthy remote backends
    kOtherZone,        ///< zone hints name other zones
    kOtherNode,        ///< internalTrafficPolicy Local, and not on this node
    kShadowed,         ///< another cluster that goes first lists the same address and port
    // By the traffic annotations, which README.md lists:
    kSpillover,      ///< selected: affinity local, and fewer local ones are active than wanted
    kWeightZero,     ///< programmed only: its cluster has weight 0, others have active backends
    kLaterInOrder,   ///< programmed only: a cluster that goes first has active backends
    kNotInOrder,     ///< programmed only: cluster-order does not name its cluster
    kStaleRemote,    ///< programmed only: the remote is stale, and the service fails closed
    kShareTooSmall,  ///< programmed only: nothing of its cluster's share is left for it
    // By probes (health_state.hpp):
    kFailsProbe,       ///< programmed only: fails the service's health check
    kNodeUnreachable,  ///< programmed only: its node does not answer
    kNodeGone,         ///< programmed only: the record of its node is gone
    kAllUnhealthy,     ///< selected: one of the three above, but so are all others
};
/// One sentence, e.g. "affinity local: there are active local backends".
[[nodiscard]] std::string_view to_string(Reason reason) noexcept;

/// A backend of a frontend, selected or not.
struct BackendRow {
    model::IpAddress address;
    std::uint16_t port = 0;
    state::ClusterKey cluster;
    std::uint16_t weight = 1;  ///< among the selected ones of the frontend
    model::BackendState state = model::BackendState::kActive;
    /// Belongs in the datapath's table of the service: its connections go on.
    bool programmed = false;
    /// Gets new connections; only if programmed.
    bool selected = false;
    Reason reason = Reason::kActive;
    bool here = false;  ///< on this node, as far as its node is known
    friend bool operator==(const BackendRow&, const BackendRow&) = default;
};

/// A frontend with its backends: the own cluster's first, then by cluster id and name; within a
/// cluster by address and port.
struct FrontendRow {
    FrontendKey key;
    state::ObjectName service;
    std::string port_name;
    std::uint32_t affinity_seconds = 0;  ///< session affinity by client address; 0 = none
    /// For clients outside of the cluster: a node port, an external or a load balancer's IP.
    bool outside = false;
    bool outside_local = false;     ///< these get backends of this node only
    bool node_port = false;         ///< at this node's own address: other nodes have others
    bool reset_connections = true;  ///< to backends that are gone or unhealthy
    std::vector<BackendRow> backends;
    friend bool operator==(const FrontendRow&, const FrontendRow&) = default;
};

/// The difference to what was returned before; all lists in the order of keys.
struct FrontendChanges {
    std::vector<FrontendRow> upserts;
    std::vector<FrontendKey> removed;
    /// The services compiled, also those of which no frontend differs, or that are gone.
    std::vector<state::ObjectName> services;
    [[nodiscard]] bool empty() const noexcept { return upserts.empty() && removed.empty(); }
};

/// All that `meshctl service get` tells of a service.
struct ServiceExplanation {
    state::ObjectName service;
    bool local = false;  ///< the own cluster has such a service
    bool global = false;
    bool shared = false;
    model::Affinity affinity = model::Affinity::kNone;
    std::vector<FrontendRow> frontends;  ///< in the order of keys
    /// What the frontends cannot show, a sentence each: records without effect and why, backends
    /// that no frontend takes, frontends that another service holds.
    std::vector<std::string> notes;
};

struct MergerOptions {
    state::ClusterKey own;
    /// Name of this node; empty = not on a node: neither internalTrafficPolicy nor the annotations
    /// that bind a service to nodes are used.
    std::string node;
    /// Zone of this node, for as long as its record in the tables does not say it by the label
    /// topology.kubernetes.io/zone; empty = not known.
    std::string zone;
    bool zone_hints = false;  ///< use zone hints if every backend has some and one names our zone
    /// Nodes and backends are probed, and those that fail avoided.
    bool health = false;
    /// Labels of this node; the merger takes them from the node's record in the tables.
    model::StringMap node_labels = {};
    /// Where node ports are served: this node's InternalIPs, which the merger takes from there,
    /// too.
    std::vector<model::IpAddress> node_addresses = {};
};

/// A node, by its InternalIP.
struct HostProbe {
    std::string cluster;
    model::IpAddress address;
    friend auto operator<=>(const HostProbe&, const HostProbe&) = default;
};
/// A backend, as services with such a check have it.
struct BackendProbe {
    model::IpAddress address;
    std::uint16_t port = 0;
    model::HealthCheck check;
    friend auto operator<=>(const BackendProbe&, const BackendProbe&) = default;
};
/// What a probe found.
struct Finding {
    bool healthy = true;
    std::string error;  ///< of the last failure
};
/// What is to be probed from now on, and no longer. Removed comes first: what is in both lists is
/// to begin anew.
struct ProbeChanges {
    std::vector<HostProbe> hosts_removed, hosts_added;
    std::vector<BackendProbe> backends_removed, backends_added;
    [[nodiscard]] bool empty() const noexcept {
        return hosts_removed.empty() && hosts_added.empty() && backends_removed.empty() &&
               backends_added.empty();
    }
};

/// Numbers that only grow; they tell the cost of what was done, without a clock.
struct MergerWork {
    std::uint64_t services_compiled = 0;
    std::uint64_t backends_seen = 0;  ///< candidates weighed, over all frontends compiled
};

/// The merger. Keeps a reference to the tables, which must outlive it, and for each frontend the
/// last row returned, in compact form.
/// @thread same object not concurrently, and not while the tables change
class ServiceMerger {
  public:
    /// Takes this node's labels, and marks all services that the tables hold.
    ServiceMerger(const state::ClusterTables& tables, MergerOptions options);
    ~ServiceMerger();
    ServiceMerger(ServiceMerger&&) noexcept;
    ServiceMerger& operator=(ServiceMerger&&) noexcept;

    /// Marks the service that the effect changes, if the own cluster has it; if the labels of this
    /// node change, the services that are bound to nodes; and if its zone does and zone hints are
    /// used, all services. Give it every effect of the tables; all others are ignored.
    void note(const state::Effect& effect);

    /// The time is `now`; marks the services that change by it. Call it before flush(), with a time
    /// that never goes back; without it slow starts do not move and nothing gets stale.
    void advance(TimePoint now);
    /// When advance() is wanted next, for slow starts and remotes that get stale; nullopt = not
    /// before something else happens.
    [[nodiscard]] std::optional<TimePoint> next_due() const;

    /// How fresh a remote is. Marks the services whose stale-policy makes a difference of it.
    /// @complexity O(services that are marked)
    void note_freshness(const state::ClusterKey& cluster, bool connected,
                        TimePoint last_proof_of_life);
    /// The remote's freshness is not known any longer: it is not stale then.
    void forget_freshness(std::string_view cluster);
    /// Whether some service asks for note_freshness().
    [[nodiscard]] bool wants_freshness() const noexcept;
    /// Whether some remote is stale for some service: it comes back only by note_freshness().
    [[nodiscard]] bool any_closed() const;

    /// The cluster's first list was flushed: what comes from now on may start slowly. Before that
    /// nothing does, as it was in use before this process began.
    void note_synced(const state::ClusterKey& cluster);
    /// No first list is waited for any longer.
    void note_all_synced() noexcept;

    /// What a probe found. Marks the services that have such a node or backend.
    void note_host(const HostProbe& probe, const Finding& finding);
    void note_backend(const BackendProbe& probe, const Finding& finding);
    /// What is to be probed, by what was flushed; nothing without MergerOptions::health.
    [[nodiscard]] ProbeChanges take_probe_changes();
    /// Whether the address is that of some cluster's node; false without MergerOptions::health.
    [[nodiscard]] bool is_node(const model::IpAddress& address) const;

    /// Compiles marked services, in the order of their names.
    /// @param most services to compile in this call, so that the rows of a first sync need not all
    /// be
    ///        in memory at once; call again while pending(). Removals all come with the first call.
    /// @complexity the backends of the services compiled
    [[nodiscard]] FrontendChanges flush(std::size_t most = std::numeric_limits<std::size_t>::max());
    /// Whether there is something to flush.
    [[nodiscard]] bool pending() const noexcept;

    /// Compiles one service for people, as the tables are now; changes nothing.
    [[nodiscard]] ServiceExplanation explain(const state::ObjectName& name) const;
    /// The services that the own cluster has, in order.
    [[nodiscard]] std::vector<state::ObjectName> services() const;

    [[nodiscard]] MergerWork work() const noexcept;
    /// Bytes kept for frontends returned.
    [[nodiscard]] std::size_t bytes() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace mesh::compile
