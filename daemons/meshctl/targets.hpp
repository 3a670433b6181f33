// Whom a command asks: a sandbox's agents, or one agent anywhere.
#pragma once

#include <chrono>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"

namespace mesh::ctl {

struct Target {
    std::string cluster, socket, node;
};

struct Agents {
    std::string cluster;  ///< "" when only a socket was given
    std::vector<AgentSocket> sockets;
    std::vector<std::string> expected;  ///< remotes that the sandbox is connected to
};

/// Adds --cluster, --socket and --node to a command.
void add_target(CLI::App* command, Target& target);
/// @errors kNotFound: no such sandbox, or it has no agent there; kInvalidArgument
[[nodiscard]] Result<Agents> find_agents(Context& context, const Target& target);

/// A mesh-proxy to ask: the socket given, a sandbox's, or that of the machine's service.
/// @errors kNotFound: no such sandbox, or it has no proxy; kInvalidArgument
[[nodiscard]] Result<AgentSocket> find_proxy(Context& context, const Target& target);

/// What each agent says of itself, or why it does not.
[[nodiscard]] std::vector<AgentStatus> ask_all(const Agents& agents);
/// Asks until all are ready or the time is up, if told to wait; else once.
/// @param reasons set to why they are not ready; empty = they are
[[nodiscard]] std::vector<AgentStatus> wait_ready(Context& context, const Agents& agents, bool wait,
                                                  std::chrono::seconds timeout,
                                                  std::vector<std::string>& reasons);

}  // namespace mesh::ctl
