#include "state/store/outcome.hpp"

#include <stdexcept>

namespace mesh::store {

std::string_view to_string(Fault fault) noexcept {
    switch (fault) {
        case Fault::kEmptyKey:
            return "key is not provided";
        case Fault::kKeyNotFound:
            return "key not found";
        case Fault::kValueProvided:
            return "value is provided";
        case Fault::kLeaseProvided:
            return "lease is provided";
        case Fault::kTooManyOps:
            return "too many operations in txn request";
        case Fault::kDuplicateKey:
            return "duplicate key given in txn request";
        case Fault::kCompacted:
            return "mvcc: required revision has been compacted";
        case Fault::kFutureRevision:
            return "mvcc: required revision is a future revision";
        case Fault::kNoSpace:
            return "mvcc: database space exceeded";
        case Fault::kLeaseNotFound:
            return "requested lease not found";
        case Fault::kLeaseExists:
            return "lease already exists";
        case Fault::kLeaseTtlTooLarge:
            return "too large lease TTL";
        case Fault::kEmptyWatchRange:
            return "mvcc: watcher range is empty";
        case Fault::kWatchRangeTooLong:
            return "key and range_end of the watch are too long, expected at most 65536 bytes";
        case Fault::kAnswerTooLarge:
            return "the answer is too large, ask for fewer keys at a time";
        case Fault::kMirror:
            return "the store mirrors another etcd";
        case Fault::kCorrupt:
            return "corrupt store";
        case Fault::kBackend:
            return "the store's backend failed";
    }
    return "unknown";
}

Error StoreError::to_error() const {
    std::string text(to_string(fault_));
    if (!detail_.empty()) text.append(": ").append(detail_);
    switch (fault_) {
        case Fault::kEmptyKey:
        case Fault::kValueProvided:
        case Fault::kLeaseProvided:
        case Fault::kTooManyOps:
        case Fault::kDuplicateKey:
        case Fault::kFutureRevision:
        case Fault::kLeaseTtlTooLarge:
        case Fault::kEmptyWatchRange:
        case Fault::kWatchRangeTooLong:
            return {Errc::kInvalidArgument, std::move(text)};
        case Fault::kKeyNotFound:
        case Fault::kLeaseNotFound:
            return {Errc::kNotFound, std::move(text)};
        case Fault::kLeaseExists:
        case Fault::kMirror:
            return {Errc::kConflict, std::move(text)};
        case Fault::kCompacted:
            return {Errc::kCompacted, std::move(text)};
        case Fault::kNoSpace:
        case Fault::kAnswerTooLarge:
            return {Errc::kCapacity, std::move(text)};
        case Fault::kCorrupt:
            return {Errc::kCorrupt, std::move(text)};
        case Fault::kBackend:
            return {Errc::kUnavailable, std::move(text)};
    }
    return {Errc::kInternal, std::move(text)};
}

void throw_exception_from_error(const StoreError& error, const boost::source_location& where) {
    throw std::logic_error("value() of a failed Outcome (" + error.to_error().message() + ") at " +
                           where.to_string());
}

}  // namespace mesh::store
