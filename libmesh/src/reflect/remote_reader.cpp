#include "reflect/remote_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/validate.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "runtime/waker.hpp"
#include "sources/etcd/client.hpp"
#include "sources/etcd/prefix_watcher.hpp"

namespace mesh::reflect {

namespace asio = boost::asio;
using sources::config::RemoteConfig;
using WatcherState = etcd::PrefixWatcherEvents::State;

namespace {

constexpr Duration kFirstRetry = std::chrono::milliseconds(200);
constexpr Duration kLastRetry = std::chrono::seconds(10);

std::uint64_t most_keys(const sources::config::RemoteLimits& limits, model::Resource resource) {
    switch (resource) {
        case model::Resource::kNodes:
            return limits.nodes;
        case model::Resource::kServices:
            return limits.services;
        case model::Resource::kIps:
            return limits.ips + limits.cidrs;
        case model::Resource::kIdentities:
            return limits.identities;
        case model::Resource::kServiceExports:
            return limits.service_exports;
    }
    return 0;
}

}  // namespace

class RemoteReader::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor executor, CacheLedger& ledger, std::string cluster,
         model::ClusterId local_id, std::uint32_t max_clusters, const Clock& clock, Rng rng,
         Logger log, std::function<void()> on_change)
        : executor_(executor),
          ledger_(ledger),
          cluster_(std::move(cluster)),
          local_id_(local_id),
          max_clusters_(max_clusters),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          on_change_(std::move(on_change)),
          waker_(executor, clock),
          tasks_(executor) {}

    void configure(RemoteConfig config) {
        const bool first = !config_;
        config_ = std::move(config);
        ledger_.set_bounds({.value_bytes = config_->policy.limits.value_bytes,
                            .total_bytes = config_->policy.limits.total_bytes});
        again();
        if (first) tasks_.spawn(run(shared_from_this()));
    }

    void again() {
        again_ = true;
        waker_.wake();
    }

    void hold(bool wait) {
        if (std::exchange(held_, wait) == wait || !client_) return;
        if (wait) {
            client_->pause();
        } else {
            client_->resume();
        }
    }

    asio::awaitable<void> stop() {
        const auto self = shared_from_this();
        waker_.stop();
        // A request under way ends by it; run() is the one that lets go of it.
        if (const auto client = client_) co_await client->async_stop();
        co_await tasks_.join();
    }

    [[nodiscard]] ReaderStatus status() const {
        ReaderStatus status = status_;
        status.connected = client_ && client_->connected();
        status.listed = status.configured && std::ranges::all_of(listed_, std::identity{});
        if (client_) {
            status.revision = client_->newest_header().revision;
            if (client_->last_heard() != TimePoint{}) {
                status.last_heard = clock_.now() - client_->last_heard();
            }
        }
        return status;
    }

  private:
    static asio::awaitable<void> run(std::shared_ptr<Impl> self) {
        Backoff backoff(kFirstRetry, kLastRetry);
        while (!self->waker_.stopped()) {
            self->again_ = false;
            const Result<void> done = co_await self->follow_by_client();
            if (done) {
                backoff.reset();
                continue;
            }
            if (self->waker_.stopped()) break;
            self->fail(done.error());
            co_await self->waker_.pause(backoff.next(self->rng_));
        }
    }

    /// With one connection's worth of watches: until something is to be read from the start.
    asio::awaitable<Result<void>> follow_by_client() {
        auto options = sources::config::client_options(config_->etcd);
        options.max_message_bytes = config_->policy.limits.answer_bytes;
        options.max_fragmented_bytes = config_->policy.limits.answer_bytes;
        MESH_CO_TRY(client_, etcd::Client::make(executor_, std::move(options), clock_,
                                                Rng(rng_.next()), log_.named(cluster_)));
        client_->on_connection(
            [this](const etcd::ConnectionEvent& event) { on_connection(event); });
        if (held_) client_->pause();
        client_->start();
        const Result<void> done = co_await follow();
        status_.configured = false;
        canaries_.reset();
        for (auto& watcher : watchers_) watcher.reset();
        client_->on_connection({});
        co_await client_->async_stop();
        client_.reset();
        on_change_();
        co_return done;
    }

    asio::awaitable<Result<void>> follow() {
        listed_ = {};
        config_due_ = false;
        MESH_CO_TRY(const model::ClusterConfig config, co_await fetch_config());
        take_config(config);
        start_watches();
        while (!waker_.stopped() && !again_) {
            co_await waker_.sleep();
            if (waker_.stopped() || again_ || !std::exchange(config_due_, false)) continue;
            // After each reconnect: another cluster may stand there by now.
            const auto fetched = co_await fetch_config();
            if (!fetched && fetched.error().code() == Errc::kInvalidArgument) {
                co_return fetched.error();
            }
            if (!fetched) {
                fail(fetched.error());
                co_await waker_.pause(std::chrono::seconds(1));
                config_due_ = true;
                waker_.wake();
                continue;
            }
            const bool other_keys = fetched->cached != taken_.cached ||
                                    fetched->synced_canaries != taken_.synced_canaries ||
                                    fetched->service_exports_enabled.has_value() !=
                                        taken_.service_exports_enabled.has_value();
            if (other_keys) break;
            take_config(*fetched);
        }
        co_return Result<void>{};
    }

    asio::awaitable<Result<model::ClusterConfig>> fetch_config() {
        const std::string key = model::cluster_config_key(cluster_);
        etcd::RangeRequest request;
        request.range.key = key;
        request.limit = 1;
        const auto got = co_await client_->async_range(std::move(request));
        if (!got) co_return got.error();
        if (got->kvs.empty()) co_return unavailable(key + " is not there (yet)");
        MESH_CO_TRY(const model::ClusterConfig config,
                    model::parse_cluster_config(key, got->kvs[0].value));
        model::Connection connection;
        connection.cluster = cluster_;
        connection.id = config.id;
        connection.local_id = local_id_;
        connection.max_clusters = max_clusters_;
        MESH_CO_CHECK(model::validate_cluster_config(connection, config));
        if (config_->policy.id && *config_->policy.id != config.id) {
            co_return invalid_argument(
                fmt::format("{}: field id: expected {}, as the configuration file says (mesh: id), "
                            "found {}",
                            key, number(*config_->policy.id), number(config.id)));
        }
        co_return config;
    }

    void take_config(const model::ClusterConfig& config) {
        taken_ = config;
        status_.id = config.id;
        status_.configured = true;
        status_.last_failure.clear();
        model::ClusterConfig cached = config;
        cached.cached = true;
        cached.synced_canaries = true;
        ledger_.put_config(model::encode(cached));
        on_change_();
    }

    // --- watches ------------------------------------------------------------------------------

    void start_watches() {
        layout_ = taken_.cached ? model::Layout::kCache : model::Layout::kState;
        if (!taken_.service_exports_enabled) {
            // Readers wait for its canary all the same.
            ledger_.begin_list(model::Resource::kServiceExports);
            end_list(model::Resource::kServiceExports);
        }
        if (taken_.synced_canaries) return watch_canaries();
        for (const model::Resource resource : model::kResources) watch(resource);
    }

    void watch_canaries() {
        etcd::PrefixWatcherOptions options;
        options.prefix = model::synced_prefix(cluster_);
        options.hold_on_history_change = true;
        options.max_keys = 100;
        options.max_key_bytes = config_->policy.limits.key_bytes;
        etcd::PrefixWatcherEvents events;
        events.on_batch = [this](const etcd::Batch& batch) {
            for (const etcd::Change& change : batch.changes) {
                if (change.kind != etcd::Change::Kind::kPut) continue;
                const auto key = model::parse_key(change.kv.key);
                if (key.kind == model::KeyKind::kSynced && key.layout == layout_ &&
                    key.cluster == cluster_) {
                    watch(key.resource);
                }
            }
        };
        events.on_state = [this](WatcherState state, const Error* why) { on_state(state, why); };
        canaries_ = std::make_unique<etcd::PrefixWatcher>(*client_, clock_, Rng(rng_.next()),
                                                          std::move(options), std::move(events));
    }

    void watch(model::Resource resource) {
        const auto i = static_cast<std::size_t>(resource);
        const bool unknown =
            resource == model::Resource::kServiceExports && !taken_.service_exports_enabled;
        if (watchers_[i] || unknown) return;
        const auto& limits = config_->policy.limits;
        etcd::PrefixWatcherOptions options;
        options.prefix = model::resource_prefix(resource, cluster_, layout_);
        options.hold_on_history_change = true;
        options.max_keys = most_keys(limits, resource);
        options.max_key_bytes = limits.key_bytes;
        options.max_list_bytes = limits.total_bytes;
        ledger_.begin_list(resource);
        etcd::PrefixWatcherEvents events;
        events.on_batch = [this, resource, prefix = options.prefix.size()](
                              const etcd::Batch& batch) { take(resource, prefix, batch); };
        events.on_list_done = [this, resource](const etcd::Header&) { end_list(resource); };
        events.on_refused = [this](const etcd::RefusedKeys& keys) {
            too_many(keys.last, keys.count);
        };
        events.on_state = [this](WatcherState state, const Error* why) { on_state(state, why); };
        watchers_[i] = std::make_unique<etcd::PrefixWatcher>(*client_, clock_, Rng(rng_.next()),
                                                             std::move(options), std::move(events));
    }

    void take(model::Resource resource, std::size_t prefix, const etcd::Batch& batch) {
        for (const etcd::Change& change : batch.changes) {
            const std::string_view tail = change.kv.key.substr(prefix);
            if (change.kind == etcd::Change::Kind::kDelete) {
                ledger_.remove(resource, tail);
            } else if (!ledger_.put(resource, tail, change.kv.value)) {
                too_many(change.kv.key, 1);
            }
        }
        on_change_();
    }

    void end_list(model::Resource resource) {
        const auto now =
            std::chrono::duration_cast<std::chrono::seconds>(clock_.wall_now().time_since_epoch());
        ledger_.end_list(resource, model::encode_timestamp(now.count()));
        listed_[static_cast<std::size_t>(resource)] = true;
        on_change_();
    }

    void too_many(std::string_view key, std::uint64_t count) {
        // Once per connection and not per key: a remote decides how many there are.
        if (std::exchange(warned_, true) == false) {
            log_.warn("remote cluster {}: {}: beyond this remote's limits, left out (and more)",
                      cluster_, key);
        }
        status_.too_many += count;
    }

    void on_state(WatcherState state, const Error* why) {
        if (state == WatcherState::kRefused && why != nullptr) fail(*why);
        // Another etcd: its cluster-config and canaries count before its lists.
        if (state == WatcherState::kHeld) again();
    }

    void on_connection(const etcd::ConnectionEvent& event) {
        using State = etcd::ConnectionEvent::State;
        if (event.state == State::kConnected) {
            status_.endpoint = event.endpoint;
            warned_ = false;
            if (status_.configured) {
                config_due_ = true;
                waker_.wake();
            }
        } else if (event.state == State::kFailed && !event.endpoint.empty()) {
            fail(event.reason.with_prefix(event.endpoint));
        } else {
            fail(event.reason);
        }
        on_change_();
    }

    void fail(const Error& error) {
        ++status_.failures;
        if (status_.last_failure != error.message()) {
            log_.warn("remote cluster {}: {}; its cache stays", cluster_, error.message());
        }
        status_.last_failure = error.message();
        on_change_();
    }

    asio::any_io_executor executor_;
    CacheLedger& ledger_;
    std::string cluster_;
    model::ClusterId local_id_;
    std::uint32_t max_clusters_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    std::function<void()> on_change_;
    Waker waker_;
    std::optional<RemoteConfig> config_;
    std::shared_ptr<etcd::Client> client_;
    std::unique_ptr<etcd::PrefixWatcher> canaries_;
    std::array<std::unique_ptr<etcd::PrefixWatcher>, model::kResources.size()> watchers_;
    std::array<bool, model::kResources.size()> listed_{};
    model::ClusterConfig taken_;
    model::Layout layout_ = model::Layout::kState;
    ReaderStatus status_;
    bool again_ = false;
    bool config_due_ = false;
    bool warned_ = false;
    bool held_ = false;
    TaskGroup tasks_;
};

RemoteReader::RemoteReader(asio::any_io_executor executor, CacheLedger& ledger, std::string cluster,
                           model::ClusterId local_id, std::uint32_t max_clusters,
                           const Clock& clock, Rng rng, Logger log, std::function<void()> on_change)
    : impl_(std::make_shared<Impl>(std::move(executor), ledger, std::move(cluster), local_id,
                                   max_clusters, clock, rng, std::move(log),
                                   std::move(on_change))) {}
RemoteReader::~RemoteReader() = default;

void RemoteReader::configure(RemoteConfig config) {
    impl_->configure(std::move(config));
}
void RemoteReader::read_again() {
    impl_->again();
}
void RemoteReader::hold(bool wait) {
    impl_->hold(wait);
}
asio::awaitable<void> RemoteReader::stop() {
    return impl_->stop();
}
ReaderStatus RemoteReader::status() const {
    return impl_->status();
}

}  // namespace mesh::reflect
