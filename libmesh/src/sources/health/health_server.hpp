// Answers the probes of other nodes' agents, and of Cilium's, at this node's addresses: any request
// gets 200. It says that the node is reachable, no more: an agent that is down while its node lives
// takes nothing from the node's pods.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <mesh/error.hpp>

#include "base/log.hpp"
#include "model/ip.hpp"

namespace mesh::sources::health {

/// @thread the executor's thread
class HealthServer {
  public:
    HealthServer(boost::asio::any_io_executor executor, Logger log);
    /// After async_stop() completed, or if listen() was never called.
    ~HealthServer();
    HealthServer(const HealthServer&) = delete;
    HealthServer& operator=(const HealthServer&) = delete;

    /// Answers at this address, too; nothing if it does already.
    /// @param port 0 = one that is free, see port()
    /// @errors kUnavailable: the address is not this node's, or somebody else has the port
    [[nodiscard]] Result<void> listen(const model::IpAddress& address, std::uint16_t port);
    /// Of the last listen(); 0 = none.
    [[nodiscard]] std::uint16_t port() const noexcept;
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::sources::health
