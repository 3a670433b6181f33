// What the traffic annotations need to remember and to know of time: how fresh each remote is,
// which clusters of a service are in slow start, and when the next of these changes. Without I/O
// and without a clock: the time is an argument. Services without such annotations cost nothing
// here. Used by service_merger.cpp and explanation.cpp.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compile/services/frontend_compiler.hpp"
#include "compile/services/traffic.hpp"
#include "runtime/clock.hpp"
#include "state/tables/changes.hpp"

namespace mesh::compile {

class TrafficState {
  public:
    /// Services that are to be compiled again.
    using Marks = std::set<state::ObjectName>;

    explicit TrafficState(std::string own_cluster) : own_(std::move(own_cluster)) {}

    /// Moves the time on; it never goes back.
    void advance(TimePoint now, Marks& marks);
    /// The next time at which advance() would mark something.
    /// @complexity O(remotes × different times of stale-policy)
    [[nodiscard]] std::optional<TimePoint> next_due() const;

    /// @complexity O(services that a change of their view of the remote concerns)
    void note_freshness(const std::string& cluster, bool connected, TimePoint last_proof_of_life,
                        Marks& marks);
    void forget_cluster(std::string_view cluster, Marks& marks);
    /// Slow start is for what comes after a cluster's first sync.
    void note_synced(const std::string& cluster) { synced_.insert(cluster); }
    void note_all_synced() noexcept { all_synced_ = true; }

    /// Whether some service fails closed.
    [[nodiscard]] bool wants_freshness() const noexcept { return !closers_.empty(); }
    /// Whether some remote is too old for some service.
    [[nodiscard]] bool any_closed() const;
    /// Whether the remote was connected when last heard of; nullopt = never heard of.
    [[nodiscard]] std::optional<bool> connected(std::string_view cluster) const;

    /// What the service's annotations ask for now; nullopt if nothing, or if it is not global.
    [[nodiscard]] std::optional<ServiceTraffic> traffic_of(
        const model::LocalService& local, const std::vector<RemoteService>& remotes) const;
    /// The rows as compile_frontends() made them get their weights, and the service's slow starts
    /// and times are kept.
    void settle(const state::ObjectName& name, ServiceTraffic& traffic,
                std::vector<FrontendRow>& rows);
    /// As settle(), keeping nothing.
    void preview(const state::ObjectName& name, ServiceTraffic& traffic,
                 std::vector<FrontendRow>& rows) const;
    /// The service is gone, or asks for nothing any longer.
    void forget(const state::ObjectName& name);

  private:
    /// Of a service with slow start.
    struct SlowStart {
        std::set<std::string> selected;          ///< clusters, by the last compile
        std::map<std::string, TimePoint> began;  ///< clusters that are not at 100% yet
    };
    struct Held {
        std::optional<Duration> close;  ///< its entry in closers_
        std::optional<SlowStart> slow_start;
        std::optional<TimePoint> due;  ///< its entry in due_
    };
    struct Freshness {
        bool connected = false;
        TimePoint last_proof_of_life;
        [[nodiscard]] bool closed(TimePoint now, Duration close) const {
            return now - last_proof_of_life >= close;
        }
    };

    [[nodiscard]] SlowStart next_slow_start(const SlowStart* before, const ServiceTraffic& traffic,
                                            const std::vector<FrontendRow>& rows) const;
    void set_percents(const SlowStart& slow_start, ServiceTraffic& traffic) const;
    void hold_close(const state::ObjectName& name, Held& held, std::optional<Duration> close);
    void hold_due(const state::ObjectName& name, Held& held, std::optional<TimePoint> due);
    void mark_if(bool changed, const std::set<state::ObjectName>& services, Marks& marks) const;

    std::string own_;
    TimePoint now_{};
    bool all_synced_ = false;
    std::set<std::string> synced_;
    std::map<std::string, Freshness, std::less<>> freshness_;  ///< of remotes, by name
    std::map<Duration, std::set<state::ObjectName>> closers_;
    std::map<state::ObjectName, Held> services_;  ///< with slow-start or stale-policy only
    std::set<std::pair<TimePoint, state::ObjectName>> due_;
};

}  // namespace mesh::compile
