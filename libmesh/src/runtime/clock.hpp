// Time and randomness as arguments: logic takes a Clock& and an Rng&, so that tests run it under
// virtual time with a known seed. Only this folder asks the system.
#pragma once

#include <chrono>
#include <cstdint>

namespace mesh {

using Duration = std::chrono::nanoseconds;
/// Monotonic time; the epoch has no meaning.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;
/// Wall-clock time, for RFC 3339 texts only.
using WallTime = std::chrono::time_point<std::chrono::system_clock, Duration>;

/// Where time comes from. @thread any thread
class Clock {
  public:
    virtual ~Clock() = default;
    [[nodiscard]] virtual TimePoint now() const = 0;
    [[nodiscard]] virtual WallTime wall_now() const = 0;
};

/// The system's clocks.
class SystemClock final : public Clock {
  public:
    [[nodiscard]] TimePoint now() const override { return std::chrono::steady_clock::now(); }
    [[nodiscard]] WallTime wall_now() const override { return std::chrono::system_clock::now(); }
};

/// A clock that moves only when told to, for tests and simulation. @thread one thread
class ManualClock final : public Clock {
  public:
    [[nodiscard]] TimePoint now() const override { return now_; }
    [[nodiscard]] WallTime wall_now() const override { return WallTime(now_.time_since_epoch()); }
    void advance(Duration by) { now_ += by; }

  private:
    TimePoint now_{std::chrono::hours(1)};
};

/// Random numbers for jitter and choice; not for keys. @thread one thread
class Rng {
  public:
    /// Seeded from the system's entropy.
    Rng();
    explicit Rng(std::uint64_t seed) noexcept : state_(seed) {}
    /// The next 64 random bits (splitmix64, Steele et al., OOPSLA 2014).
    [[nodiscard]] std::uint64_t next() noexcept;
    /// Uniform in [0, 1).
    [[nodiscard]] double uniform() noexcept;
    /// Uniform in [0, bound); bound > 0.
    [[nodiscard]] std::uint64_t below(std::uint64_t bound) noexcept { return next() % bound; }

  private:
    std::uint64_t state_;
};

}  // namespace mesh
