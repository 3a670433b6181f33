// How much a peer may ask of a connection with what costs it nothing: pings, resets, settings,
// empty frames. Counted, not measured: no clock, no allocation. Internal to rpc/.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/clock.hpp"

namespace mesh::rpc::detail {

/// Tokens that come back with time. @thread one thread
class TokenBucket {
  public:
    TokenBucket(std::int64_t burst, std::int64_t per_second, TimePoint now) noexcept
        : burst_(burst), per_second_(per_second), tokens_(burst), since_(now) {}

    /// @return false when there is none left
    [[nodiscard]] bool take(TimePoint now) noexcept {
        if (tokens_ <= 0) refill(now);
        return tokens_-- > 0;
    }
    void give(std::int64_t tokens) noexcept { tokens_ = std::min(burst_, tokens_ + tokens); }

  private:
    void refill(TimePoint now) noexcept {
        const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now - since_);
        // Longer than it takes to fill it, and the product must not overflow.
        const std::int64_t milliseconds = std::min<std::int64_t>(passed.count(), 3'600'000);
        tokens_ = std::min(burst_,
                           std::max<std::int64_t>(tokens_, 0) + milliseconds * per_second_ / 1000);
        since_ = now;
    }

    std::int64_t burst_;
    std::int64_t per_second_;
    std::int64_t tokens_;
    TimePoint since_;
};

/// @source grpc-go, internal/transport/http2_server.go, handlePing: the same rule, but for
/// several pings after one frame of ours (its own clients measure the bandwidth so).
class PingGuard {
  public:
    /// @param interval the least between two pings; 0 = any
    explicit PingGuard(Duration interval) noexcept : interval_(interval) {}
    /// Headers or data were sent: the peer may measure how long they take.
    void sent() noexcept { credit_ = kCredit; }
    /// @return false when it was one too many
    [[nodiscard]] bool take(TimePoint now) noexcept {
        const bool early = last_ != TimePoint{} && now - last_ < interval_;
        last_ = now;
        if (credit_ > 0) {
            --credit_;
            strikes_ = 0;
            return true;
        }
        if (early) ++strikes_;
        return strikes_ <= kStrikes;
    }

  private:
    static constexpr int kCredit = 3;
    static constexpr int kStrikes = 2;
    Duration interval_;
    TimePoint last_{};
    int credit_ = 0;
    int strikes_ = 0;
};

}  // namespace mesh::rpc::detail
