// Explanations and differences as JSON documents: of GET /v1/policy/trace, of the library's calls
// and of meshctl's -o json. The names of fields are an API.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "compile/policy/policy_diff.hpp"
#include "compile/policy/trace.hpp"

namespace mesh::compile {

/// "k8s:app=web"; "reserved:host" of a label without a value.
[[nodiscard]] std::string label_text(const model::Label& label);
[[nodiscard]] boost::json::array labels_json(const std::vector<model::Label>& labels);

/// {"verdict", "source", "destination", "protocol", "port", "http", "dns", "egress", "ingress"}.
[[nodiscard]] boost::json::object to_json(const Trace& trace);
/// {"verdict", "allowed", "enforced", "decided", "lost", "l7", ...}.
[[nodiscard]] boost::json::object to_json(const Explanation& explanation);

/// {"differences": [{"direction", "endpoints", "peers", "changes"}], "conflicts"}. Of many peers
/// the labels that all of them have and the first numbers; of those outside of clusters the first
/// blocks of addresses and DNS names.
/// @param identities of the compiler that was compared
[[nodiscard]] boost::json::object to_json(const PolicyDiff& diff, const SelectorCache& identities);

/// Identities that are named one by one in a difference.
inline constexpr std::size_t kMaxNamedPeers = 16;

}  // namespace mesh::compile
