#include "serve/etcd/mirror.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "base/log_fields.hpp"
#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"
#include "serve/etcd/mirror_list.hpp"
#include "serve/etcd/upstream_question.hpp"

namespace mesh::serve {

namespace asio = boost::asio;

namespace {

/// etcd 3.4 moves a watch that has nothing to catch up with to the living ones within 100 ms, and
/// says nothing of it; a sign of life that was asked for this long after the watch was made, with
/// no event before it, is taken as "nothing to catch up with".
constexpr Duration kSettled = std::chrono::seconds(1);
/// A disk that failed is tried again after this, with all that there is.
constexpr Duration kDiskAgain = std::chrono::minutes(1);

}  // namespace

class Mirror::Impl final : public std::enable_shared_from_this<Mirror::Impl>, private QuestionHost {
  public:
    Impl(asio::any_io_executor loop, etcd::Client& client, store::Store& store, const Clock& clock,
         Rng rng, MirrorOptions options, Logger log)
        : client_(client),
          store_(store),
          clock_(clock),
          rng_(rng),
          options_(std::move(options)),
          log_(std::move(log)),
          tasks_(loop),
          wake_(loop) {
        std::ranges::sort(options_.prefixes);
        status_.stale_since = clock_.now();
        question_ = std::make_shared<UpstreamQuestion>(
            loop, client_, tasks_, static_cast<QuestionHost&>(*this), watched_span());
        reads_ = std::make_shared<ReadBarrierQueue>(
            loop, [this](OnReadMark then) { ask_upstream(std::move(then)); }, options_.read_limit);
    }

    void start() {
        if (store_.mirrors()) take_what_is_kept();
        client_.on_connection([weak = weak_from_this()](const etcd::ConnectionEvent& event) {
            if (auto self = weak.lock()) self->on_connection(event);
        });
        client_.start();
        tasks_.spawn(run(shared_from_this()));
    }

    asio::awaitable<void> async_stop() {
        auto self = shared_from_this();
        stopping_ = true;
        watch_.reset();
        reads_->stop();
        question_->stop();
        client_.on_connection({});
        tasks_.cancel();
        wake_.cancel();
        co_await tasks_.join();
    }

    void set_on_change(std::function<void()> callback) { on_change_ = std::move(callback); }
    [[nodiscard]] const MirrorStatus& status() noexcept {
        status_.durable_revision = store_.backend().durable_revision();
        status_.reads = reads_->stats();
        return status_;
    }
    void read_barrier(OnReadMark then) { reads_->wait(std::move(then)); }

  private:
    // --- QuestionHost
    [[nodiscard]] const etcd::Header& position() const override { return status_.position; }
    [[nodiscard]] store::Revision last_change() const override { return last_change_; }
    [[nodiscard]] bool settled() const override {
        return created_at_ && clock_.now() - *created_at_ >= kSettled;
    }
    void reach(store::Revision revision) override { advance(revision); }

    void ask_upstream(OnReadMark then) {
        if (!in_reach_ || !status_.serving) return then({});
        question_->ask(std::move(then));
    }

    /// Serves what the store has from before a restart, and resumes there.
    void take_what_is_kept() {
        const store::Identity& identity = store_.identity();
        status_.serving = status_.restored = true;
        status_.stale_since = std::min(options_.kept_since.value_or(clock_.now()), clock_.now());
        status_.position = {.cluster_id = identity.cluster_id,
                            .member_id = identity.member_id,
                            .revision = store_.revision(),
                            .raft_term = store_.raft_term()};
        const store::Store::Newest newest = store_.newest();
        if (newest.live) last_change_ = newest.live.mod_revision();
        if (newest.change) {
            newest_key_ = newest.change.key();
            newest_revision_ = newest.change.mod_revision();
            newest_is_deleted_ = newest.change.tombstone();
        }
        log_.info("serving {} keys of etcd cluster {:x} at revision {}, as they were kept",
                  store_.stats().keys, identity.cluster_id, status_.position.revision);
        changed();
    }

