// What the HTTP proxy may be told, with its defaults.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "model/ip.hpp"
#include "model/policy.hpp"
#include "runtime/clock.hpp"
#include "serve/l7/http_head.hpp"
#include "serve/l7/http_policy.hpp"

namespace mesh::serve::l7 {

/// An address and a port, host byte order.
struct Endpoint {
    model::IpAddress address;
    std::uint16_t port = 0;
    friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

/// Who speaks to whom, as the packets had it before they were led to the proxy.
struct Flow {
    model::policy::Direction direction = model::policy::Direction::kIngress;
    Endpoint source;       ///< the client
    Endpoint destination;  ///< the server that the client meant
};

/// What policy says of a flow.
struct FlowPolicy {
    /// nullptr: nothing may pass.
    std::shared_ptr<const HttpPolicy> policy;
    std::uint32_t source_identity = 0,
                  destination_identity = 0;  ///< for the access log; 0: unknown
    /// Of the socket to the server instead of HttpProxyOptions::mark; 0: that one.
    std::uint32_t mark = 0;
};

/// Where the proxy asks. @thread any thread, several at a time; must not block
class PolicySource {
  public:
    virtual ~PolicySource() = default;
    /// Changes whenever find() may answer differently. Asked at every request.
    [[nodiscard]] virtual std::uint64_t generation() const noexcept = 0;
    /// Asked once for each connection and generation, at its next request. What it throws denies.
    [[nodiscard]] virtual FlowPolicy find(const Flow& flow) const = 0;
};

/// Bounds of what one client can take, and times. A time of 0 is no bound.
struct HttpLimits {
    HeadLimits head;  ///< 64 KiB and 128 fields; of requests, responses and of trailers
    Duration header_timeout = std::chrono::seconds(10);  ///< first byte of a head to its last
    /// No byte of a request's body that is not complete.
    Duration body_timeout = std::chrono::seconds(60);
    Duration write_timeout = std::chrono::seconds(60);  ///< a peer that takes nothing
    Duration idle_timeout = std::chrono::hours(1);      ///< nothing at all, in either direction
    Duration connect_timeout = std::chrono::seconds(5);
    /// Requests that wait for their response before more are read (HTTP/1.1 pipelining).
    std::size_t max_pipelined = 64;
    /// Bytes that wait for a peer before the other one is no longer read.
    std::size_t max_buffered = 256 << 10;
    /// Of a denied request's body that is read and thrown away to keep the connection.
    std::uint64_t max_discarded = 64 << 10;
    std::uint32_t max_streams = 100;        ///< HTTP/2, at a time
    std::int32_t stream_window = 64 << 10;  ///< HTTP/2, bytes received and not passed on
    std::int32_t connection_window = 1 << 20;
    /// HTTP/2 streams that a client ends before their response: a burst, and per second after it.
    std::uint32_t reset_burst = 200;
    std::uint32_t resets_per_second = 20;
};

struct AccessLogOptions {
    /// JSON lines; empty: no file. At `max_bytes` it becomes "<file>.1", in place of the one
    /// before.
    std::filesystem::path file;
    std::uint64_t max_bytes = 16 << 20;
    std::uint32_t file_mode = 0600;
    /// Lines kept in memory for recent(); 0: none.
    std::size_t recent = 1024;
    /// Lines reach file and memory this much later at most.
    Duration flush_interval = std::chrono::milliseconds(200);
    bool allowed = true;  ///< also what passes; else only what does not
};

struct HttpProxyOptions {
    std::size_t loops = 1;  ///< threads
    /// The listeners take connections to any address, and servers see the client's address. Needs
    /// CAP_NET_ADMIN and packets that are led here; without it a plain proxy, see `resolve`.
    bool transparent = true;
    std::uint32_t mark = 0;  ///< SO_MARK of the sockets to servers and of listeners; 0: none
    /// Where the server of an original destination is; empty: there. For tests.
    std::function<Endpoint(const Endpoint& destination)> resolve;
    bool http2 = true;                               ///< HTTP/2 with prior knowledge; else refused
    std::size_t max_connections = 20'000;            ///< further ones are reset
    std::size_t max_connections_per_client = 2'000;  ///< of one address
    HttpLimits limits;
    AccessLogOptions access_log;
};

}  // namespace mesh::serve::l7
