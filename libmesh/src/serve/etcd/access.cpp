#include "serve/etcd/access.hpp"

#include <algorithm>

namespace mesh::serve {
namespace {

bool no_end(std::string_view end) {
    return end.size() == 1 && end[0] == '\0';
}

}  // namespace

std::string_view to_string(DenialReason reason) noexcept {
    switch (reason) {
        case DenialReason::kNoRole:
            return "no-role";
        case DenialReason::kListener:
            return "listener";
        case DenialReason::kMethod:
            return "method";
        case DenialReason::kKey:
            return "key";
        case DenialReason::kMirror:
            return "mirror";
        case DenialReason::kRevoked:
            return "revoked";
        case DenialReason::kStreams:
            return "streams";
        case DenialReason::kWatches:
            return "watches";
        case DenialReason::kRequests:
            return "requests";
    }
    return "unknown";
}

bool lies_within(const store::KeyRange& inner, std::string_view start, std::string_view end) {
    if (inner.key < start) return false;
    if (no_end(end)) return true;
    if (inner.range_end.empty()) return inner.key < end;
    return !no_end(inner.range_end) && inner.range_end <= end;
}

ReadOnly::ReadOnly(std::vector<Prefix> prefixes, bool allow_status) : allow_status_(allow_status) {
    for (Prefix& prefix : prefixes) {
        // [key, key + '\0') holds the key alone.
        std::string end = prefix.exact ? prefix.prefix + '\0' : store::prefix_end(prefix.prefix);
        ranges_.push_back({std::move(prefix.prefix), std::move(end)});
    }
}

bool ReadOnly::allows(const AccessRequest& request) const {
    if (!admits(request)) return false;
    if (request.action == EtcdAction::kStatus) return true;
    return std::any_of(ranges_.begin(), ranges_.end(), [&request](const Range& range) {
        return lies_within(request.range, range.start, range.end);
    });
}

bool ReadOnly::admits(const AccessRequest& request) const {
    switch (request.action) {
        case EtcdAction::kRange:
        case EtcdAction::kWatch:
            return true;
        case EtcdAction::kStatus:
            return allow_status_;
        default:
            return false;
    }
}

}  // namespace mesh::serve
