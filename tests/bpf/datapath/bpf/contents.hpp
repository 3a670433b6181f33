// What the tables hold, as text: to compare what two builds read.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "datapath/bpf/bpf_datapath.hpp"
#include "datapath/bpf/bpf_pods.hpp"

namespace mesh::test {

/// Settings, endpoints, and the ipcache entries of these prefixes.
[[nodiscard]] inline std::string contents_of(const datapath::BpfPods& pods,
                                             const std::vector<std::string>& prefixes) {
    const auto text = [](const std::optional<model::IpAddress>& address) {
        return address ? address->to_string() : std::string("-");
    };
    const datapath::PodsSettings set = pods.settings();
    std::string all =
        fmt::format("tunnel {} masquerade {} overlay {} device {} node {} {} router {}\n",
                    set.tunnel, set.masquerade, set.overlay_ifindex, set.device_ifindex,
                    text(set.node4), text(set.node6), text(set.router4));
    const datapath::PodsOccupancy occupancy = pods.occupancy();
    all += fmt::format("{} ipcache {} nodes\n", occupancy.ipcache, occupancy.nodes);
    for (const auto& endpoint : pods.endpoints()) {
        all += fmt::format("{} device {} identity {} mac {:02x}\n", endpoint.address.to_string(),
                           endpoint.ifindex, endpoint.identity, fmt::join(endpoint.pod_mac, ":"));
    }
    for (const std::string& prefix : prefixes) {
        const auto entry = pods.find(*model::IpPrefix::parse(prefix));
        if (!entry) {
            all += prefix + " absent\n";
            continue;
        }
        all += fmt::format("{} identity {} cluster {} tunnel {} node {} cidr {}\n", prefix,
                           entry->identity, entry->cluster_id, text(entry->tunnel), entry->is_node,
                           entry->is_cidr);
    }
    return all;
}

/// Services with their ids, affinity and backends.
[[nodiscard]] inline std::string contents_of(const datapath::BpfDatapath& services) {
    std::string all;
    for (const auto& service : services.dump()) {
        all += fmt::format("{} {} id {} affinity {}\n", service.frontend.address.to_string(),
                           service.frontend.port, service.id, service.affinity_seconds);
        for (const auto& held : service.backends) {
            all += fmt::format("  {} {} cluster {} weight {} selectable {}\n",
                               held.backend.address.to_string(), held.backend.port,
                               held.backend.cluster_id, held.backend.weight, held.selectable);
        }
    }
    return all;
}

}  // namespace mesh::test
