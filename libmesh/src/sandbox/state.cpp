#include "sandbox/state.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <system_error>

#include "pki/files.hpp"
#include "sandbox/ipam.hpp"

namespace mesh::sandbox {
namespace {

namespace json = boost::json;
using Key = std::pair<std::string, std::string>;

constexpr std::size_t kMaxStateBytes = std::size_t{256} << 20;

template <class List>
json::array texts(const List& list) {
    json::array out;
    for (const auto& item : list) out.emplace_back(item.to_string());
    return out;
}
json::array texts(const std::vector<std::string>& list) {
    return json::array(list.begin(), list.end());
}

std::string text(const json::value& value) {
    return std::string(value.as_string());
}

json::object to_json(const Pod& pod) {
    json::object out{{"namespace", pod.namespace_},
                     {"name", pod.name},
                     {"node", pod.node},
                     {"ips", texts(pod.ips)},
                     {"manifest", pod.manifest},
                     {"owner", pod.owner},
                     {"uid", pod.uid},
                     {"phase", static_cast<std::int64_t>(pod.phase)},
                     {"ready", pod.ready},
                     {"terminating", pod.terminating},
                     {"message", pod.message},
                     {"started_at", pod.started_at}};
    if (pod.exit_code) out["exit_code"] = *pod.exit_code;
    return out;
}

// The readers below throw what boost::json throws on a wrong type; decode_state turns that into one
// error: the file is ours alone, so any surprise in it means that it is damaged.
std::vector<model::IpAddress> addresses(const json::value& value) {
    std::vector<model::IpAddress> out;
    for (const auto& item : value.as_array()) {
        out.push_back(model::IpAddress::parse(text(item)).value());
    }
    return out;
}

std::vector<model::IpPrefix> prefixes(const json::value& value) {
    std::vector<model::IpPrefix> out;
    for (const auto& item : value.as_array()) {
        out.push_back(model::IpPrefix::parse(text(item)).value());
    }
    return out;
}

Pod pod_from(const json::object& in) {
    Pod pod;
    pod.namespace_ = text(in.at("namespace"));
    pod.name = text(in.at("name"));
    pod.node = text(in.at("node"));
    pod.ips = addresses(in.at("ips"));
    pod.manifest = in.at("manifest").as_object();
    pod.owner = text(in.at("owner"));
    pod.uid = text(in.at("uid"));
    pod.phase = static_cast<PodPhase>(in.at("phase").to_number<std::uint8_t>());
    pod.ready = in.at("ready").as_bool();
    pod.terminating = in.at("terminating").as_bool();
    pod.message = text(in.at("message"));
    pod.started_at = text(in.at("started_at"));
    if (const auto* code = in.if_contains("exit_code")) pod.exit_code = code->to_number<int>();
    return pod;
}

json::array manifests_of(const std::map<Key, json::object>& objects) {
    json::array out;
    for (const auto& [key, manifest] : objects) {
        out.push_back(
            json::object{{"namespace", key.first}, {"name", key.second}, {"manifest", manifest}});
    }
    return out;
}

std::map<Key, json::object> manifests_from(const json::value& value) {
    std::map<Key, json::object> out;
    for (const auto& item : value.as_array()) {
        const json::object& entry = item.as_object();
        out[{text(entry.at("namespace")), text(entry.at("name"))}] =
            entry.at("manifest").as_object();
    }
    return out;
}

State state_from(const json::object& in) {
    State state;
    state.name = text(in.at("name"));
    state.cluster_id = in.at("cluster_id").to_number<std::uint32_t>();
    state.max_clusters = in.at("max_clusters").to_number<std::uint32_t>();
    state.pod_cidrs = prefixes(in.at("pod_cidrs"));
    state.service_cidrs = prefixes(in.at("service_cidrs"));
    state.nodes = in.at("nodes").to_number<std::uint32_t>();
    state.slot = in.at("slot").to_number<std::uint32_t>();
    state.routing = text(in.at("routing"));
    state.etcd = text(in.at("etcd"));
    // Written since there is encryption.
    if (const auto* keys = in.if_contains("wireguard_keys")) {
        state.encryption = text(in.at("encryption"));
        state.encryption_strict = in.at("encryption_strict").as_bool();
        for (const auto& [node, key] : keys->as_object()) state.wireguard_keys[node] = text(key);
    }
    state.complete = in.at("complete").as_bool();
    state.next_uid = in.at("next_uid").to_number<std::uint64_t>();
    for (const auto& item : in.at("daemons").as_array()) {
        const json::object& entry = item.as_object();
        Daemon daemon;
        daemon.name = text(entry.at("name"));
        daemon.node = text(entry.at("node"));
        for (const auto& argument : entry.at("argv").as_array()) {
            daemon.argv.push_back(text(argument));
        }
        daemon.socket = text(entry.at("socket"));
        daemon.log = text(entry.at("log"));
        daemon.process.pid = entry.at("pid").to_number<int>();
        daemon.process.start_time = entry.at("start_time").to_number<std::uint64_t>();
        state.daemons.push_back(std::move(daemon));
    }
    for (const auto& [name, manifest] : in.at("namespaces").as_object()) {
        state.objects.namespaces[name] = manifest.as_object();
    }
    state.objects.services = manifests_from(in.at("services"));
    state.objects.slices = manifests_from(in.at("slices"));
    state.deployments = manifests_from(in.at("deployments"));
    // Written since there are policies.
    if (const auto* policies = in.if_contains("policies")) {
        for (const auto& item : policies->as_array()) {
            const json::object& entry = item.as_object();
            state.objects.policies[{text(entry.at("kind")), text(entry.at("namespace")),
                                    text(entry.at("name"))}] = entry.at("manifest").as_object();
        }
    }
    for (const auto& item : in.at("pods").as_array()) {
        Pod pod = pod_from(item.as_object());
        const Key key(pod.namespace_, pod.name);
        state.objects.pods[key] = std::move(pod);
    }
    for (const auto& [name, cursor] : in.at("cursors").as_object()) {
        state.cursors[name] = cursor.to_number<std::uint64_t>();
    }
    return state;
}

}  // namespace

std::string Paths::pki(std::string_view file) const {
    return fmt::format("{}/pki/{}", folder, file);
}
std::string Paths::etc(std::string_view file) const {
    return fmt::format("{}/etc/{}", folder, file);
}
std::string Paths::log(std::string_view name) const {
    return fmt::format("{}/logs/{}.log", folder, name);
}
std::string Paths::socket(std::string_view name) const {
    return fmt::format("{}/run/{}.sock", folder, name);
}
std::string Paths::endpoints(std::string_view node) const {
    return fmt::format("{}/endpoints/{}", folder, node);
}
std::string Paths::data(std::string_view name) const {
    return fmt::format("{}/data/{}", folder, name);
}

std::string encode_state(const State& state) {
    json::object namespaces, cursors, wireguard_keys;
    for (const auto& [node, key] : state.wireguard_keys) wireguard_keys[node] = key;
    for (const auto& [name, manifest] : state.objects.namespaces) namespaces[name] = manifest;
    for (const auto& [name, cursor] : state.cursors) cursors[name] = cursor;
    json::array daemons, pods;
    for (const Daemon& daemon : state.daemons) {
        daemons.push_back(json::object{{"name", daemon.name},
                                       {"node", daemon.node},
                                       {"argv", texts(daemon.argv)},
                                       {"socket", daemon.socket},
                                       {"log", daemon.log},
                                       {"pid", daemon.process.pid},
                                       {"start_time", daemon.process.start_time}});
    }
    for (const auto& [key, pod] : state.objects.pods) pods.push_back(to_json(pod));
    json::array policies;
    for (const auto& [ref, manifest] : state.objects.policies) {
        policies.push_back(json::object{{"kind", ref.kind},
                                        {"namespace", ref.namespace_},
                                        {"name", ref.name},
                                        {"manifest", manifest}});
    }
    const json::object out{{"name", state.name},
                           {"cluster_id", state.cluster_id},
                           {"max_clusters", state.max_clusters},
                           {"pod_cidrs", texts(state.pod_cidrs)},
                           {"service_cidrs", texts(state.service_cidrs)},
                           {"nodes", state.nodes},
                           {"slot", state.slot},
                           {"routing", state.routing},
                           {"encryption", state.encryption},
                           {"encryption_strict", state.encryption_strict},
                           {"wireguard_keys", wireguard_keys},
                           {"etcd", state.etcd},
                           {"complete", state.complete},
                           {"daemons", daemons},
                           {"namespaces", namespaces},
                           {"services", manifests_of(state.objects.services)},
                           {"slices", manifests_of(state.objects.slices)},
                           {"deployments", manifests_of(state.deployments)},
                           {"policies", policies},
                           {"pods", pods},
                           {"cursors", cursors},
                           {"next_uid", state.next_uid}};
    return json::serialize(out) + "\n";
}

Result<State> decode_state(std::string_view content) {
    try {
        return state_from(json::parse(content).as_object());
    } catch (const std::exception& error) {
        return Error(Errc::kCorrupt, fmt::format("not a sandbox's state: {}", error.what()));
    }
}

Result<State> load_state(const Paths& paths) {
    MESH_TRY(const std::string content, pki::read_file(paths.state(), kMaxStateBytes));
    auto state = decode_state(content);
    if (!state) return std::move(state).error().with_prefix(paths.state());
    return state;
}

Result<void> save_state(const Paths& paths, const State& state) {
    return pki::write_file(paths.state(), encode_state(state), pki::FileMode::kPublic);
}

Result<std::vector<NodeInfo>> nodes_of(const State& state) {
    std::vector<NodeInfo> nodes;
    for (std::uint32_t number = 1; number <= state.nodes; ++number) {
        NodeInfo node;
        node.name = node_name(number);
        node.addresses.push_back(node_address4(state.slot, number));
        if (state.pod_cidrs.size() > 1) {
            node.addresses.push_back(node_address6(state.slot, number));
        }
        for (const model::IpPrefix& cidr : state.pod_cidrs) {
            MESH_TRY(const model::IpPrefix block, node_block(cidr, number, state.nodes));
            node.pod_blocks.push_back(block);
        }
        if (const auto key = state.wireguard_keys.find(node.name);
            key != state.wireguard_keys.end()) {
            node.wireguard_key = key->second;
        }
        nodes.push_back(std::move(node));
    }
    return nodes;
}

Result<FileLock> FileLock::acquire(const std::string& path, bool create) {
    for (;;) {
        const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0644);
        if (fd < 0) {
            return Error(errno == ENOENT ? Errc::kNotFound : Errc::kUnavailable,
                         fmt::format("open {}: {}", path, std::generic_category().message(errno)));
        }
        FileLock lock(fd);
        int taken = -1;
        do {
            taken = ::flock(fd, LOCK_EX);
        } while (taken != 0 && errno == EINTR);
        if (taken != 0) {
            return unavailable(
                fmt::format("lock {}: {}", path, std::generic_category().message(errno)));
        }
        // Whoever held it before may have removed the file: then the lock is on nothing.
        struct stat held {};
        struct stat there {};
        if (::fstat(fd, &held) == 0 && ::stat(path.c_str(), &there) == 0 &&
            held.st_ino == there.st_ino && held.st_dev == there.st_dev) {
            return lock;
        }
    }
}

FileLock::~FileLock() {
    if (fd_ >= 0) ::close(fd_);
}

}  // namespace mesh::sandbox
