// The event loops of mesh-proxy: the daemon's own, which feeds the store, and further ones on
// threads of their own, each with a replica of the store. Connections are spread over all.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "listeners.hpp"
#include "runtime/clock.hpp"
#include "runtime/loop_thread.hpp"
#include "serve/etcd/store_replica.hpp"
#include "serving_loop.hpp"
#include "state/store/store.hpp"

namespace mesh::proxy_daemon {

/// @thread the daemon's
class ServingLoops {
  public:
    /// @param count of all loops, at least 1
    /// @param store of the daemon's loop; outlives this
    /// @param options of each loop's service, their bounds being those of the whole process
    ServingLoops(boost::asio::any_io_executor main, store::Store& store, const Clock& clock,
                 const serve::EtcdServiceOptions& options, unsigned count, const Logger& log);
    ~ServingLoops();

    /// Opens the listener on all loops, or on the daemon's alone where its clients write.
    /// @errors those of ServingLoop::listen()
    [[nodiscard]] boost::asio::awaitable<Result<void>> listen(ListenerPlan plan);
    /// Not ready at first where a mirror has nothing to serve yet.
    void set_ready(bool ready);
    /// After the upstream's identity or term may have changed.
    void tell_upstream(std::uint64_t raft_term);
    /// Of all loops, the daemon's first.
    [[nodiscard]] boost::asio::awaitable<std::vector<LoopReport>> report();
    /// Of all loops together, see ServingLoop.
    [[nodiscard]] boost::asio::awaitable<std::vector<ConnectionReport>> connections();
    [[nodiscard]] boost::asio::awaitable<std::vector<RangeReport>> watched_ranges();
    [[nodiscard]] boost::asio::awaitable<std::pair<std::vector<WatchReport>, std::size_t>>
    watches_of(std::string name, std::size_t limit);
    /// Ends all connections and loops. Call before destruction.
    [[nodiscard]] boost::asio::awaitable<void> stop();

  private:
    struct Loop;
    /// The read barrier of the daemon's loop, as another loop asks for it.
    [[nodiscard]] serve::ReadBarrier asked_from(boost::asio::any_io_executor other,
                                                const serve::EtcdServiceOptions& options) const;
    /// The same on each loop, at its next turn.
    template <class Do>
    void on_each(Do what);
    /// What each loop answers to ask(const ServingLoop&), the daemon's first.
    template <class Answer>
    [[nodiscard]] boost::asio::awaitable<std::vector<Answer>> gather(
        std::function<Answer(const ServingLoop&)> ask);

    boost::asio::any_io_executor loop_;
    std::unique_ptr<ServingLoop> main_;
    std::unique_ptr<serve::ReplicaFeed> feed_;  // null with one loop
    std::vector<std::unique_ptr<Loop>> others_;
    std::uint64_t raft_term_ = 0;
};

}  // namespace mesh::proxy_daemon
