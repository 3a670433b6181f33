// A gRPC server on one event loop. Handlers are registered by full method path and get a
// ServerCall: callbacks for what arrives, write() and finish() for what leaves. Nothing is shared
// between loops: a daemon with N loops makes N servers on the same port
// (ServerOptions::reuse_port).
//
// What a peer controls is bounded: connections, handshakes and their time, streams per connection,
// message and header sizes, what is received and not handled, queued answers, the time that
// requests and answers take, resets per second. Writes of one loop turn to one connection leave in
// one socket write.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.hpp"
#include "rpc/frame.hpp"
#include "rpc/status.hpp"
#include "rpc/tls.hpp"
#include "runtime/clock.hpp"

namespace mesh::rpc {

/// What became of a write.
enum class Write : std::uint8_t {
    kQueued,  ///< taken; it will be sent in order
    kFull,    ///< NOT taken: the queue is at its bound; on_writable tells when to try again
    kEnded,   ///< NOT taken: the call is over or was finished
};

class ServerCall;
using ServerCallPtr = std::shared_ptr<ServerCall>;

/// One call on a server, unary or streaming: the difference is only how many messages pass.
/// Lives as long as somebody holds it; after its end every operation does nothing. The server holds
/// it until on_end was called, then drops all callbacks, so that a callback may capture the
/// pointer. Callbacks are never called from inside a method of the same call.
/// @thread the server's loop
class ServerCall {
  public:
    virtual ~ServerCall() = default;

    /// The full method path, "/package.Service/Method".
    [[nodiscard]] virtual std::string_view method() const noexcept = 0;
    /// The request's header fields without those of HTTP/2 and gRPC themselves.
    [[nodiscard]] virtual const Metadata& metadata() const noexcept = 0;
    [[nodiscard]] virtual const Peer& peer() const noexcept = 0;
    /// When the client gives up, if it said so. The server then ends the call by itself.
    [[nodiscard]] virtual std::optional<TimePoint> deadline() const noexcept = 0;

    /// Each message of the client, in order. The view lives for the call of the callback only.
    virtual void on_message(std::function<void(std::string_view message)> callback) = 0;
    /// The client will send nothing more.
    virtual void on_half_close(std::function<void()> callback) = 0;
    /// After a write() that was kFull: half of the queue is free again.
    virtual void on_writable(std::function<void()> callback) = 0;
    /// Once, when the call is over: OK or the status given to finish() after the last byte left;
    /// kCancelled when the client reset it, kDeadlineExceeded, kUnavailable when the connection
    /// broke or the server stopped.
    virtual void on_end(std::function<void(const Status& status)> callback) = 0;

    /// Queues a message. A queue that is empty takes a message of any size, unless the connection
    /// is congested().
    [[nodiscard]] virtual Write write(Frame frame) = 0;
    /// Ends the call after what is queued: sends status and trailers. Without a message before it,
    /// the answer is a single header block (Trailers-Only).
    virtual void finish(Status status, Metadata trailers = {}) = 0;
    /// The answer of a unary call: the message, then OK. A large one on a connection that is
    /// congested() is dropped, and the call ends with kResourceExhausted.
    virtual void reply(Frame frame) = 0;
    /// ServerOptions::max_connection_queue_bytes wait on this call's connection: a large answer
    /// would be dropped, so do not make it.
    [[nodiscard]] virtual bool congested() const noexcept = 0;

    /// Stops reading: messages wait, and flow control makes the client wait in turn.
    virtual void pause() = 0;
    virtual void resume() = 0;

