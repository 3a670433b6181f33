// meshctl monitor, endpoint.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
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

Result<void> monitor(Context& context, const MonitorOptions& options) {
    MESH_TRY(const Agents agents, find_agents(context, options.target));
    std::vector<std::int64_t> next(agents.sockets.size(), 0);
    std::signal(SIGINT, [](int) { interrupted = 1; });
    std::signal(SIGTERM, [](int) { interrupted = 1; });
    const TimePoint begin = context.clock.now();
    const auto limit = std::chrono::duration<double>(options.seconds);
    for (bool first = true;; first = false) {
        for (std::size_t i = 0; i < agents.sockets.size(); ++i) {
            MESH_CHECK(look(options, agents.sockets[i], next[i], context.json()));
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
    command->add_flag("--drops", options->drops, "Only packets that are dropped");
    command->add_option("--pod", options->pod, "Only from or to this pod, NAMESPACE/NAME");
    command->add_option("--identity", options->identity, "Only from or to this identity");
    command->add_option("--reason", options->reason, "Only drops for this reason");
    command->add_option("--peer-cluster", options->from_cluster, "Only from or to this cluster");
    command->add_option("--seconds", options->seconds, "End after so long (default: until Ctrl-C)");
    add_output_flag(*command, context);
    command->footer(
        "With -o json each event is one line of JSON.\n"
        "Examples:\n"
        "  meshctl monitor --cluster cluster1 --drops\n"
        "  meshctl monitor --cluster cluster1 --pod shop/echo-1 --peer-cluster cluster2");
    on_chosen(command, context, [=, &context] { return monitor(context, *options); });
}

// --- endpoint ---------------------------------------------------------------------------------

void add_endpoint_list(CLI::App& parent, Context& context) {
    auto target = std::make_shared<Target>();
    CLI::App* command = parent.add_subcommand("list", "The pods that agents have on their nodes");
    add_target(command, *target);
    add_output_flag(*command, context);
    command->footer("Examples:\n  meshctl endpoint list --cluster cluster1");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const Agents agents, find_agents(context, *target));
        json::array all;
        Table table({"NODE", "NAMESPACE", "POD", "IPS", "IDENTITY", "DEVICE", "STATE"});
        for (const AgentSocket& agent : agents.sockets) {
            MESH_TRY(const json::value answer, ask(agent, "/v1/endpoints"));
            if (!answer.is_array()) return Error(Errc::kCorrupt, "/v1/endpoints: expected a list");
            for (const json::value& item : answer.get_array()) {
                if (!item.is_object()) continue;
                json::object endpoint = item.get_object();
                endpoint["node"] = agent.node;
                std::string ips;
                for (const json::value& ip : list_of(endpoint, "ips")) {
                    if (ip.is_string())
                        ips += (ips.empty() ? "" : ",") + std::string(ip.get_string());
                }
                const std::string error = text_of(endpoint, "error");
                table.add({agent.node, text_of(endpoint, "namespace"), text_of(endpoint, "pod"),
                           ips, text_of(endpoint, "identity"), text_of(endpoint, "device"),
                           flag_of(endpoint, "attached") ? "ready"
                           : error.empty()               ? "waiting"
                                                         : error});
                all.push_back(std::move(endpoint));
            }
        }
        if (context.json()) {
            print_json(all);
        } else {
            table.print();
        }
        return {};
    });
}

}  // namespace

void add_pod_commands(CLI::App& app, Context& context) {
    add_monitor(app, context);
    CLI::App* endpoint = app.add_subcommand("endpoint", "Pods as the datapath has them");
    endpoint->require_subcommand(1);
    add_endpoint_list(*endpoint, context);
}

}  // namespace mesh::ctl
