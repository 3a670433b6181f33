#include "state/clusters/slots.hpp"

namespace mesh::state {

std::string slot_prefix(Slot slot, std::string_view cluster, model::Layout layout) {
    using model::Resource;
    switch (slot) {
        case Slot::kNodes:
            return model::resource_prefix(Resource::kNodes, cluster, layout);
        case Slot::kServices:
            return model::resource_prefix(Resource::kServices, cluster, layout);
        case Slot::kIps:
            return model::resource_prefix(Resource::kIps, cluster, layout);
        case Slot::kIdentities:
            return model::resource_prefix(Resource::kIdentities, cluster, layout);
        case Slot::kServiceExports:
            return model::resource_prefix(Resource::kServiceExports, cluster, layout);
        case Slot::kLocalServices:
            return std::string(model::kLocalServicesPrefix);
        case Slot::kLocalPolicies:
            return std::string(model::kLocalPoliciesPrefix);
        case Slot::kLocalIps:
            return std::string(model::kLocalIpsPrefix);
        case Slot::kHeartbeat:
            return std::string(model::kHeartbeatKey);
        case Slot::kCanaries:
            return model::synced_prefix(cluster);
    }
    return {};
}

Slot slot_of(model::Resource resource) noexcept {
    switch (resource) {
        case model::Resource::kNodes:
            return Slot::kNodes;
        case model::Resource::kServices:
            return Slot::kServices;
        case model::Resource::kIps:
            return Slot::kIps;
        case model::Resource::kIdentities:
            return Slot::kIdentities;
        case model::Resource::kServiceExports:
            return Slot::kServiceExports;
    }
    return Slot::kNodes;
}

}  // namespace mesh::state
