// A rate that several loops keep together, without a lock: the generic cell rate algorithm, whose
// whole state is the time at which all that was taken will have been paid for. Internal to
// serve/etcd.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "runtime/clock.hpp"

namespace mesh::serve {

/// @thread any thread. Two that take at the same moment may both get what is there for one.
class Rate {
  public:
    /// How long until more may be taken; zero = now. What was taken may go beyond the burst by the
    /// last thing taken, which is paid for by the next wait.
    /// @param per_second 0 = no limit
    /// @param burst what may be taken at once after a rest, in the rate's unit
    [[nodiscard]] Duration wait(TimePoint now, std::uint64_t per_second,
                                std::uint64_t burst) const noexcept {
        if (per_second == 0) return {};
        const std::int64_t ahead = paid_at_.load(std::memory_order_relaxed) - ticks(now);
        return Duration(std::max<std::int64_t>(ahead - price(burst, per_second), 0));
    }
    void take(TimePoint now, std::uint64_t amount, std::uint64_t per_second) noexcept {
        if (per_second == 0) return;
        const std::int64_t cost = price(amount, per_second);
        std::int64_t before = paid_at_.load(std::memory_order_relaxed);
        while (!paid_at_.compare_exchange_weak(before, std::max(before, ticks(now)) + cost,
                                               std::memory_order_relaxed)) {
        }
    }

  private:
    static std::int64_t ticks(TimePoint at) noexcept { return at.time_since_epoch().count(); }
    /// Nanoseconds; an hour at most, so that nothing overflows.
    static std::int64_t price(std::uint64_t amount, std::uint64_t per_second) noexcept {
        constexpr double kMost = 3600e9;
        return static_cast<std::int64_t>(
            std::min(static_cast<double>(amount) * 1e9 / static_cast<double>(per_second), kMost));
    }

    std::atomic<std::int64_t> paid_at_{0};  // nanoseconds of the clock's
};

}  // namespace mesh::serve
