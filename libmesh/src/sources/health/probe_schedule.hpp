// When each target is probed, and what follows from the answers: a state machine without I/O and
// without a clock. One list of due times for all targets; how many probes run at once and how many
// start per second is bounded, whatever is asked for.
//
// A target is unknown until its first answer, then healthy or unhealthy, by so many answers or
// failures in a row. Targets of a group (the nodes of a cluster) are judged by their failures only
// once one of the group has answered: where a firewall swallows probes, their silence says nothing.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/health_check.hpp"
#include "model/ip.hpp"
#include "runtime/clock.hpp"

namespace mesh::sources::health {

struct Target {
    model::IpAddress address;
    std::uint16_t port = 0;
    model::HealthCheck check;
    /// The cluster, of a node: a host. A refused connection is an answer, too: the host lives,
    /// whether or not somebody listens. Empty: a backend.
    std::string group;
    friend auto operator<=>(const Target&, const Target&) = default;
    [[nodiscard]] bool is_host() const noexcept { return !group.empty(); }
};

enum class State : std::uint8_t { kUnknown, kHealthy, kUnhealthy };
/// "unknown", "healthy", "unhealthy".
[[nodiscard]] std::string_view to_string(State state) noexcept;

/// What is known of a target.
struct TargetStatus {
    State state = State::kUnknown;
    TimePoint since;                     ///< of the state
    std::string last_error;              ///< of the last probe that failed; empty = none did
    std::optional<Duration> round_trip;  ///< smoothed
    std::uint64_t probes = 0, failed = 0;
};

/// The state of a target changed.
struct Verdict {
    Target target;
    TargetStatus status;
};

using ProbeId = std::uint64_t;

/// A probe to be made now.
struct Start {
    ProbeId id = 0;
    Target target;
    Duration timeout;
};

struct ScheduleLimits {
    std::size_t at_once = 256;  ///< probes that run
    double per_second = 1000;   ///< probes that start; beyond, all intervals grow in proportion
};

/// @thread same object not concurrently
class ProbeSchedule {
  public:
    ProbeSchedule(ScheduleLimits limits, Rng rng) : limits_(limits), rng_(rng) {}

    /// Nothing if it is there. The first probe comes within its interval.
    void add(const Target& target, TimePoint now);
    /// Nothing if it is not there; a probe that runs has no effect any more.
    void remove(const Target& target);

    /// The probes that are due, within the limits.
    [[nodiscard]] std::vector<Start> take_due(TimePoint now);
    /// A probe ended: in `error` why it failed, empty = it was answered.
    /// @return the target's state, if it changed
    [[nodiscard]] std::optional<Verdict> done(ProbeId id, std::string error, TimePoint now);
    /// When take_due() is wanted next; nullopt = not before something else happens.
    [[nodiscard]] std::optional<TimePoint> next_due() const;

    [[nodiscard]] std::optional<TargetStatus> find(const Target& target) const;
    [[nodiscard]] std::map<Target, TargetStatus> targets() const;
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
    [[nodiscard]] std::size_t running() const noexcept { return running_.size(); }
    /// Of all targets, also those removed since.
    [[nodiscard]] std::uint64_t probes() const noexcept { return probes_; }
    [[nodiscard]] std::uint64_t failed() const noexcept { return failed_; }
    /// By how much intervals are stretched, 1 = not.
    [[nodiscard]] double stretch() const noexcept;

  private:
    struct Entry {
        TargetStatus status;
        unsigned failures = 0, successes = 0;  ///< in a row
        std::optional<TimePoint> due;          ///< nullopt while a probe runs
    };
    using Entries = std::map<Target, Entry>;
    struct Running {
        const Target* target = nullptr;  ///< null: removed meanwhile
        TimePoint started;
    };
    [[nodiscard]] static double rate_of(const Target& target);
    [[nodiscard]] bool may_judge(const Target& target) const;
    [[nodiscard]] Duration timeout_of(const Target& target, const Entry& entry) const;
    [[nodiscard]] TimePoint next_probe(const Target& target, const Entry& entry, TimePoint started,
                                       TimePoint now);
    /// @return whether the state is another now
    [[nodiscard]] bool take_answer(Entry& entry, const Target& target, Duration took);
    [[nodiscard]] bool take_failure(Entry& entry, const Target& target, std::string error);

    ScheduleLimits limits_;
    Rng rng_;
    Entries entries_;
    std::set<std::pair<TimePoint, const Target*>> due_;
    std::map<ProbeId, Running> running_;
    std::map<const Target*, ProbeId> probe_of_;
    struct Group {
        std::size_t targets = 0;
        bool answered = false;  ///< one of them did
    };
    std::map<std::string, Group, std::less<>> groups_;
    double rate_ = 0;  ///< probes per second, wanted
    ProbeId last_id_ = 0;
    std::uint64_t probes_ = 0, failed_ = 0;
};

}  // namespace mesh::sources::health
