// A small HTTP/1.1 server for what a daemon tells about itself: JSON below its routes, /healthz,
// /readyz, /metrics. It listens on a Unix socket, and on a loopback TCP port where asked. Read-only: GET and
// HEAD. No client can hold more than a bounded amount of memory, time or connections.
// Users: every daemon; meshctl reads it with http_get.hpp.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.hpp"

namespace prometheus {
class Registry;
}

namespace mesh::serve {

struct StatusRequest {
    std::string path;    ///< decoded, without the query, e.g. "/v1/services"
    std::string query;   ///< as sent, without "?"; may be empty
    std::string body{};  ///< of what is too long for a query; nearly always empty
    /// The decoded value of `name` in the query ("a=1&b" has a = "1", b = ""), or nullopt.
    [[nodiscard]] std::optional<std::string> parameter(std::string_view name) const;
};

struct StatusResponse {
    unsigned status = 200;
    std::string content_type = "application/json";
    std::string body;
};

/// Makes the answer to one GET. Runs on the server's executor and must not block. An exception that
/// leaves it is answered with 500 and logged.
using StatusHandler = std::function<StatusResponse(const StatusRequest&)>;
/// The same for what has to ask other event loops first. Cancelled by async_stop().
using AsyncStatusHandler =
    std::function<boost::asio::awaitable<StatusResponse>(StatusRequest request)>;

struct StatusServerOptions {
    /// Empty = no Unix socket. At most 107 bytes (sockaddr_un). The folder must exist.
    std::filesystem::path unix_socket;
    /// 0600 or, for a group of operators, 0660.
    std::uint32_t unix_socket_mode = 0600;
    /// Listen on 127.0.0.1 as well; 0 = a port of the kernel's choice, see
    /// StatusServer::tcp_port().
    std::optional<std::uint16_t> tcp_port;
    std::size_t max_connections = 64;         ///< further ones are closed at once
    std::size_t max_header_bytes = 8 * 1024;  ///< more is answered with 431
    std::size_t max_body_bytes = 64 * 1024;   ///< of a request; more is answered with 413
    /// The same over the Unix socket, whose users may do more than to fill our memory.
    std::size_t max_unix_body_bytes = 16 * 1024 * 1024;
    std::chrono::milliseconds request_timeout{10'000};  ///< first byte to last byte of a request
    std::chrono::milliseconds idle_timeout{60'000};     ///< between requests of one connection
    std::chrono::milliseconds write_timeout{30'000};    ///< for sending one response
};

/// The server. Register routes, start(), and co_await async_stop() before it is destroyed.
/// @thread the executor's thread
class StatusServer {
  public:
    StatusServer(boost::asio::any_io_executor executor, Logger log, StatusServerOptions options);
    ~StatusServer();
    StatusServer(const StatusServer&) = delete;
    StatusServer& operator=(const StatusServer&) = delete;

    /// Answers GET `path` (exact match; no trailing slash) by `handler`. A path that ends in "/*"
    /// takes everything below it; the longest match wins. A later call replaces an earlier one.
    void route(std::string path, StatusHandler handler);
    void route_async(std::string path, AsyncStatusHandler handler);
    /// Answers GET /metrics with the registry in the Prometheus text format.
    void serve_metrics(std::shared_ptr<prometheus::Registry> registry);
    /// Decides GET /healthz and /readyz: 200 "ok" or 503 with the error's message. Without it:
    /// always 200.
    void set_health(std::function<Result<void>()> check);

    /// Opens the sockets and begins to answer. A stale socket file (nobody listens) is replaced.
    /// @errors kConflict: a live server has that socket; kInvalidArgument: path too long or not a
    ///   socket; kUnavailable: bind or listen failed (path and errno in the detail)
    [[nodiscard]] Result<void> start();
    /// Closes listeners and connections, waits for their end, removes the socket file. Idempotent.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();
    /// The TCP port in use, 0 if none.
    [[nodiscard]] std::uint16_t tcp_port() const noexcept;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::serve
