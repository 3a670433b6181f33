#include "sandbox/objects.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <limits>
#include <set>

#include "sandbox/names.hpp"
#include "sandbox/node_ports.hpp"
#include "sandbox/policies.hpp"
#include "sandbox/yaml.hpp"

namespace mesh::sandbox {
namespace {

namespace json = boost::json;

constexpr std::int64_t kMaxReplicas = 1000;
constexpr std::int64_t kMaxSeconds = 3600;

Error expected(std::string_view field, std::string_view what) {
    return invalid_argument(fmt::format("{}: expected {}", field, what));
}

Result<std::string> text_at(const json::object& object, std::string_view path,
                            std::string_view otherwise) {
    const json::value* value = find_path(object, path);
    if (value == nullptr || value->is_null()) return std::string(otherwise);
    if (!value->is_string()) return expected(path, "text (in quotes if it looks like a number)");
    return std::string(value->get_string());
}

Result<std::int64_t> integer_at(const json::object& object, std::string_view path,
                                std::int64_t otherwise, std::int64_t least, std::int64_t most) {
    const json::value* value = find_path(object, path);
    if (value == nullptr || value->is_null()) return otherwise;
    if (!value->is_int64() || value->get_int64() < least || value->get_int64() > most) {
        return expected(path, fmt::format("a whole number from {} to {}", least, most));
    }
    return value->get_int64();
}

Result<json::array> array_at(const json::object& object, std::string_view path) {
    const json::value* value = find_path(object, path);
    if (value == nullptr || value->is_null()) return json::array();
    if (!value->is_array()) return expected(path, "a list");
    return value->get_array();
}

Result<std::map<std::string, std::string>> texts_at(const json::object& object,
                                                    std::string_view path) {
    std::map<std::string, std::string> texts;
    const json::value* value = find_path(object, path);
    if (value == nullptr || value->is_null()) return texts;
    if (!value->is_object()) return expected(path, "a map of texts");
    for (const auto& [key, item] : value->get_object()) {
        if (!item.is_string()) {
            return expected(fmt::format("{}.{}", path, std::string_view(key)),
                            "text (in quotes: \"true\", \"1\")");
        }
        texts.emplace(key, item.get_string());
    }
    return texts;
}

Result<std::string> protocol_at(const json::object& port, const std::string& field) {
    MESH_TRY(std::string protocol, text_at(port, "protocol", "TCP"));
    if (protocol != "TCP" && protocol != "UDP" && protocol != "SCTP") {
        return expected(field + ".protocol", "TCP, UDP or SCTP");
    }
    return protocol;
}

Result<std::vector<std::string>> strings_at(const json::object& object, std::string_view path) {
    MESH_TRY(const json::array items, array_at(object, path));
    std::vector<std::string> out;
    for (const json::value& item : items) {
        // Kubernetes wants strings; "8080" is so often written bare that the cause is worth naming.
        if (!item.is_string()) return expected(path, "texts (numbers in quotes)");
        out.emplace_back(item.get_string());
        if (out.back().find('\0') != std::string::npos) return expected(path, "texts without NUL");
    }
    return out;
}

Result<void> check_service(const json::object& service) {
    MESH_TRY(const std::string type, text_at(service, "spec.type", "ClusterIP"));
    if (type != "ClusterIP" && type != "NodePort" && type != "LoadBalancer" &&
        type != "ExternalName") {
        return expected("spec.type", "ClusterIP, NodePort, LoadBalancer or ExternalName");
    }
    MESH_TRY(const std::string policy, text_at(service, "spec.externalTrafficPolicy", "Cluster"));
    if (policy != "Cluster" && policy != "Local") {
        return expected("spec.externalTrafficPolicy", "Cluster or Local");
    }
    MESH_CHECK(texts_at(service, "metadata.annotations"));
    MESH_CHECK(texts_at(service, "spec.selector"));
    MESH_CHECK(requested_cluster_ips(service));
    MESH_TRY(const json::array ports, array_at(service, "spec.ports"));
    if (ports.empty() && type != "ExternalName" && !is_headless(service)) {
        return expected("spec.ports", "at least one port");
    }
    std::set<std::string> names;
    for (std::size_t i = 0; i < ports.size(); ++i) {
        const std::string field = fmt::format("spec.ports[{}]", i);
        if (!ports[i].is_object()) return expected(field, "a map");
        const json::object& port = ports[i].get_object();
        if (!port.contains("port")) return expected(field + ".port", "a port number");
        MESH_CHECK(integer_at(port, "port", 0, 1, 65535));
        MESH_TRY(const std::int64_t node_port,
                 integer_at(port, "nodePort", 0, kFirstNodePort, kLastNodePort));
        if (node_port != 0 && type != "NodePort" && type != "LoadBalancer") {
            return expected(field + ".nodePort", "none, or type NodePort or LoadBalancer");
        }
        MESH_CHECK(protocol_at(port, field));
        MESH_TRY(const std::string name, text_at(port, "name", ""));
        if ((name.empty() && ports.size() > 1) || !names.insert(name).second) {
            return expected(field + ".name", "a name of its own");
        }
        const json::value* target = port.if_contains("targetPort");
        if (target != nullptr && !target->is_string() &&
            !(target->is_int64() && target->get_int64() >= 1 && target->get_int64() <= 65535)) {
            return expected(field + ".targetPort", "a port number or a container port's name");
        }
    }
    return {};
}

Result<void> check_kind(const Object& object) {
    const std::string& kind = object.ref.kind;
    if (kind == "Service") return check_service(object.manifest);
    if (kind == "Pod") {
        auto spec = parse_pod_spec(object.manifest);
        if (!spec) return std::move(spec).error();
    }
    if (kind == "Deployment") {
        auto spec = parse_deployment(object.manifest);
        if (!spec) return std::move(spec).error();
    }
    return {};
}

std::string_view api_version_of(std::string_view kind) {
    if (kind == "Namespace" || kind == "Service" || kind == "Pod") return "v1";
    if (kind == "Deployment") return "apps/v1";
    if (kind == "EndpointSlice") return "discovery.k8s.io/v1";
    return policy_api_version(kind);
}

bool in_no_namespace(std::string_view kind) {
    return kind == "Namespace" || kind == "CiliumClusterwideNetworkPolicy";
}

Result<Object> parse_object(json::value document, std::string_view default_namespace) {
    if (!document.is_object()) return invalid_argument("expected a map with apiVersion and kind");
    Object object;
    object.manifest = std::move(document.get_object());
    MESH_TRY(object.ref.kind, text_at(object.manifest, "kind", ""));
    MESH_TRY(object.ref.name, text_at(object.manifest, "metadata.name", ""));
    const std::string who = fmt::format("{} {}", object.ref.kind, object.ref.name);
    const std::string_view api = api_version_of(object.ref.kind);
    if (api.empty()) {
        return expected(fmt::format("kind \"{}\"", object.ref.kind),
                        "Namespace, Service, Pod, Deployment, EndpointSlice, NetworkPolicy, "
                        "CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy");
    }
    MESH_TRY(const std::string written, text_at(object.manifest, "apiVersion", ""));
    if (written != api) return expected(who + ": apiVersion", api);
    // A policy's name may have dots; check_policies() has seen it.
    if (policy_api_version(object.ref.kind).empty()) {
        auto named = check_label_name(object.ref.kind + ": metadata.name", object.ref.name);
        if (!named) return std::move(named).error();
    }
    if (!in_no_namespace(object.ref.kind)) {
        MESH_TRY(object.ref.namespace_,
                 text_at(object.manifest, "metadata.namespace", default_namespace));
        auto checked = check_label_name(who + ": metadata.namespace", object.ref.namespace_);
        if (!checked) return std::move(checked).error();
        object.manifest["metadata"].as_object()["namespace"] = object.ref.namespace_;
    }
    for (const char* path : {"metadata.labels", "metadata.annotations"}) {
        if (auto texts = texts_at(object.manifest, path); !texts) {
            return std::move(texts).error().with_prefix(who);
        }
    }
    if (auto result = check_kind(object); !result) {
        return std::move(result).error().with_prefix(who);
    }
    // A status is the cluster's to write.
    object.manifest.erase("status");
    return object;
}

Result<std::vector<PodPort>> pod_ports(const json::object& container) {
    MESH_TRY(const json::array list, array_at(container, "ports"));
    std::vector<PodPort> ports;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const std::string field = fmt::format("spec.containers[0].ports[{}]", i);
        if (!list[i].is_object() || !list[i].get_object().contains("containerPort")) {
            return expected(field, "a map with containerPort");
        }
        const json::object& item = list[i].get_object();
        PodPort port;
        MESH_TRY(port.name, text_at(item, "name", ""));
        MESH_TRY(port.protocol, protocol_at(item, field));
        MESH_TRY(const std::int64_t number, integer_at(item, "containerPort", 0, 1, 65535));
        port.port = static_cast<std::uint16_t>(number);
        ports.push_back(std::move(port));
    }
    return ports;
}

Result<std::vector<EnvironmentEntry>> environment_of(const json::object& container) {
    static const std::set<std::string, std::less<>> fields = {"metadata.name", "metadata.namespace",
                                                              "metadata.uid",  "spec.nodeName",
                                                              "status.podIP",  "status.hostIP"};
    MESH_TRY(const json::array list, array_at(container, "env"));
    std::vector<EnvironmentEntry> entries;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const std::string where = fmt::format("spec.containers[0].env[{}]", i);
        if (!list[i].is_object()) return expected(where, "a map with name and value");
        EnvironmentEntry entry;
        MESH_TRY(entry.name, text_at(list[i].get_object(), "name", ""));
        MESH_TRY(entry.value, text_at(list[i].get_object(), "value", ""));
        MESH_TRY(entry.field, text_at(list[i].get_object(), "valueFrom.fieldRef.fieldPath", ""));
        if (entry.name.empty() || entry.name.find('=') != std::string::npos) {
            return expected(where + ".name", "a variable's name");
        }
        if (!entry.field.empty() && !fields.contains(entry.field)) {
            return expected(where + ".valueFrom.fieldRef.fieldPath",
                            "metadata.name, metadata.namespace, metadata.uid, spec.nodeName, "
                            "status.podIP or status.hostIP");
        }
        entries.push_back(std::move(entry));
    }
    return entries;
}

