// What mesh::Mesh tells of the clusters: plain values with texts as the clusters published them.
// They own what they hold and know nothing of the mesh they came from.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mesh {

/// @addtogroup cpp_objects
/// @{

/// A backend of a service as this node sees it. @thread any thread (a plain value)
struct BackendView {
    std::string address;  ///< IP text
    std::uint16_t port = 0;
    std::string cluster;
    std::string state;         ///< "active", "terminating", "quarantined", "maintenance"
    std::uint32_t weight = 0;  ///< among the selected ones of the frontend; relative
    bool selected = false;     ///< whether new connections may go there
    std::string reason;        ///< why, or why not
    friend bool operator==(const BackendView&, const BackendView&) = default;
};

/// An address of a service with the backends behind it. @thread any thread (a plain value)
struct FrontendView {
    std::string address;  ///< IP text
    std::uint16_t port = 0;
    std::string protocol;  ///< "TCP", "UDP", "SCTP"
    std::string port_name;
    bool node_port = false;  ///< at this node's own address
    std::vector<BackendView> backends;
    friend bool operator==(const FrontendView&, const FrontendView&) = default;
};

/// A service of the own cluster, merged with what the remotes offer under its name. Its key is
/// namespace and name; an event of a deleted one tells nothing else.
/// @thread any thread (a plain value)
struct ServiceView {
    std::string namespace_;
    std::string name;
    bool global = false;
    bool shared = false;
    std::string affinity;  ///< "none", "local", "remote"
    std::vector<FrontendView> frontends;
    std::vector<std::string> notes;  ///< what has no effect and why, a sentence each
    friend bool operator==(const ServiceView&, const ServiceView&) = default;
};

/// A node of some cluster. Its key is cluster and name. @thread any thread (a plain value)
struct NodeView {
    std::string cluster;
    std::uint32_t cluster_id = 0;
    std::string name;
    /// Type, such as "InternalIP", and IP text; in published order.
    std::vector<std::pair<std::string, std::string>> addresses;
    std::vector<std::string> pod_cidrs;
    std::uint32_t encryption_key = 0;  ///< index; 0 = none
    std::string wireguard_public_key;  ///< base64; empty = none
    std::vector<std::pair<std::string, std::string>> labels;
    friend bool operator==(const NodeView&, const NodeView&) = default;
};

/// What stands behind a prefix: a pod, or a block. Its key is cluster and prefix.
/// @thread any thread (a plain value)
struct IpView {
    std::string prefix;  ///< "10.1.2.3/32"
    std::string cluster;
    std::uint32_t cluster_id = 0;
    std::uint32_t identity = 0;
    std::string host;                  ///< IP text of the node that has it; empty = not told
    std::uint32_t encryption_key = 0;  ///< index; 0 = none
    std::string k8s_namespace;
    std::string k8s_pod_name;
    friend bool operator==(const IpView&, const IpView&) = default;
};

/// What of an ip has a fixed size, for reading very many at once. @thread any thread (plain value)
struct IpRecord {
    std::array<std::uint8_t, 16> address{};  ///< network order; IPv4 as IPv4-mapped IPv6
    std::array<std::uint8_t, 16> host{};     ///< node that has it, likewise; all zero = not told
    std::uint32_t identity = 0;
    std::uint32_t cluster_id = 0;
    std::uint8_t prefix_length = 0;  ///< 0..32 for IPv4, 0..128 for IPv6
    std::uint8_t family = 0;         ///< 4 or 6
    std::uint8_t encryption_key = 0;
    std::array<std::uint8_t, 5> reserved{};
    friend bool operator==(const IpRecord&, const IpRecord&) = default;
};

/// A security identity. Its key is cluster and id. @thread any thread (a plain value)
struct IdentityView {
    std::string cluster;
    std::uint32_t cluster_id = 0;
    std::uint32_t id = 0;
    std::vector<std::string> labels;  ///< "source:key=value"
    friend bool operator==(const IdentityView&, const IdentityView&) = default;
};

/// The own cluster or a remote, and how fresh what is known of it is. Its key is its name. An event
/// comes when state, id, ready or connected change, not for counts and ages: ask again for those.
/// @thread any thread (a plain value)
struct ClusterView {
    std::string name;
    std::uint32_t id = 0;
    bool own = false;   ///< the cluster that this node belongs to
    std::string state;  ///< "disabled", "connecting", "syncing", "ready", "stale"
    bool ready = false;
    bool connected = false;
    std::uint64_t nodes = 0, services = 0, ips = 0, identities = 0;
    std::int64_t revision = 0;       ///< of its etcd, up to which all is known
    std::int64_t lag_revisions = 0;  ///< known to exist and not seen yet
    std::chrono::nanoseconds lag{};  ///< since when behind, or without proof of life
    std::optional<std::chrono::nanoseconds> last_proof_of_life;  ///< ago; nullopt = never
    std::string last_failure;
    friend bool operator==(const ClusterView&, const ClusterView&) = default;
};

/// @}

}  // namespace mesh
