#include "meshctl/connectivity_checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "meshctl/agents.hpp"
#include "sandbox/names.hpp"

namespace mesh::ctl::connectivity {
namespace {

namespace json = boost::json;

/// Requests to a service: chosen at random, one of two would be missed once in 2^31 runs.
constexpr std::uint32_t kServiceRequests = 32;
constexpr std::uint32_t kLargeDatagram = 8000;
constexpr std::uint32_t kLargeBody = 200'000;
constexpr std::uint32_t kSmall = 56;

std::uint32_t size_of(const Case& one) {
    if (one.protocol == Protocol::kTcp) return one.large ? kLargeBody : 0;
    return one.large ? kLargeDatagram : kSmall;
}

std::size_t index_of(Family family) {
    return family == Family::kIpv4 ? 0 : 1;
}

Responder server_of(const Network& network, std::size_t cluster, std::uint32_t node) {
    return {network.clusters.at(cluster).name, sandbox::node_name(node), server_name(node)};
}

void plan_service(const Case& one, const Network& network, Check& check) {
    const bool global = one.destination != Destination::kLocalService;
    const Network::Cluster& own = network.cluster(one.from);
    check.request.to = (global ? own.global_service : own.local_service).at(index_of(one.family));
    check.request.port = one.protocol == Protocol::kTcp ? kServiceTcpPort : kServiceUdpPort;
    if (one.destination == Destination::kNodePort) {
        check.request.to = network.node(one.to).node.at(index_of(one.family));
        check.request.port = one.protocol == Protocol::kTcp ? own.tcp_node_port : own.udp_node_port;
    }
    check.request.count = kServiceRequests;
    for (std::size_t cluster = 0; cluster < kClusters; ++cluster) {
        if (!global && cluster != one.from.cluster) continue;
        if (global) check.required.push_back({network.clusters.at(cluster).name, "", ""});
        for (std::uint32_t node = 1; node <= kNodes; ++node) {
            check.allowed.push_back(server_of(network, cluster, node));
        }
    }
    if (!global) check.required = check.allowed;
}

void plan_destination(const Case& one, const Network& network, Check& check) {
    const std::size_t family = index_of(one.family);
    switch (one.destination) {
        case Destination::kPod:
            check.request.to = network.node(one.to).server.at(family);
            check.request.port = kPodPort;
            check.allowed = {server_of(network, one.to.cluster, one.to.node)};
            break;
        case Destination::kNode:
            check.request.to = network.node(one.to).node.at(family);
            check.request.port = kHostPort;
            check.allowed = {{network.cluster(one.to).name, sandbox::node_name(one.to.node),
                              std::string(kHostName)}};
            break;
        case Destination::kOutside:
            check.request.to = network.outside_node.at(family);
            check.request.port = kHostPort;
            check.allowed = {{network.outside, sandbox::node_name(1), std::string(kHostName)}};
            break;
        case Destination::kGlobalService:
        case Destination::kLocalService:
        case Destination::kNodePort:
            plan_service(one, network, check);
            break;
    }
}

bool has_node(const Case& one) {
    return one.destination == Destination::kNodePort;
}

// Pods keep their address within the mesh. To the outside they go as their node; to nodes as well
// where packets are encapsulated: what is between nodes then need not know pods' addresses.
std::vector<model::IpAddress> clients_of(const Case& one, const Network& network) {
    const std::size_t family = index_of(one.family);
    const Network::Node& from = network.node(one.from);
    // At a node port, and for a client from outside, the node that has the packet may have to see
    // the answer, and then the server sees that node.
    if (one.from_outside || one.destination == Destination::kNodePort) {
        const Network::Node& at = network.node(has_node(one) ? one.to : one.from);
        std::vector<model::IpAddress> seen{at.node.at(family), at.router.at(family)};
        if (one.from_outside) {
            seen.push_back(network.outside_node.at(family));
        } else {
            seen.insert(seen.end(), {from.client.at(family), from.node.at(family)});
        }
        return seen;
    }
    if (one.from_node) return {from.node.at(family), from.router.at(family)};
    const bool masqueraded = one.destination == Destination::kOutside ||
                             (one.destination == Destination::kNode && network.tunnel);
    return {(masqueraded ? from.node : from.client).at(family)};
}

// The address of "10.1.2.3:80" and "[fd00::1]:80".
std::string without_port(const std::string& text) {
    const std::string host = text.substr(0, text.rfind(':'));
    if (host.size() > 1 && host.front() == '[') return host.substr(1, host.size() - 2);
    return host;
}

bool matches(const Responder& responder, const json::object& answer) {
    const auto is = [&](std::string_view key, const std::string& wanted) {
        return wanted.empty() || text_of(answer, key) == wanted;
    };
    return is("cluster", responder.cluster) && is("node", responder.node) &&
           is("pod", responder.pod);
}

std::string text_of(const Responder& responder) {
    std::string out = responder.cluster;
    for (const std::string& part : {responder.node, responder.pod}) {
        if (!part.empty()) out += "/" + part;
    }
    return out;
}

template <class List, class Text>
std::string any_of_text(const List& list, Text&& text) {
    std::string out;
    for (const auto& item : list) out += (out.empty() ? "" : " or ") + text(item);
    return out;
}

std::optional<std::string> judge_answer(const Check& check, const json::object& answer) {
    const std::string peer = ctl::text_of(answer, "peer");
    if (peer != check.request.to.to_string()) {
        return fmt::format("the answer came from {}, expected {}", peer,
                           check.request.to.to_string());
    }
    if (check.request.protocol == Protocol::kIcmp) return std::nullopt;
    if (std::none_of(check.allowed.begin(), check.allowed.end(),
                     [&](const Responder& one) { return matches(one, answer); })) {
        return fmt::format(
            "{}/{}/{} answered, expected {}", ctl::text_of(answer, "cluster"),
            ctl::text_of(answer, "node"), ctl::text_of(answer, "pod"),
            any_of_text(check.allowed, [](const Responder& one) { return text_of(one); }));
    }
    const std::string client = without_port(ctl::text_of(answer, "client"));
    if (std::none_of(check.clients.begin(), check.clients.end(),
                     [&](const model::IpAddress& one) { return one.to_string() == client; })) {
        return fmt::format("the server saw the client as {}, expected {}", client,
                           any_of_text(check.clients, [](const model::IpAddress& one) {
                               return one.to_string();
                           }));
    }
    return std::nullopt;
}

}  // namespace

std::string client_name(std::uint32_t node) {
    return "client-" + sandbox::node_name(node);
}
std::string server_name(std::uint32_t node) {
    return "server-" + sandbox::node_name(node);
}

Check plan_check(const Case& one, const Network& network, std::chrono::milliseconds timeout) {
    Check check;
    check.origin.cluster = network.cluster(one.from).name;
    if (one.from_outside) {
        check.origin = {network.outside, "", sandbox::node_name(1)};
    } else if (one.from_node) {
        check.origin.node = sandbox::node_name(one.from.node);
    } else {
        check.origin.pod = fmt::format("{}/{}", kNamespace, client_name(one.from.node));
    }
    check.request.protocol = one.protocol;
    check.request.size = size_of(one);
    check.request.timeout = timeout;
    plan_destination(one, network, check);
    check.clients = clients_of(one, network);
    return check;
}

std::string from_text(const Case& one, const Network& network) {
    if (one.from_outside) return fmt::format("{}/{}", network.outside, sandbox::node_name(1));
    return fmt::format(
        "{}/{}", network.cluster(one.from).name,
        one.from_node ? sandbox::node_name(one.from.node) : client_name(one.from.node));
}

std::string to_text(const Case& one, const Network& network) {
    switch (one.destination) {
        case Destination::kPod:
            return fmt::format("{}/{}", network.cluster(one.to).name, server_name(one.to.node));
        case Destination::kNode:
            return fmt::format("{}/{}", network.cluster(one.to).name,
                               sandbox::node_name(one.to.node));
        case Destination::kGlobalService:
            return "global service";
        case Destination::kLocalService:
            return "local service";
        case Destination::kNodePort:
            return fmt::format("{}/{} node port", network.cluster(one.to).name,
                               sandbox::node_name(one.to.node));
        case Destination::kOutside:
            break;
    }
    return fmt::format("{}/{}", network.outside, sandbox::node_name(1));
}

std::optional<std::string> judge(const Check& check, const json::object& result) {
    const json::value* list = result.if_contains("answers");
    const json::array answers =
        list != nullptr && list->is_array() ? list->get_array() : json::array();
    std::vector<bool> answered(check.required.size(), false);
    for (const json::value& item : answers) {
        if (!item.is_object()) return "an answer is no object";
        if (auto wrong = judge_answer(check, item.get_object())) return wrong;
        for (std::size_t i = 0; i < answered.size(); ++i) {
            if (matches(check.required[i], item.get_object())) answered[i] = true;
        }
    }
    if (const std::string error = ctl::text_of(result, "error"); !error.empty()) {
        if (check.request.count == 1) return error;
        return fmt::format("request {} of {}: {}", answers.size() + 1, check.request.count, error);
    }
    if (answers.size() != check.request.count) {
        return fmt::format("{} answers, expected {}", answers.size(), check.request.count);
    }
    for (std::size_t i = 0; i < answered.size(); ++i) {
        if (answered[i]) continue;
        return fmt::format("none of {} answers came from {}", answers.size(),
                           text_of(check.required[i]));
    }
    return std::nullopt;
}

}  // namespace mesh::ctl::connectivity
