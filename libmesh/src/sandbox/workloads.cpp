// apply, remove, exec: the API server and the controllers of a sandbox.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <set>

#include "sandbox/cgroup.hpp"
#include "sandbox/daemons.hpp"
#include "sandbox/internal.hpp"
#include "sandbox/ipam.hpp"
#include "sandbox/node_ports.hpp"
#include "sandbox/pods.hpp"
#include "sandbox/policies.hpp"

extern char** environ;

namespace mesh::sandbox {
namespace {

namespace json = boost::json;
using Key = std::pair<std::string, std::string>;

bool finished(const Pod& pod) {
    return pod.phase == PodPhase::kSucceeded || pod.phase == PodPhase::kFailed;
}

// FNV-1a, 32 bits: a short name for a template, the same in every run.
std::string short_hash(std::string_view text) {
    std::uint32_t hash = 2166136261U;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
    return fmt::format("{:08x}", hash);
}

std::string pod_name(std::string_view deployment, std::string_view hash, std::int64_t number) {
    return fmt::format("{}-{}-{}", deployment, hash, number);
}

// Applies one manifest's objects to an opened sandbox.
class Applier {
  public:
    Applier(const Environment& environment, Opened& sandbox)
        : environment_(environment), sandbox_(sandbox), state_(sandbox.state) {}

    // Everything that can be refused is refused here, before anything is changed.
    Result<void> check(const std::vector<Object>& objects) const {
        std::set<std::string> namespaces;
        for (const auto& [name, manifest] : state_.objects.namespaces) namespaces.insert(name);
        for (const Object& object : objects) {
            if (object.ref.kind == "Namespace") namespaces.insert(object.ref.name);
        }
        for (const Object& object : objects) {
            auto checked = check_one(object, namespaces);
            if (!checked) return std::move(checked).error().with_prefix(object.ref.to_string());
        }
        return {};
    }

    Result<std::vector<Change>> apply(std::vector<Object> objects) {
        // Namespaces and Services first, whatever the file's order: pods then start into a cluster
        // that knows them.
        std::stable_sort(objects.begin(), objects.end(), [](const Object& a, const Object& b) {
            return rank(a.ref.kind) < rank(b.ref.kind);
        });
        for (Object& object : objects) {
            auto applied = apply_one(object);
            if (!applied) {
                // What came before stays applied, as with kubectl.
                (void)!finish();
                return std::move(applied).error().with_prefix(object.ref.to_string());
            }
            changes_.push_back({object.ref, *applied});
        }
        MESH_CHECK(finish());
        return std::move(changes_);
    }

  private:
    static int rank(const std::string& kind) {
        return kind == "Namespace" ? 0 : kind == "Service" ? 1 : kind == "EndpointSlice" ? 2 : 3;
    }

    Result<void> check_one(const Object& object, const std::set<std::string>& namespaces) const {
        if (!object.ref.namespace_.empty() && !namespaces.contains(object.ref.namespace_)) {
            return not_found(fmt::format("namespace {} does not exist", object.ref.namespace_));
        }
        if (object.ref.kind == "Service") return check_service(object);
        if (object.ref.kind == "Pod") return check_pod(object);
        if (object.ref.kind == "Deployment") {
            MESH_TRY(const DeploymentSpec spec, parse_deployment(object.manifest));
            return check_label_name("the name of its pods",
                                    pod_name(object.ref.name, short_hash(""), spec.replicas));
        }
        return {};
    }

    Result<void> check_service(const Object& object) const {
        if (is_headless(object.manifest)) return {};
        MESH_CHECK(service_families(object.manifest, state_.service_cidrs.size() > 1));
        MESH_TRY(const auto wanted, requested_cluster_ips(object.manifest));
        for (const model::IpAddress& ip : wanted) {
            const bool inside =
                std::any_of(state_.service_cidrs.begin(), state_.service_cidrs.end(),
                            [&](const model::IpPrefix& cidr) { return cidr.contains(ip); });
            if (!inside || in_use(ip, Key(object.ref.namespace_, object.ref.name))) {
                return invalid_argument(
                    fmt::format("spec.clusterIP: {}: expected a free address of {}", ip.to_string(),
                                state_.service_cidrs.front().to_string()));
            }
        }
        return {};
    }

