// create, destroy, list; the daemons' kill and start; the CA by itself.
#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <boost/json/object.hpp>
#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "datapath/netlink/netns.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "sandbox/cgroup.hpp"
#include "sandbox/daemons.hpp"
#include "sandbox/encryption.hpp"
#include "sandbox/internal.hpp"
#include "sandbox/ipam.hpp"
#include "sandbox/network.hpp"

namespace mesh::sandbox {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRunFolder = "/run/libmesh";
constexpr const char* kUnderlayLock = "/run/libmesh/underlay.lock";
constexpr const char* kBpfFolder = "/sys/fs/bpf";
constexpr std::chrono::milliseconds kStopGrace{3000};
// sockaddr_un holds 107 bytes; the longest socket is run/mesh-agent-node250.sock.
constexpr std::size_t kMaxFolder = 107 - 29;

Error no_sandbox(std::string_view name) {
    return not_found(fmt::format("no sandbox named {}", name));
}

Result<void> make_folders(const Paths& paths) {
    std::error_code error;
    for (const char* name :
         {"pki", "etc", "logs", "run", "data", "manifests", "clustermesh", "endpoints"}) {
        const fs::path folder = fs::path(paths.folder) / name;
        fs::create_directories(folder, error);
        if (error) {
            return unavailable(fmt::format("create {}: {}", folder.string(), error.message()));
        }
    }
    fs::permissions(paths.folder + "/pki", fs::perms::owner_all, error);
    return {};
}

// The folder is there from here on; what is found in it decides whether the name is free.
Result<FileLock> claim_folder(const Paths& paths) {
    std::error_code error;
    fs::create_directories(paths.folder, error);
    if (error) return unavailable(fmt::format("create {}: {}", paths.folder, error.message()));
    return FileLock::acquire(paths.lock(), true);
}

// The bpffs that daemons pin their maps in; usually mounted by systemd.
Result<void> mount_bpffs() {
    struct statfs status {};
    if (::statfs(kBpfFolder, &status) == 0 &&
        static_cast<unsigned long>(status.f_type) == BPF_FS_MAGIC) {
        return {};
    }
    if (::mount("bpf", kBpfFolder, "bpf", 0, "mode=0700") != 0) {
        return unavailable(fmt::format("mount a bpf file system on {}: {}", kBpfFolder,
                                       std::generic_category().message(errno)));
    }
    return {};
}

std::vector<std::string> entries_with_prefix(const std::string& folder, const std::string& prefix) {
    std::vector<std::string> found;
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        if (it->path().filename().string().starts_with(prefix)) {
            found.push_back(it->path().string());
        }
    }
    return found;
}

Result<State> checked_state(const CreateOptions& options) {
    State state;
    state.name = options.name;
    state.cluster_id = options.cluster_id;
    state.nodes = options.nodes;
    state.routing = options.routing;
    if (state.routing != "tunnel" && state.routing != "native") {
        return invalid_argument(
            fmt::format("routing \"{}\": expected tunnel or native", options.routing));
    }
    state.encryption = options.encryption;
    state.encryption_strict = options.encryption_strict;
    if (state.encryption != "none" && state.encryption != "wireguard") {
        return invalid_argument(
            fmt::format("encryption \"{}\": expected wireguard or none{}", options.encryption,
                        options.encryption == "ipsec" ? "; there is no IPsec here" : ""));
    }
    if (state.encryption == "none" && state.encryption_strict) {
        return invalid_argument("strict encryption: expected encryption wireguard");
    }
    state.etcd = !options.daemons ? "none" : options.real_etcd ? "real" : "embedded";
    state.max_clusters = options.max_clusters;
    if (options.max_clusters != 255 && options.max_clusters != 511) {
        return invalid_argument(
            fmt::format("max connected clusters {}: expected 255 or 511", options.max_clusters));
    }
    if (options.cluster_id == 0 || options.cluster_id > options.max_clusters) {
        return invalid_argument(fmt::format("cluster id {}: expected 1 to {}", options.cluster_id,
                                            options.max_clusters));
    }
    if (options.nodes == 0 || options.nodes > kMaxNodes) {
        return invalid_argument(
            fmt::format("nodes: {}: expected 1 to {}", options.nodes, kMaxNodes));
    }
    MESH_TRY(state.pod_cidrs, parse_cidrs("pod CIDR", options.pod_cidr));
    MESH_TRY(state.service_cidrs, parse_cidrs("service CIDR", options.service_cidr));
    if (state.service_cidrs.size() > state.pod_cidrs.size()) {
        return invalid_argument("service CIDR: expected no IPv6 one without an IPv6 pod CIDR");
    }
    const model::IpPrefix underlay(node_address4(0, 0), kUnderlayLength4);
    std::vector<model::IpPrefix> taken{underlay};
    for (const auto* cidrs : {&state.pod_cidrs, &state.service_cidrs}) {
        for (const model::IpPrefix& cidr : *cidrs) {
            for (const model::IpPrefix& other : taken) {
                if (cidr.contains(other) || other.contains(cidr)) {
                    return invalid_argument(
                        fmt::format("CIDR {} overlaps {}{}", cidr.to_string(), other.to_string(),
                                    other == underlay ? ", the nodes' own" : ""));
                }
            }
            taken.push_back(cidr);
        }
    }
    auto nodes = nodes_of(state);
    if (!nodes) return std::move(nodes).error();
    return state;
}

