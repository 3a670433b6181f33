#include "state/clusters/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "state/clusters/session_impl.hpp"

namespace mesh::state {

namespace {
/// Failures that repeat are logged this often.
constexpr Duration kLogEvery = std::chrono::minutes(1);
}  // namespace

sources::config::RemotePolicy unbounded() {
    sources::config::RemotePolicy policy;
    constexpr auto kNone = std::numeric_limits<std::uint64_t>::max();
    policy.limits = {kNone, kNone, kNone, kNone, kNone, kNone, kNone,
                     kNone, kNone, kNone, kNone, kNone, kNone, kNone};
    return policy;
}

void Session::Impl::configure(TimePoint now, sources::config::RemoteConfig config) {
    if (running_)
        log_.info("remote cluster {}: configuration changed, connecting anew", options_.cluster);
    end_epoch();
    config_ = std::move(config);
    if (!options_.own) ids_.claim(options_.cluster, config_->policy.id);
    failures_in_a_row_ = 0;
    begin_epoch(now);
}

void Session::Impl::remove(TimePoint) {
    end_epoch();
    drain(kAllSlots);
    ids_.release(options_.cluster);
    ids_.claim(options_.cluster, std::nullopt);
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
    freshness_.begin(wanted_);
    for (SlotSet* set : {&watching_, &listed_, &done_, &to_sweep_, &canaries_seen_}) set->clear();
    check_errors_ = 0;
    retry_at_.reset();
    connect_by_ = now + options_.times.connect_limit;
    if (!holds_old_) reached_ = {};
    Connect connect{epoch_, config_->etcd, reached_};
    if (!options_.own) connect.answer_bytes = config_->policy.limits.answer_bytes;
    actions_.emplace_back(std::move(connect));
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
    const auto times =
        static_cast<Duration::rep>(std::min<std::uint64_t>(failures_in_a_row_, 1000));
    retry_at_ = now + std::min(options_.times.retry_step * times, options_.times.retry_limit);
}

void Session::Impl::client_refused(TimePoint now, const Error& reason) {
    note_failure(now, reason.detail());
    ++failures_in_a_row_;
    end_epoch();
    retry_at_ = now + options_.times.client_retry;
}

void Session::Impl::connect_failed(TimePoint now, const Error& reason) {
    note_failure(now, "connection failed: " + reason.detail());
    // The client's own to repeat, by its own backoff.
    ++attempts_in_a_row_;
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
    attempts_in_a_row_ = 0;
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

void Session::Impl::give_up_id() {
    drain(kAllSlots);
    holds_old_ = false;
    ids_.release(options_.cluster);
    ever_ready_ = false;
    key_.id = {};
}

void Session::Impl::check_claim(TimePoint now) {
    if (options_.own || !config_ || key_.id == model::ClusterId{}) return;
    const auto owner = ids_.claimed_from(key_.id, options_.cluster);
    if (!owner) return;
    const std::string reason = fmt::format(
        "{}: field id: {} belongs to remote cluster {}, as its configuration file "
        "says; draining",
        model::cluster_config_key(options_.cluster), model::number(key_.id), *owner);
    give_up_id();
    fail_epoch(now, reason);
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
    if (policy().id && *policy().id != config.id) {
        return fail_epoch(
            now, fmt::format("{}: field id: expected {}, as the configuration file says (mesh: "
                             "id), found {}",
                             model::cluster_config_key(options_.cluster),
                             model::number(*policy().id), model::number(config.id)));
    }
    if (key_.id != config.id && key_.id != model::ClusterId{}) {
        log_.info("remote cluster {}: its id changed from {} to {}, draining", options_.cluster,
                  model::number(key_.id), model::number(config.id));
        give_up_id();
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
        freshness_.drop(now, Slot::kServiceExports);
        drain({Slot::kServiceExports});
    }
    start_watches();
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
        if (!from_list) impl_->reached(now, slot, header);
        impl_->changes(now, slot, from_list, changes);
    }
    impl_->settle(now);
}
void Session::list_done(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header) {
    if (impl_->current(epoch) && impl_->accept(now, header, true)) {
        impl_->reached(now, slot, header);
        impl_->list_done(now, slot);
    }
    impl_->settle(now);
}
void Session::progress(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header) {
    if (impl_->current(epoch) && impl_->accept(now, header, true)) {
        impl_->reached(now, slot, header);
    }
    impl_->settle(now);
}
void Session::in_step(TimePoint now, std::uint64_t epoch, Slot slot, const etcd::Header& header) {
    if (impl_->current(epoch) && impl_->accept(now, header, false)) {
        impl_->reached(now, slot, header);
    }
    impl_->settle(now);
}
void Session::keys_refused(TimePoint now, std::uint64_t epoch, Slot slot,
                           const etcd::RefusedKeys& refused) {
    if (impl_->current(epoch)) impl_->keys_refused(now, slot, refused);
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
    if (impl_->current(epoch) && impl_->accept(now, header, false)) impl_->probed(now, header);
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
