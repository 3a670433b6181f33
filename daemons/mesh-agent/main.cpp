// mesh-agent: one per node. Follows the own cluster and all remotes by mesh::Mesh's engine, writes
// the node's datapath, and tells what it knows over a Unix socket.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>
#include <memory>
#include <mesh/mesh.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/daemon.hpp"
#include "common/flags.hpp"
#include "engine/agent.hpp"
#include "engine/documents.hpp"
#include "runtime/clock.hpp"
#include "serve/status/status_server.hpp"

namespace asio = boost::asio;

namespace {

struct Flags {
    mesh::daemon::CommonFlags common;
    mesh::MeshOptions mesh;
    std::string datapath = "auto";
    std::string allow_localhost = "auto";
    std::string routing = "none";
    std::string status_socket;
    int metrics_port = -1;
    int sync_timeout_seconds = 60;
    std::uint32_t health_interval_ms = 200;
    std::uint32_t health_timeout_ms = 200;
    std::vector<std::string> reset_connections{"tcp", "udp"};
    double reset_grace_seconds = 5;
    std::uint32_t remote_max_stale_age_seconds = 0;
};

void add_health_flags(CLI::App& app, Flags& flags) {
    app.add_option("--health-port", flags.mesh.health.port,
                   "TCP port at the nodes' addresses where agents answer probes, the same in all "
                   "clusters. A node with backends that does not answer gets no new connections; a "
                   "refusal is an answer. 0: no probes, of backends neither (bpf)")
        ->capture_default_str();
    app.add_option("--health-interval", flags.health_interval_ms,
                   "Milliseconds between probes of a node")
        ->check(CLI::Range(50, 60'000))
        ->capture_default_str();
    app.add_option("--health-timeout", flags.health_timeout_ms,
                   "Milliseconds to wait for its answer; three round trips at least")
        ->check(CLI::Range(50, 60'000))
        ->capture_default_str();
    app.add_option("--health-failures", flags.mesh.health.failures,
                   "Failed probes in a row that make a node unreachable")
        ->check(CLI::Range(1, 10))
        ->capture_default_str();
    app.add_option("--health-probes-per-second", flags.mesh.health.probes_per_second,
                   "At most, of nodes and backends; beyond, all intervals grow in proportion")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_option("--reset-connections", flags.reset_connections,
                   "Which connections through services are reset when their backend is gone, or "
                   "unhealthy for longer than --reset-grace: tcp,udp or one of them; none: they "
                   "are left to hang (bpf)")
        ->check(CLI::IsMember({"tcp", "udp", "none"}))
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--reset-grace", flags.reset_grace_seconds,
                   "Seconds that a backend or its node is unhealthy until connections are reset")
        ->check(CLI::Range(0.0, 3600.0))
        ->capture_default_str();
    app.add_option("--remote-max-stale-age", flags.remote_max_stale_age_seconds,
                   "Seconds without connection to a remote after which its backends count as gone, "
                   "unless its file has a max-stale-age; 0: what is known stays, fail-static")
        ->capture_default_str();
}

/// As Cilium spells them.
void add_policy_flags(CLI::App& app, Flags& flags) {
    auto& policy = flags.mesh.policy;
    constexpr const char* kGroup = "Network policy (bpf, with a routing mode)";
    app.add_option("--enable-policy", policy.enforcement,
                   "default: a direction of a pod is enforced once a policy selects the pod; "
                   "always: always; never: no policy is enforced")
        ->check(CLI::IsMember({"default", "always", "never"}))
        ->capture_default_str()
        ->group(kGroup);
    app.add_flag("--policy-audit-mode", policy.audit,
                 "Let pass what policies deny, and tell it as an event")
        ->group(kGroup);
    app.add_option("--policy-endpoint-mode", policy.endpoint_modes,
                   "Another mode for some pods: always, default, never or audit, and the labels "
                   "that a pod must have, as in audit:app=web,io.kubernetes.pod.namespace=shop; "
                   "may be given several times, the first that fits a pod counts")
        ->type_name("MODE:LABEL,...")
        ->take_all()
        ->allow_extra_args(false)
        ->group(kGroup);
    app.add_option("--policy-default-local-cluster", policy.default_local_cluster,
                   "A selector of peers that names no cluster means the own one (as Cilium from "
                   "1.19); false: all clusters")
        ->capture_default_str()
        ->group(kGroup);
    app.add_option(
           "--allow-localhost", flags.allow_localhost,
           "auto, always: a node may always connect to its pods; policy: if policies let it")
        ->check(CLI::IsMember({"auto", "always", "policy"}))
        ->capture_default_str()
        ->group(kGroup);
    app.add_option("--http-access-log", policy.access_log,
                   "File of HTTP requests that went through a policy, a line of JSON each; "
                   "/v1/access-log has the latest in any case")
        ->group(kGroup);
    app.add_option("--fqdn-cache", policy.fqdn_cache,
                   "File that keeps the names that pods asked for over a restart (toFQDNs)")
        ->group(kGroup);
    app.add_flag("--policy-verdict-notification", policy.verdict_events,
                 "An event for each new connection that a policy lets pass, too")
        ->group(kGroup);
}

void add_flags(CLI::App& app, Flags& flags) {
    app.add_option("--cluster-name", flags.mesh.cluster_name, "Name of this cluster")->required();
    app.add_option("--cluster-id", flags.mesh.cluster_id, "Id of this cluster, 1 to 255 (or 511)")
        ->required();
    app.add_option("--max-connected-clusters", flags.mesh.max_connected_clusters,
                   "255 or 511, equal in all clusters of the mesh")
        ->capture_default_str();
    app.add_option("--node-name", flags.mesh.node_name, "Name of this node, as published")
        ->required();
    app.add_option("--etcd-config", flags.mesh.etcd_config,
                   "etcd client YAML of the own cluster's etcd or proxy")
        ->required();
    app.add_option("--clustermesh-config", flags.mesh.clustermesh_config,
                   "Folder of remotes: one etcd client YAML per cluster, the file's name is its");
    app.add_option(
           "--datapath", flags.datapath,
           "bpf: the kernel's, needs root; memory: none, for a look at the mesh; auto: bpf if "
           "the machine gives it, else memory, saying so once")
        ->check(CLI::IsMember({"auto", "bpf", "memory"}))
        ->capture_default_str();
    app.add_option("--cgroup", flags.mesh.datapath.cgroup,
                   "cgroup v2 folder whose processes get the services (bpf)");
    app.add_option("--bpffs", flags.mesh.datapath.bpffs, "BPF file system for pins (bpf)")
        ->capture_default_str();
    app.add_option("--bpf-pin", flags.mesh.datapath.pin_directory,
                   "Folder of this node's pins: below the BPF file system, or relative to it (bpf)")
        ->capture_default_str();
    app.add_option("--netns-dir", flags.mesh.datapath.netns_directory,
                   "Folder of the pods' network namespaces, whose connections to backends that "
                   "went are reset; with --netns-prefix alone: /run/netns");
    app.add_option("--netns-prefix", flags.mesh.datapath.netns_prefix,
                   "Only namespaces whose name begins so");
    app.add_option(
           "--routing-mode", flags.routing,
           "How pods of other nodes are reached. tunnel: encapsulated; native: a route to each "
           "other node's pod CIDRs (shared L2); none: left to others")
        ->check(CLI::IsMember({"none", "native", "tunnel"}))
        ->capture_default_str();
    app.add_option("--tunnel-device", flags.mesh.datapath.overlay_device,
                   "Device that encapsulates, made if absent (tunnel)")
        ->capture_default_str();
    app.add_option("--tunnel-protocol", flags.mesh.datapath.tunnel_protocol,
                   "The same in all clusters; geneve where the kernel has it (tunnel)")
        ->check(CLI::IsMember({"vxlan", "geneve"}))
        ->capture_default_str();
    app.add_option("--tunnel-port", flags.mesh.datapath.overlay_port,
                   "UDP port of the tunnel; 0: 8472 for vxlan, 6081 for geneve (tunnel)")
        ->capture_default_str();
    app.add_flag("--masquerade", flags.mesh.datapath.masquerade,
                 "Packets of pods to outside of the mesh leave with the node's address (bpf)");
    app.add_option("--non-masquerade-cidr", flags.mesh.datapath.non_masquerade_cidrs,
                   "... but not those to this block; may be given several times");
    app.add_option("--maglev-table-size", flags.mesh.datapath.maglev_table_size,
                   "Entries of the consistent-hashing table of each node port, external and load "
                   "balancer IP: the same on all nodes, 100 times the backends for shares within "
                   "1% (bpf) [4093]")
        ->check(CLI::IsMember({251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}));
    app.add_option("--max-service-flows", flags.mesh.datapath.max_service_flows,
                   "Connections of services remembered where packets are translated: of outside "
                   "clients, and of pods out of --cgroup (bpf) [131072]")
        ->check(CLI::Range(64, 16'000'000));
    app.add_option("--endpoints", flags.mesh.datapath.endpoints_directory,
                   "Folder of files of this node's pods, as mesh-cni writes them (bpf)");
    auto& encryption = flags.mesh.datapath.encryption;
    app.add_option("--encryption", encryption.kind,
                   "How what pods say to pods of other nodes is encrypted: none or wireguard (bpf, "
                   "with a routing mode); nodes without a published key are spoken to in plain")
        ->capture_default_str();
    app.add_flag("--encryption-strict", encryption.strict,
                 "Drop, and count, what would go to or came from a node with a key in plain");
    app.add_option("--wireguard-key-file", encryption.key_file,
                   "Private key, made if absent. FILE.pub has the public one, for annotation "
                   "network.cilium.io/wg-pub-key of the Node. To change it: replace the file, send "
                   "SIGHUP, publish FILE.pub")
        ->capture_default_str();
    app.add_option("--wireguard-port", encryption.port, "UDP; the same on all nodes of the mesh")
        ->capture_default_str();
    app.add_option("--wireguard-device", encryption.device,
                   "Made if absent; default a name of this node's own");
    app.add_option("--wireguard-backend", encryption.backend,
                   "kernel, userspace (wireguard-go, which outlives the agent), or what there is")
        ->check(CLI::IsMember({"auto", "kernel", "userspace"}))
        ->capture_default_str();
    add_policy_flags(app, flags);
    app.add_flag("--enable-service-topology", flags.mesh.enable_service_topology,
                 "Follow the zone hints of EndpointSlices; this node's zone is its label "
                 "topology.kubernetes.io/zone");
    app.add_option("--sync-timeout", flags.sync_timeout_seconds,
                   "Seconds to wait for remotes before what a former run left is pruned")
        ->check(CLI::Range(1, 3600))
        ->capture_default_str();
    add_health_flags(app, flags);
    app.add_option("--status-socket", flags.status_socket,
                   "Unix socket for status (HTTP and JSON): /v1/status, /v1/services, /metrics");
    app.add_option("--metrics-port", flags.metrics_port,
                   "Serve the same on this port of 127.0.0.1 as well; 0 = any");
}

/// As Cilium's --bpf-*-map-max.
void add_size_flags(CLI::App& app, mesh::MapSizes& sizes) {
    const auto add = [&app](const char* name, std::uint32_t& value, const char* help) {
        app.add_option(name, value, help)
            ->check(CLI::Range(2U, 16'777'216U))
            ->capture_default_str()
            ->group("Table sizes (bpf; pinned tables are resized, never below what they hold)");
    };
    add("--ipcache-entries", sizes.ipcache, "Addresses and blocks of pods and nodes, all clusters");
    add("--node-entries", sizes.nodes, "Addresses of nodes, all clusters (tunnel)");
    add("--endpoint-entries", sizes.endpoints, "Addresses of this node's pods");
    add("--nat-entries", sizes.nat,
        "Two for each masqueraded flow; those unused for longest go first");
    add("--service-entries", sizes.services, "Frontends: address, port and protocol");
    add("--backend-entries", sizes.backends, "Backends, summed over frontends");
    add("--bpf-policy-map-max", sizes.policy,
        "Rows of one pod's policy; a pod whose policy has more is locked");
}

/// What is asked about policies: 400 and 404 say why there is no answer.
void add_policy_questions(mesh::serve::StatusServer& server, mesh::engine::Agent& agent) {
    using mesh::serve::StatusRequest;
    using mesh::serve::StatusResponse;
    const auto answer = [](const mesh::Result<std::string>& document) {
        if (document) return StatusResponse{.body = *document};
        const mesh::Error& error = document.error();
        return StatusResponse{
            .status = error.code() == mesh::Errc::kInvalidArgument ? 400U : 404U,
            .body = boost::json::serialize(boost::json::object{{"error", error.detail()}})};
    };
    server.route("/v1/policy/trace", [=, &agent](const StatusRequest& request) {
        const auto of = [&](const char* name) { return request.parameter(name).value_or(""); };
        mesh::PolicyTraceQuery query{of("src"), of("dst"), of("dport"), of("http"), {}, of("dns")};
        std::istringstream headers(of("headers"));
        for (std::string line; std::getline(headers, line);) query.headers.push_back(line);
        return answer(agent.policy_trace_json(query));
    });
    server.route("/v1/policy/diff", [=, &agent](const StatusRequest& request) {
        return answer(agent.policy_diff_json(request.body));
    });
}

void add_policy_routes(mesh::serve::StatusServer& server, mesh::engine::Agent& agent) {
    using mesh::serve::StatusRequest;
    using mesh::serve::StatusResponse;
    const auto answer = [](std::optional<std::string> document, const std::string& what) {
        if (document) return StatusResponse{.body = *std::move(document)};
        return StatusResponse{.status = 404,
                              .body = boost::json::serialize(boost::json::object{{"error", what}})};
    };
    const std::string none = "this node enforces no policies: it has no pod network";
    server.route("/v1/policy",
                 [=, &agent](const StatusRequest&) { return answer(agent.policy_json(), none); });
    server.route("/v1/policy/*", [=, &agent](const StatusRequest& request) {
        const std::string path = request.path.substr(std::string("/v1/policy/").size());
        return answer(agent.policy_json(path),
                      "policy " + path + ": no such policy; expected KIND/NAMESPACE/NAME");
    });
    server.route("/v1/identities", [=, &agent](const StatusRequest&) {
        return answer(agent.identities_json(), none);
    });
    server.route("/v1/access-log", [=, &agent](const StatusRequest&) {
        return answer(agent.access_log_json(), none);
    });
    server.route("/v1/endpoints", [&agent](const StatusRequest&) {
        return StatusResponse{.body = agent.endpoints_json()};
    });
    server.route("/v1/endpoints/*", [=, &agent](const StatusRequest& request) {
        const std::string id = request.path.substr(std::string("/v1/endpoints/").size());
        return answer(agent.endpoint_json(id), "endpoint " + id + ": no such endpoint");
    });
}

void add_routes(mesh::serve::StatusServer& server, mesh::engine::Agent& agent) {
    using mesh::serve::StatusRequest;
    using mesh::serve::StatusResponse;
    server.route("/v1/status", [&agent](const StatusRequest&) {
        return StatusResponse{.body = agent.status_json()};
    });
    server.route("/v1/services", [&agent](const StatusRequest&) {
        return StatusResponse{
            .body = boost::json::serialize(mesh::engine::to_json(agent.node().services()))};
    });
    server.route("/v1/services/*", [&agent](const StatusRequest& request) {
        const std::string rest = request.path.substr(std::string("/v1/services/").size());
        const auto slash = rest.find('/');
        if (slash == std::string::npos || rest.find('/', slash + 1) != std::string::npos) {
            return StatusResponse{.status = 400,
                                  .body = R"({"error":"expected /v1/services/NAMESPACE/NAME"})"};
        }
        const auto view = agent.node().service({rest.substr(0, slash), rest.substr(slash + 1)});
        if (!view) {
            return StatusResponse{.status = 404,
                                  .body = boost::json::serialize(boost::json::object{
                                      {"error", "service " + rest + ": no such service"}})};
        }
        return StatusResponse{.body = boost::json::serialize(mesh::engine::to_json(*view))};
    });
    add_policy_routes(server, agent);
    add_policy_questions(server, agent);
    server.route("/v1/encryption", [&agent](const StatusRequest&) {
        return StatusResponse{.body = agent.encryption_json()};
    });
    server.route("/v1/events", [&agent](const StatusRequest& request) {
        std::uint64_t since = 0;
        const std::string text = request.parameter("since").value_or("0");
        const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), since);
        if (ec != std::errc{} || end != text.data() + text.size()) {
            return StatusResponse{.status = 400, .body = R"({"error":"since: expected a number"})"};
        }
        auto events = agent.events_json(since, request.parameter("trace") == "1");
        if (!events) {
            return StatusResponse{.status = 404,
                                  .body = R"({"error":"this node has no pod network"})"};
        }
        return StatusResponse{.body = *std::move(events)};
    });
    server.route("/metrics", [&agent](const StatusRequest&) {
        return StatusResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                              .body = agent.metrics_text()};
    });
    server.set_health([&agent]() -> mesh::Result<void> {
        if (agent.serving()) return {};
        return mesh::unavailable("not serving; see /v1/status");
    });
}

/// Without the kernel's datapath, and so without all that needs it.
void use_memory(mesh::DatapathOptions& options) {
    options.kind = mesh::DatapathOptions::Kind::kMemory;
    options.routing = mesh::DatapathOptions::Routing::kNone;
    options.masquerade = false;
    options.endpoints_directory.clear();
    options.encryption = {};
}

/// With --datapath auto: in memory where the machine does not give the kernel's, saying so once.
mesh::Result<std::unique_ptr<mesh::engine::Agent>> make_agent(mesh::daemon::Daemon& daemon,
                                                              const mesh::Clock& clock,
                                                              Flags flags) {
    using mesh::Errc;
    constexpr std::string_view kInstead = "nothing is load balanced or routed on this node";
    auto& datapath = flags.mesh.datapath;
    const bool automatic = flags.datapath == "auto";
    if (automatic && datapath.cgroup.empty()) {
        daemon.log().warn("datapath: no --cgroup is given, so it is kept in memory: {}", kInstead);
        use_memory(datapath);
        return mesh::engine::Agent::make(daemon.executor(), flags.mesh, clock, daemon.log());
    }
    auto agent = mesh::engine::Agent::make(daemon.executor(), flags.mesh, clock, daemon.log());
    if (agent || !automatic) return agent;
    const auto code = agent.error().code();
    if (code != Errc::kPermission && code != Errc::kUnavailable) return agent;
    const std::string why = agent.error().message();
    use_memory(datapath);
    auto instead = mesh::engine::Agent::make(daemon.executor(), flags.mesh, clock, daemon.log());
    if (instead) {
        daemon.log().warn("datapath: {}, so it is kept in memory: {}", why, kInstead);
    }
    return instead;
}

asio::awaitable<mesh::Result<void>> run(mesh::daemon::Daemon& daemon, const mesh::Clock& clock,
                                        Flags flags) {
    MESH_CO_TRY(auto agent, make_agent(daemon, clock, flags));
    mesh::serve::StatusServerOptions options;
    options.unix_socket = flags.status_socket;
    if (flags.metrics_port >= 0) {
        options.tcp_port = static_cast<std::uint16_t>(flags.metrics_port);
    }
    mesh::serve::StatusServer server(daemon.executor(), daemon.log().named("status"),
                                     std::move(options));
    add_routes(server, *agent);
    MESH_CO_CHECK(server.start());
    agent->on_change([&daemon, raw = agent.get()] {
        if (raw->serving()) daemon.set_ready();
    });
    daemon.on_reload([&daemon, raw = agent.get()] {
        if (auto done = raw->reload(); !done) {
            daemon.log().error("reload: {}", done.error().message());
        }
    });
    agent->start();
    co_await daemon.stop_requested();
    agent->on_change({});
    daemon.on_reload({});
    co_await server.async_stop();
    co_await agent->stop();
    co_return mesh::Result<void>{};
}

}  // namespace

