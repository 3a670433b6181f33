// The I/O of one connection: a TCP socket, TLS if wanted, a Session, one timer. All that happens in
// one turn of the loop leaves in one socket write. Internal to rpc/.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/session.hpp"
#include "rpc/tls_engine.hpp"

namespace mesh::rpc::detail {

class Connection;

/// Scratch memory that the connections of one loop share, since only one of them works at a time.
struct LoopBuffers {
    std::string in = std::string(64 << 10, '\0');
    std::string plain;
    std::string out;
    std::string cipher;
    /// Connections whose turn comes next; owned by the handler that gives it to them.
    std::weak_ptr<std::vector<std::shared_ptr<Connection>>> ready;
};

/// Those that all channels of an execution context share, whose handlers run one at a time: a mesh
/// has hundreds of channels.
[[nodiscard]] std::shared_ptr<LoopBuffers> buffers_of(const boost::asio::any_io_executor& loop);

struct IoCounters {
    std::uint64_t bytes_received = 0;
    std::uint64_t bytes_sent = 0;
    std::uint64_t socket_writes = 0;
};

/// @thread the loop's; kept alive by its own pending operations until closed
class Connection : public std::enable_shared_from_this<Connection> {
  public:
    using MakeSession =
        std::function<Result<std::unique_ptr<Session>>(std::shared_ptr<const Peer>)>;

    /// @param socket connected @param tls null for plain HTTP/2
    Connection(boost::asio::ip::tcp::socket socket, std::unique_ptr<TlsEngine> tls,
               const Clock& clock, std::shared_ptr<LoopBuffers> buffers, IoCounters& counters);
    ~Connection();

    std::uint64_t id = 0;     ///< its owner's
    TimePoint since{};        ///< its owner's
    std::uint64_t trust = 0;  ///< its owner's: the version of the files that let the peer in
    /// Called with the peer once TLS is done; at once without TLS. An error refuses the peer.
    MakeSession make_session;
    /// Something waits to be sent and the peer has taken nothing of it for this long: the
    /// connection ends. 0 = never.
    Duration write_timeout{};
    /// The peer's SETTINGS are here: calls may begin.
    std::function<void()> on_ready;
    /// Once, unless close() was called: the transport is gone and all calls were told.
    std::function<void(const Error& reason)> on_closed;

    void start(Duration handshake_timeout);
    /// Closes now; calls are told `why`.
    void close(const Status& why);
    /// Ends calls with `why`, says GOAWAY, sends what the socket takes of that in the next turn and
    /// closes; on_closed is called. A peer that does not read holds nothing up.
    void end(const Status& why);
    [[nodiscard]] bool closed() const noexcept { return closed_; }
    [[nodiscard]] bool was_ready() const noexcept { return ready_told_; }
    /// On the wire: TLS and HTTP/2 included.
    [[nodiscard]] const IoCounters& traffic() const noexcept { return traffic_; }
    /// Bytes that the socket has not taken yet.
    [[nodiscard]] std::size_t queued_bytes() const noexcept {
        return pending_.size() + (session_ ? session_->queued_bytes() : 0);
    }
    /// The peer has sent something, read or not.
    [[nodiscard]] bool heard();
    [[nodiscard]] Session* session() const noexcept { return session_.get(); }
    [[nodiscard]] const Peer& peer() const noexcept { return *peer_; }
    /// Null without TLS.
    [[nodiscard]] const TlsEngine* tls() const noexcept { return tls_.get(); }

  private:
    void wait_readable();
    void on_readable();
    [[nodiscard]] bool take(std::string_view bytes);
    void begin_session();
    void schedule();
    static void run_ready(const std::vector<std::shared_ptr<Connection>>& ready);
    void fetch_parts() const noexcept;
    void fetch_libraries() const noexcept;
    void turn();
    void flush();
    /// @return false when the socket is full or gone
    bool write_out(std::string_view bytes);
    void watch_progress();
    [[nodiscard]] bool stalled(TimePoint now);
    void arm_timer();
    void on_timer();
    void shut(const Error& reason, const Status& told, bool report);
    void fail(Error reason);

    boost::asio::ip::tcp::socket socket_;
    boost::asio::steady_timer timer_;
    const Clock& clock_;
    std::shared_ptr<LoopBuffers> buffers_;
    IoCounters& counters_;
    IoCounters traffic_;
    std::optional<Status> ending_;  // by end(), closed after the next flush
    std::unique_ptr<TlsEngine> tls_;
    std::unique_ptr<Session> session_;
    std::shared_ptr<Peer> peer_;
    std::string pending_;  // what the socket did not take
    TimePoint handshake_deadline_ = TimePoint::max();
    TimePoint armed_ = TimePoint::max();
    TimePoint stalled_since_ = TimePoint::max();  // something waits, and nothing was taken since
    std::uint64_t taken_ = 0;                     // of pending_ by the socket
    std::uint64_t progress_ = 0;                  // at stalled_since_
    int unacked_ = 0;                             // of the socket's own buffer, at stalled_since_
    bool heard_ = false;
    bool waiting_writable_ = false;
    bool scheduled_ = false;
    bool working_ = false;
    bool ready_told_ = false;
    bool closed_ = false;
};

/// "10.0.0.1:80", "[::1]:80".
[[nodiscard]] std::string to_text(const boost::asio::ip::tcp::endpoint& endpoint);

}  // namespace mesh::rpc::detail
