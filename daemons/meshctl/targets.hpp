// Whom a command asks: a sandbox's agents, or one agent anywhere.
#pragma once

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

}  // namespace mesh::ctl
