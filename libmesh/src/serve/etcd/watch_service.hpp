// The Watch service: streams, their watches, and the catching up of those that are behind. Internal
// to serve/etcd.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "serve/etcd/service_core.hpp"

namespace mesh::serve {

class WatchStream;

/// @thread the loop's
class WatchService : public std::enable_shared_from_this<WatchService> {
  public:
    explicit WatchService(std::shared_ptr<ServiceCore> core);
    ~WatchService();

    void start();
    void stop();
    void open(const rpc::ServerCallPtr& call, ListenerPtr listener);
    /// Watchers may be behind: sees to them in the next turns of the loop.
    void schedule_catch_up();

    [[nodiscard]] const std::set<WatchStream*>& streams() const noexcept { return streams_; }
    [[nodiscard]] ServiceCore& core() noexcept { return *core_; }
    void closed(WatchStream* stream);
    /// There is a new table of roles: ends watches whose peers may not have them any more.
    void recheck();
    /// The stream waits for all its watches to have seen everything before it answers a progress
    /// request.
    void wait_for_progress(WatchStream* stream) { progress_waiting_.insert(stream); }

  private:
    void catch_up();
    void arm_progress_timer();

    std::shared_ptr<ServiceCore> core_;
    std::set<WatchStream*> streams_;
    std::set<WatchStream*> progress_waiting_;
    boost::asio::steady_timer progress_timer_;
    bool catch_up_scheduled_ = false;
};

}  // namespace mesh::serve
