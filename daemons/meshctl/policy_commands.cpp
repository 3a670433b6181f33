// meshctl policy validate, get, and the rest by policy_trace.cpp, policy_diff.cpp,
// policy_store.cpp.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>

#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/policy_command.hpp"
#include "meshctl/policy_files.hpp"
#include "meshctl/targets.hpp"
#include "meshctl/yaml_text.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

// --- validate ---------------------------------------------------------------------------------

void print_validation(const PolicyFiles& files) {
    for (const auto& policy : files.policies) {
        fmt::print("valid    {} ({})\n", policy->key.to_string(), policy->source);
    }
    for (const std::string& kind : files.skipped) fmt::print("skipped  {}\n", kind);
    for (const std::string& error : files.errors) fmt::print("invalid  {}\n", error);
}

void add_validate(CLI::App& parent, Context& context) {
    auto paths = std::make_shared<std::vector<std::string>>();
    CLI::App* command = parent.add_subcommand(
        "validate", "Check policies as agents read them; needs no cluster. Exit code 1: not good");
    add_files(*command, *paths)->required();
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl policy validate -f policies/\n"
        "  kubectl get cnp -A -o json | meshctl policy validate -f -");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const auto inputs, read_inputs(*paths));
        const PolicyFiles files = parse_policy_files(inputs);
        if (context.json()) {
            print_json(validation_document(files));
        } else {
            print_validation(files);
        }
        if (!files.errors.empty()) context.exit_code = kExitFailed;
        if (files.errors.empty() && files.policies.empty()) {
            return not_found("no network policy in what was given");
        }
        return {};
    });
}

// --- get --------------------------------------------------------------------------------------

std::string full_name(const json::object& policy) {
    const std::string space = text_of(policy, "namespace");
    return fmt::format("{}/{}/{}", text_of(policy, "kind"), space.empty() ? "-" : space,
                       text_of(policy, "name"));
}

/// "name", "namespace/name" or "kind/namespace/name".
bool is_named(const json::object& policy, const std::string& wanted) {
    const std::string full = full_name(policy);
    return full == wanted || full.ends_with("/" + wanted);
}

Result<json::array> listed_policies(const AgentSocket& agent) {
    MESH_TRY(json::value answer, ask(agent, "/v1/policy"));
    if (!answer.is_object()) return Error(Errc::kCorrupt, "/v1/policy: expected an object");
    return list_of(answer.get_object(), "policies");
}

void print_list(const json::array& policies) {
    Table table({"KIND", "NAMESPACE", "NAME", "RULES", "FILE", "LINE"});
    for (const json::value& item : policies) {
        if (!item.is_object()) continue;
        const json::object& one = item.get_object();
        table.add({text_of(one, "kind"), text_of(one, "namespace"), text_of(one, "name"),
                   text_of(one, "rules"), text_of(one, "file"), text_of(one, "line")});
    }
    table.print();
}

Result<json::value> fetch_one(const AgentSocket& agent, const json::array& policies,
                              const std::string& name) {
    std::vector<std::string> found;
    for (const json::value& item : policies) {
        if (item.is_object() && is_named(item.get_object(), name)) {
            found.push_back(full_name(item.get_object()));
        }
    }
    if (found.empty()) return not_found(fmt::format("policy {}: the agent has none", name));
    if (found.size() > 1) {
        std::string all;
        for (const std::string& one : found) all += (all.empty() ? "" : ", ") + one;
        return invalid_argument(fmt::format("policy {}: expected one of {}", name, all));
    }
    MESH_TRY(json::value answer, ask(agent, "/v1/policy/" + query_text(found.front())));
    if (!answer.is_object()) return Error(Errc::kCorrupt, "/v1/policy/*: expected an object");
    return answer;
}

void add_get(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    auto name = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand("get", "Policies that an agent enforces, or one");
    add_target(command, *target);
    command->add_option("name", *name, "NAME, NAMESPACE/NAME or KIND/NAMESPACE/NAME");
    command->add_option("-o,--output", context.output, "table (default), yaml or json")
        ->check(CLI::IsMember({"table", "yaml", "json"}))
        ->type_name("FORMAT");
    command->footer(
        "Examples:\n"
        "  meshctl policy get --cluster cluster1\n"
        "  meshctl policy get shop/web -o yaml");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        const AgentSocket& agent = agents.sockets.front();
        MESH_TRY(const json::array policies, listed_policies(agent));
        json::value document = policies;
        if (!name->empty()) {
            MESH_TRY(document, fetch_one(agent, policies, *name));
        } else if (context.output == "table") {
            print_list(policies);
            return {};
        }
        if (context.json()) {
            print_json(document);
        } else {
            const bool one = !name->empty() && document.get_object().contains("policy");
            fmt::print("{}", yaml_text(one ? document.get_object().at("policy") : document));
        }
        return {};
    });
}

}  // namespace

CLI::Option* add_files(CLI::App& command, std::vector<std::string>& paths) {
    return command.add_option("-f,--filename", paths,
                              "File or folder (*.yaml, *.yml, *.json); - is standard input");
}

void add_policy_commands(CLI::App& app, Context& context) {
    CLI::App* policy = app.add_subcommand(
        "policy", "Network policies: check, explain, compare, list, put into a cluster");
    policy->require_subcommand(1);
    add_validate(*policy, context);
    add_policy_trace(*policy, context);
    add_policy_diff(*policy, context);
    add_get(*policy, context);
    add_policy_store(*policy, context);
}

}  // namespace mesh::ctl
