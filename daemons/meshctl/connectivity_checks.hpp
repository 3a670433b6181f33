// What a case of the matrix asks for on the addresses of two real clusters, and whether the answers
// are right: who answered, and which client address they saw. Plain computation.
#pragma once

#include <array>
#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "meshctl/connectivity_cases.hpp"
#include "meshctl/connectivity_probe.hpp"
#include "model/ip.hpp"

namespace mesh::ctl::connectivity {

/// Ports: of mesh-echo in the server pods, on nodes and outside; of the services.
inline constexpr std::uint16_t kPodPort = 8080;
inline constexpr std::uint16_t kHostPort = 8090;
inline constexpr std::uint16_t kServiceTcpPort = 80;
inline constexpr std::uint16_t kServiceUdpPort = 53;

inline constexpr std::string_view kNamespace = "connectivity";
/// What mesh-echo on a node, outside of any pod, calls itself.
inline constexpr std::string_view kHostName = "host";

/// Names of the pods on a node: "client-node1", "server-node1".
[[nodiscard]] std::string client_name(std::uint32_t node);
[[nodiscard]] std::string server_name(std::uint32_t node);

using Addresses = std::array<model::IpAddress, 2>;  ///< IPv4, IPv6

/// The addresses of a test's clusters.
struct Network {
    struct Node {
        Addresses node, router;  ///< of its device; its own out of its pods' block
        Addresses client, server;
    };
    struct Cluster {
        std::string name;
        std::array<Node, kNodes> nodes;
        Addresses global_service, local_service;
        std::uint16_t tcp_node_port = 0, udp_node_port = 0;  ///< of the global service
    };
    bool tunnel = true;
    std::array<Cluster, kClusters> clusters;
    std::string outside;  ///< the sandbox that is in no mesh
    Addresses outside_node;

    [[nodiscard]] const Cluster& cluster(const Place& place) const {
        return clusters.at(place.cluster);
    }
    [[nodiscard]] const Node& node(const Place& place) const {
        return clusters.at(place.cluster).nodes.at(place.node - 1);
    }
};

/// Who may answer, or must; "" stands for any.
struct Responder {
    std::string cluster, node, pod;
    friend bool operator==(const Responder&, const Responder&) = default;
};

/// A case on real addresses.
struct Check {
    Origin origin;
    ProbeRequest request;
    std::vector<Responder> allowed;         ///< every answer is of one of them; ICMP tells nobody
    std::vector<Responder> required;        ///< each has answered at least once
    std::vector<model::IpAddress> clients;  ///< one of them is whom every server saw
};

/// @param timeout of each request
[[nodiscard]] Check plan_check(const Case& one, const Network& network,
                               std::chrono::milliseconds timeout);

/// Who sends, and what to, for people: "conn-a/client-node1", "global service".
[[nodiscard]] std::string from_text(const Case& one, const Network& network);
[[nodiscard]] std::string to_text(const Case& one, const Network& network);

/// @param result of probe()
/// @return why it is wrong, in one sentence; nullopt when all is right
[[nodiscard]] std::optional<std::string> judge(const Check& check,
                                               const boost::json::object& result);

}  // namespace mesh::ctl::connectivity
