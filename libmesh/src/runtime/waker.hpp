// The sleep of one coroutine, which others cut short: wake() is not lost when it comes before the
// sleep.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <optional>
#include <utility>

#include "runtime/clock.hpp"

namespace mesh {

/// @thread the executor's thread; one sleeper at a time
class Waker {
  public:
    Waker(boost::asio::any_io_executor loop, const Clock& clock)
        : clock_(clock), timer_(std::move(loop)) {}

    void wake();
    /// Until wake(), or until the time; a wake() since the last sleep ends it at once.
    [[nodiscard]] boost::asio::awaitable<void> sleep(std::optional<TimePoint> until = {});
    /// Until the time or stop(), whatever wakes it before.
    [[nodiscard]] boost::asio::awaitable<void> pause(Duration how_long);
    /// All sleeps end at once from now on.
    void stop();
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }

  private:
    const Clock& clock_;
    boost::asio::steady_timer timer_;
    bool woken_ = false;
    bool stopped_ = false;
};

}  // namespace mesh
