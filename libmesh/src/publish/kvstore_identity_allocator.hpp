// Numbers for label sets, claimed in the cluster's etcd as Cilium's allocator does in kvstore mode,
// so that several writers, of Cilium's make too, never take one number for two label sets, nor give
// one label set two numbers (wire.md §7):
//
//   identities/v1/id/<number>          → labels      the main key, of no lease
//   identities/v1/value/<labels>/<who> → number      a reference of one writer, under its lease
//   identities/v1/locks/<labels>/...                 etcd's lock: who decides about a label set
//
// A claim holds the label set's lock, and is one transaction whose conditions are what was read:
// the lock is still ours, the main key does not exist (create revision 0) or is as it was read, and
// nobody refers to the label set but as was read. A main key without references is deleted after a
// grace time, under the lock and the conditions that it was not changed and that no reference came.
// A reference goes with its writer's lease. The name of ours is the lease's id: two writers that
// keep one lease alive are one.
//
// Users: EtcdPublisher.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "model/types.hpp"
#include "model/validate.hpp"
#include "publish/lease_holder.hpp"
#include "runtime/clock.hpp"
#include "runtime/task_group.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::publish {

struct IdentityAllocatorOptions {
    model::IdentityRange range;  ///< the cluster's own; other numbers are none of ours
    /// A main key without references is kept this long.
    Duration grace = std::chrono::minutes(15);
    std::chrono::seconds lock_ttl{25};             ///< Cilium's
    Duration lock_wait = std::chrono::minutes(1);  ///< longer than lock_ttl: a dead holder's ends
    std::size_t at_once = 16;                      ///< label sets claimed at the same time
};

/// Counters, since the start.
struct IdentityAllocatorStats {
    std::uint64_t claimed = 0;     ///< numbers made
    std::uint64_t reused = 0;      ///< numbers that were there
    std::uint64_t lost_races = 0;  ///< transactions whose conditions did not hold
    std::uint64_t collected = 0;
};

/// Holds numbers for the label sets that are wanted. All methods with I/O are to be called one
/// after the other. @thread the client's loop only
class KvstoreIdentityAllocator {
  public:
    /// Called when a label set has its number: the first time, or another one because the former
    /// was lost to another writer; or when it can have none now (kCapacity), which is tried again
    /// with the next async_list().
    using OnNumber =
        std::function<void(const std::string& labels, const Result<model::IdentityId>& id)>;

    KvstoreIdentityAllocator(boost::asio::any_io_executor loop, etcd::Client& client,
                             IdentityAllocatorOptions options, const Clock& clock, Rng rng,
                             Logger log, OnNumber on_number);

    /// @param labels encode_labels()'s text
    void want(const std::string& labels);
    /// Its reference goes with the next async_settle().
    void unwant(const std::string& labels);

    /// Learns what is in etcd. What is wanted and not there as it was claimed is due again.
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_list();
    /// The lease for references from now on; with another one all are due.
    void set_lease(std::int64_t lease);
    /// Whether async_settle() has something to do.
    [[nodiscard]] bool due() const noexcept { return !due_.empty() || !leaving_.empty(); }
    /// Claims what is due and deletes references that nobody wants.
    /// @errors those of the client; kNotFound: the lease is gone, get another. What was not done
    ///         stays due.
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_settle();
    /// Deletes references of an earlier run under our lease that were not wanted since: call when
    /// all that is wanted is known.
    void drop_strays();
    /// Deletes main keys that have had no reference for the grace time, as far as we saw.
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_collect();
    /// When async_collect() will have something to look at.
    [[nodiscard]] std::optional<TimePoint> next_collection() const;
    /// Ends what is under way, and the lock's lease with it; nothing is to be called any more.
    void stop();

    [[nodiscard]] std::size_t held() const noexcept { return held_; }
    [[nodiscard]] const IdentityAllocatorStats& stats() const noexcept { return stats_; }

  private:
    struct Claim {
        std::optional<model::IdentityId> id;
        std::int64_t lease = 0;  ///< of the reference that we know of; 0: none
    };
    struct Main {
        std::string labels;
        std::int64_t mod_revision = 0;
        std::int64_t lease = 0;
    };
    struct Reference {
        std::string who;
        model::IdentityId id{};
        std::int64_t mod_revision = 0;
        std::int64_t lease = 0;
    };
    using References = std::map<std::string, std::vector<Reference>, std::less<>>;
    enum class Outcome : std::uint8_t { kDone, kAgain };

    /// A round of claiming: workers take from it.
    struct Queue;

    [[nodiscard]] std::string who() const;
    [[nodiscard]] etcd::KeyRange references_of(const std::string& labels) const;
    boost::asio::awaitable<Result<void>> list_mains();
    boost::asio::awaitable<Result<void>> list_references();
    void take_reference(const etcd::KeyValueView& kv, References& into) const;
    void review();
    void remember(model::IdentityId id, Main main);
    void forget(model::IdentityId id);

    boost::asio::awaitable<Result<void>> release_all();
    boost::asio::awaitable<Result<void>> join_known();
    [[nodiscard]] const Reference* known_reference(const std::string& labels) const;
    boost::asio::awaitable<Result<void>> claim_all();
    static boost::asio::awaitable<void> work(KvstoreIdentityAllocator& self,
                                             std::shared_ptr<Queue> queue);
    boost::asio::awaitable<Result<void>> claim(std::string labels);
    boost::asio::awaitable<Result<Outcome>> try_claim(std::string labels, etcd::Compare owner);
    boost::asio::awaitable<Result<Outcome>> join(std::string labels, etcd::Compare owner,
                                                 Reference with,
                                                 std::optional<etcd::KeyValue> main);
    boost::asio::awaitable<Result<Outcome>> take_over(std::string labels, etcd::Compare owner,
                                                      etcd::KeyValue main);
    boost::asio::awaitable<Result<Outcome>> make(std::string labels, etcd::Compare owner);
    /// Runs a claim's transaction; it puts the main key if that is not as it should be.
    boost::asio::awaitable<Result<Outcome>> commit(etcd::Txn txn, std::string labels,
                                                   model::IdentityId id,
                                                   std::optional<etcd::KeyValue> main);
    boost::asio::awaitable<Result<std::optional<etcd::KeyValue>>> get(std::string key);
    boost::asio::awaitable<Result<void>> collect_one(model::IdentityId id);
    void settled(const std::string& labels, model::IdentityId id, Reference reference);
    void refuse(const std::string& labels, const Error& why);
    [[nodiscard]] std::optional<model::IdentityId> free_number(const std::string& labels);

    boost::asio::any_io_executor loop_;
    etcd::Client& client_;
    IdentityAllocatorOptions options_;
    const Clock& clock_;
    Rng rng_;
    Logger log_;
    OnNumber on_number_;
    LeaseHolder lock_lease_;
    std::int64_t lease_ = 0;
    std::map<std::string, Claim> claims_;
    std::set<std::string> due_;
    std::set<std::string> leaving_;  ///< label sets whose reference of ours is to go
    std::map<std::uint32_t, Main> mains_;
    std::map<std::string, std::set<std::uint32_t>, std::less<>> by_labels_;  ///< of mains_
    std::set<std::uint32_t> taken_;  ///< met while claiming: somebody else's
    References references_;
    std::map<std::uint32_t, TimePoint> unused_since_;
    std::size_t held_ = 0;
    IdentityAllocatorStats stats_;
    TaskGroup tasks_;
};

}  // namespace mesh::publish
