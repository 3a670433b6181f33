// meshctl identity list, get.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>

#include "compile/policy/policy_json.hpp"
#include "compile/policy/trace.hpp"
#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/policy_text.hpp"
#include "meshctl/targets.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

/// Identities of one agent: those of clusters are the same on all, local ones are its node's.
Result<json::array> ask_identities(const AgentSocket& agent) {
    MESH_TRY(json::value answer, ask(agent, "/v1/identities"));
    if (!answer.is_array()) return Error(Errc::kCorrupt, "/v1/identities: expected a list");
    json::array all;
    for (json::value& item : answer.get_array()) {
        if (item.is_object()) all.push_back(std::move(item));
    }
    return all;
}

/// True if the identity has all of the labels.
bool has_labels(const json::object& identity, const std::vector<model::Label>& wanted) {
    const json::array& labels = list_of(identity, "labels");
    return std::ranges::all_of(wanted, [&](const model::Label& label) {
        return std::ranges::any_of(labels, [&](const json::value& item) {
            return item.is_string() &&
                   std::string_view(item.get_string()) == compile::label_text(label);
        });
    });
}

std::string fresh_text(const json::object& identity) {
    const json::value* value = identity.if_contains("fresh_seconds");
    if (value == nullptr || !value->is_number()) return {};
    return fmt::format("{:.1f}s", value->to_number<double>());
}

void print_identities(const json::array& identities) {
    Table table({"IDENTITY", "KIND", "CLUSTER", "LAST HEARD OF", "PREFIX", "LABELS"});
    for (const json::value& item : identities) {
        const json::object& one = item.get_object();
        table.add({text_of(one, "id"), text_of(one, "kind"), text_of(one, "cluster"),
                   fresh_text(one), text_of(one, "prefix"), short_labels(list_of(one, "labels"))});
    }
    table.drop_empty_columns();
    table.print();
}

void add_list(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    auto labels = std::make_shared<std::string>();
    auto of = std::make_shared<std::string>();
    CLI::App* command =
        parent.add_subcommand("list", "Identities of all clusters as an agent knows them");
    add_target(command, *target);
    command->add_option("--labels", *labels, "Only those with these labels, app=web,...");
    command->add_option("--of-cluster", *of, "Only those of this cluster");
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl identity list --cluster cluster1 --labels app=web\n"
        "  meshctl identity list --node node1 -o json");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        std::vector<model::Label> wanted;
        if (!labels->empty()) {
            MESH_TRY(const auto parsed, compile::parse_labels(*labels));
            wanted = parsed;
        }
        MESH_TRY(const Agents agents, find_agents(context, *target));
        MESH_TRY(const json::array all, ask_identities(agents.sockets.front()));
        json::array found;
        for (const json::value& item : all) {
            const json::object& one = item.get_object();
            if (!has_labels(one, wanted)) continue;
            if (!of->empty() && text_of(one, "cluster") != *of) continue;
            found.push_back(item);
        }
        if (context.json()) {
            print_json(found);
        } else {
            print_identities(found);
        }
        return {};
    });
}

void add_get(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    auto number = std::make_shared<std::uint32_t>(0);
    CLI::App* command = parent.add_subcommand("get", "One identity, and whose it is");
    add_target(command, *target);
    command->add_option("identity", *number, "Its number")->required();
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl identity get --cluster cluster1 65792");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        json::array found;
        for (const AgentSocket& agent : agents.sockets) {
            MESH_TRY(const json::array all, ask_identities(agent));
            for (const json::value& item : all) {
                json::object one = item.get_object();
                if (integer_of(one, "id") != *number) continue;
                // A local one is another on each node.
                if (text_of(one, "kind") == "local") one["node"] = agent.node;
                if (std::ranges::find(found, json::value(one)) == found.end() &&
                    (found.empty() || text_of(one, "kind") == "local")) {
                    found.push_back(std::move(one));
                }
            }
        }
        if (found.empty()) return not_found(fmt::format("identity {}: no such identity", *number));
        if (context.json()) {
            print_json(found);
        } else {
            print_identities(found);
        }
        return {};
    });
}

}  // namespace

void add_identity_commands(CLI::App& app, Context& context) {
    CLI::App* identity = app.add_subcommand("identity", "Identities of pods and peers");
    identity->require_subcommand(1);
    add_list(*identity, context);
    add_get(*identity, context);
}

}  // namespace mesh::ctl
