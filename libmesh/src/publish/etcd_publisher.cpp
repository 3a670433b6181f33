#include "publish/etcd_publisher.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/policy_record.hpp"
#include "publish/key_ledger.hpp"
#include "publish/kvstore_identity_allocator.hpp"
#include "publish/lease_holder.hpp"
#include "publish/object_compiler.hpp"
#include "publish/workload_source.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::publish {

namespace asio = boost::asio;
namespace k8s = model::k8s;

namespace {

/// What others look at first is written first: who we are, then what names refer to.
int write_order(std::string_view key) {
    switch (model::parse_key(key).kind) {
        case model::KeyKind::kClusterConfig:
            return 0;
        case model::KeyKind::kIdentity:
            return 1;
        case model::KeyKind::kNode:
            return 2;
        case model::KeyKind::kIp:
        case model::KeyKind::kLocalIp:
            return 3;
        case model::KeyKind::kService:
            return 4;
        case model::KeyKind::kLocalService:
            return 5;
        case model::KeyKind::kLocalPolicy:
            return 6;
        default:
            return 7;
    }
}

std::int64_t wall_seconds(const Clock& clock) {
    return std::chrono::duration_cast<std::chrono::seconds>(clock.wall_now().time_since_epoch())
        .count();
}

}  // namespace

std::string_view to_string(PublisherState state) noexcept {
    switch (state) {
        case PublisherState::kWaiting:
            return "waiting";
        case PublisherState::kConnecting:
            return "connecting";
        case PublisherState::kSyncing:
            return "syncing";
        case PublisherState::kPublished:
            return "published";
        case PublisherState::kRefused:
            return "refused";
    }
    return "?";
}

