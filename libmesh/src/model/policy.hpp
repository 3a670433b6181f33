// Network policy as written: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and Kubernetes'
// NetworkPolicy in one form, before anything of the cluster at hand (its name, its switches) comes
// into it. Made by sources/config, compiled by compile/policy.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "model/types.hpp"

namespace mesh::model::policy {

enum class Direction : std::uint8_t { kIngress, kEgress };
inline constexpr std::array kDirections{Direction::kIngress, Direction::kEgress};
[[nodiscard]] constexpr std::size_t index_of(Direction direction) noexcept {
    return static_cast<std::size_t>(direction);
}

// --- selectors --------------------------------------------------------------------------------

enum class SelectorOperator : std::uint8_t { kIn, kNotIn, kExists, kDoesNotExist };

/// What one key of an identity's labels must be.
struct LabelRequirement {
    /// "k8s", "reserved", "cidr", ...; empty = a label of any source.
    std::string source;
    std::string key;
    SelectorOperator op = SelectorOperator::kIn;
    /// Of kIn and kNotIn: sorted, each once.
    std::vector<std::string> values;
    friend auto operator<=>(const LabelRequirement&, const LabelRequirement&) = default;
};

/// The labels of an identity, sorted by source, key and value.
using LabelArray = std::span<const Label>;

/// True if the labels have what is required. As in Cilium, of several labels of one key the first
/// one counts, and kNotIn holds where the key is absent.
/// A requirement of source "cidr" is not for this function: see the compiler.
[[nodiscard]] bool holds(const LabelRequirement& requirement, LabelArray labels);

/// All requirements must hold; none selects everything.
struct EndpointSelector {
    std::vector<LabelRequirement> requirements;

    /// True if some requirement names the key with that source or with none.
    [[nodiscard]] bool names_key(std::string_view source, std::string_view key) const;
    [[nodiscard]] bool names_source(std::string_view source) const;
    [[nodiscard]] bool matches(LabelArray labels) const;
    friend auto operator<=>(const EndpointSelector&, const EndpointSelector&) = default;
};

enum class Entity : std::uint8_t {
    kAll,
    kWorld,
    kWorldIpv4,
    kWorldIpv6,
    kCluster,
    kHost,
    kRemoteNode,
    kKubeApiserver,
    kIngress,
    kHealth,
    kInit,
    kUnmanaged,
    kNone,
};
/// The entity of that name, or nothing.
[[nodiscard]] std::optional<Entity> find_entity(std::string_view name);
[[nodiscard]] std::string_view to_string(Entity entity);

/// A block of addresses without some blocks inside it.
struct CidrRule {
    IpPrefix cidr;
    std::vector<IpPrefix> except;
    friend auto operator<=>(const CidrRule&, const CidrRule&) = default;
};

/// A DNS name or a pattern of names; lower case, no dot at the end. Exactly one is given.
struct FqdnSelector {
    std::string match_name, match_pattern;
    /// What the label of source "fqdn" of the identities of its addresses has as key.
    [[nodiscard]] const std::string& text() const noexcept {
        return match_name.empty() ? match_pattern : match_name;
    }
    friend auto operator<=>(const FqdnSelector&, const FqdnSelector&) = default;
};

/// Kubernetes services, by name or by their labels.
struct ServiceSelector {
    std::string name;                          ///< empty: by labels
    std::string namespace_;                    ///< empty: of any namespace (by labels only)
    std::vector<LabelRequirement> selector{};  ///< no sources in it
    friend auto operator<=>(const ServiceSelector&, const ServiceSelector&) = default;
};

/// Who the other side may be. An absent list is std::nullopt; a present but empty one selects
/// nobody.
struct Peers {
    std::optional<std::vector<EndpointSelector>> endpoints;
    std::vector<EndpointSelector> requires_;  ///< fromRequires, toRequires
    std::optional<std::vector<Entity>> entities;
    std::optional<std::vector<CidrRule>> cidrs;  ///< of from/toCIDR and from/toCIDRSet
    std::optional<std::vector<FqdnSelector>> fqdns;
    std::optional<std::vector<ServiceSelector>> services;

