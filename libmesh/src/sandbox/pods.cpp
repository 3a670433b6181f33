#include "sandbox/pods.hpp"
#include "sandbox/encryption.hpp"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <thread>

#include "sandbox/cgroup.hpp"
#include "sandbox/daemons.hpp"
#include "sandbox/ipam.hpp"
#include "sandbox/network.hpp"
#include "sandbox/probe.hpp"

namespace mesh::sandbox {
namespace {

constexpr std::chrono::seconds kReadyDeadline{30};
constexpr std::chrono::milliseconds kProbeTimeout{500};
constexpr std::chrono::milliseconds kPoll{5};
constexpr std::size_t kShownLogLines = 5;

std::string log_name(const Pod& pod) {
    return fmt::format("pod.{}.{}", pod.namespace_, pod.name);
}
std::string full_name(const Pod& pod) {
    return fmt::format("{}/{}", pod.namespace_, pod.name);
}

PodWires wires_of(const Opened& sandbox, const Pod& pod) {
    return {.node = pod.node,
            .namespace_ = pod.namespace_,
            .name = pod.name,
            .uid = pod.uid,
            .ips = pod.ips,
            .mtu = pod_mtu(sandbox.state),
            .endpoints = sandbox.paths.endpoints(pod.node)};
}

std::string rfc3339(WallTime time) {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                       fmt::gmtime(std::chrono::system_clock::to_time_t(
                           std::chrono::time_point_cast<std::chrono::seconds>(time))));
}

Result<const NodeInfo*> choose_node(const State& state, const std::vector<NodeInfo>& nodes,
                                    const std::optional<std::string>& wanted) {
    const NodeInfo* best = nullptr;
    std::size_t fewest = 0;
    for (const NodeInfo& node : nodes) {
        if (wanted && node.name != *wanted) continue;
        const auto load = static_cast<std::size_t>(
            std::count_if(state.objects.pods.begin(), state.objects.pods.end(),
                          [&](const auto& entry) { return entry.second.node == node.name; }));
        if (best == nullptr || load < fewest) {
            best = &node;
            fewest = load;
        }
    }
    if (best == nullptr) {
        return invalid_argument(
            fmt::format("spec.nodeName: no node {} in {}", *wanted, state.name));
    }
    return best;
}

std::string field_of(const Pod& pod, const NodeInfo& node, const std::string& field) {
    if (field == "metadata.name") return pod.name;
    if (field == "metadata.namespace") return pod.namespace_;
    if (field == "metadata.uid") return pod.uid;
    if (field == "spec.nodeName") return pod.node;
    if (field == "status.podIP") return pod.ips.front().to_string();
    return node.addresses.front().to_string();
}

Error pod_failure(const Paths& paths, const Pod& pod, std::string_view what) {
    const std::string log = last_lines(paths.log(log_name(pod)), kShownLogLines);
    return unavailable(fmt::format("pod {} {}{}", full_name(pod), what,
                                   log.empty() ? "" : "; its last lines:\n" + log));
}

// Waits for the supervisor's word on the start: "ok", or why not.
std::string read_report(int fd) {
    std::string report;
    char buffer[512];
    for (;;) {
        const ssize_t n = ::read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        report.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(fd);
    return report;
}

void set_failed(Pod& pod, std::string message) {
    pod.phase = PodPhase::kFailed;
    pod.ready = false;
    pod.message = std::move(message);
}

Result<void> start_pod(const Environment& environment, const Opened& sandbox,
                       const std::string& cgroups, Pod& pod) {
    // What a killed command left of this very pod.
    MESH_CHECK(destroy_cgroup(pod_cgroup(cgroups, sandbox.names, pod)));
    MESH_CHECK(remove_pod(sandbox.names, wires_of(sandbox, pod)));
    MESH_CHECK(add_pod(sandbox.names, wires_of(sandbox, pod)));
    MESH_CHECK(make_cgroup(pod_cgroup(cgroups, sandbox.names, pod)));
    int report[2] = {-1, -1};
    if (::pipe2(report, O_CLOEXEC) != 0) return unavailable("no more descriptors");
    ProcessSpec supervisor;
    supervisor.argv = {environment.programs + "/meshctl",
                       "sandbox",
                       "supervise",
                       "--root",
                       environment.root,
                       "--cluster",
                       sandbox.state.name,
                       "--ready-fd",
                       std::to_string(report[1]),
                       full_name(pod)};
    supervisor.environment = base_environment(environment);
    supervisor.cgroup = supervisors_cgroup(cgroups, sandbox.names, pod.node);
    supervisor.log_file = sandbox.paths.log("supervisors");
    supervisor.keep_fd = report[1];
    auto started = start_process(supervisor);
    ::close(report[1]);
    const std::string word = read_report(report[0]);
    if (!started) return std::move(started).error();
    if (word != "ok") {
        return unavailable(word.empty() ? "the supervisor ended at once" : word);
    }
    return {};
}

// Whether a started pod became ready, waiting for its probe.
Result<void> wait_ready(const Environment& environment, const Opened& sandbox,
                        const std::string& cgroups, Pod& pod) {
    MESH_TRY(const PodSpec spec, parse_pod_spec(pod.manifest));
    if (!spec.readiness) return {};
    environment.report(fmt::format("waiting for pod {}", full_name(pod)));
    const TimePoint deadline = environment.clock->now() + kReadyDeadline;
    while (!answers(sandbox.names.node(pod.node), pod.ips.front(), spec.readiness->port,
                    spec.readiness->http ? spec.readiness->path : "", kProbeTimeout)) {
        if (cgroup_processes(pod_cgroup(cgroups, sandbox.names, pod)).empty()) {
            return pod_failure(sandbox.paths, pod, "ended at start");
        }
        if (environment.clock->now() >= deadline) {
            return pod_failure(sandbox.paths, pod,
                               fmt::format("is not ready after {} s", kReadyDeadline.count()));
        }
        std::this_thread::sleep_for(kPoll);
    }
    return {};
}

struct Stopping {
    Pod* pod;
    std::string cgroup;
    TimePoint asked_at, killed_at;
    bool asked = false;
};

// SIGTERM when the pod's preStop sleep is over; true once nothing of it runs or its time is up.
bool step(Stopping& stopping, TimePoint now) {
    if (cgroup_processes(stopping.cgroup).empty()) return true;
    if (!stopping.asked && now >= stopping.asked_at) {
        stopping.asked = true;
        signal_cgroup(stopping.cgroup, SIGTERM);
    }
    return now >= stopping.killed_at;
}

}  // namespace

Result<Pod*> admit_pod(const Environment& environment, Opened& sandbox,
                       boost::json::object manifest, const std::string& owner) {
    State& state = sandbox.state;
    MESH_TRY(const PodSpec spec, parse_pod_spec(manifest));
    MESH_TRY(const std::vector<NodeInfo> nodes, nodes_of(state));
    MESH_TRY(const NodeInfo* node, choose_node(state, nodes, spec.node));
    Pod pod;
    pod.namespace_ = std::string(find_path(manifest, "metadata.namespace")->as_string());
    pod.name = std::string(find_path(manifest, "metadata.name")->as_string());
    pod.node = node->name;
    pod.manifest = std::move(manifest);
    pod.owner = owner;
    pod.uid = fmt::format("{}-{}", state.name, state.next_uid++);
    pod.started_at = rfc3339(environment.clock->wall_now());
    const auto in_use = [&](const model::IpAddress& ip) {
        return std::any_of(state.objects.pods.begin(), state.objects.pods.end(),
                           [&](const auto& entry) {
                               const auto& ips = entry.second.ips;
                               return std::find(ips.begin(), ips.end(), ip) != ips.end();
                           });
    };
    for (const model::IpPrefix& block : node->pod_blocks) {
        std::uint64_t& cursor =
            state.cursors[fmt::format("pods/{}/{}", node->name, block.is_v4() ? 4 : 6)];
        MESH_TRY(const model::IpAddress ip, take_address(block, cursor, in_use));
        pod.ips.push_back(ip);
    }
    const std::pair<std::string, std::string> key(pod.namespace_, pod.name);
    Pod& admitted = state.objects.pods[key];
    admitted = std::move(pod);
    return &admitted;
}

Result<void> start_pods(const Environment& environment, Opened& sandbox,
                        const std::vector<Pod*>& pods) {
    MESH_TRY(const std::string cgroups, cgroup_mount());
    // The supervisors read it, and a command that is killed here must be found in it.
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    Result<void> outcome;
    const auto fail = [&](Pod& pod, const Error& error) {
        set_failed(pod, error.detail());
        if (outcome) outcome = error;
    };
    std::vector<Pod*> started;
    for (Pod* pod : pods) {
        environment.report(fmt::format("starting pod {}", full_name(*pod)));
        if (auto result = start_pod(environment, sandbox, cgroups, *pod); !result) {
            fail(*pod, result.error().with_prefix(fmt::format("pod {}", full_name(*pod))));
        } else {
            pod->phase = PodPhase::kRunning;
            started.push_back(pod);
        }
    }
    for (Pod* pod : started) {
        auto result = wait_ready(environment, sandbox, cgroups, *pod);
        if (result) {
            pod->ready = true;
        } else if (cgroup_processes(pod_cgroup(cgroups, sandbox.names, *pod)).empty()) {
            fail(*pod, result.error());
        } else {
            pod->message = result.error().detail();
            if (outcome) outcome = result;
        }
    }
    MESH_CHECK(sync_manifests(sandbox.paths, sandbox.state));
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    return outcome;
}

Result<void> stop_pods(const Environment& environment, Opened& sandbox,
                       const std::vector<Pod*>& pods) {
    MESH_TRY(const std::string cgroups, cgroup_mount());
    const TimePoint now = environment.clock->now();
    std::vector<Stopping> stopping;
    for (Pod* pod : pods) {
        pod->terminating = true;
        const auto spec = parse_pod_spec(pod->manifest);
        const std::chrono::seconds sleep(spec ? spec->pre_stop_seconds : 0);
        // Kubernetes counts the hook's time as part of the grace period.
        const std::chrono::seconds grace(
            spec ? std::max(spec->grace_seconds, spec->pre_stop_seconds + 1) : 0);
        stopping.push_back(
            {pod, pod_cgroup(cgroups, sandbox.names, *pod), now + sleep, now + grace});
    }
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    MESH_CHECK(sync_manifests(sandbox.paths, sandbox.state));
    for (Stopping& each : stopping) {
        while (!step(each, environment.clock->now())) {
            environment.report(fmt::format("waiting for pod {} to end", full_name(*each.pod)));
            // All of them, so that none waits for another's turn to be asked.
            for (Stopping& other : stopping) (void)step(other, environment.clock->now());
            std::this_thread::sleep_for(kPoll);
        }
    }
    Result<void> outcome;
    for (const Stopping& each : stopping) {
        auto result = destroy_cgroup(each.cgroup);
        if (result) result = remove_pod(sandbox.names, wires_of(sandbox, *each.pod));
        if (!result) {
            if (outcome) outcome = result;
            continue;
        }
        ::unlink(sandbox.paths.log(log_name(*each.pod)).c_str());
        sandbox.state.objects.pods.erase({each.pod->namespace_, each.pod->name});
    }
    MESH_CHECK(sync_manifests(sandbox.paths, sandbox.state));
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    return outcome;
}

Result<ProcessSpec> pod_process(const Environment& environment, const State& state,
                                const Names& names, const Pod& pod) {
    MESH_TRY(const std::string cgroups, cgroup_mount());
    MESH_TRY(const PodSpec spec, parse_pod_spec(pod.manifest));
    MESH_TRY(const std::vector<NodeInfo> nodes, nodes_of(state));
    const auto node = std::find_if(nodes.begin(), nodes.end(),
                                   [&](const NodeInfo& info) { return info.name == pod.node; });
    if (node == nodes.end()) return internal(fmt::format("pod {} has no node", full_name(pod)));
    ProcessSpec process;
    process.argv = spec.command;
    process.environment = base_environment(environment);
    const std::pair<const char*, std::string> usual[] = {{"MESH_CLUSTER", state.name},
                                                         {"MESH_NODE", pod.node},
                                                         {"MESH_NAMESPACE", pod.namespace_},
                                                         {"MESH_POD", pod.name},
                                                         {"HOSTNAME", pod.name},
                                                         {"POD_IP", pod.ips.front().to_string()}};
    for (const auto& [name, value] : usual) {
        process.environment.push_back(fmt::format("{}={}", name, value));
    }
    for (const EnvironmentEntry& entry : spec.environment) {
        process.environment.push_back(
            fmt::format("{}={}", entry.name,
                        entry.field.empty() ? entry.value : field_of(pod, *node, entry.field)));
    }
    process.netns = names.pod(pod.node, pod.namespace_, pod.name);
    process.cgroup = pod_cgroup(cgroups, names, pod);
    if (!spec.working_directory.empty()) process.working_directory = spec.working_directory;
    process.log_file = environment.paths(state.name).log(log_name(pod));
    return process;
}

Result<void> supervise(const Environment& environment, std::string_view name, std::string_view pod,
                       int ready_fd) {
    const auto tell = [&](std::string_view word) {
        if (ready_fd >= 0) {
            (void)!::write(ready_fd, word.data(), word.size());
            ::close(ready_fd);
        }
    };
    // Without the lock: the command that started this holds it, and has saved the state before.
    const auto start = [&]() -> Result<std::pair<std::string, ProcessId>> {
        MESH_TRY(const Names names, Names::make(name));
        MESH_TRY(const State state, open_complete(environment, name));
        const std::size_t slash = pod.find('/');
        if (slash == std::string_view::npos) return invalid_argument("expected <namespace>/<pod>");
        const auto found = state.objects.pods.find(
            {std::string(pod.substr(0, slash)), std::string(pod.substr(slash + 1))});
        if (found == state.objects.pods.end()) {
            return not_found(fmt::format("no pod {} in {}", pod, name));
        }
        MESH_TRY(ProcessSpec spec, pod_process(environment, state, names, found->second));
        spec.keep_fd = -1;
        MESH_TRY(const ProcessId process, start_process(spec));
        return std::pair(found->second.uid, process);
    };
    auto started = start();
    if (!started) {
        tell(started.error().detail());
        return std::move(started).error();
    }
    tell("ok");
    // Signals are for the pod: it is asked to stop through its cgroup, and this waits for that.
    ::signal(SIGTERM, SIG_IGN);
    ::signal(SIGHUP, SIG_IGN);
    int status = 0;
    while (::waitpid(started->second.pid, &status, 0) < 0 && errno == EINTR) {
    }
    MESH_TRY(Opened sandbox, open_locked(environment, name));
    for (auto& [key, record] : sandbox.state.objects.pods) {
        if (record.uid != started->first || record.terminating) continue;
        record.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        record.phase = *record.exit_code == 0 ? PodPhase::kSucceeded : PodPhase::kFailed;
        record.ready = false;
        if (WIFSIGNALED(status)) {
            record.message = fmt::format("ended by signal {}", WTERMSIG(status));
        }
        MESH_CHECK(sync_manifests(sandbox.paths, sandbox.state));
        return save_state(sandbox.paths, sandbox.state);
    }
    return {};
}

}  // namespace mesh::sandbox
