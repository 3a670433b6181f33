// The store's leases: who they are, when they end, which keys hang on them. Plain bookkeeping; the
// store decides what is durable and deletes the keys. Internal to the store.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/clock.hpp"
#include "state/store/backend.hpp"
#include "state/store/key_value.hpp"

namespace mesh::store {

struct LeaseKeyOrder {
    bool operator()(const KeyValue& a, const KeyValue& b) const noexcept {
        return a.key() < b.key();
    }
};

struct Lease {
    LeaseId id{};
    std::chrono::seconds ttl{};
    TimePoint expiry{};
    std::chrono::seconds durable_remaining{};  // what the backend knows
    std::set<KeyValue, LeaseKeyOrder> keys;    // the newest version of each attached key
};

/// @thread control thread
class Lessor {
  public:
    [[nodiscard]] bool has(LeaseId id) const { return leases_.count(id) != 0; }
    [[nodiscard]] const Lease* find(LeaseId id) const;
    [[nodiscard]] std::size_t size() const noexcept { return leases_.size(); }
    /// By expiry, the soonest first.
    [[nodiscard]] std::vector<LeaseId> ids() const;

    void add(Lease lease);
    /// @return the lease that was; its keys included
    std::optional<Lease> remove(LeaseId id);
    void renew(LeaseId id, TimePoint expiry);
    void set_durable_remaining(LeaseId id, std::chrono::seconds remaining);

    /// before and after are the key's old and new newest version; either may be null or a
    /// tombstone.
    void move_key(const KeyValue& before, const KeyValue& after);

    /// Leases that have expired at now, the oldest expiry first.
    [[nodiscard]] std::vector<LeaseId> expired(TimePoint now) const;
    [[nodiscard]] std::optional<TimePoint> next_expiry() const;
    template <class Visitor>
    void visit(Visitor&& visitor) const {
        for (const auto& [id, lease] : leases_) visitor(lease);
    }

    /// Seconds left, rounded down, never negative.
    [[nodiscard]] static std::chrono::seconds remaining(const Lease& lease, TimePoint now);

  private:
    std::map<LeaseId, Lease> leases_;
    std::set<std::pair<TimePoint, LeaseId>> by_expiry_;
};

}  // namespace mesh::store
