// What stands between a client's connection and the one to its server: bytes in, bytes out, no
// sockets. One for HTTP/1.x (http1_filter.hpp), one for HTTP/2 (http2_filter.hpp). Internal to l7/.
#pragma once

#include <cstdint>
#include <string_view>

#include "serve/l7/access_log.hpp"
#include "serve/l7/options.hpp"
#include "serve/l7/outbox.hpp"

namespace mesh::serve::l7 {

/// What a filter needs of its surroundings. @thread the connection's loop
class FilterHost {
  public:
    virtual const HttpLimits& limits() const noexcept = 0;
    virtual const Flow& flow() const noexcept = 0;
    virtual TimePoint now() const noexcept = 0;
    /// In force now; lives until the next call. Its `policy` is nullptr if nothing may pass.
    virtual const FlowPolicy& policy() = 0;
    /// A request has come to its end.
    virtual void count(Verdict verdict) noexcept = 0;
    /// Whether log() does anything: else nothing needs to be kept for it.
    virtual bool logs(Verdict verdict) const noexcept = 0;
    /// Adds time, flow and identities.
    virtual void log(AccessRecord& record) = 0;

  protected:
    ~FilterHost() = default;
};

/// Why there is no server, or no longer one.
enum class ServerFailure : std::uint8_t { kUnreachable, kConnectTimeout, kReset };

enum class Ending : std::uint8_t {
    kNone,
    kClose,  ///< when to_client is empty
    kReset,  ///< at once: what the client has of a response is not all of it
};

/// What a connection waits for, for its deadlines.
struct Waiting {
    TimePoint head_since = TimePoint::max();  ///< a request's head has begun then
    bool body = false;                        ///< a request's body is not complete
};

/// After any call look at ending(), at both outboxes, and at what is read.
class Filter {
  public:
    virtual ~Filter() = default;

    /// Views of `bytes` may be in the outboxes until Outbox::keep().
    virtual void from_client(std::string_view bytes) = 0;
    virtual void from_server(std::string_view bytes) = 0;
    virtual void client_end() = 0;  ///< it sends no more
    virtual void server_end() = 0;  ///< it sends no more
    virtual void server_failed(ServerFailure failure) = 0;
    /// Outboxes have room again. @see wants_advance
    virtual void advance() = 0;
    /// There is more to put into an outbox that has room.
    [[nodiscard]] virtual bool wants_advance() const noexcept { return false; }
    /// A request was not complete in time. @see Waiting
    virtual void request_timeout() = 0;
    /// Ends as soon as nothing is in flight.
    virtual void drain() = 0;

    [[nodiscard]] virtual bool reads_client() const noexcept = 0;
    [[nodiscard]] virtual bool reads_server() const noexcept = 0;
    [[nodiscard]] virtual Waiting waiting() const noexcept = 0;
    /// The client has said all that it will say to the server: half close, behind to_server.
    [[nodiscard]] virtual bool server_told_end() const noexcept = 0;
    /// The server has, in a tunnel: half close, behind to_client.
    [[nodiscard]] virtual bool client_told_end() const noexcept = 0;
    /// The server's connection is of no use any more.
    [[nodiscard]] virtual bool server_done() const noexcept = 0;
    [[nodiscard]] virtual Ending ending() const noexcept = 0;

    Outbox to_client, to_server;
};

inline constexpr std::string_view kDeniedBody = "Access denied\r\n";
inline constexpr std::string_view kReasonHeader = "x-mesh-reason";
inline constexpr std::string_view kDeniedByPolicy = "policy";
inline constexpr std::string_view kNoPolicy = "no policy for this connection";
inline constexpr std::string_view kConnectDenied = "CONNECT is not let pass";

/// Asks policy, without exceptions: what fails, denies. @return the reason; empty: allowed
[[nodiscard]] std::string_view decide(FilterHost& host, const RequestView& request,
                                      Decision& decision) noexcept;
[[nodiscard]] std::string_view text_of(ServerFailure failure) noexcept;
[[nodiscard]] std::string_view reason_phrase(unsigned status) noexcept;

}  // namespace mesh::serve::l7
