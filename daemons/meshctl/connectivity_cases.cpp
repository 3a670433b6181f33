#include "meshctl/connectivity_cases.hpp"

#include <fmt/format.h>

#include <regex>
#include <utility>

namespace mesh::ctl::connectivity {
namespace {

// A protocol with and without more data than a packet has room for.
struct Kind {
    Protocol protocol;
    bool large;
};

constexpr Kind kTcp{Protocol::kTcp, false}, kTcpLarge{Protocol::kTcp, true};
constexpr Kind kUdp{Protocol::kUdp, false}, kUdpLarge{Protocol::kUdp, true};
constexpr Kind kIcmp{Protocol::kIcmp, false}, kIcmpLarge{Protocol::kIcmp, true};

const std::vector<Kind>& every_kind() {
    static const std::vector<Kind> kinds{kTcp, kTcpLarge, kUdp, kUdpLarge, kIcmp, kIcmpLarge};
    return kinds;
}

constexpr Place kA1{0, 1}, kA2{0, 2}, kB1{1, 1}, kB2{1, 2};

using Pairs = std::vector<std::pair<Place, Place>>;

void add(std::vector<Case>& cases, Case like, const Pairs& pairs, const std::vector<Kind>& kinds) {
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
        for (const Kind& kind : kinds) {
            for (const auto& [from, to] : pairs) {
                like.from = from;
                like.to = to;
                like.family = family;
                like.protocol = kind.protocol;
                like.large = kind.large;
                cases.push_back(like);
            }
        }
    }
}

Case to_destination(Destination destination, bool from_node = false) {
    Case out;
    out.destination = destination;
    out.from_node = from_node;
    return out;
}

Case from_outside(Destination destination) {
    Case out = to_destination(destination);
    out.from_outside = true;
    return out;
}

bool has_place(Destination destination) {
    return destination == Destination::kPod || destination == Destination::kNode ||
           destination == Destination::kNodePort;
}

}  // namespace

std::string_view to_string(Family family) noexcept {
    return family == Family::kIpv4 ? "ipv4" : "ipv6";
}

std::string_view to_string(Protocol protocol) noexcept {
    switch (protocol) {
        case Protocol::kTcp:
            return "tcp";
        case Protocol::kUdp:
            return "udp";
        case Protocol::kIcmp:
            break;
    }
    return "icmp";
}

std::string Place::to_string() const {
    return fmt::format("{}{}", cluster == 0 ? 'a' : 'b', node);
}

std::string Case::scope() const {
    const char* const source = from_outside ? "outside" : from_node ? "node" : "pod";
    const char* const where = from == to                   ? "same-node"
                              : from.cluster == to.cluster ? "other-node"
                                                           : "other-cluster";
    switch (destination) {
        case Destination::kPod:
            return fmt::format("{}-to-pod-{}", source, where);
        case Destination::kNode:
            return fmt::format("{}-to-node-{}", source,
                               from.cluster == to.cluster ? "same-cluster" : "other-cluster");
        case Destination::kGlobalService:
            return fmt::format("{}-to-global-service", source);
        case Destination::kLocalService:
            return fmt::format("{}-to-local-service", source);
        case Destination::kNodePort:
            if (from_outside) return fmt::format("{}-to-node-port", source);
            return fmt::format("{}-to-node-port-{}", source, where);
        case Destination::kOutside:
            break;
    }
    return fmt::format("{}-to-outside", source);
}

std::string Case::protocol_name() const {
    return fmt::format("{}{}", connectivity::to_string(protocol), large ? "-large" : "");
}

std::string Case::name(std::string_view routing) const {
    std::string out = fmt::format(
        "{}/{}/{}/{}/{}", routing, scope(), connectivity::to_string(family), protocol_name(),
        from_outside && has_place(destination) ? "out" : from.to_string());
    if (has_place(destination)) out += "-" + to.to_string();
    return out;
}

std::vector<Case> all_cases() {
    const Pairs same_node{{kA1, kA1}, {kB2, kB2}};
    const Pairs other_node{{kA1, kA2}, {kA2, kA1}};
    const Pairs other_cluster{{kA1, kB1}, {kB1, kA1}, {kA1, kB2}, {kB2, kA1}};
    const Pairs nodes{{kA1, kA2}, {kA1, kB1}, {kB1, kA1}};
    const Pairs clients{{kA1, kA1}, {kB2, kB2}};
    std::vector<Case> cases;
    for (const Pairs* pairs : {&same_node, &other_node, &other_cluster}) {
        add(cases, to_destination(Destination::kPod), *pairs, every_kind());
    }
    add(cases, to_destination(Destination::kGlobalService), clients, {kTcp, kUdp, kUdpLarge});
    add(cases, to_destination(Destination::kLocalService), clients, {kTcp, kUdp});
    add(cases, to_destination(Destination::kNodePort), {{kA1, kA1}, {kA1, kA2}},
        {kTcp, kTcpLarge, kUdp, kUdpLarge});
    // Not more than a packet by UDP: IPv6 learns what a tunnel takes by losing the first.
    add(cases, from_outside(Destination::kNodePort), {{kA1, kA1}, {kB2, kB2}},
        {kTcp, kTcpLarge, kUdp});
    add(cases, from_outside(Destination::kGlobalService), {{kA1, kA1}, {kB1, kB1}}, {kTcp, kUdp});
    add(cases, to_destination(Destination::kNode), nodes, {kTcp, kUdp, kIcmp, kIcmpLarge});
    add(cases, to_destination(Destination::kOutside), {{kA1, kA1}}, every_kind());
    add(cases, to_destination(Destination::kPod, true), {{kA1, kB2}, {kB2, kA1}}, every_kind());
    add(cases, to_destination(Destination::kGlobalService, true), clients, {kTcp, kUdp});
    return cases;
}

Result<std::vector<Case>> select_cases(std::string_view routing, const std::string& expression) {
    std::vector<Case> selected;
    try {
        const std::regex wanted(expression);
        for (const Case& one : all_cases()) {
            if (std::regex_search(one.name(routing), wanted)) selected.push_back(one);
        }
    } catch (const std::regex_error& error) {
        return invalid_argument(fmt::format("--only \"{}\": expected a regular expression: {}",
                                            expression, error.what()));
    }
    return selected;
}

}  // namespace mesh::ctl::connectivity