Result<std::optional<ReadinessProbe>> readiness_of(const json::object& container,
                                                   const std::vector<PodPort>& ports) {
    std::optional<ReadinessProbe> none;
    const json::value* probe = find_path(container, "readinessProbe");
    if (probe == nullptr || probe->is_null()) return none;
    const std::string field = "spec.containers[0].readinessProbe";
    if (!probe->is_object()) return expected(field, "a map");
    ReadinessProbe out;
    out.http = find_path(probe->get_object(), "httpGet") != nullptr;
    const json::value* port =
        find_path(probe->get_object(), out.http ? "httpGet.port" : "tcpSocket.port");
    if (port == nullptr) return expected(field, "httpGet or tcpSocket with a port");
    if (port->is_string()) {
        for (const PodPort& known : ports) {
            if (known.name == std::string_view(port->get_string())) out.port = known.port;
        }
    } else if (port->is_int64() && port->get_int64() >= 1 && port->get_int64() <= 65535) {
        out.port = static_cast<std::uint16_t>(port->get_int64());
    }
    if (out.port == 0) return expected(field + ": port", "a number or a container port's name");
    MESH_TRY(out.path, text_at(probe->get_object(), "httpGet.path", "/"));
    return std::optional(out);
}

std::string quoted_name(const ObjectRef& ref) {
    return ref.namespace_.empty()
               ? fmt::format("{}.{}.yaml", ref.kind, ref.name)
               : fmt::format("{}.{}.{}.yaml", ref.kind, ref.namespace_, ref.name);
}

