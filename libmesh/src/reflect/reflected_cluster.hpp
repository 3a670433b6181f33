// One remote in the cache: its reader, its ledger, and the loop that writes what differs.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <mesh/error.hpp>
#include <string>

#include "reflect/kvstore_mesh.hpp"

namespace mesh::reflect {

/// @thread the executor's thread
class ReflectedCluster {
  public:
    /// @param own, options, clock outlive it
    ReflectedCluster(boost::asio::any_io_executor executor, std::string name, OwnEtcd& own,
                     const KvstoreMeshOptions& options, const Clock& clock, Rng rng, Logger log);
    ~ReflectedCluster();
    ReflectedCluster(const ReflectedCluster&) = delete;
    ReflectedCluster& operator=(const ReflectedCluster&) = delete;

    void configure(sources::config::RemoteConfig config);
    /// The own etcd's lease or epoch() is another.
    void own_changed();
    [[nodiscard]] boost::asio::awaitable<void> stop();
    [[nodiscard]] ReflectedStatus status() const;
    /// Synced, or out of reach for so long that nobody is to wait for it.
    [[nodiscard]] bool settled() const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

/// Removes what the own etcd has of a remote but its cluster-config, which is to go before.
/// @errors those of OwnEtcd::async_write()
[[nodiscard]] boost::asio::awaitable<Result<void>> async_remove_cache(OwnEtcd& own,
                                                                      std::string cluster);

}  // namespace mesh::reflect
