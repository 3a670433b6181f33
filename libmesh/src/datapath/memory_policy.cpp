#include "datapath/memory_policy.hpp"

#include <fmt/format.h>

namespace mesh::datapath {
namespace {

Error no_policy(EndpointId endpoint) {
    return Error(Errc::kNotFound, fmt::format("endpoint {} has no policy", endpoint));
}

}  // namespace

Result<MemoryPolicy::Map*> MemoryPolicy::find(EndpointId endpoint) {
    const auto found = maps_.find(endpoint);
    if (found == maps_.end()) return no_policy(endpoint);
    return &found->second;
}

Result<void> MemoryPolicy::configure(const PolicySettings& settings) {
    settings_ = settings;
    return {};
}

Result<void> MemoryPolicy::replace(EndpointId endpoint, EndpointEnforcement enforcement,
                                   std::span<const PolicyRow> rows) {
    Map map{enforcement, {}};
    for (const PolicyRow& row : rows) map.rows.insert_or_assign(row.key, row.verdict);
    if (map.rows.size() > max_rows_) {
        return Error(Errc::kCapacity, fmt::format("endpoint {}: {} rows of policy, room for {}",
                                                  endpoint, map.rows.size(), max_rows_));
    }
    maps_.insert_or_assign(endpoint, std::move(map));
    return {};
}

Result<void> MemoryPolicy::change(EndpointId endpoint, std::span<const PolicyRowChange> changes) {
    MESH_TRY(Map* const map, find(endpoint));
    for (const PolicyRowChange& change : changes) {
        if (!change.verdict) {
            map->rows.erase(change.key);
        } else if (map->rows.size() >= max_rows_ && !map->rows.contains(change.key)) {
            return Error(Errc::kCapacity, fmt::format("endpoint {}: more than {} rows of policy",
                                                      endpoint, max_rows_));
        } else {
            map->rows.insert_or_assign(change.key, *change.verdict);
        }
    }
    return {};
}

Result<void> MemoryPolicy::enforce(EndpointId endpoint, EndpointEnforcement enforcement) {
    MESH_TRY(Map* const map, find(endpoint));
    map->enforcement = enforcement;
    return {};
}

Result<void> MemoryPolicy::remove(EndpointId endpoint) {
    maps_.erase(endpoint);
    return {};
}

std::vector<PolicyOccupancy> MemoryPolicy::endpoints() const {
    std::vector<PolicyOccupancy> result;
    result.reserve(maps_.size());
    for (const auto& [endpoint, map] : maps_) {
        result.push_back({endpoint, map.enforcement, map.rows.size()});
    }
    return result;
}

Result<std::vector<PolicyRow>> MemoryPolicy::rows(EndpointId endpoint) const {
    const auto found = maps_.find(endpoint);
    if (found == maps_.end()) return no_policy(endpoint);
    std::vector<PolicyRow> result;
    result.reserve(found->second.rows.size());
    for (const auto& [key, verdict] : found->second.rows) result.push_back({key, verdict});
    return result;
}

}  // namespace mesh::datapath
