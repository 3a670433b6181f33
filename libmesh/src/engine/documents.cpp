#include "engine/documents.hpp"

#include <fmt/format.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <optional>
#include <utility>

#include "model/utf8.hpp"

namespace mesh::engine {

namespace json = boost::json;

namespace {

/// In bytes, of one error or failure.
constexpr std::size_t kMostText = 2048;

/// Failures quote what a peer or a file says, and a serialized document is no JSON if they are not
/// UTF-8.
json::string shown(std::string_view text) {
    return json::string(model::printable(text, kMostText));
}

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

json::value seconds_or_null(const std::optional<Duration>& duration) {
    return duration ? json::value(seconds(*duration)) : json::value(nullptr);
}

json::object cluster_document(const state::SessionStatus& from) {
    json::object objects;
    json::object synced;
    for (std::size_t i = 0; i < state::kObjectSlots; ++i) {
        if (!from.slots[i].wanted) continue;
        const auto name = to_string(state::object_slot(i));
        objects[name] = from.slots[i].count;
        synced[name] = from.slots[i].synced;
    }
    objects["backends"] = from.backends;
    json::array refused;
    for (std::size_t i = 0; i < state::kRefusals; ++i) {
        const auto& count = from.refused[i];
        if (count.count == 0) continue;
        refused.push_back(json::object{{"reason", to_string(static_cast<state::Refusal>(i))},
                                       {"count", count.count},
                                       {"last_key", shown(count.last_key)},
                                       {"last_detail", shown(count.last_detail)}});
    }
    return {
        {"name", from.cluster},
        {"id", number(from.config.id)},
        {"state", to_string(from.state)},
        {"ready", from.ready},
        {"connected", from.connected},
        {"etcd_cluster_id", fmt::format("{:x}", from.position.cluster_id)},
        {"etcd_member_id", fmt::format("{:x}", from.position.member_id)},
        {"revision", from.position.revision},
        {"lag_revisions", from.lag_revisions},
        {"lag_seconds", seconds(from.lag)},
        {"last_proof_of_life_seconds", seconds_or_null(from.last_proof_of_life)},
        {"last_heartbeat_seconds", seconds_or_null(from.last_heartbeat)},
        {"failures", from.failures},
        {"failures_in_a_row", from.failures_in_a_row},
        {"attempts_in_a_row", from.attempts_in_a_row},
        {"last_failure", shown(from.last_failure)},
        {"last_failure_age_seconds", seconds_or_null(from.last_failure_age)},
        {"drained_as_stale", from.drained_as_stale},
        {"config", json::object{{"retrieved", from.config_retrieved},
                                {"required", from.config_required},
                                {"cached", from.config.cached},
                                {"synced_canaries", from.config.synced_canaries},
                                {"max_connected_clusters", from.config.max_connected_clusters}}},
        {"objects", std::move(objects)},
        {"synced", std::move(synced)},
        {"refused", std::move(refused)}};
}

/// Collects metric families by name in the order of first use.
class Families {
  public:
    using Labels = std::vector<prometheus::ClientMetric::Label>;
    void gauge(const std::string& name, const std::string& help, Labels labels, double value) {
        add(name, help, prometheus::MetricType::Gauge, std::move(labels), value);
    }
    void counter(const std::string& name, const std::string& help, Labels labels, double value) {
        add(name, help, prometheus::MetricType::Counter, std::move(labels), value);
    }
    [[nodiscard]] std::string text() const { return prometheus::TextSerializer().Serialize(all_); }

