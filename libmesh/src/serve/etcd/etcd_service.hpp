// etcd's v3 API served from a Store: KV, Watch, Lease, Maintenance, Cluster, with etcd's own status
// codes and texts. One object per loop; any number of rpc::Servers (listeners) of that loop may be
// attached, each with its own AccessPolicy.
//
// Writes of one loop turn share one commit of the store's backend, and no answer leaves before it;
// watch events are serialised once per revision and framed once per (watch id, selection), whatever
// the number of streams.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "rpc/server.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/access.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

class AccessControl;

struct EtcdServiceOptions {
    std::string name = "default";    ///< of the one member
    std::string version = "3.4.23";  ///< told by Status; the release whose answers ours follow
    std::uint64_t raft_term = 2;     ///< told in headers
    std::vector<std::string> client_urls;  ///< told by MemberList
    std::vector<std::string> peer_urls;
    std::size_t max_request_bytes = 1536 << 10;  ///< of a Put, DeleteRange or Txn, as etcd's
    /// A watch response is cut between revisions, and within one for clients that asked for
    /// fragments, when it grows beyond this.
    std::size_t max_watch_response_bytes = 1 << 20;
    /// For watches that asked for progress_notify and had no events.
    Duration progress_notify_interval = std::chrono::minutes(10);
    /// History is compacted by itself to about this many of the newest changes; 0 = never, as etcd
    /// does without --auto-compaction-retention.
    std::size_t history_to_keep = 0;
    std::size_t max_watches_per_stream = 10'000;
    std::size_t max_watches = 200'000;
    /// What all loops share: limits per client, turns between clients, denials, and a table of
    /// roles whose changes end what may not go on. Null: none of it.
    std::shared_ptr<AccessControl> access;
};

struct EtcdServiceStats {
    std::uint64_t watch_streams = 0;  ///< gauge
    std::uint64_t denied = 0;         ///< calls that the policy refused
    std::uint64_t events_sent = 0;    ///< events handed to streams, once per watcher
    std::uint64_t frames_built = 0;   ///< watch responses made; those shared count once
    std::uint64_t commit_failures = 0;
    std::uint64_t compactions = 0;  ///< by history_to_keep
};

/// @thread the loop's thread only, construction and destruction included
class EtcdService {
  public:
    /// @param store outlives the service; others may write to it too, as Mirror does
    EtcdService(boost::asio::any_io_executor loop, store::Store& store, const Clock& clock,
                EtcdServiceOptions options, Logger logger);
    /// Stop the attached servers first: no call may be running.
    ~EtcdService();
    EtcdService(const EtcdService&) = delete;
    EtcdService& operator=(const EtcdService&) = delete;

    /// Registers all methods on server. @param listener name given to the policy
    /// @param server must be stopped before the service is destroyed
    /// @param init_locks leases and the keys below cilium/.initlock/ are given to whoever the
    /// policy
    ///   admits, in memory, per connection, and go with it: for readers of Cilium 1.12 to 1.15
    void attach(rpc::Server& server, std::string listener,
                std::shared_ptr<const AccessPolicy> policy, bool init_locks = false);

    /// Not ready: every call is answered with Unavailable "etcdserver: no leader" (a proxy that has
    /// nothing to serve yet). Ready at first.
    void set_ready(bool ready);
    /// In mirror mode: the upstream's.
    void set_raft_term(std::uint64_t term);

    [[nodiscard]] EtcdServiceStats stats() const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::serve
