#include "sources/etcd/prefix_watcher.hpp"

#include <algorithm>
#include <array>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/unordered/unordered_flat_map.hpp>
#include <functional>
#include <utility>
#include <vector>

#include "runtime/backoff.hpp"
#include "sources/etcd/client_impl.hpp"
#include "sources/etcd/short_key.hpp"

namespace mesh::etcd {

namespace asio = boost::asio;
using State = PrefixWatcherEvents::State;

namespace {
constexpr Duration kFirstRetry = std::chrono::milliseconds(50);
constexpr Duration kLastRetry = std::chrono::minutes(1);
/// Of a list: so that what is made of a page stays small beside it.
constexpr std::size_t kChangesPerBatch = 1'000;
constexpr std::size_t kShownKeyBytes = 512;
constexpr std::size_t kKeyRefusals = 3;

/// What is kept of a key: enough to know whether a listed value is another one, and whether a list
/// saw it.
struct Known {
    std::int64_t mod_revision = 0;
    std::uint32_t value = 0;  // a hash: an etcd that lost its data may have reached the revision
                              // again, and a compaction hides that it did
    std::uint32_t list = 0;   // the last list that had it
};

std::uint32_t hash_of(std::string_view value) {
    return static_cast<std::uint32_t>(std::hash<std::string_view>()(value));
}
}  // namespace

class PrefixWatcher::Impl : public std::enable_shared_from_this<PrefixWatcher::Impl> {
  public:
    Impl(std::shared_ptr<Client::Impl> inside, Client& client, const Clock& clock, Rng rng,
         PrefixWatcherOptions options, PrefixWatcherEvents events)
        : inside_(std::move(inside)),
          client_(client),
          clock_(clock),
          rng_(rng),
          options_(std::move(options)),
          events_(std::move(events)),
          backoff_(kFirstRetry, kLastRetry),
          pause_(inside_->loop_) {}

    void start_list() {
        watch_.reset();
        if (listing_) return;
        listing_ = true;
        inside_->tasks_.spawn(list_until_done(shared_from_this()));
    }

    void stop() {
        stopped_ = true;
        watch_.reset();
        pause_.cancel();
        events_ = {};
    }

    void proceed() {
        if (state_ != State::kHeld) return;
        another_history();
        // From inside on_state the list that was refused is not quite over.
        again_ = listing_;
        start_list();
    }

    State state_ = State::kListing;
    Header position_;
    // Without the prefix.
    boost::unordered_flat_map<ShortKey, Known, ShortKey::Hash, ShortKey::Equal> keys_;

