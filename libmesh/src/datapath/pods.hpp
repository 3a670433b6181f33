// What the rest of the library sees of pod-to-pod forwarding on this node: the ipcache (who is
// behind an address, and which node to encapsulate to), the nodes that may encapsulate to us, and
// this node's own pods. Rows in, counters out, nothing of BPF. Two implementations: MemoryPods (no
// kernel) and BpfPods (datapath/bpf/).
//
// Adoption, as for services (datapath.hpp): what an earlier process left keeps forwarding; entries
// are *unconfirmed* until a row names them, and go with finish_adopt_cluster() or finish_adopt().
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/policy.hpp"
#include "model/ip.hpp"
#include "runtime/clock.hpp"

namespace mesh::datapath {

/// What is known of the addresses of a prefix; the longest prefix of an address counts.
struct IpcacheEntry {
    model::IpPrefix prefix;
    std::uint32_t identity = 0;              ///< numeric identity, wire.md §15
    std::uint32_t cluster_id = 0;            ///< that announced it, 0..511
    std::optional<model::IpAddress> tunnel;  ///< node to encapsulate to; nullopt = none
    std::uint8_t encryption_key = 0;
    bool is_node = false;  ///< an address of a node, not of a pod
    bool is_cidr = false;  ///< a node's pod CIDR
    friend bool operator==(const IpcacheEntry&, const IpcacheEntry&) = default;
};

/// A node's address: packets that it encapsulates are taken, with the identities of its cluster.
struct PeerNode {
    model::IpAddress address;
    std::uint32_t cluster_id = 0;
    friend bool operator==(const PeerNode&, const PeerNode&) = default;
};

/// An address of a pod of this node.
struct Endpoint {
    model::IpAddress address;
    std::uint32_t ifindex = 0;   ///< of the node's end of the pod's link
    std::uint32_t identity = 0;  ///< 0 = not known yet
    MacAddress pod_mac{};        ///< of the pod's end
    MacAddress node_mac{};       ///< of the node's end
    std::uint16_t id = 0;        ///< the pod's number for policy (policy.hpp); 0 = none yet
    friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

/// How this node forwards.
struct PodsSettings {
    bool tunnel = false;      ///< encapsulate; else the node's routes decide
    bool masquerade = false;  ///< what leaves the mesh gets the node's address
    bool trace = false;       ///< an event for each packet, not only for drops
    std::uint32_t overlay_ifindex = 0;
    std::uint32_t device_ifindex = 0;                  ///< to the other nodes
    std::optional<model::IpAddress> node4, node6;      ///< this node's addresses there
    std::optional<model::IpAddress> router4, router6;  ///< its own addresses out of its pod CIDRs
    std::uint32_t identity_shift = 16;  ///< bits of an identity below its cluster id: 16 or 15
    std::uint16_t overlay_port = 0;     ///< UDP, of the tunnel between nodes; 0: none
    friend bool operator==(const PodsSettings&, const PodsSettings&) = default;
};

/// What the programs know of encryption between nodes; as made: there is none.
struct PodsEncryption {
    /// Nothing of pods goes to, or comes from, nodes that encrypt in plain: it is dropped.
    bool strict = false;
    std::uint32_t wireguard_ifindex = 0;
    std::uint16_t tunnel_port = 0;  ///< UDP, of the overlay; 0 = there is no overlay
    friend bool operator==(const PodsEncryption&, const PodsEncryption&) = default;
};

/// Changes of the ipcache and of the nodes, each key at most once.
struct PodsChanges {
    std::vector<IpcacheEntry> upserts;
    std::vector<model::IpPrefix> removed;
    std::vector<PeerNode> nodes;
    std::vector<model::IpAddress> removed_nodes;
    [[nodiscard]] bool empty() const noexcept {
        return upserts.empty() && removed.empty() && nodes.empty() && removed_nodes.empty();
    }
};

/// What an apply or finish_adopt did.
struct PodsStats {
    std::uint64_t written = 0;
    std::uint64_t removed = 0;
    /// Rows that found no room, by index into the upserts and nodes given (nodes after upserts).
    std::vector<std::size_t> refused;
    std::string refusal;  ///< the first of these, as a sentence
};

/// Why a packet was dropped. The numbers are those of bpf/layout.h.
enum class DropReason : std::uint8_t {
    kMalformed = 1,
    kInvalidSource = 2,
    kNoEndpoint = 3,
    kUnknownTunnelPeer = 4,
    kInvalidIdentity = 5,
    kTunnelKey = 6,
    kNoNatPort = 7,
    kUnsupported = 8,
    kPlaintext = 9,
    kNoBackend = 10,
    kNoLocalBackend = 11,
    kBackendGone = 12,
    kFlowTable = 13,
    kTooBig = 14,
    kTtlExpired = 15,
    kPolicyDenied = 16,
    kPolicyUnknown = 17,
    kProxyGone = 18,
};
inline constexpr std::array kDropReasons{
    DropReason::kMalformed,         DropReason::kInvalidSource,   DropReason::kNoEndpoint,
    DropReason::kUnknownTunnelPeer, DropReason::kInvalidIdentity, DropReason::kTunnelKey,
    DropReason::kNoNatPort,         DropReason::kUnsupported,     DropReason::kPlaintext,
    DropReason::kNoBackend,         DropReason::kNoLocalBackend,  DropReason::kBackendGone,
    DropReason::kFlowTable,         DropReason::kTooBig,          DropReason::kTtlExpired,
    DropReason::kPolicyDenied,      DropReason::kPolicyUnknown,   DropReason::kProxyGone,
};
/// "invalid-source" and so on, as status, metrics and the monitor show it.
[[nodiscard]] std::string_view to_string(DropReason reason) noexcept;

struct DropCount {
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    friend bool operator==(const DropCount&, const DropCount&) = default;
};

/// How full the tables are.
struct PodsOccupancy {
    std::uint64_t ipcache = 0, max_ipcache = 0;
    std::uint64_t nodes = 0, max_nodes = 0;
    std::uint64_t endpoints = 0, max_endpoints = 0;
    friend bool operator==(const PodsOccupancy&, const PodsOccupancy&) = default;
};

/// For how long a flow of a service at tc is kept when no packet of it comes.
struct FlowTimeouts {
    std::chrono::nanoseconds tcp = std::chrono::seconds(8000);
    std::chrono::nanoseconds tcp_syn = std::chrono::seconds(60);    ///< until the backend answers
    std::chrono::nanoseconds tcp_close = std::chrono::seconds(10);  ///< after a reset or both FINs
    std::chrono::nanoseconds udp = std::chrono::seconds(60);
    friend bool operator==(const FlowTimeouts&, const FlowTimeouts&) = default;
};

/// Flows of services at tc.
struct FlowStats {
    std::uint64_t live = 0;     ///< when last all were looked at
    std::uint64_t max = 0;      ///< room; beyond it the flows that are unused longest go
    std::uint64_t expired = 0;  ///< deleted by collect_flows() since the start
    std::uint64_t rounds = 0;   ///< how often all were looked at
    friend bool operator==(const FlowStats&, const FlowStats&) = default;
};

/// Which of our programs a device gets.
enum class DeviceRole : std::uint8_t {
    kPod,        ///< the node's end of a pod's link
    kOverlay,    ///< the VXLAN device
    kDevice,     ///< the device to the other nodes
    kWireguard,  ///< what encrypts packets to the other nodes
};

/// The node's pod-to-pod forwarding.
/// @thread same object not concurrently
class PodDatapath {
  public:
    virtual ~PodDatapath() = default;

