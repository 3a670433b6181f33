#include "serve/etcd/mirror.hpp"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "runtime/backoff.hpp"
#include "runtime/task_group.hpp"

namespace mesh::serve {

namespace asio = boost::asio;

namespace {

store::KeyValue to_record(const etcd::KeyValueView& kv, std::uint32_t sub_revision) {
    return store::KeyValue::make(kv.key, kv.value,
                                 {.create_revision = kv.create_revision,
                                  .mod_revision = kv.mod_revision,
                                  .version = kv.version,
                                  .lease = store::LeaseId{kv.lease},
                                  .sub_revision = sub_revision,
                                  .tombstone = false});
}

}  // namespace

class Mirror::Impl : public std::enable_shared_from_this<Mirror::Impl> {
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
    }

    void start() {
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
        client_.on_connection({});
        tasks_.cancel();
        wake_.cancel();
        co_await tasks_.join();
    }

    void set_on_change(std::function<void()> callback) { on_change_ = std::move(callback); }
    [[nodiscard]] const MirrorStatus& status() const noexcept { return status_; }

  private:
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
        set_stale(true);
    }

    void set_stale(bool stale) {
        if (stale && !status_.stale) {
            status_.stale_since = clock_.now();
            log_.warn("upstream etcd is out of reach, serving revision {} as it is: {}",
                      status_.position.revision, status_.last_failure);
        }
        if (!stale && status_.stale) {
            log_.info("in step with upstream etcd at revision {}", status_.position.revision);
        }
        status_.stale = stale;
        changed();
    }

    static asio::awaitable<void> run(std::shared_ptr<Impl> self) {
        Backoff backoff(self->options_.backoff_first, self->options_.backoff_limit);
        while (!self->stopping_) {
            auto listed = co_await self->list();
            if (self->stopping_) break;
            if (!listed) {
                self->store_.abort_snapshot();
                self->fail(listed.error());
                co_await self->sleep(backoff.next(self->rng_));
                continue;
            }
            const TimePoint begin = self->clock_.now();
            co_await self->follow();
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
        std::optional<etcd::Header> first;
        std::optional<Error> failed;
        auto begin = [&](const etcd::Header& header) {
            if (first) {
                if (header.cluster_id != first->cluster_id && !failed) {
                    failed =
                        Error(Errc::kConflict, "another etcd answered in the middle of a list");
                }
                return;
            }
            first = header;
            same_history_ = status_.serving && !doubted_ &&
                            header.cluster_id == status_.position.cluster_id &&
                            header.revision >= status_.position.revision;
            store_.begin_snapshot(header.revision, same_history_);
        };
        for (const auto& prefix : options_.prefixes) {
            etcd::RangeRequest request;
            request.range = etcd::prefix_range(prefix);
            if (first) request.revision = first->revision;
            auto on_page = [&](const etcd::Header& header,
                               std::span<const etcd::KeyValueView> kvs) {
                begin(header);
                if (failed) return;
                std::vector<store::KeyValue> records;
                records.reserve(kvs.size());
                for (const auto& kv : kvs) records.push_back(to_record(kv, 0));
                if (auto added = store_.add_snapshot_page(records); !added) {
                    failed = added.error().to_error();
                }
            };
            auto header = co_await client_.async_list(std::move(request), on_page);
            if (!header) co_return std::move(header).error();
            begin(*header);
            if (failed) co_return *std::move(failed);
        }
        if (!first) co_return internal("no prefix to mirror");
        if (status_.serving && !same_history_) {
            ++status_.history_changes;
            log_.warn(
                "another etcd answers (cluster id {:x}, revision {}; before {:x}, {}): all "
                "watches are ended, clients list again",
                first->cluster_id, first->revision, status_.position.cluster_id,
                status_.position.revision);
        }
        set_position(*first);
        if (auto committed = store_.commit_snapshot(); !committed) {
            // The list contradicts what we hold (a missed event, a restored backup): the same list
            // would fail for ever. The next one replaces everything and ends all watches.
            doubted_ = true;
            co_return committed.error().to_error();
        }
        doubted_ = false;
        status_.serving = true;
        ++status_.lists;
        changed();
        co_return Result<void>{};
    }

    void set_position(const etcd::Header& header) {
        status_.position = header;
        store_.set_identity({.cluster_id = header.cluster_id, .member_id = header.member_id});
    }

    /// Watches from the listed revision until the watch is over.
    asio::awaitable<void> follow() {
        etcd::WatchOptions options;
        // One watch over the span of all prefixes, as only within one watch revisions are ordered.
        options.range = {options_.prefixes.front(),
                         etcd::prefix_range(options_.prefixes.back()).end};
        options.start_revision = status_.position.revision + 1;
        options.cluster_id = status_.position.cluster_id;
        ended_ = false;
        etcd::WatchEvents events;
        events.on_created = [this](const etcd::Header& header) {
            status_.position.member_id = header.member_id;
            status_.position.raft_term = header.raft_term;
            store_.set_identity({.cluster_id = header.cluster_id, .member_id = header.member_id});
            set_stale(false);
        };
        events.on_events = [this](const etcd::Header&, std::span<const etcd::WatchEvent> batch) {
            take(batch);
        };
        events.on_progress = [this](const etcd::Header& header) {
            if (ended_ || header.revision <= status_.position.revision) return;
            if (auto applied = store_.apply_upstream(header.revision, {}); !applied) {
                return end(applied.error().to_error());
            }
            status_.position.revision = header.revision;
            changed();
        };
        events.on_lost = [this](const Error& reason) { fail(reason); };
        events.on_end = [this](const etcd::WatchEnd& why) {
            end(why.reason == etcd::WatchEnd::Reason::kCompacted
                    ? Error(Errc::kCompacted, "the upstream compacted what we had not seen yet")
                    : why.error);
        };
        watch_ = client_.watch(std::move(options), std::move(events));
        while (!ended_ && !stopping_) {
            wake_.expires_at(asio::steady_timer::time_point::max());
            boost::system::error_code ignored;
            co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
        watch_.reset();
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
        status_.position.revision = revision;
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
    bool same_history_ = false;
    bool doubted_ = false;  // the last list did not fit our history
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

}  // namespace mesh::serve
