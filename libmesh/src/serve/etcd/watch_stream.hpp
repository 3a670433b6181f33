// One Watch stream of a client. Internal to serve/etcd.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "model/etcdpb/etcd.pb.h"
#include "serve/etcd/service_core.hpp"
#include "serve/etcd/watch_frames.hpp"
#include "serve/etcd/watch_service.hpp"

namespace mesh::serve {

/// @thread the loop's
class WatchStream : public std::enable_shared_from_this<WatchStream> {
  public:
    WatchStream(std::shared_ptr<WatchService> service, rpc::ServerCallPtr call,
                ListenerPtr listener);
    ~WatchStream();

    /// Sets the call's callbacks, which keep the stream alive until the call ends.
    void start();
    /// For each watch that asked for it and had nothing to say: tells where it is.
    void notify_progress();
    /// @return whether the awaited progress was told, or there is nobody to tell any more
    bool try_answer_progress();
    /// As it is now; views are valid as long as the stream.
    [[nodiscard]] WatchStreamInfo info() const;
    void for_each_watch(const std::function<void(const WatchInfo&)>& visit) const;
    /// There is a new table of roles: ends what the peer may not watch any more.
    void recheck();

  private:
    class Watch;

    void wait_for_turn(std::string_view bytes);
    void finish_when_done();
    void read_on();
    void on_message(std::string_view bytes);
    void create(const etcdpb::WatchCreateRequest& request);
    void cancel(std::int64_t id);
    void close();
    void refuse(std::int64_t id, std::string reason);
    [[nodiscard]] std::int64_t next_free_id();
    [[nodiscard]] bool too_many() const;
    /// A byte rate keeps events from the peer for a while: then they come from history.
    [[nodiscard]] bool held_back();

    /// Takes the frame in any case: what the call's queue has no room for waits here.
    void send(rpc::Frame frame);
    void send(etcdpb::WatchResponse& response, std::int64_t watch_id);
    void on_writable();
    [[nodiscard]] ServiceCore& core() const { return service_->core(); }

    std::shared_ptr<WatchService> service_;
    rpc::ServerCallPtr call_;
    ListenerPtr listener_;
    LoopPeerPtr peer_;  // null without access control
    std::map<std::int64_t, std::unique_ptr<Watch>> watches_;
    std::int64_t next_id_ = 0;
    std::deque<rpc::Frame> backlog_;  // FIFO before everything that is sent later
    bool paused_ = false;
    bool closed_ = false;
    bool any_full_ = false;
    const TimePoint since_;
    std::uint64_t events_ = 0;
    bool half_closed_ = false;
    std::size_t in_turn_ = 0;                            // messages that wait for their turn
    std::unique_ptr<boost::asio::steady_timer> refill_;  // while events are held back
};

}  // namespace mesh::serve