json::array to_json(const std::vector<model::IpAddress>& ips) {
    json::array out;
    for (const auto& ip : ips) out.emplace_back(ip.to_string());
    return out;
}

json::object node_manifest(const NodeInfo& node) {
    json::array addresses;
    for (const auto& ip : node.addresses) {
        addresses.push_back(json::object{{"type", "InternalIP"}, {"address", ip.to_string()}});
    }
    addresses.push_back(json::object{{"type", "Hostname"}, {"address", node.name}});
    json::array blocks;
    for (const auto& block : node.pod_blocks) blocks.emplace_back(block.to_string());
    json::object metadata{{"name", node.name},
                          {"labels", json::object{{"kubernetes.io/hostname", node.name},
                                                  {"kubernetes.io/os", "linux"}}}};
    if (!node.wireguard_key.empty()) {
        metadata["annotations"] =
            json::object{{"network.cilium.io/wg-pub-key", node.wireguard_key}};
    }
    return {{"apiVersion", "v1"},
            {"kind", "Node"},
            {"metadata", std::move(metadata)},
            {"spec", json::object{{"podCIDR", blocks.front()}, {"podCIDRs", blocks}}},
            {"status", json::object{{"addresses", addresses}}}};
}

json::object pod_manifest(const Pod& pod, const NodeInfo* node) {
    json::object manifest = pod.manifest;
    json::object& metadata = manifest["metadata"].as_object();
    metadata["uid"] = pod.uid;
    if (!pod.owner.empty()) {
        metadata["ownerReferences"] = json::array{
            json::object{{"apiVersion", "apps/v1"}, {"kind", "Deployment"}, {"name", pod.owner}}};
    }
    manifest["spec"].as_object()["nodeName"] = pod.node;
    json::array pod_ips;
    for (const auto& ip : pod.ips) pod_ips.push_back(json::object{{"ip", ip.to_string()}});
    json::object status{{"phase", to_string(pod.phase)}, {"podIPs", pod_ips}};
    if (!pod.ips.empty()) status["podIP"] = pod.ips.front().to_string();
    if (node != nullptr) {
        status["hostIP"] = node->addresses.front().to_string();
        json::array host_ips;
        for (const auto& ip : node->addresses) {
            host_ips.push_back(json::object{{"ip", ip.to_string()}});
        }
        status["hostIPs"] = host_ips;
    }
    status["conditions"] =
        json::array{json::object{{"type", "Ready"}, {"status", pod.ready ? "True" : "False"}}};
    if (!pod.message.empty()) status["message"] = pod.message;
    if (!pod.started_at.empty()) status["startTime"] = pod.started_at;
    if (pod.exit_code) {
        status["containerStatuses"] = json::array{json::object{
            {"ready", false},
            {"state", json::object{{"terminated", json::object{{"exitCode", *pod.exit_code}}}}}}};
    }
    manifest["status"] = std::move(status);
    return manifest;
}

