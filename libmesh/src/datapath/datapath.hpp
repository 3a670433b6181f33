// What the rest of the library sees of the node's service load balancing: rows in, counters and a
// dump out, nothing of BPF. One row is one frontend (cluster IP, port, protocol) and its backends.
// MemoryDatapath (no kernel) and BpfDatapath (datapath/bpf/) run the same planner, so ids, diffs and
// the order of writes are the same; NoDatapath is for those who only read the mesh.
//
// Adoption. What an earlier process of this node left in the kernel is read when a datapath is
// opened and keeps serving. Such services and backends are *unconfirmed* until a row names them:
// an upsert confirms the backends that it lists and keeps the unconfirmed others, because the
// cluster that they belong to may not have synced yet. finish_adopt() ends that: whatever was not
// confirmed goes. A backend that was confirmed once follows its rows at once.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/ip.hpp"

namespace mesh::datapath {

/// A transport protocol, by its IANA number.
enum class Protocol : std::uint8_t { kTcp = 6, kUdp = 17, kSctp = 132 };

/// "TCP", "UDP" or "SCTP", as Kubernetes writes them.
[[nodiscard]] constexpr std::string_view to_string(Protocol protocol) noexcept {
    switch (protocol) {
        case Protocol::kTcp:
            return "TCP";
        case Protocol::kUdp:
            return "UDP";
        case Protocol::kSctp:
            return "SCTP";
    }
    return "?";
}

/// The protocol of that name ("TCP", "UDP", "SCTP"), nullopt for any other text.
[[nodiscard]] constexpr std::optional<Protocol> find_protocol(std::string_view name) noexcept {
    if (name == "TCP") return Protocol::kTcp;
    if (name == "UDP") return Protocol::kUdp;
    if (name == "SCTP") return Protocol::kSctp;
    return std::nullopt;
}

/// What a client connects to: the key of a row. The port is in host byte order, 1..65535.
struct ServiceFrontend {
    model::IpAddress address;
    std::uint16_t port = 0;
    Protocol proto = Protocol::kTcp;
    friend auto operator<=>(const ServiceFrontend&, const ServiceFrontend&) = default;
};

/// Where a connection may go. (address, port, proto) is its key within a row; family and protocol
/// are those of the frontend. The port is in host byte order, 1..65535.
struct Backend {
    model::IpAddress address;
    std::uint16_t port = 0;
    Protocol proto = Protocol::kTcp;
    std::uint32_t cluster_id = 0;  ///< 0..511, for counters and status
    std::uint16_t weight = 1;      ///< share of new connections; 0 = none, flows that exist stay
    bool terminating = false;      ///< gets new connections only if no other backend can
    bool here = false;             ///< on this node
    friend auto operator<=>(const Backend&, const Backend&) = default;
};

/// The desired state of one frontend.
struct ServiceRow {
    ServiceFrontend frontend;
    std::string name;                    ///< "namespace/name", for status and for ownership
    std::uint32_t affinity_seconds = 0;  ///< session affinity by client, idle timeout; 0 = none
    std::vector<Backend> backends;       ///< in any order; may be empty: connects are refused
    /// For clients outside of the cluster (a node port, an external IP, one of a load balancer):
    /// these are distributed by a Maglev table, the same on all nodes.
    bool outside = false;
    /// externalTrafficPolicy Local: clients outside of the cluster get backends of this node only.
    bool outside_local = false;
    friend bool operator==(const ServiceRow&, const ServiceRow&) = default;
};

/// One change of the desired state. A removal looks only at row.frontend and row.name: with a
/// name, a frontend that meanwhile belongs to another name stays.
struct ServiceChange {
    enum class Kind : std::uint8_t { kUpsert, kRemove };
    Kind kind = Kind::kUpsert;
    ServiceRow row;

