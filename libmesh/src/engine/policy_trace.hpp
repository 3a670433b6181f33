// What a running agent answers to "why does this packet pass or not?" and "what would other
// policies change?": the ends of the packet out of the tables of all clusters, with who told of
// them and how fresh that is; the verdicts by compile/policy.
//
// GET /v1/policy/trace?src=&dst=&dport=[&http=][&headers=, a line each][&dns=]: as
//   compile::to_json(Trace), and of each direction whose endpoint is on this node "endpoint":
//   {"state", "enforcement", "error"} (policy_document.hpp)
// GET /v1/policy/diff with body {"policies": [{"key", "value"}...] as in the cluster's etcd,
//   "prune": bool}: as compile::to_json(PolicyDiff), and of each sort of endpoints "pods":
//   ["namespace/pod"...]
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <mesh/mesh.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compile/policy/trace.hpp"
#include "engine/policy_engine.hpp"
#include "state/clusters/session.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// All that an end of a packet is looked up in; borrowed for the call.
struct TraceSources {
    PolicyEngine& policy;  ///< as it was; not const, since its compiler lends selectors
    const state::ClusterTables& tables;
    std::span<const state::SessionStatus> clusters;
    std::string_view own_node;
};

/// @errors kInvalidArgument names what cannot be understood, or several that are meant; kNotFound:
///   no such pod or identity
/// @complexity O(ips of all clusters) for a pod of another node by its name, O(identities) for
///   labels; then as compile::trace()
[[nodiscard]] Result<compile::Trace> trace_packet(const TraceSources& sources,
                                                  const PolicyTraceQuery& query);
/// The same as a document. @errors, @complexity as above
[[nodiscard]] Result<boost::json::object> trace_document(const TraceSources& sources,
                                                         const PolicyTraceQuery& query);

/// Names of the compiler's endpoints.
using EndpointNames = std::map<std::uint32_t, std::string>;
[[nodiscard]] EndpointNames endpoint_names(const PolicyEngine& policy);

/// @param prune policies that are not among these would go
/// @complexity as compile::diff()
[[nodiscard]] boost::json::object diff_document(
    PolicyEngine& policy, const EndpointNames& names,
    const std::vector<model::policy::PolicyPtr>& policies, bool prune);
/// @param request the body of GET /v1/policy/diff
/// @errors kInvalidArgument
[[nodiscard]] Result<boost::json::object> diff_document(PolicyEngine& policy,
                                                        std::string_view request);
/// @param documents YAML or JSON text of policies
/// @errors kInvalidArgument tells all mistakes, a line each
[[nodiscard]] Result<std::vector<model::policy::PolicyPtr>> read_policy_text(
    std::string_view documents);

}  // namespace mesh::engine
