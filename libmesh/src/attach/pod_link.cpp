#include "attach/pod_link.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mesh::attach {
namespace {

using datapath::MacAddress;
using datapath::Netns;
using datapath::Route;
using datapath::Rtnetlink;
using model::IpAddress;
using model::IpPrefix;

// Routes to pods are the attacher's, not the agent's: its route table leaves them alone.
constexpr std::uint8_t kStaticProtocol = 4;  // RTPROT_STATIC

std::uint8_t full_length(const IpAddress& ip) {
    return ip.is_v4() ? 32 : 128;
}

Route default_route(const PodLink& link, bool v4) {
    Route route;
    route.destination = IpPrefix(v4 ? IpAddress::v4(0) : IpAddress(), 0);
    route.via = pod_gateway(v4);
    route.device = link.pod_device;
    route.onlink = true;
    return route;
}

// The pod's own (end 0) and the node's (end 1).
MacAddress mac_of(const IpAddress& ip, std::uint8_t end) {
    const auto& bytes = ip.bytes();
    return {0x02,     static_cast<std::uint8_t>(0x70 + end), bytes[12], bytes[13], bytes[14],
            bytes[15]};
}

}  // namespace

std::string node_device_of(const IpAddress& ip) {
    const auto& b = ip.bytes();
    return fmt::format("lxc{}{:02x}{:02x}{:02x}{:02x}", ip.is_v4() ? "" : "x", b[12], b[13], b[14],
                       b[15]);
}

LinkMacs macs_of(const IpAddress& ip) {
    return {mac_of(ip, 0), mac_of(ip, 1)};
}

IpAddress pod_gateway(bool v4) {
    if (v4) return IpAddress::v4(169, 254, 1, 1);
    return IpAddress(IpAddress::Bytes{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
}

Result<void> set_common_sysctls(const Netns& netns) {
    // A kernel without IPv6 has none of its variables.
    const auto set = [&](const std::string& key) -> Result<void> {
        auto done = datapath::set_sysctl(netns, key, "0");
        if (!done && done.error().code() == Errc::kNotFound) return {};
        return done;
    };
    for (const char* scope : {"all", "default"}) {
        MESH_CHECK(set(fmt::format("ipv4/conf/{}/rp_filter", scope)));
        MESH_CHECK(set(fmt::format("ipv6/conf/{}/accept_dad", scope)));
        MESH_CHECK(set(fmt::format("ipv6/conf/{}/accept_ra", scope)));
    }
    return {};
}

Result<LinkMacs> attach_pod(const PodLink& link) {
    if (link.ips.empty()) return invalid_argument("pod: expected at least one address");
    MESH_CHECK(set_common_sysctls(*link.pod));
    MESH_TRY(Rtnetlink in, Rtnetlink::open(*link.pod));
    MESH_TRY(Rtnetlink out, Rtnetlink::open(*link.node));
    const LinkMacs macs = macs_of(link.ips.front());
    MESH_CHECK(out.add_veth({link.node_device, link.node, macs.node, link.mtu},
                            {link.pod_device, link.pod, macs.pod, link.mtu}));
    MESH_CHECK(out.set_up(link.node_device));
    MESH_CHECK(in.set_up("lo"));
    MESH_CHECK(in.set_up(link.pod_device));
    for (const IpAddress& ip : link.ips) {
        MESH_CHECK(in.add_address(link.pod_device, ip, full_length(ip)));
        MESH_CHECK(in.set_neighbour(link.pod_device, pod_gateway(ip.is_v4()), macs.node));
        MESH_CHECK(in.add_route(default_route(link, ip.is_v4())));
        Route to_pod;
        to_pod.destination = IpPrefix(ip, full_length(ip));
        to_pod.device = link.node_device;
        to_pod.protocol = kStaticProtocol;
        MESH_CHECK(out.add_route(to_pod));
        MESH_CHECK(out.set_neighbour(link.node_device, ip, macs.pod));
    }
    return macs;
}

Result<void> detach_pod(const Netns& node, const std::string& node_device) {
    MESH_TRY(Rtnetlink links, Rtnetlink::open(node));
    auto removed = links.delete_link(node_device);
    if (!removed && removed.error().code() == Errc::kNotFound) return {};
    return removed;
}

Result<void> check_pod(const PodLink& link) {
    MESH_TRY(Rtnetlink in, Rtnetlink::open(*link.pod));
    MESH_TRY(Rtnetlink out, Rtnetlink::open(*link.node));
    MESH_CHECK(out.link(link.node_device));
    MESH_TRY(const auto addresses, in.addresses(link.pod_device));
    MESH_TRY(const auto inside, in.routes());
    MESH_TRY(const auto outside, out.routes());
    const auto has_route = [](const std::vector<Route>& routes, const IpPrefix& to,
                              const std::string& device) {
        return std::ranges::any_of(routes, [&](const Route& route) {
            return route.destination == to && route.device == device;
        });
    };
    for (const IpAddress& ip : link.ips) {
        if (!std::ranges::any_of(addresses, [&](const auto& a) { return a.address == ip; })) {
            return not_found(fmt::format("{} has no address {}", link.pod_device, ip.to_string()));
        }
        if (!has_route(inside, default_route(link, ip.is_v4()).destination, link.pod_device)) {
            return not_found(fmt::format("the pod has no default route of {} on {}",
                                         ip.is_v4() ? "IPv4" : "IPv6", link.pod_device));
        }
        if (!has_route(outside, IpPrefix(ip, full_length(ip)), link.node_device)) {
            return not_found(
                fmt::format("the node has no route to {} on {}", ip.to_string(), link.node_device));
        }
    }
    return {};
}

}  // namespace mesh::attach
