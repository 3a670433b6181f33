#include "publish/workload_registration.hpp"

#include <fmt/format.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <utility>

#include "model/keys.hpp"
#include "model/utf8.hpp"
#include "publish/lease_holder.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::publish {

namespace asio = boost::asio;
using State = RegistrationStatus::State;

class WorkloadRegistration::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor loop, etcd::Client& client, model::Workload workload,
         std::chrono::seconds lease_ttl, const Clock& clock, Rng rng, Logger log,
         std::function<void(const RegistrationStatus&)> on_change)
        : client_(client),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          on_change_(std::move(on_change)),
          workload_(std::move(workload)),
          key_(model::local_workload_key(workload_.name)),
          status_key_(model::local_workload_status_key(workload_.name)),
          value_(model::encode(workload_)),
          lease_(loop, client, lease_ttl, log_, [this] { wake(); }),
          timer_(loop),
          ended_(loop),
          tasks_(loop) {
        ended_.expires_at(asio::steady_timer::time_point::max());
        status_.reason = "etcd has not answered yet";
    }

    void start() { tasks_.spawn(run(shared_from_this())); }

    void update(model::Workload workload) {
        std::string value = model::encode(workload);
        if (value == value_) return;
        workload_ = std::move(workload);
        value_ = std::move(value);
        tell({State::kPending, Errc::kTimeout, "the change has not been written yet"});
        wake();
    }

    [[nodiscard]] const RegistrationStatus& status() const noexcept { return status_; }

    asio::awaitable<Result<void>> close(Duration bound) {
        auto self = shared_from_this();
        on_change_ = {};
        closing_ = true;
        wake();
        // A lease that is being asked for holds nothing: it ends by itself.
        if (lease_.id() == 0) co_return Result<void>{};
        const TimePoint end = clock_.now() + bound;
        while (!left_ && clock_.now() < end) {
            ended_.expires_at(asio::steady_timer::time_point(end));
            boost::system::error_code ignored;
            co_await ended_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
        if (left_) co_return *left_;
        co_return Error(Errc::kTimeout,
                        key_ + ": etcd did not answer; it is gone when its lease ends");
    }

    [[nodiscard]] bool ended() const noexcept { return left_.has_value() && tasks_.size() == 0; }

    asio::awaitable<void> stop() {
        auto self = shared_from_this();
        on_change_ = {};
        closing_ = true;
        wake();
        co_await tasks_.join();
    }

  private:
    static asio::awaitable<void> run(std::shared_ptr<Impl> self) { co_await self->loop(); }

    asio::awaitable<void> loop() {
        Backoff backoff(std::chrono::milliseconds(100), std::chrono::seconds(5));
        while (!closing_) {
            woken_ = false;
            const Result<void> done = co_await synchronise();
            if (closing_) break;
            if (done) {
                backoff.reset();
                co_await sleep(std::nullopt);
                continue;
            }
            note_failure(done.error());
            co_await sleep(clock_.now() + backoff.next(rng_));
        }
        co_await leave();
    }

    asio::awaitable<void> leave() {
        record_watch_.reset();
        status_watch_.reset();
        const std::int64_t lease = lease_.id();
        lease_.release();
        Result<void> left{};
        if (lease != 0) {
            left = co_await client_.async_lease_revoke(lease);
            // It had ended before.
            if (!left && left.error().code() == Errc::kNotFound) left = Result<void>{};
        }
        left_ = std::move(left);
        ended_.cancel();
    }

    /// Until wake(), the time or the end.
    asio::awaitable<void> sleep(std::optional<TimePoint> until) {
        while (!closing_ && !woken_) {
            if (until && *until <= clock_.now()) break;
            timer_.expires_at(until ? asio::steady_timer::time_point(*until)
                                    : asio::steady_timer::time_point::max());
            boost::system::error_code ignored;
            co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
    }

    void wake() {
        woken_ = true;
        timer_.cancel();
    }

    /// Makes etcd's record ours, if it may be, and learns what is said of it.
    asio::awaitable<Result<void>> synchronise() {
        if (std::exchange(follow_again_, false)) {
            record_watch_.reset();
            status_watch_.reset();
            decision_revision_ = 0;
        }
        MESH_CO_TRY(const std::int64_t lease, co_await lease_.hold(0));
        MESH_CO_TRY(const auto record, co_await look());
        if (record && record->lease == lease && record->value == value_) {
            written_revision_ = record->mod_revision;
            judge();
            co_return Result<void>{};
        }
        const bool ours = record && record->lease == lease;
        if (record && !ours && !may_take_over(*record)) {
            written_revision_ = 0;
            registered_ = true;  // it was not ours at the first look, so it is not to be taken
            tell({State::kRefused, Errc::kConflict,
                  fmt::format("{}: another process has it, under lease {:x}; waiting for its end",
                              key_, record->lease)});
            co_return Result<void>{};
        }
        co_return co_await put(lease, record ? record->mod_revision : 0);
    }

    /// On the condition that nobody has written since.
    asio::awaitable<Result<void>> put(std::int64_t lease, std::int64_t mod_revision) {
        etcd::Compare unchanged;
        unchanged.key = key_;
        unchanged.number = mod_revision;
        etcd::Txn txn;
        txn.compare.push_back(std::move(unchanged));
        txn.success.push_back(etcd::PutOp{key_, value_, lease});
        const auto done = co_await client_.async_txn(std::move(txn));
        if (!done) {
            // Of all that the put names, only the lease can be missing.
            if (done.error().code() == Errc::kNotFound) lease_.drop();
            co_return done.error();
        }
        if (!done->succeeded) {
            wake();
            co_return Result<void>{};
        }
        registered_ = true;
        written_revision_ = done->header.revision;
        log_.info("{}: registered under lease {:x}", key_, lease);
        judge();
        co_return Result<void>{};
    }

    [[nodiscard]] bool may_take_over(const etcd::KeyValue& record) const {
        if (registered_) return false;
        const auto other = model::parse_workload(key_, record.value);
        return other && other->ips == workload_.ips;
    }

    /// @return the record of this name, if there is one
    asio::awaitable<Result<std::optional<etcd::KeyValue>>> look() {
        etcd::Txn txn;
        txn.success.push_back(etcd::GetOp{{key_, {}}});
        txn.success.push_back(etcd::GetOp{{status_key_, {}}});
        auto done = co_await client_.async_txn(std::move(txn));
        if (!done) co_return done.error();
        if (done->results.size() != 2)
            co_return Error(Errc::kCorrupt, "etcd: two answers expected");
        const auto& decisions = done->results[1].kvs;
        take_decision(done->header.revision, decisions.empty() ? "" : decisions.front().value);
        follow(done->header.revision + 1);
        std::optional<etcd::KeyValue> record;
        if (!done->results[0].kvs.empty()) record = std::move(done->results[0].kvs.front());
        co_return record;
    }

    /// @param revision up to which that is the newest
    /// @param value empty = there is none
    void take_decision(std::int64_t revision, std::string_view value) {
        // A watch may be ahead of a look.
        if (revision < decision_revision_) return;
        decision_revision_ = revision;
        decision_.reset();
        if (value.empty()) return;
        auto decision = model::parse_workload_status(status_key_, value);
        if (decision) {
            decision_ = *std::move(decision);
        } else {
            log_.warn("{}", decision.error().detail());
        }
    }

    void follow(std::int64_t revision) {
        if (!record_watch_) {
            record_watch_ = watch(key_, revision, [this](const etcd::WatchEvent& event) {
                const bool ours = event.kind == etcd::WatchEvent::Kind::kPut &&
                                  event.kv.lease == lease_.id() && event.kv.value == value_;
                if (!ours) wake();
            });
        }
        if (!status_watch_) {
            status_watch_ = watch(status_key_, revision, [this](const etcd::WatchEvent& event) {
                const bool put = event.kind == etcd::WatchEvent::Kind::kPut;
                take_decision(event.kv.mod_revision, put ? event.kv.value : "");
                judge();
            });
        }
    }

    std::unique_ptr<etcd::Watch> watch(const std::string& key, std::int64_t revision,
                                       std::function<void(const etcd::WatchEvent&)> on_event) {
        etcd::WatchOptions options;
        options.range.key = key;
        options.start_revision = revision;
        etcd::WatchEvents events;
        events.on_events = [on_event = std::move(on_event)](
                               const etcd::Header&, std::span<const etcd::WatchEvent> news) {
            for (const etcd::WatchEvent& event : news) on_event(event);
        };
        events.on_end = [this](const etcd::WatchEnd&) {
            // Which of the two, and why, is the same to us: all is looked at again.
            follow_again_ = true;
            wake();
        };
        return client_.watch(std::move(options), std::move(events));
    }

    void judge() {
        if (written_revision_ == 0) return;
        if (!decision_ || decision_->revision != written_revision_) {
            tell({State::kPending, Errc::kTimeout, "the cluster's operator has not answered yet"});
        } else if (decision_->accepted) {
            tell({State::kPublished, {}, model::printable(decision_->reason, 1024)});
        } else {
            tell({State::kRefused, Errc::kConflict, model::printable(decision_->reason, 1024)});
        }
    }

    void note_failure(const Error& error) {
        const bool for_good =
            error.code() == Errc::kPermission || error.code() == Errc::kInvalidArgument;
        // As long as the lease holds, what was published is.
        if (!for_good && lease_.id() != 0 && status_.state == State::kPublished) return;
        tell({for_good ? State::kRefused : State::kPending,
              for_good ? Errc::kPermission : Errc::kTimeout,
              fmt::format("{}: {}", key_, error.message())});
    }

    void tell(RegistrationStatus status) {
        if (status == status_) return;
        status_ = std::move(status);
        if (status_.state == State::kRefused) log_.warn("{}", status_.reason);
        if (on_change_) on_change_(status_);
    }

    etcd::Client& client_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    std::function<void(const RegistrationStatus&)> on_change_;
    model::Workload workload_;
    const std::string key_, status_key_;
    std::string value_;
    LeaseHolder lease_;
    asio::steady_timer timer_;
    asio::steady_timer ended_;
    TaskGroup tasks_;
    std::unique_ptr<etcd::Watch> record_watch_, status_watch_;
    std::optional<model::WorkloadStatus> decision_;
    std::int64_t decision_revision_ = 0;
    std::int64_t written_revision_ = 0;  ///< of our record; 0 = there is none
    RegistrationStatus status_;
    std::optional<Result<void>> left_;
    bool registered_ = false;  ///< the name was ours, or seen to be another's
    bool follow_again_ = false;
    bool closing_ = false;
    bool woken_ = false;
};

WorkloadRegistration::WorkloadRegistration(asio::any_io_executor loop, etcd::Client& client,
                                           model::Workload workload, std::chrono::seconds lease_ttl,
                                           const Clock& clock, Rng rng, Logger log,
                                           std::function<void(const RegistrationStatus&)> on_change)
    : impl_(std::make_shared<Impl>(std::move(loop), client, std::move(workload), lease_ttl, clock,
                                   rng, std::move(log), std::move(on_change))) {}
WorkloadRegistration::~WorkloadRegistration() = default;

void WorkloadRegistration::start() {
    impl_->start();
}
void WorkloadRegistration::update(model::Workload workload) {
    impl_->update(std::move(workload));
}
const RegistrationStatus& WorkloadRegistration::status() const noexcept {
    return impl_->status();
}
asio::awaitable<Result<void>> WorkloadRegistration::async_close(Duration bound) {
    return impl_->close(bound);
}
bool WorkloadRegistration::ended() const noexcept {
    return impl_->ended();
}
asio::awaitable<void> WorkloadRegistration::async_stop() {
    return impl_->stop();
}

}  // namespace mesh::publish