  private:
    void add(const std::string& name, const std::string& help, prometheus::MetricType type,
             Labels labels, double value) {
        const auto [it, fresh] = index_.try_emplace(name, all_.size());
        if (fresh) {
            auto& family = all_.emplace_back();
            family.name = name;
            family.help = help;
            family.type = type;
        }
        auto& metric = all_[it->second].metric.emplace_back();
        metric.label = std::move(labels);
        (type == prometheus::MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
    }
    std::vector<prometheus::MetricFamily> all_;
    std::map<std::string, std::size_t> index_;
};

void add_cluster_metrics(Families& to, const state::SessionStatus& from) {
    const Families::Labels labels{{"cluster", from.cluster}};
    to.gauge("mesh_cluster_ready", "1 if the cluster's state is complete and followed.", labels,
             from.ready ? 1 : 0);
    to.gauge("mesh_cluster_connected", "1 if there is a connection to the cluster's etcd.", labels,
             from.connected ? 1 : 0);
    to.gauge("mesh_cluster_revision", "etcd revision up to which the cluster is known.", labels,
             static_cast<double>(from.position.revision));
    to.gauge("mesh_cluster_lag_revisions", "etcd revisions not yet seen.", labels,
             static_cast<double>(from.lag_revisions));
    to.gauge("mesh_cluster_lag_seconds", "Seconds behind, or without proof of life.", labels,
             seconds(from.lag));
    if (from.last_proof_of_life) {
        to.gauge("mesh_cluster_last_proof_of_life_seconds",
                 "Seconds since the cluster's etcd was last heard.", labels,
                 seconds(*from.last_proof_of_life));
    }
    to.counter("mesh_cluster_failures_total", "Connections and attempts that failed.", labels,
               static_cast<double>(from.failures));
    for (std::size_t i = 0; i < state::kObjectSlots; ++i) {
        if (!from.slots[i].wanted) continue;
        auto with_kind = labels;
        with_kind.push_back({"kind", std::string(to_string(state::object_slot(i)))});
        to.gauge("mesh_cluster_objects", "Objects known of the cluster, by kind.", with_kind,
                 static_cast<double>(from.slots[i].count));
    }
    for (std::size_t i = 0; i < state::kRefusals; ++i) {
        if (from.refused[i].count == 0) continue;
        auto with_reason = labels;
        with_reason.push_back({"reason", std::string(to_string(static_cast<state::Refusal>(i)))});
        to.counter("mesh_cluster_refused_total", "Entries of the cluster that were refused.",
                   with_reason, static_cast<double>(from.refused[i].count));
    }
}

}  // namespace

namespace {

json::value pods_document(const StatusSources& from) {
    if (from.pods == nullptr || from.network == nullptr) return nullptr;
    constexpr std::size_t kShownConflicts = 20;
    const auto settings = from.pods->settings();
    const auto occupancy = from.pods->occupancy();
    const auto flows = from.pods->flows();
    const auto text = [](const std::optional<model::IpAddress>& address) {
        return address ? json::value(address->to_string()) : json::value(nullptr);
    };
    json::object drops;
    for (const auto& [reason, count] : from.pods->drops()) drops[to_string(reason)] = count.packets;
    json::array conflicts;
    std::size_t conflict_count = 0;
    if (const auto* ipcache = from.node.ipcache(); ipcache != nullptr) {
        conflict_count = ipcache->conflict_count();
        for (const auto& conflict : ipcache->conflicts(kShownConflicts)) {
            conflicts.emplace_back(conflict.text);
        }
    }
    return json::object{{"routing", settings.tunnel ? "tunnel" : "native"},
                        {"masquerade", settings.masquerade},
                        {"node_ipv4", text(settings.node4)},
                        {"node_ipv6", text(settings.node6)},
                        {"router_ipv4", text(settings.router4)},
                        {"router_ipv6", text(settings.router6)},
                        {"ipcache", occupancy.ipcache},
                        {"max_ipcache", occupancy.max_ipcache},
                        {"ipcache_refused", from.node.ipcache_refused().size()},
                        {"nodes", occupancy.nodes},
                        {"max_nodes", occupancy.max_nodes},
                        {"nodes_refused", from.node.nodes_refused().size()},
                        {"endpoints", occupancy.endpoints},
                        {"max_endpoints", occupancy.max_endpoints},
                        {"failed_endpoints", from.network->failed_endpoints()},
                        {"flows", flows.live},
                        {"max_flows", flows.max},
                        {"flows_expired", flows.expired},
                        {"drops", std::move(drops)},
                        {"conflicts", conflict_count},
                        {"shown_conflicts", std::move(conflicts)}};
}

void add_pods_metrics(Families& to, const StatusSources& from) {
    if (from.pods == nullptr) return;
    const auto occupancy = from.pods->occupancy();
    const auto gauge = [&](const char* name, const char* help, std::uint64_t value) {
        to.gauge(name, help, {}, static_cast<double>(value));
    };
    gauge("mesh_ipcache_entries", "Prefixes in the ipcache.", occupancy.ipcache);
    gauge("mesh_ipcache_max_entries", "Prefixes that the ipcache has room for.",
          occupancy.max_ipcache);
    gauge("mesh_ipcache_refused", "Prefixes that found no room.",
          from.node.ipcache_refused().size());
    gauge("mesh_tunnel_nodes", "Addresses of nodes that may send to the tunnel.", occupancy.nodes);
    gauge("mesh_tunnel_nodes_max_entries", "Addresses of nodes that there is room for.",
          occupancy.max_nodes);
    gauge("mesh_tunnel_nodes_refused", "Addresses of nodes that found no room.",
          from.node.nodes_refused().size());
    gauge("mesh_endpoints", "Addresses of this node's pods.", occupancy.endpoints);
    gauge("mesh_endpoints_max_entries", "Addresses of pods that there is room for.",
          occupancy.max_endpoints);
    if (from.network != nullptr) {
        gauge("mesh_endpoints_failed", "Pods of this node that are not forwarded to.",
              from.network->failed_endpoints());
    }
    if (const auto* ipcache = from.node.ipcache(); ipcache != nullptr) {
        gauge("mesh_ipcache_conflicts", "Prefixes that several clusters claim.",
              ipcache->conflict_count());
    }
    const auto flows = from.pods->flows();
    gauge("mesh_flows", "Flows of services at tc, when last all were looked at.", flows.live);
    gauge("mesh_flows_max", "Flows of services at tc that there is room for.", flows.max);
    to.counter("mesh_flows_expired_total", "Flows of services at tc deleted as timed out.", {},
               static_cast<double>(flows.expired));
    for (const auto& [reason, count] : from.pods->drops()) {
        const Families::Labels labels{{"reason", std::string(to_string(reason))}};
        to.counter("mesh_drops_total", "Packets dropped, by reason.", labels,
                   static_cast<double>(count.packets));
        to.counter("mesh_drop_bytes_total", "Bytes dropped, by reason.", labels,
                   static_cast<double>(count.bytes));
    }
}

void add_policy_metrics(Families& to, const StatusSources& from) {
    if (from.policy == nullptr) return;
    const PolicyCounts counts = from.policy->counts();
    const auto gauge = [&](const char* name, const char* help, std::size_t value) {
        to.gauge(name, help, {}, static_cast<double>(value));
    };
    gauge("mesh_policies", "Network policies of the own cluster.", counts.policies);
    gauge("mesh_policy_identities", "Identities that policies may select.", counts.identities);
    gauge("mesh_policy_local_identities", "Of them, those that only this node knows.",
          counts.local_identities);
    gauge("mesh_policy_selectors", "Different selectors of all policies.", counts.selectors);
    gauge("mesh_policy_rows", "Rows of all pods' policies.", counts.rows);
    const auto endpoints = [&](const char* state, std::size_t count) {
        to.gauge("mesh_policy_endpoints", "Pods of this node, by the state of their policy.",
                 {{"state", state}}, static_cast<double>(count));
    };
    endpoints("all", counts.endpoints);
    endpoints("waiting", counts.waiting);
    endpoints("locked", counts.locked);
    endpoints("conflict", counts.conflicts);
    endpoints("overflow", counts.overflows);
    endpoints("failed", counts.failed);
    const auto counter = [&](const char* name, const char* help, double value) {
        to.counter(name, help, {}, value);
    };
    const auto seconds = [](Duration time) { return std::chrono::duration<double>(time).count(); };
    counter("mesh_policy_revision_total", "Changes of policies.",
            static_cast<double>(counts.revision));
    counter("mesh_policy_compiles_total", "Times that policies were compiled.",
            static_cast<double>(counts.compiles));
    counter("mesh_policy_compile_seconds_total", "Time that took.", seconds(counts.compile_time));
    to.gauge("mesh_policy_longest_compile_seconds", "The longest of them.", {},
             seconds(counts.longest_compile));
    counter("mesh_policy_replaced_total", "Times that a pod got all its rows.",
            static_cast<double>(counts.replaced));
    counter("mesh_policy_rows_changed_total", "Rows written one by one.",
            static_cast<double>(counts.changed));
}

void add_health_metrics(Families& to, const StatusSources& from) {
    to.counter("mesh_sockets_ended_total", "Connections ended, as their backends went.", {},
               static_cast<double>(from.sockets_ended));
    if (from.health == nullptr) return;
    const auto add = [&](const char* kind, const HealthCounts& counts) {
        const auto gauge = [&](const char* state, std::size_t count) {
            to.gauge("mesh_health_targets", "Nodes and backends that are probed, by state.",
                     {{"kind", kind}, {"state", state}}, static_cast<double>(count));
        };
        gauge("healthy", counts.healthy);
        gauge("unhealthy", counts.unhealthy);
        gauge("unknown", counts.unknown);
    };
    add("node", from.health->hosts());
    add("backend", from.health->backends());
    const auto& schedule = from.health->schedule();
    to.counter("mesh_health_probes_total", "Probes that ended.", {},
               static_cast<double>(schedule.probes()));
    to.counter("mesh_health_probe_failures_total", "Probes that failed.", {},
               static_cast<double>(schedule.failed()));
    to.gauge("mesh_health_interval_stretch",
             "By how much intervals grew, as there is more to probe than is allowed.", {},
             schedule.stretch());
}

void add_encryption_metrics(Families& to, const StatusSources& from) {
    if (from.encryption == nullptr) return;
    const Encryption& encryption = *from.encryption;
    to.gauge("mesh_encryption_up",
             "1 if the WireGuard device and its routes are as they should be.", {},
             encryption.up() ? 1 : 0);
    to.gauge("mesh_encryption_key_published", "1 if the own node's record has this node's key.", {},
             encryption.unpublished().empty() ? 1 : 0);
    to.gauge("mesh_encryption_peers", "Nodes that are spoken to in encrypted form.", {},
             static_cast<double>(encryption.peer_count()));
    to.gauge("mesh_encryption_nodes_without_key", "Nodes that are spoken to in plain.", {},
             static_cast<double>(encryption.without_key().size()));
    to.counter("mesh_encryption_device_starts_total", "How often the WireGuard device was made.",
               {}, static_cast<double>(encryption.device_starts()));
}

}  // namespace

json::object status_document(const StatusSources& from) {
    json::array remotes;
    json::value own;
    for (const auto& cluster : from.clusters) {
        if (cluster.cluster == from.options.cluster_name) {
            json::object document = cluster_document(cluster);
            document["id"] = from.options.cluster_id;
            own = std::move(document);
        } else {
            remotes.push_back(cluster_document(cluster));
        }
    }
    json::array config_errors;
    for (const auto& [file, text] : from.config_errors) {
        config_errors.push_back(json::object{{"file", shown(file)}, {"error", shown(text)}});
    }
    json::array rejected;
    for (const auto& [frontend, row] : from.node.rejected()) {
        rejected.push_back(json::object{{"address", frontend.address.to_string()},
                                        {"port", frontend.port},
                                        {"protocol", datapath::to_string(frontend.proto)},
                                        {"service", row.name},
                                        {"error", shown(row.error.message())}});
    }
    json::array truncated;
    for (const auto& [frontend, row] : from.node.truncated()) {
        truncated.push_back(json::object{{"address", frontend.address.to_string()},
                                         {"port", frontend.port},
                                         {"protocol", datapath::to_string(frontend.proto)},
                                         {"service", row.name},
                                         {"left_out", row.left_out}});
    }
    json::array conflicts;
    for (const auto& conflict : from.node.routes().conflicts())
        conflicts.emplace_back(shown(conflict.text));
    const auto occupancy = from.datapath.occupancy();
    const auto skipped = from.node.routes().skipped();
    return {{"cluster", from.options.cluster_name},
            {"id", from.options.cluster_id},
            {"node", from.options.node_name},
            {"ready", from.ready},
            {"serving", from.serving},
            {"synced", from.synced},
            {"local", std::move(own)},
            {"remotes", std::move(remotes)},
            {"config_errors", std::move(config_errors)},
            {"pods", pods_document(from)},
            {"health", from.health != nullptr ? json::value(from.health->status()) : nullptr},
            {"encryption", from.encryption != nullptr ? from.encryption->summary()
                                                      : json::object{{"kind", "none"}}},
            {"datapath",
             json::object{{"kind", from.datapath.kind()},
                          {"services", occupancy.services},
                          {"max_services", occupancy.max_services},
                          {"backends", occupancy.backends},
                          {"max_backends", occupancy.max_backends},
                          {"rejected", std::move(rejected)},
                          {"truncated", std::move(truncated)},
                          {"last_error", shown(from.last_error)},
                          {"sockets_ended", from.sockets_ended},
                          {"routes", from.node.desired_routes().size()},
                          {"route_conflicts", std::move(conflicts)},
                          {"route_failures",
                           json::array(from.route_failures.begin(), from.route_failures.end())},
                          {"routes_skipped", json::array(skipped.begin(), skipped.end())}}}};
}

std::string metrics_document(const StatusSources& from) {
    Families families;
    for (const auto& cluster : from.clusters) add_cluster_metrics(families, cluster);
    families.gauge("mesh_ready", "1 if the own cluster and all remotes are ready.", {},
                   from.ready ? 1 : 0);
    families.gauge("mesh_serving", "1 if the own cluster's services are in the datapath.", {},
                   from.serving ? 1 : 0);
    families.gauge("mesh_remote_config_errors", "Files of remotes that are in error.", {},
                   static_cast<double>(from.config_errors.size()));
    const auto occupancy = from.datapath.occupancy();
    families.gauge("mesh_datapath_services", "Frontends in the datapath.", {},
                   static_cast<double>(occupancy.services));
    families.gauge("mesh_datapath_backends", "Backends in the datapath.", {},
                   static_cast<double>(occupancy.backends));
    families.gauge("mesh_datapath_rejected_services", "Frontends that the datapath refused.", {},
                   static_cast<double>(from.node.rejected().size()));
    families.gauge("mesh_datapath_truncated_services",
                   "Frontends without some backends of remote clusters, which found no room.", {},
                   static_cast<double>(from.node.truncated().size()));
    const auto counters = from.datapath.counters();
    for (const auto& [id, count] : counters.connects_by_cluster) {
        families.counter("mesh_datapath_connects_total",
                         "Connects sent to a backend, by the backend's cluster.",
                         {{"cluster_id", std::to_string(id)}}, static_cast<double>(count));
    }
    families.counter("mesh_datapath_no_backend_total", "Connects refused for want of a backend.",
                     {}, static_cast<double>(counters.no_backend));
    families.counter("mesh_flushes_total", "Times that changes were compiled and written.", {},
                     static_cast<double>(from.flushes));
    families.counter("mesh_route_comparisons_total",
                     "Times that routes were compared with those of the kernel.", {},
                     static_cast<double>(from.route_comparisons));
    families.gauge("mesh_routes", "Native routes to other nodes' pod CIDRs.", {},
                   static_cast<double>(from.node.desired_routes().size()));
    families.gauge("mesh_route_failures", "Routes that could not be set.", {},
                   static_cast<double>(from.route_failures.size()));
    families.gauge("mesh_route_conflicts", "Pod CIDRs that two nodes announce.", {},
                   static_cast<double>(from.node.routes().conflicts().size()));
    add_pods_metrics(families, from);
    add_health_metrics(families, from);
    add_policy_metrics(families, from);
    add_encryption_metrics(families, from);
    return families.text();
}

json::object to_json(const EndpointStatus& endpoint) {
    json::array ips;
    for (const auto& ip : endpoint.file.ips) ips.emplace_back(ip.to_string());
    return {{"id", endpoint.id},
            {"number", endpoint.number},
            {"namespace", endpoint.file.namespace_},
            {"pod", endpoint.file.pod},
            {"device", endpoint.file.device},
            {"ips", std::move(ips)},
            {"identity", endpoint.identity},
            {"attached", endpoint.attached},
            {"error", endpoint.error}};
}

json::object to_json(const ServiceView& view) {
    json::array frontends;
    for (const auto& frontend : view.frontends) {
        json::array backends;
        for (const auto& backend : frontend.backends) {
            backends.push_back(json::object{{"address", backend.address},
                                            {"port", backend.port},
                                            {"cluster", backend.cluster},
                                            {"state", backend.state},
                                            {"weight", backend.weight},
                                            {"selected", backend.selected},
                                            {"reason", backend.reason}});
        }
        frontends.push_back(json::object{{"address", frontend.address},
                                         {"port", frontend.port},
                                         {"protocol", frontend.protocol},
                                         {"port_name", frontend.port_name},
                                         {"node_port", frontend.node_port},
                                         {"backends", std::move(backends)}});
    }
    return {{"namespace", view.namespace_},
            {"name", view.name},
            {"global", view.global},
            {"shared", view.shared},
            {"affinity", view.affinity},
            {"frontends", std::move(frontends)},
            {"notes", json::array(view.notes.begin(), view.notes.end())}};
}

json::array to_json(std::span<const ServiceView> views) {
    json::array array;
    for (const auto& view : views) array.push_back(to_json(view));
    return array;
}

}  // namespace mesh::engine
