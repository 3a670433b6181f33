// What one event loop of mesh-proxy does: the etcd API over a store, and a listener of each kind.
// All loops listen on the same ports; the kernel spreads connections over them.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "client_report.hpp"
#include "rpc/server.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/access_control.hpp"
#include "serve/etcd/etcd_service.hpp"
#include "state/store/store.hpp"

namespace mesh::proxy_daemon {

/// Where a listener listens, and to whom; what they may do says EtcdServiceOptions::access.
struct ListenerPlan {
    std::string name;     ///< "remote" or "local"
    std::string flag;     ///< that asked for it, for errors
    std::string address;  ///< an IP address
    std::uint16_t port = 0;
    rpc::ServerOptions options;
    bool init_locks = false;
    bool writable = false;  ///< its clients write to the store itself, so that one loop serves them
};

/// What a loop tells of one of its listeners.
struct ListenerReport {
    std::string name;
    rpc::ServerStats server;
    rpc::TlsExpiry tls;
};

/// What a loop tells of itself: plain numbers, which add up over loops.
struct LoopReport {
    store::Revision revision = 0;
    store::StoreStats store;
    serve::EtcdServiceStats service;
    std::vector<ListenerReport> listeners;
    std::vector<std::size_t> watchers_by_group;  ///< as serve::watch_groups()
    std::size_t slow_watchers = 0;               ///< that wait for their clients to read
    std::size_t queued_bytes = 0;                ///< for clients, not yet taken by their sockets
};

/// @thread its loop, construction and destruction included
class ServingLoop {
  public:
    /// @param store outlives it
    /// @param options with access, which all loops share
    ServingLoop(boost::asio::any_io_executor loop, store::Store& store, const Clock& clock,
                serve::EtcdServiceOptions options, Logger log);
    ~ServingLoop();
    ServingLoop(const ServingLoop&) = delete;
    ServingLoop& operator=(const ServingLoop&) = delete;

    /// @return the port. @errors those of rpc::Server::listen(), with the flag's name
    [[nodiscard]] Result<std::uint16_t> listen(ListenerPlan plan);
    /// Ends all connections, running calls after a second at most.
    [[nodiscard]] boost::asio::awaitable<void> drain();

    [[nodiscard]] serve::EtcdService& service() noexcept { return *service_; }
    /// @complexity O(connections + watched ranges + watchers behind)
    [[nodiscard]] LoopReport report() const;
    /// @complexity O(connections + Watch streams)
    [[nodiscard]] std::vector<ConnectionReport> connections() const;
    /// @complexity O(watchers)
    [[nodiscard]] std::vector<RangeReport> watched_ranges() const;
    /// Watches of a client by its name, at most `limit` of them; 0 = all.
    /// @return them, and how many there are
    [[nodiscard]] std::pair<std::vector<WatchReport>, std::size_t> watches_of(
        std::string_view name, std::size_t limit) const;

  private:
    struct Listener {
        std::string name;
        std::unique_ptr<rpc::Server> server;
    };

    boost::asio::any_io_executor loop_;
    store::Store& store_;
    const Clock& clock_;
    Logger log_;
    std::shared_ptr<serve::AccessControl> access_;
    std::unique_ptr<serve::EtcdService> service_;  // outlives the servers
    std::vector<Listener> listeners_;
};

}  // namespace mesh::proxy_daemon
