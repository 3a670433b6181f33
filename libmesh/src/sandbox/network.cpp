#include "sandbox/network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/rtnetlink.hpp"

namespace mesh::sandbox {
namespace {

using datapath::MacAddress;
using datapath::Netns;
using datapath::Route;
using datapath::Rtnetlink;
using model::IpAddress;
using model::IpPrefix;

constexpr const char* kDevice = "eth0";
const IpAddress kGateway4 = IpAddress::v4(169, 254, 1, 1);
const IpAddress kGateway6(IpAddress::Bytes{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});

// A kernel without IPv6 has none of its variables.
Result<void> set_if_there(const Netns& netns, std::string_view key, std::string_view value) {
    auto set = datapath::set_sysctl(netns, key, value);
    if (!set && set.error().code() == Errc::kNotFound) return {};
    return set;
}

Result<void> set_common_sysctls(const Netns& netns) {
    for (const char* scope : {"all", "default"}) {
        MESH_CHECK(set_if_there(netns, fmt::format("ipv4/conf/{}/rp_filter", scope), "0"));
        MESH_CHECK(set_if_there(netns, fmt::format("ipv6/conf/{}/accept_dad", scope), "0"));
        MESH_CHECK(set_if_there(netns, fmt::format("ipv6/conf/{}/accept_ra", scope), "0"));
    }
    return {};
}

MacAddress node_mac(std::uint32_t slot, std::uint32_t node) {
    return {0x02,
            0x6d,
            static_cast<std::uint8_t>(slot >> 8),
            static_cast<std::uint8_t>(slot),
            static_cast<std::uint8_t>(node >> 8),
            static_cast<std::uint8_t>(node)};
}

// The pod's own (end 0) and the node's (end 1); an address is unique on its node, so they are too.
MacAddress pod_mac(const IpAddress& ip4, std::uint8_t end) {
    const auto& bytes = ip4.bytes();
    return {0x02,     static_cast<std::uint8_t>(0x70 + end), bytes[12], bytes[13], bytes[14],
            bytes[15]};
}

Route on_link(const IpAddress& address, const std::string& device) {
    Route route;
    route.destination = IpPrefix(address, address.is_v4() ? 32 : 128);
    route.device = device;
    return route;
}

// Opens the namespace, making it first if needed.
Result<Netns> open_or_make(const std::string& name) {
    auto opened = Netns::open(name);
    if (!opened && opened.error().code() == Errc::kCorrupt) {
        MESH_CHECK(datapath::delete_netns(name));
    } else if (opened || opened.error().code() != Errc::kNotFound) {
        return opened;
    }
    MESH_CHECK(datapath::create_netns(name));
    return Netns::open(name);
}

Result<void> ignore(Result<void> result, Errc code) {
    if (!result && result.error().code() == code) return {};
    return result;
}

// Virtual links go with either end; the namespace itself would let go of them only later.
Result<void> remove_netns_and_links(const std::string& name) {
    if (auto netns = Netns::open(name); netns) {
        if (auto links = Rtnetlink::open(*netns); links) {
            if (auto found = links->links(); found) {
                for (const auto& link : *found) {
                    if (link.name != "lo") (void)!links->delete_link(link.name);
                }
            }
        }
    }
    return ignore(datapath::delete_netns(name), Errc::kNotFound);
}

}  // namespace

Result<std::uint32_t> reserve_slot() {
    MESH_TRY(const Netns netns, open_or_make(std::string(kUnderlayNetns)));
    MESH_TRY(Rtnetlink links, Rtnetlink::open(netns));
    MESH_CHECK(set_if_there(netns, "ipv6/conf/all/disable_ipv6", "1"));
    MESH_CHECK(set_if_there(netns, "ipv6/conf/default/disable_ipv6", "1"));
    MESH_CHECK(ignore(links.add_bridge(kUnderlayBridge), Errc::kConflict));
    MESH_CHECK(links.set_up(kUnderlayBridge));
    MESH_TRY(const std::vector<datapath::Link> found, links.links());
    std::set<std::uint32_t> taken;
    for (const auto& link : found) {
        if (const auto slot = slot_of_port(link.name)) taken.insert(*slot);
    }
    for (std::uint32_t slot = 1; slot <= kMaxSlot; ++slot) {
        if (!taken.contains(slot)) return slot;
    }
    return Error(Errc::kCapacity,
                 fmt::format("{} sandboxes are on this machine: no room for more", kMaxSlot));
}

Result<void> add_node(const Names& names, std::uint32_t slot, std::uint32_t number) {
    const std::string name = names.node(node_name(number));
    MESH_CHECK(datapath::create_netns(name));
    MESH_TRY(const Netns node, Netns::open(name));
    MESH_TRY(const Netns underlay, Netns::open(kUnderlayNetns));
    MESH_CHECK(set_common_sysctls(node));
    MESH_CHECK(datapath::set_sysctl(node, "ipv4/ip_forward", "1"));
    MESH_CHECK(set_if_there(node, "ipv6/conf/all/forwarding", "1"));
    MESH_TRY(Rtnetlink hub, Rtnetlink::open(underlay));
    MESH_TRY(Rtnetlink links, Rtnetlink::open(node));
    const std::string port = underlay_port(slot, number);
    MESH_CHECK(hub.add_veth({port, &underlay, std::nullopt, kNodeMtu},
                            {kDevice, &node, node_mac(slot, number), kNodeMtu}));
    MESH_CHECK(hub.set_master(port, kUnderlayBridge));
    MESH_CHECK(hub.set_up(port));
    MESH_CHECK(links.set_up("lo"));
    MESH_CHECK(links.set_up(kDevice));
    MESH_CHECK(links.add_address(kDevice, node_address4(slot, number), kUnderlayLength4));
    MESH_CHECK(links.add_address(kDevice, node_address6(slot, number), kUnderlayLength6));
    return {};
}

Result<void> add_pod(const Names& names, const PodWires& pod) {
    const std::string name = names.pod(pod.node, pod.namespace_, pod.name);
    MESH_CHECK(datapath::create_netns(name));
    MESH_TRY(const Netns inside, Netns::open(name));
    MESH_TRY(const Netns node, Netns::open(names.node(pod.node)));
    MESH_CHECK(set_common_sysctls(inside));
    MESH_TRY(Rtnetlink in, Rtnetlink::open(inside));
    MESH_TRY(Rtnetlink out, Rtnetlink::open(node));
    const std::string device = pod_device(pod.ips.front());
    const MacAddress mac = pod_mac(pod.ips.front(), 0);
    const MacAddress node_end = pod_mac(pod.ips.front(), 1);
    MESH_CHECK(out.add_veth({device, &node, node_end, kPodMtu}, {kDevice, &inside, mac, kPodMtu}));
    MESH_CHECK(out.set_up(device));
    MESH_CHECK(in.set_up("lo"));
    MESH_CHECK(in.set_up(kDevice));
    for (const IpAddress& ip : pod.ips) {
        const IpAddress& gateway = ip.is_v4() ? kGateway4 : kGateway6;
        MESH_CHECK(in.add_address(kDevice, ip, ip.is_v4() ? 32 : 128));
        MESH_CHECK(in.set_neighbour(kDevice, gateway, node_end));
        Route all;
        all.destination = IpPrefix(ip.is_v4() ? IpAddress::v4(0) : IpAddress(), 0);
        all.via = gateway;
        all.device = kDevice;
        all.onlink = true;
        MESH_CHECK(in.add_route(all));
        // Routes to pods are the sandbox's, not the agent's: its route table must leave them alone.
        Route to_pod = on_link(ip, device);
        to_pod.protocol = 4;  // RTPROT_STATIC
        MESH_CHECK(out.add_route(to_pod));
        MESH_CHECK(out.set_neighbour(device, ip, mac));
    }
    return {};
}

Result<void> remove_pod(const Names& names, const PodWires& pod) {
    if (auto node = Netns::open(names.node(pod.node)); node && !pod.ips.empty()) {
        MESH_TRY(Rtnetlink links, Rtnetlink::open(*node));
        MESH_CHECK(ignore(links.delete_link(pod_device(pod.ips.front())), Errc::kNotFound));
    }
    return remove_netns_and_links(names.pod(pod.node, pod.namespace_, pod.name));
}

Result<void> remove_namespaces(const Names& names) {
    MESH_TRY(std::vector<std::string> found, datapath::list_netns(names.prefix()));
    // Pods before their node: names sort the node first.
    std::reverse(found.begin(), found.end());
    Result<void> outcome;
    for (const std::string& name : found) {
        if (auto removed = remove_netns_and_links(name); !removed) outcome = removed;
    }
    return outcome;
}

Result<void> remove_underlay_if_unused() {
    auto netns = Netns::open(kUnderlayNetns);
    if (!netns && netns.error().code() == Errc::kCorrupt) {
        return datapath::delete_netns(kUnderlayNetns);
    }
    if (!netns) return ignore(netns.error(), Errc::kNotFound);
    MESH_TRY(Rtnetlink links, Rtnetlink::open(*netns));
    MESH_TRY(const std::vector<datapath::Link> found, links.links());
    for (const auto& link : found) {
        if (slot_of_port(link.name)) return {};
    }
    MESH_CHECK(ignore(links.delete_link(kUnderlayBridge), Errc::kNotFound));
    return datapath::delete_netns(kUnderlayNetns);
}

}  // namespace mesh::sandbox
