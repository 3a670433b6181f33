#include "serve/etcd/convert.hpp"

#include <algorithm>

namespace mesh::serve {
namespace {

using store::LeaseId;

WireHeader at(WireHeader header, store::Revision revision) {
    header.revision = revision;
    return header;
}

void to_pb(const store::KeyValue& kv, etcdpb::KeyValue& out) {
    out.set_key(kv.key().data(), kv.key().size());
    out.set_create_revision(kv.create_revision());
    out.set_mod_revision(kv.mod_revision());
    out.set_version(kv.version());
    out.set_value(kv.value().data(), kv.value().size());
    out.set_lease(number(kv.lease()));
}

store::Compare from_pb(const etcdpb::Compare& compare) {
    store::Compare out;
    out.range = {compare.key(), compare.range_end()};
    switch (compare.result()) {
        case etcdpb::Compare::EQUAL:
            out.result = store::Compare::Result::kEqual;
            break;
        case etcdpb::Compare::GREATER:
            out.result = store::Compare::Result::kGreater;
            break;
        case etcdpb::Compare::LESS:
            out.result = store::Compare::Result::kLess;
            break;
        default:
            out.result = store::Compare::Result::kNotEqual;
            break;
    }
    switch (compare.target()) {
        case etcdpb::Compare::CREATE:
            out.target = store::Compare::Target::kCreate;
            out.number = compare.create_revision();
            break;
        case etcdpb::Compare::MOD:
            out.target = store::Compare::Target::kMod;
            out.number = compare.mod_revision();
            break;
        case etcdpb::Compare::VALUE:
            out.target = store::Compare::Target::kValue;
            out.value = compare.value();
            break;
        case etcdpb::Compare::LEASE:
            out.target = store::Compare::Target::kLease;
            out.number = compare.lease();
            break;
        default:
            out.target = store::Compare::Target::kVersion;
            out.number = compare.version();
            break;
    }
    return out;
}

store::TxnOp from_pb(const etcdpb::RequestOp& op) {
    switch (op.request_case()) {
        case etcdpb::RequestOp::kRequestRange:
            return {serve::from_pb(op.request_range())};
        case etcdpb::RequestOp::kRequestPut:
            return {serve::from_pb(op.request_put())};
        case etcdpb::RequestOp::kRequestDeleteRange:
            return {serve::from_pb(op.request_delete_range())};
        case etcdpb::RequestOp::kRequestTxn:
            return {serve::from_pb(op.request_txn())};
        case etcdpb::RequestOp::REQUEST_NOT_SET:
            break;
    }
    return {};
}

struct ToResponseOp {
    const WireHeader& header;
    etcdpb::ResponseOp& out;
    void operator()(const store::RangeAnswer& a) const {
        serve::to_pb(a, header, *out.mutable_response_range());
    }
    void operator()(const store::PutAnswer& a) const {
        serve::to_pb(a, header, *out.mutable_response_put());
    }
    void operator()(const store::DeleteRangeAnswer& a) const {
        serve::to_pb(a, header, *out.mutable_response_delete_range());
    }
    void operator()(const store::TxnAnswer& a) const {
        serve::to_pb(a, header, *out.mutable_response_txn());
        // A nested txn is told not even that.
        out.mutable_response_txn()->mutable_header()->clear_revision();
    }
};

}  // namespace

bool has_known_enumerators(const etcdpb::RangeRequest& request) {
    return etcdpb::RangeRequest::SortOrder_IsValid(request.sort_order()) &&
           etcdpb::RangeRequest::SortTarget_IsValid(request.sort_target());
}

bool has_known_enumerators(const etcdpb::TxnRequest& request) {
    const auto known = [](const etcdpb::RequestOp& op) {
        if (op.has_request_range()) return has_known_enumerators(op.request_range());
        return !op.has_request_txn() || has_known_enumerators(op.request_txn());
    };
    return std::all_of(request.compare().begin(), request.compare().end(),
                       [](const etcdpb::Compare& compare) {
                           return etcdpb::Compare::CompareResult_IsValid(compare.result()) &&
                                  etcdpb::Compare::CompareTarget_IsValid(compare.target());
                       }) &&
           std::all_of(request.success().begin(), request.success().end(), known) &&
           std::all_of(request.failure().begin(), request.failure().end(), known);
}

store::RangeRequest from_pb(const etcdpb::RangeRequest& request) {
    return {.range = {request.key(), request.range_end()},
            .limit = request.limit(),
            .revision = request.revision(),
            .sort_order = static_cast<store::SortOrder>(request.sort_order()),
            .sort_target = static_cast<store::SortTarget>(request.sort_target()),
            .keys_only = request.keys_only(),
            .count_only = request.count_only(),
            .min_mod_revision = request.min_mod_revision(),
            .max_mod_revision = request.max_mod_revision(),
            .min_create_revision = request.min_create_revision(),
            .max_create_revision = request.max_create_revision()};
}

store::PutRequest from_pb(const etcdpb::PutRequest& request) {
    return {.key = request.key(),
            .value = request.value(),
            .lease = LeaseId{request.lease()},
            .prev_kv = request.prev_kv(),
            .ignore_value = request.ignore_value(),
            .ignore_lease = request.ignore_lease()};
}

store::DeleteRangeRequest from_pb(const etcdpb::DeleteRangeRequest& request) {
    return {.range = {request.key(), request.range_end()}, .prev_kv = request.prev_kv()};
}

store::TxnRequest from_pb(const etcdpb::TxnRequest& request) {
    store::TxnRequest out;
    for (const auto& compare : request.compare()) out.compare.push_back(from_pb(compare));
    for (const auto& op : request.success()) out.success.push_back(from_pb(op));
    for (const auto& op : request.failure()) out.failure.push_back(from_pb(op));
    return out;
}

void to_pb(const WireHeader& header, etcdpb::ResponseHeader& out) {
    out.set_cluster_id(header.cluster_id);
    out.set_member_id(header.member_id);
    out.set_revision(header.revision);
    out.set_raft_term(header.raft_term);
}

void to_pb(const store::RangeAnswer& answer, const WireHeader& header, etcdpb::RangeResponse& out) {
    to_pb(at(header, answer.revision), *out.mutable_header());
    for (const auto& kv : answer.kvs) to_pb(kv, *out.add_kvs());
    out.set_more(answer.more);
    out.set_count(answer.count);
}

void to_pb(const store::PutAnswer& answer, const WireHeader& header, etcdpb::PutResponse& out) {
    to_pb(at(header, answer.revision), *out.mutable_header());
    if (answer.prev_kv) to_pb(answer.prev_kv, *out.mutable_prev_kv());
}

void to_pb(const store::DeleteRangeAnswer& answer, const WireHeader& header,
           etcdpb::DeleteRangeResponse& out) {
    to_pb(at(header, answer.revision), *out.mutable_header());
    out.set_deleted(answer.deleted);
    for (const auto& kv : answer.prev_kvs) to_pb(kv, *out.add_prev_kvs());
}

void to_pb(const store::TxnAnswer& answer, const WireHeader& header, etcdpb::TxnResponse& out) {
    to_pb(at(header, answer.revision), *out.mutable_header());
    out.set_succeeded(answer.succeeded);
    const WireHeader bare;  // etcd tells the operations of a txn their revision alone
    for (const auto& op : answer.answers)
        std::visit(ToResponseOp{bare, *out.add_responses()}, op.answer);
}

}  // namespace mesh::serve