boost::json::object namespace_manifest(std::string_view name) {
    return {{"apiVersion", "v1"},
            {"kind", "Namespace"},
            {"metadata", boost::json::object{{"name", name}}}};
}

// Leftovers on the machine, besides the state folder.
Result<bool> has_leftovers(const Names& names) {
    MESH_TRY(const std::vector<std::string> spaces, datapath::list_netns(names.prefix()));
    auto mount = cgroup_mount();
    return !spaces.empty() || !entries_with_prefix(kBpfFolder, names.pins_prefix()).empty() ||
           (mount && !entries_with_prefix(*mount, names.prefix()).empty());
}

Result<void> build_nodes(const Environment& environment, const Names& names, State& state) {
    const Paths paths = environment.paths(state.name);
    std::error_code ignored;
    fs::create_directories(kRunFolder, ignored);
    {
        // Held until the first node is plugged in: that is what takes the place.
        MESH_TRY(const FileLock lock, FileLock::acquire(kUnderlayLock, true));
        MESH_TRY(state.slot, reserve_slot());
        MESH_CHECK(save_state(paths, state));
        MESH_CHECK(add_node(names, state.slot, 1));
    }
    MESH_TRY(const std::string cgroups, cgroup_mount());
    for (std::uint32_t number = 1; number <= state.nodes; ++number) {
        environment.report(fmt::format("node {} of {}", number, state.nodes));
        if (number > 1) MESH_CHECK(add_node(names, state.slot, number));
        MESH_CHECK(make_cgroup(node_cgroup(cgroups, names, node_name(number))));
        MESH_CHECK(make_cgroup(daemons_cgroup(cgroups, names, node_name(number))));
        MESH_CHECK(make_cgroup(supervisors_cgroup(cgroups, names, node_name(number))));
    }
    return {};
}

Result<void> build(const Environment& environment, const Names& names, const CreateOptions& options,
                   State& state) {
    const Paths paths = environment.paths(state.name);
    MESH_CHECK(save_state(paths, state));
    MESH_CHECK(make_folders(paths));
    MESH_CHECK(build_nodes(environment, names, state));
    environment.report("certificates");
    MESH_CHECK(write_credentials(environment, state, options.inherit_ca));
    if (state.encryption == "wireguard") MESH_CHECK(make_wireguard_keys(paths, state));
    state.objects.namespaces["default"] = namespace_manifest("default");
    MESH_CHECK(sync_manifests(paths, state));
    if (options.daemons) {
        MESH_CHECK(mount_bpffs());
        MESH_TRY(const std::string cgroups, cgroup_mount());
        state.daemons = plan_daemons(environment, state, cgroups);
        std::vector<Daemon*> all;
        for (Daemon& daemon : state.daemons) all.push_back(&daemon);
        MESH_CHECK(start_all(environment, names, all));
    }
    state.complete = true;
    return save_state(paths, state);
}

// Asks everything to end and waits a little. Not for the supervisors: they wait for the lock that
// we hold, and have nothing to finish.
void stop_processes(const Names& names) {
    const auto mount = cgroup_mount();
    if (!mount) return;
    std::vector<std::string> groups;
    for (const std::string& node : entries_with_prefix(*mount, names.prefix())) {
        for (const std::string& group : entries_with_prefix(node, "")) {
            if (fs::is_directory(group) && fs::path(group).filename() != "supervisors") {
                groups.push_back(group);
            }
        }
    }
    for (const std::string& group : groups) signal_cgroup(group, SIGTERM);
    const auto deadline = std::chrono::steady_clock::now() + kStopGrace;
    for (const std::string& group : groups) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        if (!wait_cgroup_empty(group, std::max(left, std::chrono::milliseconds(0)))) break;
    }
}

