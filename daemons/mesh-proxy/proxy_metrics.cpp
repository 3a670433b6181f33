// What mesh-proxy's /metrics says: names and units as Prometheus has them, labels of few values.
#include <chrono>
#include <map>

#include "kvstore_mesh_report.hpp"
#include "metrics.hpp"
#include "report.hpp"
#include "serve/etcd/watch_groups.hpp"

namespace mesh::proxy_daemon {

namespace {

using Type = MetricsText::Type;

/// Over all loops.
std::map<std::string, rpc::ServerStats> listeners_of(const ProxyReport& report) {
    std::map<std::string, rpc::ServerStats> out;
    for (const LoopReport& loop : report.loops) {
        for (const ListenerReport& listener : loop.listeners) {
            rpc::ServerStats& sum = out[listener.name];
            const rpc::ServerStats& one = listener.server;
            sum.connections += one.connections;
            sum.calls += one.calls;
            sum.accepted += one.accepted;
            sum.refused_limit += one.refused_limit;
            sum.closed_on_request += one.closed_on_request;
            sum.closed_revoked += one.closed_revoked;
            sum.closed_flood += one.closed_flood;
            sum.closed_silent += one.closed_silent;
            sum.drained += one.drained;
            sum.tls_handshakes += one.tls_handshakes;
            sum.tls_resumed += one.tls_resumed;
            sum.handshakes_closed += one.handshakes_closed;
            sum.handshake_failures += one.handshake_failures;
            sum.calls_started += one.calls_started;
            sum.calls_refused += one.calls_refused;
            sum.bytes_received += one.bytes_received;
            sum.bytes_sent += one.bytes_sent;
        }
    }
    return out;
}

void add_listeners(MetricsText& out, const ProxyReport& report) {
    const auto listeners = listeners_of(report);
    using Stat = std::uint64_t rpc::ServerStats::*;
    const auto each = [&](Type type, std::string_view name, std::string_view help, Stat stat) {
        out.family(type, name, help);
        for (const auto& [listener, stats] : listeners)
            out.sample(stats.*stat, {{"listener", listener}});
    };
    using Stats = rpc::ServerStats;
    each(Type::kGauge, "mesh_proxy_connections", "Client connections.", &Stats::connections);
    each(Type::kGauge, "mesh_proxy_calls", "Calls that run, streams included.", &Stats::calls);
    each(Type::kCounter, "mesh_proxy_accepted_connections_total", "Connections taken.",
         &Stats::accepted);
    each(Type::kCounter, "mesh_proxy_refused_connections_total",
         "Connections closed at once, as there were too many.", &Stats::refused_limit);
    each(Type::kCounter, "mesh_proxy_handshake_failures_total",
         "Connections on which TLS or HTTP/2 never came up.", &Stats::handshake_failures);
    each(Type::kCounter, "mesh_proxy_displaced_handshakes_total",
         "Connections closed before their handshake was done, to make room for newer ones.",
         &Stats::handshakes_closed);
    each(Type::kCounter, "mesh_proxy_tls_handshakes_total", "TLS handshakes done.",
         &Stats::tls_handshakes);
    each(Type::kCounter, "mesh_proxy_tls_resumed_handshakes_total",
         "TLS handshakes done that resumed a session.", &Stats::tls_resumed);
    each(Type::kCounter, "mesh_proxy_started_calls_total", "Calls begun.", &Stats::calls_started);
    each(Type::kCounter, "mesh_proxy_refused_calls_total",
         "Calls refused before any role was looked at: bad requests, too many.",
         &Stats::calls_refused);
    each(Type::kCounter, "mesh_proxy_received_bytes_total", "Bytes from clients, TLS included.",
         &Stats::bytes_received);
    each(Type::kCounter, "mesh_proxy_sent_bytes_total", "Bytes to clients, TLS included.",
         &Stats::bytes_sent);
    out.family(Type::kCounter, "mesh_proxy_ended_connections_total",
               "Connections that the proxy ended, by why.");
    for (const auto& [listener, stats] : listeners) {
        out.sample(stats.closed_revoked, {{"listener", listener}, {"reason", "revoked"}});
        out.sample(stats.closed_flood, {{"listener", listener}, {"reason", "flood"}});
        out.sample(stats.closed_silent, {{"listener", listener}, {"reason", "silent"}});
        out.sample(stats.closed_on_request, {{"listener", listener}, {"reason", "access"}});
        out.sample(stats.drained, {{"listener", listener}, {"reason", "drained"}});
    }
}

void add_watches(MetricsText& out, const ProxyReport& report) {
    LoopReport sum;
    sum.watchers_by_group.resize(serve::watch_groups().size());
    for (const LoopReport& loop : report.loops) {
        for (std::size_t i = 0; i < loop.watchers_by_group.size(); ++i)
            sum.watchers_by_group[i] += loop.watchers_by_group[i];
        sum.slow_watchers += loop.slow_watchers;
        sum.queued_bytes += loop.queued_bytes;
        sum.store.behind += loop.store.behind;
        sum.service.watch_streams += loop.service.watch_streams;
        sum.service.events_sent += loop.service.events_sent;
        sum.service.frames_built += loop.service.frames_built;
        sum.service.denied += loop.service.denied;
    }
    out.gauge("mesh_proxy_watch_streams", "Watch streams of all clients.",
              sum.service.watch_streams);
    out.family(Type::kGauge, "mesh_proxy_watchers",
               "Watches of all clients, by the mesh's prefix that what they watch lies below.");
    for (std::size_t i = 0; i < sum.watchers_by_group.size(); ++i)
        out.sample(sum.watchers_by_group[i], {{"prefix", serve::watch_groups()[i]}});
    out.gauge("mesh_proxy_watchers_behind", "Watches that are being caught up.", sum.store.behind);
    out.gauge("mesh_proxy_slow_watchers", "Watches that wait for their client to read.",
              sum.slow_watchers);
    out.gauge("mesh_proxy_queued_bytes", "Bytes for clients that their sockets have not taken.",
              sum.queued_bytes);
    out.counter("mesh_proxy_events_sent_total", "Events handed to watches.",
                sum.service.events_sent);
    out.counter("mesh_proxy_watch_responses_built_total",
                "Watch responses made; one that goes to many watches counts once.",
                sum.service.frames_built);
    out.counter("mesh_proxy_denied_total", "Calls refused by role.", sum.service.denied);
}

void add_clients(MetricsText& out, const ProxyReport& report) {
    out.family(Type::kCounter, "mesh_proxy_denials_total",
               "What was refused, by the certificate's name and why; names beyond a bound are "
               "\"others\".");
    for (const serve::DenialCount& one : report.denials) {
        out.sample(one.count, {{"client", serve::printable(one.client)},
                               {"reason", serve::to_string(one.reason)}});
    }
    out.gauge("mesh_proxy_access_file_bad",
              "1 while the access file cannot be used; what was read last holds on.",
              report.access_error.empty() ? 0 : 1);
    std::uint64_t throttled = 0, held_back = 0;
    for (const serve::ClientStatus& client : report.clients) {
        throttled += client.throttled;
        held_back += client.held_back;
    }
    out.counter("mesh_proxy_throttled_requests_total",
                "Requests that waited, as their client had had its share.", throttled);
    out.counter("mesh_proxy_held_back_deliveries_total",
                "Watch deliveries put off, as their client had had its bytes.", held_back);
}

void add_upstream(MetricsText& out, const ProxyReport& report) {
    const serve::MirrorStatus& mirror = *report.mirror;
    out.gauge("mesh_proxy_serving", "1 once a complete list of the upstream was taken.",
              mirror.serving ? 1 : 0);
    out.gauge("mesh_proxy_stale", "1 while the upstream etcd is out of reach.",
              mirror.stale ? 1 : 0);
    out.gauge("mesh_proxy_stale_seconds", "How long it has been.", report.stale_seconds);
    out.gauge("mesh_proxy_upstream_lag_revisions",
              "Revisions that the upstream is known to have and that are not served yet.",
              lag_revisions(report));
    out.gauge("mesh_proxy_upstream_lag_seconds",
              "How old what is served may be: since the upstream was last heard.",
              lag_seconds(report));
    out.counter("mesh_proxy_upstream_lists_total", "Complete lists taken.", mirror.lists);
    out.counter("mesh_proxy_upstream_events_total", "Changes taken from the upstream's watch.",
                mirror.events);
    out.counter("mesh_proxy_upstream_failures_total", "Losses of the upstream, and failed tries.",
                mirror.failures);
    out.counter("mesh_proxy_upstream_history_changes_total",
                "Lists that found another etcd than before.", mirror.history_changes);
    out.gauge("mesh_proxy_restored", "1 while what was kept over a restart needed no list.",
              mirror.restored ? 1 : 0);
    out.gauge("mesh_proxy_durable_revision", "Where a restart would go on; 0 = nowhere.",
              mirror.durable_revision);
    out.counter("mesh_proxy_upstream_questions_total",
                "Asked so that reads do not go back in time.", mirror.reads.questions);
    std::uint64_t waited = 0, unproven = 0;
    for (const LoopReport& loop : report.loops) {
        waited += loop.service.reads_waited;
        unproven += loop.service.reads_unproven;
    }
    out.counter("mesh_proxy_reads_waited_total",
                "Reads that waited for the upstream, or a revision.", waited);
    out.counter("mesh_proxy_reads_unproven_total", "Reads answered without the upstream's word.",
                unproven);
}

void add_tls(MetricsText& out, const ProxyReport& report) {
    const rpc::TlsExpiry ends = tls_expiry(report);
    out.family(Type::kGauge, "mesh_proxy_tls_expiry_seconds",
               "Until the listeners' certificate, the CA that ends first, or a list of revoked "
               "certificates ends; divide by 86400 for days.");
    const auto left = [&](std::string_view name, const std::optional<WallTime>& end) {
        if (!end) return;
        out.sample(std::chrono::duration_cast<std::chrono::seconds>(*end - report.now).count(),
                   {{"certificate", name}});
    };
    left("server", ends.certificate);
    left("ca", ends.ca);
    left("crl", ends.crl);
}

}  // namespace

std::string to_metrics(const ProxyReport& report) {
    MetricsText out;
    out.gauge("mesh_proxy_revision", "etcd revision that is served.", report.revision);
    out.gauge("mesh_proxy_keys", "Keys that are served.", report.loops.front().store.keys);
    add_watches(out, report);
    add_listeners(out, report);
    add_clients(out, report);
    if (report.mirror) add_upstream(out, report);
    add_tls(out, report);
    std::string text = out.take();
    if (report.kvstore_mesh) text += to_metrics(*report.kvstore_mesh);
    return text;
}

}  // namespace mesh::proxy_daemon
