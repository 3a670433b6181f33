#include "compile/services/frontend_compiler.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "compile/services/health_state.hpp"
#include "compile/services/selection.hpp"
#include "compile/services/traffic.hpp"
#include "model/annotations.hpp"
#include "model/traffic_annotations.hpp"

namespace mesh::compile {
namespace {

using model::IpAddress;
using model::LocalService;
using model::ServicePort;

/// What backends must offer to serve a frontend.
struct Wanted {
    std::string_view port_name;
    Protocol protocol = Protocol::kTcp;
    bool v4 = true;

    [[nodiscard]] bool fits(const IpAddress& address, const ServicePort& port) const {
        return port.port != 0 && port.name == port_name && address.is_v4() == v4 &&
               parse_protocol(port.protocol) == protocol;
    }
};

/// What a frontend stands for.
struct Frontend {
    const ServicePort* port = nullptr;
    bool cluster_ip = false;
    bool outside = false;
    bool node_port = false;
};
using Frontends = std::map<FrontendKey, Frontend>;

bool here(const model::ServiceExposure& exposure, const MergerOptions& options) {
    return options.node.empty() || exposure.on_node(options.node_labels);
}

/// Of two ports with the same number and protocol, which Kubernetes does not allow, the first by
/// name stays; an address that is a cluster IP, too, is that.
void add_frontends(const LocalService& local, const std::vector<IpAddress>& addresses,
                   std::uint16_t ServicePort::*number, bool cluster_ip, Frontends& found) {
    for (const IpAddress& address : addresses) {
        for (const ServicePort& port : local.ports) {
            const auto protocol = parse_protocol(port.protocol);
            if (!protocol || port.*number == 0) continue;
            Frontend& held = found[{address, port.*number, *protocol}];
            if (held.port == nullptr || port.name < held.port->name) held.port = &port;
            held.cluster_ip = held.cluster_ip || cluster_ip;
            held.outside = held.outside || !cluster_ip;
        }
    }
}

/// The frontends to be installed on this node.
Frontends frontends(const LocalService& local, const MergerOptions& options) {
    Frontends found;
    if (!has_frontends(local)) return found;
    const model::ServiceExposure exposure = model::parse_service_exposure(local.annotations);
    if (!here(exposure, options)) return found;
    constexpr auto kPort = &ServicePort::port;
    if (exposure.cluster_ip) add_frontends(local, local.cluster_ips, kPort, true, found);
    if (exposure.external_ips) add_frontends(local, local.external_ips, kPort, false, found);
    if (exposure.load_balancer) add_frontends(local, local.load_balancer_ips, kPort, false, found);
    if (exposure.node_port && has_node_ports(local)) {
        Frontends at_node;
        add_frontends(local, options.node_addresses, &ServicePort::node_port, false, at_node);
        for (auto& [key, frontend] : at_node) {
            frontend.node_port = true;
            found.emplace(key, frontend);
        }
    }
    return found;
}

void add_local(const LocalService& local, const Wanted& wanted, const MergerOptions& options,
               std::vector<Candidate>& candidates, MergerWork& work) {
    for (const model::LocalBackend& backend : local.backends) {
        ++work.backends_seen;
        for (const ServicePort& port : backend.ports) {
            if (!wanted.fits(backend.address, port)) continue;
            candidates.push_back(
                {.row = {.address = backend.address,
                         .port = port.port,
                         .cluster = options.own,
                         .weight = backend.weight,
                         .state = backend.state,
                         .here = !options.node.empty() && backend.node == options.node},
                 .rank = 0,
                 .node = backend.node,
                 .for_zones = {backend.for_zones.begin(), backend.for_zones.end()}});
        }
    }
}

void add_remote(const RemoteService& remote, std::size_t rank, const Wanted& wanted,
                std::vector<Candidate>& candidates, MergerWork& work) {
    const auto& zones = remote.service.zones;
    for (const model::ServiceAddress& backend : remote.service.backends) {
        ++work.backends_seen;
        // fe80::1%eth0 means something on its own node only.
        if (backend.spelling.view().find('%') != std::string_view::npos) continue;
        for (const ServicePort& port : backend.ports) {
            if (!wanted.fits(backend.address, port)) continue;
            Candidate candidate;
            candidate.row = {
                .address = backend.address, .port = port.port, .cluster = remote.cluster};
            candidate.rank = rank;
            if (!zones.empty()) {
                const auto zone = zones.find(std::string_view(backend.text()));
                if (zone != zones.end()) {
                    candidate.for_zones.assign(zone->second.for_zones.begin(),
                                               zone->second.for_zones.end());
                }
            }
            candidates.push_back(std::move(candidate));
        }
    }
}

}  // namespace

std::optional<Protocol> parse_protocol(std::string_view text) noexcept {
    if (text == "TCP") return Protocol::kTcp;
    if (text == "UDP") return Protocol::kUdp;
    if (text == "SCTP") return Protocol::kSctp;
    return std::nullopt;
}

bool has_frontends(const LocalService& local) noexcept {
    return !local.headless && local.type != "ExternalName";
}

bool has_node_ports(const LocalService& local) noexcept {
    return (local.type == "NodePort" || local.type == "LoadBalancer") &&
           std::ranges::any_of(local.ports, [](const auto& port) { return port.node_port != 0; });
}

bool offers_backends(const model::Service& remote) noexcept {
    return remote.include_external && remote.shared;
}

bool is_installed(const LocalService& local, const MergerOptions& options) {
    return has_frontends(local) && here(model::parse_service_exposure(local.annotations), options);
}

std::vector<FrontendKey> frontend_keys(const LocalService& local, const MergerOptions& options) {
    std::vector<FrontendKey> keys;
    for (const auto& [key, frontend] : frontends(local, options)) keys.push_back(key);
    return keys;
}

std::vector<FrontendRow> compile_frontends(const LocalService& local,
                                           const std::vector<RemoteService>& remotes,
                                           const MergerOptions& options,
                                           const ServiceTraffic* traffic,
                                           const ServiceHealth& health, MergerWork& work) {
    ++work.services_compiled;
    SelectionPolicy policy{
        .affinity = local.global ? local.affinity : model::Affinity::kNone,
        .node = options.node,
        .zone = options.zone_hints ? std::string_view(options.zone) : std::string_view()};
    if (traffic != nullptr) {
        policy.clusters = traffic->clusters;
        policy.min_local = traffic->min_local();
    }
    std::vector<FrontendRow> rows;
    for (const auto& [key, frontend] : frontends(local, options)) {
        const Wanted wanted{frontend.port->name, key.protocol, key.address.is_v4()};
        std::vector<Candidate> candidates;
        add_local(local, wanted, options, candidates, work);
        if (local.global) {
            for (std::size_t i = 0; i < remotes.size(); ++i) {
                if (!offers_backends(remotes[i].service)) continue;
                add_remote(remotes[i], i + 1, wanted, candidates, work);
            }
        }
        if (health.state != nullptr) {
            for (Candidate& c : candidates) {
                c.unhealthy = health.state->verdict(c.row.cluster.name, c.row.address, c.row.port,
                                                    key.protocol, health.check_or_null());
            }
        }
        // internalTrafficPolicy is of the cluster IP; pods reach all backends by the others.
        policy.this_node_only = frontend.cluster_ip && local.internal_traffic_local;
        select_backends(candidates, policy);
        FrontendRow row{.key = key,
                        .service = {local.namespace_, local.name},
                        .port_name = frontend.port->name,
                        .affinity_seconds = local.client_ip_affinity_seconds,
                        .outside = frontend.outside,
                        .outside_local = frontend.outside && local.external_traffic_local,
                        .node_port = frontend.node_port,
                        .reset_connections = health.reset_connections,
                        .backends = {}};
        row.backends.reserve(candidates.size());
        for (Candidate& c : candidates) row.backends.push_back(std::move(c.row));
        rows.push_back(std::move(row));
    }
    return rows;
}

ServiceHealth ServiceHealth::of(const HealthState* state, const LocalService& local) {
    ServiceHealth health{state, std::nullopt, true};
    if (!model::has_traffic_annotations(local.annotations)) return health;
    auto annotations = model::parse_traffic_annotations(local.annotations);
    health.check = std::move(annotations.health_check);
    health.reset_connections = annotations.reset_connections;
    return health;
}

bool is_taken(const LocalService& local, const MergerOptions& options, const IpAddress& address,
              const model::SharedList<ServicePort>& ports) {
    for (const auto& [key, frontend] : frontends(local, options)) {
        const Wanted wanted{frontend.port->name, key.protocol, key.address.is_v4()};
        if (std::ranges::any_of(ports, [&](const auto& p) { return wanted.fits(address, p); })) {
            return true;
        }
    }
    return false;
}

}  // namespace mesh::compile
