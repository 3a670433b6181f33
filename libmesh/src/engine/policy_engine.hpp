// Network policy on this node: policies of the own cluster, identities of all clusters and this
// node's pods in, rows of the policy datapath out. A change touches what depends on it: an identity
// some rows of the endpoints whose rules select it, a policy the endpoints that it selects.
//
// Fail-safe, in this order of precedence:
// - What an earlier agent enforced goes on until the own cluster is known. Then each endpoint gets
//   its rows anew; those for identities of clusters that are not known yet stay with them until
//   they are (or are waited for no longer).
// - A new endpoint is locked until the own cluster is known. One without a record there is
//   reserved:init as soon as there is a policy at all: only those that select that let something
//   pass.
// - Whatever an etcd does later, its last state counts; an endpoint keeps its last labels.
// - An endpoint whose rows find no room is locked until they do. One whose rules contradict each
//   other keeps its former rows. Others notice neither.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "compile/policy/policy_compiler.hpp"
#include "datapath/policy.hpp"
#include "engine/l7_policy.hpp"
#include "engine/policy_peers.hpp"
#include "engine/policy_rows.hpp"
#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

struct PolicyEngineOptions {
    compile::PolicyOptions compile;
    bool audit = false;           ///< what rules deny passes, and is told; of all endpoints
    bool verdict_events = false;  ///< also for what passes
    std::uint32_t proxy_mark = 0;
    std::uint32_t identity_shift = 16;  ///< bits of an identity below its cluster id
    compile::LocalIdentityOptions local = {};
    /// For proxies. @see L7Policy::IdentityOf
    L7Policy::IdentityOf identity_of = [](const model::IpAddress&) { return 0U; };

    /// Whether any endpoint may be enforced.
    [[nodiscard]] bool enabled() const noexcept;
};

/// A pod of this node, as policy sees it.
struct PolicyPod {
    datapath::EndpointId id = 0;
    bool adopted = false;  ///< what the datapath has under the number is this pod's
    std::string name;      ///< of its file
    std::string namespace_, pod;
    std::vector<model::IpAddress> ips;
    friend bool operator==(const PolicyPod&, const PolicyPod&) = default;
};

/// How it stands with an endpoint's policy.
enum class PolicyState : std::uint8_t {
    kWaiting,   ///< for the own cluster: as a former agent left it, or locked
    kReady,     ///< its rules hold
    kConflict,  ///< its rules contradict each other: the former ones hold, or it is locked
    kOverflow,  ///< more rows than find room: locked
    kFailed,    ///< the datapath refused; it is tried again
};
[[nodiscard]] std::string_view to_string(PolicyState state) noexcept;

struct PolicyEndpointStatus {
    PolicyPod pod;
    PolicyState state = PolicyState::kWaiting;
    std::string why;  ///< if it is not ready
    std::uint32_t identity = 0;
    std::vector<model::Label> labels;
    bool ingress = false, egress = false;  ///< is enforced
    datapath::EndpointEnforcement enforcement = datapath::EndpointEnforcement::kNone;
    std::size_t rows = 0;
    std::size_t held_rows = 0;  ///< of them, of clusters that are not known yet
};

/// A policy that holds, and where it came from.
struct PolicyStatus {
    model::policy::PolicyPtr policy;
    std::string file;
    std::uint32_t document = 0;
    std::uint64_t revision = 0;  ///< of PolicyCounts::revision, when it came
};

struct PolicyCounts {
    std::uint64_t revision = 0;  ///< changes of policies since the start
    std::uint64_t realised = 0;  ///< up to which revision the datapath has them, with their peers
    std::size_t policies = 0, identities = 0, local_identities = 0, selectors = 0, bytes = 0;
    std::size_t endpoints = 0, waiting = 0, locked = 0, conflicts = 0, overflows = 0, failed = 0;
    std::size_t rows = 0;
    std::uint64_t replaced = 0;  ///< times that an endpoint got all its rows
    std::uint64_t changed = 0;   ///< rows changed one by one
    std::uint64_t refused_policies = 0;
    std::uint64_t compiles = 0;
    Duration compile_time{};  ///< of all compiles
    Duration longest_compile{};
};