    /// Takes effect for the next packets; one on its way meanwhile may see old and new fields.
    /// @errors kInternal, kPermission
    [[nodiscard]] virtual Result<void> configure(const PodsSettings& settings) = 0;
    [[nodiscard]] virtual PodsSettings settings() const = 0;

    /// Writes the rows in batches. A row that finds no room is counted and leaves the others alone.
    /// @errors kInternal, kPermission: the kernel refused; apply the same rows again
    /// @complexity O(rows given), whatever else the tables hold
    [[nodiscard]] virtual Result<PodsStats> apply(const PodsChanges& changes) = 0;

    /// Adds or changes an address of one of this node's pods.
    /// @errors kCapacity, kInternal
    [[nodiscard]] virtual Result<void> upsert_endpoint(const Endpoint& endpoint) = 0;
    /// Nothing happens when it is not there.
    [[nodiscard]] virtual Result<void> remove_endpoint(const model::IpAddress& address) = 0;
    /// The addresses of this node's pods, in order; after open() those of an earlier process.
    [[nodiscard]] virtual std::vector<Endpoint> endpoints() const = 0;

    /// The CIDRs outside of the mesh to which pods go with their own addresses, all of them; only
    /// with PodsSettings::masquerade.
    /// @errors kCapacity: more than find room; kInternal
    [[nodiscard]] virtual Result<void> set_non_masquerade(
        const std::vector<model::IpPrefix>& cidrs) = 0;

