#include "publish/records.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include "model/annotations.hpp"
#include "model/traffic_annotations.hpp"

namespace mesh::publish {

namespace k8s = model::k8s;
using model::IpAddress;

namespace {

model::OptionalStringMap null_if_empty(const model::StringMap& map) {
    if (map.empty()) return std::nullopt;
    return map;
}

// --- nodes ------------------------------------------------------------------------------------

class NodeAnnotations {
  public:
    NodeAnnotations(const k8s::Node& node, std::vector<std::string>& warnings)
        : node_(node), warnings_(warnings) {}

    [[nodiscard]] std::optional<IpAddress> ip(std::string_view name, bool v4) const {
        const auto text = node_.meta.annotations.get(name);
        if (!text || text->empty()) return std::nullopt;
        const auto address = IpAddress::parse(*text);
        if (address && address->is_v4() == v4) return *address;
        warn(name, *text, v4 ? "an IPv4 address" : "an IPv6 address");
        return std::nullopt;
    }
    [[nodiscard]] std::uint8_t small_number(std::string_view name) const {
        const auto text = node_.meta.annotations.get(name);
        if (!text || text->empty()) return 0;
        std::uint8_t number = 0;
        const auto [end, ec] = std::from_chars(text->data(), text->data() + text->size(), number);
        if (ec == std::errc{} && end == text->data() + text->size()) return number;
        warn(name, *text, "an integer 0..255");
        return 0;
    }
    [[nodiscard]] std::string text(std::string_view name, std::string_view alias) const {
        const auto& annotations = node_.meta.annotations;
        return std::string(annotations.get(name).value_or(annotations.get(alias).value_or("")));
    }

  private:
    void warn(std::string_view name, std::string_view text, std::string_view expected) const {
        warnings_.push_back(fmt::format("Node {}: annotation {}: expected {}, got \"{}\"",
                                        node_.meta.name, name, expected, text));
    }