/// @thread same object not concurrently
class PolicyEngine {
  public:
    /// @param datapath, clock outlive this object
    PolicyEngine(PolicyEngineOptions options, state::ClusterKey own,
                 datapath::PolicyDatapath& datapath, const Clock& clock, Rng rng, Logger log);
    ~PolicyEngine();
    PolicyEngine(const PolicyEngine&) = delete;
    PolicyEngine& operator=(const PolicyEngine&) = delete;

    /// Once, before anything else.
    /// @param open_until_synced this node's pods were there before policies were: they stay as they
    ///   are until the own cluster is known
    /// @errors as PolicyDatapath::configure
    [[nodiscard]] Result<void> start(bool open_until_synced);
    void note(const state::Effect& effect);
    /// The pods that there are now. @param complete nothing else is left to be found out
    void set_pods(const std::vector<PolicyPod>& pods, bool complete);
    /// All of a cluster is known, for the first time.
    void note_synced(const state::ClusterKey& cluster);
    /// No cluster is waited for any longer.
    void finish_adoption();
    /// Where the node's proxies listen. @see ProxyPorts
    void set_proxy(const std::string& parser, model::policy::Direction direction,
                   std::uint16_t port);

    /// Called with each policy that came, changed (before and after) or went; empty: nobody.
    void on_policy(
        std::function<void(const model::policy::Policy* before, const model::policy::Policy* after)>
            callback) {
        on_policy_ = std::move(callback);
    }
    void on_endpoint_gone(std::function<void(datapath::EndpointId)> callback) {
        on_endpoint_gone_ = std::move(callback);
    }

    /// Compiles what changed and writes it: before the ipcache has new identities.
    /// @errors those of the datapath; call again
    [[nodiscard]] Result<void> flush(const state::ClusterTables& tables);
    /// After the ipcache has lost identities that went.
    [[nodiscard]] Result<void> flush_removed();
    /// Rows and ipcache have all that was noted.
    void note_realised() noexcept { counters_.realised = counters_.revision; }
    /// Prefixes whose identity became another since the last call, for the ipcache.
    [[nodiscard]] LocalRows take_local_rows() { return peers_.take_rows(); }
    /// Rows of the ipcache of an earlier run. @see LocalIdentities::adopt
    void adopt_local(const model::IpPrefix& prefix, std::uint32_t id) { peers_.adopt(prefix, id); }

    [[nodiscard]] std::vector<PolicyEndpointStatus> endpoints() const;
    [[nodiscard]] std::optional<PolicyEndpointStatus> endpoint(datapath::EndpointId id) const;
    [[nodiscard]] const std::map<model::policy::PolicyKey, PolicyStatus>& policies() const {
        return policies_;
    }
    [[nodiscard]] PolicyCounts counts() const;
    [[nodiscard]] const compile::PolicyCompiler& compiler() const noexcept { return compiler_; }
    /// For explanations, which leave it as it is.
    [[nodiscard]] compile::PolicyCompiler& compiler() noexcept { return compiler_; }
    [[nodiscard]] const PolicyEngineOptions& options() const noexcept { return options_; }
    [[nodiscard]] const datapath::PolicyDatapath& datapath() const noexcept { return datapath_; }
    [[nodiscard]] bool synced() const noexcept { return synced_; }
    /// For proxies; lives as long as this object.
    [[nodiscard]] const L7Policy& l7() const noexcept { return l7_; }
    [[nodiscard]] PolicyPeers& peers() noexcept { return peers_; }
    [[nodiscard]] const PolicyPeers& peers() const noexcept { return peers_; }

