#include "reflect/reflected_cluster.hpp"

#include <algorithm>
#include <utility>

#include "model/keys.hpp"
#include "reflect/cache_ledger.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "runtime/waker.hpp"

namespace mesh::reflect {

namespace asio = boost::asio;

class ReflectedCluster::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor executor, std::string name, OwnEtcd& own,
         const KvstoreMeshOptions& options, const Clock& clock, Rng rng, Logger log)
        : name_(std::move(name)),
          own_(own),
          options_(options),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          began_(clock.now()),
          ledger_(name_),
          waker_(executor, clock),
          reader_(executor, ledger_, name_, options.local_id, options.max_clusters, clock,
                  Rng(rng_.next()), log_,
                  [this] {
                      hold_back();
                      waker_.wake();
                  }),
          tasks_(executor) {}

    void configure(sources::config::RemoteConfig config) {
        reader_.configure(std::move(config));
        if (!std::exchange(started_, true)) tasks_.spawn(write(shared_from_this()));
    }

    void own_changed() { waker_.wake(); }

    asio::awaitable<void> stop() {
        const auto self = shared_from_this();
        waker_.stop();
        config_watch_.reset();
        co_await reader_.stop();
        co_await tasks_.join();
        config_watch_.reset();  // made meanwhile
    }

    [[nodiscard]] ReflectedStatus status() const {
        ReflectedStatus status = counters_;
        status.cluster = name_;
        status.reader = reader_.status();
        status.synced = synced();
        status.keys = ledger_.wanted();
        status.pending = ledger_.pending();
        status.refused = ledger_.refused();
        return status;
    }

    [[nodiscard]] bool settled() const {
        return synced() ||
               (!reader_.status().connected && clock_.now() - began_ > options_.connect_timeout);
    }

  private:
    [[nodiscard]] bool synced() const { return present_ == own_.epoch() && ledger_.synced(); }

    /// The remote tells no faster than can be written; between two marks, so that it is not told
    /// with every value.
    void hold_back() {
        const std::size_t waiting = ledger_.pending_bytes();
        if (waiting > options_.waiting_bytes) reader_.hold(true);
        if (waiting <= options_.waiting_bytes / 2) reader_.hold(false);
    }

    static asio::awaitable<void> write(std::shared_ptr<Impl> self) { co_await self->write_all(); }

    asio::awaitable<void> write_all() {
        Backoff backoff(std::chrono::milliseconds(200), std::chrono::seconds(5));
        while (!waker_.stopped()) {
            Result<void> done{};
            if (own_.lease() == 0) {
                co_await waker_.sleep();
                continue;
            }
            if (present_ != own_.epoch()) {
                done = co_await list_present();
            } else if (ledger_.pending() != 0) {
                done = co_await write_batch();
            } else {
                co_await waker_.sleep();
                continue;
            }
            if (done) {
                backoff.reset();
            } else {
                log_.debug("{}: {}", name_, done.error().message());
                co_await waker_.pause(backoff.next(rng_));
            }
        }
    }

    /// What of this remote stands in the own etcd.
    asio::awaitable<Result<void>> list_present() {
        const std::uint64_t epoch = own_.epoch();
        ledger_.begin_present(own_.lease());
        const etcd::PageCallback page = [this](const etcd::Header&,
                                               std::span<const etcd::KeyValueView> kvs) {
            for (const auto& kv : kvs) ledger_.found(kv.key, kv.value, kv.lease);
        };
        std::vector<etcd::KeyRange> ranges;
        ranges.push_back({model::cluster_config_key(name_), {}});
        ranges.push_back(etcd::prefix_range(model::synced_prefix(name_)));
        for (const model::Resource resource : model::kResources) {
            ranges.push_back(
                etcd::prefix_range(model::resource_prefix(resource, name_, model::Layout::kCache)));
        }
        for (const etcd::KeyRange& range : ranges) {
            etcd::RangeRequest request;
            request.range = range;
            const auto listed = co_await own_.client().async_list(std::move(request), page);
            if (!listed) co_return listed.error();
            if (&range == &ranges.front()) watch_config(listed->revision);
        }
        present_ = epoch;
        if (!ledger_.end_present()) {
            log_.info("remote cluster {}: keys of its cache are missing here: reading it again",
                      name_);
            reader_.read_again();
        }
        co_return Result<void>{};
    }

    /// Who removes or changes the config, by hand or with the lease, has most likely done more.
    void watch_config(std::int64_t revision) {
        etcd::WatchOptions options;
        options.range.key = model::cluster_config_key(name_);
        options.start_revision = revision + 1;
        etcd::WatchEvents events;
        events.on_events = [this](const etcd::Header&, std::span<const etcd::WatchEvent> news) {
            const bool ours = std::ranges::all_of(news, [this](const etcd::WatchEvent& event) {
                return event.kind == etcd::WatchEvent::Kind::kPut && event.kv.lease == own_.lease();
            });
            if (!ours) list_again();
        };
        events.on_end = [this](const etcd::WatchEnd&) { list_again(); };
        config_watch_ = own_.client().watch(std::move(options), std::move(events));
    }

    void list_again() {
        present_ = 0;
        waker_.wake();
    }

    asio::awaitable<Result<void>> write_batch() {
        const std::size_t limit = singles_ > 0 ? 1 : options_.batch_ops;
        if (singles_ > 0) --singles_;
        auto writes = ledger_.take(limit, options_.batch_bytes);
        hold_back();
        std::vector<etcd::Op> ops;
        ops.reserve(writes.size());
        std::size_t bytes = 0;
        for (const CacheLedger::Write& write : writes) {
            if (write.value) {
                bytes += write.value->size();
                ops.emplace_back(etcd::PutOp{write.key, *write.value, own_.lease()});
            } else {
                ops.emplace_back(etcd::DeleteOp{{write.key, {}}});
            }
        }
        const auto done = co_await own_.async_write(std::move(ops), !ledger_.synced());
        if (done) {
            ++counters_.transactions;
            for (const auto& write : writes) ++(write.value ? counters_.puts : counters_.deletes);
            ledger_.applied(writes);
            co_return Result<void>{};
        }
        co_return handle_refusal(done.error(), std::move(writes), bytes);
    }

    Result<void> handle_refusal(const Error& error, std::vector<CacheLedger::Write> writes,
                                std::size_t bytes) {
        constexpr std::size_t kLarge = 1U << 20;
        const bool of_the_value = error.code() == Errc::kInvalidArgument ||
                                  (error.code() == Errc::kCapacity && bytes >= kLarge);
        if (of_the_value && writes.size() == 1) {
            log_.error("{}: the own etcd refuses it until it changes: {}", writes[0].key,
                       error.detail());
            ledger_.refuse(writes[0]);
            return {};
        }
        // One of them is at fault: each alone finds which.
        if (of_the_value) singles_ = writes.size();
        ledger_.give_back(std::move(writes));
        return of_the_value ? Result<void>{} : Result<void>(error);
    }

    std::string name_;
    OwnEtcd& own_;
    const KvstoreMeshOptions& options_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    TimePoint began_;
    CacheLedger ledger_;
    Waker waker_;
    RemoteReader reader_;
    ReflectedStatus counters_;
    std::unique_ptr<etcd::Watch> config_watch_;
    std::uint64_t present_ = 0;  ///< the epoch in which the own etcd was listed last
    std::size_t singles_ = 0;    ///< writes to do one by one
    bool started_ = false;
    TaskGroup tasks_;
};

