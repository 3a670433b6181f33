#include "sources/health/probe_schedule.hpp"

#include <algorithm>
#include <utility>

namespace mesh::sources::health {
namespace {

/// A target that never answered may be far away: its first probes wait this long.
constexpr Duration kFirstTimeout = std::chrono::seconds(1);
/// A timeout below this many round trips would call a distant target dead.
constexpr int kRoundTrips = 3;
/// Of an unhealthy target, which is only waited for: times the interval.
constexpr int kSlowdown = 4;

Duration scaled(Duration duration, double by) {
    return Duration(static_cast<Duration::rep>(static_cast<double>(duration.count()) * by));
}

}  // namespace

std::string_view to_string(State state) noexcept {
    switch (state) {
        case State::kUnknown:
            return "unknown";
        case State::kHealthy:
            return "healthy";
        case State::kUnhealthy:
            return "unhealthy";
    }
    return "unknown";
}

double ProbeSchedule::rate_of(const Target& target) {
    return 1000.0 / static_cast<double>(target.check.interval.count());
}

double ProbeSchedule::stretch() const noexcept {
    return std::max(1.0, rate_ / limits_.per_second);
}

void ProbeSchedule::add(const Target& target, TimePoint now) {
    const auto [at, added] = entries_.try_emplace(target);
    if (!added) return;
    rate_ += rate_of(target);
    if (target.is_host()) ++groups_[target.group].targets;
    at->second.status.since = now;
    at->second.due = now + scaled(target.check.interval, stretch() * rng_.uniform());
    due_.emplace(*at->second.due, &at->first);
}

void ProbeSchedule::remove(const Target& target) {
    const auto at = entries_.find(target);
    if (at == entries_.end()) return;
    rate_ = std::max(0.0, rate_ - rate_of(target));
    if (const auto group = groups_.find(target.group); group != groups_.end()) {
        if (--group->second.targets == 0) groups_.erase(group);
    }
    if (at->second.due) due_.erase({*at->second.due, &at->first});
    if (const auto probe = probe_of_.find(&at->first); probe != probe_of_.end()) {
        running_.at(probe->second).target = nullptr;
        probe_of_.erase(probe);
    }
    entries_.erase(at);
}

std::vector<Start> ProbeSchedule::take_due(TimePoint now) {
    std::vector<Start> starts;
    while (!due_.empty() && due_.begin()->first <= now && running_.size() < limits_.at_once) {
        const Target* target = due_.extract(due_.begin()).value().second;
        Entry& entry = entries_.at(*target);
        entry.due.reset();
        const ProbeId id = ++last_id_;
        running_.emplace(id, Running{target, now});
        probe_of_.emplace(target, id);
        starts.push_back({id, *target, timeout_of(*target, entry)});
    }
    return starts;
}

Duration ProbeSchedule::timeout_of(const Target& target, const Entry& entry) const {
    const Duration timeout = target.check.timeout;
    if (!entry.status.round_trip) return std::max(timeout, kFirstTimeout);
    return std::max(timeout, *entry.status.round_trip * kRoundTrips);
}

bool ProbeSchedule::may_judge(const Target& target) const {
    if (!target.is_host()) return true;
    const auto group = groups_.find(target.group);
    return group != groups_.end() && group->second.answered;
}

bool ProbeSchedule::take_answer(Entry& entry, const Target& target, Duration took) {
    TargetStatus& status = entry.status;
    // RFC 6298's weight.
    status.round_trip = status.round_trip ? (*status.round_trip * 7 + took) / 8 : took;
    if (target.is_host()) groups_.at(target.group).answered = true;
    entry.failures = 0;
    ++entry.successes;
    if (status.state == State::kHealthy) return false;
    if (status.state == State::kUnhealthy && entry.successes < target.check.successes) return false;
    status.state = State::kHealthy;
    return true;
}

bool ProbeSchedule::take_failure(Entry& entry, const Target& target, std::string error) {
    entry.status.last_error = std::move(error);
    ++entry.status.failed;
    entry.successes = 0;
    ++entry.failures;
    if (entry.status.state == State::kUnhealthy || entry.failures < target.check.failures) {
        return false;
    }
    if (!may_judge(target)) return false;
    entry.status.state = State::kUnhealthy;
    return true;
}

std::optional<Verdict> ProbeSchedule::done(ProbeId id, std::string error, TimePoint now) {
    const auto probe = running_.find(id);
    if (probe == running_.end()) return std::nullopt;
    const Running run = probe->second;
    running_.erase(probe);
    if (run.target == nullptr) return std::nullopt;
    probe_of_.erase(run.target);
    const auto at = entries_.find(*run.target);
    Entry& entry = at->second;
    ++entry.status.probes;
    ++probes_;
    if (!error.empty()) ++failed_;
    const bool changed = error.empty() ? take_answer(entry, at->first, now - run.started)
                                       : take_failure(entry, at->first, std::move(error));
    if (changed) entry.status.since = now;
    entry.due = next_probe(at->first, entry, run.started, now);
    due_.emplace(*entry.due, &at->first);
    if (!changed) return std::nullopt;
    return Verdict{at->first, entry.status};
}

/// Counted from the start of the last probe, so that a timeout does not slow down the next one.
TimePoint ProbeSchedule::next_probe(const Target& target, const Entry& entry, TimePoint started,
                                    TimePoint now) {
    Duration wait = target.check.interval;
    if (entry.status.state == State::kUnhealthy) {
        // What answers again is soon known to be back.
        if (entry.successes == 0) wait *= kSlowdown;
    } else if (entry.failures > 0 && entry.failures < target.check.failures) {
        // In doubt: ask again soon.
        wait /= 2;
    }
    // Targets that failed together, or were added together, drift apart.
    wait = scaled(wait, stretch() * (0.9 + 0.2 * rng_.uniform()));
    return std::max(now, started + wait);
}

std::optional<TimePoint> ProbeSchedule::next_due() const {
    if (due_.empty() || running_.size() >= limits_.at_once) return std::nullopt;
    return due_.begin()->first;
}

std::optional<TargetStatus> ProbeSchedule::find(const Target& target) const {
    const auto at = entries_.find(target);
    if (at == entries_.end()) return std::nullopt;
    return at->second.status;
}

std::map<Target, TargetStatus> ProbeSchedule::targets() const {
    std::map<Target, TargetStatus> all;
    for (const auto& [target, entry] : entries_) all.emplace_hint(all.end(), target, entry.status);
    return all;
}

}  // namespace mesh::sources::health
