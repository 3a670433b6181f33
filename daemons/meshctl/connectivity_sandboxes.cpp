#include "meshctl/connectivity_sandboxes.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <thread>

#include "meshctl/agents.hpp"
#include "meshctl/targets.hpp"
#include "sandbox/ipam.hpp"
#include "sandbox/names.hpp"
#include "sandbox/node_ports.hpp"

namespace mesh::ctl::connectivity {
namespace {

namespace json = boost::json;

constexpr std::chrono::milliseconds kPoll{50};
constexpr std::chrono::seconds kReady{60};

const json::array& list_of(const json::object& object, std::string_view key) {
    static const json::array none;
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_array() ? value->get_array() : none;
}

Result<Addresses> both_families(const std::vector<model::IpAddress>& ips, std::string_view what) {
    if (ips.size() != 2 || !ips[0].is_v4() || ips[1].is_v4()) {
        return not_found(fmt::format("{}: expected an IPv4 and an IPv6 address", what));
    }
    return Addresses{ips[0], ips[1]};
}

Result<Addresses> pod_addresses(const sandbox::State& state, const std::string& name) {
    const auto found = state.objects.pods.find({std::string(kNamespace), name});
    if (found == state.objects.pods.end()) {
        return not_found(fmt::format("no pod {}/{} in sandbox {}", kNamespace, name, state.name));
    }
    return both_families(found->second.ips, name);
}

Result<Addresses> service_addresses(const sandbox::State& state, const std::string& name) {
    const auto found = state.objects.services.find({std::string(kNamespace), name});
    if (found == state.objects.services.end()) {
        return not_found(
            fmt::format("no service {}/{} in sandbox {}", kNamespace, name, state.name));
    }
    return both_families(sandbox::cluster_ips(found->second), name);
}

Result<std::uint16_t> node_port_of(const sandbox::State& state, std::string_view protocol) {
    const auto found = state.objects.services.find({std::string(kNamespace), "global"});
    if (found != state.objects.services.end()) {
        for (const auto& [number, of] : sandbox::node_ports(found->second)) {
            if (of == protocol) return number;
        }
    }
    return not_found(
        fmt::format("service {}/global in sandbox {} has no node port for {}; make the sandboxes "
                    "anew",
                    kNamespace, state.name, protocol));
}

Result<Network::Cluster> cluster_network(const sandbox::State& state) {
    Network::Cluster cluster;
    cluster.name = state.name;
    MESH_TRY(const std::vector<sandbox::NodeInfo> nodes, sandbox::nodes_of(state));
    if (nodes.size() != kNodes) {
        return not_found(
            fmt::format("sandbox {} has {} nodes, expected {}", state.name, nodes.size(), kNodes));
    }
    for (std::uint32_t number = 1; number <= kNodes; ++number) {
        const sandbox::NodeInfo& info = nodes[number - 1];
        Network::Node& node = cluster.nodes.at(number - 1);
        std::vector<model::IpAddress> routers;
        for (const auto& block : info.pod_blocks) routers.push_back(sandbox::address_at(block, 1));
        MESH_TRY(node.node, both_families(info.addresses, info.name));
        MESH_TRY(node.router, both_families(routers, info.name));
        MESH_TRY(node.client, pod_addresses(state, client_name(number)));
        MESH_TRY(node.server, pod_addresses(state, server_name(number)));
    }
    MESH_TRY(cluster.global_service, service_addresses(state, "global"));
    MESH_TRY(cluster.local_service, service_addresses(state, "local"));
    MESH_TRY(cluster.tcp_node_port, node_port_of(state, "TCP"));
    MESH_TRY(cluster.udp_node_port, node_port_of(state, "UDP"));
    return cluster;
}

// Why an agent does not forward to and from its node's pods yet, or "".
std::string unready_endpoints(const AgentSocket& agent) {
    const auto answer = ask(agent, "/v1/endpoints");
    if (!answer) return answer.error().detail();
    std::size_t ready = 0;
    for (const json::value& item : answer->is_array() ? answer->get_array() : json::array()) {
        if (!item.is_object()) continue;
        const json::object& endpoint = item.get_object();
        if (flag_of(endpoint, "attached") && integer_of(endpoint, "identity") != 0) ++ready;
    }
    // A client and a server.
    return ready == 2 ? "" : fmt::format("{} of 2 pods attached", ready);
}

// Why a service does not have its backends in the agent yet, or "".
std::string unready_service(const AgentSocket& agent, std::string_view name, std::size_t backends,
                            std::size_t wanted) {
    const auto answer = ask(agent, fmt::format("/v1/services/{}/{}", kNamespace, name));
    if (!answer) return answer.error().detail();
    static const json::object none;
    const json::array& frontends =
        list_of(answer->is_object() ? answer->get_object() : none, "frontends");
    for (const json::value& item : frontends) {
        std::size_t used = 0;
        for (const json::value& backend :
             item.is_object() ? list_of(item.get_object(), "backends") : json::array()) {
            used += backend.is_object() && flag_of(backend.get_object(), "selected") ? 1 : 0;
        }
        if (used != backends) {
            return fmt::format("service {} has {} of {} backends", name, used, backends);
        }
    }
    return frontends.size() == wanted
               ? ""
               : fmt::format("service {} has {} of {} frontends", name, frontends.size(), wanted);
}

}  // namespace

Result<void> Sandboxes::check_interrupted() const {
    if (interrupted_()) return Error(Errc::kCancelled, "interrupted");
    return {};
}

Result<void> Sandboxes::create(const sandbox::CreateOptions& options) {
    MESH_CHECK(check_interrupted());
    const sandbox::Environment environment = context_.environment();
    environment.report(fmt::format("making sandbox {}", options.name));
    auto created = sandbox::create(environment, options);
    if (!created && created.error().code() == Errc::kConflict) {
        return Error(
            Errc::kConflict,
            fmt::format("{}; expected none of that name: run in it with --reuse, remove it "
                        "with \"meshctl sandbox delete {}\", or give another --prefix",
                        created.error().detail(), options.name));
    }
    MESH_CHECK(created);
    made_.push_back(options.name);
    return {};
}

Result<void> Sandboxes::make(const std::string& routing) {
    for (std::size_t cluster = 0; cluster < kClusters; ++cluster) {
        MESH_CHECK(create(plan_.options(cluster, routing)));
    }
    MESH_CHECK(create(plan_.outside_options()));
    const sandbox::Environment environment = context_.environment();
    MESH_CHECK(sandbox::connect(environment, plan_.clusters[0], plan_.clusters[1]));
    MESH_CHECK(sandbox::connect(environment, plan_.clusters[1], plan_.clusters[0]));
    for (const std::string& cluster : plan_.clusters) {
        MESH_CHECK(check_interrupted());
        auto applied =
            sandbox::apply(environment, cluster, manifest(), "connectivity manifest", kNamespace);
        if (!applied) return std::move(applied).error().with_prefix(cluster);
        for (std::uint32_t node = 1; node <= kNodes; ++node) {
            MESH_CHECK(start_host_echo(cluster, node));
        }
    }
    MESH_CHECK(start_host_echo(plan_.outside, 1));
    for (const std::string& cluster : plan_.clusters) MESH_CHECK(wait_status(cluster));
    for (const std::string& cluster : plan_.clusters) MESH_CHECK(wait_services(cluster));
    return route_outside();
}

// The outside host finds the clusters' services at the first node of each.
Result<void> Sandboxes::route_outside() {
    const sandbox::Environment environment = context_.environment();
    MESH_TRY(const Network addresses, network());
    for (const Network::Cluster& cluster : addresses.clusters) {
        for (std::size_t family = 0; family < cluster.global_service.size(); ++family) {
            const std::string to = cluster.global_service.at(family).to_string();
            const std::string via = cluster.nodes.front().node.at(family).to_string();
            MESH_TRY(sandbox::ProcessSpec spec,
                     sandbox::prepare_exec(environment, plan_.outside, "", sandbox::node_name(1),
                                           {"ip", "route", "replace", to, "via", via}));
            spec.log_file = environment.paths(plan_.outside).log("routes");
            MESH_TRY(const sandbox::ProcessId process, sandbox::start_process(spec));
            MESH_CHECK(wait_until(fmt::format("{}: route to {}", plan_.outside, to),
                                  [&] { return sandbox::is_running(process) ? "not set" : ""; }));
        }
    }
    return {};
}

// A process of the node, as of its host network; it goes with the sandbox.
Result<void> Sandboxes::start_host_echo(const std::string& cluster, std::uint32_t node) {
    MESH_CHECK(check_interrupted());
    const sandbox::Environment environment = context_.environment();
    const std::string name = sandbox::node_name(node);
    MESH_TRY(sandbox::ProcessSpec spec,
             sandbox::prepare_exec(
                 environment, cluster, "", name,
                 {"mesh-echo", "--udp", "--port", std::to_string(kHostPort), "--cluster", cluster,
                  "--node", name, "--pod", std::string(kHostName)}));
    spec.log_file = environment.paths(cluster).log("echo-" + name);
    MESH_TRY(const sandbox::ProcessId process, sandbox::start_process(spec));
    ProbeRequest request;
    request.to = model::IpAddress::v4(127, 0, 0, 1);
    request.port = kHostPort;
    return wait_until(fmt::format("{}: mesh-echo on {}", cluster, name), [&]() -> std::string {
        if (!sandbox::is_running(process)) return sandbox::last_lines(spec.log_file, 3);
        const auto result = run_probe(environment, {cluster, "", name}, request);
        return result ? text_of(*result, "error") : result.error().detail();
    });
}

Result<void> Sandboxes::wait_status(const std::string& cluster) {
    Target target;
    target.cluster = cluster;
    MESH_TRY(const Agents agents, find_agents(context_, target));
    return wait_until(cluster, [&]() -> std::string {
        std::vector<std::string> reasons;
        (void)wait_ready(context_, agents, false, kReady, reasons);
        return reasons.empty() ? "" : reasons.front();
    });
}

Result<void> Sandboxes::wait_services(const std::string& cluster) {
    Target target;
    target.cluster = cluster;
    MESH_TRY(const Agents agents, find_agents(context_, target));
    for (const AgentSocket& agent : agents.sockets) {
        MESH_CHECK(wait_until(fmt::format("{}: {}", cluster, agent.node), [&]() -> std::string {
            std::string reason = unready_endpoints(agent);
            // TCP and UDP over both families, at the cluster IPs and at the node's.
            if (reason.empty()) reason = unready_service(agent, "global", kClusters * kNodes, 8);
            if (reason.empty()) reason = unready_service(agent, "local", kNodes, 4);
            return reason;
        }));
    }
    return {};
}

Result<void> Sandboxes::wait_until(const std::string& who,
                                   const std::function<std::string()>& unready) {
    const TimePoint begin = context_.clock.now();
    for (;;) {
        MESH_CHECK(check_interrupted());
        const std::string reason = unready();
        if (reason.empty()) return {};
        if (context_.clock.now() - begin >= kReady) {
            return Error(Errc::kTimeout,
                         fmt::format("{}: not ready within {} s: {}", who, kReady.count(), reason));
        }
        context_.progress(fmt::format("waiting: {}: {}", who, reason));
        std::this_thread::sleep_for(kPoll);
    }
}

Result<std::string> Sandboxes::routing_of_existing() const {
    std::string routing;
    for (const std::string& cluster : plan_.clusters) {
        MESH_TRY(const sandbox::State state, sandbox::describe(context_.environment(), cluster));
        std::string its = state.routing;
        if (state.encryption != "none") its = its == "tunnel" ? "encrypted" : "encrypted-native";
        if (!routing.empty() && its != routing) {
            return Error(Errc::kConflict, fmt::format("sandbox {}: routing {}, expected {} as {}",
                                                      cluster, its, routing, plan_.clusters[0]));
        }
        routing = its;
    }
    return routing;
}

Result<Network> Sandboxes::network() const {
    const sandbox::Environment environment = context_.environment();
    Network network;
    for (std::size_t cluster = 0; cluster < kClusters; ++cluster) {
        MESH_TRY(const sandbox::State state,
                 sandbox::describe(environment, plan_.clusters.at(cluster)));
        network.tunnel = state.routing == "tunnel";
        MESH_TRY(network.clusters.at(cluster), cluster_network(state));
    }
    MESH_TRY(const sandbox::State outside, sandbox::describe(environment, plan_.outside));
    MESH_TRY(const std::vector<sandbox::NodeInfo> nodes, sandbox::nodes_of(outside));
    if (nodes.empty()) return not_found(fmt::format("sandbox {} has no node", plan_.outside));
    network.outside = plan_.outside;
    MESH_TRY(network.outside_node, both_families(nodes.front().addresses, plan_.outside));
    return network;
}

Result<void> Sandboxes::remove() {
    Result<void> outcome;
    const sandbox::Environment environment = context_.environment();
    while (!made_.empty()) {
        const std::string name = made_.back();
        made_.pop_back();
        environment.report(fmt::format("removing sandbox {}", name));
        auto done = sandbox::destroy(environment, name);
        if (!done && done.error().code() != Errc::kNotFound && outcome) outcome = std::move(done);
    }
    return outcome;
}

}  // namespace mesh::ctl::connectivity