bool selects(const json::object& service, const Pod& pod) {
    const json::value* selector = find_path(service, "spec.selector");
    if (selector == nullptr || !selector->is_object() || selector->get_object().empty()) {
        return false;
    }
    const json::value* labels = find_path(pod.manifest, "metadata.labels");
    if (labels == nullptr || !labels->is_object()) return false;
    for (const auto& [key, wanted] : selector->get_object()) {
        const json::value* has = labels->get_object().if_contains(key);
        if (has == nullptr || *has != wanted) return false;
    }
    return true;
}

// A pod's ports as a Service sees them; a port whose name the pod lacks is left out, as Kubernetes
// does.
json::array resolve_ports(const json::object& service, const Pod& pod) {
    json::array out;
    const auto declared = parse_pod_spec(pod.manifest);
    const json::value* ports = find_path(service, "spec.ports");
    if (ports == nullptr || !ports->is_array()) return out;
    for (const json::value& item : ports->get_array()) {
        const json::object& port = item.get_object();
        const std::string protocol = text_at(port, "protocol", "TCP").value();
        std::int64_t number = port.at("port").get_int64();
        if (const json::value* target = port.if_contains("targetPort"); target != nullptr) {
            if (target->is_int64()) {
                number = target->get_int64();
            } else {
                number = 0;
                for (const PodPort& known : declared ? declared->ports : std::vector<PodPort>()) {
                    if (known.name == std::string_view(target->get_string()) &&
                        known.protocol == protocol) {
                        number = known.port;
                    }
                }
            }
        }
        if (number == 0) continue;
        out.push_back(json::object{
            {"name", text_at(port, "name", "").value()}, {"protocol", protocol}, {"port", number}});
    }
    return out;
}