    const k8s::Node& node_;
    std::vector<std::string>& warnings_;
};

void add_cidr(const model::IpPrefix& prefix, std::optional<model::IpPrefix>& first,
              std::optional<std::vector<model::IpPrefix>>& more) {
    if (!first) {
        first = prefix;
        return;
    }
    if (!more) more.emplace();
    more->push_back(prefix);
}

// --- services ---------------------------------------------------------------------------------

/// nullopt = not to be offered.
std::optional<model::BackendState> state_of(const k8s::Endpoint& endpoint) {
    if (endpoint.ready) return model::BackendState::kActive;
    if (endpoint.serving && endpoint.terminating) return model::BackendState::kTerminating;
    return std::nullopt;
}

/// Ports of both lists; of equal names that of `first`.
model::SharedList<model::ServicePort> merge_ports(
    const model::SharedList<model::ServicePort>& first,
    const model::SharedList<model::ServicePort>& second) {
    if (first.shares_with(second) || first == second) return first;
    std::vector<model::ServicePort> ports = first.to_vector();
    for (const auto& port : second) {
        const bool known =
            std::ranges::any_of(ports, [&](const auto& p) { return p.name == port.name; });
        if (!known) ports.push_back(port);
    }
    std::ranges::sort(ports, [](const auto& a, const auto& b) { return a.name < b.name; });
    return ports;
}

/// An address may stand in several slices of a Service, each with ports of its own.
void merge_backend(model::LocalBackend& into, const model::LocalBackend& from) {
    into.ports = merge_ports(into.ports, from.ports);
    if (from.state == model::BackendState::kActive) into.state = from.state;
    if (into.node.empty()) into.node = from.node;
    if (into.zone.empty()) into.zone = from.zone;
    if (into.hostname.empty()) into.hostname = from.hostname;
    if (into.for_zones.empty()) into.for_zones = from.for_zones;
}

std::vector<model::LocalBackend> backends_of(const Slices& slices) {
    std::map<IpAddress, model::LocalBackend> by_address;
    for (const auto& [name, slice] : slices) {
        if (slice->from_mesh()) continue;
        for (const k8s::Endpoint& endpoint : slice->endpoints) {
            const auto state = state_of(endpoint);
            if (!state) continue;
            for (const IpAddress& address : endpoint.addresses) {
                model::LocalBackend backend;
                backend.address = address;
                backend.ports = slice->ports;
                backend.node = endpoint.node;
                backend.zone = endpoint.zone;
                backend.hostname = endpoint.hostname;
                backend.state = *state;
                backend.for_zones = endpoint.for_zones;
                const auto [at, added] = by_address.try_emplace(address, backend);
                if (!added) merge_backend(at->second, backend);
            }
        }
    }
    std::vector<model::LocalBackend> backends;
    backends.reserve(by_address.size());
    for (auto& [address, backend] : by_address) backends.push_back(std::move(backend));
    return backends;
}

void sort_by_text(std::vector<model::ServiceAddress>& addresses) {
    std::ranges::sort(addresses, {}, [](const auto& a) { return a.text(); });
}

}  // namespace

std::optional<IpAddress> node_address(const k8s::Node& node) {
    std::optional<IpAddress> v6;
    for (const std::string_view type : {"InternalIP", "ExternalIP"}) {
        for (const auto& candidate : node.addresses) {
            if (candidate.type != type) continue;
            const auto address = IpAddress::parse(candidate.address);
            if (!address) continue;
            if (address->is_v4()) return *address;
            if (!v6) v6 = *address;
        }
    }
    return v6;
}

model::Node make_node(const k8s::Node& node, const ClusterInfo& cluster,
                      std::vector<std::string>& warnings) {
    const NodeAnnotations annotations(node, warnings);
    model::Node out;
    out.name = node.meta.name;
    out.cluster = cluster.name;
    out.cluster_id = cluster.id;
    // What the mesh's own exporter says of its origin; readers replace it by their own notion.
    out.source = "custom-resource";
    std::vector<model::NodeAddress> addresses;
    for (const auto& candidate : node.addresses) {
        const auto address = IpAddress::parse(candidate.address);
        if (address) addresses.push_back({candidate.type, address->to_string()});
    }
    for (const bool v4 : {true, false}) {
        const auto router = annotations.ip(
            v4 ? "network.cilium.io/ipv4-cilium-host" : "network.cilium.io/ipv6-cilium-host", v4);
        if (router) addresses.push_back({"CiliumInternalIP", router->to_string()});
    }
    if (!addresses.empty()) out.addresses = std::move(addresses);
    for (const model::IpPrefix& prefix : node.pod_cidrs) {
        if (prefix.is_v4()) {
            add_cidr(prefix, out.ipv4_alloc_cidr, out.ipv4_secondary_alloc_cidrs);
        } else {
            add_cidr(prefix, out.ipv6_alloc_cidr, out.ipv6_secondary_alloc_cidrs);
        }
    }
    out.ipv4_health_ip = annotations.ip("network.cilium.io/ipv4-health-ip", true);
    out.ipv6_health_ip = annotations.ip("network.cilium.io/ipv6-health-ip", false);
    out.ipv4_ingress_ip = annotations.ip("network.cilium.io/ipv4-Ingress-ip", true);
    out.ipv6_ingress_ip = annotations.ip("network.cilium.io/ipv6-Ingress-ip", false);
    out.encryption_key = annotations.small_number("network.cilium.io/encryption-key");
    out.wireguard_public_key =
        annotations.text("network.cilium.io/wg-pub-key", "io.cilium.network.wg-pub-key");
    out.labels = null_if_empty(node.meta.labels);
    out.annotations = null_if_empty(node.meta.annotations);
    out.boot_id = node.boot_id;
    return out;
}

model::LocalService make_local_service(const k8s::Service& service, const Slices& slices,
                                       std::vector<std::string>& warnings) {
    model::LocalService out;
    out.namespace_ = service.meta.namespace_;
    out.name = service.meta.name;
    out.type = service.type;
    out.headless = service.headless;
    out.cluster_ips = service.cluster_ips;
    out.external_ips = service.external_ips;
    if (service.type == "LoadBalancer") out.load_balancer_ips = service.load_balancer_ips;
    out.ports = service.ports;
    out.backends = backends_of(slices);
    out.labels = null_if_empty(service.meta.labels);
    out.annotations = null_if_empty(service.meta.annotations);
    if (service.selector) out.selector = null_if_empty(*service.selector);
    auto flags = model::parse_service_annotations(out.annotations, service.headless);
    out.global = flags.global;
    out.shared = flags.shared;
    out.affinity = flags.affinity;
    auto exposure = model::parse_service_exposure(out.annotations);
    std::ranges::move(exposure.warnings, std::back_inserter(flags.warnings));
    // What steers traffic is read by the agents, from the annotations as they stand.
    auto traffic = model::parse_traffic_annotations(out.annotations);
    std::ranges::move(traffic.warnings, std::back_inserter(flags.warnings));
    for (const std::string& text : flags.warnings) {
        warnings.push_back(
            fmt::format("Service {}/{}: {}", service.meta.namespace_, service.meta.name, text));
    }
    out.client_ip_affinity_seconds = service.client_ip_affinity_seconds;
    out.internal_traffic_local = service.internal_traffic_local;
    out.external_traffic_local = service.external_traffic_local;
    return out;
}

std::optional<model::Service> make_service(const model::LocalService& local,
                                           const ClusterInfo& cluster) {
    if (!local.global || !local.shared || local.type == "ExternalName") return std::nullopt;
    model::Service out;
    out.cluster = cluster.name;
    out.cluster_id = cluster.id;
    out.namespace_ = local.namespace_;
    out.name = local.name;
    out.labels = local.labels;
    out.selector = local.selector;
    out.include_external = true;
    out.shared = true;
    if (!local.headless) {
        // Cluster IPs only, as the mesh has it; readers do not serve them.
        std::vector<model::ServicePort> ports = local.ports;
        for (model::ServicePort& port : ports) port.node_port = 0;
        const model::SharedList<model::ServicePort> shared(ports);
        for (const IpAddress& ip : local.cluster_ips) out.frontends.push_back({ip, shared, {}});
    }
    for (const model::LocalBackend& backend : local.backends) {
        const std::string address = backend.address.to_string();
        out.backends.push_back({backend.address, backend.ports, {}});
        if (!backend.hostname.empty()) out.hostnames.insert_or_assign(address, backend.hostname);
        if (!backend.zone.empty()) {
            std::vector<model::Text> zones(backend.for_zones.begin(), backend.for_zones.end());
            out.zones.insert_or_assign(address, model::ServiceZone{backend.zone, zones});
        }
    }
    sort_by_text(out.frontends);
    sort_by_text(out.backends);
    return out;
}

}  // namespace mesh::publish
