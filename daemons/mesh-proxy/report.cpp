#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <chrono>
#include <cmath>
#include <string_view>
#include <utility>

#include "kvstore_mesh_report.hpp"

namespace mesh::proxy_daemon {

namespace {

struct Sums {
    std::size_t watchers = 0, behind = 0, slow = 0, queued_bytes = 0;
    std::uint64_t connections = 0, streams = 0, denied = 0, events_sent = 0, throttled = 0;
    std::uint64_t reads_waited = 0, reads_unproven = 0;
};

Sums sums_of(const LoopReport& loop) {
    Sums sums{.watchers = loop.store.watchers,
              .behind = loop.store.behind,
              .slow = loop.slow_watchers,
              .queued_bytes = loop.queued_bytes,
              .connections = 0,
              .streams = loop.service.watch_streams,
              .denied = loop.service.denied,
              .events_sent = loop.service.events_sent,
              .reads_waited = loop.service.reads_waited,
              .reads_unproven = loop.service.reads_unproven};
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
        sums.slow += own.slow;
        sums.queued_bytes += own.queued_bytes;
        sums.streams += own.streams;
        sums.connections += own.connections;
        sums.denied += own.denied;
        sums.events_sent += own.events_sent;
        sums.reads_waited += own.reads_waited;
        sums.reads_unproven += own.reads_unproven;
    }
    for (const serve::ClientStatus& client : report.clients) sums.throttled += client.throttled;
    return sums;
}

boost::json::object listeners_json(const ProxyReport& report) {
    boost::json::object out;
    for (const LoopReport& loop : report.loops) {
        for (const ListenerReport& listener : loop.listeners) {
            boost::json::object& sum = out[listener.name].is_object()
                                           ? out[listener.name].get_object()
                                           : out[listener.name].emplace_object();
            const auto add = [&sum](std::string_view name, std::uint64_t value) {
                const boost::json::value* had = sum.if_contains(name);
                sum[name] = value + (had == nullptr ? 0 : had->to_number<std::uint64_t>());
            };
            add("connections", listener.server.connections);
            add("accepted", listener.server.accepted);
            add("refused", listener.server.refused_limit);
            add("handshake_failures", listener.server.handshake_failures);
            add("sent_bytes", listener.server.bytes_sent);
        }
    }
    return out;
}

boost::json::object tls_json(const ProxyReport& report) {
    boost::json::object out;
    const auto days = [&](std::string_view name, const std::optional<WallTime>& end) {
        if (!end) return;
        const double seconds = std::chrono::duration<double>(*end - report.now).count();
        out[name] = std::floor(seconds / 86400 * 10) / 10;
    };
    const rpc::TlsExpiry ends = tls_expiry(report);
    days("certificate_days", ends.certificate);
    days("ca_days", ends.ca);
    days("crl_days", ends.crl);
    return out;
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
                            {"watchers_slow", sums.slow},
                            {"streams", sums.streams},
                            {"connections", sums.connections},
                            {"queued_bytes", sums.queued_bytes},
                            {"sent_events", sums.events_sent},
                            {"denied", sums.denied},
                            {"throttled", sums.throttled},
                            {"listeners", listeners_json(report)},
                            {"tls", tls_json(report)}};
    boost::json::array loops;
    for (const LoopReport& loop : report.loops) {
        const Sums own = sums_of(loop);
        loops.push_back(boost::json::object{{"connections", own.connections},
                                            {"watchers", own.watchers},
                                            {"revision", loop.revision}});
    }
    out["loops"] = std::move(loops);
    if (!report.access_error.empty()) out["access_error"] = report.access_error;
    if (report.mirror) {
        const auto& mirror = *report.mirror;
        out["upstream"] = boost::json::object{{"endpoint", mirror.endpoint},
                                              {"serving", mirror.serving},
                                              {"stale", mirror.stale},
                                              {"stale_seconds", report.stale_seconds},
                                              {"restored", mirror.restored},
                                              {"durable_revision", mirror.durable_revision},
                                              {"questions", mirror.reads.questions},
                                              {"reads_waited", sums.reads_waited},
                                              {"reads_unproven", sums.reads_unproven},
                                              {"lag_revisions", lag_revisions(report)},
                                              {"lag_seconds", lag_seconds(report)},
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

store::Revision lag_revisions(const ProxyReport& report) {
    if (!report.mirror) return 0;
    return std::max<store::Revision>(report.upstream_revision - report.mirror->position.revision,
                                     0);
}

double lag_seconds(const ProxyReport& report) {
    if (!report.mirror) return 0;
    return report.mirror->stale ? report.stale_seconds : report.upstream_silence;
}

rpc::TlsExpiry tls_expiry(const ProxyReport& report) {
    rpc::TlsExpiry out;
    const auto sooner = [](std::optional<WallTime>& to, const std::optional<WallTime>& from) {
        if (from && (!to || *from < *to)) to = from;
    };
    for (const LoopReport& loop : report.loops) {
        for (const ListenerReport& listener : loop.listeners) {
            sooner(out.certificate, listener.tls.certificate);
            sooner(out.ca, listener.tls.ca);
            sooner(out.crl, listener.tls.crl);
        }
    }
    return out;
}

}  // namespace mesh::proxy_daemon
