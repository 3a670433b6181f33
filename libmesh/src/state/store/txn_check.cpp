#include "state/store/txn_check.hpp"

#include <algorithm>
#include <compare>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

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

/// Where a deleted range ends: at a key (exclusive), or right behind it.
struct RangeBound {
    std::string_view key;
    bool behind = false;
    friend auto operator<=>(const RangeBound&, const RangeBound&) = default;
};

/// Deleted ranges, merged: disjoint and sorted, so that a key or a range is found in O(log n).
class Deletes {
  public:
    [[nodiscard]] std::size_t size() const noexcept { return ends_.size(); }
    [[nodiscard]] const auto& ranges() const noexcept { return ends_; }

    void add(const KeyRange& range) {
        if (range.range_end.empty()) return add(range.key, {range.key, true});
        // Neither etcd 3.4 nor we count a delete without an end: [key, "\0") is empty to it. What
        // would then change twice is refused when it happens (Store::txn).
        if (range.range_end > range.key) add(range.key, {range.range_end, false});
    }
    void add(std::string_view start, RangeBound end) {
        auto next = ends_.upper_bound(start);
        if (next != ends_.begin() && std::prev(next)->second >= RangeBound{start, false}) {
            --next;
            start = next->first;
        }
        for (; next != ends_.end() && RangeBound{next->first, false} <= end;
             next = ends_.erase(next))
            end = std::max(end, next->second);
        ends_.emplace_hint(next, start, end);
    }
    [[nodiscard]] bool contain(std::string_view key) const {
        const auto next = ends_.upper_bound(key);
        return next != ends_.begin() && RangeBound{key, false} < std::prev(next)->second;
    }
    void take(Deletes other) {
        if (ends_.size() < other.ends_.size()) ends_.swap(other.ends_);
        for (const auto& [start, end] : other.ends_) add(start, end);
    }

  private:
    std::map<std::string_view, RangeBound> ends_;  // by start
};

using Puts = std::set<std::string_view>;

// The smaller side is looked up in the larger one, and the smaller one is moved when two are
// joined: a key costs O(log^2 n) in all, however deep its txn lies.

bool meet(const Puts& a, const Puts& b) {
    const Puts& larger = a.size() < b.size() ? b : a;
    const Puts& smaller = a.size() < b.size() ? a : b;
    return std::any_of(smaller.begin(), smaller.end(),
                       [&larger](std::string_view key) { return larger.count(key) != 0; });
}

bool meet(const Puts& puts, const Deletes& deletes) {
    if (puts.size() < deletes.size())
        return std::any_of(puts.begin(), puts.end(),
                           [&deletes](std::string_view key) { return deletes.contain(key); });
    return std::any_of(deletes.ranges().begin(), deletes.ranges().end(),
                       [&puts](const auto& range) {
                           const auto first = puts.lower_bound(range.first);
                           return first != puts.end() && RangeBound{*first, false} < range.second;
                       });
}

void take(Puts& puts, Puts other) {
    if (puts.size() < other.size()) puts.swap(other);
    puts.merge(other);
}

/// What a list of operations may write.
struct Writes {
    Puts puts;
    Deletes deletes;
};

/// etcd's rule, which looks at every path at once: a put may not meet a delete of its own level, of
/// an earlier sibling txn or (if it is itself of this level) of any of them; and no put another
/// put, but that of a txn's other branch. Not all of what it lets pass can be done in one revision
/// of ours: see Store::txn.
Outcome<Writes> collect(const std::vector<TxnOp>& ops) {
    Writes writes;
    for (const TxnOp& op : ops)
        if (const auto* gone = std::get_if<DeleteRangeRequest>(&op.request))
            writes.deletes.add(gone->range);
    for (const TxnOp& op : ops) {
        const auto* txn = std::get_if<TxnRequest>(&op.request);
        if (txn == nullptr) continue;
        MESH_TRY(Writes success, collect(txn->success));
        MESH_TRY(Writes failure, collect(txn->failure));
        for (const Writes* branch : {&success, &failure})
            if (meet(branch->puts, writes.deletes) || meet(branch->puts, writes.puts))
                return StoreError(Fault::kDuplicateKey);
        for (Writes* branch : {&success, &failure}) {
            take(writes.puts, std::move(branch->puts));
            writes.deletes.take(std::move(branch->deletes));
        }
    }
    for (const TxnOp& op : ops) {
        const auto* put = std::get_if<PutRequest>(&op.request);
        if (put == nullptr) continue;
        if (writes.deletes.contain(put->key) || !writes.puts.insert(put->key).second)
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