ReflectedCluster::ReflectedCluster(asio::any_io_executor executor, std::string name, OwnEtcd& own,
                                   const KvstoreMeshOptions& options, const Clock& clock, Rng rng,
                                   Logger log)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(name), own, options, clock, rng,
                                   std::move(log))) {}
ReflectedCluster::~ReflectedCluster() = default;
void ReflectedCluster::configure(sources::config::RemoteConfig config) {
    impl_->configure(std::move(config));
}
void ReflectedCluster::own_changed() {
    impl_->own_changed();
}
asio::awaitable<void> ReflectedCluster::stop() {
    return impl_->stop();
}
ReflectedStatus ReflectedCluster::status() const {
    return impl_->status();
}
bool ReflectedCluster::settled() const {
    return impl_->settled();
}

asio::awaitable<Result<void>> async_remove_cache(OwnEtcd& own, std::string cluster) {
    std::vector<etcd::Op> ops;
    ops.emplace_back(etcd::DeleteOp{etcd::prefix_range(model::synced_prefix(cluster))});
    for (const model::Resource resource : model::kResources) {
        ops.emplace_back(etcd::DeleteOp{
            etcd::prefix_range(model::resource_prefix(resource, cluster, model::Layout::kCache))});
    }
    return own.async_write(std::move(ops), false);
}

}  // namespace mesh::reflect
