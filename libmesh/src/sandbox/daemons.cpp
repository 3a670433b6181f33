#include "sandbox/daemons.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "datapath/netlink/netns.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "sandbox/cgroup.hpp"
#include "sandbox/encryption.hpp"
#include "sandbox/probe.hpp"

namespace mesh::sandbox {
namespace {

constexpr std::chrono::seconds kStartDeadline{20};
constexpr std::chrono::milliseconds kPoll{10};
constexpr std::size_t kShownLogLines = 8;
constexpr std::chrono::hours kAuthorityValidity{24 * 3650};
constexpr const char* kBpfFolder = "/sys/fs/bpf";

Result<void> write_pair(const Paths& paths, const std::string& name, const pki::KeyPair& pair) {
    MESH_CHECK(
        pki::write_file(paths.pki(name + ".key"), pair.private_key, pki::FileMode::kPrivate));
    return pki::write_file(paths.pki(name + ".crt"), pair.certificate, pki::FileMode::kPublic);
}

Result<pki::Authority> authority_for(const Environment& environment, const State& state,
                                     const std::string& inherit) {
    const WallTime now = environment.clock->wall_now();
    if (inherit.empty()) {
        return pki::Authority::make(fmt::format("{} CA", state.name), kAuthorityValidity, now);
    }
    const bool folder = inherit.find('/') != std::string::npos;
    if (!folder) MESH_CHECK(Names::make(inherit));
    const std::string from = folder ? inherit : environment.paths(inherit).folder + "/pki";
    const auto fail = [&](const Error& error) {
        return error.with_prefix(fmt::format("inherit the CA of {}", inherit));
    };
    auto certificate = pki::read_file(from + "/ca.crt");
    if (!certificate) return fail(certificate.error());
    auto key = pki::read_file(from + "/ca.key");
    if (!key) return fail(key.error());
    auto authority = pki::Authority::load({*certificate, *key}, now);
    if (!authority) return fail(authority.error());
    return authority;
}

class Planner {
  public:
    Planner(const Environment& environment, const State& state, const std::string& cgroups)
        : state_(state),
          cgroups_(cgroups),
          paths_(environment.paths(state.name)),
          names_(Names::make(state.name).value()) {}

    std::vector<Daemon> plan() {
        if (state_.etcd == "real") add_etcd();
        add_proxy();
        add_operator();
        for (std::uint32_t number = 1; number <= state_.nodes; ++number) {
            add_agent(node_name(number));
        }
        return std::move(daemons_);
    }

  private:
    Daemon& add(const std::string& program, const std::string& node, bool per_node) {
        Daemon daemon;
        daemon.name = program;
        daemon.node = node;
        const std::string label = per_node ? fmt::format("{}-{}", program, node) : program;
        daemon.log = paths_.log(label);
        daemon.argv = {program};
        if (program != "etcd") {
            daemon.socket = paths_.socket(label);
            daemon.argv.insert(daemon.argv.end(), {"--cluster-name", state_.name, "--cluster-id",
                                                   std::to_string(state_.cluster_id),
                                                   "--status-socket", daemon.socket});
        }
        daemons_.push_back(std::move(daemon));
        return daemons_.back();
    }
    static void tell(Daemon& daemon, std::initializer_list<std::string> arguments) {
        daemon.argv.insert(daemon.argv.end(), arguments);
    }

