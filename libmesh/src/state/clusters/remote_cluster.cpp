#include "state/clusters/remote_cluster.hpp"

#include <fmt/format.h>

#include <array>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <utility>

#include "model/keys.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"
#include "sources/etcd/prefix_watcher.hpp"

namespace mesh::state {

namespace asio = boost::asio;

namespace {

/// After a defect: the cluster is read anew, but not in a loop that burns the processor.
constexpr Duration kAfterDefect = std::chrono::seconds(5);

/// To be kept in a variable before it is awaited: g++ 12 copies braced temporaries within a
/// co_await byte by byte, and frees their strings twice.
etcd::RangeRequest one_key(std::string key) {
    etcd::RangeRequest request;
    request.range.key = std::move(key);
    request.limit = 1;
    return request;
}

}  // namespace

/// One client with its watches.
struct Epoch {
    std::uint64_t number = 0;
    std::unique_ptr<etcd::Client> client;
    std::array<std::unique_ptr<etcd::PrefixWatcher>, kSlots> watchers;
    /// Watchers that were ended from inside a callback of their own, to be destroyed later.
    std::vector<std::unique_ptr<etcd::PrefixWatcher>> ended;
    std::array<std::uint64_t, kSlots> serials{};
};

class RemoteCluster::Impl : public std::enable_shared_from_this<RemoteCluster::Impl> {
  public:
    Impl(asio::any_io_executor executor, SessionOptions options, IdRegistry& ids,
         const Clock& clock, Rng rng, Logger log, ClusterEvents events)
        : executor_(executor),
          options_(std::move(options)),
          ids_(ids),
          clock_(clock),
          rng_(rng),
          log_(std::move(log)),
          events_(std::move(events)),
          timer_(executor),
          tasks_(executor, [this](std::string_view what) { on_defect(what); }) {
        make_session();
    }

    void configure(sources::config::RemoteConfig config);
    void remove();
    asio::awaitable<void> stop();
    /// An id that is held may turn out to be another's.
    void follow_claims();
    [[nodiscard]] SessionStatus status() const { return session_->status(clock_.now()); }

  private:
    void make_session() { session_ = std::make_unique<Session>(options_, ids_, rng_.next(), log_); }
    /// Runs an event and what follows from it. Whatever is thrown in there ends here: it costs this
    /// cluster its state, and the others nothing.
    template <class Event>
    void run(Event&& event);
    void perform();
    void perform(Action&& action);
    void arm();
    void on_time();
    void recover(std::string_view what);
    /// Something was thrown outside run().
    void on_defect(std::string_view what) {
        if (stopped_) return;
        recover(what);
        arm();
    }

    void start_client(Connect&& connect);
    void close(std::uint64_t number);
    void start_watch(const Watch& watch);
    void end_watch(Slot slot);
    void on_connection(const etcd::ConnectionEvent& event);
    void on_state(std::uint64_t number, Slot slot, etcd::PrefixWatcherEvents::State state,
                  const Error* reason);
    void on_batch(std::uint64_t number, Slot slot, const etcd::Batch& batch);
    asio::awaitable<void> get_config(std::shared_ptr<Epoch> epoch, std::string key);
    asio::awaitable<void> probe(std::shared_ptr<Epoch> epoch);
    asio::awaitable<void> end_client(std::shared_ptr<Epoch> epoch);

