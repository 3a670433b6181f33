#include "engine/pod_network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "engine/encryption.hpp"

namespace mesh::engine {

namespace {

using datapath::DeviceRole;
using model::IpAddress;
using model::IpPrefix;
using Routing = DatapathOptions::Routing;

constexpr std::uint16_t kVxlanPort = 8472;
constexpr std::uint16_t kGenevePort = 6081;
// Ethernet, IP, UDP and VXLAN (or Geneve without options) headers.
constexpr std::uint32_t kOverheadV4 = 14 + 20 + 8 + 8;
constexpr std::uint32_t kOverheadV6 = 14 + 40 + 8 + 8;

/// The first address of that type and family.
std::optional<IpAddress> address_of(const model::Node& node, std::string_view type, bool v4) {
    if (!node.addresses) return std::nullopt;
    for (const auto& candidate : *node.addresses) {
        if (candidate.type != type) continue;
        const auto address = IpAddress::parse(candidate.ip);
        if (address && address->is_v4() == v4) return *address;
    }
    return std::nullopt;
}

/// The node's own address out of its pod CIDR: the published one, else the first after the
/// network's own, which no pod gets.
std::optional<IpAddress> router_of(const model::Node& node, bool v4) {
    if (const auto published = address_of(node, "CiliumInternalIP", v4)) return published;
    const auto& cidr = v4 ? node.ipv4_alloc_cidr : node.ipv6_alloc_cidr;
    if (!cidr || cidr->is_host()) return std::nullopt;
    auto bytes = cidr->address().bytes();
    bytes.back() = static_cast<std::uint8_t>(bytes.back() | 1U);
    return IpAddress(bytes);
}

void keep_first(Result<void>& outcome, const Result<void>& next) {
    if (outcome && !next) outcome = next;
}

Result<void> unless(Errc code, Result<void> result) {
    if (!result && result.error().code() == code) return {};
    return result;
}

std::uint8_t full_length(const IpAddress& address) {
    return address.is_v4() ? 32 : 128;
}

}  // namespace

std::uint16_t overlay_port(const DatapathOptions& options) noexcept {
    if (options.overlay_port != 0) return options.overlay_port;
    return options.tunnel_protocol == "geneve" ? kGenevePort : kVxlanPort;
}

PodNetwork::PodNetwork(DatapathOptions options, state::ClusterKey own, std::string node,
                       std::uint32_t max_connected_clusters, datapath::Rtnetlink netlink,
                       datapath::PodDatapath& pods, Logger log)
    : options_(std::move(options)),
      own_(std::move(own)),
      node_(std::move(node)),
      netlink_(std::move(netlink)),
      pods_(pods),
      numbers_(pods.endpoints(), pods.policy().endpoints()),
      log_(std::move(log)),
      // Until the own node's record is known, what an earlier run found out holds.
      wanted_(pods.settings()) {
    for (const auto& endpoint : pods_.endpoints()) written_.emplace(endpoint.address, endpoint);
    wanted_.tunnel = options_.routing == Routing::kTunnel;
    wanted_.masquerade = options_.masquerade;
    wanted_.trace = false;
    wanted_.identity_shift = max_connected_clusters == 511 ? 15 : 16;
}

void PodNetwork::set_endpoints(const std::map<std::string, sources::config::EndpointFile>& files,
                               bool complete) {
    std::erase_if(endpoints_, [&](const auto& held) {
        const bool gone = !files.contains(held.first);
        if (gone) numbers_.release(held.first);
        return gone;
    });
    for (const auto& [id, file] : files) {
        Pod& pod = endpoints_[id];
        if (pod.file == file) continue;
        // Another link or address is another pod.
        if (pod.file.pod_mac != file.pod_mac || pod.file.ips != file.ips) numbers_.release(id);
        pod = {file, numbers_.acquire(id, file), 0, {}};
        if (pod.number.id == 0) log_.error("endpoint {}: no number is free for its policy", id);
    }
    complete_ = complete;
}

Result<void> PodNetwork::refresh(const state::ClusterTables& tables) {
    Result<void> outcome = refresh_settings(tables);
    keep_first(outcome, refresh_endpoints(tables));
    return outcome;
}

Result<void> PodNetwork::prepare_overlay(datapath::PodsSettings& wanted) {
    const std::string& name = options_.overlay_device;
    MESH_TRY(const datapath::Link device,
             netlink_.device_of(wanted.node4 ? *wanted.node4 : *wanted.node6));
    wanted.device_ifindex = device.index;
    if (options_.routing != Routing::kTunnel) return {};
    const std::uint32_t overhead =
        (wanted.node4 ? kOverheadV4 : kOverheadV6) +
        (options_.encryption.kind == "wireguard" ? kWireguardOverhead : 0U);
    const std::uint32_t mtu = device.mtu > overhead ? device.mtu - overhead : device.mtu;
    auto overlay = netlink_.link(name);
    if (!overlay && overlay.error().code() == Errc::kNotFound) {
        MESH_CHECK(
            netlink_.add_overlay({name, options_.tunnel_protocol, overlay_port(options_), mtu}));
        overlay = netlink_.link(name);
    }
    if (!overlay) return overlay.error();
    if (overlay->kind != options_.tunnel_protocol) {
        return Error(Errc::kConflict,
                     fmt::format("device {}: expected one of kind {}, found one of kind \"{}\"",
                                 name, options_.tunnel_protocol, overlay->kind));
    }
    if (overlay->mtu != mtu) MESH_CHECK(netlink_.set_mtu(name, mtu));
    MESH_CHECK(netlink_.set_up(name));
    MESH_TRY(const auto held, netlink_.addresses(name));
    for (const auto& router : {wanted.router4, wanted.router6}) {
        if (!router) continue;
        MESH_CHECK(
            unless(Errc::kConflict, netlink_.add_address(name, *router, full_length(*router))));
    }
    for (const auto& [address, length] : held) {
        const bool link_local = IpPrefix(*IpAddress::parse("fe80::"), 10).contains(address);
        if (address == wanted.router4 || address == wanted.router6 || link_local) continue;
        MESH_CHECK(netlink_.delete_address(name, address, length));
    }
    wanted.overlay_ifindex = overlay->index;
    wanted.overlay_port = overlay_port(options_);
    return {};
}

Result<void> PodNetwork::refresh_settings(const state::ClusterTables& tables) {
    const auto node = tables.find_node(own_.name, node_);
    if (node) {
        wanted_.node4 = address_of(*node, "InternalIP", true);
        wanted_.node6 = address_of(*node, "InternalIP", false);
        wanted_.router4 = router_of(*node, true);
        wanted_.router6 = router_of(*node, false);
    }
    if (configured_ && *configured_ == wanted_) return {};
    if (!wanted_.node4 && !wanted_.node6) return {};  // not known yet
    MESH_CHECK(prepare_overlay(wanted_));
    MESH_CHECK(pods_.configure(wanted_));
    MESH_CHECK(pods_.attach(wanted_.device_ifindex, DeviceRole::kDevice));
    if (wanted_.overlay_ifindex != 0 && wanted_.tunnel) {
        MESH_CHECK(pods_.attach(wanted_.overlay_ifindex, DeviceRole::kOverlay));
    }
    configured_ = wanted_;
    routes_changed_ = true;
    log_.info("pod network: {}, node {}, router {}",
              wanted_.tunnel ? options_.tunnel_protocol : "native routing",
              (wanted_.node4 ? wanted_.node4 : wanted_.node6)->to_string(),
              wanted_.router4   ? wanted_.router4->to_string()
              : wanted_.router6 ? wanted_.router6->to_string()
                                : "none");
    return {};
}

std::uint32_t PodNetwork::identity_of(const state::ClusterTables& tables, const IpAddress& address,
                                      const datapath::Endpoint* held) const {
    const auto pair = tables.find_ip(own_.name, IpPrefix(address, full_length(address)));
    if (pair) return model::number(pair->id);
    if (const auto local = tables.find_local_ip(address)) return model::number(local->pair.id);
    // Not known yet, or no longer: what it was holds.
    return held != nullptr ? held->identity : 0;
}

Result<void> PodNetwork::attach(Pod& pod) {
    MESH_TRY(const datapath::Link link, netlink_.link(pod.file.device));
    MESH_CHECK(pods_.attach(link.index, DeviceRole::kPod));
    pod.ifindex = link.index;
    return {};
}

Result<void> PodNetwork::refresh_endpoints(const state::ClusterTables& tables) {
    Result<void> outcome;
    std::set<IpAddress> wanted;
    for (auto& [id, pod] : endpoints_) {
        const bool fresh = pod.ifindex == 0;
        Result<void> done;
        auto link =
            fresh ? netlink_.link(pod.file.device) : Result<datapath::Link>(datapath::Link{});
        if (!link) done = link.error();
        for (const IpAddress& address : pod.file.ips) {
            wanted.insert(address);
            if (!done) continue;
            const auto held = written_.find(address);
            const bool same = held != written_.end() && held->second.pod_mac == pod.file.pod_mac;
            const datapath::Endpoint endpoint{
                address,
                fresh ? link->index : pod.ifindex,
                identity_of(tables, address, same ? &held->second : nullptr),
                pod.file.pod_mac,
                pod.file.node_mac,
                pod.number.id};
            if (held != written_.end() && held->second == endpoint) continue;
            done = pods_.upsert_endpoint(endpoint);
            if (done) written_.insert_or_assign(address, endpoint);
        }
        // Its addresses first: without them the program would take the pod for a spoofer.
        if (done && fresh) done = attach(pod);
        const std::string error = done ? std::string() : done.error().message();
        // No reason to restart the agent: the others are forwarded to, and it waits for room.
        const bool full = !done && done.error().code() == Errc::kCapacity;
        if (full && pod.error != error) log_.error("endpoint {}: {}", id, error);
        if (!done && !full) keep_first(outcome, done.error().with_prefix("endpoint " + id));
        pod.error = error;
    }
    if (!complete_) return outcome;
    for (auto at = written_.begin(); at != written_.end();) {
        if (wanted.contains(at->first)) {
            ++at;
            continue;
        }
        const auto removed = pods_.remove_endpoint(at->first);
        keep_first(outcome, removed);
        at = removed ? written_.erase(at) : std::next(at);
    }
    return outcome;
}

datapath::DesiredRoutes PodNetwork::routes(const datapath::DesiredRoutes& gateways) const {
    if (!wanted_.tunnel) return gateways;
    datapath::DesiredRoutes routes;
    // Without the device there is nothing to route to yet.
    if (!configured_ || configured_->overlay_ifindex == 0) return routes;
    for (const auto& [prefix, hop] : gateways) {
        routes[prefix] = {.via = std::nullopt,
                          .device = options_.overlay_device,
                          .onlink = false,
                          .source = prefix.is_v4() ? wanted_.router4 : wanted_.router6};
    }
    return routes;
}

std::vector<EndpointStatus> PodNetwork::endpoints() const {
    std::vector<EndpointStatus> all;
    for (const auto& [id, pod] : endpoints_) {
        const auto held = written_.find(pod.file.ips.front());
        all.push_back({.id = id,
                       .file = pod.file,
                       .identity = held == written_.end() ? 0 : held->second.identity,
                       .number = pod.number.id,
                       .attached = pod.ifindex != 0 && pod.error.empty(),
                       .error = pod.error});
    }
    return all;
}

std::vector<PolicyPod> PodNetwork::policy_pods() const {
    std::vector<PolicyPod> all;
    for (const auto& [id, pod] : endpoints_) {
        all.push_back({.id = pod.number.id,
                       .adopted = pod.number.adopted,
                       .name = id,
                       .namespace_ = pod.file.namespace_,
                       .pod = pod.file.pod,
                       .ips = pod.file.ips});
    }
    return all;
}

Result<void> PodNetwork::set_trace(bool on) {
    if (wanted_.trace == on) return {};
    wanted_.trace = on;
    if (!configured_) return {};
    MESH_CHECK(pods_.configure(wanted_));
    configured_ = wanted_;
    return {};
}

}  // namespace mesh::engine