class EtcdPublisher::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor loop, etcd::Client& client, PublisherOptions options,
         const Clock& clock, Rng rng, Logger log)
        : client_(client),
          options_(std::move(options)),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          compiler_(options_.cluster, options_.labels),
          ledger_(write_order),
          lease_(loop, client, options_.lease_ttl, log_, [this] { wake(); }),
          workloads_(loop, client, clock, Rng(rng_.next()), log_,
                     [this](WorkloadChanges changes) {
                         absorb(std::move(changes));
                         wake();
                     }),
          identities_(loop, client, allocator_options(options_), clock, Rng(rng_.next()), log_,
                      [this](const std::string& labels, const Result<model::IdentityId>& id) {
                          take_number(labels, id);
                      }),
          timer_(loop),
          accepted_timer_(loop),
          tasks_(loop) {
        accepted_timer_.expires_at(asio::steady_timer::time_point::max());
    }

    void start() {
        client_.on_connection([this](const etcd::ConnectionEvent& event) {
            if (event.state == etcd::ConnectionEvent::State::kLost) {
                // The etcd that comes back may have lost what this one knew.
                note_failure(event.reason);
                list_again();
            } else if (event.state == etcd::ConnectionEvent::State::kFailed) {
                note_failure(event.reason.with_prefix(event.endpoint));
            }
        });
        workloads_.start();
        tasks_.spawn(run(shared_from_this()));
    }

    void on_ready(std::function<void()> callback) { on_ready_ = std::move(callback); }

    void apply(std::span<const k8s::ObjectChange> changes, bool incomplete) {
        loaded_ = true;
        if (adopted_) {
            // A change is a change of its objects, whatever else is still unknown.
            WorkloadChanges of_workloads = workloads_.table().note(changes);
            of_workloads.objects.insert(of_workloads.objects.begin(), changes.begin(),
                                        changes.end());
            absorb(std::move(of_workloads));
        } else {
            backlog_.insert(backlog_.end(), changes.begin(), changes.end());
        }
        if (!incomplete) {
            ledger_.hold(false);
            if (incomplete_) identities_.drop_strays();
        }
        incomplete_ = incomplete;
        wake();
    }

    void apply_policies(std::span<const model::PolicyRecordChange> changes,
                        model::UnreadPolicies unread) {
        unread_policies_ = std::move(unread);
        for (const auto& [key, record] : changes) {
            const std::string etcd_key = model::local_policy_key(key);
            kept_policies_.erase(etcd_key);
            if (record) {
                ledger_.want(etcd_key, model::encode(*record));
                policies_.insert(etcd_key);
            } else {
                ledger_.unwant(etcd_key);
                policies_.erase(etcd_key);
            }
        }
        std::erase_if(kept_policies_, [this](const std::string& etcd_key) {
            if (is_unread(etcd_key)) return false;
            ledger_.unwant(etcd_key);
            return true;
        });
        wake();
    }

    [[nodiscard]] PublisherStatus status() const {
        PublisherStatus status = counters_;
        status.state = state_;
        if (state_ != PublisherState::kWaiting && state_ != PublisherState::kRefused &&
            !client_.connected()) {
            status.state = PublisherState::kConnecting;
        }
        status.lease = lease_.id();
        status.leases_lost = lease_.losses();
        status.keys = ledger_.wanted() + identities_.held();
        status.pending = ledger_.due() + (identities_.due() ? 1 : 0);
        status.refused = ledger_.refused();
        status.identities = compiler_.identities();
        status.policies = policies_.size() + kept_policies_.size();
        status.workloads = workloads_.table().accepted();
        status.workloads_refused = workloads_.table().size() - status.workloads;
        return status;
    }

    [[nodiscard]] std::vector<WorkloadReport> workloads() const {
        return workloads_.table().report();
    }

    asio::awaitable<Result<void>> accepted() {
        auto self = shared_from_this();
        while (!accepted_ && !stopping_) {
            boost::system::error_code ignored;
            co_await accepted_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
        co_return accepted_.value_or(Result<void>(Error(Errc::kCancelled, "stopped")));
    }

    asio::awaitable<void> stop() {
        auto self = shared_from_this();
        stopping_ = true;
        wake();
        accepted_timer_.cancel();
        client_.on_connection({});
        config_watch_.reset();
        workloads_.stop();
        lease_.release();
        identities_.stop();
        // Requests under way end by it.
        co_await client_.async_stop();
        co_await tasks_.join();
    }

  private:
    // --- the loop -----------------------------------------------------------------------------

    static asio::awaitable<void> run(std::shared_ptr<Impl> self) { co_await self->loop(); }

    asio::awaitable<void> loop() {
        Backoff backoff(std::chrono::milliseconds(200), std::chrono::seconds(5));
        while (!stopping_) {
            if (!loaded_) {
                state_ = PublisherState::kWaiting;
                co_await sleep(std::nullopt);
                continue;
            }
            Result<void> done = co_await synchronise();
            if (done) {
                backoff.reset();
                done = co_await serve();
            }
            if (stopping_ || done) continue;
            note_failure(done.error());
            if (done.error().code() == Errc::kConflict) {
                state_ = PublisherState::kRefused;
                settle_acceptance(done);
            }
            co_await sleep(clock_.now() + backoff.next(rng_), false);
        }
    }

    /// Waits for wake() or the time. @param wakeable false: for the time or the stop only
    asio::awaitable<void> sleep(std::optional<TimePoint> until, bool wakeable = true) {
        while (!stopping_ && !(wakeable && woken_)) {
            if (until && *until <= clock_.now()) break;
            timer_.expires_at(until ? asio::steady_timer::time_point(*until)
                                    : asio::steady_timer::time_point::max());
            boost::system::error_code ignored;
            co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
        woken_ = false;
    }

    void wake() {
        woken_ = true;
        timer_.cancel();
    }

    // --- what is there ------------------------------------------------------------------------

    /// Learns what is in etcd, checks that it is ours, and holds a lease.
    asio::awaitable<Result<void>> synchronise() {
        relist_ = false;
        config_watch_.reset();
        former_lease_ = 0;
        canaries_.clear();
        ++counters_.lists;
        MESH_CO_CHECK(co_await check_cluster_configs());
        settle_acceptance(Result<void>{});
        state_ = PublisherState::kSyncing;
        ledger_.begin_list();
        if (!own_config_.key.empty()) {
            ledger_.listed(own_config_.key, own_config_.value, own_config_.lease);
        }
        for (const model::Resource resource :
             {model::Resource::kNodes, model::Resource::kServices, model::Resource::kIps}) {
            MESH_CO_CHECK(
                co_await list_into_ledger(model::resource_prefix(resource, options_.cluster.name)));
        }
        MESH_CO_CHECK(co_await list_into_ledger(std::string(model::kLocalServicesPrefix)));
        MESH_CO_CHECK(co_await list_into_ledger(std::string(model::kLocalIpsPrefix)));
        MESH_CO_CHECK(co_await list_policies());
        MESH_CO_CHECK(co_await list_answers());
        MESH_CO_CHECK(co_await workloads_.async_listed());
        const auto identities = co_await identities_.async_list();
        if (!identities) co_return as_unavailable(identities.error());
        MESH_CO_CHECK(co_await list_canaries());
        adopt();
        ledger_.end_list();
        MESH_CO_TRY(const std::int64_t lease, co_await lease_.hold(former_lease_));
        ledger_.set_lease(lease);
        identities_.set_lease(lease);
        if (!incomplete_) identities_.drop_strays();
        watch_own_config();
        next_resync_ = clock_.now() + options_.resync;
        co_return Result<void>{};
    }

    /// Who removes our config, by hand or with the lease, has most likely removed more.
    void watch_own_config() {
        etcd::WatchOptions options;
        options.range.key = model::cluster_config_key(options_.cluster.name);
        options.start_revision = config_revision_ + 1;
        etcd::WatchEvents events;
        events.on_events = [this](const etcd::Header&, std::span<const etcd::WatchEvent> news) {
            const bool ours = std::ranges::all_of(news, [this](const etcd::WatchEvent& event) {
                return event.kind == etcd::WatchEvent::Kind::kPut && event.kv.lease == lease_.id();
            });
            if (!ours) list_again();
        };
        events.on_end = [this](const etcd::WatchEnd&) { list_again(); };
        config_watch_ = client_.watch(std::move(options), std::move(events));
    }

    void list_again() {
        relist_ = true;
        wake();
    }

    // Requests are named before they are awaited: g++ 12 destroys an aggregate twice that is made
    // within a co_await expression.
    asio::awaitable<Result<void>> list(std::string prefix, etcd::PageCallback page) {
        etcd::RangeRequest request;
        request.range = etcd::prefix_range(prefix);
        const auto listed = co_await client_.async_list(std::move(request), std::move(page));
        if (!listed) co_return as_unavailable(listed.error());
        co_return Result<void>{};
    }

    asio::awaitable<Result<void>> list_into_ledger(std::string prefix) {
        etcd::PageCallback page = [this](const etcd::Header&,
                                         std::span<const etcd::KeyValueView> kvs) {
            for (const auto& kv : kvs) ledger_.listed(kv.key, kv.value, kv.lease);
        };
        co_return co_await list(std::move(prefix), std::move(page));
    }

    asio::awaitable<Result<void>> list_policies() {
        etcd::PageCallback page = [this](const etcd::Header&,
                                         std::span<const etcd::KeyValueView> kvs) {
            for (const auto& kv : kvs) {
                const std::string key(kv.key);
                const bool ours = policies_.contains(key) || kept_policies_.contains(key);
                // What hangs on no lease is somebody else's, as long as we have none of that name.
                if (!ours && kv.lease == 0) continue;
                ledger_.listed(kv.key, kv.value, kv.lease);
                if (ours || adopted_ || !is_unread(key)) continue;
                kept_policies_.insert(key);
                ledger_.want(key, std::string(kv.value));
            }
        };
        std::string prefix(model::kLocalPoliciesPrefix);
        co_return co_await list(std::move(prefix), std::move(page));
    }

    /// What workloads were answered.
    asio::awaitable<Result<void>> list_answers() {
        etcd::PageCallback page = [this](const etcd::Header&,
                                         std::span<const etcd::KeyValueView> kvs) {
            for (const auto& kv : kvs) {
                ledger_.listed(kv.key, kv.value, kv.lease);
                if (adopted_) continue;
                const auto answer = model::parse_workload_status(kv.key, kv.value);
                if (answer) workloads_.table().remember(model::parse_key(kv.key).name, *answer);
            }
        };
        std::string prefix(model::kLocalWorkloadStatusPrefix);
        co_return co_await list(std::move(prefix), std::move(page));
    }

    [[nodiscard]] bool is_unread(const std::string& etcd_key) const {
        const auto key = model::policy_key_of(model::parse_key(etcd_key));
        return key && unread_policies_.contains(*key);
    }

    asio::awaitable<Result<void>> list_canaries() {
        etcd::PageCallback page = [this](const etcd::Header&,
                                         std::span<const etcd::KeyValueView> kvs) {
            for (const auto& kv : kvs) canaries_.insert_or_assign(std::string(kv.key), kv.lease);
        };
        std::string prefix = model::synced_prefix(options_.cluster.name);
        co_return co_await list(std::move(prefix), std::move(page));
    }

    /// kConflict is ours to say: from the client it means that the etcd changed between pages.
    static Error as_unavailable(const Error& error) {
        return error.code() == Errc::kConflict ? unavailable(error.detail()) : error;
    }

    /// Two clusters in one etcd would overwrite each other's ips and identities.
    asio::awaitable<Result<void>> check_cluster_configs() {
        own_config_ = {};
        std::vector<etcd::KeyValue> strange;
        etcd::RangeRequest request;
        request.range = etcd::prefix_range(model::kClusterConfigPrefix);
        auto range = co_await client_.async_range(std::move(request));
        if (!range) co_return range.error();
        config_revision_ = range->header.revision;
        const std::string own_key = model::cluster_config_key(options_.cluster.name);
        for (etcd::KeyValue& kv : range->kvs) {
            const auto config = model::parse_cluster_config(kv.key, kv.value);
            const bool own = kv.key == own_key;
            // A copy of a remote's config that KVStoreMesh keeps here is no claim on this etcd.
            if (!own && config && config->cached) continue;
            const bool good = own && config && config->id == options_.cluster.id;
            if (!good) strange.push_back(kv);
            if (own) own_config_ = std::move(kv);
        }
        former_lease_ = own_config_.lease;
        for (const etcd::KeyValue& kv : strange) {
            const std::string what =
                fmt::format("etcd holds {} = {}, expected {} with id {} alone", kv.key,
                            kv.value.substr(0, 200), own_key, number(options_.cluster.id));
            if (!options_.force) {
                co_return Error(Errc::kConflict,
                                what +
                                    "; it is another cluster's etcd, or the cluster was renamed "
                                    "(--force takes it over)");
            }
            log_.warn("{}; taking it over", what);
            if (kv.key != own_key) MESH_CO_CHECK(co_await remove_cluster(kv.key));
        }
        co_return Result<void>{};
    }

    /// Removes what a cluster of another name left; ips and identities have no name, and are put
    /// right as our own.
    asio::awaitable<Result<void>> remove_cluster(std::string config_key) {
        const std::string name = config_key.substr(model::kClusterConfigPrefix.size());
        etcd::Txn txn;
        txn.success.push_back(etcd::DeleteOp{{config_key, {}}});
        txn.success.push_back(etcd::DeleteOp{etcd::prefix_range(model::synced_prefix(name))});
        for (const model::Resource resource : {model::Resource::kNodes, model::Resource::kServices,
                                               model::Resource::kServiceExports}) {
            txn.success.push_back(
                etcd::DeleteOp{etcd::prefix_range(model::resource_prefix(resource, name))});
        }
        auto done = co_await client_.async_txn(std::move(txn));
        if (!done) co_return done.error();
        co_return Result<void>{};
    }

    /// Once: the objects that came meanwhile are compiled.
    void adopt() {
        if (std::exchange(adopted_, true)) return;
        absorb(compiler_.start());
        // No records are known to the table: nothing comes of the manifests yet.
        (void)workloads_.table().note(backlog_);
        WorkloadChanges of_workloads = workloads_.open();
        of_workloads.objects.insert(of_workloads.objects.begin(), backlog_.begin(), backlog_.end());
        absorb(std::move(of_workloads));
        backlog_ = {};
        ledger_.hold(incomplete_);
        if (incomplete_) {
            log_.warn(
                "some manifests could not be read: what an earlier run published stays as it "
                "is until they can be, or until its objects change");
        }
    }

    void absorb(WorkloadChanges changes) {
        absorb(compiler_.apply(changes.objects));
        for (const auto& [name, answer] : changes.answers) {
            const std::string key = model::local_workload_status_key(name);
            if (answer) {
                ledger_.want(key, model::encode(*answer));
            } else {
                ledger_.unwant(key);
            }
        }
        for (const std::string& text : changes.warnings) log_.warn("{}", text);
    }

    void absorb(Compiled compiled) {
        for (KeyChange& change : compiled.changes) {
            if (change.value) {
                ledger_.want(change.key, std::move(*change.value));
            } else {
                ledger_.unwant(change.key);
            }
        }
        for (const std::string& labels : compiled.identities_unwanted) identities_.unwant(labels);
        for (const std::string& labels : compiled.identities_wanted) identities_.want(labels);
        for (const std::string& text : compiled.warnings) log_.warn("{}", text);
    }

    void take_number(const std::string& labels, const Result<model::IdentityId>& id) {
        if (!id) log_.warn("{}", id.error().detail());
        absorb(compiler_.number_identity(labels, id ? *id : model::IdentityId{}));
    }

    static IdentityAllocatorOptions allocator_options(const PublisherOptions& options) {
        return {.range = model::identity_range(options.cluster.id, options.cluster.max_clusters),
                .grace = options.identity_grace};
    }

    // --- writing ------------------------------------------------------------------------------

    /// Writes what is due, until what is there has to be learned again.
    asio::awaitable<Result<void>> serve() {
        while (!stopping_ && !relist_ && lease_.id() != 0) {
            const TimePoint now = clock_.now();
            if (now >= next_resync_) co_return Result<void>{};
            if (now >= next_heartbeat_ || heartbeat_lease_ != lease_.id()) {
                MESH_CO_CHECK(co_await put_heartbeat());
            }
            if (identities_.due()) {
                // Before all writes: what is written has the numbers in it.
                state_ = PublisherState::kSyncing;
                const auto settled = co_await identities_.async_settle();
                if (!settled) co_return lost_lease_or(settled.error());
                continue;
            }
            const auto collection = next_collection();
            if (collection && *collection <= now)
                MESH_CO_CHECK(co_await identities_.async_collect());
            if (ledger_.due() != 0) {
                state_ = PublisherState::kSyncing;
                MESH_CO_CHECK(co_await write_batch());
                continue;
            }
            if (!canaries_good()) {
                MESH_CO_CHECK(co_await put_canaries());
                continue;
            }
            if (!std::exchange(counters_.ready, true)) {
                log_.info("published: {} keys, {} identities", ledger_.wanted(),
                          compiler_.identities());
                if (on_ready_) on_ready_();
            }
            state_ = PublisherState::kPublished;
            counters_.last_error_is_current = false;
            TimePoint until = std::min(next_heartbeat_, next_resync_);
            if (const auto next = next_collection()) until = std::min(until, *next);
            co_await sleep(until);
        }
        co_return Result<void>{};
    }

    /// Nothing is garbage before all objects are known.
    [[nodiscard]] std::optional<TimePoint> next_collection() const {
        return incomplete_ ? std::nullopt : identities_.next_collection();
    }

    asio::awaitable<Result<void>> write_batch() {
        const std::size_t limit = singles_ > 0 ? 1 : options_.batch_ops;
        if (singles_ > 0) --singles_;
        const auto writes = ledger_.next(limit, options_.batch_bytes);
        etcd::Txn txn;
        std::size_t bytes = 0;
        for (const KeyLedger::Write& write : writes) {
            bytes += write.value ? write.value->size() : 0;
            if (write.value) {
                txn.success.push_back(etcd::PutOp{write.key, *write.value, lease_.id()});
            } else {
                txn.success.push_back(etcd::DeleteOp{{write.key, {}}});
            }
        }
        const auto done = co_await client_.async_txn(std::move(txn));
        if (done) {
            ++counters_.transactions;
            ledger_.applied(writes);
            for (const auto& write : writes) ++(write.value ? counters_.puts : counters_.deletes);
            co_return Result<void>{};
        }
        co_return handle_refusal(done.error(), writes, bytes);
    }

    Result<void> handle_refusal(const Error& error, const std::vector<KeyLedger::Write>& writes,
                                std::size_t bytes) {
        constexpr std::size_t kLarge = 1U << 20;
        const bool of_the_value = error.code() == Errc::kInvalidArgument ||
                                  (error.code() == Errc::kCapacity && bytes >= kLarge);
        if (error.code() == Errc::kNotFound) {
            // Of all that a put or delete may name, only the lease can be missing.
            lease_.drop();
            return error;
        }
        if (!of_the_value) return error;
        if (writes.size() > 1) {
            // One of them is at fault: each alone finds which.
            singles_ = writes.size();
            return Result<void>{};
        }
        note_failure(error.with_prefix(writes[0].key));
        log_.error("{}: etcd refuses it until it changes: {}", writes[0].key, error.detail());
        ledger_.refused(writes[0].key);
        return Result<void>{};
    }

    asio::awaitable<Result<void>> put_heartbeat() {
        etcd::PutOptions options;
        options.lease = lease_.id();
        std::string now = model::encode_timestamp(wall_seconds(clock_));
        const auto done =
            co_await client_.async_put(std::string(model::kHeartbeatKey), std::move(now), options);
        if (!done) co_return lost_lease_or(done.error());
        next_heartbeat_ = clock_.now() + options_.heartbeat;
        heartbeat_lease_ = options.lease;
        co_return Result<void>{};
    }

    Error lost_lease_or(const Error& error) {
        if (error.code() == Errc::kNotFound) lease_.drop();
        return error;
    }

    [[nodiscard]] bool canaries_good() const {
        return std::ranges::all_of(model::kResources, [this](model::Resource resource) {
            const auto found = canaries_.find(model::synced_key(options_.cluster.name, resource));
            return found != canaries_.end() && found->second == lease_.id();
        });
    }

    asio::awaitable<Result<void>> put_canaries() {
        const std::string now = model::encode_timestamp(wall_seconds(clock_));
        const std::int64_t lease = lease_.id();
        etcd::Txn txn;
        for (const model::Resource resource : model::kResources) {
            txn.success.push_back(
                etcd::PutOp{model::synced_key(options_.cluster.name, resource), now, lease});
        }
        const auto done = co_await client_.async_txn(std::move(txn));
        if (!done) co_return lost_lease_or(done.error());
        ++counters_.transactions;
        for (const model::Resource resource : model::kResources) {
            canaries_.insert_or_assign(model::synced_key(options_.cluster.name, resource), lease);
        }
        co_return Result<void>{};
    }

    // --- what is told -------------------------------------------------------------------------

    void note_failure(const Error& error) {
        ++counters_.failures;
        // The same failure each few seconds is one piece of news.
        if (!counters_.last_error_is_current || counters_.last_error != error.message()) {
            log_.warn("{}", error.message());
        }
        counters_.last_error = error.message();
        counters_.last_error_is_current = true;
    }

    void settle_acceptance(Result<void> result) {
        if (accepted_) return;
        accepted_ = std::move(result);
        accepted_timer_.cancel();
    }

    etcd::Client& client_;
    PublisherOptions options_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    ObjectCompiler compiler_;
    KeyLedger ledger_;
    LeaseHolder lease_;
    WorkloadSource workloads_;
    KvstoreIdentityAllocator identities_;
    asio::steady_timer timer_;
    asio::steady_timer accepted_timer_;
    TaskGroup tasks_;

    std::vector<k8s::ObjectChange> backlog_;  ///< until identities have been adopted
    model::UnreadPolicies unread_policies_;
    std::set<std::string> policies_;                ///< keys of those that there are
    std::set<std::string> kept_policies_;           ///< of an earlier run, whose documents are bad
    std::map<std::string, std::int64_t> canaries_;  ///< those in etcd, and their leases
    etcd::KeyValue own_config_;
    std::int64_t config_revision_ = 0;
    std::unique_ptr<etcd::Watch> config_watch_;
    std::int64_t former_lease_ = 0;
    TimePoint next_heartbeat_{};
    std::int64_t heartbeat_lease_ = 0;
    TimePoint next_resync_{};
    std::size_t singles_ = 0;  ///< writes to do one by one
    PublisherState state_ = PublisherState::kWaiting;
    PublisherStatus counters_;
    std::optional<Result<void>> accepted_;
    std::function<void()> on_ready_;
    bool loaded_ = false;
    bool incomplete_ = false;
    bool adopted_ = false;
    bool relist_ = false;
    bool stopping_ = false;
    bool woken_ = false;
};

EtcdPublisher::EtcdPublisher(asio::any_io_executor loop, etcd::Client& client,
                             PublisherOptions options, const Clock& clock, Rng rng, Logger log)
    : impl_(std::make_shared<Impl>(std::move(loop), client, std::move(options), clock, rng,
                                   std::move(log))) {}
EtcdPublisher::~EtcdPublisher() = default;

void EtcdPublisher::start() {
    impl_->start();
}
void EtcdPublisher::apply(std::span<const k8s::ObjectChange> changes, bool incomplete) {
    impl_->apply(changes, incomplete);
}
void EtcdPublisher::apply_policies(std::span<const model::PolicyRecordChange> changes,
                                   model::UnreadPolicies unread) {
    impl_->apply_policies(changes, std::move(unread));
}
void EtcdPublisher::on_ready(std::function<void()> callback) {
    impl_->on_ready(std::move(callback));
}
PublisherStatus EtcdPublisher::status() const {
    return impl_->status();
}
std::vector<WorkloadReport> EtcdPublisher::workloads() const {
    return impl_->workloads();
}
asio::awaitable<Result<void>> EtcdPublisher::async_accepted() {
    return impl_->accepted();
}
asio::awaitable<void> EtcdPublisher::async_stop() {
    return impl_->stop();
}

}  // namespace mesh::publish
