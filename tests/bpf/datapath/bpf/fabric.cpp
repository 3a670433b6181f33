#include "fabric.hpp"

#include <gtest/gtest.h>
#include <net/if.h>

#include <filesystem>
#include <stdexcept>

#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/rtnetlink.hpp"

namespace mesh::test {
namespace {

constexpr std::uint32_t kOverlayMtu = 1430;  // 1500 less an IPv6 underlay's headers

template <class T>
T take(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message());
    return *std::move(result);
}
void take(const Result<void>& result) {
    if (!result) throw std::runtime_error(result.error().message());
}

datapath::MacAddress mac(int node, int pod, int end) {
    return {0x02, static_cast<std::uint8_t>(end),  0,
            0,    static_cast<std::uint8_t>(node), static_cast<std::uint8_t>(pod)};
}

std::uint32_t ifindex_in(const Netns& netns, const std::string& name) {
    std::uint32_t index = 0;
    netns.run([&] { index = ::if_nametoindex(name.c_str()); });
    if (index == 0) throw std::runtime_error("no device " + name);
    return index;
}

model::IpPrefix prefix(const std::string& text) {
    return *model::IpPrefix::parse(text);
}

}  // namespace

datapath::BpfPodsOptions FabricNode::options() const {
    datapath::BpfPodsOptions options;
    options.bpffs = place().directory + "/bpf";
    options.pin_directory = "fabric/node" + std::to_string(number_);
    options.max_ipcache = 4096;
    if (with_services_) {
        options.services_pin_directory = service_options().pin_directory;
        options.flow_timeouts = timeouts_;
        options.max_flows = max_flows_;
    }
    return options;
}

datapath::BpfOptions FabricNode::service_options() const {
    datapath::BpfOptions options = node_options();
    options.bpffs = place().directory + "/bpf";
    options.pin_directory = "fabric/services" + std::to_string(number_);
    options.cgroup = place().cgroup + "/fabric" + std::to_string(number_);
    options.sizes = {64, 512, 2048, 1U << 17};
    return options;
}

void FabricNode::enable_services(const datapath::FlowTimeouts& timeouts, std::uint32_t max_flows) {
    with_services_ = true;
    timeouts_ = timeouts;
    max_flows_ = max_flows;
}

datapath::ApplyStats FabricNode::upsert(std::vector<datapath::ServiceRow> rows) {
    std::vector<datapath::ServiceChange> changes;
    for (auto& row : rows) changes.push_back(datapath::ServiceChange::upsert(std::move(row)));
    auto stats = take(services_->apply(changes));
    if (!stats.rejected.empty()) {
        throw std::runtime_error(stats.rejected.front().error.message());
    }
    return stats;
}

void FabricNode::open() {
    if (with_services_) {
        std::filesystem::create_directory(service_options().cgroup);
        services_ = take(datapath::BpfDatapath::open(service_options()));
        services_->set_own_cluster(static_cast<std::uint32_t>(number_));
    }
    netns.run([&] { pods_ = take(datapath::BpfPods::open(options())); });
}

void FabricNode::teardown() {
    close();
    const auto gone = datapath::BpfPods::teardown(options());
    EXPECT_TRUE(gone) << gone.error().message();
    if (!with_services_) return;
    const auto services_gone = datapath::BpfDatapath::teardown(service_options());
    EXPECT_TRUE(services_gone) << services_gone.error().message();
    std::filesystem::remove(service_options().cgroup);
}

std::vector<datapath::PodEvent> FabricNode::events() {
    std::vector<datapath::PodEvent> found;
    pods_->read_events(10000, [&](const datapath::PodEvent& event) { found.push_back(event); });
    return found;
}

std::uint64_t FabricNode::dropped(datapath::DropReason reason) const {
    const auto drops = pods_->drops();
    const auto found = drops.find(reason);
    return found == drops.end() ? 0 : found->second.packets;
}

