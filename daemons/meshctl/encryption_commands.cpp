// meshctl encrypt ...
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <chrono>

#include "meshctl/commands.hpp"
#include "meshctl/targets.hpp"
#include "sandbox/names.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

std::string yes_no(const json::object& of, std::string_view key) {
    return flag_of(of, key) ? "yes" : "no";
}

std::size_t size_of(const json::object& of, std::string_view key) {
    const json::value* list = of.if_contains(key);
    return list != nullptr && list->is_array() ? list->get_array().size() : 0;
}

std::string handshake_text(const json::object& peer, std::int64_t now) {
    const std::int64_t at = integer_of(peer, "last_handshake");
    return at == 0 ? "never" : fmt::format("{} s ago", std::max<std::int64_t>(0, now - at));
}

void add_peers(Table& table, const std::string& node, const json::object& of, std::int64_t now) {
    const json::value* peers = of.if_contains("peers");
    if (peers == nullptr || !peers->is_array()) return;
    for (const json::value& item : peers->get_array()) {
        if (!item.is_object()) continue;
        const json::object& peer = item.get_object();
        table.add({node, fmt::format("{}/{}", text_of(peer, "cluster"), text_of(peer, "node")),
                   text_of(peer, "endpoint"), text_of(peer, "public_key"),
                   handshake_text(peer, now), text_of(peer, "received_bytes"),
                   text_of(peer, "sent_bytes")});
    }
}

void print_remarks(const std::string& node, const json::object& of) {
    if (const json::value* list = of.if_contains("nodes_without_key");
        list != nullptr && list->is_array()) {
        for (const json::value& item : list->get_array()) {
            if (!item.is_object()) continue;
            fmt::print("{}: {}/{} publishes no key: not encrypted\n", node,
                       text_of(item.get_object(), "cluster"), text_of(item.get_object(), "node"));
        }
    }
    for (const char* key : {"conflicts", "skipped"}) {
        const json::value* list = of.if_contains(key);
        if (list == nullptr || !list->is_array()) continue;
        for (const json::value& item : list->get_array()) {
            if (item.is_string()) {
                fmt::print("{}: {}\n", node, std::string_view(item.get_string()));
            }
        }
    }
    if (const std::string error = text_of(of, "error"); !error.empty()) {
        fmt::print("{}: {}\n", node, error);
    }
}

void add_status(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    CLI::App* command = parent.add_subcommand(
        "status", "Each node's device and peers; exit code 3 if a node that encrypts cannot");
    add_target(command, *target);
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl encrypt status --cluster cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        const std::int64_t now = std::chrono::duration_cast<std::chrono::seconds>(
                                     context.clock.wall_now().time_since_epoch())
                                     .count();
        json::array documents;
        Table nodes({"NODE", "ENCRYPTION", "DEVICE", "UP", "STRICT", "KEY", "PUBLISHED", "PEERS",
                     "WITHOUT KEY"});
        Table peers({"NODE", "PEER", "ENDPOINT", "KEY", "HANDSHAKE", "RECEIVED", "SENT"});
        for (const AgentSocket& agent : agents.sockets) {
            MESH_TRY(json::value answer, ask(agent, "/v1/encryption"));
            if (!answer.is_object()) return Error(Errc::kCorrupt, "/v1/encryption: no object");
            json::object& of = answer.get_object();
            of["on"] = agent.node;
            const bool encrypts = text_of(of, "kind") != "none";
            if (encrypts && !(flag_of(of, "up") && flag_of(of, "published"))) {
                context.exit_code = kExitNotReady;
            }
            if (encrypts) {
                nodes.add({agent.node,
                           fmt::format("{} ({})", text_of(of, "kind"), text_of(of, "backend")),
                           text_of(of, "device"), yes_no(of, "up"), yes_no(of, "strict"),
                           text_of(of, "public_key"), yes_no(of, "published"),
                           std::to_string(size_of(of, "peers")),
                           std::to_string(size_of(of, "nodes_without_key"))});
                add_peers(peers, agent.node, of, now);
            } else {
                nodes.add({agent.node, "none", "", "", "", "", "", "", ""});
            }
            documents.push_back(std::move(answer));
        }
        if (context.json()) {
            print_json(documents);
            return {};
        }
        nodes.print();
        if (!peers.empty()) {
            fmt::print("\n");
            peers.print();
        }
        for (const json::value& item : documents) {
            print_remarks(text_of(item.get_object(), "on"), item.get_object());
        }
        return {};
    });
}

void add_rotate(CLI::App& parent, Context& context) {
    auto cluster = std::make_shared<std::string>();
    auto node = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand(
        "rotate-key", "Give a sandbox's nodes new WireGuard keys, without losing a packet");
    command->add_option("--cluster", *cluster, "Name of the sandbox")->type_name("NAME");
    command->add_option("--node", *node, "Only this node (default all, one after the other)");
    add_output_flag(*command, context);
    command->footer(
        "Elsewhere: replace the file of mesh-agent --wireguard-key-file (wg genkey), send the "
        "agent SIGHUP, then\n"
        "  kubectl annotate --overwrite node NODE network.cilium.io/wg-pub-key=$(cat FILE.pub)\n"
        "at once: packets wait for peers to learn the new key, 128 for each peer.\n"
        "Examples:\n  meshctl encrypt rotate-key --cluster cluster1 --node node1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const std::string name, context.cluster(*cluster));
        const sandbox::Environment environment = context.environment();
        MESH_TRY(const sandbox::State state, sandbox::describe(environment, name));
        std::vector<std::string> nodes{*node};
        if (node->empty()) {
            nodes.clear();
            for (std::uint32_t i = 1; i <= state.nodes; ++i) nodes.push_back(sandbox::node_name(i));
        }
        json::array documents;
        for (const std::string& one : nodes) {
            MESH_CHECK(sandbox::rotate_wireguard_key(environment, name, one));
            context.say(fmt::format("{}: {} has a new key", name, one));
            documents.push_back(json::object{{"cluster", name}, {"node", one}});
        }
        context.answer(documents);
        return {};
    });
}

}  // namespace

void add_encryption_commands(CLI::App& app, Context& context) {
    CLI::App* encrypt =
        app.add_subcommand("encrypt", "Encryption of what pods of different nodes say");
    encrypt->require_subcommand(1);
    add_status(*encrypt, context);
    add_rotate(*encrypt, context);
}

}  // namespace mesh::ctl