  private:
    static asio::awaitable<void> list_until_done(std::shared_ptr<Impl> self) {
        co_await asio::this_coro::throw_if_cancelled(false);
        while (!self->stopped_ && !self->inside_->stopping_) {
            const bool done = co_await list_once(self);
            if (self->stopped_ || self->inside_->stopping_) break;
            if (std::exchange(self->again_, false)) continue;
            if (done) break;
            self->pause_.expires_after(
                std::chrono::ceil<std::chrono::microseconds>(self->backoff_.next(self->rng_)));
            boost::system::error_code ignored;
            co_await self->pause_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
        self->listing_ = false;
        if (!self->stopped_ && self->start_watch_) self->start_watch();
    }

    /// @return false to try again after a pause
    static asio::awaitable<bool> list_once(std::shared_ptr<Impl> self) {
        self->start_watch_ = false;
        self->change_state(State::kListing, nullptr);
        if (self->stopped_) co_return true;
        ++self->list_;
        self->list_refused_ = false;
        self->newest_key_.clear();
        self->newest_revision_ = 0;
        self->listed_ = 0;
        RangeRequest request;
        request.range = prefix_range(self->options_.prefix);
        PageCallback page = [self](const Header& header, std::span<const KeyValueView> kvs) {
            self->on_page(header, kvs);
        };
        ListBounds bounds;
        bounds.max_keys = self->options_.max_keys;
        bounds.max_bytes = self->options_.max_list_bytes;
        const Result<Listed> outcome =
            co_await self->client_.async_list_within(std::move(request), std::move(page), bounds);
        if (self->stopped_) co_return true;
        if (self->list_refused_) {
            const Error why(Errc::kCompacted, "another etcd answers");
            self->change_state(State::kHeld, &why);
            co_return true;
        }
        if (!outcome) {
            const Error& why = outcome.error();
            const bool refused = why.code() == Errc::kPermission || why.code() == Errc::kCorrupt;
            self->change_state(refused ? State::kRefused : State::kLost, &why);
            co_return false;
        }
        if (outcome->left != 0) {
            self->refuse(KeyRefusal::kTooMany, self->options_.prefix, outcome->left);
            self->report_refused();
        }
        if (self->stopped_) co_return true;
        self->finish_list(outcome->header);
        co_return true;
    }

    void on_page(const Header& header, std::span<const KeyValueView> kvs) {
        if (stopped_ || list_refused_) return;
        // The client uses no server that is only behind, so a lower revision is another history's.
        const bool known = position_.cluster_id != 0;
        if (known &&
            (header.cluster_id != position_.cluster_id || header.revision < position_.revision)) {
            if (options_.hold_on_history_change) {
                list_refused_ = true;
                return;
            }
            another_history();
        }
        position_.cluster_id = header.cluster_id;
        changes_.clear();
        for (const KeyValueView& kv : kvs) {
            if (changes_.size() == kChangesPerBatch) {
                emit(header, true);
                if (stopped_) return;
                changes_.clear();
            }
            if (!is_ours(kv.key)) continue;
            if (kv.mod_revision > newest_revision_) {
                newest_revision_ = kv.mod_revision;
                newest_key_ = kv.key;
            }
            const std::string_view suffix = kv.key.substr(options_.prefix.size());
            const auto found = keys_.find(suffix);
            const bool fresh = found == keys_.end();
            const bool counted = !fresh && found->second.list == list_;
            // What an earlier list found goes if this one has no room for it.
            if (!counted && listed_ >= options_.max_keys) {
                refuse(KeyRefusal::kTooMany, kv.key);
                continue;
            }
            if (!counted) ++listed_;
            const Known before = fresh ? Known{} : found->second;
            const Known now{kv.mod_revision, hash_of(kv.value), list_};
            const bool comparable = !fresh && before.list >= first_list_of_history_;
            const bool same =
                comparable && before.mod_revision == now.mod_revision && before.value == now.value;
            if (fresh) {
                keys_.emplace(ShortKey(suffix), now);
            } else {
                found->second = now;
            }
            if (!same) changes_.push_back({Change::Kind::kPut, kv, false});
        }
        emit(header, true);
        report_refused();
    }

    /// @return whether it was known
    bool forget(std::string_view suffix) {
        const auto at = keys_.find(suffix);
        if (at == keys_.end()) return false;
        keys_.erase(at);
        return true;
    }

    /// Nothing that the server answers is taken for a key of ours unseen.
    bool is_ours(std::string_view key) {
        const bool below = key.starts_with(options_.prefix);
        if (below && key.size() <= options_.max_key_bytes) return true;
        refuse(below ? KeyRefusal::kTooLong : KeyRefusal::kOutside, key);
        return false;
    }

    void refuse(KeyRefusal reason, std::string_view key, std::uint64_t count = 1) {
        auto& refused = refused_[static_cast<std::size_t>(reason)];
        refused.count += count;
        refused.last = key.substr(0, kShownKeyBytes);
    }

    void report_refused() {
        for (std::size_t i = 0; i < kKeyRefusals; ++i) {
            const Refused refused = std::exchange(refused_[i], {});
            if (refused.count == 0 || stopped_ || !events_.on_refused) continue;
            const auto callback = events_.on_refused;
            callback({static_cast<KeyRefusal>(i), refused.count, refused.last});
        }
    }

    void finish_list(const Header& header) {
        std::vector<std::string> gone;
        for (const auto& [suffix, known] : keys_) {
            if (known.list != list_) {
                gone.push_back(std::string(options_.prefix).append(suffix.view()));
            }
        }
        std::sort(gone.begin(), gone.end());
        for (std::size_t at = 0; at < gone.size() && !stopped_; at += kChangesPerBatch) {
            changes_.clear();
            for (std::size_t i = at; i < std::min(gone.size(), at + kChangesPerBatch); ++i) {
                forget(std::string_view(gone[i]).substr(options_.prefix.size()));
                Change& change = changes_.emplace_back();
                change.kind = Change::Kind::kDelete;
                change.kv.key = gone[i];
                change.kv.mod_revision = header.revision;
                change.synthetic = true;
            }
            emit(header, true);
        }
        if (stopped_) return;
        std::vector<Change>().swap(changes_);
        position_ = header;
        backoff_.reset();
        start_watch_ = true;
        if (events_.on_list_done) {
            const auto callback = events_.on_list_done;
            callback(header);
        }
    }

    void start_watch() {
        start_watch_ = false;
        WatchOptions o;
        o.range = prefix_range(options_.prefix);
        o.start_revision = position_.revision + 1;
        o.cluster_id = position_.cluster_id;
        o.known_key = newest_key_;
        o.known_revision = newest_revision_;
        WatchEvents e;
        // The handle dies with this object, and the callbacks with the handle.
        e.on_created = [this](const Header&) { change_state(State::kWatching, nullptr); };
        e.on_events = [this](const Header& header, std::span<const WatchEvent> events) {
            on_events(header, events);
        };
        e.on_progress = [this](const Header& header) { on_progress(header); };
        e.on_in_step = [this](const Header& header) {
            if (!events_.on_in_step) return;
            const auto callback = events_.on_in_step;
            callback(header);
        };
        e.on_lost = [this](const Error& why) { change_state(State::kLost, &why); };
        e.on_end = [this](const WatchEnd& end) { on_watch_end(end); };
        watch_ = client_.watch(std::move(o), std::move(e));
    }

    void on_events(const Header& header, std::span<const WatchEvent> events) {
        changes_.clear();
        for (const WatchEvent& event : events) {
            if (!is_ours(event.kv.key)) continue;
            const std::string_view suffix = event.kv.key.substr(options_.prefix.size());
            if (event.kind == WatchEvent::Kind::kPut) {
                const bool room = keys_.size() < options_.max_keys;
                if (!room && !keys_.contains(suffix)) {
                    refuse(KeyRefusal::kTooMany, event.kv.key);
                    continue;
                }
                const Known now{event.kv.mod_revision, hash_of(event.kv.value), list_};
                if (const auto at = keys_.find(suffix); at != keys_.end()) {
                    at->second = now;
                } else {
                    keys_.emplace(ShortKey(suffix), now);
                }
                changes_.push_back({Change::Kind::kPut, event.kv, false});
            } else if (forget(suffix)) {
                changes_.push_back({Change::Kind::kDelete, event.kv, false});
            }
        }
        Header at = header;
        at.revision = events.back().kv.mod_revision;
        position_ = at;
        const auto keep = shared_from_this();
        emit(at, false);
        report_refused();
    }

    void on_progress(const Header& header) {
        if (header.revision >= position_.revision) position_ = header;
        if (!events_.on_progress) return;
        const auto callback = events_.on_progress;
        callback(header);
    }

    void on_watch_end(const WatchEnd& end) {
        const auto keep = shared_from_this();
        // Its handle may be destroyed only after this call of its callback.
        const auto over = std::move(watch_);
        if (end.reason == WatchEnd::Reason::kHistoryChanged) {
            if (options_.hold_on_history_change) return change_state(State::kHeld, &end.error);
            another_history();
        } else if (end.reason == WatchEnd::Reason::kRefused) {
            change_state(State::kRefused, &end.error);
            return retry_later();
        }
        if (!stopped_) start_list();
    }

    void retry_later() {
        if (stopped_) return;
        pause_.expires_after(std::chrono::ceil<std::chrono::microseconds>(backoff_.next(rng_)));
        pause_.async_wait([self = shared_from_this()](const boost::system::error_code& ec) {
            if (!ec && !self->stopped_) self->start_list();
        });
    }

    /// What is known came from another etcd: its revisions can be compared with nothing any more.
    void another_history() {
        first_list_of_history_ = ++list_;
        listed_ = 0;
        position_ = {};
    }

    void emit(const Header& header, bool from_list) {
        if (changes_.empty() || !events_.on_batch) return;
        const auto callback = events_.on_batch;
        callback({header, from_list, changes_});
    }

    void change_state(State state, const Error* reason) {
        if (stopped_ || (state_ == state && told_)) return;
        state_ = state;
        told_ = true;
        if (!events_.on_state) return;
        const auto callback = events_.on_state;
        callback(state, reason);
    }

    std::shared_ptr<Client::Impl> inside_;
    Client& client_;
    const Clock& clock_;
    Rng rng_;
    PrefixWatcherOptions options_;
    PrefixWatcherEvents events_;
    Backoff backoff_;
    asio::steady_timer pause_;
    std::unique_ptr<Watch> watch_;
    struct Refused {
        std::uint64_t count = 0;
        std::string last;
    };
    std::array<Refused, kKeyRefusals> refused_;
    std::uint64_t listed_ = 0;  // keys of the newest list so far
    std::vector<Change> changes_;
    std::string newest_key_;
    std::int64_t newest_revision_ = 0;
    std::uint32_t list_ = 0;
    std::uint32_t first_list_of_history_ = 0;
    bool listing_ = false;
    bool again_ = false;
    bool list_refused_ = false;
    bool start_watch_ = false;
    bool told_ = false;
    bool stopped_ = false;
};

PrefixWatcher::PrefixWatcher(Client& client, const Clock& clock, Rng rng,
                             PrefixWatcherOptions options, PrefixWatcherEvents events)
    : impl_(std::make_shared<Impl>(client.impl_, client, clock, rng, std::move(options),
                                   std::move(events))) {
    impl_->start_list();
}

PrefixWatcher::~PrefixWatcher() {
    impl_->stop();
}
void PrefixWatcher::relist() {
    impl_->start_list();
}
void PrefixWatcher::proceed() {
    impl_->proceed();
}
State PrefixWatcher::state() const noexcept {
    return impl_->state_;
}
std::size_t PrefixWatcher::keys() const noexcept {
    return impl_->keys_.size();
}
const Header& PrefixWatcher::position() const noexcept {
    return impl_->position_;
}

}  // namespace mesh::etcd
