#include <fmt/format.h>

#include <algorithm>

#include "state/clusters/session_impl.hpp"

namespace mesh::state {

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

// --- time -------------------------------------------------------------------------------------

bool Session::Impl::holds(SlotSet slots) const {
    return std::any_of(kDrainOrder.begin(), kDrainOrder.end(),
                       [&](Slot slot) { return slots.contains(slot) && intake_.count(slot) != 0; });
}

std::optional<TimePoint> Session::Impl::stale_at() const {
    if (options_.own || !config_ || !max_stale_age() || !not_fresh_since_) return {};
    if (!holds(stale_slots())) return {};
    return *not_fresh_since_ + *max_stale_age();
}

std::optional<Duration> Session::Impl::max_stale_age() const {
    const auto& policy = config_->policy;
    return policy.stale_age_given ? policy.max_stale_age : options_.max_stale_age;
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
    check_claim(now);
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
              *max_stale_age() / std::chrono::seconds(1), all ? "entries" : "services");
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
        log_.info("{} cluster {}: {}", options_.own ? "own" : "remote", options_.cluster,
                  to_string(now_shown));
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
    out.position.revision = freshness_.revision();
    out.newest_revision = newest_revision_;
    if (connected_) out.lag_revisions = freshness_.lag_revisions();
    const auto& behind_since = freshness_.behind_since();
    if (connected_ && behind_since) out.lag = now - *behind_since;
    if (!connected_ && last_life_) out.lag = now - *last_life_;
    const auto ago = [now](const std::optional<TimePoint>& at) {
        return at ? std::optional<Duration>(now - *at) : std::nullopt;
    };
    out.last_proof_of_life = ago(last_life_);
    out.last_heartbeat = ago(last_heartbeat_);
    out.failures = failures_;
    out.failures_in_a_row = failures_in_a_row_;
    out.attempts_in_a_row = attempts_in_a_row_;
    out.last_failure = last_failure_;
    out.last_failure_age = ago(failed_at_);
    out.drained_as_stale = drained_as_stale_;
    out.refused = refusals_.counts();
    return out;
}

}  // namespace mesh::state
