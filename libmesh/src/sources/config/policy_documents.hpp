// Network policies from YAML or JSON text: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and
// Kubernetes' NetworkPolicy. What libmesh does not enforce is refused, never left out: a policy
// that is taken means what it says. Users: mesh-agent, meshctl.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/policy.hpp"

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
};

/// What a file of policies holds.
struct ParsedPolicies {
    /// Of documents without a mistake, in the file's order.
    std::vector<model::policy::PolicyPtr> policies;
    /// One per bad document: "<file>: document <n>: line <n>: <path>: expected ..., got ...".
    std::vector<std::string> errors;
    /// "<apiVersion> <kind>" of documents that are no policies.
    std::set<std::string> skipped;
};

/// Reads the documents of a file, and Lists of them. A missing namespace is "default".
/// Bounds: those of parse_documents(), and kMaxPolicyText bytes, kMaxPolicyRules specs per
/// document, 40 ports or ICMP types per list (Cilium's bound), kMaxPolicyList of all other lists.
/// @thread any thread @complexity O(size of the text)
/// @source policy.md §1, §2, §5, §7
[[nodiscard]] ParsedPolicies parse_policies(std::string_view text, std::string_view file,
                                            const PolicyFeatures& features = {});

inline constexpr std::size_t kMaxPolicyText = std::size_t{32} << 20;
inline constexpr std::size_t kMaxPolicyRules = 1'000;
inline constexpr std::size_t kMaxPolicyList = 5'000;
inline constexpr std::size_t kMaxPolicyPorts = 40;

}  // namespace mesh::sources::config
