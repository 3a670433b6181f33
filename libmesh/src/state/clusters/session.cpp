#include "state/clusters/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "state/clusters/intake.hpp"

namespace mesh::state {

namespace {

/// Small enough for the tables' copies (changes.hpp), large enough to cost nothing per batch.
constexpr std::size_t kBatchChanges = 1000;
/// Failures that repeat are logged this often.
constexpr Duration kLogEvery = std::chrono::minutes(1);
/// Traffic goes away first, then what tells where it came from.
constexpr std::array<Slot, kObjectSlots> kDrainOrder{Slot::kServices,      Slot::kServiceExports,
                                                     Slot::kLocalServices, Slot::kIps,
                                                     Slot::kIdentities,    Slot::kNodes};

constexpr SlotSet kAllSlots{Slot::kServices, Slot::kServiceExports, Slot::kLocalServices,
                            Slot::kIps,      Slot::kIdentities,     Slot::kNodes};

sources::config::RemotePolicy unbounded() {
    sources::config::RemotePolicy policy;
    constexpr auto kNone = std::numeric_limits<std::uint64_t>::max();
    policy.limits = {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone};
    return policy;
}

/// Events per second, with a burst of one second's worth.
class Rate {
  public:
    bool take(TimePoint now, std::uint64_t per_second) {
        const auto limit = static_cast<double>(per_second);
        if (!since_)
            tokens_ = limit;
        else
            tokens_ = std::min(
                limit, tokens_ + limit * std::chrono::duration<double>(now - *since_).count());
        since_ = now;
        if (tokens_ < 1) return false;
        tokens_ -= 1;
        return true;
    }

  private:
    double tokens_ = 0;
    std::optional<TimePoint> since_;
};

}  // namespace

std::string_view to_string(SessionState state) noexcept {
    switch (state) {
        case SessionState::kDisabled:
            return "disabled";
        case SessionState::kConnecting:
            return "connecting";
        case SessionState::kSyncing:
            return "syncing";
        case SessionState::kReady:
            return "ready";
        case SessionState::kStale:
            return "stale";
    }
    return "unknown";
}

class Session::Impl {
  public:
    Impl(SessionOptions options, IdRegistry& ids, std::uint64_t seed, Logger log)
        : options_(std::move(options)),
          ids_(ids),
          log_(log),
          refusals_(options_.cluster, log, options_.on_refused),
          intake_(seed, refusals_),
          key_{options_.cluster, options_.own ? options_.local_id : model::ClusterId{}} {}

    void configure(TimePoint now, sources::config::RemoteConfig config);
    void remove(TimePoint now);
    void stop();
    void client_refused(TimePoint now, const Error& reason);
    void connected(TimePoint now, const etcd::Header& header);
    void connect_failed(TimePoint now, const Error& reason);
    void lost(TimePoint now, const Error& reason);
    void config_answer(TimePoint now, const Result<ConfigAnswer>& answer);
    void changes(TimePoint now, Slot slot, bool from_list, std::span<const Incoming> incoming);
    void list_done(Slot slot);
    void history_changed(TimePoint now, std::string_view what);
    void watch_refused(TimePoint now, Slot slot, const Error& reason);
    void tick(TimePoint now);

