#include "sources/etcd/codec.hpp"

namespace mesh::etcd::detail {

namespace {
etcdpb::RequestOp encode_op(const Op& op) {
    etcdpb::RequestOp out;
    if (const auto* put = std::get_if<PutOp>(&op)) {
        auto* request = out.mutable_request_put();
        request->set_key(put->key);
        request->set_value(put->value);
        request->set_lease(put->lease);
    } else if (const auto* erase = std::get_if<DeleteOp>(&op)) {
        auto* request = out.mutable_request_delete_range();
        request->set_key(erase->range.key);
        request->set_range_end(erase->range.end);
    } else if (const auto* get = std::get_if<GetOp>(&op)) {
        auto* request = out.mutable_request_range();
        request->set_key(get->range.key);
        request->set_range_end(get->range.end);
        request->set_limit(get->limit);
    }
    return out;
}

etcdpb::Compare encode_compare(const Compare& compare) {
    etcdpb::Compare out;
    out.set_key(compare.key);
    out.set_range_end(compare.end);
    switch (compare.is) {
        case Compare::Is::kEqual:
            out.set_result(etcdpb::Compare::EQUAL);
            break;
        case Compare::Is::kGreater:
            out.set_result(etcdpb::Compare::GREATER);
            break;
        case Compare::Is::kLess:
            out.set_result(etcdpb::Compare::LESS);
            break;
        case Compare::Is::kNotEqual:
            out.set_result(etcdpb::Compare::NOT_EQUAL);
            break;
    }
    switch (compare.target) {
        case Compare::Target::kVersion:
            out.set_target(etcdpb::Compare::VERSION);
            out.set_version(compare.number);
            break;
        case Compare::Target::kCreateRevision:
            out.set_target(etcdpb::Compare::CREATE);
            out.set_create_revision(compare.number);
            break;
        case Compare::Target::kModRevision:
            out.set_target(etcdpb::Compare::MOD);
            out.set_mod_revision(compare.number);
            break;
        case Compare::Target::kValue:
            out.set_target(etcdpb::Compare::VALUE);
            out.set_value(compare.value);
            break;
        case Compare::Target::kLease:
            out.set_target(etcdpb::Compare::LEASE);
            out.set_lease(compare.number);
            break;
    }
    return out;
}
}  // namespace

etcdpb::RangeRequest encode(const RangeRequest& request) {
    etcdpb::RangeRequest out;
    out.set_key(request.range.key);
    out.set_range_end(request.range.end);
    out.set_limit(request.limit);
    out.set_revision(request.revision);
    out.set_serializable(request.serializable);
    out.set_keys_only(request.keys_only);
    out.set_count_only(request.count_only);
    return out;
}

etcdpb::TxnRequest encode(const Txn& txn) {
    etcdpb::TxnRequest out;
    for (const Compare& compare : txn.compare) *out.add_compare() = encode_compare(compare);
    for (const Op& op : txn.success) *out.add_success() = encode_op(op);
    for (const Op& op : txn.failure) *out.add_failure() = encode_op(op);
    return out;
}

Header decode(const etcdpb::ResponseHeader& header) {
    return {header.cluster_id(), header.member_id(), header.revision(), header.raft_term()};
}

KeyValue decode(const etcdpb::KeyValue& kv) {
    return {kv.key(),          kv.value(),   kv.create_revision(),
            kv.mod_revision(), kv.version(), kv.lease()};
}

KeyValue copy(const KeyValueView& kv) {
    return {std::string(kv.key), std::string(kv.value),
            kv.create_revision,  kv.mod_revision,
            kv.version,          kv.lease};
}

TxnResult decode(const etcdpb::TxnResponse& response) {
    TxnResult out;
    out.header = decode(response.header());
    out.succeeded = response.succeeded();
    for (const auto& one : response.responses()) {
        RangeResult& result = out.results.emplace_back();
        if (!one.has_response_range()) continue;
        result.header = decode(one.response_range().header());
        for (const auto& kv : one.response_range().kvs()) result.kvs.push_back(decode(kv));
        result.more = one.response_range().more();
        result.count = one.response_range().count();
    }
    return out;
}

Error error_of(const rpc::Status& status) {
    Error error = rpc::to_error(status);
    if (status.code == rpc::StatusCode::kOutOfRange &&
        status.message.find("compacted") != std::string::npos)
        return {Errc::kCompacted, error.detail()};
    return error;
}

}  // namespace mesh::etcd::detail
