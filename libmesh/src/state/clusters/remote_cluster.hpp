// One remote cluster (or the own one) for real: runs a Session over an etcd client, on one
// executor. Shares nothing with other remotes but the id registry; what goes wrong in here ends
// here.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "state/clusters/session.hpp"

namespace mesh::state {

/// What a cluster tells its owner; called on the executor, never from inside one of its methods.
struct ClusterEvents {
    /// A batch of typed changes, in order. @see changes.hpp
    std::function<void(ClusterBatch&&)> on_batch;
    /// The state shown, or what is synced, has changed; ask status().
    std::function<void(const std::string& cluster, SessionState state)> on_state;
    /// All that was told of the cluster is void and is to be dropped: a defect of ours, or of
    /// on_batch, was caught, and the cluster is read anew from nothing.
    std::function<void(const std::string& cluster)> on_reset;
    /// After remove(): drained, over. The object may be destroyed once stop() completed.
    std::function<void(const std::string& cluster)> on_finished;
    /// Of Clusters alone: config_errors() is another than before.
    std::function<void()> on_config_errors;
};

/// @thread the executor's thread
class RemoteCluster {
  public:
    /// @param ids and clock outlive it
    RemoteCluster(boost::asio::any_io_executor executor, SessionOptions options, IdRegistry& ids,
                  const Clock& clock, Rng rng, Logger log, ClusterEvents events);
    /// After stop() completed.
    ~RemoteCluster();
    RemoteCluster(const RemoteCluster&) = delete;
    RemoteCluster& operator=(const RemoteCluster&) = delete;

    /// Connects by this configuration, keeping what is known.
    void configure(sources::config::RemoteConfig config);
    /// Drains all that is known; on_finished follows.
    void remove();
    /// Closes the connection and ends all tasks; drains nothing.
    [[nodiscard]] boost::asio::awaitable<void> stop();
    [[nodiscard]] SessionStatus status() const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::state
