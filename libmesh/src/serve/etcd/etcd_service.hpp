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
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "rpc/server.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/access.hpp"
#include "serve/etcd/read_barrier.hpp"
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
    /// In front of a mirror: linearizable reads of the newest revision wait until the store has
    /// what the upstream had when they came, so that they are never older than what another replica
    /// answered before. Where that stays unknown the store's own state is the answer, with the
    /// trailer `mesh-stale: true`. Called on the loop, one question at a time; empty: not needed.
    ReadBarrier read_barrier;
    /// How long such a read waits at most.
    Duration read_barrier_limit = std::chrono::seconds(1);
    /// With a read_barrier: how long a read of a revision that the store does not have yet waits
    /// for it, before it is refused as of the future.
    Duration future_revision_limit = std::chrono::seconds(2);
    /// Most reads that wait for the one, and for the other; more do not wait.
    std::size_t max_waiting_reads = 10'000;
    /// Encoded answers to ranges, kept for others who ask the same a moment later; 0 = none.
    std::size_t range_cache_bytes = std::size_t{64} << 20;
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
    std::uint64_t compactions = 0;        ///< by history_to_keep
    std::uint64_t reads_waited = 0;       ///< for the upstream's word, or a revision
    std::uint64_t reads_unproven = 0;     ///< answered without that word
    std::uint64_t reads_crowded_out = 0;  ///< that could not wait, as too many did
    std::uint64_t barrier_questions = 0;  ///< asked for all of them
    std::uint64_t ranges_shared = 0;      ///< answers to ranges that others' encoding served
    std::size_t range_cache_bytes = 0;    ///< gauge
};

/// A Watch stream as it is now. Views are valid during the call that shows it.
struct WatchStreamInfo {
    const rpc::Peer& peer;
    std::string_view listener;
    TimePoint since{};
    std::size_t watches = 0;
    std::size_t blocked = 0;       ///< watches that wait for the client to read
    std::size_t queued_bytes = 0;  ///< not yet handed to the socket
    std::uint64_t events_sent = 0;
};

/// One watch of a stream.
struct WatchInfo {
    std::int64_t id = 0;  ///< the client's
    store::WatchState state{};
    std::uint64_t events_sent = 0;
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
    /// Each Watch stream, in no order. The visitor must not call the service. O(streams)
    void for_each_watch_stream(const std::function<void(const WatchStreamInfo&)>& visit) const;
    /// Each watch of the streams that are chosen. O(streams + their watches)
    void for_each_watch(
        const std::function<bool(const WatchStreamInfo&)>& which,
        const std::function<void(const WatchStreamInfo&, const WatchInfo&)>& visit) const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::serve
