#include "engine/datapaths.hpp"

#include <string>
#include <vector>

#include "datapath/memory_datapath.hpp"
#include "datapath/netlink/netns.hpp"
#include "datapath/no_datapath.hpp"

namespace mesh::engine {
namespace {

datapath::BpfOptions service_options(const DatapathOptions& options) {
    datapath::BpfOptions to;
    to.bpffs = options.bpffs;
    to.pin_directory = options.pin_directory;
    to.cgroup = options.cgroup;
    if (options.maglev_table_size != 0) to.maglev_size = options.maglev_table_size;
    to.sizes.services = options.sizes.services;
    to.sizes.backends = options.sizes.backends;
    // So that ranges can move.
    to.sizes.slots = 2 * options.sizes.backends;
    return to;
}

datapath::BpfPodsOptions pods_options(const DatapathOptions& options) {
    datapath::BpfPodsOptions to;
    to.bpffs = options.bpffs;
    to.pin_directory = options.pin_directory + "_pods";
    to.services_pin_directory = options.pin_directory;
    if (options.max_service_flows != 0) to.max_flows = options.max_service_flows;
    to.max_ipcache = options.sizes.ipcache;
    to.max_nodes = options.sizes.nodes;
    to.max_endpoints = options.sizes.endpoints;
    to.max_nat = options.sizes.nat;
    to.max_policy_rows = options.sizes.policy;
    return to;
}

Result<void> open_into(Datapaths& all, const DatapathOptions& options, const Logger& log) {
    using Routing = DatapathOptions::Routing;
    if (options.kind == DatapathOptions::Kind::kBpf) {
        MESH_TRY(auto services, datapath::BpfDatapath::open(service_options(options), log));
        all.bpf = services.get();
        all.services = std::move(services);
        if (options.routing != Routing::kNone) {
            MESH_TRY(auto opened, datapath::BpfPods::open(pods_options(options), log));
            all.bpf_pods = opened.get();
            all.pods = std::move(opened);
            std::vector<model::IpPrefix> cidrs;
            for (const std::string& text : options.non_masquerade_cidrs) {
                auto cidr = model::IpPrefix::parse(text);
                if (!cidr) return cidr.error().with_prefix("non_masquerade_cidrs");
                cidrs.push_back(*cidr);
            }
            MESH_CHECK(all.pods->set_non_masquerade(cidrs));
        }
    } else if (options.kind == DatapathOptions::Kind::kMemory) {
        all.services = std::make_unique<datapath::MemoryDatapath>();
    } else {
        all.services = std::make_unique<datapath::NoDatapath>();
    }
    if (options.routing == Routing::kNone) return {};
    MESH_TRY(const auto here, datapath::Netns::current());
    MESH_TRY(all.routes, datapath::Rtnetlink::open(here));
    MESH_TRY(all.devices, datapath::Rtnetlink::open(here));
    return {};
}

}  // namespace

Result<Datapaths> open_datapaths(const DatapathOptions& options, const Logger& log) {
    Datapaths all;
    const auto opened = open_into(all, options, log);
    if (opened) return all;
    const bool services = all.bpf != nullptr && all.bpf->made_tables();
    const bool pods = all.bpf_pods != nullptr && all.bpf_pods->made_tables();
    all = {};
    if (services) (void)datapath::BpfDatapath::teardown(service_options(options));
    if (pods) (void)datapath::BpfPods::teardown(pods_options(options));
    return opened.error();
}

}  // namespace mesh::engine
