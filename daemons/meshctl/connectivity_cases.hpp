// The matrix of `meshctl connectivity test`: who sends what to whom, over which family and
// protocol. Plain data, the same in every run. Two clusters, a and b, of two nodes each; every node
// has a client pod and a server pod.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::ctl::connectivity {

inline constexpr std::size_t kClusters = 2;
inline constexpr std::uint32_t kNodes = 2;

enum class Family : std::uint8_t { kIpv4, kIpv6 };
enum class Protocol : std::uint8_t { kTcp, kUdp, kIcmp };
/// What a packet is sent to. kOutside: a host next to the nodes that is in no cluster.
/// kNodePort: the global service's, at a node.
enum class Destination : std::uint8_t {
    kPod,
    kNode,
    kGlobalService,
    kLocalService,
    kNodePort,
    kOutside,
};

[[nodiscard]] std::string_view to_string(Family family) noexcept;
[[nodiscard]] std::string_view to_string(Protocol protocol) noexcept;

/// A node of a cluster, and so its two pods.
struct Place {
    std::size_t cluster = 0;  ///< 0 or 1
    std::uint32_t node = 1;   ///< 1 or 2
    friend bool operator==(const Place&, const Place&) = default;
    /// "a1", "b2".
    [[nodiscard]] std::string to_string() const;
};

struct Case {
    bool from_node = false;     ///< the node itself sends, else its client pod
    bool from_outside = false;  ///< the host that is in no cluster sends, to `from`'s cluster
    Place from;
    Destination destination = Destination::kPod;
    Place to;  ///< only of kPod (the server pod there), kNode and kNodePort
    Family family = Family::kIpv4;
    Protocol protocol = Protocol::kTcp;
    bool large = false;  ///< more than a packet: segments, fragments

    /// "pod-to-pod-other-cluster".
    [[nodiscard]] std::string scope() const;
    /// "tcp", "udp-large".
    [[nodiscard]] std::string protocol_name() const;
    /// "<routing>/<scope>/<family>/<protocol>/<from>[-<to>]": what --only is matched with.
    [[nodiscard]] std::string name(std::string_view routing) const;
};

/// All cases in the order in which they run.
[[nodiscard]] std::vector<Case> all_cases();

/// Those whose name the expression is found in; all for "".
/// @param expression ECMAScript
/// @errors kInvalidArgument when it is no regular expression
[[nodiscard]] Result<std::vector<Case>> select_cases(std::string_view routing,
                                                     const std::string& expression);

}  // namespace mesh::ctl::connectivity
