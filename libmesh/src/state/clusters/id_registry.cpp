#include "state/clusters/id_registry.hpp"

#include <fmt/format.h>

namespace mesh::state {

Result<void> IdRegistry::reserve(model::ClusterId id, std::string_view cluster) {
    if (const auto owner = claimed_from(id, cluster)) {
        return Error(Errc::kConflict,
                     fmt::format("cluster id {} belongs to remote cluster {}, as its "
                                 "configuration file says",
                                 model::number(id), *owner));
    }
    const auto [at, taken] = holders_.emplace(id, cluster);
    if (taken || at->second == cluster) return {};
    return Error(Errc::kConflict, fmt::format("cluster id {} is already used by remote cluster {}",
                                              model::number(id), at->second));
}

void IdRegistry::release(std::string_view cluster) {
    std::erase_if(holders_, [&](const auto& entry) { return entry.second == cluster; });
}

void IdRegistry::claim(std::string_view cluster, std::optional<model::ClusterId> id) {
    if (!id) {
        if (const auto at = claims_.find(cluster); at != claims_.end()) claims_.erase(at);
        return;
    }
    claims_.insert_or_assign(std::string(cluster), *id);
    const auto held = holders_.find(*id);
    if (held == holders_.end() || !claimed_from(*id, held->second)) return;
    const auto callback = callbacks_.find(held->second);
    if (callback != callbacks_.end()) callback->second();
}

std::optional<std::string> IdRegistry::claimed_from(model::ClusterId id,
                                                    std::string_view cluster) const {
    std::optional<std::string> owner;
    for (const auto& [claimer, claimed] : claims_) {
        if (claimed != id) continue;
        if (claimer == cluster) return std::nullopt;  // two claim it: the first to hold it does
        if (!owner) owner = claimer;
    }
    return owner;
}

void IdRegistry::on_claimed(std::string_view cluster, std::function<void()> callback) {
    callbacks_.insert_or_assign(std::string(cluster), std::move(callback));
}

}  // namespace mesh::state
