// What the rest of the library sees of policy enforcement on this node: each endpoint's policy map,
// and where packets go that an L7 proxy has to see. Rows in, events and counters out, nothing of
// BPF. Two implementations: MemoryPolicy (no kernel) and BpfPolicy (datapath/bpf/).
//
// What an earlier process left stays enforced until it is replaced or removed.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <vector>

namespace mesh::datapath {

/// From 1; an endpoint keeps its own as long as it exists. Beyond a process's life it is kept in
/// the table of endpoints. @see Endpoint::id
using EndpointId = std::uint16_t;

/// What packets a row is for. @source policy.md §9
struct PolicyKey {
    std::uint32_t identity = 0;  ///< of the peer; 0 = any
    bool egress = false;
    std::uint8_t protocol = 0;
    std::uint8_t length = 0;  ///< bits of protocol and port: 0 = all, 8 = the protocol, 9..24
    std::uint16_t port = 0;   ///< of the destination, host byte order; bits beyond `length` are 0
    friend auto operator<=>(const PolicyKey&, const PolicyKey&) = default;
};

/// Of the rows for a packet's identity and for any, the longest of each counts; of these two the
/// one of higher precedence, then the longer, then the one for the identity.
struct PolicyVerdict {
    std::uint32_t precedence = 0;
    bool deny = false;
    std::uint16_t proxy_port = 0;  ///< of this node, host byte order; 0 = no redirect
    std::uint32_t cookie = 0;      ///< of the rules that it comes from, for events
    friend auto operator<=>(const PolicyVerdict&, const PolicyVerdict&) = default;
};

struct PolicyRow {
    PolicyKey key;
    PolicyVerdict verdict;
    friend auto operator<=>(const PolicyRow&, const PolicyRow&) = default;
};

/// A row's new verdict, or its end.
struct PolicyRowChange {
    PolicyKey key;
    std::optional<PolicyVerdict> verdict;
};

/// What happens with an endpoint's packets. A packet that no row is for is denied; a direction that
/// is not enforced has a row that allows everything.
enum class EndpointEnforcement : std::uint8_t {
    kNone,    ///< all pass, nothing is looked up or remembered
    kRules,   ///< the rows decide
    kAudit,   ///< the rows decide what is told, but all pass; redirects are followed
    kLocked,  ///< nothing passes but replies: the policy is not known yet, or finds no room
};

struct PolicyReplacement {
    EndpointId endpoint = 0;
    EndpointEnforcement enforcement = EndpointEnforcement::kNone;
    std::span<const PolicyRow> rows;
};

/// One of many replacements that was not made; the others were.
struct PolicyRefusal {
    std::size_t index = 0;
    Error error;
};

struct PolicySettings {
    /// Endpoints whose policy was never set are locked; else their packets pass.
    bool enabled = false;
    bool verdict_events = false;  ///< an event for each new flow that passes, not only for drops
    /// Of packets for the node's own proxies, which a rule of the node's routes leads to its
    /// sockets (netlink/proxy_routes.hpp); the proxies' sockets have ProxySocket marks next to it.
    /// The two lowest bits are 0. 0: rows that lead to proxies drop.
    std::uint32_t proxy_mark = 0;
    friend bool operator==(const PolicySettings&, const PolicySettings&) = default;
};

/// What a proxy uses a socket for: its SO_MARK is PolicySettings::proxy_mark plus this. They are
/// transparent sockets of the node's network namespace. By the marks the datapath knows which
/// packets are the proxies', and which answers are for them.
enum class ProxySocket : std::uint32_t {
    /// Listens on 127.0.0.1 and ::1 (or on all addresses), at the proxy_port of rows: TCP, or
    /// UDP with IP_RECVORIGDSTADDR. What it accepts has the client's and the server's addresses.
    /// Its answers to the client pass.
    kListener = 1,
    /// Goes on to the server, from the client's address, for a packet that came by a row of the
    /// server's ingress: what the server's policy says has been asked.
    kToServerOfIngress = 2,
    /// The same for a row of the client's egress: if the server is a pod of this node, its own
    /// policy is asked, and may lead to a proxy again.
    kToServerOfEgress = 3,
};
[[nodiscard]] constexpr std::uint32_t proxy_socket_mark(std::uint32_t proxy_mark,
                                                        ProxySocket socket) {
    return proxy_mark + static_cast<std::uint32_t>(socket);
}

/// How full an endpoint's map is.
struct PolicyOccupancy {
    EndpointId endpoint = 0;
    EndpointEnforcement enforcement = EndpointEnforcement::kNone;
    std::uint64_t rows = 0;
    friend bool operator==(const PolicyOccupancy&, const PolicyOccupancy&) = default;
};

/// @thread same object not concurrently
class PolicyDatapath {
  public:
    virtual ~PolicyDatapath() = default;

    /// @errors kInternal, kPermission
    [[nodiscard]] virtual Result<void> configure(const PolicySettings& settings) = 0;

    /// Gives an endpoint other rows, each key at most once: each packet meets all of the old or all
    /// of the new ones.
    /// @errors kCapacity: more rows than find room: nothing changed; kInternal
    /// @complexity O(rows given)
    [[nodiscard]] virtual Result<void> replace(EndpointId endpoint, EndpointEnforcement enforcement,
                                               std::span<const PolicyRow> rows) = 0;
    /// The same for many endpoints at once, each at most once. In the kernel a replacement takes
    /// milliseconds, whatever its rows are; all together take as many.
    /// @return those that were refused, ascending
    [[nodiscard]] virtual std::vector<PolicyRefusal> replace_all(
        std::span<const PolicyReplacement> all) {
        std::vector<PolicyRefusal> refused;
        for (std::size_t i = 0; i < all.size(); ++i) {
            const auto done = replace(all[i].endpoint, all[i].enforcement, all[i].rows);
            if (!done) refused.push_back({i, done.error()});
        }
        return refused;
    }
    /// Changes some rows, each key at most once: of identities that came or went. What denies comes
    /// first and goes last, so that no packet passes that neither the old nor the new rows let
    /// pass.
    /// @errors kNotFound: replace() was never called; kCapacity: some of the changes were made;
    ///         kInternal
    /// @complexity O(rows given)
    [[nodiscard]] virtual Result<void> change(EndpointId endpoint,
                                              std::span<const PolicyRowChange> changes) = 0;
    /// The rows stay. @errors kNotFound, kInternal
    [[nodiscard]] virtual Result<void> enforce(EndpointId endpoint,
                                               EndpointEnforcement enforcement) = 0;
    /// Forgets an endpoint. Nothing happens when it is not there.
    [[nodiscard]] virtual Result<void> remove(EndpointId endpoint) = 0;

    /// All endpoints that have rows, ascending; after open() those of an earlier process.
    [[nodiscard]] virtual std::vector<PolicyOccupancy> endpoints() const = 0;
    /// An endpoint's rows, ascending. @errors kNotFound, kInternal
    [[nodiscard]] virtual Result<std::vector<PolicyRow>> rows(EndpointId endpoint) const = 0;
    /// Room for the rows of one endpoint.
    [[nodiscard]] virtual std::uint64_t max_rows() const = 0;
};

}  // namespace mesh::datapath