    /// The disk is not in the way of a mirror; that it fails is said once, and it is tried again.
    void look_after_disk() {
        const auto& failure = store_.backend_failure();
        if (!failure) return disk_failed_at_.reset();
        if (!disk_failed_at_) {
            log_.error("what is mirrored is not kept up to date on disk: {}",
                       failure->to_error().message());
        } else if (clock_.now() - *disk_failed_at_ >= kDiskAgain) {
            store_.rewrite_backend();
        } else {
            return;
        }
        disk_failed_at_ = clock_.now();
    }

    void changed() const {
        if (on_change_) on_change_();
    }
    void on_connection(const etcd::ConnectionEvent& event) {
        if (event.state == etcd::ConnectionEvent::State::kConnected) {
            status_.endpoint = event.endpoint;
            return;
        }
        status_.endpoint.clear();
        fail(event.reason);
    }

    void fail(const Error& reason) {
        ++status_.failures;
        status_.last_failure = reason.message();
        in_reach_ = false;
        question_->lost();
        set_stale(true);
    }

    void set_stale(bool stale) {
        const LogFields fields({{"revision", std::to_string(status_.position.revision)},
                                {"endpoint", status_.endpoint}});
        if (stale && !status_.stale) {
            // Not the time at which the loss was noticed, which may be a keepalive later.
            status_.stale_since = std::max(client_.last_heard(), status_.stale_since);
            log_.warn("upstream etcd is out of reach, serving revision {} as it is: {}",
                      status_.position.revision, status_.last_failure);
        }
        if (!stale && status_.stale) {
            log_.info("in step with upstream etcd at revision {}", status_.position.revision);
        }
        status_.stale = stale;
        if (!stale) in_reach_ = true;
        changed();
    }

    static asio::awaitable<void> run(std::shared_ptr<Impl> self) {
        // It looks at stopping_ itself; another await after the cancellation must not throw.
        co_await asio::this_coro::throw_if_cancelled(false);
        Backoff backoff(self->options_.backoff_first, self->options_.backoff_limit);
        bool resume = self->status_.restored;
        while (!self->stopping_) {
            auto listed = Result<void>{};
            if (!std::exchange(resume, false)) listed = co_await self->list();
            if (self->stopping_) break;
            if (!listed) {
                self->store_.abort_snapshot();
                self->fail(listed.error());
                co_await self->sleep(backoff.next(self->rng_));
                continue;
            }
            const TimePoint begin = self->clock_.now();
            co_await self->follow();
            if (self->stopping_) break;
            // A watch that ends at once, again and again, must not turn into a storm of lists.
            if (self->clock_.now() - begin < std::chrono::seconds(1)) {
                co_await self->sleep(backoff.next(self->rng_));
            } else {
                backoff.reset();
            }
        }
    }

    asio::awaitable<void> sleep(Duration time) {
        wake_.expires_after(std::chrono::duration_cast<asio::steady_timer::duration>(time));
        boost::system::error_code ignored;
        co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }

    /// All prefixes at one revision into the store.
    asio::awaitable<Result<void>> list() {
        MirrorListOptions wanted;
        wanted.prefixes = options_.prefixes;
        wanted.same_history = [this](const etcd::Header& header) {
            same_history_ = status_.serving && !doubted_ &&
                            header.cluster_id == status_.position.cluster_id &&
                            header.revision >= status_.position.revision;
            return same_history_;
        };
        wanted.stopped = [this] { return stopping_; };
        auto found = co_await list_upstream(client_, store_, std::move(wanted));
        if (!found) co_return std::move(found).error();
        const etcd::Header& header = found->header;
        if (status_.serving && !same_history_) {
            ++status_.history_changes;
            log_.warn(
                "another etcd answers (cluster id {:x}, revision {}; before {:x}, {}): all "
                "watches are ended, clients list again",
                header.cluster_id, header.revision, status_.position.cluster_id,
                status_.position.revision);
        }
        newest_key_ = std::move(found->newest_key);
        newest_revision_ = last_change_ = found->newest_revision;
        newest_is_deleted_ = false;
        status_.restored = false;
        status_.position = header;
        tell_identity();
        if (auto committed = store_.commit_snapshot(); !committed) {
            // The list contradicts what we hold (a missed event, a restored backup): the same list
            // would fail for ever. The next one replaces everything and ends all watches.
            doubted_ = true;
            co_return committed.error().to_error();
        }
        doubted_ = false;
        status_.serving = true;
        ++status_.lists;
        question_->moved(false);
        changed();
        co_return Result<void>{};
    }

