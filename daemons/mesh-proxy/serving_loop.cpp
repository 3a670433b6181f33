#include "serving_loop.hpp"

#include <chrono>
#include <map>
#include <utility>

#include "serve/etcd/denial_log.hpp"
#include "serve/etcd/watch_groups.hpp"

namespace mesh::proxy_daemon {

namespace asio = boost::asio;

ServingLoop::ServingLoop(asio::any_io_executor loop, store::Store& store, const Clock& clock,
                         serve::EtcdServiceOptions options, Logger log)
    : loop_(std::move(loop)),
      store_(store),
      clock_(clock),
      log_(std::move(log)),
      access_(options.access),
      service_(std::make_unique<serve::EtcdService>(loop_, store_, clock_, std::move(options),
                                                    log_.named("etcd"))) {}

ServingLoop::~ServingLoop() {
    for (const Listener& listener : listeners_) listener.server->stop();
}

Result<std::uint16_t> ServingLoop::listen(ListenerPlan plan) {
    auto server = std::make_unique<rpc::Server>(loop_, std::move(plan.options), clock_,
                                                log_.named(plan.name));
    auto policy = std::make_shared<serve::TableAccess>(
        access_,
        serve::TableAccess::Options{.writable = plan.writable, .init_locks = plan.init_locks});
    service_->attach(*server, plan.name, std::move(policy), plan.init_locks);
    auto port = server->listen(plan.address, plan.port);
    if (!port) return port.error().with_prefix(plan.flag);
    listeners_.push_back({std::move(plan.name), std::move(server)});
    return port;
}

asio::awaitable<void> ServingLoop::drain() {
    for (const Listener& listener : listeners_) {
        co_await listener.server->async_drain(std::chrono::seconds(1));
    }
}

LoopReport ServingLoop::report() const {
    LoopReport out{.revision = store_.revision(),
                   .store = store_.stats(),
                   .service = service_->stats(),
                   .listeners = {},
                   .watchers_by_group = std::vector<std::size_t>(serve::watch_groups().size()),
                   .slow_watchers = store_.blocked_watchers(),
                   .queued_bytes = 0};
    for (const Listener& listener : listeners_) {
        out.listeners.push_back(
            {listener.name, listener.server->stats(), listener.server->tls_expiry()});
        listener.server->for_each_connection(
            [&out](const rpc::ConnectionInfo& info) { out.queued_bytes += info.queued_bytes; });
    }
    service_->for_each_watch_stream(
        [&out](const serve::WatchStreamInfo& info) { out.queued_bytes += info.queued_bytes; });
    store_.for_each_watched_range([&out](const store::WatchedRange& seen) {
        out.watchers_by_group[serve::watch_group_of(seen.range)] += seen.watchers;
    });
    return out;
}

std::vector<ConnectionReport> ServingLoop::connections() const {
    std::vector<ConnectionReport> out;
    std::map<std::pair<std::string_view, std::string_view>, std::size_t> places;
    const TimePoint now = clock_.now();
    for (const Listener& listener : listeners_) {
        listener.server->for_each_connection([&](const rpc::ConnectionInfo& info) {
            if (!info.ready) return;
            // Views: of the listener, and of the peer, which stands as long as its connection.
            places[{listener.name, info.peer.address}] = out.size();
            out.push_back({.name = serve::name_of(info.peer),
                           .address = info.peer.address,
                           .listener = listener.name,
                           .seconds = std::chrono::duration<double>(now - info.since).count(),
                           .calls = info.live_calls,
                           .queued_bytes = info.queued_bytes,
                           .sent_bytes = info.bytes_sent,
                           .received_bytes = info.bytes_received});
        });
    }
    service_->for_each_watch_stream([&](const serve::WatchStreamInfo& info) {
        const auto place = places.find({info.listener, info.peer.address});
        if (place == places.end()) return;
        ConnectionReport& connection = out[place->second];
        ++connection.streams;
        connection.watchers += info.watches;
        connection.slow += info.blocked;
        connection.queued_bytes += info.queued_bytes;
        connection.sent_events += info.events_sent;
    });
    return out;
}

std::vector<RangeReport> ServingLoop::watched_ranges() const {
    std::vector<RangeReport> out;
    store_.for_each_watched_range([&out](const store::WatchedRange& seen) {
        if (seen.watchers == 0) return;
        out.push_back({.key = std::string(seen.range.key),
                       .range_end = std::string(seen.range.range_end),
                       .watchers = seen.watchers,
                       .behind = seen.behind,
                       .slow = seen.blocked});
    });
    return out;
}

std::pair<std::vector<WatchReport>, std::size_t> ServingLoop::watches_of(std::string_view name,
                                                                         std::size_t limit) const {
    std::pair<std::vector<WatchReport>, std::size_t> out;
    service_->for_each_watch(
        [&](const serve::WatchStreamInfo& stream) { return serve::name_of(stream.peer) == name; },
        [&](const serve::WatchStreamInfo& stream, const serve::WatchInfo& watch) {
            if (++out.second > limit && limit != 0) return;
            out.first.push_back({.name = serve::name_of(stream.peer),
                                 .address = stream.peer.address,
                                 .listener = std::string(stream.listener),
                                 .id = watch.id,
                                 .key = std::string(watch.state.range.key),
                                 .range_end = std::string(watch.state.range.range_end),
                                 .no_put = watch.state.no_put,
                                 .no_delete = watch.state.no_delete,
                                 .behind = watch.state.behind,
                                 .slow = watch.state.blocked,
                                 .sent_events = watch.events_sent});
        });
    return out;
}

}  // namespace mesh::proxy_daemon
