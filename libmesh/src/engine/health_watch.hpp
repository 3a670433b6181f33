// Probing, between the merger that says what is to be probed and what follows, and the prober; and
// the port of this node that answers the others. Its verdicts are this node's own: nothing of them
// is published.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/json/object.hpp>
#include <functional>
#include <map>
#include <mesh/mesh.hpp>
#include <string>
#include <variant>
#include <vector>

#include "base/log.hpp"
#include "compile/services/service_merger.hpp"
#include "engine/node_state.hpp"
#include "runtime/clock.hpp"
#include "sources/health/health_server.hpp"
#include "sources/health/prober.hpp"

namespace mesh::engine {

/// How many targets are in which state.
struct HealthCounts {
    std::size_t healthy = 0, unhealthy = 0, unknown = 0;
};

/// @thread the executor's thread
class HealthWatch {
  public:
    /// @param node outlives it
    /// @param on_finding after a finding was noted: the node wants a flush
    HealthWatch(boost::asio::any_io_executor executor, const Clock& clock, Rng rng,
                HealthOptions options, state::ClusterKey own, std::string node_name,
                NodeState& node, Logger log, std::function<void()> on_finding);

    /// Takes what the last flush changed: targets, and this node's addresses.
    void refresh();
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

    /// For status: the port, nodes, and what is not healthy; at most 1000 of each.
    [[nodiscard]] boost::json::object status() const;
    [[nodiscard]] HealthCounts hosts() const { return count(true); }
    [[nodiscard]] HealthCounts backends() const { return count(false); }
    [[nodiscard]] const sources::health::ProbeSchedule& schedule() const noexcept {
        return prober_.schedule();
    }
    /// 0 = this node answers.
    [[nodiscard]] bool answers() const noexcept { return listen_error_.empty(); }

  private:
    [[nodiscard]] sources::health::Target to_target(const compile::HostProbe& probe) const;
    void take(const sources::health::Verdict& verdict);
    void listen();
    [[nodiscard]] HealthCounts count(bool hosts) const;

    const Clock& clock_;
    HealthOptions options_;
    state::ClusterKey own_;
    std::string node_name_;
    NodeState& node_;
    Logger log_;
    std::function<void()> on_finding_;
    sources::health::Prober prober_;
    sources::health::HealthServer server_;
    std::string listen_error_;
};

}  // namespace mesh::engine
