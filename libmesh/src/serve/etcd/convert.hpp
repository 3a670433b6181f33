// Between etcd's messages and the store's plain values. Requests borrow the bytes of the message.
#pragma once

#include "model/etcdpb/etcd.pb.h"
#include "serve/etcd/wire_encode.hpp"
#include "state/store/ops.hpp"

namespace mesh::serve {

/// Whether all enumerators are known ones; the rest of a request is the store's to judge.
[[nodiscard]] bool has_known_enumerators(const etcdpb::RangeRequest& request);
[[nodiscard]] bool has_known_enumerators(const etcdpb::TxnRequest& request);

[[nodiscard]] store::RangeRequest from_pb(const etcdpb::RangeRequest& request);
[[nodiscard]] store::PutRequest from_pb(const etcdpb::PutRequest& request);
[[nodiscard]] store::DeleteRangeRequest from_pb(const etcdpb::DeleteRangeRequest& request);
[[nodiscard]] store::TxnRequest from_pb(const etcdpb::TxnRequest& request);

void to_pb(const WireHeader& header, etcdpb::ResponseHeader& out);

/// @param header its revision is replaced by the answer's
void to_pb(const store::RangeAnswer& answer, const WireHeader& header, etcdpb::RangeResponse& out);
void to_pb(const store::PutAnswer& answer, const WireHeader& header, etcdpb::PutResponse& out);
void to_pb(const store::DeleteRangeAnswer& answer, const WireHeader& header,
           etcdpb::DeleteRangeResponse& out);
void to_pb(const store::TxnAnswer& answer, const WireHeader& header, etcdpb::TxnResponse& out);

}  // namespace mesh::serve
