// Makes the probes that ProbeSchedule asks for: non-blocking connects, and GETs on top of them, on
// one executor with one timer for all. Probes end by a reset, not a FIN, so that thousands of them
// leave no sockets in TIME_WAIT.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "sources/health/probe_schedule.hpp"

namespace mesh::sources::health {

/// @thread the executor's thread
class Prober {
  public:
    /// @param on_verdict may add and remove targets
    Prober(boost::asio::any_io_executor executor, const Clock& clock, Rng rng,
           ScheduleLimits limits, std::function<void(const Verdict&)> on_verdict);
    /// Ends all probes; on_verdict is not called any more.
    ~Prober();
    Prober(const Prober&) = delete;
    Prober& operator=(const Prober&) = delete;

    void add(const Target& target);
    void remove(const Target& target);
    /// Ends all probes and starts no other.
    void stop();

    [[nodiscard]] const ProbeSchedule& schedule() const noexcept;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::sources::health
