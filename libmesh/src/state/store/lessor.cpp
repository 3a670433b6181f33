#include "state/store/lessor.hpp"

#include <algorithm>

namespace mesh::store {

const Lease* Lessor::find(LeaseId id) const {
    const auto found = leases_.find(id);
    return found == leases_.end() ? nullptr : &found->second;
}

std::vector<LeaseId> Lessor::ids() const {
    std::vector<LeaseId> ids;
    ids.reserve(by_expiry_.size());
    for (const auto& [expiry, id] : by_expiry_) ids.push_back(id);
    return ids;
}

void Lessor::add(Lease lease) {
    by_expiry_.emplace(lease.expiry, lease.id);
    const LeaseId id = lease.id;
    leases_.insert_or_assign(id, std::move(lease));
}

std::optional<Lease> Lessor::remove(LeaseId id) {
    auto node = leases_.extract(id);
    if (!node) return std::nullopt;
    by_expiry_.erase({node.mapped().expiry, id});
    return std::move(node.mapped());
}

void Lessor::renew(LeaseId id, TimePoint expiry) {
    const auto found = leases_.find(id);
    if (found == leases_.end()) return;
    by_expiry_.erase({found->second.expiry, id});
    found->second.expiry = expiry;
    by_expiry_.emplace(expiry, id);
}

void Lessor::set_durable_remaining(LeaseId id, std::chrono::seconds remaining) {
    const auto found = leases_.find(id);
    if (found != leases_.end()) found->second.durable_remaining = remaining;
}

void Lessor::move_key(const KeyValue& before, const KeyValue& after) {
    const auto lease_of = [this](const KeyValue& kv) -> Lease* {
        if (!kv || kv.tombstone() || kv.lease() == LeaseId{}) return nullptr;
        const auto found = leases_.find(kv.lease());
        return found == leases_.end() ? nullptr : &found->second;
    };
    Lease* from = lease_of(before);
    Lease* to = lease_of(after);
    if (from != nullptr) from->keys.erase(before);
    if (to != nullptr) to->keys.insert(after);
}

std::vector<LeaseId> Lessor::expired(TimePoint now) const {
    std::vector<LeaseId> ids;
    for (const auto& [expiry, id] : by_expiry_) {
        if (expiry > now) break;
        ids.push_back(id);
    }
    return ids;
}

std::optional<TimePoint> Lessor::next_expiry() const {
    if (by_expiry_.empty()) return std::nullopt;
    return by_expiry_.begin()->first;
}

std::chrono::seconds Lessor::remaining(const Lease& lease, TimePoint now) {
    const auto left = std::chrono::floor<std::chrono::seconds>(lease.expiry - now);
    return std::max(left, std::chrono::seconds(0));
}

}  // namespace mesh::store
