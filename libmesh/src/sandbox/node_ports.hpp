// The node ports of a sandbox's Services, given out as Kubernetes does: 30000 to 32767, one for
// each port of a Service of type NodePort or LoadBalancer, kept as long as the port is there. Plain
// computation.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::sandbox {

inline constexpr std::uint16_t kFirstNodePort = 30000;
inline constexpr std::uint16_t kLastNodePort = 32767;

/// A node port and its protocol ("TCP", "UDP", "SCTP"): one number may serve each protocol once.
using NodePort = std::pair<std::uint16_t, std::string>;

/// Whether a Service has node ports: NodePort, and LoadBalancer but for one with
/// allocateLoadBalancerNodePorts false.
[[nodiscard]] bool wants_node_ports(const boost::json::object& service);

/// Those that a Service asks for, or has.
[[nodiscard]] std::vector<NodePort> node_ports(const boost::json::object& service);

/// Gives each port of the Service a node port, if it wants some.
/// @param before what was there under its name, or null: a port of the same name and protocol keeps
///        its number
/// @param cursor number taken last; updated
/// @param in_use by other Services
/// @errors kCapacity: none is free; kInvalidArgument: one that it asks for is in use
[[nodiscard]] Result<void> assign_node_ports(boost::json::object& service,
                                             const boost::json::object* before,
                                             std::uint64_t& cursor,
                                             const std::function<bool(const NodePort&)>& in_use);

}  // namespace mesh::sandbox
