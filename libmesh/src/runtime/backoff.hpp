// Exponential back-off with full jitter on the upper half, for every retry in the library.
#pragma once

#include <algorithm>

#include "runtime/clock.hpp"

namespace mesh {

/// Delays that double from `first` to `limit`; each is drawn from [d/2, d]. @thread one thread
class Backoff {
  public:
    Backoff(Duration first, Duration limit) noexcept : first_(first), limit_(limit), next_(first) {}
    /// The delay to wait now; the following one is twice as long, up to the limit.
    [[nodiscard]] Duration next(Rng& rng) noexcept {
        const Duration d = next_;
        next_ = std::min(limit_, next_ * 2);
        return Duration(static_cast<Duration::rep>(static_cast<double>(d.count()) *
                                                   (0.5 + 0.5 * rng.uniform())));
    }
    /// After success: start again at `first`.
    void reset() noexcept { next_ = first_; }

  private:
    Duration first_;
    Duration limit_;
    Duration next_;
};

}  // namespace mesh
