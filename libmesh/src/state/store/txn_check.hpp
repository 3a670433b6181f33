// Checks of requests that need no store: what etcd refuses before it looks at its data. Internal to
// the store.
#pragma once

#include <cstddef>

#include "state/store/ops.hpp"
#include "state/store/outcome.hpp"

namespace mesh::store {

/// @errors kEmptyKey
[[nodiscard]] Outcome<void> check_range(const RangeRequest& request);
/// @errors kEmptyKey, kValueProvided, kLeaseProvided
[[nodiscard]] Outcome<void> check_put(const PutRequest& request);
/// @errors kEmptyKey
[[nodiscard]] Outcome<void> check_delete(const DeleteRangeRequest& request);
/// Also, as far as etcd sees it, that no key may be written twice on any path through the txn.
/// @errors those above, kTooManyOps, kKeyNotFound (an operation without a request), kDuplicateKey
/// @complexity O(n log^2 n) in the operations of all levels
/// @source etcd v3.4 server/etcdserver/api/v3rpc/key.go: checkTxnRequest, checkIntervals
[[nodiscard]] Outcome<void> check_txn(const TxnRequest& request, std::size_t max_ops);
/// Whether any path writes.
[[nodiscard]] bool writes(const TxnRequest& request);

}  // namespace mesh::store
