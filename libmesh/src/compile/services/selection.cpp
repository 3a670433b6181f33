#include "compile/services/selection.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

namespace mesh::compile {
namespace {

using model::Affinity;
using model::BackendState;

bool is_active(const Candidate& c) {
    return c.row.state == BackendState::kActive && c.row.weight > 0 && !c.barred;
}
bool is_terminating(const Candidate& c) {
    return c.row.state == BackendState::kTerminating && c.row.weight > 0 && !c.barred;
}
bool is_healthy(const Candidate& c) {
    return is_active(c) || is_terminating(c);
}

Reason reason_of_state(const Candidate& c) {
    if (c.barred) return *c.barred;
    if (is_active(c)) return Reason::kActive;
    if (is_terminating(c)) return Reason::kTerminating;
    return c.row.state == BackendState::kQuarantined ? Reason::kQuarantined : Reason::kMaintenance;
}

void bar_clusters(std::vector<Candidate>& candidates, std::span<const ClusterSteering> clusters) {
    for (Candidate& c : candidates) {
        const ClusterSteering& cluster = clusters[c.rank];
        if (cluster.closed) {
            c.barred = Reason::kStaleRemote;
        } else if (cluster.order == ClusterSteering::kNotNamed) {
            c.barred = Reason::kNotInOrder;
        }
    }
}

void bar_unhealthy(std::vector<Candidate>& candidates) {
    for (Candidate& c : candidates) {
        if (!c.barred) c.barred = c.unhealthy;
    }
}

/// Where all that could be used is unhealthy, the probes are more likely to be wrong than all of
/// them dead, and refusing helps nobody: unhealthy ones are used (Envoy's panic, at 100%).
void use_unhealthy_if_all_are(std::vector<Candidate>& candidates) {
    const auto usable = [](const Candidate& c) { return c.row.programmed && is_healthy(c); };
    if (std::ranges::any_of(candidates, usable)) return;
    for (Candidate& c : candidates) {
        if (!c.row.programmed || !c.unhealthy || c.barred != c.unhealthy) continue;
        c.barred.reset();
        c.row.reason = is_active(c) ? Reason::kAllUnhealthy : reason_of_state(c);
    }
}

/// Brings equal address and port together, the preferred one first; drops a cluster's own doubles
/// and marks what another cluster goes before.
void settle_doubles(std::vector<Candidate>& candidates) {
    std::ranges::sort(candidates, {}, [](const Candidate& c) {
        return std::tuple(c.row.address, c.row.port, c.barred.has_value(), c.rank, c.row.state,
                          -int{c.row.weight});
    });
    const auto same = [](const Candidate& a, const Candidate& b) {
        return a.row.address == b.row.address && a.row.port == b.row.port;
    };
    const auto own_double = [&](const Candidate& a, const Candidate& b) {
        return same(a, b) && a.rank == b.rank;
    };
    candidates.erase(std::unique(candidates.begin(), candidates.end(), own_double),
                     candidates.end());
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const bool shadowed = i > 0 && same(candidates[i - 1], candidates[i]);
        candidates[i].row.programmed = !shadowed;
        candidates[i].row.reason = shadowed ? Reason::kShadowed : reason_of_state(candidates[i]);
    }
}

void leave_out(Candidate& c, Reason reason) {
    c.row.programmed = false;
    c.row.reason = reason;
}

void filter_by_node(std::vector<Candidate>& candidates, std::string_view node) {
    for (Candidate& c : candidates) {
        // A backend whose node is not known is not known to be here.
        if (c.row.programmed && (c.remote() || c.node != node)) leave_out(c, Reason::kOtherNode);
    }
}

void filter_by_zone(std::vector<Candidate>& candidates, std::string_view zone) {
    const auto fits = [&](const Candidate& c) {
        return std::ranges::find(c.for_zones, zone) != c.for_zones.end();
    };
    bool all_hinted = true;
    bool any_fits = false;
    for (const Candidate& c : candidates) {
        if (!c.row.programmed) continue;
        all_hinted = all_hinted && !c.for_zones.empty();
        any_fits = any_fits || (fits(c) && !c.unhealthy);
    }
    if (!all_hinted || !any_fits) return;
    for (Candidate& c : candidates) {
        if (c.row.programmed && !fits(c)) leave_out(c, Reason::kOtherZone);
    }
}

/// The table of services.md §4, over what the filters left.
/// @return whether connections spill over from local backends to remote ones
bool prefer_by_affinity(std::vector<Candidate>& candidates, const SelectionPolicy& policy) {
    const auto count = [&](auto&& test) {
        return std::ranges::count_if(
            candidates, [&](const Candidate& c) { return c.row.programmed && test(c); });
    };
    const auto remote_healthy = count([](const auto& c) { return c.remote() && is_healthy(c); });
    if (policy.affinity == Affinity::kLocal) {
        const auto local_active = count([](const auto& c) { return !c.remote() && is_active(c); });
        const auto remote_active = count([](const auto& c) { return c.remote() && is_active(c); });
        const bool spill = local_active > 0 && local_active < policy.min_local && remote_active > 0;
        const bool fall_back = local_active == 0 && remote_healthy > 0;
        for (Candidate& c : candidates) {
            if (!c.row.programmed || !c.remote()) continue;
            if (spill || fall_back) {
                if (is_active(c) && c.row.reason != Reason::kAllUnhealthy)
                    c.row.reason = spill ? Reason::kSpillover : Reason::kRemoteFallback;
            } else if (local_active > 0) {
                leave_out(c, Reason::kPrefersLocal);
            } else if (!c.barred) {
                leave_out(c, c.row.reason);  // what a barred one served before goes on
            }
        }
        return spill;
    }
    if (policy.affinity == Affinity::kRemote) {
        const auto local_healthy =
            count([](const auto& c) { return !c.remote() && is_healthy(c); });
        const bool fall_back = remote_healthy == 0 && local_healthy > 0;
        for (Candidate& c : candidates) {
            if (!c.row.programmed || c.remote()) continue;
            if (!fall_back) {
                leave_out(c, remote_healthy > 0 ? Reason::kPrefersRemote : c.row.reason);
            } else if (is_active(c) && c.row.reason != Reason::kAllUnhealthy) {
                c.row.reason = Reason::kLocalFallback;
            }
        }
    }
    return false;
}

/// Of the selected ones only those of the best clusters stay: of a weight above 0 if there are any,
/// and of these the first in the order.
/// @param spill local ones stay, whatever is said of their cluster
void keep_best_clusters(std::vector<Candidate>& candidates,
                        std::span<const ClusterSteering> clusters, bool spill) {
    const auto tier = [&](const Candidate& c) {
        return std::pair(clusters[c.rank].weight == 0, clusters[c.rank].order);
    };
    const auto competes = [&](const Candidate& c) {
        return c.row.selected && (c.remote() || !spill);
    };
    auto best = std::pair(true, ClusterSteering::kNotNamed);
    for (const Candidate& c : candidates) {
        if (competes(c)) best = std::min(best, tier(c));
    }
    for (Candidate& c : candidates) {
        if (!competes(c) || tier(c) == best) continue;
        c.row.selected = false;
        c.row.reason = tier(c).first != best.first ? Reason::kWeightZero : Reason::kLaterInOrder;
    }
}

void choose_for_new_connections(std::vector<Candidate>& candidates, const SelectionPolicy& policy,
                                bool spill) {
    const bool any_active = std::ranges::any_of(
        candidates, [](const Candidate& c) { return c.row.programmed && is_active(c); });
    for (Candidate& c : candidates) {
        c.row.selected = c.row.programmed && (any_active ? is_active(c) : is_terminating(c));
        if (c.row.selected && !any_active) c.row.reason = Reason::kLastTerminating;
    }
    if (!policy.clusters.empty()) keep_best_clusters(candidates, policy.clusters, spill);
}

}  // namespace

void select_backends(std::vector<Candidate>& candidates, const SelectionPolicy& policy) {
    if (!policy.clusters.empty()) bar_clusters(candidates, policy.clusters);
    bar_unhealthy(candidates);
    settle_doubles(candidates);
    if (policy.this_node_only) {
        // Zone hints have no say where one node is all there is.
        if (!policy.node.empty()) filter_by_node(candidates, policy.node);
    } else if (!policy.zone.empty()) {
        filter_by_zone(candidates, policy.zone);
    }
    use_unhealthy_if_all_are(candidates);
    const bool spill = prefer_by_affinity(candidates, policy);
    choose_for_new_connections(candidates, policy, spill);
    std::ranges::sort(candidates, {}, [](const Candidate& c) {
        return std::tuple(c.rank, c.row.address, c.row.port);
    });
}

}  // namespace mesh::compile
