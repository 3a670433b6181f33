// Plain values of the etcd client: positions, key-values, requests and answers, free of Protobuf.
#pragma once

#include <mesh/error.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/clock.hpp"

namespace mesh::etcd {

/// Who answered and at which revision: the header of each of etcd's answers. A revision means
/// something only together with the cluster_id it came from (protocol.md §5).
struct Header {
    std::uint64_t cluster_id = 0;
    std::uint64_t member_id = 0;
    std::int64_t revision = 0;
    std::uint64_t raft_term = 0;
    friend bool operator==(const Header&, const Header&) = default;
};

struct KeyValue {
    std::string key;
    std::string value;
    std::int64_t create_revision = 0;
    std::int64_t mod_revision = 0;
    std::int64_t version = 0;
    std::int64_t lease = 0;
    friend bool operator==(const KeyValue&, const KeyValue&) = default;
};

/// A key-value whose texts live elsewhere: valid only during the callback that got it.
struct KeyValueView {
    std::string_view key;
    std::string_view value;
    std::int64_t create_revision = 0;
    std::int64_t mod_revision = 0;
    std::int64_t version = 0;
    std::int64_t lease = 0;
};

/// A range of keys: [key, end). An empty end is the one key; end "\0" is everything from key on.
struct KeyRange {
    std::string key;
    std::string end;
};

/// The range of all keys that begin with `prefix`; an empty prefix is the whole key space.
[[nodiscard]] KeyRange prefix_range(std::string_view prefix);

struct RangeRequest {
    KeyRange range;
    std::int64_t limit = 0;     ///< 0 = none
    std::int64_t revision = 0;  ///< 0 = newest
    bool serializable = false;  ///< from the member's own state, possibly behind
    bool keys_only = false;
    bool count_only = false;
};

struct RangeResult {
    Header header;
    std::vector<KeyValue> kvs;
    bool more = false;
    std::int64_t count = 0;
};

struct PutOptions {
    std::int64_t lease = 0;
    bool prev_kv = false;
};

struct PutResult {
    Header header;
    std::optional<KeyValue> prev_kv;
};

struct DeleteResult {
    Header header;
    std::int64_t deleted = 0;
};

/// A condition of a transaction on one key, or on each key of a range: where there is none, all
/// numbers are 0. @source etcd API reference, message Compare
struct Compare {
    enum class Target : std::uint8_t { kVersion, kCreateRevision, kModRevision, kValue, kLease };
    enum class Is : std::uint8_t { kEqual, kGreater, kLess, kNotEqual };
    std::string key;
    Target target = Target::kModRevision;
    Is is = Is::kEqual;
    std::int64_t number = 0;  ///< for all targets but kValue
    std::string value;        ///< for kValue; never true where there is no key
    std::string end{};        ///< of the range; empty: the one key
};

struct PutOp {
    std::string key;
    std::string value;
    std::int64_t lease = 0;
};
struct DeleteOp {
    KeyRange range;
};
struct GetOp {
    KeyRange range;
    std::int64_t limit = 0;
};
using Op = std::variant<PutOp, DeleteOp, GetOp>;

struct Txn {
    std::vector<Compare> compare;
    std::vector<Op> success;
    std::vector<Op> failure;
};

struct TxnResult {
    Header header;
    bool succeeded = false;
    /// One per operation of the branch that ran, in order; of GetOps the result, of others empty.
    std::vector<RangeResult> results;
};

struct LeaseGrant {
    Header header;
    std::int64_t id = 0;
    std::int64_t ttl_seconds = 0;
};

struct MemberStatus {
    Header header;
    std::string version;
    std::int64_t db_size = 0;
    std::uint64_t leader = 0;  ///< 0 = none known to that member
    std::uint64_t raft_term = 0;
    std::vector<std::string> errors;
};

struct Member {
    std::uint64_t id = 0;
    std::string name;
    std::vector<std::string> peer_urls;
    std::vector<std::string> client_urls;
    bool learner = false;
};

struct MemberList {
    Header header;
    std::vector<Member> members;
};

}  // namespace mesh::etcd
