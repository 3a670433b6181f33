// Who may do what through the etcd API: asked before each call, and by a watch for each range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpc/tls.hpp"
#include "state/store/ops.hpp"

namespace mesh::serve {

/// What a call is about. A Txn is asked about as such, then part by part: its compares and ranges
/// as kRange, its writes as kPut and kDelete.
enum class EtcdAction : std::uint8_t {
    kRange,
    kWatch,
    kPut,
    kDelete,
    kTxn,
    kCompact,
    kLease,        ///< every method of the Lease service
    kStatus,       ///< Maintenance.Status
    kMaintenance,  ///< the other methods of Maintenance
    kMembers,      ///< Cluster.MemberList
    kOther,        ///< everything else, methods that nobody knows included
};

struct AccessRequest {
    EtcdAction action = EtcdAction::kOther;
    std::string_view method;    ///< the full method path
    store::KeyRange range{};    ///< for kRange, kWatch, kPut, kDelete; by etcd's conventions
    const rpc::Peer& peer;      ///< common_name is that of the verified client certificate
    std::string_view listener;  ///< name that ListenerOptions gave
};

/// Why something was refused; for counters and logs.
enum class DenialReason : std::uint8_t {
    kNoRole,    ///< no role is for this certificate
    kListener,  ///< the role does not count on this listener
    kMethod,    ///< the role may not make such calls
    kKey,       ///< nor use these keys
    kMirror,    ///< nobody may write to a mirrored etcd
    kRevoked,   ///< the call was running when its role lost the right to it
    kStreams,   ///< limits: too many at a time
    kWatches,
    kRequests,  ///< limits: too many requests wait for their turn
};
inline constexpr std::size_t kDenialReasons = 9;
/// As in metrics: "no-role", "listener", ...
[[nodiscard]] std::string_view to_string(DenialReason reason) noexcept;

/// @thread the server's loop
class AccessPolicy {
  public:
    virtual ~AccessPolicy() = default;
    /// @return false = the call is answered with PermissionDenied "etcdserver: permission denied"
    [[nodiscard]] virtual bool allows(const AccessRequest& request) const = 0;
    /// Whether the peer may make such a call at all, whatever its range: asked when the headers are
    /// in, before there is a body to keep. request.range is empty.
    [[nodiscard]] virtual bool admits(const AccessRequest& /*request*/) const { return true; }
    /// Why it was refused. Called after allows() or admits() said no.
    [[nodiscard]] virtual DenialReason reason(const AccessRequest& /*request*/) const {
        return DenialReason::kMethod;
    }
    /// Words behind that text which tell the refused what to do instead; empty = none.
    [[nodiscard]] virtual std::string_view advice(const AccessRequest& /*request*/) const {
        return {};
    }
};

/// For listeners that local writers and tests use.
class AllowAll final : public AccessPolicy {
  public:
    [[nodiscard]] bool allows(const AccessRequest&) const override { return true; }
};

/// Range and Watch of the given keys, nothing else: what remote clusters get.
class ReadOnly final : public AccessPolicy {
  public:
    struct Prefix {
        std::string prefix;
        bool exact = false;  ///< the key itself rather than all that begin with it
    };
    /// @param prefixes a requested range must lie within one of them; one empty prefix = all keys
    /// @param allow_status whether Maintenance.Status is answered too (old Cilium agents ask for
    /// it)
    explicit ReadOnly(std::vector<Prefix> prefixes, bool allow_status = false);
    [[nodiscard]] bool allows(const AccessRequest& request) const override;
    [[nodiscard]] bool admits(const AccessRequest& request) const override;

  private:
    struct Range {
        std::string start, end;
    };
    std::vector<Range> ranges_;
    bool allow_status_;
};

/// Whether every key of inner is in [start, end); end of one zero byte = no end.
[[nodiscard]] bool lies_within(const store::KeyRange& inner, std::string_view start,
                               std::string_view end);

}  // namespace mesh::serve
