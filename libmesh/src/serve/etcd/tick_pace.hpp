// When the store's next tick is due: by its leases, and later and later while ticks fail, as on a
// full disk, where each attempt costs a failing commit. Internal to serve/etcd.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "runtime/clock.hpp"

namespace mesh::serve {

/// @thread one thread
class TickPace {
  public:
    /// Between ticks: leases are counted in seconds.
    static constexpr Duration kShortest = std::chrono::milliseconds(50);
    static constexpr Duration kLongest = std::chrono::seconds(1);
    /// After a tick that failed; doubles up to the second.
    static constexpr Duration kFirstRetry = std::chrono::seconds(1);
    static constexpr Duration kLastRetry = std::chrono::seconds(16);

    /// Notes how a tick went. @return whether the one before it went otherwise
    bool on_tick(bool succeeded) noexcept {
        const bool changed = succeeded == (failures_ != 0);
        failures_ = succeeded ? 0 : failures_ + 1;
        retry_ = failures_ <= 1 ? kFirstRetry : std::min(retry_ * 2, kLastRetry);
        return changed;
    }
    /// How long to wait. @param due when the store has something to do; none = nothing
    [[nodiscard]] Duration wait(std::optional<TimePoint> due, TimePoint now) const noexcept {
        if (failures_ != 0) return retry_;
        return due ? std::clamp(*due - now, kShortest, kLongest) : kLongest;
    }
    /// Ticks that failed since the last that did not.
    [[nodiscard]] std::uint64_t failures() const noexcept { return failures_; }

  private:
    std::uint64_t failures_ = 0;
    Duration retry_ = kFirstRetry;
};

}  // namespace mesh::serve
