#include "serve/l7/filter.hpp"

namespace mesh::serve::l7 {

std::string_view decide(FilterHost& host, const RequestView& request, Decision& decision) noexcept {
    try {
        decision.clear();
        if (request.method == "CONNECT") return kConnectDenied;
        const FlowPolicy& flow = host.policy();
        if (flow.policy == nullptr) return kNoPolicy;
        flow.policy->decide(request, decision);
        return decision.allowed ? std::string_view{} : kDeniedByPolicy;
    } catch (...) {
        decision.allowed = false;
        return "policy could not be asked";
    }
}

std::string_view text_of(ServerFailure failure) noexcept {
    switch (failure) {
        case ServerFailure::kUnreachable:
            return "the server cannot be reached";
        case ServerFailure::kConnectTimeout:
            return "the server did not accept the connection in time";
        case ServerFailure::kReset:
            return "the server closed the connection before it answered";
    }
    return "";
}

std::string_view reason_phrase(unsigned status) noexcept {
    switch (status) {
        case 400:
            return "Bad Request";
        case 403:
            return "Forbidden";
        case 408:
            return "Request Timeout";
        case 431:
            return "Request Header Fields Too Large";
        case 502:
            return "Bad Gateway";
        case 503:
            return "Service Unavailable";
        case 504:
            return "Gateway Timeout";
        case 505:
            return "HTTP Version Not Supported";
        default:
            return "Error";
    }
}

}  // namespace mesh::serve::l7
