// The own etcd as all reflected clusters share it: one lease for all keys, one lock that says who
// of several instances writes, one pace for all requests.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <set>
#include <string>

#include "base/log.hpp"
#include "publish/etcd_mutex.hpp"
#include "publish/lease_holder.hpp"
#include "runtime/clock.hpp"
#include "runtime/task_group.hpp"
#include "runtime/waker.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::reflect {

struct OwnEtcdOptions {
    std::chrono::seconds lease_ttl{900};
    std::chrono::seconds lock_ttl{25};
    /// Requests per second, and how many at once after silence; while a remote's first list is
    /// written, bootstrap_qps counts. @source protocol.md §5, Cilium's etcd.qps, etcd.bootstrapQps
    double qps = 100;
    double bootstrap_qps = 10'000;
    /// Who of several instances writes is settled by cilium/kvstoremesh-lock (1.19).
    bool leader_election = true;
};

/// How many requests there may be: tokens that come at a rate. @thread one thread
class Pace {
  public:
    explicit Pace(double per_second) : per_second_(per_second), tokens_(per_second) {}
    /// Takes one. @return how long to wait before using it
    [[nodiscard]] Duration take(TimePoint now);

  private:
    double per_second_;
    double tokens_;
    TimePoint since_{};
};

/// @thread the client's loop only
class OwnEtcd {
  public:
    /// @param client outlives this; its on_connection() is taken
    /// @param on_change whether to write, or what has to be listed again, is another
    OwnEtcd(boost::asio::any_io_executor loop, etcd::Client& client, OwnEtcdOptions options,
            const Clock& clock, Rng rng, Logger log, std::function<void()> on_change);

    void start();
    /// The lease is left to its TTL, so that a restart finds the keys; the lock is given up.
    [[nodiscard]] boost::asio::awaitable<void> stop();

    /// The lease that keys are to hang on; 0 = nothing is to be written now.
    [[nodiscard]] std::int64_t lease() const noexcept { return leader_ ? lease_.id() : 0; }
    /// Grows whenever what is there may be another: list it again.
    [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
    /// Remotes of which a cluster-config with `cached` was found when the lease was first held.
    [[nodiscard]] const std::set<std::string>& found_remotes() const noexcept { return found_; }
    [[nodiscard]] bool leader() const noexcept { return leader_; }
    [[nodiscard]] const std::string& last_failure() const noexcept { return last_failure_; }
    [[nodiscard]] std::uint64_t leases_lost() const noexcept { return lease_.losses(); }

    /// One transaction, within the pace and only while this instance is the one that writes.
    /// @param bootstrap whether it belongs to a remote's first list
    /// @errors those of the client; kConflict: another instance writes
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_write(std::vector<etcd::Op> ops,
                                                                   bool bootstrap);
    [[nodiscard]] etcd::Client& client() noexcept { return client_; }

  private:
    boost::asio::awaitable<void> run();
    boost::asio::awaitable<Result<void>> become_leader();
    boost::asio::awaitable<Result<std::int64_t>> find_former();
    void changed();
    void lost(const Error& why);
    void note_failure(const Error& error);

    boost::asio::any_io_executor loop_;
    etcd::Client& client_;
    OwnEtcdOptions options_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    std::function<void()> on_change_;
    publish::LeaseHolder lease_;
    publish::LeaseHolder lock_lease_;
    std::unique_ptr<publish::EtcdMutex> lock_;
    Pace pace_, bootstrap_pace_;
    Waker waker_;
    std::set<std::string> found_;
    std::uint64_t epoch_ = 0;
    bool leader_ = false;
    bool searched_ = false;
    std::int64_t former_ = 0;
    std::string last_failure_;
    TaskGroup tasks_;
};

}  // namespace mesh::reflect
