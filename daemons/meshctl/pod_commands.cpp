// meshctl monitor, endpoint.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "compile/policy/trace.hpp"
#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/policy_text.hpp"
#include "meshctl/request_log.hpp"
#include "meshctl/targets.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

constexpr std::chrono::milliseconds kPoll{200};

volatile std::sig_atomic_t interrupted = 0;

// --- monitor ----------------------------------------------------------------------------------

struct MonitorOptions {
    Target target;
    bool drops = false;
    bool requests = false;
    std::string pod, reason, from_cluster;
    std::int64_t identity = 0;
    double seconds = 0;  ///< 0 = until interrupted
};

// Either side may be what is asked for.
bool matches(const MonitorOptions& options, const json::object& event) {
    const bool dropped = text_of(event, "kind") == "drop" || text_of(event, "verdict") == "denied";
    if (options.drops && !dropped) return false;
    if (!options.reason.empty() && text_of(event, "reason") != options.reason) return false;
    const auto& source = object_of(event, "source");
    const auto& destination = object_of(event, "destination");
    const auto either = [&](std::string_view key, const std::string& wanted) {
        return wanted.empty() || text_of(source, key) == wanted ||
               text_of(destination, key) == wanted;
    };
    if (!either("pod", options.pod) || !either("cluster", options.from_cluster)) return false;
    return options.identity == 0 || integer_of(source, "identity") == options.identity ||
           integer_of(destination, "identity") == options.identity;
}

std::string side_text(const json::object& side, bool port) {
    const std::string address = text_of(side, "address");
    std::string text =
        address.find(':') != std::string::npos && port ? fmt::format("[{}]", address) : address;
    if (port) text += fmt::format(":{}", text_of(side, "port"));
    std::string who = text_of(side, "pod");
    const std::string cluster = text_of(side, "cluster");
    if (!cluster.empty()) who = who.empty() ? cluster : fmt::format("{}/{}", cluster, who);
    text +=
        fmt::format(" ({}{}identity {})", who, who.empty() ? "" : ", ", text_of(side, "identity"));
    return text;
}

std::string what_text(const json::object& event) {
    const std::string kind = text_of(event, "kind");
    if (kind == "drop") return "DROP " + text_of(event, "reason");
    if (kind != "policy") return "to " + text_of(event, "to");
    const std::string verdict = text_of(event, "verdict");
    return fmt::format(
        "{} by the {} policy of endpoint {}",
        verdict == "denied" ? fmt::format("DROP {}", text_of(event, "reason")) : verdict,
        text_of(event, "direction"), text_of(event, "endpoint"));
}

void print_event(const std::string& node, const json::object& event) {
    const std::string protocol = text_of(event, "protocol");
    const bool ports = protocol == "TCP" || protocol == "UDP" || protocol == "SCTP";
    fmt::print(
        "{:.6f} {} {} {}: {} -> {} {} {} bytes\n",
        static_cast<double>(integer_of(event, "time_ns")) / 1e9, node, text_of(event, "point"),
        what_text(event), side_text(object_of(event, "source"), ports),
        side_text(object_of(event, "destination"), ports), protocol, text_of(event, "length"));
}

// Asks one agent for what is new; on the first look only where to begin.
Result<void> look(const MonitorOptions& options, const AgentSocket& agent, std::int64_t& next,
                  bool as_json) {
    const bool first = next == 0;
    MESH_TRY(const json::value answer, ask(agent, fmt::format("/v1/events?since={}{}", next,
                                                              options.drops ? "" : "&trace=1")));
    if (!answer.is_object()) return Error(Errc::kCorrupt, "/v1/events: expected an object");
    const json::object& document = answer.get_object();
    next = integer_of(document, "next");
    if (first) return {};
    if (const auto lost = integer_of(document, "lost"); lost > 0) {
        fmt::print(stderr, "meshctl: {}: {} events were lost\n", agent.node, lost);
    }
    for (const json::value& item : list_of(document, "events")) {
        if (!item.is_object() || !matches(options, item.get_object())) continue;
        if (as_json) {
            json::object event = item.get_object();
            event["node"] = agent.node;
            fmt::print("{}\n", json::serialize(event));
        } else {
            print_event(agent.node, item.get_object());
        }
    }
    std::fflush(stdout);
    return {};
}

// The same for what the agent's proxies did with requests.
Result<void> look_at_requests(const MonitorOptions& options, const AgentSocket& agent,
                              RequestLog& log, bool as_json) {
    MESH_TRY(const json::value answer, ask(agent, "/v1/access-log"));
    for (json::object& request : log.take(answer)) {
        if (options.drops && !is_refused(request)) continue;
        if (as_json) {
            request["node"] = agent.node;
            fmt::print("{}\n", json::serialize(request));
        } else {
            fmt::print("{}\n", request_text(agent.node, request));
        }
    }
    std::fflush(stdout);
    return {};
}

