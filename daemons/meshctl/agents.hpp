// What agents say over their status sockets, and what of it adds up to a cluster's view.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::ctl {

/// An agent to ask, or another daemon.
struct AgentSocket {
    std::string node;  ///< "" when only the socket is known
    std::string path;
    std::string_view program = "agent";  ///< for error texts; a literal
};

/// GETs a JSON document from an agent.
/// @param body sent with the request
/// @errors kNotFound: the agent answered 404; kInvalidArgument: 400; kUnavailable: no agent there,
///   or another status; kCorrupt: not JSON
[[nodiscard]] Result<boost::json::value> ask(const AgentSocket& agent, std::string_view target,
                                             std::string_view body = {});
/// A value for a target's query.
[[nodiscard]] std::string query_text(std::string_view value);

/// One agent's /v1/status, or why there is none.
struct AgentStatus {
    std::string node;
    std::string socket;
    std::optional<boost::json::object> status;
    std::string error;
};

/// A member of an object as text, number or flag; a fallback where it is absent or of another type.
[[nodiscard]] std::string text_of(const boost::json::object& object, std::string_view key);
[[nodiscard]] std::int64_t integer_of(const boost::json::object& object, std::string_view key);
[[nodiscard]] bool flag_of(const boost::json::object& object, std::string_view key);
/// Likewise as an object or a list; an empty one where it is absent or of another type.
[[nodiscard]] const boost::json::object& object_of(const boost::json::object& object,
                                                   std::string_view key);
[[nodiscard]] const boost::json::array& list_of(const boost::json::object& object,
                                                std::string_view key);
/// The texts of a list, joined by commas.
[[nodiscard]] std::string joined_texts(const boost::json::array& list);

/// Why a cluster is not ready, one sentence each; empty = ready.
/// @param expected remotes that are configured; an agent that does not show one yet is not ready
[[nodiscard]] std::vector<std::string> not_ready_reasons(const std::vector<AgentStatus>& agents,
                                                         const std::vector<std::string>& expected);

/// What found no room in the tables of the agents' nodes, one sentence for each table and node.
[[nodiscard]] std::vector<std::string> capacity_warnings(const std::vector<AgentStatus>& agents);

/// One service as all agents together see it: a backend is selected if every node selects it.
/// @param by_node the agents' documents, at least one
[[nodiscard]] boost::json::object merge_service(
    const std::vector<std::pair<std::string, boost::json::object>>& by_node);

}  // namespace mesh::ctl
