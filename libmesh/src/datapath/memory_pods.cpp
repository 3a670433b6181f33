#include "datapath/memory_pods.hpp"

#include <fmt/format.h>

namespace mesh::datapath {

Result<void> MemoryPods::configure(const PodsSettings& settings) {
    settings_ = settings;
    return {};
}

Result<PodsStats> MemoryPods::apply(const PodsChanges& changes) {
    PodsStats stats;
    for (const auto& prefix : changes.removed) stats.removed += ipcache_.erase(prefix);
    for (const auto& address : changes.removed_nodes) stats.removed += nodes_.erase(address);
    for (std::size_t i = 0; i < changes.upserts.size(); ++i) {
        const IpcacheEntry& entry = changes.upserts[i];
        if (ipcache_.size() >= max_ipcache_ && !ipcache_.contains(entry.prefix)) {
            stats.refused.push_back(i);
            if (stats.refusal.empty()) {
                stats.refusal = fmt::format("ipcache: no room for {}", entry.prefix.to_string());
            }
            continue;
        }
        ipcache_.insert_or_assign(entry.prefix, entry);
        ++stats.written;
    }
    for (std::size_t i = 0; i < changes.nodes.size(); ++i) {
        const PeerNode& node = changes.nodes[i];
        if (nodes_.size() >= max_nodes_ && !nodes_.contains(node.address)) {
            stats.refused.push_back(changes.upserts.size() + i);
            if (stats.refusal.empty()) {
                stats.refusal = fmt::format("nodes: no room for {}", node.address.to_string());
            }
            continue;
        }
        nodes_.insert_or_assign(node.address, node.cluster_id);
        ++stats.written;
    }
    return stats;
}

Result<void> MemoryPods::upsert_endpoint(const Endpoint& endpoint) {
    endpoints_.insert_or_assign(endpoint.address, endpoint);
    return {};
}

Result<void> MemoryPods::remove_endpoint(const model::IpAddress& address) {
    endpoints_.erase(address);
    return {};
}

std::vector<Endpoint> MemoryPods::endpoints() const {
    std::vector<Endpoint> all;
    for (const auto& [address, endpoint] : endpoints_) all.push_back(endpoint);
    return all;
}

Result<void> MemoryPods::set_non_masquerade(const std::vector<model::IpPrefix>& cidrs) {
    non_masquerade_ = cidrs;
    return {};
}

Result<void> MemoryPods::set_encrypted(const model::IpAddress& node, bool encrypted) {
    if (encrypted) {
        encrypted_.insert(node);
    } else {
        encrypted_.erase(node);
    }
    return {};
}

Result<void> MemoryPods::attach(std::uint32_t ifindex, DeviceRole role) {
    attached_.insert_or_assign(ifindex, role);
    return {};
}

std::optional<IpcacheEntry> MemoryPods::lookup(const model::IpAddress& address) const {
    std::optional<IpcacheEntry> longest;
    for (const auto& [prefix, entry] : ipcache_) {
        if (!prefix.contains(address)) continue;
        if (!longest || prefix.length() > longest->prefix.length()) longest = entry;
    }
    return longest;
}

std::optional<IpcacheEntry> MemoryPods::find(const model::IpPrefix& prefix) const {
    const auto found = ipcache_.find(prefix);
    if (found == ipcache_.end()) return std::nullopt;
    return found->second;
}

PodsOccupancy MemoryPods::occupancy() const {
    return {.ipcache = ipcache_.size(),
            .max_ipcache = max_ipcache_,
            .nodes = nodes_.size(),
            .max_nodes = max_nodes_,
            .endpoints = endpoints_.size(),
            .max_endpoints = 8192};
}

}  // namespace mesh::datapath