Result<void> monitor(Context& context, const MonitorOptions& options) {
    MESH_TRY(const Agents agents, find_agents(context, options.target));
    std::vector<std::int64_t> next(agents.sockets.size(), 0);
    std::vector<RequestLog> requests(agents.sockets.size());
    std::signal(SIGINT, [](int) { interrupted = 1; });
    std::signal(SIGTERM, [](int) { interrupted = 1; });
    const TimePoint begin = context.clock.now();
    const auto limit = std::chrono::duration<double>(options.seconds);
    for (bool first = true;; first = false) {
        for (std::size_t i = 0; i < agents.sockets.size(); ++i) {
            if (options.requests) {
                MESH_CHECK(
                    look_at_requests(options, agents.sockets[i], requests[i], context.json()));
            } else {
                MESH_CHECK(look(options, agents.sockets[i], next[i], context.json()));
            }
        }
        if (first) fmt::print(stderr, "watching {} nodes\n", agents.sockets.size());
        const bool over = options.seconds > 0 && context.clock.now() - begin >= limit;
        if (interrupted != 0 || over) return {};
        std::this_thread::sleep_for(kPoll);
    }
}

void add_monitor(CLI::App& app, Context& context) {
    auto options = std::make_shared<MonitorOptions>();
    CLI::App* command = app.add_subcommand(
        "monitor", "Show packets of pods as the datapath sees them: where they go, why dropped");
    add_target(command, options->target);
    command->add_flag("--drops", options->drops,
                      "Only packets that are dropped, or requests that are refused");
    auto* requests = command->add_flag(
        "--l7", options->requests,
        "HTTP requests and DNS questions that went through a policy's proxy, instead of packets");
    for (CLI::Option* of_packets :
         {command->add_option("--pod", options->pod, "Only from or to this pod, NAMESPACE/NAME"),
          command->add_option("--identity", options->identity, "Only from or to this identity"),
          command->add_option("--reason", options->reason, "Only drops for this reason"),
          command->add_option("--peer-cluster", options->from_cluster,
                              "Only from or to this cluster")}) {
        of_packets->excludes(requests);
    }
    command->add_option("--seconds", options->seconds, "End after so long (default: until Ctrl-C)");
    add_output_flag(*command, context);
    command->footer(
        "With -o json each event is one line of JSON.\n"
        "Examples:\n"
        "  meshctl monitor --cluster cluster1 --drops\n"
        "  meshctl monitor --cluster cluster1 --pod shop/echo-1 --peer-cluster cluster2\n"
        "  meshctl monitor --cluster cluster1 --l7 --drops");
    on_chosen(command, context, [=, &context] { return monitor(context, *options); });
}

// --- endpoint ---------------------------------------------------------------------------------

/// "ingress,egress", and what else there is to say.
std::string policy_text(const json::object& endpoint) {
    const json::object& policy = object_of(endpoint, "policy");
    if (policy.empty()) return {};
    std::string out;
    for (const char* direction : {"ingress", "egress"}) {
        if (flag_of(policy, direction)) out += (out.empty() ? "" : ",") + std::string(direction);
    }
    if (out.empty()) out = "none";
    const std::string enforcement = text_of(policy, "enforcement");
    if (enforcement == "audit" || enforcement == "locked") out += " (" + enforcement + ")";
    const std::string state = text_of(policy, "state");
    if (!state.empty() && state != "ready") out += " " + state;
    return out;
}

std::string state_text(const json::object& endpoint) {
    const std::string error = text_of(endpoint, "error");
    return flag_of(endpoint, "attached") ? "ready" : error.empty() ? "waiting" : error;
}

Result<json::array> ask_endpoints(const AgentSocket& agent) {
    MESH_TRY(const json::value answer, ask(agent, "/v1/endpoints"));
    if (!answer.is_array()) return Error(Errc::kCorrupt, "/v1/endpoints: expected a list");
    json::array all;
    for (const json::value& item : answer.get_array()) {
        if (!item.is_object()) continue;
        json::object endpoint = item.get_object();
        endpoint["node"] = agent.node;
        all.push_back(std::move(endpoint));
    }
    return all;
}

