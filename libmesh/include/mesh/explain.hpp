// Why a packet passes or not, as values: what Mesh::explain() answers. The same as the document of
// GET /v1/policy/trace, which policy_trace_json() gives.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mesh {

/// @addtogroup cpp_policies
/// @{

/// A packet to be explained; as `meshctl policy trace` takes it. @thread any thread (a plain value)
struct PolicyTraceQuery {
    /// "[cluster/][namespace/]pod", an address, labels ("app=web,..."), an entity ("world") or an
    /// identity's number.
    std::string source, destination;
    std::string dport;                 ///< "80/TCP"
    std::string http;                  ///< "GET /a" or "GET http://host/a"; empty: no request
    std::vector<std::string> headers;  ///< of the request, "Name: value"
    std::string dns;                   ///< a name that is asked for; empty: none
};

/// Something that is known of an end of the packet, and by whom.
struct FactView {
    std::string what;     ///< "identity 65538", "address 10.10.1.2"
    std::string cluster;  ///< in whose etcd it is; empty: on this node only
    std::string state;    ///< of that cluster, as ClusterView::state; empty: none
    std::optional<std::chrono::nanoseconds> age;  ///< since that cluster proved to be alive
    friend bool operator==(const FactView&, const FactView&) = default;
};

/// An end of the packet as this mesh knows it.
struct PacketEnd {
    std::string asked;    ///< as in the query
    std::string pod;      ///< "namespace/name"; empty: none, or not known
    std::string address;  ///< IP text; empty: not known
    std::string cluster;  ///< empty: of none
    std::uint32_t identity = 0;
    std::vector<std::string> labels;  ///< "source:key=value"
    std::string cidr;                 ///< the block that policies name it by; empty: none
    std::vector<FactView> facts;
    friend bool operator==(const PacketEnd&, const PacketEnd&) = default;
};

/// A place in a policy.
struct RulePlaceView {
    std::string kind;  ///< "CiliumNetworkPolicy", ...
    std::string namespace_, name;
    std::string path;        ///< "spec.ingress[0].toPorts[1]"
    std::string source;      ///< "<file>: document <n>"; empty: not known
    std::uint32_t line = 0;  ///< in that file; 0: not known
    friend bool operator==(const RulePlaceView&, const RulePlaceView&) = default;
};

/// A rule's element that is about the packet.
struct RuleView {
    RulePlaceView place;
    std::string peer;         ///< "fromEndpoints[0]"; "everybody"
    std::string action;       ///< "allow", "deny", "redirect"
    std::string why;          ///< what it does, or why it lost
    std::string description;  ///< the rule's
    friend bool operator==(const RuleView&, const RuleView&) = default;
};

/// A rule of those of which one must let a request pass.
struct L7RuleView {
    RulePlaceView place;
    std::string rule;            ///< "method GET, path /a"; "everything"
    std::optional<bool> passes;  ///< the request asked about; nullopt: none was
    friend bool operator==(const L7RuleView&, const L7RuleView&) = default;
};

/// What one end's policies say.
struct DirectionView {
    bool evaluated = false;  ///< else `remark` says why not: it is up to another cluster, or nobody
    std::string remark;      ///< what decides beside rules: a mode, the host, a conflict
    std::string verdict;    ///< "allowed", "redirected", "denied", "default-denied", "not-enforced"
    bool allowed = false;   ///< the packet, and the request if one was asked about
    bool enforced = false;  ///< else everything passes that no rule denies
    std::vector<RulePlaceView> enforced_by;
    std::vector<RuleView> decided;  ///< in the order of policies
    std::vector<RuleView> lost;     ///< they match, and others decide
    bool installed = false;         ///< what decides is in some policy map of this node
    std::string parser;             ///< of a redirect: "http", "dns", ...
    std::vector<L7RuleView> l7;
    std::optional<bool> passes;  ///< the request; nullopt: none, or no proxy looks at it
    friend bool operator==(const DirectionView&, const DirectionView&) = default;
};

/// Whether a packet passes and by which rules. @thread any thread (a plain value)
struct Explanation {
    std::string verdict;  ///< "allowed", "denied", or "unknown": neither end is under policies here
    PacketEnd source, destination;
    std::string protocol;           ///< "TCP", ...
    std::uint16_t port = 0;         ///< of ICMP the type
    DirectionView egress, ingress;  ///< of the source, of the destination
    friend bool operator==(const Explanation&, const Explanation&) = default;
};

/// @}

}  // namespace mesh
