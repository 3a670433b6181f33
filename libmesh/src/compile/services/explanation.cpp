#include "compile/services/explanation.hpp"

#include <fmt/format.h>

#include "compile/services/health_state.hpp"
#include "compile/services/traffic_notes.hpp"
#include "model/annotations.hpp"

namespace mesh::compile {
namespace {

std::string ports_text(const model::SharedList<model::ServicePort>& ports) {
    if (ports.empty()) return "no port";
    std::string text;
    for (const model::ServicePort& port : ports) {
        text += fmt::format("{}{}{}{}/{}", text.empty() ? "" : ", ", port.name.view(),
                            port.name.empty() ? "" : " ", port.port, port.protocol.view());
    }
    return text;
}

/// Which kinds of frontends are left out.
void note_exposure(const model::LocalService& local, const MergerOptions& options,
                   std::vector<std::string>& notes) {
    const auto exposure = model::parse_service_exposure(local.annotations);
    const auto left_out = [&](std::string_view kind, bool installed, bool any) {
        if (installed || !any) return;
        notes.push_back(fmt::format("{} not installed, as annotation {} does not list them", kind,
                                    model::kTypeAnnotation));
    };
    left_out("cluster IPs", exposure.cluster_ip, !local.cluster_ips.empty());
    left_out("external IPs", exposure.external_ips, !local.external_ips.empty());
    left_out("load balancer IPs", exposure.load_balancer, !local.load_balancer_ips.empty());
    if (!has_node_ports(local)) return;
    left_out("node ports", exposure.node_port, true);
    if (exposure.node_port && options.node_addresses.empty()) {
        notes.emplace_back("node ports not served: this node has no InternalIP");
    }
    if (local.external_traffic_local) {
        notes.emplace_back(
            "externalTrafficPolicy Local: clients outside of the cluster get backends of this node "
            "only");
    }
}

/// Why the own service has no frontends, or fewer than it lists; empty if it has all.
void note_own(const model::LocalService& local, const MergerOptions& options,
              std::vector<std::string>& notes) {
    if (local.type == "ExternalName") {
        notes.emplace_back("of type ExternalName: it has no frontends");
        return;
    }
    if (local.headless) {
        notes.emplace_back("headless: it has no frontends; clients resolve its backends by name");
        return;
    }
    if (local.cluster_ips.empty() && local.external_ips.empty() &&
        local.load_balancer_ips.empty()) {
        notes.emplace_back("no cluster IP: it has no frontends");
    }
    if (!is_installed(local, options)) {
        const auto selector = local.annotations->get(model::kNodeSelectorAnnotation);
        const auto name = selector ? model::kNodeSelectorAnnotation : model::kNodeAnnotation;
        notes.push_back(
            fmt::format("not installed on this node: its labels are not those of "
                        "annotation {}: \"{}\"",
                        name, local.annotations->get(name).value_or("")));
        return;
    }
    note_exposure(local, options, notes);
    for (const model::ServicePort& port : local.ports) {
        if (!parse_protocol(port.protocol)) {
            notes.push_back(
                fmt::format("port {} {}: protocol \"{}\" has no frontend, expected TCP, UDP "
                            "or SCTP",
                            port.name.view(), port.port, port.protocol.view()));
        }
    }
}

void note_untaken(std::string_view cluster, const model::LocalService& local,
                  const MergerOptions& options, const model::IpAddress& address,
                  const model::SharedList<model::ServicePort>& ports,
                  std::vector<std::string>& notes) {
    if (is_taken(local, options, address, ports)) return;
    notes.push_back(
        fmt::format("{} {}: no frontend takes this backend; it offers {}, and name, protocol and "
                    "address family "
                    "must be those of a frontend",
                    cluster, address.to_string(), ports_text(ports)));
}

void note_remote(const RemoteService& remote, const model::LocalService* local,
                 const MergerOptions& options, std::vector<std::string>& notes) {
    const std::string& cluster = remote.cluster.name;
    if (local == nullptr) {
        notes.push_back(fmt::format(
            "{}: has a service of this name, without effect: this cluster has none", cluster));
    } else if (!local->global) {
        notes.push_back(
            fmt::format("{}: its backends are not used, as this cluster's service has not "
                        "{}=true",
                        cluster, model::kGlobalAnnotation));
    } else if (!offers_backends(remote.service)) {
        notes.push_back(fmt::format("{}: its service is {}", cluster,
                                    remote.service.shared ? "not global" : "not shared"));
    } else if (is_installed(*local, options)) {
        for (const model::ServiceAddress& backend : remote.service.backends) {
            if (backend.spelling.view().find('%') != std::string_view::npos) {
                notes.push_back(
                    fmt::format("{} {}: an address with a zone is of no use in another "
                                "cluster",
                                cluster, backend.spelling.view()));
            } else {
                note_untaken(cluster, *local, options, backend.address, backend.ports, notes);
            }
        }
    }
}

}  // namespace

std::string_view to_string(Protocol protocol) noexcept {
    switch (protocol) {
        case Protocol::kTcp:
            return "TCP";
        case Protocol::kUdp:
            return "UDP";
        case Protocol::kSctp:
            return "SCTP";
    }
    return "unknown";
}

std::string_view to_string(Reason reason) noexcept {
    switch (reason) {
        case Reason::kActive:
            return "active";
        case Reason::kRemoteFallback:
            return "affinity local: remote, used as no local backend is active";
        case Reason::kLocalFallback:
            return "affinity remote: local, used as no remote backend is healthy";
        case Reason::kLastTerminating:
            return "terminating, used as no active backend is left";
        case Reason::kTerminating:
            return "terminating: keeps its connections, gets no new ones";
        case Reason::kQuarantined:
            return "not ready or failed its health checks";
        case Reason::kMaintenance:
            return "taken out of service (maintenance, or weight 0)";
        case Reason::kPrefersLocal:
            return "affinity local: there are active local backends";
        case Reason::kPrefersRemote:
            return "affinity remote: there are healthy remote backends";
        case Reason::kOtherZone:
            return "zone hints: meant for other zones";
        case Reason::kOtherNode:
            return "internalTrafficPolicy Local: not on this node";
        case Reason::kShadowed:
            return "the same address and port is listed by a cluster that goes first";
        case Reason::kSpillover:
            return "affinity local: remote, takes what spills over: too few local ones are active";
        case Reason::kWeightZero:
            return "cluster-weights: its cluster has weight 0, and others have active backends";
        case Reason::kLaterInOrder:
            return "cluster-order: a cluster that goes first has active backends";
        case Reason::kNotInOrder:
            return "cluster-order: its cluster is not named, and there is no *";
        case Reason::kStaleRemote:
            return "stale remote: no proof of life for longer than stale-policy allows";
        case Reason::kShareTooSmall:
            return "its cluster's share is too small for each of its backends to get a part";
        case Reason::kFailsProbe:
            return "fails its health check";
        case Reason::kNodeUnreachable:
            return "its node does not answer probes";
        case Reason::kNodeGone:
            return "the record of its node is gone";
        case Reason::kAllUnhealthy:
            return "unhealthy, used as all backends are";
    }
    return "unknown";
}

ServiceExplanation explain_service(const state::ObjectName& name, const model::LocalService* local,
                                   const std::vector<RemoteService>& remotes,
                                   const MergerOptions& options, const TrafficState& traffic_state,
                                   const HealthState* health) {
    ServiceExplanation explanation;
    explanation.service = name;
    if (local != nullptr) {
        explanation.local = true;
        explanation.global = local->global;
        explanation.shared = local->global && local->shared;
        explanation.affinity = local->global ? local->affinity : model::Affinity::kNone;
        MergerWork work;
        auto traffic = traffic_state.traffic_of(*local, remotes);
        const auto health_of = ServiceHealth::of(health, *local);
        explanation.frontends = compile_frontends(*local, remotes, options,
                                                  traffic ? &*traffic : nullptr, health_of, work);
        if (traffic) traffic_state.preview(name, *traffic, explanation.frontends);
        explanation.notes = traffic_notes(*local, traffic ? &*traffic : nullptr, traffic_state,
                                          explanation.frontends);
        if (health != nullptr) {
            for (auto& note : health->notes(health_of.check_or_null(), explanation.frontends)) {
                explanation.notes.push_back(std::move(note));
            }
        }
        note_own(*local, options, explanation.notes);
        if (is_installed(*local, options)) {
            for (const model::LocalBackend& backend : local->backends) {
                note_untaken(options.own.name, *local, options, backend.address, backend.ports,
                             explanation.notes);
            }
        }
    }
    for (const RemoteService& remote : remotes) {
        note_remote(remote, local, options, explanation.notes);
    }
    return explanation;
}

std::string note_other_service(const FrontendKey& key, const state::ObjectName& served) {
    const std::string address = key.address.to_string();
    return fmt::format("{}{}{}:{}/{} is served for {}/{}, which has the same frontend",
                       key.address.is_v4() ? "" : "[", address, key.address.is_v4() ? "" : "]",
                       key.port, to_string(key.protocol), served.namespace_, served.name);
}

}  // namespace mesh::compile