json::object endpoint(const Pod& pod, const model::IpAddress& ip) {
    json::object out{
        {"addresses", json::array{ip.to_string()}},
        // A pod that was asked to stop takes no new connections, so it does not serve either.
        {"conditions", json::object{{"ready", pod.ready && !pod.terminating},
                                    {"serving", pod.ready && !pod.terminating},
                                    {"terminating", pod.terminating}}},
        {"nodeName", pod.node},
        {"targetRef", json::object{{"kind", "Pod"},
                                   {"namespace", pod.namespace_},
                                   {"name", pod.name},
                                   {"uid", pod.uid}}}};
    if (const json::value* hostname = find_path(pod.manifest, "spec.hostname");
        hostname != nullptr && hostname->is_string()) {
        out["hostname"] = hostname->get_string();
    }
    return out;
}

void add_slices(const std::string& namespace_, const std::string& name, const json::object& service,
                const ClusterObjects& cluster, std::map<std::string, std::string>& files) {
    const json::value* selector = find_path(service, "spec.selector");
    if (selector == nullptr || !selector->is_object() || selector->get_object().empty()) return;
    const auto families = service_families(service, true);
    for (const bool v4 : {true, false}) {
        if (!families || !(v4 ? families->v4 : families->v6)) continue;
        // Pods of one slice have the same ports.
        std::map<std::string, std::pair<json::array, json::array>> by_ports;
        for (const auto& [key, pod] : cluster.pods) {
            if (key.first != namespace_ || !selects(service, pod) ||
                pod.phase == PodPhase::kSucceeded || pod.phase == PodPhase::kFailed) {
                continue;
            }
            const json::array ports = resolve_ports(service, pod);
            auto& group = by_ports[json::serialize(ports)];
            group.first = ports;
            for (const auto& ip : pod.ips) {
                if (ip.is_v4() == v4) group.second.push_back(endpoint(pod, ip));
            }
        }
        if (by_ports.empty()) by_ports[""];
        std::size_t index = 0;
        for (const auto& [text, group] : by_ports) {
            const std::string slice = fmt::format("{}-{}-{}", name, v4 ? "ipv4" : "ipv6", ++index);
            const json::object manifest{
                {"apiVersion", "discovery.k8s.io/v1"},
                {"kind", "EndpointSlice"},
                {"metadata",
                 json::object{{"name", slice},
                              {"namespace", namespace_},
                              {"labels", json::object{{"kubernetes.io/service-name", name},
                                                      {"endpointslice.kubernetes.io/managed-by",
                                                       "endpointslice-controller.k8s.io"}}}}},
                {"addressType", v4 ? "IPv4" : "IPv6"},
                {"endpoints", group.second},
                {"ports", group.first}};
            files[quoted_name({"EndpointSlice", namespace_, slice})] = to_yaml(manifest);
        }
    }
}

}  // namespace

std::string ObjectRef::to_string() const {
    return namespace_.empty() ? fmt::format("{} {}", kind, name)
                              : fmt::format("{} {}/{}", kind, namespace_, name);
}

std::string_view to_string(PodPhase phase) noexcept {
    switch (phase) {
        case PodPhase::kPending:
            return "Pending";
        case PodPhase::kRunning:
            return "Running";
        case PodPhase::kSucceeded:
            return "Succeeded";
        case PodPhase::kFailed:
            return "Failed";
    }
    return "Unknown";
}

const json::value* find_path(const json::object& object, std::string_view path) {
    const json::object* here = &object;
    while (true) {
        const std::size_t dot = std::min(path.find('.'), path.size());
        const json::value* value = here->if_contains(path.substr(0, dot));
        if (value == nullptr || dot == path.size()) return value;
        if (!value->is_object()) return nullptr;
        here = &value->get_object();
        path.remove_prefix(dot + 1);
    }
}