    void tell_identity() {
        const etcd::Header& at = status_.position;
        store_.set_identity({.cluster_id = at.cluster_id, .member_id = at.member_id}, at.raft_term);
    }

    /// One watch over the span of all prefixes, as only within one watch revisions are ordered.
    [[nodiscard]] etcd::KeyRange watched_span() const {
        return {options_.prefixes.front(), etcd::prefix_range(options_.prefixes.back()).end};
    }

    /// Watches from the listed revision until the watch is over.
    asio::awaitable<void> follow() {
        etcd::WatchOptions options;
        options.range = watched_span();
        options.start_revision = status_.position.revision + 1;
        options.cluster_id = status_.position.cluster_id;
        options.known_key = newest_key_;
        options.known_revision = newest_revision_;
        options.known_is_delete = newest_is_deleted_;
        ended_ = false;
        resumed_ = status_.restored;
        created_at_.reset();
        watch_ = client_.watch(std::move(options), watch_events());
        while (!ended_ && !stopping_) {
            co_await sleep(status_.stale ? std::min(kSettled, options_.ask_interval)
                                         : options_.ask_interval);
            if (ended_ || stopping_) break;
            look_after_disk();
            ask();
        }
        watch_.reset();
    }

    etcd::WatchEvents watch_events() {
        etcd::WatchEvents events;
        events.on_created = [this](const etcd::Header& header) { on_created(header); };
        events.on_events = [this](const etcd::Header&, std::span<const etcd::WatchEvent> batch) {
            take(batch);
        };
        events.on_progress = [this](const etcd::Header& header) { on_progress(header); };
        events.on_in_step = [this](const etcd::Header& header) { question_->on_in_step(header); };
        events.on_lost = [this](const Error& reason) {
            created_at_.reset();
            fail(reason);
        };
        events.on_end = [this](const etcd::WatchEnd& why) {
            using Reason = etcd::WatchEnd::Reason;
            // Ids and revision may be those of before: what the list finds is to replace all.
            if (why.reason == Reason::kHistoryChanged) doubted_ = true;
            end(why.reason == Reason::kCompacted
                    ? Error(Errc::kCompacted, "the upstream compacted what we had not seen yet")
                    : why.error);
        };
        return events;
    }

    void on_created(const etcd::Header& header) {
        status_.position.member_id = header.member_id;
        status_.position.raft_term = header.raft_term;
        tell_identity();
        if (std::exchange(resumed_, true) && newest_key_.empty()) {
            // Cheap, since there was nothing; and keys may be there that no event will tell of.
            return end(unavailable("no key was seen that proves the history to be the same one"));
        }
        created_at_ = clock_.now();
        in_reach_ = true;
        asked_settled_ = false;
        // What the upstream has by now and we may have missed comes as events, from now on.
        target_ = header.revision;
        check_in_step();
        changed();
    }

    void on_progress(const etcd::Header& header) {
        if (ended_) return;
        advance(header.revision);
        if (asked_settled_) target_ = 0;
        check_in_step();
    }

    /// Nothing is to come up to a revision.
    void advance(store::Revision revision) {
        if (ended_ || revision <= status_.position.revision) return;
        if (auto applied = store_.apply_upstream(revision, {}); !applied) {
            return end(applied.error().to_error());
        }
        status_.position.revision = revision;
        check_in_step();
        question_->moved(false);
        changed();
    }

    /// Not stale any more once the watch has reached what the upstream had when it was made.
    void check_in_step() {
        if (status_.stale && created_at_ && status_.position.revision >= target_) set_stale(false);
    }

