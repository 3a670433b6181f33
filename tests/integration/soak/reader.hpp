// A client of the soak: one connection at a time to one of several servers, a number of watches on
// one stream or on a stream each, lists where it has nothing to resume from. It asks for raw gRPC
// itself, so that what it checks does not depend on the product's own client.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "caller.hpp"
#include "check.hpp"
#include "runtime/clock.hpp"

namespace mesh::soak {

struct WatchSpec {
    Checker* checker = nullptr;  ///< outlives the reader
    bool prev_kv = false, progress_notify = false, fragment = false;
    std::int64_t list_limit = 0;  ///< keys per page
    bool without_list = false;    ///< from revision 1 on
};

struct ReaderOptions {
    std::string name;
    std::vector<std::uint16_t> ports;  ///< of 127.0.0.1; each connection takes one of them
    std::shared_ptr<rpc::TlsCredentials> tls;
    bool stream_each = false;  ///< a stream for each watch, rather than one for all
    bool own_ids = false;      ///< the client chooses the watches' ids
    bool slow = false;         ///< small windows, so that what it does not read waits at the server
    bool asks_progress = true;
    /// The etcd cluster id that all answers must have; 0 = that of the first one.
    std::uint64_t cluster_id = 0;
    std::vector<WatchSpec> watches;
};

/// @thread the loop's
class Reader : public std::enable_shared_from_this<Reader> {
  public:
    Reader(boost::asio::any_io_executor loop, const Clock& clock, Rng rng, ReaderOptions options,
           Report& report);

    /// Until stop(); the task of the reader.
    static boost::asio::awaitable<void> run(std::shared_ptr<Reader> self);
    void stop();
    /// Breaks its own connection.
    void disconnect();
    /// Stops reading, and goes on.
    void stall();
    void go_on();
    /// Asks each stream how far it has told everything.
    void ask_progress();
    /// The lowest position of its watches.
    [[nodiscard]] std::int64_t position() const;
    /// What this reader knows that its present server has reached, at least; 0 = not connected.
    [[nodiscard]] std::int64_t seen_of(std::uint16_t port) const;
    [[nodiscard]] const ReaderOptions& options() const noexcept { return options_; }
    [[nodiscard]] std::string state() const;

  private:
    struct Stream;
    struct WatchState {
        WatchSpec spec;
        bool needs_list = true, needs_create = true, created = false;
        std::int64_t id = -1, asked_id = 0;
        std::vector<Change> fragments{};  // of an answer that is not complete
        std::int64_t start = 0;           // of the watch as it was asked for last
        Stream* stream = nullptr;
    };
    struct Stream {
        rpc::ClientCallPtr call;
        std::deque<WatchState*> asked;  // created answers come in the order of requests
        std::vector<WatchState*> watches;
    };

    boost::asio::awaitable<bool> connect();
    boost::asio::awaitable<void> serve();
    /// @return false when the connection is of no use
    boost::asio::awaitable<bool> list(WatchState& watch);
    void create(WatchState& watch);
    Stream& open_stream();
    void drop();
    void on_message(Stream& stream, std::string_view bytes);
    void on_created(Stream& stream, const etcdpb::WatchResponse& response);
    void on_cancelled(WatchState& watch, const etcdpb::WatchResponse& response);
    void on_events(WatchState& watch, const etcdpb::WatchResponse& response);
    void check_header(const etcdpb::ResponseHeader& header);
    void fail(const std::string& what) { report_.fail(options_.name + ": " + what); }
    void lose() {
        lost_ = true;
        wake_.cancel();
    }

    boost::asio::any_io_executor loop_;
    const Clock& clock_;
    Rng rng_;
    ReaderOptions options_;
    Report& report_;
    std::vector<std::unique_ptr<WatchState>> watches_;
    std::vector<std::unique_ptr<Stream>> streams_;
    std::shared_ptr<rpc::Channel> channel_;
    boost::asio::steady_timer wake_;
    std::uint16_t port_ = 0;
    std::int64_t reached_ = 0;    // highest revision ever, by whichever server
    std::int64_t seen_here_ = 0;  // highest revision of an answer on this connection
    bool lost_ = false, stopping_ = false, stalled_ = false;
};

}  // namespace mesh::soak
