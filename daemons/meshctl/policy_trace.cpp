// meshctl policy trace.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <optional>

#include "compile/policy/policy_json.hpp"
#include "compile/policy/trace.hpp"
#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/policy_command.hpp"
#include "meshctl/policy_offline.hpp"
#include "meshctl/policy_text.hpp"
#include "meshctl/targets.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

struct TraceOptions {
    Target target;
    OfflineOptions offline;
    std::vector<std::string> files, headers;
    std::string source, destination, dport, http, dns;
};

Result<json::object> trace_files(const TraceOptions& options) {
    MESH_TRY(const auto source, compile::parse_trace_target(options.source));
    MESH_TRY(const auto destination, compile::parse_trace_target(options.destination));
    MESH_TRY(auto question, compile::parse_trace_question(options.dport, options.http,
                                                          options.headers, options.dns));
    MESH_TRY(const auto world, make_world(options.offline, options.files));
    MESH_TRY(compile::TraceSide from, world->find(source));
    MESH_TRY(compile::TraceSide to, world->find(destination));
    return compile::to_json(
        compile::trace(world->compiler(), std::move(from), std::move(to), std::move(question)));
}

std::string trace_query(const TraceOptions& options) {
    std::string query =
        fmt::format("/v1/policy/trace?src={}&dst={}&dport={}", query_text(options.source),
                    query_text(options.destination), query_text(options.dport));
    if (!options.http.empty()) query += "&http=" + query_text(options.http);
    if (!options.dns.empty()) query += "&dns=" + query_text(options.dns);
    if (options.headers.empty()) return query;
    std::string headers;
    for (const std::string& header : options.headers) headers += header + "\n";
    return query + "&headers=" + query_text(headers);
}

/// Each direction as the node has it that enforces it; all nodes agree on the rest.
Result<json::object> trace_agents(Context& context, const TraceOptions& options) {
    MESH_TRY(const Agents agents, find_agents(context, options.target));
    std::optional<json::object> merged;
    std::optional<Error> failure;
    for (const AgentSocket& agent : agents.sockets) {
        auto answer = ask(agent, trace_query(options));
        if (!answer || !answer->is_object()) {
            failure = answer ? Error(Errc::kCorrupt, "/v1/policy/trace: expected an object")
                             : answer.error();
            continue;
        }
        json::object trace = answer->get_object();
        for (const char* direction : {"egress", "ingress"}) {
            if (!trace[direction].is_object()) trace[direction] = json::object();
            trace[direction].get_object()["node"] = agent.node;
        }
        if (!merged) {
            merged = std::move(trace);
            continue;
        }
        for (const char* direction : {"egress", "ingress"}) {
            if (flag_of(object_of(trace, direction), "installed")) {
                (*merged)[direction] = trace[direction];
            }
        }
    }
    if (!merged) return *failure;
    return *std::move(merged);
}

int exit_code_of_verdict(const json::object& trace) {
    const std::string verdict = text_of(trace, "verdict");
    return verdict == "allowed" ? kExitOk : verdict == "denied" ? kExitFailed : kExitUsage;
}

}  // namespace

void add_offline_options(CLI::App& command, OfflineOptions& options) {
    constexpr const char* kGroup = "Without a cluster";
    command
        .add_option("--identities", options.identities,
                    "Known identities, as `identity list -o json` prints them")
        ->group(kGroup);
    command.add_option("--cluster-name", options.cluster, "Own cluster (default \"default\")")
        ->group(kGroup);
    command.add_option("--enable-policy", options.enforcement, "default, always or never")
        ->check(CLI::IsMember({"default", "always", "never"}))
        ->group(kGroup);
    command
        .add_flag("--all-clusters", options.all_clusters,
                  "Selectors that name no cluster mean all clusters, not the own one")
        ->group(kGroup);
}

void add_policy_trace(CLI::App& parent, Context& context) {
    auto options = std::make_shared<TraceOptions>();
    CLI::App* command = parent.add_subcommand(
        "trace",
        "Say whether a packet passes, and by which rules of both its ends.\n"
        "An end is [CLUSTER/][NAMESPACE/]POD, an address, labels (app=web,...), an entity (world, "
        "host, ...) or an identity's number.\n"
        "With -f it asks files, else the agents. Exit codes: 0 allowed, 1 denied, 2 not known.");
    add_target(command, options->target);
    command->add_option("--src", options->source, "Who sends")->required();
    command->add_option("--dst", options->destination, "Who receives")->required();
    command->add_option("--dport", options->dport, "PORT/PROTOCOL: 80/TCP, 53/UDP, 8/ICMP")
        ->required();
    command->add_option("--http", options->http, "Request: METHOD PATH or METHOD http://HOST/PATH");
    command->add_option("--header", options->headers, "Header of the request, NAME: VALUE");
    command->add_option("--dns", options->dns, "Name that is asked for");
    add_files(*command, options->files)->group("Without a cluster");
    add_offline_options(*command, options->offline);
    add_output_flag(*command, context);
    command->footer(
        "Examples:\n"
        "  meshctl policy trace --cluster cluster1 --src shop/client --dst cluster2/shop/web "
        "--dport 80/TCP --http \"GET /a\"\n"
        "  meshctl policy trace --src shop/client --dst world --dport 443/TCP\n"
        "  meshctl policy trace -f app.yaml -f policies/ --src app=client --dst app=web "
        "--dport 80/TCP");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        const auto trace =
            options->files.empty() ? trace_agents(context, *options) : trace_files(*options);
        if (!trace) {
            // 1 means denied: whoever asks must not take a failure for an answer.
            static_cast<void>(fail(trace.error()));
            context.exit_code = kExitUsage;
            return {};
        }
        context.exit_code = exit_code_of_verdict(*trace);
        if (context.json()) {
            print_json(*trace);
        } else {
            fmt::print("{}", trace_text(*trace));
        }
        return {};
    });
}

}  // namespace mesh::ctl
