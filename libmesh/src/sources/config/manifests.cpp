#include "sources/config/manifests.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "model/names.hpp"
#include "sources/config/document.hpp"
#include "sources/config/field.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::sources::config {

namespace k8s = model::k8s;
using model::IpAddress;
using model::IpPrefix;
using model::StringMap;

namespace {

// --- fields -----------------------------------------------------------------------------------

StringMap read_map(const Field& field, bool values_are_labels) {
    std::vector<StringMap::value_type> pairs;
    field.each_member([&](const std::string& name, const Field& value) {
        std::string text = value.string();
        if (!model::is_qualified_name(name))
            value.expected("a name of the form [prefix/]name here");
        if (values_are_labels && !model::is_label_text(text)) {
            value.expected(
                "at most 63 letters, digits, '-', '_' and '.', alphanumeric at both ends");
        }
        pairs.emplace_back(name, text);
    });
    return StringMap::from_pairs(std::move(pairs));
}

k8s::Metadata read_metadata(const Field& root, bool namespaced, bool dots) {
    const Field metadata = root["metadata"];
    k8s::Metadata meta;
    const Field name = metadata["name"];
    meta.name = name.required_string();
    const std::size_t limit = dots ? 253 : 63;
    if (!meta.name.empty() && !model::is_dns_name(meta.name, limit, dots)) {
        name.expected(fmt::format("at most {} of a-z, 0-9, '-'{}, alphanumeric at both ends", limit,
                                  dots ? " and '.'" : ""));
    }
    if (namespaced) {
        const Field space = metadata["namespace"];
        meta.namespace_ = space.string("default");
        if (!model::is_dns_name(meta.namespace_, 63, false)) {
            space.expected("at most 63 of a-z, 0-9, '-', alphanumeric at both ends");
        }
    }
    meta.creation_timestamp = metadata["creationTimestamp"].string();
    meta.labels = read_map(metadata["labels"], true);
    meta.annotations = read_map(metadata["annotations"], false);
    return meta;
}

std::optional<IpAddress> read_ip(const Field& field) {
    const std::string text = field.string();
    if (text.empty()) return std::nullopt;
    const auto address = IpAddress::parse(text);
    if (address) return *address;
    field.expected("an IPv4 or IPv6 address");
    return std::nullopt;
}

std::string read_protocol(const Field& field) {
    return field.choice({"TCP", "UDP", "SCTP"}, "TCP");
}

std::string read_port_name(const Field& field) {
    std::string name = field.string();
    if (!name.empty() && !model::is_dns_name(name, 63, false)) {
        field.expected("at most 63 of a-z, 0-9, '-', alphanumeric at both ends");
    }
    return name;
}

template <class Ports>
void sort_ports(Ports& ports) {
    std::ranges::sort(ports, [](const auto& a, const auto& b) { return a.name < b.name; });
}

/// Ports by name, each name once.
/// @param of_service else of an EndpointSlice
std::vector<model::ServicePort> read_ports(const Field& list, bool of_service) {
    std::vector<model::ServicePort> ports;
    list.each([&](const Field& item) {
        const Field number = item["port"];
        model::ServicePort port;
        port.name = read_port_name(item["name"]);
        port.protocol = read_protocol(item["protocol"]);
        if (!of_service && !number.present()) return;  // "all ports" of an address
        port.port = static_cast<std::uint16_t>(number.integer(1, 65535, std::nullopt));
        if (of_service) {
            port.node_port = static_cast<std::uint16_t>(item["nodePort"].integer(0, 65535, 0));
        }
        const bool twice =
            std::ranges::any_of(ports, [&](const auto& p) { return p.name == port.name; });
        if (twice) item["name"].expected("a name that no other port of the list has");
        ports.push_back(std::move(port));
    });
    sort_ports(ports);
    return ports;
}

// --- kinds ------------------------------------------------------------------------------------

k8s::Object read_namespace(const Field& root) {
    return k8s::Namespace{read_metadata(root, false, false)};
}

k8s::Object read_node(const Field& root) {
    k8s::Node node;
    node.meta = read_metadata(root, false, true);
    const auto add_cidr = [&](const Field& field) {
        const std::string text = field.string();
        if (text.empty()) return;
        const auto prefix = IpPrefix::parse(text);
        if (!prefix || text.find('/') == std::string::npos) {
            field.expected("a CIDR such as 10.1.0.0/24");
        } else if (std::ranges::find(node.pod_cidrs, *prefix) == node.pod_cidrs.end()) {
            node.pod_cidrs.push_back(*prefix);
        }
    };
    const Field spec = root["spec"];
    add_cidr(spec["podCIDR"]);
    spec["podCIDRs"].each(add_cidr);
    const Field status = root["status"];
    status["addresses"].each([&](const Field& item) {
        node.addresses.push_back({item["type"].required_string(), item["address"].string()});
    });
    node.boot_id = status["nodeInfo"]["bootID"].string();
    return node;
}

/// Of two ports of a name, which Kubernetes lets containers have, the first one counts.
model::SharedList<model::NamedPort> read_named_ports(const Field& containers) {
    std::vector<model::NamedPort> ports;
    containers.each([&](const Field& container) {
        container["ports"].each([&](const Field& item) {
            model::NamedPort port;
            port.name = read_port_name(item["name"]);
            port.protocol = read_protocol(item["protocol"]);
            port.port =
                static_cast<std::uint16_t>(item["containerPort"].integer(1, 65535, std::nullopt));
            if (!port.name.empty()) ports.push_back(std::move(port));
        });
    });
    std::ranges::stable_sort(ports, {}, [](const auto& p) { return p.name.view(); });
    const auto twice = std::ranges::unique(ports, {}, [](const auto& p) { return p.name.view(); });
    ports.erase(twice.begin(), twice.end());
    return model::SharedList<model::NamedPort>(ports);
}

k8s::Object read_pod(const Field& root) {
    k8s::Pod pod;
    pod.meta = read_metadata(root, true, true);
    const Field spec = root["spec"];
    pod.node = spec["nodeName"].string();
    pod.service_account = spec["serviceAccountName"].string("default");
    if (!model::is_dns_name(pod.service_account, 253, true)) {
        spec["serviceAccountName"].expected("a service account's name");
    }
    pod.host_network = spec["hostNetwork"].boolean(false);
    pod.ports = read_named_ports(spec["containers"]);
    const Field status = root["status"];
    pod.phase = status["phase"].string();
    pod.host_ip = read_ip(status["hostIP"]);
    const auto add_ip = [&](const std::optional<IpAddress>& ip) {
        if (ip && std::ranges::find(pod.ips, *ip) == pod.ips.end()) pod.ips.push_back(*ip);
    };
    add_ip(read_ip(status["podIP"]));
    status["podIPs"].each([&](const Field& item) { add_ip(read_ip(item["ip"])); });
    return pod;
}

/// Adds the address of a field, if there is one, once.
void read_ip_into(const Field& field, std::vector<IpAddress>& ips) {
    const auto ip = read_ip(field);
    if (ip && std::ranges::find(ips, *ip) == ips.end()) ips.push_back(*ip);
}

void read_cluster_ips(const Field& spec, k8s::Service& service) {
    const auto add = [&](const Field& field) {
        if (field.string() == "None") {
            service.headless = true;
        } else {
            read_ip_into(field, service.cluster_ips);
        }
    };
    add(spec["clusterIP"]);
    spec["clusterIPs"].each(add);
    if (service.headless && !service.cluster_ips.empty()) {
        spec["clusterIPs"].expected("addresses or None, not both");
    }
}

k8s::Object read_service(const Field& root) {
    k8s::Service service;
    service.meta = read_metadata(root, true, false);
    const Field spec = root["spec"];
    service.type =
        spec["type"].choice({"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}, "ClusterIP");
    read_cluster_ips(spec, service);
    if (service.meta.labels.contains(k8s::kHeadlessLabel)) service.headless = true;
    spec["externalIPs"].each([&](const Field& ip) { read_ip_into(ip, service.external_ips); });
    root["status"]["loadBalancer"]["ingress"].each([&](const Field& item) {
        const bool vip = item["ipMode"].choice({"VIP", "Proxy"}, "VIP") == "VIP";
        if (vip) read_ip_into(item["ip"], service.load_balancer_ips);
    });
    const Field ports = spec["ports"];
    service.ports = read_ports(ports, true);
    if (service.ports.size() > 1 && service.ports.front().name.empty()) {
        ports.expected("a name for each port, since there are several");
    }
    if (const Field selector = spec["selector"]; selector.present()) {
        service.selector = read_map(selector, true);
    }
    if (spec["sessionAffinity"].choice({"None", "ClientIP"}, "None") == "ClientIP") {
        service.client_ip_affinity_seconds = static_cast<std::uint32_t>(
            spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].integer(1, 86400, 10800));
    }
    service.internal_traffic_local =
        spec["internalTrafficPolicy"].choice({"Cluster", "Local"}, "Cluster") == "Local";
    // Of a service of another type Kubernetes has none, and drops it.
    service.external_traffic_local =
        spec["externalTrafficPolicy"].choice({"Cluster", "Local"}, "Cluster") == "Local" &&
        (service.type == "NodePort" || service.type == "LoadBalancer" ||
         !service.external_ips.empty());
    return service;
}

k8s::Endpoint read_endpoint(const Field& item, const std::string& address_type) {
    k8s::Endpoint endpoint;
    item["addresses"].each([&](const Field& field) {
        const auto address = IpAddress::parse(field.string());
        if (!address || address->is_v4() != (address_type == "IPv4")) {
            field.expected(fmt::format("an {} address, as addressType says", address_type));
        } else {
            endpoint.addresses.push_back(*address);
        }
    });
    // Absent is true for ready; serving follows ready; absent is false for terminating
    // (discovery.k8s.io/v1 EndpointConditions).
    const Field conditions = item["conditions"];
    endpoint.ready = conditions["ready"].boolean(true);
    endpoint.serving = conditions["serving"].boolean(endpoint.ready);
    endpoint.terminating = conditions["terminating"].boolean(false);
    const Field hostname = item["hostname"];
    endpoint.hostname = hostname.string();
    if (!endpoint.hostname.empty() && !model::is_dns_name(endpoint.hostname, 63, false)) {
        hostname.expected("at most 63 of a-z, 0-9, '-', alphanumeric at both ends");
    }
    endpoint.node = item["nodeName"].string();
    endpoint.zone = item["zone"].string();
    item["hints"]["forZones"].each(
        [&](const Field& zone) { endpoint.for_zones.push_back(zone["name"].required_string()); });
    return endpoint;
}

k8s::Object read_endpoint_slice(const Field& root) {
    k8s::EndpointSlice slice;
    slice.meta = read_metadata(root, true, true);
    const Field type = root["addressType"];
    slice.address_type = type.choice({"IPv4", "IPv6", "FQDN"}, "");
    if (slice.address_type.empty()) type.expected("one of IPv4, IPv6, FQDN");
    slice.ports = read_ports(root["ports"], false);
    if (slice.address_type == "FQDN") return slice;
    root["endpoints"].each([&](const Field& item) {
        slice.endpoints.push_back(read_endpoint(item, slice.address_type));
    });
    return slice;
}

// --- documents --------------------------------------------------------------------------------

struct KindEntry {
    std::string_view api_version;
    std::string_view kind;
    k8s::Object (*read)(const Field& root);
};

constexpr std::string_view kCore = "v1";
constexpr std::string_view kDiscovery = "discovery.k8s.io/v1";
constexpr KindEntry kKinds[] = {
    {kCore, "Namespace", read_namespace},
    {kCore, "Node", read_node},
    {kCore, "Pod", read_pod},
    {kCore, "Service", read_service},
    {kDiscovery, "EndpointSlice", read_endpoint_slice},
};

class ManifestReader {
  public:
    ManifestReader(std::string_view file, ParsedManifests& out) : file_(file), out_(out) {}

    void read(const Document& document) {
        number_ = document.number;
        std::optional<std::string> mistake;
        const Field root(document.root, mistake);
        read_object(root, root["apiVersion"].required_string(), root["kind"].required_string(),
                    mistake);
        report(mistake);
    }

  private:
    void read_object(const Field& root, const std::string& api_version, const std::string& kind,
                     std::optional<std::string>& mistake) {
        if (mistake) return;
        if (kind == "List" && api_version == kCore) {
            root["items"].each([&](const Field& item) {
                read_object(item, item["apiVersion"].required_string(),
                            item["kind"].required_string(), mistake);
            });
            return;
        }
        for (const KindEntry& entry : kKinds) {
            if (entry.api_version != api_version) continue;
            if (entry.kind == kind) return add(root, entry, mistake);
            // The items of an API server's typed list say neither kind nor version.
            if (kind == fmt::format("{}List", entry.kind)) {
                root["items"].each([&](const Field& item) { add(item, entry, mistake); });
                return;
            }
        }
        // Policies have a reader of their own.
        if (!is_network_policy(kind)) out_.skipped.insert(fmt::format("{} {}", api_version, kind));
    }

    void add(const Field& root, const KindEntry& entry, std::optional<std::string>& mistake) {
        if (mistake) return;
        auto object = std::make_shared<const k8s::Object>(entry.read(root));
        if (mistake) return;
        const k8s::ObjectKey key = k8s::key_of(*object);
        if (!seen_.insert(key).second) {
            root["metadata"]["name"].expected(fmt::format("{} once in a file", key.to_string()));
            return;
        }
        out_.objects.push_back(std::move(object));
    }

    void report(const std::optional<std::string>& mistake) {
        if (mistake)
            out_.errors.push_back(fmt::format("{}: document {}: {}", file_, number_, *mistake));
    }

    std::string_view file_;
    ParsedManifests& out_;
    std::set<k8s::ObjectKey> seen_;
    std::uint32_t number_ = 0;
};

}  // namespace

ParsedManifests parse_manifests(std::string_view text, std::string_view file) {
    ParsedManifests out;
    const auto documents = parse_documents(text, file);
    if (!documents) {
        out.errors.push_back(documents.error().detail());
        return out;
    }
    ManifestReader reader(file, out);
    for (const Document& document : *documents) reader.read(document);
    return out;
}

// --- ManifestSet ------------------------------------------------------------------------------

ManifestUpdate ManifestSet::apply(std::string_view name, std::string_view text) {
    ParsedManifests parsed = parse_manifests(text, name);
    ManifestUpdate update;
    File& file = files_[std::string(name)];
    for (const std::string& kind : parsed.skipped) {
        if (skipped_told_.insert(fmt::format("{}: {}", name, kind)).second) {
            update.warnings.push_back(
                fmt::format("{}: {} is not used by the mesh, skipped", name, kind));
        }
    }
    if (!parsed.errors.empty()) {
        if (parsed.errors != file.errors) update.errors = parsed.errors;
        file.errors = std::move(parsed.errors);
        return update;
    }
    file.errors.clear();
    file.ever_good = true;
    Objects objects;
    for (auto& object : parsed.objects) objects.emplace(k8s::key_of(*object), std::move(object));
    replace(std::string(name), file, std::move(objects), update);
    return update;
}

ManifestUpdate ManifestSet::remove(std::string_view name) {
    ManifestUpdate update;
    const auto found = files_.find(name);
    if (found == files_.end()) return update;
    replace(found->first, found->second, {}, update);
    files_.erase(found);
    std::erase_if(skipped_told_, [prefix = fmt::format("{}: ", name)](const std::string& told) {
        return told.starts_with(prefix);
    });
    return update;
}

ManifestUpdate ManifestSet::fail(std::string_view name, std::string why) {
    ManifestUpdate update;
    File& file = files_[std::string(name)];
    file.errors = {std::move(why)};
    update.errors = file.errors;
    return update;
}

void ManifestSet::replace(const std::string& name, File& file, Objects objects,
                          ManifestUpdate& update) {
    definitions_.replace(
        name, file.objects, std::move(objects),
        [&](const k8s::ObjectKey& key, const auto& object) {
            update.changes.push_back({key, object});
        },
        update.errors);
}

std::map<k8s::Kind, std::size_t> ManifestSet::counts() const {
    return definitions_.counts();
}

std::vector<std::string> ManifestSet::errors() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : files_) {
        all.insert(all.end(), file.errors.begin(), file.errors.end());
    }
    const auto duplicates = definitions_.duplicates();
    all.insert(all.end(), duplicates.begin(), duplicates.end());
    return all;
}

bool ManifestSet::incomplete() const {
    return std::ranges::any_of(files_, [](const auto& entry) { return !entry.second.ever_good; });
}

}  // namespace mesh::sources::config
