// A gRPC client: Channel is one HTTP/2 connection to one endpoint, from connect to its loss. It
// does not reconnect: whoever knows several endpoints (sources/etcd) makes a new Channel, and so
// decides what happens to calls that were under way. Callbacks underneath, coroutines at the edge.
#pragma once

#include <mesh/error.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/log.hpp"
#include "rpc/frame.hpp"
#include "rpc/server.hpp"
#include "rpc/status.hpp"
#include "rpc/tls.hpp"
#include "runtime/clock.hpp"

namespace mesh::rpc {

struct ChannelOptions {
    std::string host;  ///< DNS name or IP address (no brackets)
    std::uint16_t port = 0;
    std::string authority;  ///< :authority of requests; empty = host:port
    /// Null: plain HTTP/2 with prior knowledge. Shared by the channels of one loop, so that
    /// changed files are noticed once.
    std::shared_ptr<TlsCredentials> tls;
    std::string server_name;  ///< name to verify; empty = TlsOptions::server_name, else host
    Duration connect_timeout = std::chrono::seconds(5);  ///< resolve + TCP + TLS + HTTP/2 SETTINGS
    Duration keepalive_interval = std::chrono::seconds(15);  ///< silence before we ping; 0 = never
    Duration keepalive_timeout = std::chrono::seconds(25);   ///< then how long to wait for anything
    /// Servers of grpc-go count pings on a connection without calls as abuse.
    bool keepalive_without_calls = false;
    std::size_t max_message_bytes = 64U << 20;  ///< received
    std::uint32_t max_header_bytes = 64U << 10;
    std::size_t max_send_queue_bytes = 1U << 20;  ///< per call, see Write::kFull
    std::int32_t stream_window = 4 << 20;
    std::int32_t connection_window = 16 << 20;
    std::string user_agent = "libmesh";
};

struct CallOptions {
    Metadata metadata;                     ///< lower-case names
    Duration deadline = Duration::zero();  ///< from now; sent as grpc-timeout; 0 = none
    /// Ends with kUnavailable when nothing at all has arrived on the connection for that long: a
    /// server that hangs, unlike one that is slow to send much; 0 = never.
    Duration silence = Duration::zero();
};

/// What a streaming call reports. Any may be empty. After on_end all are dropped.
struct CallEvents {
    /// The server's header fields, before the first message.
    std::function<void(const Metadata& metadata)> on_headers;
    /// Each message, in order. The view lives for the call of the callback only.
    std::function<void(std::string_view message)> on_message;
    /// In place of on_message: the message is the callee's, without a copy where it can be.
    std::function<void(std::string&& message)> on_own_message;
    /// After a write() that was kFull: half of the queue is free again.
    std::function<void()> on_writable;
    /// Exactly once, also when the channel breaks or is closed; never from inside Channel::call().
    std::function<void(const Status& status, const Metadata& trailers)> on_end;
};

/// One call of a client. The channel holds it until its end, callers as long as they like.
/// @thread the channel's loop
class ClientCall {
  public:
    virtual ~ClientCall() = default;
    /// Queues a message. A queue that is empty takes a message of any size.
    [[nodiscard]] virtual Write write(Frame frame) = 0;
    /// Says that no more messages follow (after what is queued).
    virtual void half_close() = 0;
    /// Resets the stream; on_end gets kCancelled, never from inside cancel().
    virtual void cancel() = 0;
    /// Drops all callbacks, then cancels: nothing is reported any more. For owners that go away.
    virtual void abandon() = 0;
    /// Stops reading: messages wait, and flow control makes the server wait in turn.
    virtual void pause() = 0;
    virtual void resume() = 0;
    [[nodiscard]] virtual std::size_t queued_bytes() const noexcept = 0;
    [[nodiscard]] virtual bool ended() const noexcept = 0;
};
using ClientCallPtr = std::shared_ptr<ClientCall>;

/// How a unary call ended: the raw status, and the message if it is OK.
struct UnaryResult {
    Status status;
    std::string message;
    Metadata trailers;

    /// The message parsed as a Protobuf, or the status as an Error.
    /// @errors the mapped status; kCorrupt when the bytes are no such message
    template <class Protobuf>
    [[nodiscard]] Result<Protobuf> parse() const {
        if (!status.ok()) return to_error(status);
        Protobuf parsed;
        if (!parsed.ParseFromArray(message.data(), static_cast<int>(message.size())))
            return Error(Errc::kCorrupt, "the answer is no valid message of its type");
        return parsed;
    }
};

/// One connection to one endpoint. Make, connect once, call; after its loss make another.
/// Destroying it closes it: live calls are told kCancelled before the destructor returns (abandon()
/// those whose owner is gone).
/// @thread the loop's thread only, construction and destruction included
class Channel {
  public:
    Channel(boost::asio::any_io_executor loop, ChannelOptions options, const Clock& clock,
            Logger logger);
    ~Channel();
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    /// Connects: name resolution, TCP (each address in turn), TLS, HTTP/2. Once per Channel.
    /// @errors kUnavailable, kTimeout, kPermission (a certificate was refused, by us or by the
    /// server), kInvalidArgument (TLS files); each names the endpoint and the cause
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_connect();
    void connect(std::function<void(Result<void>)> done);

    /// Once, when a connected channel is lost or was told to go away and its last call has ended;
    /// not after close(). The reason is for people. Set before connecting.
    void on_closed(std::function<void(const Error& reason)> callback);

    /// Starts a call. On a channel that is not connected it ends with kUnavailable (by on_end).
    ClientCallPtr call(std::string_view path, CallOptions options, CallEvents events);

    /// Sends one message and waits for one. Cancellation (Asio's terminal) resets the call.
    [[nodiscard]] boost::asio::awaitable<UnaryResult> async_unary(std::string path, Frame request,
                                                                  CallOptions options);
    void unary(std::string_view path, Frame request, CallOptions options,
               std::function<void(UnaryResult)> done);

    /// Closes the connection now; live calls are told `why` before it returns.
    void close(const Status& why = {StatusCode::kCancelled, "the channel was closed"});

    /// Connected, and not told to go away.
    [[nodiscard]] bool usable() const noexcept;
    /// Connected, and told to go away: no new calls, those that run may end.
    [[nodiscard]] bool going_away() const noexcept;
    /// After on_closed: the server ended the connection for its keepalive pings. The next one
    /// should have twice the keepalive_interval.
    [[nodiscard]] bool too_many_pings() const noexcept;
    /// When bytes last came from the server; before that, when it connected.
    [[nodiscard]] TimePoint last_received() const noexcept;
    [[nodiscard]] const Peer& peer() const noexcept;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::rpc
