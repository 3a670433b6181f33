// A copy of a Store on another event loop, so that each loop serves from a store of its own and
// nothing is locked on the way of an event: the records are shared, the index and the history are
// the loop's. Used by mesh-proxy, which runs one loop per core.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <memory>
#include <mutex>
#include <vector>

#include "base/log.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

/// The copy. It lags its source by a turn or two of both loops, and never goes back within one
/// history. @thread its loop, but for offer()
class StoreReplica : public std::enable_shared_from_this<StoreReplica> {
  public:
    /// @param loop of the replica
    StoreReplica(boost::asio::any_io_executor loop, Logger log);
    StoreReplica(const StoreReplica&) = delete;
    StoreReplica& operator=(const StoreReplica&) = delete;

    /// Lives as long as the replica.
    [[nodiscard]] store::Store& store() noexcept { return *store_; }

    /// Takes changes over on its own loop, in the order of the calls: those of several calls before
    /// a turn of that loop are taken together. @thread any
    void offer(std::shared_ptr<const store::StoreChange> change);
    /// The identity that is told to clients. @thread any
    void offer_identity(const store::Identity& identity);

  private:
    void take();
    void schedule(std::unique_lock<std::mutex> lock);

    boost::asio::any_io_executor loop_;
    Logger log_;
    std::unique_ptr<store::Store> store_;
    std::mutex mutex_;
    std::vector<std::shared_ptr<const store::StoreChange>> offered_;
    store::Identity identity_;
    bool scheduled_ = false;
};

/// Feeds replicas from their source. @thread the source's loop
class ReplicaFeed {
  public:
    /// @param source outlives it; its on_change() is taken
    explicit ReplicaFeed(store::Store& source);
    ~ReplicaFeed();
    ReplicaFeed(const ReplicaFeed&) = delete;
    ReplicaFeed& operator=(const ReplicaFeed&) = delete;

    /// Everything that the source has, and what it gets from now on.
    void add(std::shared_ptr<StoreReplica> replica);
    /// After the source's identity may have changed.
    void tell_identity();

  private:
    store::Store& source_;
    store::Identity told_;
    std::vector<std::shared_ptr<StoreReplica>> replicas_;
};

}  // namespace mesh::serve
