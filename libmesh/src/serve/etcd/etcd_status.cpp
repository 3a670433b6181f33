#include "serve/etcd/etcd_status.hpp"

#include <string>

namespace mesh::serve {

using rpc::Status;
using rpc::StatusCode;
using store::Fault;

Status to_status(const store::StoreError& error) {
    const std::string text = "etcdserver: " + std::string(to_string(error.fault()));
    switch (error.fault()) {
        case Fault::kEmptyKey:
        case Fault::kKeyNotFound:
        case Fault::kValueProvided:
        case Fault::kLeaseProvided:
        case Fault::kTooManyOps:
        case Fault::kDuplicateKey:
        case Fault::kEmptyWatchRange:
        case Fault::kWatchRangeTooLong:
            return {StatusCode::kInvalidArgument, text};
        case Fault::kCompacted:
        case Fault::kFutureRevision:
        case Fault::kLeaseTtlTooLarge:
            return {StatusCode::kOutOfRange, text};
        case Fault::kNoSpace:
        case Fault::kAnswerTooLarge:
            return {StatusCode::kResourceExhausted, text};
        case Fault::kLeaseNotFound:
            return {StatusCode::kNotFound, text};
        case Fault::kLeaseExists:
            return {StatusCode::kFailedPrecondition, text};
        case Fault::kMirror:
            return permission_denied();
        case Fault::kCorrupt:
            return {StatusCode::kDataLoss, "etcdserver: corrupt cluster"};
        case Fault::kBackend:
            return {StatusCode::kUnavailable, text};
    }
    return {StatusCode::kUnknown, text};
}

Status permission_denied() {
    return {StatusCode::kPermissionDenied, "etcdserver: permission denied"};
}
Status auth_not_enabled() {
    return {StatusCode::kFailedPrecondition, "etcdserver: authentication is not enabled"};
}
Status request_too_large() {
    return {StatusCode::kInvalidArgument, "etcdserver: request is too large"};
}
Status answers_wait() {
    return {StatusCode::kResourceExhausted,
            "etcdserver: too many bytes of answers wait on this connection"};
}
Status too_many_waiting(std::uint64_t waiting) {
    return {StatusCode::kResourceExhausted,
            "etcdserver: too many requests: " + std::to_string(waiting) +
                " of this client wait for their turn"};
}
Status too_many_streams() {
    return {StatusCode::kResourceExhausted, "etcdserver: too many streams of this client"};
}
Status shadow_full() {
    return {StatusCode::kResourceExhausted,
            "etcdserver: too many init locks and leases on this connection"};
}
Status no_leader() {
    return {StatusCode::kUnavailable, "etcdserver: no leader"};
}
Status server_stopped() {
    return {StatusCode::kUnavailable, "etcdserver: server stopped"};
}
Status invalid_sort_option() {
    return {StatusCode::kInvalidArgument, "etcdserver: invalid sort option"};
}
Status undecodable() {
    return {StatusCode::kInternal, "grpc: error unmarshalling request: no message of its type"};
}

}  // namespace mesh::serve