Result<std::vector<Object>> parse_objects(std::string_view yaml, std::string_view file,
                                          std::string_view default_namespace) {
    MESH_TRY(std::vector<json::value> documents, parse_yaml(yaml, file));
    std::vector<Object> objects;
    std::set<ObjectRef> seen;
    for (json::value& document : documents) {
        auto object = parse_object(std::move(document), default_namespace);
        if (!object) return std::move(object).error().with_prefix(file);
        if (!seen.insert(object->ref).second) {
            return invalid_argument(
                fmt::format("{}: {} comes twice", file, object->ref.to_string()));
        }
        objects.push_back(*std::move(object));
    }
    if (objects.empty()) return invalid_argument(fmt::format("{}: no object in it", file));
    // Of the text, for the lines in what it says.
    const bool policies = std::ranges::any_of(
        objects, [](const Object& one) { return !policy_api_version(one.ref.kind).empty(); });
    if (policies) MESH_CHECK(check_policies(yaml, file));
    return objects;
}

Result<PodSpec> parse_pod_spec(const json::object& pod) {
    MESH_TRY(const json::array containers, array_at(pod, "spec.containers"));
    if (containers.size() != 1 || !containers[0].is_object()) {
        return expected("spec.containers", "exactly one (a sandbox pod is one process)");
    }
    const json::object& container = containers[0].get_object();
    PodSpec spec;
    MESH_TRY(spec.container, text_at(container, "name", ""));
    MESH_TRY(spec.command, strings_at(container, "command"));
    MESH_TRY(const std::vector<std::string> args, strings_at(container, "args"));
    if (spec.command.empty() || spec.command.front().empty()) {
        return expected("spec.containers[0].command",
                        "a program of this machine (a sandbox has no images)");
    }
    spec.command.insert(spec.command.end(), args.begin(), args.end());
    MESH_TRY(spec.environment, environment_of(container));
    MESH_TRY(spec.working_directory, text_at(container, "workingDir", ""));
    MESH_TRY(spec.ports, pod_ports(container));
    MESH_TRY(const std::string node, text_at(pod, "spec.nodeName", ""));
    if (!node.empty()) spec.node = node;
    MESH_TRY(spec.grace_seconds,
             integer_at(pod, "spec.terminationGracePeriodSeconds", 30, 0, kMaxSeconds));
    MESH_TRY(spec.pre_stop_seconds,
             integer_at(container, "lifecycle.preStop.sleep.seconds", 0, 0, kMaxSeconds));
    MESH_TRY(spec.readiness, readiness_of(container, spec.ports));
    return spec;
}

Result<DeploymentSpec> parse_deployment(const json::object& deployment) {
    DeploymentSpec spec;
    MESH_TRY(spec.replicas, integer_at(deployment, "spec.replicas", 1, 0, kMaxReplicas));
    const json::value* pod = find_path(deployment, "spec.template.spec");
    if (pod == nullptr || !pod->is_object()) return expected("spec.template.spec", "a pod's spec");
    spec.pod_spec = pod->get_object();
    if (const json::value* metadata = find_path(deployment, "spec.template.metadata");
        metadata != nullptr && metadata->is_object()) {
        spec.pod_metadata = metadata->get_object();
    }
    json::object whole{{"metadata", spec.pod_metadata}, {"spec", spec.pod_spec}};
    MESH_TRY(const auto labels, texts_at(whole, "metadata.labels"));
    MESH_TRY(const auto selector, texts_at(deployment, "spec.selector.matchLabels"));
    for (const auto& [key, value] : selector) {
        const auto found = labels.find(key);
        if (found == labels.end() || found->second != value) {
            return expected("spec.selector.matchLabels",
                            fmt::format("labels of the template; {}={} is none", key, value));
        }
    }
    auto checked = parse_pod_spec(whole);
    if (!checked) return std::move(checked).error().with_prefix("spec.template");
    return spec;
}

