#include "compile/services/selection.hpp"

#include <algorithm>
#include <tuple>

namespace mesh::compile {
namespace {

using model::Affinity;
using model::BackendState;

bool is_active(const Candidate& c) {
    return c.row.state == BackendState::kActive && c.row.weight > 0;
}
bool is_terminating(const Candidate& c) {
    return c.row.state == BackendState::kTerminating && c.row.weight > 0;
}
bool is_healthy(const Candidate& c) {
    return is_active(c) || is_terminating(c);
}

Reason reason_of_state(const Candidate& c) {
    if (is_active(c)) return Reason::kActive;
    if (is_terminating(c)) return Reason::kTerminating;
    return c.row.state == BackendState::kQuarantined ? Reason::kQuarantined : Reason::kMaintenance;
}

/// Brings equal address and port together, the preferred one first; drops a cluster's own doubles
/// and marks what another cluster goes before.
void settle_doubles(std::vector<Candidate>& candidates) {
    std::ranges::sort(candidates, {}, [](const Candidate& c) {
        return std::tuple(c.row.address, c.row.port, c.rank, c.row.state, -int{c.row.weight});
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
        any_fits = any_fits || fits(c);
    }
    if (!all_hinted || !any_fits) return;
    for (Candidate& c : candidates) {
        if (c.row.programmed && !fits(c)) leave_out(c, Reason::kOtherZone);
    }
}

/// The table of services.md §4, over what the filters left.
void prefer_by_affinity(std::vector<Candidate>& candidates, Affinity affinity) {
    const auto count = [&](auto&& test) {
        return std::ranges::count_if(
            candidates, [&](const Candidate& c) { return c.row.programmed && test(c); });
    };
    const auto remote_healthy = count([](const auto& c) { return c.remote() && is_healthy(c); });
    if (affinity == Affinity::kLocal) {
        const auto local_active = count([](const auto& c) { return !c.remote() && is_active(c); });
        const bool fall_back = local_active == 0 && remote_healthy > 0;
        for (Candidate& c : candidates) {
            if (!c.row.programmed || !c.remote()) continue;
            if (!fall_back) {
                leave_out(c, local_active > 0 ? Reason::kPrefersLocal : c.row.reason);
            } else if (is_active(c)) {
                c.row.reason = Reason::kRemoteFallback;
            }
        }
    } else if (affinity == Affinity::kRemote) {
        const auto local_healthy =
            count([](const auto& c) { return !c.remote() && is_healthy(c); });
        const bool fall_back = remote_healthy == 0 && local_healthy > 0;
        for (Candidate& c : candidates) {
            if (!c.row.programmed || c.remote()) continue;
            if (!fall_back) {
                leave_out(c, remote_healthy > 0 ? Reason::kPrefersRemote : c.row.reason);
            } else if (is_active(c)) {
                c.row.reason = Reason::kLocalFallback;
            }
        }
    }
}

void choose_for_new_connections(std::vector<Candidate>& candidates) {
    const bool any_active = std::ranges::any_of(
        candidates, [](const Candidate& c) { return c.row.programmed && is_active(c); });
    for (Candidate& c : candidates) {
        c.row.selected = c.row.programmed && (any_active ? is_active(c) : is_terminating(c));
        if (c.row.selected && !any_active) c.row.reason = Reason::kLastTerminating;
    }
}

}  // namespace

void select_backends(std::vector<Candidate>& candidates, const SelectionPolicy& policy) {
    settle_doubles(candidates);
    if (policy.this_node_only) {
        // Zone hints have no say where one node is all there is.
        if (!policy.node.empty()) filter_by_node(candidates, policy.node);
    } else if (!policy.zone.empty()) {
        filter_by_zone(candidates, policy.zone);
    }
    prefer_by_affinity(candidates, policy.affinity);
    choose_for_new_connections(candidates);
    std::ranges::sort(candidates, {}, [](const Candidate& c) {
        return std::tuple(c.rank, c.row.address, c.row.port);
    });
}

}  // namespace mesh::compile
