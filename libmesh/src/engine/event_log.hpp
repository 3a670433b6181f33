// The last events of the pod datapath, for whoever watches: drops always, every packet while
// somebody asked for it within the last seconds.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mesh/error.hpp>

#include "datapath/bpf/bpf_pods.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::engine {

/// @thread the executor's thread
class EventLog {
  public:
    /// @param pods outlives this object
    /// @param set_trace turns an event for each packet on and off
    EventLog(const boost::asio::any_io_executor& executor, datapath::BpfPods& pods,
             std::function<void(bool)> set_trace);

    void start();
    void stop();

    /// GET /v1/events: {"next": N, "lost": n, "events": [...]}, those numbered `since` and later,
    /// at most 2,000 of them, the latest; `lost` tells how many came that are not kept any more.
    /// @param trace also every packet, for the next seconds
    /// @param tables name what is behind an address
    [[nodiscard]] boost::json::object since(std::uint64_t number, bool trace,
                                            const state::ClusterTables& tables);

  private:
    void take();
    void wait();

    datapath::BpfPods& pods_;
    std::function<void(bool)> set_trace_;
    boost::asio::steady_timer timer_;
    std::deque<datapath::PodEvent> events_;
    std::uint64_t first_ = 1;  ///< number of events_.front()
    int trace_ticks_ = 0;      ///< for so many more ticks of the timer
    bool stopped_ = false;
};

}  // namespace mesh::engine