    /// Asks for a sign of life, and doubts an upstream that gave none.
    void ask() {
        const TimePoint now = clock_.now();
        if (!created_at_) return;
        if (!status_.stale && now - client_.last_heard() > options_.silence_limit) {
            fail(unavailable(fmt::format("nothing was heard from the upstream for {} s",
                                         options_.silence_limit / std::chrono::seconds(1))));
        }
        if (now - *created_at_ >= kSettled) asked_settled_ = true;
        client_.request_progress();
    }

    void take(std::span<const etcd::WatchEvent> batch) {
        if (ended_ || batch.empty()) return;
        std::vector<store::KeyValue> records;
        records.reserve(batch.size());
        std::int64_t revision = 0;
        std::uint32_t sub_revision = 0;
        for (const auto& event : batch) {
            sub_revision = event.kv.mod_revision == revision ? sub_revision + 1 : 0;
            revision = event.kv.mod_revision;
            if (!mirrored(event.kv.key)) continue;
            records.push_back(
                event.kind == etcd::WatchEvent::Kind::kPut
                    ? to_record(event.kv, sub_revision)
                    : store::KeyValue::make_tombstone(event.kv.key, revision, sub_revision));
        }
        if (auto applied = store_.apply_upstream(revision, records); !applied) {
            return end(applied.error().to_error());
        }
        status_.events += records.size();
        if (newest_key_.empty()) newest_key_ = batch.back().kv.key;
        last_change_ = revision;
        status_.position.revision = std::max(status_.position.revision, revision);
        asked_settled_ = false;
        check_in_step();
        question_->moved(true);
        changed();
    }

    [[nodiscard]] bool mirrored(std::string_view key) const {
        return std::ranges::any_of(
            options_.prefixes, [&](const std::string& prefix) { return key.starts_with(prefix); });
    }

    void end(const Error& reason) {
        ended_ = true;
        fail(reason);
        wake_.cancel();
    }

    etcd::Client& client_;
    store::Store& store_;
    const Clock& clock_;
    Rng rng_;
    MirrorOptions options_;
    Logger log_;
    TaskGroup tasks_;
    asio::steady_timer wake_;
    std::unique_ptr<etcd::Watch> watch_;
    MirrorStatus status_;
    std::function<void()> on_change_;
    std::string newest_key_;  // of the last list: what proves that a history is the same one
    std::int64_t newest_revision_ = 0;
    bool newest_is_deleted_ = false;
    std::int64_t last_change_ = 0;  // of the watched span, that was told; 0: none
    std::shared_ptr<UpstreamQuestion> question_;
    std::shared_ptr<ReadBarrierQueue> reads_;
    std::optional<TimePoint> disk_failed_at_;
    std::optional<TimePoint> created_at_;  // the watch's, on the connection of now
    std::int64_t target_ = 0;              // the revision that it has to reach to be in step
    bool asked_settled_ = false;           // for a sign of life, and no event since
    bool in_reach_ = true;                 // the upstream, as far as is known
    bool same_history_ = false;
    bool doubted_ = false;  // what we hold and the upstream has do not fit one history
    bool resumed_ = false;  // the watch was made once already
    bool ended_ = false;
    bool stopping_ = false;
};

Mirror::Mirror(asio::any_io_executor loop, etcd::Client& client, store::Store& store,
               const Clock& clock, Rng rng, MirrorOptions options, Logger log)
    : impl_(std::make_shared<Impl>(std::move(loop), client, store, clock, rng, std::move(options),
                                   std::move(log))) {}
Mirror::~Mirror() = default;
void Mirror::on_change(std::function<void()> callback) {
    impl_->set_on_change(std::move(callback));
}
void Mirror::start() {
    impl_->start();
}
asio::awaitable<void> Mirror::async_stop() {
    return impl_->async_stop();
}
const MirrorStatus& Mirror::status() const noexcept {
    return impl_->status();
}
void Mirror::read_barrier(OnReadMark then) {
    impl_->read_barrier(std::move(then));
}

}  // namespace mesh::serve
