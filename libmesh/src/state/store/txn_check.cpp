#include "state/store/txn_check.hpp"

#include <algorithm>
#include <set>
#include <string_view>
#include <vector>

#include "state/store/key_index.hpp"

namespace mesh::store {
namespace {

Outcome<void> check_ops(const TxnRequest& request, std::size_t max_ops);

Outcome<void> check_op(const TxnOp& op, std::size_t max_ops) {
    if (const auto* range = std::get_if<RangeRequest>(&op.request)) return check_range(*range);
    if (const auto* put = std::get_if<PutRequest>(&op.request)) return check_put(*put);
    if (const auto* gone = std::get_if<DeleteRangeRequest>(&op.request)) return check_delete(*gone);
    if (const auto* txn = std::get_if<TxnRequest>(&op.request)) return check_ops(*txn, max_ops);
    return StoreError(Fault::kKeyNotFound);
}

Outcome<void> check_ops(const TxnRequest& request, std::size_t max_ops) {
    const std::size_t ops =
        std::max({request.compare.size(), request.success.size(), request.failure.size()});
    if (ops > max_ops) return StoreError(Fault::kTooManyOps);
    for (const Compare& compare : request.compare)
        if (compare.range.key.empty()) return StoreError(Fault::kEmptyKey);
    for (const auto* branch : {&request.success, &request.failure})
        for (const TxnOp& op : *branch) MESH_CHECK(check_op(op, max_ops - ops));
    return {};
}

/// What a list of operations may write.
struct Writes {
    std::set<std::string_view> puts;
    std::vector<KeyRange> deletes;

    [[nodiscard]] bool deletes_key(std::string_view key) const {
        return std::any_of(deletes.begin(), deletes.end(),
                           [key](const KeyRange& range) { return contains(range, key); });
    }
};

Outcome<Writes> collect(const std::vector<TxnOp>& ops);

// A nested txn takes one of its branches: these may write the same keys as each other, but not the
// same as anything else at this level. (etcd lets a nested put be deleted by a later sibling; a key
// would then change twice in one revision, which this store rules out.)
Outcome<void> collect_nested(const TxnRequest& txn, const Writes& own,
                             std::set<std::string_view>& puts, std::vector<KeyRange>& below) {
    std::set<std::string_view> of_this_txn;
    std::vector<KeyRange> deletes_of_this_txn;
    const Writes siblings{.puts = {}, .deletes = below};
    for (const auto* branch : {&txn.success, &txn.failure}) {
        MESH_TRY(Writes inner, collect(*branch));
        for (const std::string_view key : inner.puts) {
            if (puts.count(key) != 0 || own.deletes_key(key) || siblings.deletes_key(key))
                return StoreError(Fault::kDuplicateKey);
            of_this_txn.insert(key);
        }
        for (const std::string_view key : puts)
            if (inner.deletes_key(key)) return StoreError(Fault::kDuplicateKey);
        deletes_of_this_txn.insert(deletes_of_this_txn.end(), inner.deletes.begin(),
                                   inner.deletes.end());
    }
    puts.merge(of_this_txn);
    below.insert(below.end(), deletes_of_this_txn.begin(), deletes_of_this_txn.end());
    return {};
}

Outcome<Writes> collect(const std::vector<TxnOp>& ops) {
    Writes writes;
    for (const TxnOp& op : ops)
        if (const auto* gone = std::get_if<DeleteRangeRequest>(&op.request))
            writes.deletes.push_back(gone->range);
    std::vector<KeyRange> below;
    for (const TxnOp& op : ops)
        if (const auto* txn = std::get_if<TxnRequest>(&op.request))
            MESH_CHECK(collect_nested(*txn, writes, writes.puts, below));
    writes.deletes.insert(writes.deletes.end(), below.begin(), below.end());
    for (const TxnOp& op : ops) {
        const auto* put = std::get_if<PutRequest>(&op.request);
        if (put == nullptr) continue;
        if (writes.deletes_key(put->key) || !writes.puts.insert(put->key).second)
            return StoreError(Fault::kDuplicateKey);
    }
    return writes;
}

bool writes_in(const std::vector<TxnOp>& ops) {
    return std::any_of(ops.begin(), ops.end(), [](const TxnOp& op) {
        if (const auto* txn = std::get_if<TxnRequest>(&op.request)) return writes(*txn);
        return !std::holds_alternative<RangeRequest>(op.request);
    });
}

}  // namespace

Outcome<void> check_range(const RangeRequest& request) {
    if (request.range.key.empty()) return StoreError(Fault::kEmptyKey);
    return {};
}

Outcome<void> check_put(const PutRequest& request) {
    if (request.key.empty()) return StoreError(Fault::kEmptyKey);
    if (request.ignore_value && !request.value.empty()) return StoreError(Fault::kValueProvided);
    if (request.ignore_lease && request.lease != LeaseId{})
        return StoreError(Fault::kLeaseProvided);
    return {};
}

Outcome<void> check_delete(const DeleteRangeRequest& request) {
    if (request.range.key.empty()) return StoreError(Fault::kEmptyKey);
    return {};
}

Outcome<void> check_txn(const TxnRequest& request, std::size_t max_ops) {
    MESH_CHECK(check_ops(request, max_ops));
    for (const auto* branch : {&request.success, &request.failure})
        if (auto collected = collect(*branch); !collected) return collected.error();
    return {};
}

bool writes(const TxnRequest& request) {
    return writes_in(request.success) || writes_in(request.failure);
}

}  // namespace mesh::store