    /// Bytes taken by write() and not yet handed to the socket.
    [[nodiscard]] virtual std::size_t queued_bytes() const noexcept = 0;
    [[nodiscard]] virtual bool ended() const noexcept = 0;
};

/// Called when a call's headers are in; sets callbacks and returns.
using StreamHandler = std::function<void(const ServerCallPtr& call)>;
/// Called with the one request; answers by call->reply() or call->finish(), at once or later.
using UnaryHandler = std::function<void(const ServerCallPtr& call, std::string_view request)>;

struct ServerOptions {
    /// Absent: plain HTTP/2 with prior knowledge, for loopback only.
    std::optional<TlsOptions> tls;
    std::size_t max_connections = 10'000;      ///< more are closed at once
    std::size_t max_connections_per_name = 0;  ///< of one verified common name; 0 = no bound
    /// Connections whose handshake (TCP accept to HTTP/2 SETTINGS) is not done. For one more the
    /// oldest is closed: after a second one that has sent nothing, after five any. While there is
    /// none so old, nobody is accepted. 0 = no bound
    std::size_t max_handshakes = 256;
    /// An address that has more of them than this loses its oldest first. No bound by itself: many
    /// clients behind one address may come at once. 0 = all addresses are one
    std::size_t max_handshakes_per_address = 0;
    std::uint32_t max_concurrent_streams = 1'000;  ///< per connection
    std::size_t max_message_bytes = 4U
                                    << 20;  ///< received; larger ends the call: RESOURCE_EXHAUSTED
    /// Received on one connection and not handled yet: messages and requests that are not complete,
    /// calls that pause; beyond it a call ends: RESOURCE_EXHAUSTED. At least four messages.
    std::size_t max_buffered_bytes = 16U << 20;
    std::uint32_t max_header_bytes = 16U << 10;   ///< names + values of one header block
    std::size_t max_send_queue_bytes = 1U << 20;  ///< per call, see Write::kFull
    /// Per connection: beyond it write() is kFull and large answers are RESOURCE_EXHAUSTED. One
    /// message may go beyond it, so that a large answer has its way on an idle connection.
    std::size_t max_connection_queue_bytes = 64U << 20;
    std::int32_t stream_window = 256 << 10;    ///< bytes a client may have under way per stream
    std::int32_t connection_window = 1 << 20;  ///< and per connection
    /// How often the TLS files are looked at. When CAs or lists of revoked certificates have
    /// changed, connections of clients that would not be let in any more end with kUnauthenticated,
    /// two looks later at most; all others go on. 0 = looked at by new connections only, and none
    /// is ended.
    Duration tls_check_interval = std::chrono::milliseconds(400);
    Duration handshake_timeout = std::chrono::seconds(10);  ///< TCP accept to HTTP/2 SETTINGS
    /// A unary request, from its headers to its end, and any header block; 0 = no bound.
    Duration request_timeout = std::chrono::seconds(10);
    /// Messages wait and the peer has not taken a byte of them: the connection ends; 0 = never.
    Duration write_timeout = std::chrono::seconds(30);
    Duration keepalive_interval = std::chrono::seconds(30);  ///< silence before we ping; 0 = never
    Duration keepalive_timeout = std::chrono::seconds(20);   ///< then how long to wait for anything
    /// Pings of a client that come faster, a few apart that follow something it was sent, end the
    /// connection: GOAWAY "too_many_pings". As etcd's; grpc-go's clients ping every 10 s at most.
    /// 0 = any
    Duration min_ping_interval = std::chrono::seconds(5);
    /// Then, a tenth earlier or later, the client is told to go elsewhere; 0 = never. For
    /// replicas behind one name: a client that stays for ever stays with the replica that was up
    /// first.
    Duration max_connection_age = Duration::zero();
    /// And after that its calls end with kUnavailable, from where clients resume watches; 0 = they
    /// run to their own end.
    Duration max_connection_age_grace = Duration::zero();
    Duration default_deadline =
        Duration::zero();     ///< for unary handlers without grpc-timeout; 0 = none
    bool reuse_port = false;  ///< SO_REUSEPORT, for one server per loop
};

/// Counters of one server since it was made; gauges where named so.
struct ServerStats {
    std::uint64_t connections = 0;  ///< gauge
    std::uint64_t calls = 0;        ///< gauge
    std::uint64_t accepted = 0;
    std::uint64_t refused_limit = 0;      ///< over max_connections, or of one name
    std::uint64_t closed_on_request = 0;  ///< by close_connections()
    std::uint64_t closed_revoked = 0;     ///< ended: certificate revoked, or its CA not trusted now
    std::uint64_t closed_flood = 0;       ///< the three below
    std::uint64_t too_many_pings = 0;
    std::uint64_t too_many_resets = 0;
    std::uint64_t too_many_controls = 0;   ///< settings, priorities, empty data, window updates
    std::uint64_t closed_silent = 0;       ///< a keepalive ping was not answered
    std::uint64_t aged = 0;                ///< told to go at max_connection_age
    std::uint64_t drained = 0;             ///< told to go by drain_connections()
    std::uint64_t tls_handshakes = 0;      ///< done, resumed ones included
    std::uint64_t tls_resumed = 0;         ///< of those, resumed from a session before
    std::uint64_t handshakes_closed = 0;   ///< for newer ones, see max_handshakes
    std::uint64_t handshake_failures = 0;  ///< TLS or HTTP/2 never came up
    std::uint64_t calls_started = 0;
    std::uint64_t calls_refused = 0;  ///< bad path, content-type, limits
    std::uint64_t messages_received = 0;
    std::uint64_t messages_sent = 0;
    std::uint64_t bytes_received = 0;
    std::uint64_t bytes_sent = 0;
    std::uint64_t socket_writes = 0;
    std::uint64_t tls_reloads = 0;
};

/// One connection of a server, as it is now.
struct ConnectionInfo {
    std::uint64_t id = 0;  ///< of this server, rising as connections are accepted; never used again
    const Peer& peer;      ///< names are empty until the handshake is done
    TimePoint since;       ///< accepted
    TimePoint last_received;  ///< when bytes last came; since, before the handshake is done
    bool ready = false;       ///< the handshake is done
    bool going_away = false;  ///< told to go, or going: it takes no new calls
    std::size_t live_calls = 0;
    std::uint64_t bytes_received = 0;  ///< on the wire, TLS and HTTP/2 included
    std::uint64_t bytes_sent = 0;
    std::uint64_t socket_writes = 0;
    std::size_t queued_bytes = 0;  ///< that the socket has not taken yet
};

/// Accepts connections and serves calls on one loop.
/// @thread the loop's thread only, construction and destruction included
class Server {
  public:
    Server(boost::asio::any_io_executor loop, ServerOptions options, const Clock& clock,
           Logger logger);
    /// As stop(); callbacks of live calls are told kUnavailable before it returns.
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// Registers a handler for a full method path such as "/etcdserverpb.Watch/Watch"; a second
    /// registration of a path replaces the first. Paths without one answer UNIMPLEMENTED.
    void handle(std::string_view path, StreamHandler handler);
    void handle_unary(std::string_view path, UnaryHandler handler);
    /// Asked when the headers of a call are in, before its body and its handler, unknown paths
    /// included: anything but OK ends the call. One per server.
    void admit(std::function<Status(const ServerCall& call)> admission);
    /// A connection whose handshake was done is over, and with it the peer that its calls told.
    void on_peer_gone(std::function<void(const Peer& peer)> callback);
    /// Instead of UNIMPLEMENTED for unknown paths.
    void handle_unknown(StreamHandler handler);

