// Requests and answers of the store: etcd's KV and Lease calls as plain values. Keys and values in
// requests are borrowed for the call; those in answers are handles on the store's own records.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "state/store/key_value.hpp"

namespace mesh::store {

/// Which keys: [key, range_end), with etcd's conventions: range_end empty = only key; range_end of
/// one zero byte = every key from key on; key of one zero byte with such an end = all keys.
struct KeyRange {
    std::string_view key{};
    std::string_view range_end{};
};

/// range_end for "every key that begins with prefix": its last byte below 0xff plus one, and one
/// zero byte where there is none (also for the empty prefix).
[[nodiscard]] std::string prefix_end(std::string_view prefix);

enum class SortOrder : std::uint8_t { kNone, kAscend, kDescend };
enum class SortTarget : std::uint8_t { kKey, kVersion, kCreate, kMod, kValue };

struct RangeRequest {
    KeyRange range{};
    std::int64_t limit = 0;  ///< 0 = all
    Revision revision = 0;   ///< <= 0 = newest
    SortOrder sort_order = SortOrder::kNone;
    SortTarget sort_target = SortTarget::kKey;
    bool keys_only = false;
    bool count_only = false;
    Revision min_mod_revision = 0, max_mod_revision = 0;        ///< 0 = no bound
    Revision min_create_revision = 0, max_create_revision = 0;  ///< 0 = no bound
};
struct RangeAnswer {
    Revision revision = 0;  ///< the store's, not the one asked for
    std::vector<KeyValue> kvs{};
    bool more = false;       ///< limit cut some off
    std::int64_t count = 0;  ///< keys in the range, whatever limit and filters say
};

struct PutRequest {
    std::string_view key{};
    std::string_view value{};
    LeaseId lease{};
    bool prev_kv = false;
    bool ignore_value = false;
    bool ignore_lease = false;
};
struct PutAnswer {
    Revision revision = 0;
    KeyValue prev_kv{};  ///< null if not asked for or there was none
};

struct DeleteRangeRequest {
    KeyRange range{};
    bool prev_kv = false;
};
struct DeleteRangeAnswer {
    Revision revision = 0;
    std::int64_t deleted = 0;
    std::vector<KeyValue> prev_kvs{};
};

/// A condition of a Txn on every key of the range; true for a missing key with number 0 (never on
/// value).
struct Compare {
    enum class Target : std::uint8_t { kVersion, kCreate, kMod, kValue, kLease };
    enum class Result : std::uint8_t { kEqual, kGreater, kLess, kNotEqual };
    Target target = Target::kVersion;
    Result result = Result::kEqual;
    KeyRange range{};
    std::int64_t number = 0;   ///< for all targets but kValue
    std::string_view value{};  ///< for kValue
};

struct TxnOp;
struct TxnRequest {
    std::vector<Compare> compare{};
    // Without initializers, which would need the complete type here (clang 14).
    std::vector<TxnOp> success;
    std::vector<TxnOp> failure;
};
struct TxnOp {
    /// monostate: an operation that names no request; refused as etcd does.
    std::variant<std::monostate, RangeRequest, PutRequest, DeleteRangeRequest, TxnRequest> request;
};
struct TxnOpAnswer;
struct TxnAnswer {
    Revision revision = 0;
    bool succeeded = false;
    std::vector<TxnOpAnswer> answers;  // as above
};
struct TxnOpAnswer {
    std::variant<RangeAnswer, PutAnswer, DeleteRangeAnswer, TxnAnswer> answer;
};

struct LeaseGrant {
    LeaseId id{};
    std::chrono::seconds ttl{};  ///< as granted: at least the store's minimum
};
struct LeaseInfo {
    LeaseId id{};
    std::chrono::seconds granted{};
    std::chrono::seconds remaining{};  ///< rounded down; -1 = no such lease (as etcd answers)
    std::vector<std::string> keys{};   ///< sorted; only if asked for
};

}  // namespace mesh::store
