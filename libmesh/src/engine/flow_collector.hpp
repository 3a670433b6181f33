// Gives back the room of timed-out flows of services at tc, some each second. Internal to this
// folder.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/log.hpp"
#include "datapath/pods.hpp"
#include "runtime/clock.hpp"

namespace mesh::engine {

/// @thread the executor's thread
class FlowCollector {
  public:
    /// @param pods, clock outlive this object
    FlowCollector(const boost::asio::any_io_executor& executor, datapath::PodDatapath& pods,
                  const Clock& clock, Logger log);

    void start() { wait(); }
    void stop();

  private:
    void wait();
    void collect();

    datapath::PodDatapath& pods_;
    const Clock& clock_;
    Logger log_;
    boost::asio::steady_timer timer_;
    bool failed_ = false;  ///< and it was told
    bool stopped_ = false;
};

}  // namespace mesh::engine
