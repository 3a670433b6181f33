#include "attach/pod_link.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>

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

IpPrefix everything(bool v4) {
    return {v4 ? IpAddress::v4(0) : IpAddress(), 0};
}

// In the pod.
Route route_to_node(const PodLink& link, const IpPrefix& destination) {
    Route route;
    route.destination = destination;
    route.via = pod_gateway(destination.is_v4());
    route.device = link.pod_device;
    route.onlink = true;
    return route;
}

bool has_route(const std::vector<Route>& routes, const IpPrefix& to, const std::string& device) {
    return std::ranges::any_of(routes, [&](const Route& route) {
        return route.destination == to && route.device == device;
    });
}

Result<void> check_up(Rtnetlink& links, const std::string& device) {
    MESH_TRY(const datapath::Link link, links.link(device));
    if (!link.up) return unavailable(fmt::format("{} is down", device));
    return {};
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

std::string node_device_of(std::string_view container_id, std::string_view pod_device) {
    const std::string key = fmt::format("{}/{}", container_id, pod_device);
    std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
    ::SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
    return fmt::format("lxc{:02x}", fmt::join(digest.begin(), digest.begin() + 6, ""));
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
        MESH_CHECK(in.add_route(route_to_node(link, everything(ip.is_v4()))));
        Route to_pod;
        to_pod.destination = IpPrefix(ip, full_length(ip));
        to_pod.device = link.node_device;
        to_pod.protocol = kStaticProtocol;
        MESH_CHECK(out.add_route(to_pod));
        MESH_CHECK(out.set_neighbour(link.node_device, ip, macs.pod));
    }
    for (const IpPrefix& destination : link.routes) {
        if (destination.length() == 0) continue;
        MESH_CHECK(in.add_route(route_to_node(link, destination)));
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
    MESH_CHECK(check_up(out, link.node_device));
    MESH_CHECK(check_up(in, link.pod_device));
    MESH_TRY(const auto addresses, in.addresses(link.pod_device));
    MESH_TRY(const auto inside, in.routes());
    MESH_TRY(const auto outside, out.routes());
    for (const IpAddress& ip : link.ips) {
        if (!std::ranges::any_of(addresses, [&](const auto& a) { return a.address == ip; })) {
            return not_found(fmt::format("{} has no address {}", link.pod_device, ip.to_string()));
        }
        if (!has_route(inside, everything(ip.is_v4()), link.pod_device)) {
            return not_found(fmt::format("the pod has no default route of {} on {}",
                                         ip.is_v4() ? "IPv4" : "IPv6", link.pod_device));
        }
        if (!has_route(outside, IpPrefix(ip, full_length(ip)), link.node_device)) {
            return not_found(
                fmt::format("the node has no route to {} on {}", ip.to_string(), link.node_device));
        }
    }
    for (const IpPrefix& destination : link.routes) {
        if (has_route(inside, destination, link.pod_device)) continue;
        return not_found(fmt::format("the pod has no route to {} on {}", destination.to_string(),
                                     link.pod_device));
    }
    return {};
}

}  // namespace mesh::attach
