#include "datapath/bpf/pods_codec.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

namespace mesh::datapath {
namespace {

mesh_address optional_to_kernel(const std::optional<model::IpAddress>& address) {
    return address ? to_kernel(*address) : mesh_address{};
}

std::optional<model::IpAddress> optional_from_kernel(const mesh_address& address) {
    const model::IpAddress found = from_kernel(address);
    if (found == model::IpAddress()) return std::nullopt;
    return found;
}

std::uint32_t flag(bool on, std::uint32_t bit) {
    return on ? bit : 0U;
}

}  // namespace

mesh_address to_kernel(const model::IpAddress& address) {
    mesh_address result{};
    std::memcpy(result.word, address.bytes().data(), sizeof result.word);
    return result;
}

mesh_ipcache_key to_kernel(const model::IpPrefix& prefix) {
    return {prefix.length() + (prefix.is_v4() ? 96U : 0U), to_kernel(prefix.address())};
}

mesh_ipcache_entry to_kernel(const IpcacheEntry& entry) {
    mesh_ipcache_entry result{};
    result.identity = entry.identity;
    result.cluster_id = entry.cluster_id;
    result.tunnel = optional_to_kernel(entry.tunnel);
    result.encryption_key = entry.encryption_key;
    result.flags = static_cast<std::uint8_t>(flag(entry.is_node, MESH_IPCACHE_NODE) |
                                             flag(entry.is_cidr, MESH_IPCACHE_CIDR));
    return result;
}

mesh_endpoint to_kernel(const Endpoint& endpoint) {
    mesh_endpoint result{};
    result.ifindex = endpoint.ifindex;
    result.identity = endpoint.identity;
    std::ranges::copy(endpoint.pod_mac, result.pod_mac);
    std::ranges::copy(endpoint.node_mac, result.node_mac);
    result.id = endpoint.id;
    return result;
}

mesh_encryption to_kernel(const PodsEncryption& encryption) {
    mesh_encryption result{};
    result.flags = flag(encryption.strict, MESH_ENCRYPTION_STRICT);
    result.wireguard_ifindex = encryption.wireguard_ifindex;
    result.tunnel_port = htons(encryption.tunnel_port);
    return result;
}

mesh_pods_settings to_kernel(const PodsSettings& settings) {
    mesh_pods_settings result{};
    result.layout_version = MESH_PODS_LAYOUT_VERSION;
    result.flags = flag(settings.tunnel, MESH_PODS_TUNNEL) |
                   flag(settings.masquerade, MESH_PODS_MASQUERADE) |
                   flag(settings.trace, MESH_PODS_TRACE);
    result.overlay_ifindex = settings.overlay_ifindex;
    result.device_ifindex = settings.device_ifindex;
    result.node4 = optional_to_kernel(settings.node4);
    result.node6 = optional_to_kernel(settings.node6);
    result.router4 = optional_to_kernel(settings.router4);
    result.router6 = optional_to_kernel(settings.router6);
    result.identity_shift = settings.identity_shift;
    result.overlay_port = htons(settings.overlay_port);
    return result;
}

model::IpAddress from_kernel(const mesh_address& address) {
    model::IpAddress::Bytes bytes{};
    std::memcpy(bytes.data(), address.word, bytes.size());
    return model::IpAddress(bytes);
}

IpcacheEntry from_kernel(const model::IpPrefix& prefix, const mesh_ipcache_entry& entry) {
    return {.prefix = prefix,
            .identity = entry.identity,
            .cluster_id = entry.cluster_id,
            .tunnel = optional_from_kernel(entry.tunnel),
            .encryption_key = entry.encryption_key,
            .is_node = (entry.flags & MESH_IPCACHE_NODE) != 0,
            .is_cidr = (entry.flags & MESH_IPCACHE_CIDR) != 0};
}

Endpoint from_kernel(const model::IpAddress& address, const mesh_endpoint& endpoint) {
    Endpoint result;
    result.address = address;
    result.ifindex = endpoint.ifindex;
    result.identity = endpoint.identity;
    std::ranges::copy(endpoint.pod_mac, result.pod_mac.begin());
    std::ranges::copy(endpoint.node_mac, result.node_mac.begin());
    result.id = endpoint.id;
    return result;
}

PodsSettings from_kernel(const mesh_pods_settings& settings) {
    PodsSettings result;
    result.tunnel = (settings.flags & MESH_PODS_TUNNEL) != 0;
    result.masquerade = (settings.flags & MESH_PODS_MASQUERADE) != 0;
    result.trace = (settings.flags & MESH_PODS_TRACE) != 0;
    result.overlay_ifindex = settings.overlay_ifindex;
    result.device_ifindex = settings.device_ifindex;
    result.node4 = optional_from_kernel(settings.node4);
    result.node6 = optional_from_kernel(settings.node6);
    result.router4 = optional_from_kernel(settings.router4);
    result.router6 = optional_from_kernel(settings.router6);
    result.identity_shift = settings.identity_shift;
    result.overlay_port = ntohs(settings.overlay_port);
    return result;
}

PodEvent from_kernel(const mesh_event& event) {
    PodEvent result;
    result.kind = static_cast<PodEvent::Kind>(event.kind);
    result.point = static_cast<PodEvent::Point>(event.point);
    if (result.kind == PodEvent::Kind::kDrop) {
        result.reason = static_cast<DropReason>(event.verdict);
    } else if (result.kind == PodEvent::Kind::kPolicy) {
        result.verdict = static_cast<PodEvent::Verdict>(event.verdict);
        result.reason = static_cast<DropReason>(event.reason);
        result.endpoint = event.endpoint;
        result.egress = event.egress != 0;
        result.cookie = event.cookie;
    } else {
        result.to = static_cast<PodEvent::To>(event.verdict);
    }
    result.time_ns = event.time_ns;
    result.source = from_kernel(event.source);
    result.destination = from_kernel(event.destination);
    result.source_port = ntohs(event.source_port);
    result.destination_port = ntohs(event.destination_port);
    result.protocol = event.proto;
    result.source_identity = event.source_identity;
    result.destination_identity = event.destination_identity;
    result.ifindex = event.ifindex;
    result.length = event.length;
    return result;
}

std::string_view to_string(PodEvent::Point point) noexcept {
    switch (point) {
        case PodEvent::Point::kFromPod:
            return "from-pod";
        case PodEvent::Point::kFromOverlay:
            return "from-overlay";
        case PodEvent::Point::kToOverlay:
            return "to-overlay";
        case PodEvent::Point::kFromDevice:
            return "from-device";
        case PodEvent::Point::kToDevice:
            return "to-device";
        case PodEvent::Point::kToPod:
            return "to-pod";
    }
    return "unknown";
}

std::string_view to_string(PodEvent::To to) noexcept {
    switch (to) {
        case PodEvent::To::kPod:
            return "pod";
        case PodEvent::To::kOverlay:
            return "overlay";
        case PodEvent::To::kStack:
            return "stack";
        case PodEvent::To::kDevice:
            return "device";
    }
    return "unknown";
}

std::string_view to_string(PodEvent::Verdict verdict) noexcept {
    switch (verdict) {
        case PodEvent::Verdict::kAllowed:
            return "allowed";
        case PodEvent::Verdict::kDenied:
            return "denied";
        case PodEvent::Verdict::kRedirected:
            return "redirected";
        case PodEvent::Verdict::kAudited:
            return "audited";
    }
    return "unknown";
}

}  // namespace mesh::datapath
