// Between plain values and etcd's messages. Internal to sources/etcd/.
#pragma once

#include "model/etcdpb/etcd.pb.h"
#include "rpc/status.hpp"
#include "sources/etcd/types.hpp"

namespace mesh::etcd::detail {

[[nodiscard]] etcdpb::RangeRequest encode(const RangeRequest& request);
/// Operations in their order.
[[nodiscard]] etcdpb::TxnRequest encode(const Txn& txn);

[[nodiscard]] Header decode(const etcdpb::ResponseHeader& header);
[[nodiscard]] KeyValue decode(const etcdpb::KeyValue& kv);
[[nodiscard]] KeyValue copy(const KeyValueView& kv);
[[nodiscard]] TxnResult decode(const etcdpb::TxnResponse& response);

/// A failed status of etcd as an Error: as rpc maps it, but a compacted revision is kCompacted.
[[nodiscard]] Error error_of(const rpc::Status& status);

}  // namespace mesh::etcd::detail
