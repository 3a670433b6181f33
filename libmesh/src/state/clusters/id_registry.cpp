#include "state/clusters/id_registry.hpp"

#include <fmt/format.h>

namespace mesh::state {

Result<void> IdRegistry::reserve(model::ClusterId id, std::string_view cluster) {
    const auto [at, taken] = holders_.emplace(id, cluster);
    if (taken || at->second == cluster) return {};
    return Error(Errc::kConflict, fmt::format("cluster id {} is already used by remote cluster {}",
                                              model::number(id), at->second));
}

void IdRegistry::release(std::string_view cluster) {
    std::erase_if(holders_, [&](const auto& entry) { return entry.second == cluster; });
}

}  // namespace mesh::state
