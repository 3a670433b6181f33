#include "compile/services/traffic.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mesh::compile {
namespace {

/// Weight of the backend that gets most; below the datapath's 65535, as rounding adds one.
constexpr double kLargestWeight = 60000;

/// The selected backends of one cluster.
struct Group {
    const ClusterSteering* cluster = nullptr;
    bool local = false;
    std::vector<BackendRow*> backends;
    std::uint64_t weights = 0;  ///< their sum
    double share = 0;           ///< relative to the other groups'
};

std::vector<Group> groups_of(FrontendRow& row, const ServiceTraffic& traffic) {
    std::vector<Group> groups;
    std::size_t rank = 0;
    for (BackendRow& backend : row.backends) {
        if (!backend.selected) continue;
        // Backends come in the order of ranks.
        while (traffic.clusters[rank].cluster != backend.cluster.name) ++rank;
        const ClusterSteering* cluster = &traffic.clusters[rank];
        if (groups.empty() || groups.back().cluster != cluster) {
            groups.push_back({.cluster = cluster, .local = rank == 0, .backends = {}});
        }
        groups.back().backends.push_back(&backend);
        groups.back().weights += backend.weight;
    }
    return groups;
}

void set_shares(std::vector<Group>& groups, const ServiceTraffic& traffic, bool spill) {
    double remote = 0;
    for (Group& group : groups) {
        // A cluster of weight 0 is only selected beside others of weight 0.
        const std::uint16_t weight =
            group.cluster->weight == 0 ? model::kDefaultClusterWeight : group.cluster->weight;
        group.share = traffic.weighted() ? weight : static_cast<double>(group.weights);
        if (!group.local) remote += group.share;
    }
    for (Group& group : groups) {
        if (spill) {
            const double wanted = traffic.min_local();
            const auto here = static_cast<double>(groups.front().backends.size());
            group.share = group.local ? here * remote : (wanted - here) * group.share;
        }
        group.share *= group.cluster->percent;
    }
}

/// Splits the group's units by the weights of its backends; what rounding leaves over goes to the
/// largest remainders, of equal ones to the first.
void split(Group& group, std::uint64_t units) {
    std::vector<std::pair<std::uint64_t, BackendRow*>> remainders;
    std::uint64_t left = units;
    for (BackendRow* backend : group.backends) {
        const std::uint64_t part = units * backend->weight;
        remainders.emplace_back(part % group.weights, backend);
        backend->weight = static_cast<std::uint16_t>(part / group.weights);
        left -= backend->weight;
    }
    std::ranges::stable_sort(remainders, std::greater<>(), [](const auto& r) { return r.first; });
    for (std::size_t i = 0; i < left; ++i) ++remainders[i].second->weight;
    for (BackendRow* backend : group.backends) {
        if (backend->weight > 0) continue;
        backend->selected = false;
        backend->reason = Reason::kShareTooSmall;
    }
}

}  // namespace

void spread_weights(FrontendRow& row, const ServiceTraffic& traffic) {
    std::vector<Group> groups = groups_of(row, traffic);
    if (groups.size() < 2) return;
    const bool spill = std::ranges::any_of(row.backends, [](const BackendRow& b) {
        return b.selected && b.reason == Reason::kSpillover;
    });
    const bool slow = std::ranges::any_of(
        groups, [](const Group& group) { return group.cluster->percent < 100; });
    if (!traffic.weighted() && !spill && !slow) return;
    set_shares(groups, traffic, spill);
    double largest = 0;
    for (const Group& group : groups) {
        for (const BackendRow* backend : group.backends) {
            largest = std::max(largest,
                               group.share * backend->weight / static_cast<double>(group.weights));
        }
    }
    for (Group& group : groups) {
        const auto units = std::llround(group.share * kLargestWeight / largest);
        split(group, static_cast<std::uint64_t>(std::max(units, 1LL)));
    }
}

}  // namespace mesh::compile
