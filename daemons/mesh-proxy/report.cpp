#include "report.hpp"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <string_view>
#include <utility>

#include "kvstore_mesh_report.hpp"

namespace mesh::proxy_daemon {

namespace {

struct Sums {
    std::size_t watchers = 0, behind = 0;
    std::uint64_t connections = 0, denied = 0, events_sent = 0;
};

Sums sums_of(const LoopReport& loop) {
    Sums sums{.watchers = loop.store.watchers,
              .behind = loop.store.behind,
              .connections = 0,
              .denied = loop.service.denied,
              .events_sent = loop.service.events_sent};
    for (const ListenerReport& listener : loop.listeners) {
        sums.connections += listener.server.connections;
    }
    return sums;
}

Sums sums_of(const ProxyReport& report) {
    Sums sums;
    for (const LoopReport& loop : report.loops) {
        const Sums own = sums_of(loop);
        sums.watchers += own.watchers;
        sums.behind += own.behind;
        sums.connections += own.connections;
        sums.denied += own.denied;
        sums.events_sent += own.events_sent;
    }
    return sums;
}

}  // namespace

boost::json::object to_json(const ProxyReport& report) {
    const Sums sums = sums_of(report);
    boost::json::object out{{"cluster", report.cluster},
                            {"id", report.id},
                            {"mode", report.embedded ? "embedded" : "mirror"},
                            {"revision", report.revision},
                            {"etcd_cluster_id", fmt::format("{:x}", report.identity.cluster_id)},
                            {"etcd_member_id", fmt::format("{:x}", report.identity.member_id)},
                            {"keys", report.loops.front().store.keys},
                            {"leases", report.loops.front().store.leases},
                            {"watchers", sums.watchers},
                            {"watchers_behind", sums.behind},
                            {"connections", sums.connections},
                            {"denied", sums.denied}};
    boost::json::array loops;
    for (const LoopReport& loop : report.loops) {
        const Sums own = sums_of(loop);
        loops.push_back(boost::json::object{{"connections", own.connections},
                                            {"watchers", own.watchers},
                                            {"revision", loop.revision}});
    }
    out["loops"] = std::move(loops);
    if (report.mirror) {
        const auto& mirror = *report.mirror;
        out["upstream"] = boost::json::object{{"endpoint", mirror.endpoint},
                                              {"serving", mirror.serving},
                                              {"stale", mirror.stale},
                                              {"stale_seconds", report.stale_seconds},
                                              {"lists", mirror.lists},
                                              {"history_changes", mirror.history_changes},
                                              {"events", mirror.events},
                                              {"failures", mirror.failures},
                                              {"last_failure", mirror.last_failure}};
    }
    if (report.kvstore_mesh) {
        out["kvstoremesh"] = to_json(*report.kvstore_mesh);
    }
    return out;
}

std::string to_metrics(const ProxyReport& report) {
    const Sums sums = sums_of(report);
    std::string text;
    const auto gauge = [&](std::string_view name, std::string_view help, auto value,
                           std::string_view type = "gauge") {
        text += fmt::format("# HELP {0} {1}\n# TYPE {0} {3}\n{0} {2}\n", name, help, value, type);
    };
    gauge("mesh_proxy_revision", "etcd revision that is served.", report.revision);
    gauge("mesh_proxy_keys", "Keys that are served.", report.loops.front().store.keys);
    gauge("mesh_proxy_watchers", "Watches of all clients.", sums.watchers);
    gauge("mesh_proxy_watchers_behind", "Watches that are being caught up.", sums.behind);
    gauge("mesh_proxy_connections", "Client connections.", sums.connections);
    gauge("mesh_proxy_denied_total", "Calls refused by role.", sums.denied, "counter");
    gauge("mesh_proxy_events_sent_total", "Events handed to watches.", sums.events_sent, "counter");
    if (report.mirror) {
        gauge("mesh_proxy_serving", "1 once a complete list of the upstream was taken.",
              report.mirror->serving ? 1 : 0);
        gauge("mesh_proxy_stale", "1 while the upstream etcd is out of reach.",
              report.mirror->stale ? 1 : 0);
        gauge("mesh_proxy_stale_seconds", "How long it has been.", report.stale_seconds);
        gauge("mesh_proxy_upstream_lists_total", "Complete lists taken.", report.mirror->lists,
              "counter");
    }
    if (report.kvstore_mesh) text += to_metrics(*report.kvstore_mesh);
    return text;
}

}  // namespace mesh::proxy_daemon
