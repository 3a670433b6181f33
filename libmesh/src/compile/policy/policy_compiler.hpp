// Policies × identities → the entries of each endpoint's policy map. Incremental: an identity
// touches the endpoints whose selectors select it, a policy the endpoints that it selects. What
// comes out depends on what there is now, not on the order in which it came.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compile/policy/endpoint_policy.hpp"
#include "compile/policy/label_index.hpp"
#include "compile/policy/options.hpp"
#include "compile/policy/policy_builder.hpp"
#include "compile/policy/selector_cache.hpp"
#include "model/policy.hpp"

namespace mesh::compile {

/// An endpoint of this node, as policy sees it.
struct PolicyEndpoint {
    std::vector<model::Label> labels;  ///< of its identity, any order
    NamedPorts ports;                  ///< of its containers
};

/// What changed of the policy that some endpoints share.
struct PolicyChange {
    std::vector<std::uint32_t> endpoints;  ///< ascending
    std::shared_ptr<const EndpointPolicy> policy;
    /// New, built again, or another one for these endpoints: all entries count, not `entries`.
    bool replaced = false;
    /// Of identities that came (value) and went (none), in that order of events.
    std::vector<std::pair<PolicyMapKey, std::optional<PolicyMapValue>>> entries;
};

/// What an endpoint's policy is made of, and what came of it; borrowed from the compiler.
struct PolicyOrigin {
    struct Rule {
        model::policy::PolicyPtr policy;
        std::size_t index = 0;  ///< in the policy's rules
        const CachedRule* cached = nullptr;
    };
    std::vector<Rule> rules;                              ///< that select it, in order
    std::array<std::vector<PolicyBuilder::Use>, 2> uses;  ///< by direction
    std::shared_ptr<const EndpointPolicy> policy;
    bool installed = false;  ///< some endpoint has this very policy
    bool is_host = false, is_init = false;
    Enforcement enforcement = Enforcement::kDefault;
    SelectorId host = kAnyPeer;  ///< selects the node's own host
};

/// @thread one thread
class PolicyCompiler {
  public:
    explicit PolicyCompiler(PolicyOptions options);
    ~PolicyCompiler();
    PolicyCompiler(const PolicyCompiler&) = delete;
    PolicyCompiler& operator=(const PolicyCompiler&) = delete;

    /// @complexity O(its selectors + endpoints), then a build of each policy that it touches
    void upsert_policy(const model::policy::PolicyPtr& policy);
    void remove_policy(const model::policy::PolicyKey& key);
    /// Of any cluster; id 0 is ignored. @complexity O(its labels + selectors that match + entries)
    void upsert_identity(const PolicyIdentity& identity);
    void remove_identity(std::uint32_t id);
    void upsert_endpoint(std::uint32_t endpoint, PolicyEndpoint what);
    void remove_endpoint(std::uint32_t endpoint);
    /// Names of ports that peers agree on, for egress.
    void set_peer_ports(NamedPorts ports);
    void upsert_service(const PolicyService& service);
    void remove_service(const std::string& namespace_, const std::string& name);

    /// What changed since the last call; builds what has to be built.
    [[nodiscard]] std::vector<PolicyChange> flush();

    /// As of the last flush(), or nullptr.
    [[nodiscard]] const EndpointPolicy* find(std::uint32_t endpoint) const;
    [[nodiscard]] const SelectorCache& selectors() const noexcept { return cache_; }
    /// The rules of a redirect of which one must let a request of that identity pass; a nullptr in
    /// it lets everything pass.
    [[nodiscard]] std::vector<const model::policy::L7Rules*> l7_rules(
        const PolicyRedirect& redirect, std::uint32_t identity) const;
    /// Calls f with what the policy of such an endpoint is made of, whether or not there is one.
    /// After flush(). Nothing changes. @complexity that of building one policy
    void examine(const PolicyEndpoint& endpoint, const std::function<void(const PolicyOrigin&)>& f);
    [[nodiscard]] const PolicyOptions& options() const noexcept { return options_; }
    [[nodiscard]] const NamedPorts& peer_ports() const noexcept { return peer_ports_; }
    /// By key.
    [[nodiscard]] std::vector<model::policy::PolicyPtr> policies() const;
    /// As it was given, labels sorted.
    [[nodiscard]] std::optional<PolicyEndpoint> endpoint(std::uint32_t endpoint) const;
    /// Calls f(labels, ports, endpoints' ids) for each sort of endpoints: same labels and ports.
    template <class F>
    void each_subject(F&& f) const {
        for (const auto& [key, number] : by_subject_) {
            f(key.first, key.second, shared_[number].endpoints);
        }
    }
    /// True if a rule of the policy selects an endpoint with these labels, sorted.
    [[nodiscard]] bool selects(const model::policy::PolicyKey& policy,
                               const std::vector<model::Label>& labels) const;
    /// Of the heap, about: policies of endpoints and selectors' identities.
    [[nodiscard]] std::size_t bytes() const;

  private:
    using RuleNumber = std::uint32_t;
    using SharedNumber = std::uint32_t;
    using SubjectKey = std::pair<std::vector<model::Label>, NamedPorts>;
    struct RuleRow {
        /// Where it stands among all rules: results follow this order.
        std::pair<model::policy::PolicyKey, std::size_t> place;
        CachedRule cached;
    };
    /// The policy of all endpoints with one SubjectKey.
    struct Shared {
        const SubjectKey* key = nullptr;
        std::shared_ptr<EndpointPolicy> policy;
        std::set<std::uint32_t> endpoints;
        std::set<std::uint32_t> joined;  ///< endpoints to be told everything
        std::vector<SelectorId> acquired;
        bool dirty = false;
        bool uses_peer_ports = false;
        std::vector<std::pair<PolicyMapKey, std::optional<PolicyMapValue>>> pending;
    };

    [[nodiscard]] RuleNumber add_rule(const model::policy::Policy& policy, std::size_t index);
    void drop_rule(RuleNumber number);
    [[nodiscard]] bool selects(const RuleRow& rule, const SubjectKey& subject) const;
    void mark(SharedNumber number);
    void mark_selected(const std::vector<RuleNumber>& rules);
    void leave(std::uint32_t endpoint, SharedNumber number);
    /// The rules that select the subject, in order.
    [[nodiscard]] std::vector<const RuleRow*> selecting(const SubjectKey& subject) const;
    void build(SharedNumber number);
    void register_users(SharedNumber number, bool add);
    void tell(IdentitySlot slot, std::uint32_t id, const std::vector<SelectorId>& matched,
              bool add);

    PolicyOptions options_;
    SelectorCache cache_;
    SelectorId host_;
    DirectionPolicy::Scratch scratch_;

    std::map<model::policy::PolicyKey, std::pair<model::policy::PolicyPtr, std::vector<RuleNumber>>>
        policies_;
    std::vector<std::unique_ptr<RuleRow>> rules_;
    std::vector<RuleNumber> free_rules_;
    LabelIndex rules_by_subject_;  ///< of pods
    std::vector<RuleNumber> node_rules_;

    std::map<SubjectKey, SharedNumber> by_subject_;
    std::vector<Shared> shared_;
    std::vector<SharedNumber> free_shared_;
    std::map<std::uint32_t, SharedNumber> endpoints_;
    /// By selector: shared policies that use it, number * 2 + direction, ascending.
    std::vector<std::vector<std::uint32_t>> users_;
    std::set<SharedNumber> changed_;
    NamedPorts peer_ports_;
    std::vector<SelectorId> matched_;     ///< scratch
    std::vector<std::uint32_t> touched_;  ///< scratch
};

}  // namespace mesh::compile
