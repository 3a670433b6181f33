// Leases of a Store.
#include <fmt/format.h>
#include <algorithm>

#include "state/store/store_impl.hpp"

namespace mesh::store {
namespace {

// etcd's bound (lease.MaxLeaseTTL): beyond it, seconds overflow nanoseconds.
constexpr std::chrono::seconds kMaxTtl{9'000'000'000};

}  // namespace

void Store::Impl::note_lease(LeaseId id, std::chrono::seconds remaining, bool granted) {
    const Lease* lease = lessor.find(id);
    if (lease == nullptr) return;
    if (backend->durable())
        pending.leases.push_back({.id = id,
                                  .ttl_seconds = lease->ttl.count(),
                                  .remaining_seconds = remaining.count(),
                                  .granted = granted});
    lessor.set_durable_remaining(id, remaining);
}

Outcome<LeaseGrant> Store::lease_grant(LeaseId id, std::chrono::seconds ttl, TimePoint now) {
    MESH_CHECK(impl_->writable());
    if (ttl > kMaxTtl) return StoreError(Fault::kLeaseTtlTooLarge);
    if (impl_->lessor.has(id)) return StoreError(Fault::kLeaseExists);
    while (id == LeaseId{} || impl_->lessor.has(id))
        id = LeaseId{static_cast<std::int64_t>(impl_->rng.next() >> 1)};
    ttl = std::max(ttl, impl_->options.min_lease_ttl);
    impl_->lessor.add(
        {.id = id, .ttl = ttl, .expiry = now + ttl, .durable_remaining = ttl, .keys = {}});
    impl_->note_lease(id, ttl, true);
    impl_->undo.emplace_back(Impl::LeaseAdded{id});
    if (!impl_->next_checkpoint)
        impl_->next_checkpoint = now + impl_->options.lease_checkpoint_interval;
    MESH_CHECK(impl_->settle());
    return LeaseGrant{.id = id, .ttl = ttl};
}

void Store::Impl::remove_lease(LeaseId id) {
    std::vector<KeyValue> keys(lessor.find(id)->keys.begin(), lessor.find(id)->keys.end());
    Writer writer(*this);
    for (const KeyValue& kv : keys) writer.delete_key(kv.key());
    // Within one batch a lease may have been granted too; its record must not come after its end.
    std::erase_if(pending.leases, [id](const LeaseRecord& record) { return record.id == id; });
    if (backend->durable()) pending.erased_leases.push_back(id);
    undo.emplace_back(LeaseRemoved{*lessor.remove(id)});
}

Outcome<Revision> Store::lease_revoke(LeaseId id) {
    MESH_CHECK(impl_->writable());
    if (!impl_->lessor.has(id)) return StoreError(Fault::kLeaseNotFound);
    impl_->remove_lease(id);
    MESH_CHECK(impl_->settle());
    return impl_->revision;
}

Outcome<std::chrono::seconds> Store::lease_keep_alive(LeaseId id, TimePoint now) {
    MESH_CHECK(impl_->writable());
    const Lease* lease = impl_->lessor.find(id);
    if (lease == nullptr || lease->expiry <= now) return StoreError(Fault::kLeaseNotFound);
    const std::chrono::seconds ttl = lease->ttl;
    impl_->lessor.renew(id, now + ttl);
    if (lease->durable_remaining == ttl) return ttl;
    // The renewal stands even if it cannot be made durable (the next checkpoint tries again): a
    // full disk must not end all leases.
    impl_->note_lease(id, ttl);
    (void)impl_->settle().has_value();
    return ttl;
}

LeaseInfo Store::lease_time_to_live(LeaseId id, bool with_keys, TimePoint now) const {
    const Lease* lease = impl_->lessor.find(id);
    if (lease == nullptr)
        return {.id = id, .granted = {}, .remaining = std::chrono::seconds(-1), .keys = {}};
    LeaseInfo info{
        .id = id, .granted = lease->ttl, .remaining = Lessor::remaining(*lease, now), .keys = {}};
    if (with_keys)
        for (const KeyValue& kv : lease->keys) info.keys.emplace_back(kv.key());
    return info;
}

std::vector<LeaseId> Store::leases() const {
    return impl_->lessor.ids();
}

void Store::Impl::checkpoint_leases(TimePoint now) {
    std::vector<std::pair<LeaseId, std::chrono::seconds>> changed;
    lessor.visit([&](const Lease& lease) {
        const auto remaining = Lessor::remaining(lease, now);
        if (remaining != lease.durable_remaining) changed.emplace_back(lease.id, remaining);
    });
    for (const auto& [id, remaining] : changed) note_lease(id, remaining);
    next_checkpoint = now + options.lease_checkpoint_interval;
}

Outcome<std::size_t> Store::tick(TimePoint now) {
    const std::vector<LeaseId> expired = impl_->lessor.expired(now);
    for (const LeaseId id : expired) impl_->remove_lease(id);
    if (impl_->backend->durable() && impl_->next_checkpoint && now >= *impl_->next_checkpoint)
        impl_->checkpoint_leases(now);
    MESH_CHECK(impl_->settle());
    MESH_CHECK(impl_->erase_superseded(std::nullopt));
    return expired.size();
}

std::optional<TimePoint> Store::next_tick() const {
    const auto expiry = impl_->lessor.next_expiry();
    if (!expiry || !impl_->backend->durable() || !impl_->next_checkpoint) return expiry;
    return std::min(*expiry, *impl_->next_checkpoint);
}

}  // namespace mesh::store