// Goes on after a failure: what can be removed is removed. The first failure is returned.
Result<void> remove_everything(const Environment& environment, const Names& names,
                               const Paths& paths) {
    Result<void> outcome;
    const auto note = [&](Result<void> result) {
        if (!result && outcome) outcome = std::move(result);
    };
    environment.report("stopping processes");
    stop_processes(names);
    if (const auto mount = cgroup_mount(); mount) {
        for (const std::string& folder : entries_with_prefix(*mount, names.prefix())) {
            note(destroy_cgroup(folder));
            const std::string node = fs::path(folder).filename().string();
            remove_wireguard_sockets(names.sandbox(), node.substr(names.prefix().size()));
        }
    }
    environment.report("removing namespaces");
    note(remove_namespaces(names));
    std::error_code error;
    for (const std::string& pins : entries_with_prefix(kBpfFolder, names.pins_prefix())) {
        fs::remove_all(pins, error);
        if (error) note(unavailable(fmt::format("remove {}: {}", pins, error.message())));
    }
    if (fs::exists(kRunFolder)) {
        if (auto lock = FileLock::acquire(kUnderlayLock, true); lock) {
            note(remove_underlay_if_unused());
            if (!datapath::Netns::open(kUnderlayNetns)) ::unlink(kUnderlayLock);
        } else {
            note(lock.error());
        }
    }
    if (!outcome) return outcome;
    fs::remove_all(paths.folder, error);
    if (error) return unavailable(fmt::format("remove {}: {}", paths.folder, error.message()));
    // Only what is empty goes.
    ::rmdir(environment.root.c_str());
    ::rmdir(kRunFolder);
    return outcome;
}

std::vector<Daemon*> select_daemons(State& state, std::string_view daemon, std::string_view node) {
    std::vector<Daemon*> selected;
    for (Daemon& candidate : state.daemons) {
        if ((daemon.empty() || candidate.name == daemon) &&
            (node.empty() || candidate.node == node)) {
            selected.push_back(&candidate);
        }
    }
    return selected;
}