    asio::any_io_executor executor_;
    SessionOptions options_;
    IdRegistry& ids_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    ClusterEvents events_;
    std::unique_ptr<Session> session_;
    std::optional<sources::config::RemoteConfig> config_;
    std::shared_ptr<Epoch> epoch_;
    asio::steady_timer timer_;
    std::uint64_t timer_serial_ = 0;
    std::optional<TimePoint> restart_at_;  ///< after a defect
    std::vector<Incoming> incoming_;
    bool stopped_ = false;
    bool performing_ = false;
    TaskGroup tasks_;
};

// --- events and actions -----------------------------------------------------------------------

template <class Event>
void RemoteCluster::Impl::run(Event&& event) {
    if (stopped_) return;
    try {
        event();
        perform();
    } catch (const std::exception& e) {
        recover(e.what());
    } catch (...) {
        recover("unknown exception");
    }
    arm();
}

void RemoteCluster::Impl::perform() {
    // An action may bring about an event (a client that cannot be made): its actions follow here.
    if (std::exchange(performing_, true)) return;
    struct Reset {
        bool& flag;
        ~Reset() { flag = false; }
    } reset{performing_};
    for (auto actions = session_->take_actions(); !actions.empty();
         actions = session_->take_actions()) {
        for (Action& action : actions) perform(std::move(action));
    }
}

void RemoteCluster::Impl::perform(Action&& action) {
    struct Visitor {
        Impl& self;
        void operator()(Connect&& a) const { self.start_client(std::move(a)); }
        void operator()(Close&& a) const { self.close(a.epoch); }
        void operator()(GetConfig&& a) const {
            if (self.epoch_ && self.epoch_->number == a.epoch) {
                self.tasks_.spawn(self.get_config(self.epoch_, std::move(a.key)));
            }
        }
        void operator()(Watch&& a) const {
            if (self.epoch_ && self.epoch_->number == a.epoch) self.start_watch(a);
        }
        void operator()(Unwatch&& a) const {
            if (self.epoch_ && self.epoch_->number == a.epoch) self.end_watch(a.slot);
        }
        void operator()(Relist&& a) const {
            if (!self.epoch_ || self.epoch_->number != a.epoch) return;
            if (auto& watcher = self.epoch_->watchers[index(a.slot)]) watcher->relist();
        }
        void operator()(Probe&& a) const {
            if (self.epoch_ && self.epoch_->number == a.epoch) {
                self.tasks_.spawn(self.probe(self.epoch_));
            }
        }
        void operator()(Emit&& a) const {
            if (self.events_.on_batch) self.events_.on_batch(std::move(a.batch));
        }
        void operator()(StateChanged&& a) const {
            if (self.events_.on_state) self.events_.on_state(self.options_.cluster, a.state);
        }
        void operator()(Finished&&) const {
            if (self.events_.on_finished) self.events_.on_finished(self.options_.cluster);
        }
    };
    std::visit([this](auto&& a) { Visitor{*this}(std::move(a)); }, std::move(action));
}

void RemoteCluster::Impl::recover(std::string_view what) {
    log_.error("remote cluster {}: defect: {}; it is read anew from nothing", options_.cluster,
               what);
    if (epoch_) close(epoch_->number);
    ids_.release(options_.cluster);
    make_session();
    if (events_.on_reset) events_.on_reset(options_.cluster);
    if (config_) restart_at_ = clock_.now() + kAfterDefect;
}

void RemoteCluster::Impl::follow_claims() {
    ids_.on_claimed(options_.cluster, [weak = weak_from_this()] {
        const auto self = weak.lock();
        if (!self) return;
        asio::post(self->executor_, [self] { self->run([&] { self->on_time(); }); });
    });
}

void RemoteCluster::Impl::on_time() {
    const TimePoint now = clock_.now();
    if (restart_at_ && *restart_at_ <= now) {
        restart_at_.reset();
        if (config_) session_->configure(now, *config_);
    }
    session_->tick(now);
}

void RemoteCluster::Impl::arm() {
    auto at = session_->deadline();
    if (restart_at_ && (!at || *restart_at_ < *at)) at = restart_at_;
    if (stopped_) at.reset();
    ++timer_serial_;
    if (!at) {
        timer_.cancel();
        return;
    }
    timer_.expires_after(std::max(Duration(0), *at - clock_.now()));
    timer_.async_wait(
        [weak = weak_from_this(), serial = timer_serial_](const boost::system::error_code& ec) {
            const auto self = weak.lock();
            if (ec || !self || self->timer_serial_ != serial) return;
            self->run([&] { self->on_time(); });
        });
}

void RemoteCluster::Impl::configure(sources::config::RemoteConfig config) {
    config_ = config;
    // From the executor, as promised: nothing is reported from inside a method.
    asio::post(executor_, [self = shared_from_this(), config = std::move(config)]() mutable {
        self->restart_at_.reset();
        self->run([&] { self->session_->configure(self->clock_.now(), std::move(config)); });
    });
}

void RemoteCluster::Impl::remove() {
    config_.reset();
    asio::post(executor_, [self = shared_from_this()] {
        self->run([&] { self->session_->remove(self->clock_.now()); });
    });
}

asio::awaitable<void> RemoteCluster::Impl::stop() {
    const auto self = shared_from_this();
    run([&] { session_->stop(clock_.now()); });
    stopped_ = true;
    arm();
    if (epoch_) close(epoch_->number);
    // Not cancelled: each of the tasks ends soon, once its client has stopped.
    co_await tasks_.join();
}

// --- the client -------------------------------------------------------------------------------

void RemoteCluster::Impl::start_client(Connect&& connect) {
    auto options = sources::config::client_options(connect.etcd);
    options.reached = connect.reached;
    if (connect.answer_bytes) {
        options.max_message_bytes = *connect.answer_bytes;
        options.max_fragmented_bytes = *connect.answer_bytes;
    }
    auto made = etcd::Client::make(executor_, std::move(options), clock_, Rng(rng_.next()), log_);
    if (!made) return session_->client_refused(clock_.now(), connect.epoch, made.error());
    epoch_ = std::make_shared<Epoch>();
    epoch_->number = connect.epoch;
    epoch_->client = *std::move(made);
    epoch_->client->on_connection([weak = weak_from_this(), mine = std::weak_ptr(epoch_)](
                                      const etcd::ConnectionEvent& event) {
        const auto self = weak.lock();
        if (self && self->epoch_ && mine.lock() == self->epoch_) self->on_connection(event);
    });
    epoch_->client->on_defect(
        [weak = weak_from_this(), mine = std::weak_ptr(epoch_)](std::string_view what) {
            const auto self = weak.lock();
            if (self && self->epoch_ && mine.lock() == self->epoch_) self->on_defect(what);
        });
    epoch_->client->start();
}

void RemoteCluster::Impl::close(std::uint64_t number) {
    if (!epoch_ || epoch_->number != number) return;
    tasks_.spawn(end_client(std::exchange(epoch_, nullptr)));
}

asio::awaitable<void> RemoteCluster::Impl::end_client(std::shared_ptr<Epoch> epoch) {
    // This may have been asked for from inside a watcher's callback: let that return first.
    co_await asio::post(executor_, asio::use_awaitable);
    epoch->ended.clear();
    for (auto& watcher : epoch->watchers) watcher.reset();
    co_await epoch->client->async_stop();
    // Requests under way end now; none of them may be the one that destroys the client it waits
    // for.
    while (epoch.use_count() > 1) co_await asio::post(executor_, asio::use_awaitable);
}

void RemoteCluster::Impl::on_connection(const etcd::ConnectionEvent& event) {
    using State = etcd::ConnectionEvent::State;
    const std::uint64_t number = epoch_->number;
    run([&] {
        const TimePoint now = clock_.now();
        switch (event.state) {
            case State::kConnected:
                return session_->connected(now, number, event.header);
            case State::kLost:
                return session_->lost(now, number, event.reason);
            case State::kFailed:
                return session_->connect_failed(now, number,
                                                event.endpoint.empty()
                                                    ? event.reason
                                                    : event.reason.with_prefix(event.endpoint));
        }
    });
}

asio::awaitable<void> RemoteCluster::Impl::get_config(std::shared_ptr<Epoch> epoch,
                                                      std::string key) {
    ConfigAnswer answer;
    Result<ConfigAnswer> result = answer;
    auto request = one_key(std::move(key));
    auto got = co_await epoch->client->async_range(std::move(request));
    if (!got) {
        result = got.error();
    } else if (!got->kvs.empty()) {
        answer.value = std::move(got->kvs.front().value);
        result = answer;
    }
    if (got && options_.generation == model::Generation::k115) {
        request = one_key(std::string(model::kHasClusterConfigKey));
        const auto marker = co_await epoch->client->async_range(std::move(request));
        answer.required = marker && !marker->kvs.empty();
        result = marker ? Result<ConfigAnswer>(answer) : Result<ConfigAnswer>(marker.error());
    }
    if (epoch != epoch_) co_return;
    run([&] { session_->config_answer(clock_.now(), epoch->number, result); });
}

asio::awaitable<void> RemoteCluster::Impl::probe(std::shared_ptr<Epoch> epoch) {
    auto request = one_key(std::string(model::kHeartbeatKey));
    request.keys_only = true;
    const auto got = co_await epoch->client->async_range(std::move(request));
    // A failure needs no word: the connection tells of it, or the missing heartbeats do.
    if (!got || epoch != epoch_) co_return;
    run([&] { session_->probe_answer(clock_.now(), epoch->number, got->header); });
    // Whether the watches have told as much is another question.
    if (epoch == epoch_) epoch->client->request_progress();
}

// --- watches ----------------------------------------------------------------------------------

void RemoteCluster::Impl::start_watch(const Watch& watch) {
    end_watch(watch.slot);
    const std::size_t i = index(watch.slot);
    const auto guarded = [weak = weak_from_this(), mine = std::weak_ptr(epoch_),
                          serial = ++epoch_->serials[i], i](auto&& call) {
        const auto self = weak.lock();
        // A watcher that was replaced from inside its own callback may still be speaking.
        if (!self || !self->epoch_ || mine.lock() != self->epoch_) return;
        if (self->epoch_->serials[i] == serial) call(*self);
    };
    etcd::PrefixWatcherEvents events;
    events.on_batch = [guarded, number = watch.epoch, slot = watch.slot](const etcd::Batch& batch) {
        guarded([&](Impl& self) { self.on_batch(number, slot, batch); });
    };
    events.on_list_done = [guarded, number = watch.epoch,
                           slot = watch.slot](const etcd::Header& at) {
        guarded([&](Impl& self) {
            self.run([&] { self.session_->list_done(self.clock_.now(), number, slot, at); });
        });
    };
    events.on_progress = [guarded, number = watch.epoch,
                          slot = watch.slot](const etcd::Header& at) {
        guarded([&](Impl& self) {
            self.run([&] { self.session_->progress(self.clock_.now(), number, slot, at); });
        });
    };
    events.on_in_step = [guarded, number = watch.epoch, slot = watch.slot](const etcd::Header& at) {
        guarded([&](Impl& self) {
            self.run([&] { self.session_->in_step(self.clock_.now(), number, slot, at); });
        });
    };
    events.on_refused = [guarded, number = watch.epoch,
                         slot = watch.slot](const etcd::RefusedKeys& keys) {
        guarded([&](Impl& self) {
            self.run([&] { self.session_->keys_refused(self.clock_.now(), number, slot, keys); });
        });
    };
    events.on_state = [guarded, number = watch.epoch, slot = watch.slot](
                          etcd::PrefixWatcherEvents::State state, const Error* reason) {
        guarded([&](Impl& self) { self.on_state(number, slot, state, reason); });
    };
    etcd::PrefixWatcherOptions options;
    options.prefix = watch.prefix;
    options.hold_on_history_change = true;
    options.max_keys = watch.bounds.keys;
    options.max_key_bytes = watch.bounds.key_bytes;
    options.max_list_bytes = watch.bounds.list_bytes;
    epoch_->watchers[i] = std::make_unique<etcd::PrefixWatcher>(
        *epoch_->client, clock_, Rng(rng_.next()), std::move(options), std::move(events));
}

void RemoteCluster::Impl::end_watch(Slot slot) {
    auto& watcher = epoch_->watchers[index(slot)];
    if (!watcher) return;
    ++epoch_->serials[index(slot)];
    epoch_->ended.push_back(std::move(watcher));
    asio::post(executor_, [epoch = epoch_] { epoch->ended.clear(); });
}

void RemoteCluster::Impl::on_batch(std::uint64_t number, Slot slot, const etcd::Batch& batch) {
    run([&] {
        incoming_.clear();
        for (const etcd::Change& change : batch.changes) {
            incoming_.push_back({.key = change.kv.key,
                                 .value = change.kv.value,
                                 .deleted = change.kind == etcd::Change::Kind::kDelete});
        }
        session_->changes(clock_.now(), number, slot, batch.header, batch.from_list, incoming_);
    });
}

void RemoteCluster::Impl::on_state(std::uint64_t number, Slot slot,
                                   etcd::PrefixWatcherEvents::State state, const Error* reason) {
    using State = etcd::PrefixWatcherEvents::State;
    const Error why = reason == nullptr ? unavailable("no reason told") : *reason;
    if (state == State::kHeld) {
        run([&] { session_->history_changed(clock_.now(), number, "another etcd answers"); });
    } else if (state == State::kRefused) {
        run([&] { session_->watch_refused(clock_.now(), number, slot, why); });
    }
}

// --- the handle -------------------------------------------------------------------------------

RemoteCluster::RemoteCluster(asio::any_io_executor executor, SessionOptions options,
                             IdRegistry& ids, const Clock& clock, Rng rng, Logger log,
                             ClusterEvents events)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(options), ids, clock, rng,
                                   std::move(log), std::move(events))) {
    impl_->follow_claims();
}
RemoteCluster::~RemoteCluster() = default;
void RemoteCluster::configure(sources::config::RemoteConfig config) {
    impl_->configure(std::move(config));
}
void RemoteCluster::remove() {
    impl_->remove();
}
asio::awaitable<void> RemoteCluster::stop() {
    return impl_->stop();
}
SessionStatus RemoteCluster::status() const {
    return impl_->status();
}

}  // namespace mesh::state
