#include "meshctl/targets.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

namespace mesh::ctl {
namespace {

std::vector<std::string> connected_remotes(const sandbox::Paths& paths) {
    std::vector<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator it(paths.clustermesh(), error), end;
         !error && it != end; it.increment(error)) {
        const std::string name = it->path().filename().string();
        // Certificates have a dot in their name, cluster names have none.
        if (name.find('.') == std::string::npos) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace

void add_target(CLI::App* command, Target& target) {
    auto* cluster = command->add_option("--cluster", target.cluster, "Name of the sandbox");
    command->add_option("--socket", target.socket, "Status socket of one agent, without a sandbox")
        ->excludes(cluster);
    command->add_option("--node", target.node, "Ask this node's agent only");
}

Result<Agents> find_agents(Context& context, const Target& target) {
    Agents agents;
    if (!target.socket.empty()) {
        agents.sockets.push_back({target.node, target.socket});
        return agents;
    }
    MESH_TRY(agents.cluster, context.cluster(target.cluster));
    const sandbox::Environment environment = context.environment();
    MESH_TRY(const sandbox::State state, sandbox::describe(environment, agents.cluster));
    for (const sandbox::Daemon& daemon : state.daemons) {
        if (daemon.name == "mesh-agent" && (target.node.empty() || daemon.node == target.node)) {
            agents.sockets.push_back({daemon.node, daemon.socket});
        }
    }
    if (agents.sockets.empty()) {
        return not_found(fmt::format("sandbox {} has no agent{}", agents.cluster,
                                     target.node.empty() ? "" : " on " + target.node));
    }
    agents.expected = connected_remotes(environment.paths(agents.cluster));
    return agents;
}

}  // namespace mesh::ctl
