#include "datapath/pods.hpp"

namespace mesh::datapath {

std::string_view to_string(DropReason reason) noexcept {
    switch (reason) {
        case DropReason::kMalformed:
            return "malformed";
        case DropReason::kInvalidSource:
            return "invalid-source";
        case DropReason::kNoEndpoint:
            return "no-endpoint";
        case DropReason::kUnknownTunnelPeer:
            return "unknown-tunnel-peer";
        case DropReason::kInvalidIdentity:
            return "invalid-identity";
        case DropReason::kTunnelKey:
            return "tunnel-key";
        case DropReason::kNoNatPort:
            return "no-nat-port";
        case DropReason::kUnsupported:
            return "unsupported";
        case DropReason::kPlaintext:
            return "plaintext";
        case DropReason::kNoBackend:
            return "no-backend";
        case DropReason::kNoLocalBackend:
            return "no-local-backend";
        case DropReason::kBackendGone:
            return "backend-gone";
        case DropReason::kFlowTable:
            return "flow-table";
        case DropReason::kTooBig:
            return "too-big";
        case DropReason::kTtlExpired:
            return "ttl-expired";
        case DropReason::kPolicyDenied:
            return "policy-denied";
        case DropReason::kPolicyUnknown:
            return "policy-unknown";
        case DropReason::kProxyGone:
            return "proxy-gone";
    }
    return "unknown";
}

}  // namespace mesh::datapath
