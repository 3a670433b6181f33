// The status documents of network policy. Names of JSON fields are an API (documents.hpp).
//
// GET /v1/policy: {"enforcement": "default"|"always"|"never", "audit": bool,
//   "default_local_cluster": bool, "allow_localhost": bool, "synced": bool (the own cluster is
//   known), "revision": n, "realised_revision": n (what the datapath has), "counts": {"policies",
//   "identities", "local_identities", "selectors", "bytes", "endpoints", "waiting", "locked",
//   "conflicts", "overflows", "failed", "rows", "max_rows_per_endpoint"},
//   "policies": [POLICY...] by kind, namespace and name,
//   "errors": [{"endpoint", "state", "error"}...]}
// POLICY: {"kind", "namespace" ("" if clusterwide), "name", "file", "document" (from 1), "line" (of
//   its first spec), "rules": n, "revision"}
// GET /v1/policy/<kind>/<namespace or ->/<name>: POLICY with "policy": the Kubernetes object,
//   "lines": [n...] of its rules and elements (model::lines_of).
// GET /v1/endpoints: of each pod also "number", "labels": ["k8s:app=web"...], "policy": STATE
// STATE: {"state": "waiting"|"ready"|"conflict"|"overflow"|"failed", "error": "", "enforcement":
//   "none"|"rules"|"audit"|"locked", "ingress": bool, "egress": bool (enforced), "rows": n,
//   "held_rows": n (of them, of clusters that are not known yet)}
// GET /v1/endpoints/<id or number>: the same object with "rows_now": [ROW...]
// ROW: {"direction": "ingress"|"egress", "identity": n (0 = any), "labels": [...], "cluster": name
//   or "", "protocol": n (0 = any), "port": n, "last_port": n (0, 65535 = all), "verdict":
//   "allow"|"deny"|"redirect", "proxy_port": n, "precedence": n (low byte), "parser": ""}
// GET /v1/identities: [{"id", "labels": [...], "kind": "reserved"|"cluster"|"local", "cluster":
//   name or "", "prefix": "" or the block of a local one, "fresh_seconds": seconds since its
//   cluster's etcd was last heard, or null}...] by kind and number
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <optional>
#include <span>
#include <string_view>

#include "engine/pod_network.hpp"
#include "engine/policy_engine.hpp"
#include "state/clusters/session.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

[[nodiscard]] std::string_view to_string(datapath::EndpointEnforcement enforcement) noexcept;

[[nodiscard]] boost::json::object policy_document(const PolicyEngine& policy);
/// @param path "<kind>/<namespace or ->/<name>"
[[nodiscard]] std::optional<boost::json::object> one_policy_document(
    const PolicyEngine& policy, const state::ClusterTables& tables, std::string_view path);
/// One of GET /v1/endpoints, with policy.
[[nodiscard]] boost::json::object endpoint_document(const EndpointStatus& endpoint,
                                                    const PolicyEngine& policy);
/// ROWs of an endpoint, as the datapath has them.
[[nodiscard]] boost::json::array rows_document(const PolicyEngine& policy,
                                               const state::ClusterTables& tables,
                                               std::uint16_t number);
/// @param clusters how fresh each is
[[nodiscard]] boost::json::array identities_document(
    const PolicyEngine& policy, const state::ClusterTables& tables,
    std::span<const state::SessionStatus> clusters);

}  // namespace mesh::engine
