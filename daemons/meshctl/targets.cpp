#include "meshctl/targets.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <optional>
#include <thread>

namespace mesh::ctl {
namespace {

constexpr std::chrono::milliseconds kPoll{50};
constexpr std::string_view kProxy = "mesh-proxy";
constexpr const char* kProxySocket = "/run/mesh-proxy/status.sock";  // of the packaged service

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

Result<AgentSocket> find_proxy(Context& context, const Target& target) {
    if (!target.socket.empty()) return AgentSocket{"", target.socket, kProxy};
    std::error_code ignored;
    if (target.cluster.empty() && std::filesystem::exists(kProxySocket, ignored))
        return AgentSocket{"", kProxySocket, kProxy};
    MESH_TRY(const std::string cluster, context.cluster(target.cluster));
    MESH_TRY(const sandbox::State state, sandbox::describe(context.environment(), cluster));
    for (const sandbox::Daemon& daemon : state.daemons)
        if (daemon.name == kProxy) return AgentSocket{daemon.node, daemon.socket, kProxy};
    return not_found(fmt::format("sandbox {} has no mesh-proxy", cluster));
}

std::vector<AgentStatus> ask_all(const Agents& agents) {
    std::vector<AgentStatus> out;
    for (const AgentSocket& agent : agents.sockets) {
        AgentStatus status{agent.node, agent.path, std::nullopt, ""};
        if (auto document = ask(agent, "/v1/status"); !document) {
            status.error = document.error().detail();
        } else if (!document->is_object()) {
            status.error = "its status is no object";
        } else {
            status.status = document->get_object();
            if (status.node.empty()) status.node = text_of(*status.status, "node");
        }
        out.push_back(std::move(status));
    }
    return out;
}

std::vector<AgentStatus> wait_ready(Context& context, const Agents& agents, bool wait,
                                    std::chrono::seconds timeout,
                                    std::vector<std::string>& reasons) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    for (;;) {
        std::vector<AgentStatus> answers = ask_all(agents);
        reasons = not_ready_reasons(answers, agents.expected);
        if (!wait || reasons.empty() || std::chrono::steady_clock::now() >= deadline) {
            return answers;
        }
        context.progress("waiting: " + reasons.front());
        std::this_thread::sleep_for(kPoll);
    }
}

}  // namespace mesh::ctl
