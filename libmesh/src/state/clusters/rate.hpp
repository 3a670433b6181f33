// How many events per second are let through.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "runtime/clock.hpp"

namespace mesh::state {

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

}  // namespace mesh::state
