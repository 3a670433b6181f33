#include "serve/etcd/init_lock_shadow.hpp"

#include <algorithm>
#include <utility>
#include <variant>

#include "serve/etcd/access.hpp"

namespace mesh::serve {

namespace {

/// A session of Cilium's lock has this TTL; the shadow's leases end with the connection.
constexpr std::chrono::seconds kLockTtl{25};
constexpr std::size_t kMostHistory = 256;

}  // namespace

bool InitLockShadow::covers(const store::KeyRange& range) {
    static const std::string end = store::prefix_end(kInitLockPrefix);
    return lies_within(range, kInitLockPrefix, end);
}

bool InitLockShadow::covers(const store::TxnRequest& request) {
    const auto op_covered = [](const store::TxnOp& op) {
        if (const auto* range = std::get_if<store::RangeRequest>(&op.request))
            return covers(range->range);
        if (const auto* put = std::get_if<store::PutRequest>(&op.request))
            return covers(store::KeyRange{put->key, {}});
        if (const auto* gone = std::get_if<store::DeleteRangeRequest>(&op.request))
            return covers(gone->range);
        if (const auto* txn = std::get_if<store::TxnRequest>(&op.request)) return covers(*txn);
        return false;
    };
    const bool empty =
        request.compare.empty() && request.success.empty() && request.failure.empty();
    return !empty &&
           std::ranges::all_of(request.compare,
                               [](const store::Compare& c) { return covers(c.range); }) &&
           std::ranges::all_of(request.success, op_covered) &&
           std::ranges::all_of(request.failure, op_covered);
}

store::Store& InitLockShadow::store_of(const rpc::ServerCall& call) {
    auto& place = stores_[&call.peer()];
    if (!place) {
        store::StoreOptions options;
        options.identity = {.cluster_id = rng_.next(), .member_id = rng_.next()};
        options.seed = rng_.next();
        options.max_answer_bytes = std::size_t{1} << 20;
        // In memory, where nothing can fail.
        place =
            *store::Store::open(std::make_unique<store::MemoryBackend>(), options, clock_.now());
    }
    if (place->stats().log_entries > kMostHistory) (void)place->compact(place->revision());
    return *place;
}

bool InitLockShadow::full(const store::Store& shadow) {
    const store::StoreStats stats = shadow.stats();
    return stats.keys >= kMostKeys || stats.leases >= kMostLeases;
}

void InitLockShadow::admit_leases(store::Store& shadow, const store::PutRequest& request) {
    // One that is there already is refused, which is as well.
    if (number(request.lease) != 0) {
        (void)shadow.lease_grant(request.lease, kLockTtl, clock_.now());
    }
}

void InitLockShadow::admit_leases(store::Store& shadow, const store::TxnRequest& request) {
    for (const auto* branch : {&request.success, &request.failure}) {
        for (const store::TxnOp& op : *branch) {
            if (const auto* put = std::get_if<store::PutRequest>(&op.request)) {
                admit_leases(shadow, *put);
            } else if (const auto* txn = std::get_if<store::TxnRequest>(&op.request)) {
                admit_leases(shadow, *txn);
            }
        }
    }
}

}  // namespace mesh::serve
