// A network policy in its cluster's own etcd, as the cluster's agents read it: the document that
// somebody wrote, as JSON, and where it stood. Own keys, below mesh/local/: no proxy serves them to
// a remote.
#pragma once

#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/keys.hpp"
#include "model/policy.hpp"

namespace mesh::model {

/// key mesh/local/policies/v1/<kind>/<namespace, or - if clusterwide>/<name>.
struct PolicyRecord {
    policy::PolicyKey key;
    std::string file;            ///< that it was read from; shown, not opened
    std::uint32_t document = 0;  ///< in the file, from 1
    /// In the file, of all that has a line, in the order of lines_of(); empty: those of `text`.
    std::vector<std::uint32_t> lines;
    std::string text;  ///< the policy as a JSON object, in one line
    friend bool operator==(const PolicyRecord&, const PolicyRecord&) = default;
};

/// One change of a cluster's policies: the new value, or null when the policy is gone.
struct PolicyRecordChange {
    policy::PolicyKey key;
    std::shared_ptr<const PolicyRecord> record;
};

/// Policies that are meant to be there, but whose documents have not been good yet.
struct UnreadPolicies {
    bool unknown = false;  ///< others than those named, too: some documents do not tell their names
    std::set<policy::PolicyKey> keys;
    [[nodiscard]] bool contains(const policy::PolicyKey& key) const {
        return unknown || keys.contains(key);
    }
    [[nodiscard]] bool empty() const noexcept { return !unknown && keys.empty(); }
};

[[nodiscard]] std::string local_policy_key(const policy::PolicyKey& key);
/// What a key of kind kLocalPolicy names; nothing if the kind is unknown, or a namespace is there
/// or lacks against the kind.
[[nodiscard]] std::optional<policy::PolicyKey> policy_key_of(const ParsedKey& key);

/// Our own format: {"file", "document", "lines": [..], "policy": {..}}.
/// @param key names the policy and errors
/// @errors kInvalidArgument with key, field and what was expected; the policy itself is checked for
///         its syntax only (sources/config/policy_records.hpp reads it)
[[nodiscard]] Result<PolicyRecord> parse_policy_record(std::string_view key,
                                                       std::string_view value);
[[nodiscard]] std::string encode(const PolicyRecord& record);

/// Lines of a policy's rules and their elements: of each rule its own, then those of its elements:
/// ingress, ingressDeny, egress, egressDeny.
[[nodiscard]] std::vector<std::uint32_t> lines_of(const policy::Policy& policy);
/// @return false, and nothing is set, if these are not as many as the policy has
[[nodiscard]] bool set_lines(policy::Policy& policy, const std::vector<std::uint32_t>& lines);

}  // namespace mesh::model