    Result<void> check_pod(const Object& object) const {
        MESH_TRY(const PodSpec spec, parse_pod_spec(object.manifest));
        if (spec.node) {
            bool known = false;
            for (std::uint32_t n = 1; n <= state_.nodes; ++n) known |= node_name(n) == *spec.node;
            if (!known) return not_found(fmt::format("spec.nodeName: no node {}", *spec.node));
        }
        const auto there = state_.objects.pods.find({object.ref.namespace_, object.ref.name});
        if (there == state_.objects.pods.end() || there->second.terminating) return {};
        if (there->second.manifest.at("spec") != object.manifest.at("spec")) {
            return Error(Errc::kConflict,
                         "its spec differs from the running pod's: remove the pod first");
        }
        return {};
    }

    bool in_use(const model::IpAddress& ip, const Key& except) const {
        return std::any_of(
            state_.objects.services.begin(), state_.objects.services.end(), [&](const auto& entry) {
                const auto ips = cluster_ips(entry.second);
                return entry.first != except && std::find(ips.begin(), ips.end(), ip) != ips.end();
            });
    }

    bool is_taken(const NodePort& port, const Key& except) const {
        return std::any_of(state_.objects.services.begin(), state_.objects.services.end(),
                           [&](const auto& entry) {
                               const auto ports = node_ports(entry.second);
                               return entry.first != except &&
                                      std::find(ports.begin(), ports.end(), port) != ports.end();
                           });
    }

    Result<std::string> apply_one(Object& object) {
        const Key key(object.ref.namespace_, object.ref.name);
        if (object.ref.kind == "Namespace") {
            return replace(state_.objects.namespaces, object.ref.name, object.manifest);
        }
        if (object.ref.kind == "EndpointSlice") {
            return replace(state_.objects.slices, key, object.manifest);
        }
        if (object.ref.kind == "Service") {
            MESH_CHECK(assign_cluster_ips(key, object.manifest));
            const auto before = state_.objects.services.find(key);
            MESH_CHECK(assign_node_ports(
                object.manifest,
                before == state_.objects.services.end() ? nullptr : &before->second,
                state_.cursors["node-ports"],
                [&](const NodePort& port) { return is_taken(port, key); }));
            return replace(state_.objects.services, key, object.manifest);
        }
        if (!policy_api_version(object.ref.kind).empty()) {
            return replace(state_.objects.policies, object.ref, object.manifest);
        }
        if (object.ref.kind == "Deployment") return apply_deployment(key, object.manifest);
        return apply_pod(key, object.manifest, "");
    }

    template <class Map, class Name>
    static std::string replace(Map& map, const Name& name, json::object& manifest) {
        const auto found = map.find(name);
        if (found == map.end()) {
            map.emplace(name, std::move(manifest));
            return "created";
        }
        if (found->second == manifest) return "unchanged";
        found->second = std::move(manifest);
        return "configured";
    }

    // Addresses that a Service has stay with it.
    Result<void> assign_cluster_ips(const Key& key, json::object& service) {
        const json::value* type = find_path(service, "spec.type");
        if (type != nullptr && *type == "ExternalName") return {};
        if (is_headless(service)) {
            set_cluster_ips(service, {});
            return {};
        }
        MESH_TRY(const ServiceFamilies families,
                 service_families(service, state_.service_cidrs.size() > 1));
        MESH_TRY(std::vector<model::IpAddress> have, requested_cluster_ips(service));
        if (const auto old = state_.objects.services.find(key);
            have.empty() && old != state_.objects.services.end()) {
            have = cluster_ips(old->second);
        }
        std::vector<model::IpAddress> ips;
        for (const model::IpPrefix& cidr : state_.service_cidrs) {
            if (!(cidr.is_v4() ? families.v4 : families.v6)) continue;
            const auto kept = std::find_if(have.begin(), have.end(), [&](const auto& ip) {
                return ip.is_v4() == cidr.is_v4() && cidr.contains(ip);
            });
            if (kept != have.end()) {
                ips.push_back(*kept);
                continue;
            }
            std::uint64_t& cursor = state_.cursors[cidr.is_v4() ? "services/4" : "services/6"];
            MESH_TRY(const model::IpAddress ip, take_address(cidr, cursor, [&](const auto& taken) {
                         return in_use(taken, key);
                     }));
            ips.push_back(ip);
        }
        set_cluster_ips(service, ips);
        return {};
    }