Result<ServiceFamilies> service_families(const json::object& service, bool dual_stack) {
    MESH_TRY(const std::vector<std::string> listed, strings_at(service, "spec.ipFamilies"));
    MESH_TRY(const std::string policy, text_at(service, "spec.ipFamilyPolicy", "SingleStack"));
    ServiceFamilies families{listed.empty(), false};
    for (const std::string& family : listed) {
        if (family != "IPv4" && family != "IPv6") return expected("spec.ipFamilies", "IPv4, IPv6");
        (family == "IPv4" ? families.v4 : families.v6) = true;
    }
    if (policy == "RequireDualStack" && !dual_stack) {
        return expected("spec.ipFamilyPolicy", "SingleStack (the cluster has one family)");
    }
    if (policy == "RequireDualStack" || (policy == "PreferDualStack" && dual_stack)) {
        families = {true, true};
    } else if (policy != "SingleStack" && policy != "PreferDualStack") {
        return expected("spec.ipFamilyPolicy", "SingleStack, PreferDualStack or RequireDualStack");
    }
    if (families.v6 && !dual_stack) {
        return expected("spec.ipFamilies", "IPv4 (the cluster has no IPv6 service CIDR)");
    }
    return families;
}

bool is_headless(const json::object& service) {
    const json::value* ip = find_path(service, "spec.clusterIP");
    return ip != nullptr && ip->is_string() && ip->get_string() == "None";
}

Result<std::vector<model::IpAddress>> requested_cluster_ips(const json::object& service) {
    std::vector<model::IpAddress> ips;
    if (is_headless(service)) return ips;
    MESH_TRY(std::vector<std::string> texts, strings_at(service, "spec.clusterIPs"));
    if (texts.empty()) {
        MESH_TRY(const std::string one, text_at(service, "spec.clusterIP", ""));
        if (!one.empty()) texts.push_back(one);
    }
    for (const std::string& text : texts) {
        auto ip = model::IpAddress::parse(text);
        if (!ip) return std::move(ip).error().with_prefix("spec.clusterIP");
        ips.push_back(*ip);
    }
    return ips;
}

void set_cluster_ips(json::object& service, const std::vector<model::IpAddress>& ips) {
    json::object& spec = service["spec"].as_object();
    json::array families;
    for (const auto& ip : ips) families.emplace_back(ip.is_v4() ? "IPv4" : "IPv6");
    spec["clusterIPs"] = ips.empty() ? json::array{"None"} : to_json(ips);
    spec["clusterIP"] = ips.empty() ? "None" : ips.front().to_string();
    if (!ips.empty()) spec["ipFamilies"] = std::move(families);
    if (!spec.contains("type")) spec["type"] = "ClusterIP";
}

std::vector<model::IpAddress> cluster_ips(const json::object& service) {
    auto ips = requested_cluster_ips(service);
    return ips ? *ips : std::vector<model::IpAddress>();
}

std::map<std::string, std::string> render_manifests(const ClusterObjects& cluster) {
    std::map<std::string, std::string> files;
    std::map<std::string, const NodeInfo*> nodes;
    for (const NodeInfo& node : cluster.nodes) {
        nodes[node.name] = &node;
        files[quoted_name({"Node", "", node.name})] = to_yaml(node_manifest(node));
    }
    for (const auto& [name, manifest] : cluster.namespaces) {
        files[quoted_name({"Namespace", "", name})] = to_yaml(manifest);
    }
    for (const auto& [key, manifest] : cluster.services) {
        files[quoted_name({"Service", key.first, key.second})] = to_yaml(manifest);
        add_slices(key.first, key.second, manifest, cluster, files);
    }
    for (const auto& [key, manifest] : cluster.slices) {
        files[quoted_name({"EndpointSlice", key.first, key.second})] = to_yaml(manifest);
    }
    for (const auto& [ref, manifest] : cluster.policies) {
        files[quoted_name(ref)] = to_yaml(manifest);
    }
    for (const auto& [key, pod] : cluster.pods) {
        const auto node = nodes.find(pod.node);
        files[quoted_name({"Pod", key.first, key.second})] =
            to_yaml(pod_manifest(pod, node == nodes.end() ? nullptr : node->second));
    }
    return files;
}

}  // namespace mesh::sandbox