void add_endpoint_list(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    CLI::App* command = parent.add_subcommand("list", "The pods that agents have on their nodes");
    add_target(command, *target);
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl endpoint list --cluster cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        json::array all;
        Table table({"NODE", "NAMESPACE", "POD", "IPS", "IDENTITY", "POLICY", "DEVICE", "STATE"});
        for (const AgentSocket& agent : agents.sockets) {
            MESH_TRY(const json::array endpoints, ask_endpoints(agent));
            for (const json::value& item : endpoints) {
                const json::object& one = item.get_object();
                table.add({agent.node, text_of(one, "namespace"), text_of(one, "pod"),
                           joined_texts(list_of(one, "ips")), text_of(one, "identity"),
                           policy_text(one), text_of(one, "device"), state_text(one)});
                all.push_back(item);
            }
        }
        if (context.json()) {
            print_json(all);
        } else {
            table.drop_empty_columns();
            table.print();
        }
        return {};
    });
}

/// By "namespace/pod", number, id or address.
bool is_endpoint(const json::object& endpoint, const std::string& wanted) {
    if (text_of(endpoint, "namespace") + "/" + text_of(endpoint, "pod") == wanted) return true;
    if (text_of(endpoint, "number") == wanted || text_of(endpoint, "id") == wanted) return true;
    for (const json::value& ip : list_of(endpoint, "ips")) {
        if (ip.is_string() && std::string_view(ip.get_string()) == wanted) return true;
    }
    return false;
}

void print_endpoint(const json::object& endpoint) {
    fmt::print("{}/{} on {}: endpoint {}, identity {}\n  ips     {}\n  labels  {}\n  policy  {}\n",
               text_of(endpoint, "namespace"), text_of(endpoint, "pod"), text_of(endpoint, "node"),
               text_of(endpoint, "number"), text_of(endpoint, "identity"),
               joined_texts(list_of(endpoint, "ips")), joined_texts(list_of(endpoint, "labels")),
               policy_text(endpoint));
    if (const auto error = text_of(object_of(endpoint, "policy"), "error"); !error.empty()) {
        fmt::print("  error   {}\n", error);
    }
    Table table({"DIRECTION", "IDENTITY", "PROTOCOL", "PORTS", "VERDICT", "CLUSTER", "LABELS"});
    for (const json::value& item : list_of(endpoint, "rows_now")) {
        if (!item.is_object()) continue;
        const json::object& row = item.get_object();
        const auto first = integer_of(row, "port"), last = integer_of(row, "last_port");
        const auto protocol = integer_of(row, "protocol"), identity = integer_of(row, "identity");
        const std::string ports = first == 0 && last == 65'535 ? "all"
                                  : first == last              ? std::to_string(first)
                                                               : fmt::format("{}-{}", first, last);
        const std::string parser = text_of(row, "parser");
        table.add(
            {text_of(row, "direction"), identity == 0 ? "any" : std::to_string(identity),
             protocol == 0 ? "any" : compile::protocol_text(static_cast<std::uint8_t>(protocol)),
             ports, text_of(row, "verdict") + (parser.empty() ? "" : " to " + parser),
             text_of(row, "cluster"), short_labels(list_of(row, "labels"))});
    }
    if (table.empty()) return;
    fmt::print("\n");
    table.drop_empty_columns();
    table.print();
}

void add_endpoint_get(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    auto wanted = std::make_shared<std::string>();
    CLI::App* command = parent.add_subcommand(
        "get", "One pod, and the rows of its policy map as the datapath has them");
    add_target(command, *target);
    command->add_option("endpoint", *wanted, "NAMESPACE/POD, an address, an id or a number")
        ->required();
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl endpoint get shop/web --cluster cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        for (const AgentSocket& agent : agents.sockets) {
            MESH_TRY(const json::array endpoints, ask_endpoints(agent));
            for (const json::value& item : endpoints) {
                if (!is_endpoint(item.get_object(), *wanted)) continue;
                MESH_TRY(json::value one,
                         ask(agent,
                             "/v1/endpoints/" + query_text(text_of(item.get_object(), "number"))));
                if (!one.is_object()) {
                    return Error(Errc::kCorrupt, "/v1/endpoints/*: expected an object");
                }
                one.get_object()["node"] = agent.node;
                if (context.json()) {
                    print_json(one);
                } else {
                    print_endpoint(one.get_object());
                }
                return {};
            }
        }
        return not_found(fmt::format("endpoint {}: no agent has it", *wanted));
    });
}

}  // namespace

void add_pod_commands(CLI::App& app, Context& context) {
    add_monitor(app, context);
    CLI::App* endpoint = app.add_subcommand("endpoint", "Pods as the datapath has them");
    endpoint->require_subcommand(1);
    add_endpoint_list(*endpoint, context);
    add_endpoint_get(*endpoint, context);
}

}  // namespace mesh::ctl