    Result<std::string> apply_pod(const Key& key, const json::object& manifest,
                                  const std::string& owner) {
        const auto there = state_.objects.pods.find(key);
        if (there != state_.objects.pods.end() && there->second.phase != PodPhase::kPending &&
            !there->second.terminating) {
            const bool same = there->second.manifest == manifest;
            there->second.manifest = manifest;
            return std::string(same ? "unchanged" : "configured");
        }
        if (there != state_.objects.pods.end()) {
            // A command that was killed left it.
            MESH_CHECK(stop_pods(environment_, sandbox_, {&there->second}));
        }
        MESH_TRY(Pod* const pod, admit_pod(environment_, sandbox_, manifest, owner));
        starting_.push_back(pod);
        return std::string("created");
    }

    Result<std::string> apply_deployment(const Key& key, json::object& manifest) {
        MESH_TRY(const DeploymentSpec spec, parse_deployment(manifest));
        const std::string hash = short_hash(json::serialize(spec.pod_spec));
        std::set<std::string> wanted;
        for (std::int64_t i = 1; i <= spec.replicas; ++i) {
            wanted.insert(pod_name(key.second, hash, i));
        }
        std::vector<Pod*> surplus;
        for (auto& [pod_key, pod] : state_.objects.pods) {
            if (pod.namespace_ != key.first || pod.owner != key.second) continue;
            if (!wanted.contains(pod.name) || finished(pod) || pod.terminating) {
                surplus.push_back(&pod);
            }
        }
        std::string outcome = replace(state_.deployments, key, manifest);
        if (!surplus.empty()) MESH_CHECK(stop_pods(environment_, sandbox_, surplus));
        for (const std::string& name : wanted) {
            json::object metadata = spec.pod_metadata;
            metadata["name"] = name;
            metadata["namespace"] = key.first;
            const json::object pod{{"apiVersion", "v1"},
                                   {"kind", "Pod"},
                                   {"metadata", metadata},
                                   {"spec", spec.pod_spec}};
            MESH_TRY(const std::string what, apply_pod({key.first, name}, pod, key.second));
            if (what != "unchanged" && outcome == "unchanged") outcome = "configured";
        }
        return outcome;
    }

    Result<void> finish() {
        MESH_CHECK(sync_manifests(sandbox_.paths, state_));
        auto started = start_pods(environment_, sandbox_, starting_);
        starting_.clear();
        return started;
    }

