// Network policies from YAML or JSON text: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and
// Kubernetes' NetworkPolicy. What libmesh does not enforce is refused, never left out: a policy
// that is taken means what it says. Users: mesh-operator, mesh-agent, meshctl.
#pragma once

#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/policy.hpp"
#include "model/policy_record.hpp"

namespace mesh::sources::config {

/// Parts of the policy language that somebody must enforce beside the policy map. A document that
/// uses one that is false is refused. HTTP and DNS rules and toFQDNs are always taken.
struct PolicyFeatures {
    bool kafka = false;
    bool generic_l7 = false;      ///< l7proto, l7
    bool server_names = false;    ///< TLS server name indications
    bool listeners = false;       ///< named Envoy listeners
    bool authentication = false;  ///< modes other than "disabled"
    bool nodes = true;            ///< nodeSelector

    [[nodiscard]] static constexpr PolicyFeatures all() noexcept {
        return {true, true, true, true, true, true};
    }
    /// What mesh-agent enforces.
    [[nodiscard]] static constexpr PolicyFeatures enforced() noexcept {
        PolicyFeatures features;
        features.nodes = false;
        return features;
    }
};

/// What a file of policies holds.
struct ParsedPolicies {
    /// Of documents without a mistake, in the file's order.
    std::vector<model::policy::PolicyPtr> policies;
    /// One per bad document: "<file>: document <n>: line <n>: <path>: expected ..., got ...".
    std::vector<std::string> errors;
    /// "<apiVersion> <kind>" of documents that are no policies.
    std::set<std::string> skipped;
    /// Of parse_policy_records() only: `policies` as records, in the same order.
    std::vector<std::shared_ptr<const model::PolicyRecord>> records;
    /// Likewise: which policies the bad documents are; nullopt: it cannot be told.
    std::vector<std::optional<model::policy::PolicyKey>> unread;
};

/// Reads the documents of a file, and Lists of them. A missing namespace is "default".
/// Bounds: those of parse_documents(), and kMaxPolicyText bytes, kMaxPolicyRules specs per
/// document, 40 ports or ICMP types per list (Cilium's bound), kMaxPolicyList of all other lists.
/// @thread any thread @complexity O(size of the text)
/// @source policy.md §1, §2, §5, §7
[[nodiscard]] ParsedPolicies parse_policies(std::string_view text, std::string_view file,
                                            const PolicyFeatures& features = {});

/// Likewise, with the records that go into the cluster's etcd: reading such a record gives the
/// policy again. Documents of other kinds of cilium.io are skipped.
[[nodiscard]] ParsedPolicies parse_policy_records(std::string_view text, std::string_view file,
                                                  const PolicyFeatures& features);

/// The policy of a record, with its lines in the file.
/// @errors kInvalidArgument as parse_policies(), or if the text is not that of the record's key
[[nodiscard]] Result<model::policy::PolicyPtr> read_policy(const model::PolicyRecord& record,
                                                           const PolicyFeatures& features);

/// Whether documents of that kind are for parse_policies(), if only to be refused.
[[nodiscard]] bool is_network_policy(std::string_view kind) noexcept;

inline constexpr std::size_t kMaxPolicyText = std::size_t{32} << 20;
inline constexpr std::size_t kMaxPolicyRules = 1'000;
inline constexpr std::size_t kMaxPolicyList = 5'000;
inline constexpr std::size_t kMaxPolicyPorts = 40;

}  // namespace mesh::sources::config