int main(int argc, char** argv) {
    Flags flags;
    CLI::App app(
        "mesh-agent: one per node; follows the own cluster and all remotes, and writes "
        "the node's service load balancing and pod network",
        "mesh-agent");
    add_flags(app, flags);
    add_size_flags(app, flags.mesh.datapath.sizes);
    mesh::daemon::add_common_flags(
        app, flags.common,
        "mesh-agent --cluster-name cluster1 --cluster-id 1 --node-name node1 "
        "--etcd-config /etc/libmesh/etcd.yaml --clustermesh-config /var/lib/cilium/clustermesh "
        "--cgroup /sys/fs/cgroup --routing-mode tunnel --endpoints /run/libmesh/endpoints "
        "--status-socket /run/libmesh/agent.sock\n"
        "mesh-agent --datapath memory --cluster-name cluster1 --cluster-id 1 --node-name look "
        "--etcd-config etcd.yaml --clustermesh-config remotes --status-socket agent.sock");
    if (const auto code = mesh::daemon::parse_command_line(app, argc, argv)) return *code;
    if (flags.datapath != "memory") {
        flags.mesh.datapath.kind = mesh::DatapathOptions::Kind::kBpf;
    }
    if (flags.mesh.datapath.netns_directory.empty() && !flags.mesh.datapath.netns_prefix.empty()) {
        flags.mesh.datapath.netns_directory = "/run/netns";
    }
    const std::string below = flags.mesh.datapath.bpffs + "/";
    if (flags.mesh.datapath.pin_directory.starts_with(below)) {
        flags.mesh.datapath.pin_directory.erase(0, below.size());
    }
    using Routing = mesh::DatapathOptions::Routing;
    flags.mesh.datapath.routing = flags.routing == "tunnel"   ? Routing::kTunnel
                                  : flags.routing == "native" ? Routing::kNative
                                                              : Routing::kNone;
    flags.mesh.policy.allow_localhost = flags.allow_localhost != "policy";
    flags.mesh.sync_timeout = std::chrono::seconds(flags.sync_timeout_seconds);
    flags.mesh.health.interval = std::chrono::milliseconds(flags.health_interval_ms);
    flags.mesh.health.timeout = std::chrono::milliseconds(flags.health_timeout_ms);
    const auto resets = [&](const char* kind) {
        return std::ranges::find(flags.reset_connections, kind) != flags.reset_connections.end();
    };
    flags.mesh.resets.tcp = resets("tcp") && !resets("none");
    flags.mesh.resets.udp = resets("udp") && !resets("none");
    flags.mesh.resets.grace =
        std::chrono::milliseconds(std::llround(flags.reset_grace_seconds * 1000));
    flags.mesh.remote_max_stale_age = std::chrono::seconds(flags.remote_max_stale_age_seconds);
    const mesh::SystemClock clock;
    mesh::daemon::Daemon daemon("mesh-agent", flags.common);
    return daemon.run([&] { return run(daemon, clock, flags); });
}