    const Environment& environment_;
    Opened& sandbox_;
    State& state_;
    std::vector<Pod*> starting_;
    std::vector<Change> changes_;
};

// The objects that go with those named: a namespace's and a deployment's own.
std::set<ObjectRef> with_dependents(const State& state, const std::vector<ObjectRef>& named) {
    std::set<ObjectRef> all(named.begin(), named.end());
    const auto in = [&](const std::string& kind, const std::string& space,
                        const std::string& name) {
        return all.contains({kind, space, name}) || all.contains({"Namespace", "", space});
    };
    for (const auto& [key, manifest] : state.objects.services) {
        if (in("Service", key.first, key.second)) all.insert({"Service", key.first, key.second});
    }
    for (const auto& [key, manifest] : state.objects.slices) {
        if (in("EndpointSlice", key.first, key.second)) {
            all.insert({"EndpointSlice", key.first, key.second});
        }
    }
    for (const auto& [key, manifest] : state.deployments) {
        if (in("Deployment", key.first, key.second)) {
            all.insert({"Deployment", key.first, key.second});
        }
    }
    for (const auto& [ref, manifest] : state.objects.policies) {
        if (in(ref.kind, ref.namespace_, ref.name)) all.insert(ref);
    }
    for (const auto& [key, pod] : state.objects.pods) {
        if (in("Pod", key.first, key.second) ||
            (!pod.owner.empty() && all.contains({"Deployment", key.first, pod.owner}))) {
            all.insert({"Pod", key.first, key.second});
        }
    }
    return all;
}

// @return whether it was there; pods are collected and go later
bool forget(State& state, const ObjectRef& ref, std::vector<Pod*>& pods) {
    const Key key(ref.namespace_, ref.name);
    if (ref.kind == "Service") return state.objects.services.erase(key) != 0;
    if (ref.kind == "EndpointSlice") return state.objects.slices.erase(key) != 0;
    if (ref.kind == "Deployment") return state.deployments.erase(key) != 0;
    if (ref.kind == "Pod") {
        const auto found = state.objects.pods.find(key);
        if (found == state.objects.pods.end()) return false;
        pods.push_back(&found->second);
        return true;
    }
    if (!policy_api_version(ref.kind).empty()) return state.objects.policies.erase(ref) != 0;
    // A namespace goes last, below.
    return ref.kind == "Namespace" && state.objects.namespaces.contains(ref.name);
}

}  // namespace

Result<std::vector<Change>> apply(const Environment& environment, std::string_view name,
                                  std::string_view yaml, std::string_view file,
                                  std::string_view default_namespace) {
    MESH_TRY(std::vector<Object> objects, parse_objects(yaml, file, default_namespace));
    MESH_TRY(Opened sandbox, open_locked(environment, name));
    Applier applier(environment, sandbox);
    if (auto checked = applier.check(objects); !checked) {
        return std::move(checked).error().with_prefix(file);
    }
    return applier.apply(std::move(objects));
}

Result<std::vector<Change>> remove(const Environment& environment, std::string_view name,
                                   const std::vector<ObjectRef>& objects) {
    MESH_TRY(Opened sandbox, open_locked(environment, name));
    for (const ObjectRef& ref : objects) {
        if (ref == ObjectRef{"Namespace", "", "default"}) {
            return invalid_argument("Namespace default: cannot be removed");
        }
    }
    std::vector<Change> changes;
    std::vector<Pod*> pods;
    const std::set<ObjectRef> all = with_dependents(sandbox.state, objects);
    for (const ObjectRef& ref : all) {
        if (forget(sandbox.state, ref, pods)) changes.push_back({ref, "removed"});
    }
    MESH_CHECK(stop_pods(environment, sandbox, pods));
    for (const ObjectRef& ref : all) {
        if (ref.kind == "Namespace") sandbox.state.objects.namespaces.erase(ref.name);
    }
    MESH_CHECK(sync_manifests(sandbox.paths, sandbox.state));
    MESH_CHECK(save_state(sandbox.paths, sandbox.state));
    return changes;
}

Result<ProcessSpec> prepare_exec(const Environment& environment, std::string_view name,
                                 std::string_view pod, std::string_view node,
                                 std::vector<std::string> command) {
    MESH_CHECK(check_root());
    MESH_TRY(const Names names, Names::make(name));
    MESH_TRY(const State state, open_complete(environment, name));
    ProcessSpec spec;
    if (!pod.empty()) {
        const std::size_t slash = pod.find('/');
        const Key key = slash == std::string_view::npos
                            ? Key("default", pod)
                            : Key(pod.substr(0, slash), pod.substr(slash + 1));
        const auto found = state.objects.pods.find(key);
        if (found == state.objects.pods.end()) {
            return not_found(
                fmt::format("no pod {}/{} in sandbox {}", key.first, key.second, name));
        }
        MESH_TRY(spec, pod_process(environment, state, names, found->second));
    } else {
        bool known = false;
        for (std::uint32_t n = 1; n <= state.nodes; ++n) known |= node_name(n) == node;
        if (!known) return not_found(fmt::format("no node {} in sandbox {}", node, name));
        MESH_TRY(const std::string cgroups, cgroup_mount());
        spec.environment = base_environment(environment);
        spec.netns = names.node(node);
        spec.cgroup = node_cgroup(cgroups, names, node);
    }
    // The caller's own variables, such as TERM, below the pod's.
    std::set<std::string, std::less<>> set;
    for (const std::string& entry : spec.environment) set.insert(entry.substr(0, entry.find('=')));
    for (char** variable = environ; *variable != nullptr; ++variable) {
        const std::string_view entry(*variable);
        if (!set.contains(entry.substr(0, entry.find('=')))) spec.environment.emplace_back(entry);
    }
    spec.argv = std::move(command);
    return spec;
}

}  // namespace mesh::sandbox