    void add_etcd() {
        const std::string client = fmt::format("https://127.0.0.1:{}", kEtcdPort);
        const std::string peer = fmt::format("http://127.0.0.1:{}", kEtcdPeerPort);
        Daemon& etcd = add("etcd", node_name(1), false);
        tell(etcd, {"--name", state_.name, "--data-dir", paths_.data("etcd")});
        tell(etcd, {"--listen-client-urls", client, "--advertise-client-urls", client});
        tell(etcd, {"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer});
        tell(etcd, {"--initial-cluster", fmt::format("{}={}", state_.name, peer)});
        tell(etcd, {"--client-cert-auth", "--trusted-ca-file", paths_.pki("ca.crt")});
        tell(etcd, {"--cert-file", paths_.pki("server.crt")});
        tell(etcd, {"--key-file", paths_.pki("server.key")});
        tell(etcd, {"--logger", "zap", "--log-level", "warn"});
    }

    void add_proxy() {
        const std::string address = node_address4(state_.slot, 1).to_string();
        Daemon& proxy = add("mesh-proxy", node_name(1), false);
        tell(proxy,
             {"--listen-remote", fmt::format("{}:{}", address, kRemotePort), "--listen-local",
              fmt::format("{}:{}", address, kLocalPort), "--tls-ca", paths_.pki("ca.crt"),
              "--tls-cert", paths_.pki("server.crt"), "--tls-key", paths_.pki("server.key")});
        if (state_.etcd == "real") {
            tell(proxy, {"--etcd-config", paths_.etc("admin-etcd.yaml")});
        } else {
            tell(proxy, {"--embedded", "--data-dir", paths_.data("store")});
        }
    }

    void add_operator() {
        Daemon& program = add("mesh-operator", node_name(1), false);
        tell(program,
             {"--etcd-config", paths_.etc("admin-etcd.yaml"), "--manifests", paths_.manifests()});
        tell_mesh_size(program);
    }

    void tell_mesh_size(Daemon& daemon) const {
        tell(daemon, {"--max-connected-clusters", std::to_string(state_.max_clusters)});
    }

    void add_agent(const std::string& node) {
        Daemon& agent = add("mesh-agent", node, true);
        tell(agent, {"--node-name", node, "--etcd-config", paths_.etc("local-etcd.yaml")});
        tell(agent, {"--clustermesh-config", paths_.clustermesh()});
        tell(agent, {"--routing-mode", state_.routing, "--masquerade"});
        tell(agent, {"--endpoints", paths_.endpoints(node)});
        tell(agent, {"--datapath", "bpf", "--cgroup", node_cgroup(cgroups_, names_, node)});
        tell(agent, {"--bpffs", kBpfFolder, "--bpf-pin", names_.pins(node)});
        tell(agent, {"--netns-dir", std::string(datapath::netns_directory())});
        tell(agent, {"--netns-prefix", names_.pods_of(node)});
        tell_mesh_size(agent);
        if (state_.encryption == "none") return;
        tell(agent, {"--encryption", state_.encryption});
        tell(agent, {"--wireguard-key-file", wireguard_key_file(paths_, node)});
        if (state_.encryption_strict) tell(agent, {"--encryption-strict"});
    }

    const State& state_;
    const std::string& cgroups_;
    Paths paths_;
    Names names_;
    std::vector<Daemon> daemons_;
};

bool daemon_answers(const Names& names, const Daemon& daemon) {
    if (!daemon.socket.empty()) return unix_socket_answers(daemon.socket);
    return answers(names.node(daemon.node), model::IpAddress::v4(127, 0, 0, 1), kEtcdPort, "",
                   std::chrono::milliseconds(200));
}

Error daemon_failure(const Daemon& daemon, std::string_view what) {
    std::string log = last_lines(daemon.log, kShownLogLines);
    for (std::size_t at = log.find('\n'); at != std::string::npos; at = log.find('\n', at + 3)) {
        log.insert(at + 1, "  ");
    }
    return unavailable(fmt::format("{} on {} {}; its last lines:\n  {}", daemon.name, daemon.node,
                                   what, log.empty() ? "(none)" : log));
}

Result<void> wait_for_daemon(const Environment& environment, const Names& names,
                             const Daemon& daemon) {
    environment.report(fmt::format("waiting for {} on {}", daemon.name, daemon.node));
    const TimePoint deadline = environment.clock->now() + kStartDeadline;
    for (;;) {
        if (!is_running(daemon.process)) return daemon_failure(daemon, "ended at start");
        if (daemon_answers(names, daemon)) return {};
        if (environment.clock->now() >= deadline) {
            return daemon_failure(
                daemon, fmt::format("does not answer after {} s", kStartDeadline.count()));
        }
        std::this_thread::sleep_for(kPoll);
    }
}

}  // namespace

std::string node_cgroup(const std::string& mount, const Names& names, std::string_view node) {
    return fmt::format("{}/{}", mount, names.node(node));
}
std::string daemons_cgroup(const std::string& mount, const Names& names, std::string_view node) {
    return node_cgroup(mount, names, node) + "/daemons";
}
std::string supervisors_cgroup(const std::string& mount, const Names& names,
                               std::string_view node) {
    return node_cgroup(mount, names, node) + "/supervisors";
}
std::string pod_cgroup(const std::string& mount, const Names& names, const Pod& pod) {
    return fmt::format("{}/pod.{}.{}", node_cgroup(mount, names, pod.node), pod.namespace_,
                       pod.name);
}

std::string etcd_client_yaml(const std::string& endpoint, const std::string& ca,
                             const std::string& certificate, const std::string& key) {
    return fmt::format("endpoints:\n- {}\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
                       endpoint, ca, certificate, key);
}

std::string remote_endpoint(const State& state) {
    return fmt::format("https://{}:{}", node_address4(state.slot, 1).to_string(), kRemotePort);
}

Result<void> write_credentials(const Environment& environment, const State& state,
                               const std::string& inherit) {
    const Paths paths = environment.paths(state.name);
    const WallTime now = environment.clock->wall_now();
    MESH_TRY(const pki::Authority ca, authority_for(environment, state, inherit));
    MESH_CHECK(write_pair(paths, "ca", {ca.certificate(), ca.private_key()}));
    const pki::CertificateRequest server =
        pki::server_request({}, {node_address4(state.slot, 1), node_address6(state.slot, 1)});
    const std::pair<const char*, pki::CertificateRequest> wanted[] = {
        {"server", server},
        {"admin", pki::client_request(pki::admin_common_name(state.name))},
        {"local", pki::client_request(pki::local_common_name(state.name))},
        {"remote", pki::client_request(pki::remote_common_name(state.name))},
    };
    for (const auto& [name, request] : wanted) {
        MESH_TRY(const pki::KeyPair pair, ca.issue(request, now));
        MESH_CHECK(write_pair(paths, name, pair));
    }
    const std::string local =
        fmt::format("https://{}:{}", node_address4(state.slot, 1).to_string(), kLocalPort);
    const std::string admin =
        state.etcd == "real" ? fmt::format("https://127.0.0.1:{}", kEtcdPort) : local;
    MESH_CHECK(pki::write_file(paths.etc("admin-etcd.yaml"),
                               etcd_client_yaml(admin, paths.pki("ca.crt"), paths.pki("admin.crt"),
                                                paths.pki("admin.key")),
                               pki::FileMode::kPublic));
    return pki::write_file(paths.etc("local-etcd.yaml"),
                           etcd_client_yaml(local, paths.pki("ca.crt"), paths.pki("local.crt"),
                                            paths.pki("local.key")),
                           pki::FileMode::kPublic);
}

std::vector<Daemon> plan_daemons(const Environment& environment, const State& state,
                                 const std::string& cgroups) {
    return Planner(environment, state, cgroups).plan();
}

Result<void> check_programs(const Environment& environment, const std::vector<Daemon>& daemons) {
    std::string path;
    for (const std::string& entry : base_environment(environment)) {
        if (entry.starts_with("PATH=")) path = entry.substr(5);
    }
    for (const Daemon& daemon : daemons) {
        if (!find_program(daemon.argv.front(), path)) {
            return not_found(fmt::format("program {}: not found in {}", daemon.argv.front(), path));
        }
    }
    return {};
}

Result<std::size_t> start_all(const Environment& environment, const Names& names,
                              std::vector<Daemon*> daemons) {
    MESH_TRY(const std::string cgroups, cgroup_mount());
    std::size_t started = 0;
    for (Daemon* daemon : daemons) {
        if (is_running(daemon->process)) continue;
        ProcessSpec spec;
        spec.argv = daemon->argv;
        spec.environment = base_environment(environment);
        spec.netns = names.node(daemon->node);
        spec.cgroup = daemons_cgroup(cgroups, names, daemon->node);
        spec.log_file = daemon->log;
        auto process = start_process(spec);
        if (!process) {
            return std::move(process).error().with_prefix(
                fmt::format("start {} on {}", daemon->name, daemon->node));
        }
        daemon->process = *process;
        ++started;
        // The others would only log that they cannot reach it yet.
        if (daemon->name == "etcd" || daemon->name == "mesh-proxy") {
            MESH_CHECK(wait_for_daemon(environment, names, *daemon));
        }
    }
    for (const Daemon* daemon : daemons) {
        MESH_CHECK(wait_for_daemon(environment, names, *daemon));
    }
    return started;
}

std::vector<std::string> base_environment(const Environment& environment) {
    const char* inherited = std::getenv("PATH");
    std::vector<std::string> variables{
        fmt::format("PATH={}:{}", environment.programs,
                    inherited != nullptr ? inherited : "/usr/sbin:/usr/bin:/sbin:/bin")};
    for (const char* name : {"HOME", "LANG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}) {
        if (const char* value = std::getenv(name); value != nullptr) {
            variables.push_back(fmt::format("{}={}", name, value));
        }
    }
    return variables;
}

}  // namespace mesh::sandbox