    /// True if the answer is from the etcd of this epoch; ends the epoch if it is from another.
    bool accept(TimePoint now, const etcd::Header& header, bool applied);
    [[nodiscard]] bool current(std::uint64_t epoch) const { return running_ && epoch == epoch_; }
    [[nodiscard]] std::optional<TimePoint> deadline() const;
    [[nodiscard]] SessionState state() const;
    [[nodiscard]] SessionStatus status(TimePoint now) const;
    [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
    /// Tells of a changed state; the last thing every event does.
    void settle(TimePoint now);
    std::vector<Action> take() { return std::exchange(actions_, {}); }

  private:
    void begin_epoch(TimePoint now);
    void end_epoch();
    /// Ends the epoch for a reason that counts as a failure; the next begins later and later.
    void fail_epoch(TimePoint now, const std::string& reason);
    void note_failure(TimePoint now, const std::string& reason);
    void request_config();
    void config_failed(TimePoint now, const std::string& reason);
    void accept_config(TimePoint now, const model::ClusterConfig& config, bool legacy);
    [[nodiscard]] model::Connection connection(const model::ClusterConfig& config,
                                               bool legacy) const;
    void start_watches();
    void open(Slot slot);
    void open_what_may();
    void watch(Slot slot);
    void take_objects(TimePoint now, Slot slot, bool from_list, std::span<const Incoming> incoming);
    void take_canaries(std::span<const Incoming> incoming);
    void sweep();
    void drain(SlotSet slots);
    void emit(Changes& changes);
    void drain_as_stale(TimePoint now);
    void check_heartbeat(TimePoint now);
    [[nodiscard]] bool ready() const {
        return running_ && connected_ && config_ok_ && listed_.contains_all(wanted_);
    }
    [[nodiscard]] const sources::config::RemotePolicy& policy() const {
        return options_.own ? unbounded_ : config_->policy;
    }
    /// All that is held is what the remote says now.
    [[nodiscard]] bool fresh() const { return running_ && connected_ && config_ok_ && !holds_old_; }
    [[nodiscard]] bool holds(SlotSet slots) const;
    [[nodiscard]] SlotSet stale_slots() const;
    [[nodiscard]] std::optional<TimePoint> stale_at() const;

    SessionOptions options_;
    IdRegistry& ids_;
    Logger log_;
    Refusals refusals_;
    Intake intake_;
    ClusterKey key_;
    const sources::config::RemotePolicy unbounded_ = unbounded();
    std::optional<sources::config::RemoteConfig> config_;
    std::vector<Action> actions_;

    // The epoch.
    std::uint64_t epoch_ = 0;
    bool running_ = false;
    bool connected_ = false;
    bool config_ok_ = false;  ///< since the connection was made
    bool watches_started_ = false;
    TimePoint epoch_began_{};
    etcd::Header pinned_;
    std::int64_t newest_revision_ = 0;
    bool holds_old_ = false;  ///< entries of an earlier epoch that are not listed again yet
    SlotSet wanted_, watching_, listed_, done_, to_sweep_, canaries_seen_;
    int check_errors_ = 0;

    // What outlives it.
    etcd::Header reached_;  ///< the newest position of what is held; cluster_id 0 = of no use
    std::optional<model::ClusterConfig> remote_;
    bool config_retrieved_ = false, config_required_ = false;
    bool canaries_ = false;
    model::Layout layout_ = model::Layout::kState;
    bool ever_ready_ = false;
    bool drained_as_stale_ = false;
    Rate rate_;
    std::uint64_t failures_ = 0, failures_in_a_row_ = 0;
    std::string last_failure_;
    std::optional<TimePoint> failed_at_, logged_at_;
    std::string logged_failure_;
    std::optional<TimePoint> last_life_, last_heartbeat_, behind_since_, not_fresh_since_;
    SessionState shown_ = SessionState::kDisabled;
    SlotSet shown_listed_;

    // Timers.
    std::optional<TimePoint> retry_at_, connect_by_, config_at_, config_by_, check_at_, probe_at_;
    Duration config_backoff_{};
    TimePoint heartbeat_base_{};
    std::array<std::optional<TimePoint>, kObjectSlots> rewatch_at_;
};

void Session::Impl::configure(TimePoint now, sources::config::RemoteConfig config) {
    if (running_)
        log_.info("remote cluster {}: configuration changed, connecting anew", options_.cluster);
    end_epoch();
    config_ = std::move(config);
    failures_in_a_row_ = 0;
    begin_epoch(now);
}

void Session::Impl::remove(TimePoint) {
    end_epoch();
    drain(kAllSlots);
    ids_.release(options_.cluster);
    reached_ = {};
    retry_at_.reset();
    config_.reset();
    ever_ready_ = false;
    actions_.emplace_back(Finished{});
}

void Session::Impl::stop() {
    end_epoch();
    retry_at_.reset();
    config_.reset();
}

void Session::Impl::begin_epoch(TimePoint now) {
    ++epoch_;
    running_ = true;
    connected_ = config_ok_ = watches_started_ = false;
    epoch_began_ = now;
    pinned_ = {};
    newest_revision_ = 0;
    holds_old_ = holds(kAllSlots);
    wanted_ = options_.slots;
    for (SlotSet* set : {&watching_, &listed_, &done_, &to_sweep_, &canaries_seen_}) set->clear();
    check_errors_ = 0;
    retry_at_.reset();
    connect_by_ = now + options_.times.connect_limit;
    if (!holds_old_) reached_ = {};
    actions_.emplace_back(Connect{epoch_, config_->etcd, reached_});
}

void Session::Impl::end_epoch() {
    const bool further =
        pinned_.cluster_id != reached_.cluster_id || pinned_.revision > reached_.revision;
    if (pinned_.revision != 0 && further) reached_ = pinned_;
    if (running_) actions_.emplace_back(Close{epoch_});
    running_ = connected_ = config_ok_ = false;
    for (auto* timer : {&connect_by_, &config_at_, &config_by_, &check_at_, &probe_at_})
        timer->reset();
    for (auto& timer : rewatch_at_) timer.reset();
}

void Session::Impl::note_failure(TimePoint now, const std::string& reason) {
    ++failures_;
    last_failure_ = reason;
    failed_at_ = now;
    if (logged_at_ && logged_failure_ == reason && now - *logged_at_ < kLogEvery) return;
    logged_at_ = now;
    logged_failure_ = reason;
    log_.warn("remote cluster {}: {}", options_.cluster, reason);
}

void Session::Impl::fail_epoch(TimePoint now, const std::string& reason) {
    note_failure(now, reason);
    ++failures_in_a_row_;
    end_epoch();
    retry_at_ = now + options_.times.retry_step * static_cast<Duration::rep>(failures_in_a_row_);
}

void Session::Impl::client_refused(TimePoint now, const Error& reason) {
    note_failure(now, reason.detail());
    ++failures_in_a_row_;
    end_epoch();
    retry_at_ = now + options_.times.client_retry;
}

void Session::Impl::connect_failed(TimePoint now, const Error& reason) {
    note_failure(now, "connection failed: " + reason.detail());
    ++failures_in_a_row_;
}

void Session::Impl::lost(TimePoint now, const Error& reason) {
    if (!connected_) return;
    note_failure(now, "connection lost: " + reason.detail());
    connected_ = config_ok_ = false;
    connect_by_ = now + options_.times.connect_limit;
    for (auto* timer : {&config_at_, &config_by_, &check_at_, &probe_at_}) timer->reset();
}

void Session::Impl::connected(TimePoint now, const etcd::Header& header) {
    const bool again = pinned_.cluster_id != 0;
    // Compared with what was applied: a server that has all of that is good enough.
    if (again && (header.cluster_id != pinned_.cluster_id || header.revision < pinned_.revision)) {
        return history_changed(now, header.cluster_id != pinned_.cluster_id
                                        ? "another etcd cluster id"
                                        : "the etcd's revision went back");
    }
    // The client waited long enough, and the etcd is still there: it is of another history.
    if (header.cluster_id == reached_.cluster_id && header.revision < reached_.revision)
        reached_ = {};
    const bool other_member = again && header.member_id != pinned_.member_id;
    pinned_.cluster_id = header.cluster_id;
    pinned_.member_id = header.member_id;
    connected_ = true;
    last_life_ = heartbeat_base_ = now;
    newest_revision_ = std::max(newest_revision_, header.revision);
    connect_by_.reset();
    check_errors_ = 0;
    check_at_ = now + options_.times.check_fine;
    probe_at_ = now + options_.times.probe;
    if (options_.own) {
        config_ok_ = true;
        if (!watches_started_) {
            intake_.set_remote(connection({}, false), unbounded_);
            start_watches();
        }
    } else if (!watching_.contains(Slot::kHeartbeat)) {
        watch(Slot::kHeartbeat);
    } else if (listed_.contains(Slot::kHeartbeat)) {
        request_config();
    }
    if (!other_member) return;
    // A replica may be an etcd of its own that only looks alike.
    log_.info("remote cluster {}: another member answers, listing again", options_.cluster);
    for (std::size_t i = 0; i < kObjectSlots; ++i) {
        if (watching_.contains(object_slot(i)))
            actions_.emplace_back(Relist{epoch_, object_slot(i)});
    }
}

void Session::Impl::history_changed(TimePoint now, std::string_view what) {
    log_.info("remote cluster {}: {}, listing all again", options_.cluster, what);
    const bool quick = now - epoch_began_ < options_.times.retry_step;
    end_epoch();
    reached_ = {};
    if (quick) {
        // Two etcds behind one name, each answering in turn, must not make us spin.
        retry_at_ = now + options_.times.retry_step;
    } else {
        begin_epoch(now);
    }
}

bool Session::Impl::accept(TimePoint now, const etcd::Header& header, bool applied) {
    last_life_ = now;
    if (pinned_.cluster_id != 0 && header.cluster_id != 0 &&
        header.cluster_id != pinned_.cluster_id) {
        history_changed(now, "another etcd cluster id");
        return false;
    }
    newest_revision_ = std::max(newest_revision_, header.revision);
    if (applied) pinned_.revision = std::max(pinned_.revision, header.revision);
    if (newest_revision_ <= pinned_.revision)
        behind_since_.reset();
    else if (!behind_since_)
        behind_since_ = now;
    return true;
}

// --- cluster-config ---------------------------------------------------------------------------

void Session::Impl::request_config() {
    config_at_.reset();
    actions_.emplace_back(GetConfig{epoch_, model::cluster_config_key(options_.cluster)});
}

void Session::Impl::config_failed(TimePoint now, const std::string& reason) {
    if (!config_by_) {
        config_by_ = now + options_.times.config_limit;
        config_backoff_ = options_.times.config_retry_first;
    }
    if (now >= *config_by_) return fail_epoch(now, reason);
    note_failure(now, reason);
    config_at_ = std::min(now + config_backoff_, *config_by_);
    config_backoff_ = std::min(config_backoff_ * 2, options_.times.config_retry_limit);
}

void Session::Impl::config_answer(TimePoint now, const Result<ConfigAnswer>& answer) {
    if (!connected_ || config_ok_) return;
    const std::string key = model::cluster_config_key(options_.cluster);
    if (!answer) return config_failed(now, key + ": " + answer.error().detail());
    const bool k115 = options_.generation == model::Generation::k115;
    config_required_ = !k115 || answer->required;
    // 1.15's etcd client cannot tell an empty value from none.
    const bool absent = !answer->value || (k115 && answer->value->empty());
    if (absent && config_required_) {
        config_retrieved_ = false;
        return config_failed(now,
                             key + ": expected the cluster's configuration, found no such key");
    }
    if (absent) {
        log_.info("remote cluster {}: no cluster-config; taken for an old cluster",
                  options_.cluster);
        config_retrieved_ = false;
        return accept_config(now, {}, true);
    }
    const auto parsed = model::parse_cluster_config(key, *answer->value);
    if (!parsed) {
        config_retrieved_ = false;
        return config_failed(now, parsed.error().detail());
    }
    config_retrieved_ = true;
    accept_config(now, *parsed, false);
}

model::Connection Session::Impl::connection(const model::ClusterConfig& config, bool legacy) const {
    return {.cluster = options_.cluster,
            .id = options_.own ? options_.local_id : config.id,
            .local_id = options_.local_id,
            .max_clusters = options_.max_clusters,
            .generation = options_.generation,
            .legacy = legacy};
}

void Session::Impl::accept_config(TimePoint now, const model::ClusterConfig& config, bool legacy) {
    const bool again = watches_started_;
    const bool same = again && remote_ == config;
    remote_ = config;
    const auto conn = connection(config, legacy);
    if (!legacy) {
        if (const auto valid = model::validate_cluster_config(conn, config); !valid) {
            return fail_epoch(now, valid.error().detail());
        }
    }
    if (key_.id != config.id && key_.id != model::ClusterId{}) {
        log_.info("remote cluster {}: its id changed from {} to {}, draining", options_.cluster,
                  model::number(key_.id), model::number(config.id));
        drain(kAllSlots);
        holds_old_ = false;
        ids_.release(options_.cluster);
        ever_ready_ = false;
        key_.id = {};
    }
    if (config.id != model::ClusterId{}) {
        if (const auto reserved = ids_.reserve(config.id, options_.cluster); !reserved) {
            return fail_epoch(now, model::cluster_config_key(options_.cluster) +
                                       ": field id: " + reserved.error().detail());
        }
    }
    key_.id = config.id;
    config_at_.reset();
    config_by_.reset();
    config_ok_ = true;
    if (same) return;
    if (again) return history_changed(now, "its cluster-config changed");
    canaries_ = config.synced_canaries;
    layout_ = config.cached ? model::Layout::kCache : model::Layout::kState;
    intake_.set_remote(conn, policy());
    if (!config.service_exports_enabled && wanted_.contains(Slot::kServiceExports)) {
        wanted_.erase(Slot::kServiceExports);
        drain({Slot::kServiceExports});
    }
    start_watches();
}

// --- watches ----------------------------------------------------------------------------------

void Session::Impl::start_watches() {
    watches_started_ = true;
    if (canaries_) watch(Slot::kCanaries);
    open_what_may();
}

void Session::Impl::open_what_may() {
    for (std::size_t i = 0; i < kObjectSlots; ++i) open(object_slot(i));
}

void Session::Impl::open(Slot slot) {
    if (!watches_started_ || !wanted_.contains(slot) || watching_.contains(slot)) return;
    if (canaries_ && !canaries_seen_.contains(slot)) return;
    // Whether an ip is foreign is told by the nodes' CIDRs.
    const bool needs_nodes = slot == Slot::kIps && policy().refuse_foreign_ips;
    if (needs_nodes && wanted_.contains(Slot::kNodes) && !listed_.contains(Slot::kNodes)) return;
    watch(slot);
}

void Session::Impl::watch(Slot slot) {
    watching_.insert(slot);
    if (index(slot) < kObjectSlots) {
        intake_.begin_list(slot);
        to_sweep_.insert(slot);
        done_.erase(slot);
        rewatch_at_[index(slot)].reset();
    }
    actions_.emplace_back(Watch{epoch_, slot, slot_prefix(slot, options_.cluster, layout_)});
}

void Session::Impl::take_canaries(std::span<const Incoming> incoming) {
    for (const Incoming& change : incoming) {
        const auto key = model::parse_key(change.key);
        if (change.deleted || key.kind != model::KeyKind::kSynced) continue;
        if (key.cluster == options_.cluster && key.layout == layout_) {
            canaries_seen_.insert(slot_of(key.resource));
        }
    }
    open_what_may();
    if (canaries_seen_.contains_all(wanted_) && watching_.contains(Slot::kCanaries)) {
        watching_.erase(Slot::kCanaries);
        actions_.emplace_back(Unwatch{epoch_, Slot::kCanaries});
    }
}

void Session::Impl::changes(TimePoint now, Slot slot, bool from_list,
                            std::span<const Incoming> incoming) {
    if (!watching_.contains(slot)) return;
    if (slot == Slot::kCanaries) return take_canaries(incoming);
    if (slot == Slot::kHeartbeat) {
        // What a list finds may be old: only an event proves that the writer lives.
        if (!from_list && std::any_of(incoming.begin(), incoming.end(),
                                      [](const Incoming& c) { return !c.deleted; })) {
            last_heartbeat_ = now;
        }
        return;
    }
    take_objects(now, slot, from_list, incoming);
}

void Session::Impl::take_objects(TimePoint now, Slot slot, bool from_list,
                                 std::span<const Incoming> incoming) {
    Changes out;
    const auto per_second = policy().limits.events_per_second;
    for (const Incoming& change : incoming) {
        if (change.deleted) {
            intake_.erase(slot, change.key, out);
        } else if (from_list || options_.own || rate_.take(now, per_second)) {
            intake_.put(now, slot, change.key, change.value, out);
        } else {
            intake_.refuse_rate(now, slot, change.key);
            rewatch_at_[index(slot)] = now + options_.times.calm;
        }
        if (out.size() >= kBatchChanges) emit(out);
    }
    emit(out);
    for (std::size_t i = 0; i < kObjectSlots; ++i) {
        if (intake_.take_worth_a_list(object_slot(i)) && !rewatch_at_[i]) {
            rewatch_at_[i] = now + options_.times.relist;
        }
    }
}

void Session::Impl::list_done(Slot slot) {
    if (!watching_.contains(slot)) return;
    const bool first = !listed_.contains(slot);
    listed_.insert(slot);
    if (slot == Slot::kHeartbeat && first && !config_ok_) return request_config();
    if (index(slot) >= kObjectSlots) return;
    done_.insert(slot);
    if (slot == Slot::kNodes) open_what_may();
    // The fence: nothing is pruned before every prefix has been listed.
    if (done_.contains_all(wanted_)) sweep();
}

void Session::Impl::sweep() {
    Changes out;
    for (const Slot slot : kDrainOrder) {
        if (!to_sweep_.contains(slot)) continue;
        intake_.sweep(slot, out);
        emit(out);
    }
    to_sweep_.clear();
    holds_old_ = false;
}

void Session::Impl::drain(SlotSet slots) {
    Changes out;
    for (const Slot slot : kDrainOrder) {
        if (!slots.contains(slot)) continue;
        intake_.drain(slot, out);
        emit(out);
    }
}

void Session::Impl::emit(Changes& changes) {
    for (auto begin = changes.begin(); begin != changes.end();) {
        const auto left = static_cast<std::size_t>(changes.end() - begin);
        const auto end = begin + static_cast<std::ptrdiff_t>(std::min(left, kBatchChanges));
        Emit action{{key_, {}}};
        action.batch.changes.assign(std::make_move_iterator(begin), std::make_move_iterator(end));
        actions_.emplace_back(std::move(action));
        begin = end;
    }
    changes.clear();
}

void Session::Impl::watch_refused(TimePoint now, Slot slot, const Error& reason) {
    note_failure(now, fmt::format("watch of {} refused: {}", to_string(slot), reason.detail()));
}

// --- time -------------------------------------------------------------------------------------

bool Session::Impl::holds(SlotSet slots) const {
    return std::any_of(kDrainOrder.begin(), kDrainOrder.end(),
                       [&](Slot slot) { return slots.contains(slot) && intake_.count(slot) != 0; });
}

std::optional<TimePoint> Session::Impl::stale_at() const {
    if (options_.own || !config_ || !config_->policy.max_stale_age || !not_fresh_since_) return {};
    if (!holds(stale_slots())) return {};
    return *not_fresh_since_ + *config_->policy.max_stale_age;
}

SlotSet Session::Impl::stale_slots() const {
    if (config_->policy.stale_scope == sources::config::StaleScope::kAll) return kAllSlots;
    return {Slot::kServices, Slot::kServiceExports};
}

std::optional<TimePoint> Session::Impl::deadline() const {
    std::optional<TimePoint> next = stale_at();
    const auto consider = [&](const std::optional<TimePoint>& at) {
        if (at && (!next || *at < *next)) next = at;
    };
    for (const auto* at : {&retry_at_, &connect_by_, &config_at_, &check_at_, &probe_at_})
        consider(*at);
    for (const auto& at : rewatch_at_) consider(at);
    return next;
}

void Session::Impl::tick(TimePoint now) {
    const auto due = [now](const std::optional<TimePoint>& at) { return at && *at <= now; };
    if (due(stale_at())) drain_as_stale(now);
    if (due(retry_at_)) begin_epoch(now);
    if (due(connect_by_)) {
        fail_epoch(now, fmt::format("no connection for {} minutes",
                                    options_.times.connect_limit / std::chrono::minutes(1)));
    }
    if (due(config_at_)) request_config();
    if (due(probe_at_)) {
        probe_at_ = now + options_.times.probe;
        actions_.emplace_back(Probe{epoch_});
    }
    for (std::size_t i = 0; i < kObjectSlots; ++i) {
        if (due(rewatch_at_[i])) watch(object_slot(i));
    }
    if (due(check_at_)) check_heartbeat(now);
}

void Session::Impl::check_heartbeat(TimePoint now) {
    check_at_ = now + options_.times.check_fine;
    if (options_.own) return;
    // Before 1.16, a writer that never sent one was fine.
    if (!last_heartbeat_ && options_.generation == model::Generation::k115) return;
    const TimePoint last = std::max(heartbeat_base_, last_heartbeat_.value_or(heartbeat_base_));
    if (now - last <= options_.times.heartbeat_limit) {
        check_errors_ = 0;
        return;
    }
    check_at_ = now + options_.times.check_failing;
    if (++check_errors_ > options_.times.check_errors) {
        fail_epoch(now,
                   fmt::format("no heartbeat for {} s", (now - last) / std::chrono::seconds(1)));
    }
}

void Session::Impl::drain_as_stale(TimePoint now) {
    const bool all = config_->policy.stale_scope == sources::config::StaleScope::kAll;
    log_.warn("remote cluster {}: not in step for {} s, draining its {}", options_.cluster,
              *config_->policy.max_stale_age / std::chrono::seconds(1),
              all ? "entries" : "services");
    drained_as_stale_ = true;
    const bool was_running = running_;
    // The watches would not tell again what is dropped here: the next connection lists anew.
    end_epoch();
    drain(stale_slots());
    // What is listed from now on is given the same age again.
    not_fresh_since_ = now;
    if (was_running) begin_epoch(now);
}

// --- what is shown ----------------------------------------------------------------------------

SessionState Session::Impl::state() const {
    if (!config_) return SessionState::kDisabled;
    if (ready()) return SessionState::kReady;
    if (ever_ready_) return SessionState::kStale;
    return connected_ ? SessionState::kSyncing : SessionState::kConnecting;
}

void Session::Impl::settle(TimePoint now) {
    if (ready()) {
        failures_in_a_row_ = 0;
        ever_ready_ = true;
    }
    if (fresh()) drained_as_stale_ = false;
    if (fresh() || (!drained_as_stale_ && !holds(kAllSlots))) {
        not_fresh_since_.reset();
    } else if (!not_fresh_since_) {
        not_fresh_since_ = now;
    }
    const SessionState now_shown = state();
    if (now_shown == shown_ && listed_ == shown_listed_) return;
    if (now_shown != shown_) {
        log_.info("remote cluster {}: {}", options_.cluster, to_string(now_shown));
    }
    shown_ = now_shown;
    shown_listed_ = listed_;
    actions_.emplace_back(StateChanged{now_shown});
}

SessionStatus Session::Impl::status(TimePoint now) const {
    SessionStatus out;
    out.cluster = options_.cluster;
    out.state = state();
    out.connected = connected_;
    out.ready = ready();
    for (std::size_t i = 0; i < kSlots; ++i) {
        const Slot slot = object_slot(i);
        out.slots[i].wanted = wanted_.contains(slot);
        out.slots[i].synced = running_ && listed_.contains(slot);
        if (i < kObjectSlots) out.slots[i].count = intake_.count(slot);
    }
    out.backends = intake_.backends();
    out.config_retrieved = config_retrieved_;
    out.config_required = config_required_;
    if (remote_ && config_retrieved_) out.config = *remote_;
    out.position = pinned_;
    out.newest_revision = newest_revision_;
    if (connected_) out.lag_revisions = newest_revision_ - pinned_.revision;
    if (connected_ && behind_since_) out.lag = now - *behind_since_;
    if (!connected_ && last_life_) out.lag = now - *last_life_;
    const auto ago = [now](const std::optional<TimePoint>& at) {
        return at ? std::optional<Duration>(now - *at) : std::nullopt;
    };
    out.last_proof_of_life = ago(last_life_);
    out.last_heartbeat = ago(last_heartbeat_);
    out.failures = failures_;
    out.failures_in_a_row = failures_in_a_row_;
    out.last_failure = last_failure_;
    out.last_failure_age = ago(failed_at_);
    out.drained_as_stale = drained_as_stale_;
    out.refused = refusals_.counts();
    return out;
}

// --- the events -------------------------------------------------------------------------------

Session::Session(SessionOptions options, IdRegistry& ids, std::uint64_t seed, Logger log)
    : impl_(std::make_unique<Impl>(std::move(options), ids, seed, std::move(log))) {}
Session::~Session() = default;

void Session::configure(TimePoint now, sources::config::RemoteConfig config) {
    impl_->configure(now, std::move(config));
    impl_->settle(now);
}
void Session::remove(TimePoint now) {
    impl_->remove(now);
    impl_->settle(now);
}
void Session::stop(TimePoint now) {
    impl_->stop();
    impl_->settle(now);
}
void Session::client_refused(TimePoint now, std::uint64_t epoch, const Error& reason) {
    if (impl_->current(epoch)) impl_->client_refused(now, reason);
    impl_->settle(now);
}
void Session::connected(TimePoint now, std::uint64_t epoch, const etcd::Header& header) {
    if (impl_->current(epoch)) impl_->connected(now, header);
    impl_->settle(now);
}
void Session::connect_failed(TimePoint now, std::uint64_t epoch, const Error& reason) {
    if (impl_->current(epoch)) impl_->connect_failed(now, reason);
    impl_->settle(now);
}
void Session::lost(TimePoint now, std::uint64_t epoch, const Error& reason) {
    if (impl_->current(epoch)) impl_->lost(now, reason);
    impl_->settle(now);
}
void Session::config_answer(TimePoint now, std::uint64_t epoch,
                            const Result<ConfigAnswer>& answer) {
    if (impl_->current(epoch)) impl_->config_answer(now, answer);
    impl_->settle(now);
}
void Session::changes(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header,
                      bool from_list, std::span<const Incoming> changes) {
    // A list's revision is reached when the list is done.
    if (impl_->current(epoch) && impl_->accept(now, header, !from_list)) {
        impl_->changes(now, slot, from_list, changes);
    }
    impl_->settle(now);
}
void Session::list_done(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header) {
    if (impl_->current(epoch) && impl_->accept(now, header, true)) impl_->list_done(slot);
    impl_->settle(now);
}
void Session::progress(TimePoint now, std::uint64_t epoch, Slot, const etcd::Header& header) {
    if (impl_->current(epoch)) impl_->accept(now, header, true);
    impl_->settle(now);
}
void Session::history_changed(TimePoint now, std::uint64_t epoch, std::string_view what) {
    if (impl_->current(epoch)) impl_->history_changed(now, what);
    impl_->settle(now);
}
void Session::watch_refused(TimePoint now, std::uint64_t epoch, Slot slot, const Error& reason) {
    if (impl_->current(epoch)) impl_->watch_refused(now, slot, reason);
    impl_->settle(now);
}
void Session::probe_answer(TimePoint now, std::uint64_t epoch, const etcd::Header& header) {
    if (impl_->current(epoch)) impl_->accept(now, header, false);
    impl_->settle(now);
}
void Session::tick(TimePoint now) {
    impl_->tick(now);
    impl_->settle(now);
}
std::optional<TimePoint> Session::deadline() const {
    return impl_->deadline();
}
std::vector<Action> Session::take_actions() {
    return impl_->take();
}
SessionState Session::state() const noexcept {
    return impl_->state();
}
SessionStatus Session::status(TimePoint now) const {
    return impl_->status(now);
}
std::uint64_t Session::epoch() const noexcept {
    return impl_->epoch();
}

}  // namespace mesh::state
