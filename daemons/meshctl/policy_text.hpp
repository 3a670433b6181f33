// The documents of `policy trace` and `policy diff` as text to read.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <string>
#include <utility>
#include <vector>

namespace mesh::ctl {

/// @param trace as compile::to_json(Trace) makes it, or an agent's /v1/policy/trace
[[nodiscard]] std::string trace_text(const boost::json::object& trace);

/// @param diff as compile::to_json(PolicyDiff) makes it; "pods" of endpoints are named if they are
///   there, else their labels
[[nodiscard]] std::string diff_text(const boost::json::object& diff);

/// Of a label list: without the sources that go without saying.
[[nodiscard]] std::string short_labels(const boost::json::array& labels);

/// Diffs of several nodes as one: what changes alike is told once, for the endpoints of all.
[[nodiscard]] boost::json::object merge_diffs(
    const std::vector<std::pair<std::string, boost::json::object>>& by_node);

}  // namespace mesh::ctl
