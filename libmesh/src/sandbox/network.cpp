#include "sandbox/network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "attach/pod_link.hpp"
#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/rtnetlink.hpp"
#include "sources/config/endpoint_files.hpp"

namespace mesh::sandbox {
namespace {

using datapath::MacAddress;
using datapath::Netns;
using datapath::Rtnetlink;
using model::IpAddress;

constexpr const char* kDevice = "eth0";
// A kernel without IPv6 has none of its variables.
Result<void> set_if_there(const Netns& netns, std::string_view key, std::string_view value) {
    auto set = datapath::set_sysctl(netns, key, value);
    if (!set && set.error().code() == Errc::kNotFound) return {};
    return set;
}

MacAddress node_mac(std::uint32_t slot, std::uint32_t node) {
    return {0x02,
            0x6d,
            static_cast<std::uint8_t>(slot >> 8),
            static_cast<std::uint8_t>(slot),
            static_cast<std::uint8_t>(node >> 8),
            static_cast<std::uint8_t>(node)};
}

std::string endpoint_id(const PodWires& pod) {
    return fmt::format("{}.{}", pod.namespace_, pod.name);
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
    MESH_CHECK(attach::set_common_sysctls(node));
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
    attach::PodLink link;
    link.node = &node;
    link.pod = &inside;
    link.node_device = attach::node_device_of(pod.ips.front());
    link.ips = pod.ips;
    link.mtu = pod.mtu;
    MESH_TRY(const attach::LinkMacs macs, attach::attach_pod(link));
    return sources::config::write_endpoint_file(pod.endpoints, endpoint_id(pod),
                                                {.namespace_ = pod.namespace_,
                                                 .pod = pod.name,
                                                 .container_id = pod.uid,
                                                 .netns = name,
                                                 .device = link.node_device,
                                                 .pod_mac = macs.pod,
                                                 .node_mac = macs.node,
                                                 .ips = pod.ips});
}

Result<void> remove_pod(const Names& names, const PodWires& pod) {
    MESH_CHECK(sources::config::remove_endpoint_file(pod.endpoints, endpoint_id(pod)));
    if (auto node = Netns::open(names.node(pod.node)); node && !pod.ips.empty()) {
        MESH_CHECK(attach::detach_pod(*node, attach::node_device_of(pod.ips.front())));
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
