#include "compile/services/traffic_state.hpp"

#include <algorithm>

namespace mesh::compile {
namespace {

using state::ObjectName;

/// Slow start goes from 10% to 100% in nine steps of 10: ten writes of a service's rows.
constexpr Duration::rep kSteps = 9;
constexpr unsigned kPercentOfStep = 10;

Duration::rep steps_done(Duration elapsed, Duration whole) {
    return std::min(kSteps, kSteps * elapsed.count() / whole.count());
}

/// The elapsed time at which a step is done, rounded up so that steps_done() counts it.
Duration end_of(Duration::rep step, Duration whole) {
    return Duration((step * whole.count() + kSteps - 1) / kSteps);
}

std::size_t place_in(const std::vector<std::string>& order, const std::string& cluster) {
    auto at = std::ranges::find(order, cluster);
    if (at == order.end()) at = std::ranges::find(order, "*");
    return at == order.end() ? ClusterSteering::kNotNamed
                             : static_cast<std::size_t>(at - order.begin());
}

std::uint16_t weight_of(const std::vector<model::ClusterWeight>& weights,
                        const std::string& cluster) {
    const auto at = std::ranges::lower_bound(weights, cluster, {}, &model::ClusterWeight::cluster);
    return at != weights.end() && at->cluster == cluster ? at->weight
                                                         : model::kDefaultClusterWeight;
}

}  // namespace

void TrafficState::mark_if(bool changed, const std::set<ObjectName>& services, Marks& marks) const {
    if (changed) marks.insert(services.begin(), services.end());
}

void TrafficState::advance(TimePoint now, Marks& marks) {
    const TimePoint before = std::exchange(now_, std::max(now_, now));
    for (const auto& [cluster, fresh] : freshness_) {
        for (const auto& [close, services] : closers_) {
            mark_if(fresh.closed(before, close) != fresh.closed(now_, close), services, marks);
        }
    }
    while (!due_.empty() && due_.begin()->first <= now_) {
        auto due = due_.extract(due_.begin());
        services_.at(due.value().second).due.reset();
        marks.insert(std::move(due.value().second));
    }
}

std::optional<TimePoint> TrafficState::next_due() const {
    std::optional<TimePoint> next;
    if (!due_.empty()) next = due_.begin()->first;
    for (const auto& [cluster, fresh] : freshness_) {
        for (const auto& [close, services] : closers_) {
            if (fresh.closed(now_, close)) continue;
            const TimePoint at = fresh.last_proof_of_life + close;
            if (!next || at < *next) next = at;
        }
    }
    return next;
}

void TrafficState::note_freshness(const std::string& cluster, bool connected,
                                  TimePoint last_proof_of_life, Marks& marks) {
    if (cluster == own_) return;
    const auto [at, added] = freshness_.try_emplace(cluster);
    const Freshness fresh{connected, last_proof_of_life};
    for (const auto& [close, services] : closers_) {
        const bool was_closed = !added && at->second.closed(now_, close);
        mark_if(was_closed != fresh.closed(now_, close), services, marks);
    }
    at->second = fresh;
}

void TrafficState::forget_cluster(std::string_view cluster, Marks& marks) {
    const auto at = freshness_.find(cluster);
    if (at == freshness_.end()) return;
    for (const auto& [close, services] : closers_) {
        mark_if(at->second.closed(now_, close), services, marks);
    }
    freshness_.erase(at);
}

bool TrafficState::any_closed() const {
    return std::ranges::any_of(freshness_, [this](const auto& entry) {
        return !closers_.empty() && entry.second.closed(now_, closers_.begin()->first);
    });
}

std::optional<bool> TrafficState::connected(std::string_view cluster) const {
    const auto at = freshness_.find(cluster);
    if (at == freshness_.end()) return std::nullopt;
    return at->second.connected;
}

std::optional<ServiceTraffic> TrafficState::traffic_of(
    const model::LocalService& local, const std::vector<RemoteService>& remotes) const {
    if (!local.global || !model::has_traffic_annotations(local.annotations)) return std::nullopt;
    ServiceTraffic traffic;
    traffic.policy = model::parse_traffic_annotations(local.annotations).policy;
    if (traffic.policy.empty()) return std::nullopt;
    traffic.affinity = local.affinity;
    const auto& policy = traffic.policy;
    const auto add = [&](const std::string& cluster) -> ClusterSteering& {
        ClusterSteering& steering = traffic.clusters.emplace_back();
        steering.cluster = cluster;
        if (traffic.ordered()) steering.order = place_in(policy.cluster_order, cluster);
        steering.weight = weight_of(policy.cluster_weights, cluster);
        return steering;
    };
    add(own_);
    for (const RemoteService& remote : remotes) {
        ClusterSteering& steering = add(remote.cluster.name);
        const auto fresh = freshness_.find(remote.cluster.name);
        steering.closed = policy.close_when_stale && fresh != freshness_.end() &&
                          fresh->second.closed(now_, *policy.close_when_stale);
    }
    return traffic;
}

TrafficState::SlowStart TrafficState::next_slow_start(const SlowStart* before,
                                                      const ServiceTraffic& traffic,
                                                      const std::vector<FrontendRow>& rows) const {
    SlowStart next;
    for (const FrontendRow& row : rows) {
        for (const BackendRow& backend : row.backends) {
            if (backend.selected) next.selected.insert(backend.cluster.name);
        }
    }
    // A service that was not known is not one whose clusters return.
    if (before == nullptr) return next;
    for (const std::string& cluster : next.selected) {
        TimePoint began = now_;
        if (before->selected.contains(cluster)) {
            const auto held = before->began.find(cluster);
            if (held == before->began.end()) continue;
            began = held->second;
        } else if (!all_synced_ && !synced_.contains(cluster)) {
            continue;
        }
        if (now_ - began < Duration(traffic.policy.slow_start)) next.began.emplace(cluster, began);
    }
    return next;
}

void TrafficState::set_percents(const SlowStart& slow_start, ServiceTraffic& traffic) const {
    const Duration whole = traffic.policy.slow_start;
    for (ClusterSteering& cluster : traffic.clusters) {
        const auto began = slow_start.began.find(cluster.cluster);
        if (began == slow_start.began.end()) continue;
        const auto step = static_cast<unsigned>(steps_done(now_ - began->second, whole));
        cluster.percent = kPercentOfStep * (1 + step);
    }
}

void TrafficState::hold_close(const ObjectName& name, Held& held, std::optional<Duration> close) {
    if (held.close == close) return;
    if (held.close) {
        const auto at = closers_.find(*held.close);
        at->second.erase(name);
        if (at->second.empty()) closers_.erase(at);
    }
    if (close) closers_[*close].insert(name);
    held.close = close;
}

void TrafficState::hold_due(const ObjectName& name, Held& held, std::optional<TimePoint> due) {
    if (held.due == due) return;
    if (held.due) due_.erase({*held.due, name});
    if (due) due_.emplace(*due, name);
    held.due = due;
}

void TrafficState::settle(const ObjectName& name, ServiceTraffic& traffic,
                          std::vector<FrontendRow>& rows) {
    const auto& policy = traffic.policy;
    const bool slow = policy.slow_start != Duration::zero();
    if (!slow && !policy.close_when_stale) {
        forget(name);
    } else {
        Held& held = services_[name];
        hold_close(name, held, policy.close_when_stale);
        std::optional<TimePoint> due;
        if (slow) {
            held.slow_start =
                next_slow_start(held.slow_start ? &*held.slow_start : nullptr, traffic, rows);
            set_percents(*held.slow_start, traffic);
            const Duration whole = policy.slow_start;
            for (const auto& [cluster, began] : held.slow_start->began) {
                const TimePoint at = began + end_of(steps_done(now_ - began, whole) + 1, whole);
                if (!due || at < *due) due = at;
            }
        } else {
            held.slow_start.reset();
        }
        hold_due(name, held, due);
    }
    for (FrontendRow& row : rows) spread_weights(row, traffic);
}

void TrafficState::preview(const ObjectName& name, ServiceTraffic& traffic,
                           std::vector<FrontendRow>& rows) const {
    if (traffic.policy.slow_start != Duration::zero()) {
        const auto at = services_.find(name);
        const bool known = at != services_.end() && at->second.slow_start;
        set_percents(next_slow_start(known ? &*at->second.slow_start : nullptr, traffic, rows),
                     traffic);
    }
    for (FrontendRow& row : rows) spread_weights(row, traffic);
}

void TrafficState::forget(const ObjectName& name) {
    const auto at = services_.find(name);
    if (at == services_.end()) return;
    hold_close(name, at->second, std::nullopt);
    hold_due(name, at->second, std::nullopt);
    services_.erase(at);
}

}  // namespace mesh::compile
