// KVStoreMesh: every remote's state, reflected below cilium/cache/ of the own etcd, so that the
// cluster's agents watch that one etcd alone (protocol.md §9, wire.md §12). Remotes share nothing
// but the own etcd: each has its own connection, ledger and order of writes. A remote that is lost
// keeps its cache; one whose configuration is removed has it drained. User: mesh-proxy.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "model/types.hpp"
#include "reflect/own_etcd.hpp"
#include "reflect/remote_reader.hpp"
#include "runtime/clock.hpp"

namespace mesh::reflect {

struct KvstoreMeshOptions {
    std::string local_name;
    model::ClusterId local_id{};
    std::uint32_t max_clusters = 255;
    std::string remotes_directory;
    OwnEtcdOptions own;
    /// Between the end of a removed remote's cluster-config and that of its cache: agents let go of
    /// it by themselves meanwhile.
    std::chrono::seconds drain_grace{180};
    /// A remote that cannot be reached for this long after its start is not awaited by ready().
    std::chrono::seconds connect_timeout{15};
    /// ready() at the latest.
    std::chrono::seconds sync_timeout{600};
    std::size_t batch_ops = 128;  ///< etcd's default limit of a transaction
    /// Values of one remote that wait to be written; beyond it the remote waits.
    std::size_t waiting_bytes = 4U << 20;
    std::size_t batch_bytes = 512 * 1024;  ///< etcd's default limit of a request is 1.5 MiB
};

struct ReflectedStatus {
    std::string cluster;
    bool draining = false;  ///< its configuration is gone; only `cluster` counts then
    ReaderStatus reader;
    bool synced = false;      ///< all that it had is in the own etcd, canaries included
    std::size_t keys = 0;     ///< that are to be there
    std::size_t pending = 0;  ///< writes due
    std::size_t refused = 0;  ///< keys whose value the own etcd refuses
    std::uint64_t puts = 0, deletes = 0, transactions = 0;
};

struct KvstoreMeshStatus {
    bool leader = false;
    std::int64_t lease = 0;
    std::uint64_t leases_lost = 0;
    std::string last_failure;                          ///< of the own etcd
    std::vector<ReflectedStatus> remotes;              ///< by name
    std::map<std::string, std::string> config_errors;  ///< by file
};

/// @thread the executor's thread
class KvstoreMesh {
  public:
    /// @param own a client with the right to write, not started; ended by stop()
    KvstoreMesh(boost::asio::any_io_executor executor, std::unique_ptr<etcd::Client> own,
                KvstoreMeshOptions options, const Clock& clock, Rng rng, Logger log);
    ~KvstoreMesh();
    KvstoreMesh(const KvstoreMesh&) = delete;
    KvstoreMesh& operator=(const KvstoreMesh&) = delete;

    void start();
    /// Ends all tasks; nothing is drained. Await it before destruction.
    [[nodiscard]] boost::asio::awaitable<void> stop();
    /// True once every remote is synced or is not to be awaited, or another instance writes.
    [[nodiscard]] bool ready() const;
    [[nodiscard]] KvstoreMeshStatus status() const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::reflect