Result<std::vector<Daemon*>> require_daemons(State& state, std::string_view daemon,
                                             std::string_view node) {
    std::vector<Daemon*> selected = select_daemons(state, daemon, node);
    if (selected.empty()) {
        std::set<std::string> known;
        for (const Daemon& candidate : state.daemons) known.insert(candidate.name);
        return not_found(
            fmt::format("sandbox {} has no daemon {}{}{}; it has: {}", state.name, daemon,
                        node.empty() ? "" : " on ", node,
                        known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
    }
    return selected;
}

}  // namespace

Paths Environment::paths(std::string_view sandbox) const {
    return Paths{fmt::format("{}/{}", root, sandbox)};
}

Result<void> check_root() {
    if (::geteuid() != 0) {
        return Error(Errc::kPermission, "a sandbox needs root: network namespaces, cgroups, BPF");
    }
    return {};
}

Result<Opened> open_locked(const Environment& environment, std::string_view name) {
    MESH_CHECK(check_root());
    MESH_TRY(Names names, Names::make(name));
    Paths paths = environment.paths(name);
    auto lock = FileLock::acquire(paths.lock(), false);
    if (!lock) {
        if (lock.error().code() == Errc::kNotFound) return no_sandbox(name);
        return std::move(lock).error();
    }
    MESH_TRY(State state, open_complete(environment, name));
    return Opened{std::move(names), std::move(paths), *std::move(lock), std::move(state)};
}

Result<State> open_complete(const Environment& environment, std::string_view name) {
    MESH_TRY(State state, describe(environment, name));
    if (!state.complete) {
        return unavailable(fmt::format(
            "sandbox {0} is half made: meshctl sandbox delete --name {0}, then create it", name));
    }
    return state;
}

Result<void> sync_manifests(const Paths& paths, const State& state) {
    ClusterObjects objects = state.objects;
    MESH_TRY(objects.nodes, nodes_of(state));
    const std::map<std::string, std::string> wanted = render_manifests(objects);
    std::error_code error;
    std::set<std::string> present;
    for (fs::directory_iterator it(paths.manifests(), error), end; !error && it != end;
         it.increment(error)) {
        present.insert(it->path().filename().string());
    }
    for (const auto& [name, content] : wanted) {
        const std::string path = fmt::format("{}/{}", paths.manifests(), name);
        const auto there = pki::read_file(path, std::size_t{16} << 20);
        if (!there || *there != content) {
            MESH_CHECK(pki::write_file(path, content, pki::FileMode::kPublic, paths.folder));
        }
    }
    for (const std::string& name : present) {
        if (!wanted.contains(name)) fs::remove(fs::path(paths.manifests()) / name, error);
    }
    return {};
}

Result<void> create(const Environment& environment, const CreateOptions& options) {
    MESH_TRY(const Names names, Names::make(options.name));
    MESH_TRY(State state, checked_state(options));
    const Paths paths = environment.paths(options.name);
    if (paths.folder.size() > kMaxFolder) {
        return invalid_argument(fmt::format("{}: expected at most {} bytes, for Unix sockets below",
                                            paths.folder, kMaxFolder));
    }
    MESH_CHECK(check_root());
    MESH_CHECK(cgroup_mount());
    if (options.daemons) {
        MESH_CHECK(check_programs(environment, plan_daemons(environment, state, "/")));
    }
    MESH_TRY(const FileLock lock, claim_folder(paths));
    MESH_TRY(const bool leftovers, has_leftovers(names));
    if (fs::exists(paths.state()) || leftovers) {
        return Error(
            Errc::kConflict,
            fmt::format("sandbox {0} exists: meshctl sandbox delete --name {0}", options.name));
    }
    auto built = build(environment, names, options, state);
    if (!built) {
        environment.report("undoing what was made");
        (void)!remove_everything(environment, names, paths);
    }
    return built;
}

Result<void> destroy(const Environment& environment, std::string_view name) {
    MESH_CHECK(check_root());
    MESH_TRY(const Names names, Names::make(name));
    const Paths paths = environment.paths(name);
    MESH_TRY(const bool leftovers, has_leftovers(names));
    if (!fs::exists(paths.folder) && !leftovers) return no_sandbox(name);
    MESH_TRY(const FileLock lock, claim_folder(paths));
    // From here on other commands refuse it, also when this one is cut short.
    if (auto state = load_state(paths); state && state->complete) {
        state->complete = false;
        MESH_CHECK(save_state(paths, *state));
    }
    return remove_everything(environment, names, paths);
}

Result<State> describe(const Environment& environment, std::string_view name) {
    MESH_CHECK(Names::make(name));
    auto state = load_state(environment.paths(name));
    if (!state && state.error().code() == Errc::kNotFound) return no_sandbox(name);
    return state;
}

Result<std::vector<Summary>> list(const Environment& environment) {
    std::map<std::string, Summary> found;
    for (const std::string& path : entries_with_prefix(environment.root, "")) {
        const std::string name = fs::path(path).filename().string();
        if (fs::is_directory(path) && Names::make(name)) found[name].name = name;
    }
    MESH_TRY(const std::vector<std::string> spaces, datapath::list_netns("mesh-"));
    for (const std::string& space : spaces) {
        if (const auto name = sandbox_of(space)) found[*name].name = *name;
    }
    std::vector<Summary> out;
    for (auto& [name, summary] : found) {
        if (auto state = load_state(environment.paths(name)); state) {
            for (const Daemon& daemon : state->daemons) {
                summary.running_daemons += is_running(daemon.process) ? 1 : 0;
            }
            summary.state = *std::move(state);
        }
        out.push_back(std::move(summary));
    }
    return out;
}

Result<std::size_t> kill_daemons(const Environment& environment, std::string_view name,
                                 std::string_view daemon, std::string_view node) {
    MESH_TRY(Opened sandbox, open_locked(environment, name));
    MESH_TRY(const std::vector<Daemon*> selected, require_daemons(sandbox.state, daemon, node));
    std::size_t killed = 0;
    for (const Daemon* candidate : selected) {
        if (!signal_process(candidate->process, SIGKILL)) continue;
        ++killed;
        while (is_running(candidate->process)) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
    return killed;
}

Result<std::size_t> start_daemons(const Environment& environment, std::string_view name,
                                  std::string_view daemon, std::string_view node) {
    MESH_TRY(Opened sandbox, open_locked(environment, name));
    MESH_TRY(const std::vector<Daemon*> selected, require_daemons(sandbox.state, daemon, node));
    auto started = start_all(environment, sandbox.names, selected);
    // Also after a failure: what was started is running.
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    return started;
}

Result<void> init_ca(const Environment& environment, const std::string& folder,
                     std::string_view common_name) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) return unavailable(fmt::format("create {}: {}", folder, error.message()));
    for (const char* file : {"/ca.crt", "/ca.key"}) {
        if (fs::exists(folder + file)) {
            return Error(Errc::kConflict,
                         fmt::format("{}{} exists: a CA is not replaced", folder, file));
        }
    }
    MESH_TRY(const pki::Authority ca,
             pki::Authority::make(common_name, std::chrono::hours(24 * 3650),
                                  environment.clock->wall_now()));
    MESH_CHECK(pki::write_file(folder + "/ca.key", ca.private_key(), pki::FileMode::kPrivate));
    return pki::write_file(folder + "/ca.crt", ca.certificate(), pki::FileMode::kPublic);
}

}  // namespace mesh::sandbox
