// What can go wrong in the store, one enumerator per answer that etcd tells apart, so that the
// server in front of it can give etcd's own code and words.
#pragma once

#include <boost/system/result.hpp>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

namespace mesh::store {

/// @source etcd v3.4 api: rpctypes/error.go (the comments give its words after "etcdserver: ")
enum class Fault : std::uint8_t {
    kEmptyKey = 1,  ///< "key is not provided"
    kKeyNotFound,  ///< "key not found": ignore_value/ignore_lease on a missing key; an empty txn op
    kValueProvided,   ///< "value is provided": a value beside ignore_value
    kLeaseProvided,   ///< "lease is provided": a lease beside ignore_lease
    kTooManyOps,      ///< "too many operations in txn request"
    kDuplicateKey,    ///< "duplicate key given in txn request"
    kCompacted,       ///< "mvcc: required revision has been compacted"
    kFutureRevision,  ///< "mvcc: required revision is a future revision"
    kNoSpace,         ///< "mvcc: database space exceeded": the backend's bound or the disk is full
    kLeaseNotFound,   ///< "requested lease not found"
    kLeaseExists,     ///< "lease already exists"
    kLeaseTtlTooLarge,   ///< "too large lease TTL"
    kEmptyWatchRange,    ///< "mvcc: watcher range is empty"
    kWatchRangeTooLong,  ///< key and range_end of a watch are beyond kMaxWatchRangeBytes; ours
    kAnswerTooLarge,     ///< beyond StoreOptions::max_answer_bytes; nothing was changed; ours
    kMirror,   ///< a write on a store that mirrors another etcd, or out-of-order upstream data
    kCorrupt,  ///< stored bytes make no sense; detail names the file
    kBackend,  ///< the backend failed; nothing was changed
};

/// The words above, without "etcdserver: ".
[[nodiscard]] std::string_view to_string(Fault fault) noexcept;

/// A fault and, where there is more to say (file, key, errno), one sentence.
class [[nodiscard]] StoreError {
  public:
    StoreError() = default;  // only for boost::system::result
    explicit(false) StoreError(Fault fault, std::string detail = {})
        : fault_(fault), detail_(std::move(detail)) {}

    [[nodiscard]] Fault fault() const noexcept { return fault_; }
    [[nodiscard]] const std::string& detail() const noexcept { return detail_; }
    /// The same as the library's general error.
    [[nodiscard]] Error to_error() const;

    friend bool operator==(const StoreError&, const StoreError&) = default;

  private:
    Fault fault_ = Fault::kBackend;
    std::string detail_;
};

[[noreturn]] void throw_exception_from_error(const StoreError& error,
                                             const boost::source_location& where);

/// A value or a StoreError; nodiscard. Works with MESH_TRY and MESH_CHECK.
template <class T>
class [[nodiscard]] Outcome : public boost::system::result<T, StoreError> {
  public:
    using boost::system::result<T, StoreError>::result;
};

}  // namespace mesh::store
