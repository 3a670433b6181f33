// The Lease service, and what the store does by the clock: leases end, history is trimmed. Internal
// to serve/etcd.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <memory>

#include "serve/etcd/service_core.hpp"
#include "serve/etcd/tick_pace.hpp"

namespace mesh::serve {

/// @thread the loop's
class LeaseService : public std::enable_shared_from_this<LeaseService> {
  public:
    explicit LeaseService(std::shared_ptr<ServiceCore> core);
    void attach(rpc::Server& server, const ListenerPtr& listener);
    void start() { arm(); }
    void stop() { timer_.cancel(); }

  private:
    class KeepAliveStream;
    // Of the etcd's store, or of a connection's own (InitLockShadow).
    void grant(const rpc::ServerCallPtr& call, std::string_view bytes, store::Store& store);
    void revoke(const rpc::ServerCallPtr& call, std::string_view bytes, store::Store& store,
                const Listener& listener);
    void time_to_live(const rpc::ServerCallPtr& call, std::string_view bytes, store::Store& store,
                      const Listener& listener);
    /// Whether the peer may do this with all keys of a lease, as etcd asks.
    [[nodiscard]] rpc::Status check_keys(const rpc::ServerCall& call, const Listener& listener,
                                         EtcdAction action, store::LeaseId id);
    void list(const rpc::ServerCallPtr& call, store::Store& store);
    void begin_write(const store::Store& store);
    /// Sees to it that a tick comes when something is due; a wait under way is only shortened.
    void arm();
    void tick();

    std::shared_ptr<ServiceCore> core_;
    boost::asio::steady_timer timer_;
    bool waiting_ = false;
    TickPace pace_;
};

}  // namespace mesh::serve