Fabric::Fabric(const FabricOptions& options)
    : tunnel_(options.tunnel), masquerade_(options.masquerade), options_(options) {
    hub.ip("link add br0 type bridge");
    hub.ip("link set br0 up");
    for (int n = 1; n <= 2; ++n) add_node(n);
    for (auto& node : nodes_) {
        for (int k = 0; k < 2; ++k) add_pod(*node, k);
    }
    connect_nodes();
    add_world();
}

void Fabric::add_world() {
    hub.ip("link add w type veth peer name eth0 netns " + std::to_string(world.holder()));
    hub.ip("link set w master br0 up");
    const datapath::Netns inside = take(datapath::Netns::of_process(world.holder()));
    take(datapath::set_sysctl(inside, "ipv6/conf/all/accept_dad", "0"));
    take(datapath::set_sysctl(inside, "ipv6/conf/default/accept_dad", "0"));
    take(datapath::set_sysctl(inside, "ipv6/conf/eth0/accept_dad", "0"));
    world.ip("link set lo up");
    world.ip("link set eth0 up");
    world.ip("addr add 10.250.0.100/24 dev eth0");
    world.ip("addr add fd25::100/64 dev eth0 nodad");
}

Fabric::~Fabric() {
    for (auto& node : nodes_) node->teardown();
}

void Fabric::add_node(int n) {
    nodes_.push_back(std::make_unique<FabricNode>(n));
    FabricNode& node = *nodes_.back();
    const datapath::Netns inside = take(datapath::Netns::of_process(node.netns.holder()));
    take(datapath::set_sysctl(inside, "ipv4/ip_forward", "1"));
    take(datapath::set_sysctl(inside, "ipv6/conf/all/forwarding", "1"));
    for (const char* scope : {"all", "default"}) {
        take(datapath::set_sysctl(inside, "ipv4/conf/" + std::string(scope) + "/rp_filter", "0"));
        take(datapath::set_sysctl(inside, "ipv6/conf/" + std::string(scope) + "/accept_dad", "0"));
    }
    const std::string port = "p" + std::to_string(n);
    hub.ip("link add " + port + " type veth peer name eth0 netns " +
           std::to_string(node.netns.holder()));
    hub.ip("link set " + port + " master br0 up");
    node.netns.ip("link set lo up");
    node.netns.ip("link set eth0 up");
    node.netns.ip("addr add " + node.ip4() + "/24 dev eth0");
    node.netns.ip("addr add " + node.ip6() + "/64 dev eth0 nodad");
    if (options_.services) node.enable_services(options_.timeouts, options_.max_flows);
    node.open();
    datapath::PodsSettings settings;
    settings.tunnel = tunnel_;
    settings.masquerade = masquerade_;
    settings.trace = true;
    settings.device_ifindex = ifindex_in(node.netns, "eth0");
    settings.node4 = address(node.ip4());
    settings.node6 = address(node.ip6());
    settings.router4 = address(node.pod4(1));
    settings.router6 = address(node.pod6(1));
    if (tunnel_) {
        auto links = take(datapath::Rtnetlink::open(inside));
        take(links.add_overlay({"overlay", "vxlan", 8472, kOverlayMtu}));
        take(links.set_up("overlay"));
        settings.overlay_ifindex = ifindex_in(node.netns, "overlay");
        node.netns.ip("addr add " + node.pod4(1) + "/32 dev overlay");
        node.netns.ip("addr add " + node.pod6(1) + "/128 dev overlay nodad");
    }
    node.netns.run([&] {
        take(node.pods().configure(settings));
        take(node.pods().attach(settings.device_ifindex, datapath::DeviceRole::kDevice));
        if (tunnel_) {
            take(node.pods().attach(settings.overlay_ifindex, datapath::DeviceRole::kOverlay));
        }
    });
}

