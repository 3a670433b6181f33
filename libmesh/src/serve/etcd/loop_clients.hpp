// Who is connected to a loop, and whose turn it is: connections find their client and role here,
// requests and stream messages run or wait by RequestQueue, streams and watches are counted.
// Internal to serve/etcd.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "rpc/server.hpp"
#include "serve/etcd/access_control.hpp"
#include "serve/etcd/request_queue.hpp"

namespace mesh::serve {

/// @thread the loop's
class LoopClients : public std::enable_shared_from_this<LoopClients> {
  public:
    LoopClients(boost::asio::any_io_executor loop, std::shared_ptr<AccessControl> control,
                const Clock& clock);

    [[nodiscard]] AccessControl& control() noexcept { return *control_; }
    /// Of a connection, made with its first call, with the role that it has now. The peer must be
    /// told to gone().
    [[nodiscard]] const LoopPeerPtr& of(const rpc::Peer& peer);
    void gone(const rpc::Peer& peer);
    void stop();

    /// Runs now or when its client's turn has come.
    /// @param answered a counter that `run` raises by the bytes that it answers
    /// @param again the rest of a request that had its turn before
    /// @return false: too many wait already
    template <class Run>
    [[nodiscard]] bool in_turn(const LoopPeerPtr& peer, std::string_view request,
                               const std::uint64_t& answered, Run run, bool again = false);

    /// One more Watch or LeaseKeepAlive call. @return false = it is over a limit
    [[nodiscard]] bool add_stream(LoopPeer& peer);
    void remove_stream(LoopPeer& peer);
    [[nodiscard]] bool add_watch(LoopPeer& peer);
    void remove_watch(LoopPeer& peer);

    /// How long watch events of the peer are held back; zero = not.
    [[nodiscard]] Duration hold_back(const LoopPeer& peer) const;
    /// Of watch events.
    void sent(LoopPeer& peer, std::size_t bytes);

  private:
    using Key = std::pair<std::string, std::string>;
    void look_up(LoopPeer& peer, const rpc::Peer& from);
    /// Something ran or waits: a new turn begins when the loop has seen to others.
    void schedule();
    void turn();

    boost::asio::any_io_executor loop_;
    std::shared_ptr<AccessControl> control_;
    const Clock& clock_;
    std::unordered_map<const rpc::Peer*, LoopPeerPtr> peers_;
    std::map<Key, std::weak_ptr<LoopClient>> clients_;
    RequestQueue queue_;
    boost::asio::steady_timer timer_;
    bool scheduled_ = false;
    bool stopped_ = false;
};

template <class Run>
bool LoopClients::in_turn(const LoopPeerPtr& peer, std::string_view request,
                          const std::uint64_t& answered, Run run, bool again) {
    const TimePoint now = clock_.now();
    const RequestQueue::Work work{.bytes = request.size(), .again = again};
    if (queue_.may_run(*peer, work, now)) {
        const std::uint64_t before = answered;
        run(request);
        queue_.ran(*peer, work, answered - before, now);
        schedule();
        return true;
    }
    auto later = [&answered, run = std::move(run), copy = std::string(request)] {
        const std::uint64_t before = answered;
        run(std::string_view(copy));
        return static_cast<std::size_t>(answered - before);
    };
    if (!queue_.keep(peer, work, std::move(later), now)) return false;
    schedule();
    return true;
}

}  // namespace mesh::serve
