// A small server that says who answered: HTTP/1.1 over TCP, and one JSON text per datagram over
// UDP, on the same port of both families. One thread, one poll loop, bounded memory per client.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <string>

#include "base/log.hpp"

namespace mesh::echo {

struct Options {
    std::uint16_t port = 8080;  ///< 0 = of the kernel's choice
    bool udp = false;           ///< answer datagrams as well
    std::string cluster, node, namespace_, pod;
    /// How long new connections are still taken after a stop was asked for.
    std::chrono::milliseconds shutdown_delay{0};
    /// How long requests in flight may take after that.
    std::chrono::milliseconds shutdown_grace{20'000};
};

/// Answers every GET, HEAD or POST with {"cluster","node","namespace","pod","client","server",
/// "path","protocol"}; "?delay=<ms>" in the path answers that much later, at most a minute.
/// "/healthz" answers 200 until a stop was asked for, then 503.
class Server {
  public:
    Server(Options options, Logger log);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// Opens the sockets. @errors kUnavailable with the port and the system's words
    [[nodiscard]] Result<void> listen();
    [[nodiscard]] std::uint16_t port() const noexcept;
    /// Serves until SIGTERM or SIGINT, which must be blocked: then takes no new connection, ends
    /// idle ones, finishes what is in flight, and returns.
    [[nodiscard]] Result<void> run();

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::echo