    /// Listens; may be called for several addresses.
    /// @param address an IP address in text; @param port 0 = the kernel chooses
    /// @return the port
    /// @errors kInvalidArgument (address; TLS files), kUnavailable (in use, not permitted)
    [[nodiscard]] Result<std::uint16_t> listen(std::string_view address, std::uint16_t port);

    /// Stops accepting, sends GOAWAY, lets running calls end for at most `grace`, then stop()s.
    /// Streams without an end of their own (watches) are ended with kUnavailable after `grace`.
    [[nodiscard]] boost::asio::awaitable<void> async_drain(Duration grace);
    /// Closes everything now. Idempotent.
    void stop();

    [[nodiscard]] ServerStats stats() const;
    /// When the certificates in use end; nothing without TLS, and before listen().
    [[nodiscard]] TlsExpiry tls_expiry() const;
    /// Each connection, in the order of their ids. Nothing is copied; the visitor must not call the
    /// server. O(connections)
    void for_each_connection(const std::function<void(const ConnectionInfo& info)>& visit) const;
    /// Ends the connections that are chosen: their calls are told `why`, which reaches the client
    /// where its socket takes it, then the connection is closed; all that in the loop's next turn,
    /// so that a handler may ask for it. @return how many
    std::size_t close_connections(const std::function<bool(const ConnectionInfo& info)>& which,
                                  const Status& why);
    /// Tells the clients chosen to go elsewhere (GOAWAY); running calls may end. @return how many
    std::size_t drain_connections(const std::function<bool(const ConnectionInfo& info)>& which);

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::rpc
