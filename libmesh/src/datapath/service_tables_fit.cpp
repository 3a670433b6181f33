// The part of ServiceTables that keeps remote clusters to their shares, and fits in what can be of
// a row that is too large: the own cluster's backends first, then those that serve already.
#include <algorithm>

#include "datapath/service_tables.hpp"

namespace mesh::datapath {

/// Leaves out the new backends of remote clusters that go beyond their shares, those with the
/// highest keys. What the tables hold already stays.
/// @return how many
std::uint64_t ServiceTables::trim_to_shares(Service& next, const Service* held) {
    const bool grows = std::ranges::any_of(next.backends, [&](const Held& h) {
        return h.id == 0 && shares_.is_limited(h.backend.cluster_id);
    });
    if (!grows) return 0;
    // Without this row, and with what stays of it, in which nothing is left out.
    if (held != nullptr) {
        for (const Held& h : held->backends) shares_.remove(h.backend.cluster_id);
    }
    std::vector<std::uint32_t> counted;
    counted.reserve(next.backends.size());
    const auto count = [&](const Held& h) {
        shares_.add(h.backend.cluster_id);
        counted.push_back(h.backend.cluster_id);
    };
    for (const Held& h : next.backends) {
        if (h.id != 0) count(h);
    }
    const auto left_out = std::erase_if(next.backends, [&](const Held& h) {
        if (h.id != 0) return false;
        if (shares_.is_limited(h.backend.cluster_id) && shares_.room(h.backend.cluster_id) == 0) {
            return true;
        }
        count(h);
        return false;
    });
    for (const std::uint32_t cluster : counted) shares_.remove(cluster);
    if (held != nullptr) {
        for (const Held& h : held->backends) shares_.add(h.backend.cluster_id);
    }
    return left_out;
}

/// Keeps the first so many backends of remote clusters that are new, and that are held.
/// @return how many were left out
std::uint64_t ServiceTables::trim_remotes(Service& next, std::size_t fresh, std::size_t held) {
    return std::erase_if(next.backends, [&](const Held& h) {
        if (!shares_.is_limited(h.backend.cluster_id)) return false;
        std::size_t& left = h.id == 0 ? fresh : held;
        if (left == 0) return true;
        --left;
        return false;
    });
}

Result<std::optional<ServiceTables::Plan>> ServiceTables::plan_what_fits(const ServiceRow& row,
                                                                         std::uint64_t& left_out) {
    MESH_TRY(Service whole, next_of(row));
    const Service* now = held_by(row.frontend);
    const std::uint64_t beyond_shares = trim_to_shares(whole, now);
    std::size_t fresh = 0;
    std::size_t held = 0;
    for (const Held& h : whole.backends) {
        if (shares_.is_limited(h.backend.cluster_id)) ++(h.id == 0 ? fresh : held);
    }
    // Half as many each time: what is left out may be more than need be, the attempts are few.
    for (bool first = true;; first = false) {
        if (!first && fresh == 0 && held == 0) break;
        if (!first) (fresh > 0 ? fresh : held) /= 2;
        Service next = whole;
        left_out = beyond_shares + trim_remotes(next, fresh, held);
        auto plan = plan_service(row.frontend, now, std::move(next));
        if (plan || plan.error().code() != Errc::kCapacity) return plan;
    }
    left_out = 0;
    return Error(Errc::kCapacity,
                 "no room in the tables, not even without the backends of remote clusters");
}

/// @param back undoes it
void ServiceTables::account(const Plan& plan, bool back) {
    const auto count = [&](const Service& service, bool add) {
        for (const Held& h : service.backends) {
            if (add) {
                shares_.add(h.backend.cluster_id);
            } else {
                shares_.remove(h.backend.cluster_id);
            }
        }
    };
    // Additions first: no count goes below zero on the way.
    if (const Service* held = held_by(plan.frontend); !back) {
        count(plan.next, true);
        if (held != nullptr) count(*held, false);
    } else {
        if (held != nullptr) count(*held, true);
        count(plan.next, false);
    }
}

}  // namespace mesh::datapath
