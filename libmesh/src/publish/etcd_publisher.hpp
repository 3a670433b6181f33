// Keeps a cluster's etcd equal to its objects: under a lease, writing only what differs, canaries
// last, a heartbeat each minute (spec wire.md §9, §10, §14, §19). While etcd is away, the newest
// value per key waits. Its objects are manifests', and those of workloads that registered
// themselves in that etcd (workload_table.hpp). Users: mesh-operator.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "model/kubernetes.hpp"
#include "model/policy_record.hpp"
#include "publish/label_filter.hpp"
#include "publish/records.hpp"
#include "publish/workload_table.hpp"
#include "runtime/clock.hpp"

namespace mesh::etcd {
class Client;
}

namespace mesh::publish {

struct PublisherOptions {
    ClusterInfo cluster;
    std::chrono::seconds lease_ttl{900};
    std::chrono::seconds heartbeat{60};
    /// What is there is listed again this often, so that what others changed is put right.
    std::chrono::seconds resync{300};
    /// An identity without pods keeps its number this long.
    Duration identity_grace = std::chrono::minutes(15);
    LabelFilter labels;                    ///< which of pods' labels make an identity
    std::size_t batch_ops = 128;           ///< etcd's default limit of a transaction
    std::size_t batch_bytes = 512 * 1024;  ///< etcd's default limit of a request is 1.5 MiB
    /// Take over an etcd that holds another cluster's config, and remove that.
    bool force = false;
};

enum class PublisherState : std::uint8_t {
    kWaiting,     ///< for the first objects
    kConnecting,  ///< etcd does not answer; objects wait
    kSyncing,     ///< writing what differs
    kPublished,   ///< all is written, canaries included
    kRefused,     ///< the etcd is another cluster's
};
[[nodiscard]] std::string_view to_string(PublisherState state) noexcept;

struct PublisherStatus {
    PublisherState state = PublisherState::kWaiting;
    bool ready = false;      ///< the first sync has been completed, canaries included
    std::int64_t lease = 0;  ///< 0 = none
    std::uint64_t leases_lost = 0;
    std::size_t keys = 0;     ///< wanted in etcd, canaries and heartbeat not counted
    std::size_t pending = 0;  ///< writes due
    std::size_t refused = 0;  ///< keys whose value etcd refuses
    std::size_t identities = 0;
    std::size_t policies = 0;   ///< published, those kept of an earlier run included
    std::size_t workloads = 0;  ///< that registered themselves and are published
    std::size_t workloads_refused = 0;
    std::uint64_t puts = 0, deletes = 0, transactions = 0, lists = 0, failures = 0;
    std::string last_error;  ///< empty = none
    bool last_error_is_current = false;
};

/// @thread the client's loop only
class EtcdPublisher {
  public:
    /// @param client started by its owner; outlives this
    EtcdPublisher(boost::asio::any_io_executor loop, etcd::Client& client, PublisherOptions options,
                  const Clock& clock, Rng rng, Logger log);
    ~EtcdPublisher();
    EtcdPublisher(const EtcdPublisher&) = delete;
    EtcdPublisher& operator=(const EtcdPublisher&) = delete;

    void start();
    /// Changes of the cluster's objects; nothing is written before the first call.
    /// @param incomplete true while some of the objects could never be read: then keys that an
    ///   earlier run left in etcd stay as they are until their objects change
    void apply(std::span<const model::k8s::ObjectChange> changes, bool incomplete);
    /// Changes of the cluster's network policies; those that came before the first apply() are
    /// written with it. Policies that somebody put into etcd without a lease (policy_import.hpp)
    /// are left alone, unless one of the same name is published.
    /// @param unread policies whose documents have not been good yet: what an earlier run published
    ///   of them stays until they are
    void apply_policies(std::span<const model::PolicyRecordChange> changes,
                        model::UnreadPolicies unread);
    /// Called once, when the first sync has been completed.
    void on_ready(std::function<void()> callback);
    [[nodiscard]] PublisherStatus status() const;
    /// Those that registered themselves, by name, and what was answered.
    [[nodiscard]] std::vector<WorkloadReport> workloads() const;
    /// Completes with an error when the first look at etcd finds it is another cluster's, or
    /// without one when that is settled.
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_accepted();
    /// Ends the loop, and the client with it. The keys stay in etcd until the lease ends, so that a
    /// restart is not seen by anybody.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::publish
