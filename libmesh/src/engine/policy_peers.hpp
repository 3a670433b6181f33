// What policies may name, out of the tables of all clusters, into PolicyCompiler: identities,
// names of peers' ports, services; and the blocks of addresses that policies name, which get
// identities that only this node knows. Part of PolicyEngine.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compile/identities/local_identities.hpp"
#include "compile/policy/policy_compiler.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// A protocol of a port by its name, "TCP" and so on; 0: another one.
[[nodiscard]] std::uint8_t protocol_number(std::string_view name) noexcept;
/// The named ports of a pod, as policy takes them.
[[nodiscard]] compile::NamedPorts named_ports(const model::IpIdentityPair& pair);

/// Prefixes with an identity of this node's own, for the ipcache; nullopt: not any more.
using LocalRows = std::map<model::IpPrefix, std::optional<std::uint32_t>>;

/// @thread same object not concurrently
class PolicyPeers {
  public:
    /// @param compiler outlives this object; gets the reserved identities at once
    PolicyPeers(compile::PolicyCompiler& compiler, compile::LocalIdentityOptions options, Rng rng);

    void note(const state::Effect& effect);
    /// A policy came, changed or (nullptr) went.
    void note_policy(const model::policy::Policy* before, const model::policy::Policy* after);
    /// Of a row that an earlier run left in the ipcache. @see LocalIdentities::adopt
    void adopt(const model::IpPrefix& prefix, std::uint32_t id) { local_.adopt(prefix, id); }

    /// Before PolicyCompiler::flush(): takes what came.
    /// @param settled what policies name is known: else their blocks get no identities yet
    void flush(const state::ClusterTables& tables, bool settled);
    /// Identities that came, changed or went since the last call.
    [[nodiscard]] std::set<std::uint32_t> take_touched() { return std::exchange(touched_, {}); }
    /// Since the last call: for the ipcache, once policies know the identities.
    [[nodiscard]] LocalRows take_rows() { return std::exchange(rows_, {}); }
    /// Once the ipcache has no number of them any more: takes what went.
    /// @return whether there was something
    bool flush_removed();

    /// Addresses of DNS names of toFQDNs. @see LocalIdentities::set_addresses
    [[nodiscard]] compile::LocalIdentities& local() noexcept { return local_; }
    [[nodiscard]] const compile::LocalIdentities& local() const noexcept { return local_; }
    [[nodiscard]] bool pending() const noexcept {
        return local_.pending() || !services_due_.empty() || ports_due_;
    }

  private:
    using Name = state::ObjectName;
    void count_ports(const model::IpIdentityPair& pair, bool add);
    void count_services(const model::policy::Policy& policy, bool add);
    void claim_blocks(const model::policy::Policy& policy, bool add);
    void refresh_service(const Name& name, const state::ClusterTables& tables);
    /// Whether addresses of its backends are named by a policy.
    [[nodiscard]] bool is_named(const Name& name) const;
    void claim_backends(const Name& name);

    compile::PolicyCompiler& compiler_;
    compile::LocalIdentities local_;
    LocalRows rows_;
    std::set<std::uint32_t> removed_;  ///< identities to be taken back
    std::set<std::uint32_t> touched_;
    /// How many addresses have a port of that name and protocol, by number.
    std::map<std::pair<std::string, std::uint8_t>, std::map<std::uint16_t, std::size_t>> ports_;
    bool ports_due_ = false;
    std::set<Name> services_due_;
    std::map<Name, std::size_t> named_;  ///< how many policies name a service
    std::size_t by_labels_ = 0;          ///< and how many name services by their labels
    /// Services without a selector.
    std::map<Name, std::vector<model::IpAddress>> backends_;
    std::map<Name, std::vector<model::IpAddress>> claimed_;
};

}  // namespace mesh::engine