    /// @errors kInternal, kPermission
    [[nodiscard]] virtual Result<void> configure_encryption(const PodsEncryption& encryption) = 0;
    /// Whether packets to and from the node of that address must be encrypted in strict mode.
    /// @errors kCapacity, kInternal
    [[nodiscard]] virtual Result<void> set_encrypted(const model::IpAddress& node,
                                                     bool encrypted) = 0;
    /// Those that must be, in order; after open() those of an earlier process.
    [[nodiscard]] virtual std::vector<model::IpAddress> encrypted() const = 0;

    /// Puts our programs on a device of this namespace, or replaces, atomically, those of an
    /// earlier process.
    /// @errors kNotFound: no such device; kInternal, kPermission
    [[nodiscard]] virtual Result<void> attach(std::uint32_t ifindex, DeviceRole role) = 0;

    /// Removes the unconfirmed entries of one cluster, once it has synced. Idempotent.
    [[nodiscard]] virtual Result<PodsStats> finish_adopt_cluster(std::uint32_t cluster_id) = 0;
    /// Removes all unconfirmed entries. Idempotent.
    [[nodiscard]] virtual Result<PodsStats> finish_adopt() = 0;

    /// The entry of exactly that prefix.
    [[nodiscard]] virtual std::optional<IpcacheEntry> find(const model::IpPrefix& prefix) const = 0;
    /// The entry of the longest prefix that holds the address.
    /// @thread any thread, as long as the object lives
    [[nodiscard]] virtual std::optional<IpcacheEntry> lookup(
        const model::IpAddress& address) const = 0;
    /// What an earlier process left of identities that only this node knows, as it was at open().
    [[nodiscard]] virtual std::vector<IpcacheEntry> adopted_local() const = 0;
    [[nodiscard]] virtual PodsOccupancy occupancy() const = 0;
    /// Deletes flows of services at tc that have timed out. Looks at some of them, and at the next
    /// ones the next time, so that a call is short whatever the tables hold.
    /// @param most flows to look at, about
    /// @errors kInternal, kPermission
    [[nodiscard]] virtual Result<void> collect_flows(std::size_t most, TimePoint now) = 0;
    [[nodiscard]] virtual FlowStats flows() const = 0;
    /// Since the tables were made; reasons that never occurred are left out.
    [[nodiscard]] virtual std::map<DropReason, DropCount> drops() const = 0;

    /// What of the pods' packets passes. Lives as long as this object.
    [[nodiscard]] virtual PolicyDatapath& policy() = 0;
};

}  // namespace mesh::datapath
