// meshctl policy diff.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <set>

#include "compile/policy/policy_diff.hpp"
#include "compile/policy/policy_json.hpp"
#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/policy_command.hpp"
#include "meshctl/policy_files.hpp"
#include "meshctl/policy_offline.hpp"
#include "meshctl/policy_text.hpp"
#include "meshctl/targets.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

struct DiffOptions {
    Target target;
    OfflineOptions offline;
    std::vector<std::string> files, against;
    bool prune = false;
};

/// Names the pods of endpoints, which the library knows by number.
void add_pods(json::object& diff, const std::map<std::uint32_t, std::string>& names) {
    for (json::value& difference : diff["differences"].get_array()) {
        for (json::value& endpoint : difference.get_object()["endpoints"].get_array()) {
            json::array pods;
            for (const json::value& id : endpoint.get_object()["ids"].get_array()) {
                pods.emplace_back(names.at(id.to_number<std::uint32_t>()));
            }
            endpoint.get_object()["pods"] = std::move(pods);
        }
    }
}

Result<json::object> diff_files(const DiffOptions& options) {
    MESH_TRY(const auto world, make_world(options.offline, options.against));
    MESH_TRY(const PolicyFiles files, good_policy_files(options.files));
    world->add_endpoints();
    compile::PolicyUpdate update{files.policies, {}};
    if (options.prune) {
        std::set<model::policy::PolicyKey> kept;
        for (const auto& policy : files.policies) kept.insert(policy->key);
        for (const auto& policy : world->compiler().policies()) {
            if (!kept.contains(policy->key)) update.removals.push_back(policy->key);
        }
    }
    json::object diff =
        compile::to_json(compile::diff(world->compiler(), update), world->compiler().selectors());
    add_pods(diff, world->endpoints());
    return diff;
}

/// {"policies": [{"key", "value"}], "prune"}: as they would stand in the cluster's etcd.
std::string diff_request(const PolicyFiles& files, bool prune) {
    json::array policies;
    for (const auto& record : files.records) {
        policies.push_back(json::object{{"key", model::local_policy_key(record->key)},
                                        {"value", model::encode(*record)}});
    }
    return json::serialize(json::object{{"policies", std::move(policies)}, {"prune", prune}});
}

Result<json::object> diff_agents(Context& context, const DiffOptions& options) {
    MESH_TRY(const PolicyFiles files, good_policy_files(options.files));
    MESH_TRY(const Agents agents, find_agents(context, options.target));
    const std::string request = diff_request(files, options.prune);
    std::vector<std::pair<std::string, json::object>> by_node;
    for (const AgentSocket& agent : agents.sockets) {
        MESH_TRY(json::value answer, ask(agent, "/v1/policy/diff", request));
        if (!answer.is_object()) {
            return Error(Errc::kCorrupt, "/v1/policy/diff: expected an object");
        }
        by_node.emplace_back(agent.node, std::move(answer.get_object()));
    }
    return merge_diffs(by_node);
}

}  // namespace

void add_policy_diff(CLI::App& parent, Context& context) {
    auto options = std::make_shared<DiffOptions>();
    CLI::App* command = parent.add_subcommand(
        "diff",
        "Which packets of a cluster's pods other policies would let pass, or not any more: by "
        "endpoints, peers and ports.\nWith --against it compares files, else with what agents "
        "enforce.");
    add_target(command, options->target);
    add_files(*command, options->files)->required();
    command->add_flag("--prune", options->prune, "Policies that are not in the files would go");
    command
        ->add_option("--against", options->against,
                     "Files of the policies that there are, and of Pods")
        ->group("Without a cluster");
    add_offline_options(*command, options->offline);
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl policy diff --cluster cluster1 -f new.yaml\n"
        "  meshctl policy diff -f new.yaml --against old.yaml --against app.yaml");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        const auto diff =
            options->against.empty() ? diff_agents(context, *options) : diff_files(*options);
        if (!diff) return diff.error();
        if (context.json()) {
            print_json(*diff);
        } else {
            fmt::print("{}", diff_text(*diff));
        }
        return {};
    });
}

}  // namespace mesh::ctl