    [[nodiscard]] static ServiceChange upsert(ServiceRow row) {
        return {Kind::kUpsert, std::move(row)};
    }
    [[nodiscard]] static ServiceChange remove(const ServiceFrontend& frontend,
                                              std::string name = {}) {
        return {Kind::kRemove, ServiceRow{frontend, std::move(name), 0, {}}};
    }
};

/// A row that was refused; what the kernel held for its frontend before still serves.
struct RejectedRow {
    ServiceFrontend frontend;
    std::string name;
    Error error;
};

/// A row of which only a part found room. Backends of remote clusters were left out.
struct TruncatedRow {
    ServiceFrontend frontend;
    std::string name;
    std::uint64_t left_out = 0;  ///< backends, at least 1
};

/// What an apply or finish_adopt did.
struct ApplyStats {
    std::uint64_t services_added = 0;
    std::uint64_t services_changed = 0;
    std::uint64_t services_removed = 0;
    std::uint64_t services_unchanged = 0;
    std::uint64_t backends_added = 0;
    std::uint64_t backends_removed = 0;
    std::uint64_t entries_written = 0;  ///< table entries, of all tables
    std::vector<RejectedRow> rejected;
    std::vector<TruncatedRow> truncated;
};

/// What open() found in the kernel.
struct AdoptStats {
    std::uint64_t services = 0;
    std::uint64_t backends = 0;
    std::uint64_t repaired = 0;  ///< frontends whose record made no sense, removed at once
};

/// A backend as the tables hold it.
struct BackendStatus {
    Backend backend;
    std::uint32_t id = 0;        ///< stable across restarts while the backend stays
    bool confirmed = true;       ///< false: adopted, and no row has named it yet
    bool selectable = true;      ///< gets new connections now
    std::uint64_t connects = 0;  ///< connects and new UDP flows sent there
};

/// A service as the tables hold it.
struct ServiceStatus {
    ServiceFrontend frontend;
    std::string name;      ///< empty until a row confirmed it
    std::uint32_t id = 0;  ///< stable across restarts while the service stays
    std::uint32_t affinity_seconds = 0;
    bool confirmed = true;
    std::vector<BackendStatus> backends;  ///< by address, port
};

/// Counts since the tables were made (they survive restarts of the process).
struct Counters {
    std::map<std::uint32_t, std::uint64_t> connects_by_cluster;  ///< only non-zero ones
    std::uint64_t no_backend = 0;         ///< connects and sends refused for want of a backend
    std::uint64_t affinity_kept = 0;      ///< connects that followed an earlier choice
    std::uint64_t affinity_replaced = 0;  ///< earlier choices dropped: gone or timed out
    std::uint64_t flow_table_errors = 0;  ///< no room to remember a flow; UDP sends were refused
};

/// How full the tables are.
struct Occupancy {
    std::uint64_t services = 0, max_services = 0;
    std::uint64_t backends = 0, max_backends = 0;
    std::uint64_t slots = 0, max_slots = 0;
    std::uint64_t maglev = 0, max_maglev = 0;
};

/// The node's service load balancing.
/// @thread same object not concurrently
class Datapath {
  public:
    virtual ~Datapath() = default;

    /// Keeps room for the backends of one cluster, that of this node: the others together get at
    /// most three quarters of the table of backends, one of them at most half. A row that does not
    /// fit is then written without as many backends of other clusters as need be, see
    /// ApplyStats::truncated. Call it first; without it, such a row is refused whole.
    virtual void set_own_cluster(std::uint32_t cluster_id) = 0;

    /// False: there are no tables, and rows need not be made.
    [[nodiscard]] virtual bool programs() const noexcept { return true; }

    /// Brings the tables from what they hold to what the changes say, in order; later changes of
    /// the same frontend win. A client that connects meanwhile sees each service whole: before or
    /// after, never between. When the call has returned, no connect that begins later goes to a
    /// backend that was removed.
    /// Bad rows (port 0, mixed families or protocols, a backend twice, over capacity) are listed in
    /// ApplyStats::rejected and leave the others alone.
    /// @errors kInternal, kPermission: the kernel refused a write; the changes that were not made
    ///         are not remembered: apply the same rows again
    /// @complexity O(rows given and their backends), whatever else the tables hold
    [[nodiscard]] virtual Result<ApplyStats> apply(std::span<const ServiceChange> changes) = 0;

    /// What was found when the datapath was opened.
    [[nodiscard]] virtual AdoptStats adopted() const = 0;

    /// Removes the unconfirmed backends of one cluster, once that cluster has synced. Idempotent.
    /// @errors as apply
    [[nodiscard]] virtual Result<ApplyStats> finish_adopt_cluster(std::uint32_t cluster_id) = 0;

    /// Removes every service and backend that no row confirmed: call once all sources have synced
    /// (or were waited for long enough). Idempotent; does nothing when nothing was adopted.
    /// @errors as apply
    [[nodiscard]] virtual Result<ApplyStats> finish_adopt() = 0;

    /// All services, by frontend. @complexity O(tables)
    [[nodiscard]] virtual std::vector<ServiceStatus> dump() const = 0;
    /// One service, nullopt if the tables have none.
    [[nodiscard]] virtual std::optional<ServiceStatus> find(
        const ServiceFrontend& frontend) const = 0;
    [[nodiscard]] virtual Counters counters() const = 0;
    [[nodiscard]] virtual Occupancy occupancy() const = 0;

    /// "none", "memory" or "bpf", for status.
    [[nodiscard]] virtual std::string_view kind() const = 0;
};

}  // namespace mesh::datapath