    /// True if some list but requires_ is present.
    [[nodiscard]] bool any_list() const noexcept {
        return endpoints || entities || cidrs || fqdns || services;
    }
    friend bool operator==(const Peers&, const Peers&) = default;
};

// --- ports and L7 -----------------------------------------------------------------------------

/// IP protocol numbers; kAny is TCP, UDP and SCTP in a port, all there is in a key of the map.
enum class Protocol : std::uint8_t {
    kAny = 0,
    kIcmp = 1,
    kTcp = 6,
    kUdp = 17,
    kIcmpv6 = 58,
    kSctp = 132
};

/// A destination port, a range of them, a named one, or (0) all of the protocol. Of ICMP: the type.
struct PortProtocol {
    Protocol protocol = Protocol::kAny;
    std::uint16_t port = 0;
    std::uint16_t end_port = 0;  ///< 0: no range
    std::string name{};          ///< lower case; empty: by number
    friend auto operator<=>(const PortProtocol&, const PortProtocol&) = default;
};

/// What becomes of a request whose header does not match.
enum class HeaderMismatch : std::uint8_t { kDrop, kLog, kAdd, kDelete, kReplace };

struct HeaderMatch {
    std::string name, value;
    HeaderMismatch mismatch = HeaderMismatch::kDrop;
    friend auto operator<=>(const HeaderMatch&, const HeaderMatch&) = default;
};

/// All that is given must match; regular expressions (RE2) are anchored. Empty: every request.
struct HttpRule {
    std::string method, path, host;
    std::vector<std::string> headers;  ///< "Name" or "Name: value"
    std::vector<HeaderMatch> header_matches;
    friend auto operator<=>(const HttpRule&, const HttpRule&) = default;
};

struct KafkaRule {
    std::string role, api_key, api_version, client_id, topic;
    friend auto operator<=>(const KafkaRule&, const KafkaRule&) = default;
};

/// A rule of a generic parser: keys and values.
using GenericRule = std::vector<std::pair<std::string, std::string>>;

/// Rules of at most one kind; elements are alternatives.
struct L7Rules {
    std::vector<HttpRule> http;
    std::vector<FqdnSelector> dns;
    std::vector<KafkaRule> kafka;
    std::string l7proto;
    std::vector<GenericRule> l7;
    std::vector<std::string> server_names;  ///< TLS server name indications

    /// True if nothing is to be looked at: no redirect.
    [[nodiscard]] bool empty() const noexcept {
        return http.empty() && dns.empty() && kafka.empty() && l7proto.empty() &&
               server_names.empty();
    }
    /// "http", "dns", "kafka", "tls", or the l7proto; empty if there is nothing to parse.
    [[nodiscard]] std::string_view parser() const noexcept;
    friend auto operator<=>(const L7Rules&, const L7Rules&) = default;
};

/// One element of toPorts.
struct PortRule {
    std::vector<PortProtocol> ports;       ///< empty: selects nothing
    std::shared_ptr<const L7Rules> rules;  ///< nullptr: none
    std::string listener{};                ///< of Envoy; empty: none
    std::uint16_t listener_priority = 0;   ///< 1..100; 0: not given
    friend bool operator==(const PortRule& a, const PortRule& b);
};

/// As the policy map has them.
enum class AuthType : std::uint8_t { kDisabled = 0, kSpire = 1, kAlwaysFail = 2 };

// --- rules ------------------------------------------------------------------------------------

/// One element of ingress, ingressDeny, egress or egressDeny.
struct RuleElement {
    Peers peers;
    /// toPorts and icmps; empty: all there is.
    std::vector<PortRule> ports;
    std::optional<AuthType> authentication;
    /// A NetworkPolicy's absent or empty list of peers: everybody, even without ports.
    bool any_peer = false;
    std::uint32_t line = 0;  ///< in the file, from 1
    friend bool operator==(const RuleElement&, const RuleElement&) = default;
};

/// One spec.
struct Rule {
    bool selects_nodes = false;  ///< `subject` is a nodeSelector
    EndpointSelector subject;
    std::array<std::vector<RuleElement>, 2> allow;  ///< by Direction
    std::array<std::vector<RuleElement>, 2> deny;
    /// enableDefaultDeny, by Direction. A NetworkPolicy's policyTypes set it, too.
    std::array<std::optional<bool>, 2> enable_default_deny;
    std::string description;
    std::uint32_t line = 0;
    std::string path{};  ///< where it stands in its document: "spec", "specs[1]"
    friend bool operator==(const Rule&, const Rule&) = default;
};

enum class PolicyKind : std::uint8_t {
    kNetworkPolicy,
    kCiliumNetworkPolicy,
    kCiliumClusterwideNetworkPolicy
};
[[nodiscard]] std::string_view to_string(PolicyKind kind);

struct PolicyKey {
    PolicyKind kind = PolicyKind::kCiliumNetworkPolicy;
    std::string namespace_;  ///< empty if clusterwide
    std::string name;
    /// "CiliumNetworkPolicy shop/web".
    [[nodiscard]] std::string to_string() const;
    friend auto operator<=>(const PolicyKey&, const PolicyKey&) = default;
};

struct Policy {
    PolicyKey key;
    std::vector<Rule> rules;  ///< spec first, then specs
    /// Where it was written, for people: "<file>: document <n>"; lines are of that file.
    std::string source{};
    friend bool operator==(const Policy&, const Policy&) = default;
};
using PolicyPtr = std::shared_ptr<const Policy>;

// --- labels that policy knows ------------------------------------------------------------------

inline constexpr std::string_view kNamespaceKey = "io.kubernetes.pod.namespace";
inline constexpr std::string_view kClusterKey = "io.cilium.k8s.policy.cluster";
inline constexpr std::string_view kNamespaceLabelsPrefix = "io.cilium.k8s.namespace.labels.";
inline constexpr std::string_view kSourceK8s = "k8s";
inline constexpr std::string_view kSourceReserved = "reserved";
inline constexpr std::string_view kSourceCidr = "cidr";
inline constexpr std::string_view kSourceFqdn = "fqdn";

}  // namespace mesh::model::policy