  private:
    struct Endpoint {
        PolicyPod pod;
        PolicyState state = PolicyState::kWaiting;
        std::string why;
        std::uint32_t identity = 0;
        std::vector<model::Label> labels;
        std::shared_ptr<const compile::EndpointPolicy> policy;
        datapath::EndpointEnforcement enforcement = datapath::EndpointEnforcement::kLocked;
        bool compiled = false;  ///< the compiler has it
        bool written = false;   ///< the datapath has rows of its, if only a former agent's
        bool due = false;       ///< all its rows are to be written
        std::size_t rows = 0;
        /// A former agent's rows that are held, by the cluster of their identity.
        std::map<std::uint32_t, std::vector<datapath::PolicyRow>> held;
    };
    using Endpoints = std::map<datapath::EndpointId, Endpoint>;
    using Rows = std::vector<datapath::PolicyRow>;
    struct Replacement {
        Endpoint* endpoint = nullptr;
        datapath::EndpointEnforcement enforcement = datapath::EndpointEnforcement::kNone;
        std::shared_ptr<const Rows> rows;
    };

    void note_policy(const state::Changed<model::PolicyRecord>& change);
    void take_policy(const state::Changed<model::PolicyRecord>& change);
    void mark(const model::IpIdentityPair& pair);
    void forget(Endpoints::iterator at);
    void adopt(bool complete);
    [[nodiscard]] Result<void> remove_gone();
    void evaluate(Endpoint& endpoint, const state::ClusterTables& tables);
    [[nodiscard]] std::vector<compile::PolicyChange> compile();
    [[nodiscard]] Result<void> write(const std::vector<compile::PolicyChange>& changes);
    void note_l7(const std::vector<compile::PolicyChange>& changes);
    [[nodiscard]] Result<void> write_due();
    [[nodiscard]] Result<void> replace(Endpoint& endpoint, std::shared_ptr<const Rows> rows);
    [[nodiscard]] Result<void> write_replacements();
    [[nodiscard]] bool audits(const Endpoint& endpoint) const;
    void note_replaced(const Replacement& done);
    [[nodiscard]] Result<void> change(Endpoint& endpoint,
                                      std::span<const datapath::PolicyRowChange> changes);
    [[nodiscard]] Result<void> lock(Endpoint& endpoint, PolicyState state, std::string why);
    [[nodiscard]] Result<void> fail(Endpoint& endpoint, const Error& error);
    void hold_rows(Endpoint& endpoint, std::span<const datapath::PolicyRow> rows);
    [[nodiscard]] Result<void> release_rows(Endpoint& endpoint);
    [[nodiscard]] std::uint32_t cluster_of(std::uint32_t identity) const;
    [[nodiscard]] PolicyEndpointStatus to_status(const Endpoint& endpoint) const;

    PolicyEngineOptions options_;
    state::ClusterKey own_;
    datapath::PolicyDatapath& datapath_;
    const Clock& clock_;
    Logger log_;
    compile::PolicyCompiler compiler_;
    PolicyPeers peers_;
    ProxyPorts proxies_;
    L7Policy l7_;
    std::function<void(const model::policy::Policy*, const model::policy::Policy*)> on_policy_;
    std::function<void(datapath::EndpointId)> on_endpoint_gone_;
    std::map<model::policy::PolicyKey, PolicyStatus> policies_;
    Endpoints endpoints_;
    std::map<model::IpAddress, datapath::EndpointId> by_address_;
    std::map<std::uint32_t, std::set<datapath::EndpointId>> by_identity_;
    std::set<datapath::EndpointId> to_evaluate_;
    std::set<datapath::EndpointId> to_remove_;
    std::set<std::uint32_t> synced_clusters_;
    bool synced_ = false;  ///< the own cluster is
    bool adoption_done_ = false;
    bool release_due_ = false;  ///< clusters became known since the last flush
    bool enable_due_ = false;
    std::vector<Replacement> replacements_;  ///< not written yet; empty between calls
    PolicyCounts counters_;
};

}  // namespace mesh::engine