void Fabric::add_pod(FabricNode& node, int k) {
    node.all.push_back(std::make_unique<FabricPod>());
    FabricPod& pod = *node.all.back();
    pod.ip4 = node.pod4(10 + k);
    pod.ip6 = node.pod6(10 + k);
    pod.identity =
        (static_cast<std::uint32_t>(node.number()) << 16) + 100 + static_cast<std::uint32_t>(k);
    pod.id = static_cast<datapath::EndpointId>(k + 1);
    const std::string device = "lxc" + std::to_string(k);
    const auto inner = mac(node.number(), k, 0), outer = mac(node.number(), k, 1);
    node.netns.ip("link add " + device + " address " + datapath::to_string(outer) +
                  " type veth peer name eth0 address " + datapath::to_string(inner) + " netns " +
                  std::to_string(pod.netns.holder()));
    node.netns.ip("link set " + device + " mtu " + std::to_string(kOverlayMtu) + " up");
    const std::string mac_text = datapath::to_string(outer);
    pod.netns.ip("link set lo up");
    pod.netns.ip("link set eth0 mtu " + std::to_string(kOverlayMtu) + " up");
    pod.netns.ip("addr add " + pod.ip4 + "/32 dev eth0");
    pod.netns.ip("addr add " + pod.ip6 + "/128 dev eth0 nodad");
    for (const char* gateway : {"169.254.1.1", "fe80::1"}) {
        pod.netns.ip(std::string("neigh add ") + gateway + " lladdr " + mac_text +
                     " dev eth0 nud permanent");
    }
    pod.netns.ip("route add default via 169.254.1.1 dev eth0 onlink");
    pod.netns.ip("-6 route add default via fe80::1 dev eth0 onlink");
    for (const std::string& ip : {pod.ip4, pod.ip6}) {
        node.netns.ip("route add " + ip + " dev " + device);
        node.netns.ip("neigh add " + ip + " lladdr " + datapath::to_string(inner) + " dev " +
                      device + " nud permanent");
        pod.endpoints.push_back(
            {address(ip), ifindex_in(node.netns, device), pod.identity, inner, outer, pod.id});
    }
    node.netns.run([&] {
        for (const auto& endpoint : pod.endpoints) take(node.pods().upsert_endpoint(endpoint));
        take(node.pods().attach(pod.endpoints.front().ifindex, datapath::DeviceRole::kPod));
    });
}

datapath::PodsChanges Fabric::everything() const {
    datapath::PodsChanges changes;
    for (const auto& node : nodes_) {
        const auto cluster = static_cast<std::uint32_t>(node->number());
        const auto tunnel = address(node->ip4());
        for (const std::string& ip : {node->ip4(), node->ip6()}) {
            changes.nodes.push_back({address(ip), cluster});
            datapath::IpcacheEntry entry;
            entry.prefix = prefix(ip);
            entry.identity = 6;
            entry.cluster_id = cluster;
            entry.is_node = true;
            changes.upserts.push_back(entry);
        }
        for (const std::string& cidr : {node->cidr4(), node->cidr6()}) {
            datapath::IpcacheEntry entry;
            entry.prefix = prefix(cidr);
            entry.identity = 2;
            entry.cluster_id = cluster;
            entry.tunnel = tunnel;
            entry.is_cidr = true;
            changes.upserts.push_back(entry);
        }
        for (const auto& pod : node->all) {
            for (const std::string& ip : {pod->ip4, pod->ip6}) {
                datapath::IpcacheEntry entry;
                entry.prefix = prefix(ip);
                entry.identity = pod->identity;
                entry.cluster_id = cluster;
                entry.tunnel = tunnel;
                changes.upserts.push_back(entry);
            }
        }
    }
    return changes;
}

void Fabric::connect_nodes() {
    for (auto& node : nodes_) {
        for (const auto& other : nodes_) {
            if (other == node) continue;
            if (tunnel_) {
                node->netns.ip("route add " + other->cidr4() + " dev overlay src " + node->pod4(1));
                node->netns.ip("-6 route add " + other->cidr6() + " dev overlay src " +
                               node->pod6(1));
            } else {
                node->netns.ip("route add " + other->cidr4() + " via " + other->ip4());
                node->netns.ip("-6 route add " + other->cidr6() + " via " + other->ip6());
            }
        }
        take(node->pods().apply(everything()));
    }
}

}  // namespace mesh::test
