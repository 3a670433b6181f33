// All watches of a client on one gRPC stream: created one after another, resumed after a reconnect,
// fragments joined, other histories noticed. Internal to sources/etcd/.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/client.hpp"
#include "sources/etcd/client_impl.hpp"
#include "sources/etcd/views.hpp"

namespace mesh::etcd::detail {

/// One watch; shared by its handle and the stream. @thread the client's loop
struct WatchState {
    WatchOptions options;
    WatchEvents events;
    std::int64_t revision = 0;           // all up to here was delivered
    std::uint64_t cluster_id = 0;        // that revision's; 0 before
    std::uint64_t connection = 0;        // on which that was learnt; 0 = none
    std::int64_t server_id = -1;         // on the stream that is open
    std::vector<std::string> fragments;  // of an answer that is not complete
    std::size_t fragment_bytes = 0;
    // The last change seen, to prove after a reconnect that the server has the same history.
    std::string proof_key;
    std::int64_t proof_revision = 0;
    bool proof_is_delete = false;
    bool from_now = false;  // has no revision yet
    bool created_once = false;
    bool queued = false;     // to be created, or created, on the stream that is open
    bool cancelled = false;  // by its handle, or over
};

class WatchStream {
  public:
    explicit WatchStream(Client::Impl& client);

    std::shared_ptr<WatchState> add(WatchOptions options, WatchEvents events);
    void remove(const std::shared_ptr<WatchState>& watch);
    void request_progress();
    /// Holds back what the server tells, by flow control.
    void set_paused(bool paused);

    /// The client has a connection: open the stream and create all watches.
    void connected();
    /// The connection is gone, or the client stops.
    void disconnected(const Error& why);

  private:
    using WatchPtr = std::shared_ptr<WatchState>;

    /// Runs what an answer brings about; what is thrown there costs this client, and no other.
    template <class Body>
    void guarded(Body&& body);
    void begin(const WatchPtr& watch);
    void open();
    void enqueue(const WatchPtr& watch);
    void create_next();
    void send_create(const WatchPtr& watch);
    void verify(const WatchPtr& watch);
    void expect_created();
    void cancel_on_server(std::int64_t id);
    void on_message(std::string_view bytes);
    void on_created(const WatchView& view);
    void on_answer(const WatchPtr& watch, const WatchView& view);
    void deliver(const WatchPtr& watch, const WatchView& view);
    void on_fragment(const WatchPtr& watch, std::string_view bytes, const WatchView& view);
    void on_stream_end(const rpc::Status& status);
    void end(const WatchPtr& watch, WatchEnd end);
    void fail_stream(std::string why);

    Client::Impl& client_;
    rpc::ClientCallPtr stream_;
    std::uint64_t generation_ = 0;  // of the stream; answers of older ones are dropped
    std::uint64_t connection_ = 0;  // counts them
    boost::asio::steady_timer create_timer_;
    std::vector<WatchPtr> watches_;
    std::map<std::int64_t, WatchPtr> by_id_;
    std::deque<WatchPtr> to_create_;
    WatchPtr creating_;
    bool busy_ = false;  // one is being verified or created
};

}  // namespace mesh::etcd::detail
