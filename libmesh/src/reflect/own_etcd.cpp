#include "reflect/own_etcd.hpp"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "runtime/backoff.hpp"

namespace mesh::reflect {

namespace asio = boost::asio;

namespace {

/// Cilium's, so that one of its instances and one of ours never both write. @source wire.md §11
constexpr std::string_view kLockPath = "cilium/kvstoremesh-lock";
/// How long one try to get the lock lasts; in between the lease is looked at.
constexpr Duration kLockTry = std::chrono::seconds(2);

}  // namespace

Duration Pace::take(TimePoint now) {
    if (since_ != TimePoint{}) {
        const double passed = std::chrono::duration<double>(now - since_).count();
        tokens_ = std::min(per_second_, tokens_ + passed * per_second_);
    }
    since_ = now;
    tokens_ -= 1;
    if (tokens_ >= 0) return Duration::zero();
    return std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(-tokens_ / per_second_));
}

OwnEtcd::OwnEtcd(asio::any_io_executor loop, etcd::Client& client, OwnEtcdOptions options,
                 const Clock& clock, Rng rng, Logger log, std::function<void()> on_change)
    : loop_(loop),
      client_(client),
      options_(options),
      clock_(clock),
      rng_(rng),
      log_(std::move(log)),
      on_change_(std::move(on_change)),
      lease_(loop, client, options.lease_ttl, log_, [this] { changed(); }),
      lock_lease_(loop, client, options.lock_ttl, log_,
                  [this] { lost(unavailable("the lease of the lock is lost")); }),
      pace_(options.qps),
      bootstrap_pace_(options.bootstrap_qps),
      waker_(loop, clock),
      tasks_(loop) {}

void OwnEtcd::start() {
    client_.on_connection([this](const etcd::ConnectionEvent& event) {
        if (event.state == etcd::ConnectionEvent::State::kConnected) return changed();
        note_failure(event.endpoint.empty() ? event.reason
                                            : event.reason.with_prefix(event.endpoint));
    });
    tasks_.spawn(run());
}

asio::awaitable<void> OwnEtcd::stop() {
    waker_.stop();
    client_.on_connection({});
    lease_.release();
    // Only so that another instance need not wait for the lease's end.
    if (leader_ && lock_ && client_.connected()) co_await lock_->async_unlock();
    lock_lease_.release();
    co_await client_.async_stop();
    co_await tasks_.join();
}

/// Keeps the lock and the lease.
asio::awaitable<void> OwnEtcd::run() {
    Backoff backoff(std::chrono::milliseconds(200), std::chrono::seconds(5));
    while (!waker_.stopped()) {
        Result<void> done{};
        if (!leader_) {
            done = co_await become_leader();
        } else if (lease_.id() == 0) {
            const Result<std::int64_t> held = co_await lease_.hold(std::exchange(former_, 0));
            if (held) {
                changed();
            } else {
                done = held.error();
            }
        } else {
            last_failure_.clear();
            co_await waker_.sleep();
            continue;
        }
        if (done) {
            backoff.reset();
            continue;
        }
        if (waker_.stopped()) break;
        // Another instance has the lock: that is no failure, and no reason to wait longer.
        if (done.error().code() == Errc::kTimeout && lock_lease_.id() != 0) continue;
        note_failure(done.error());
        co_await waker_.pause(backoff.next(rng_));
    }
}

asio::awaitable<Result<void>> OwnEtcd::become_leader() {
    if (options_.leader_election) {
        MESH_CO_TRY(const std::int64_t lease, co_await lock_lease_.hold(0));
        lock_ = std::make_unique<publish::EtcdMutex>(loop_, client_, std::string(kLockPath), lease);
        const auto locked = co_await lock_->async_lock(kLockTry);
        if (!locked) {
            if (locked.error().code() == Errc::kNotFound) lock_lease_.drop();
            co_return locked.error();
        }
    }
    if (!searched_) {
        MESH_CO_TRY(former_, co_await find_former());
        searched_ = true;
    }
    leader_ = true;
    changed();
    co_return Result<void>{};
}

/// The lease of a former run, by the copies of cluster-configs that it left. 0 = none.
asio::awaitable<Result<std::int64_t>> OwnEtcd::find_former() {
    etcd::RangeRequest request;
    request.range = etcd::prefix_range(model::kClusterConfigPrefix);
    const auto range = co_await client_.async_range(std::move(request));
    if (!range) co_return range.error();
    std::int64_t former = 0;
    for (const etcd::KeyValue& kv : range->kvs) {
        const auto config = model::parse_cluster_config(kv.key, kv.value);
        if (!config || !config->cached) continue;
        found_.insert(kv.key.substr(model::kClusterConfigPrefix.size()));
        former = kv.lease;
    }
    co_return former;
}

asio::awaitable<Result<void>> OwnEtcd::async_write(std::vector<etcd::Op> ops, bool bootstrap) {
    const Duration wait = (bootstrap ? bootstrap_pace_ : pace_).take(clock_.now());
    if (wait > Duration::zero()) {
        asio::steady_timer timer(loop_);
        timer.expires_after(std::chrono::ceil<std::chrono::microseconds>(wait));
        boost::system::error_code ignored;
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    if (lease() == 0) co_return unavailable("nothing is to be written now");
    etcd::Txn txn;
    if (lock_) txn.compare.push_back(lock_->is_owner());
    txn.success = std::move(ops);
    const auto done = co_await client_.async_txn(std::move(txn));
    if (!done) {
        // Of all that a put or delete may name, only the lease can be missing.
        if (done.error().code() == Errc::kNotFound) {
            lease_.drop();
            changed();
        }
        co_return done.error();
    }
    if (!done->succeeded) {
        const Error why(Errc::kConflict, "another instance has " + std::string(kLockPath));
        lost(why);
        co_return why;
    }
    co_return Result<void>{};
}

void OwnEtcd::changed() {
    ++epoch_;
    waker_.wake();
    on_change_();
}

void OwnEtcd::lost(const Error& why) {
    if (!std::exchange(leader_, false)) return;
    note_failure(why);
    changed();
}

void OwnEtcd::note_failure(const Error& error) {
    if (last_failure_ != error.message()) log_.warn("own etcd: {}", error.message());
    last_failure_ = error.message();
}

}  // namespace mesh::reflect
