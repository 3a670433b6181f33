// The writing half of ServiceTables. The order of the calls here is the promise of bpf/layout.h;
// tests/unit/datapath/service_tables_test.cpp stops after every single one of them.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "datapath/alias_table.hpp"
#include "datapath/service_tables.hpp"

namespace mesh::datapath {
namespace {

std::uint32_t flags_of(const Backend& backend, bool selectable) {
    return MESH_BACKEND_IN_USE | (selectable ? MESH_BACKEND_SELECTABLE : 0U) |
           (backend.terminating ? MESH_BACKEND_TERMINATING : 0U) |
           (backend.here ? MESH_BACKEND_HERE : 0U);
}

}  // namespace

Result<void> ServiceTables::write(std::vector<Plan>& plans,
                                  const std::vector<ServiceFrontend>& removals, ApplyStats& stats) {
    for (const Plan& plan : plans) write_invisible(plan, stats);
    MESH_CHECK(insert_new(plans));
    for (Plan& plan : plans) {
        if (!plan.is_new) publish(plan, stats);
        ++(plan.is_new ? stats.services_added : stats.services_changed);
        stats.backends_added += plan.fresh.size();
        retire(plan, stats);
        remember(plan);
    }
    if (removals.empty()) return {};
    std::vector<mesh_frontend_key> keys;
    keys.reserve(removals.size());
    for (const ServiceFrontend& frontend : removals) keys.push_back(table_key(frontend));
    if (auto deleted = storage_.delete_frontends(keys); !deleted) {
        // Some may be gone: put them back, so that tables and memory agree.
        std::vector<FrontendEntry> entries;
        for (const ServiceFrontend& frontend : removals) {
            entries.push_back({table_key(frontend), services_.at(frontend).id});
        }
        (void)storage_.insert_frontends(entries);
        return deleted;
    }
    stats.entries_written += keys.size();
    for (const ServiceFrontend& frontend : removals) {
        const auto at = services_.find(frontend);
        retire_service(at->second, stats);
        unconfirmed_.erase(frontend);
        services_.erase(at);
    }
    return {};
}

void ServiceTables::write_invisible(const Plan& plan, ApplyStats& stats) {
    const std::unordered_set<std::uint32_t> fresh(plan.fresh.begin(), plan.fresh.end());
    for (const Held& h : plan.next.backends) {
        if (!fresh.contains(h.id)) continue;
        mesh_backend record{};
        std::memcpy(record.address, h.backend.address.bytes().data(), sizeof record.address);
        record.port = table_key({h.backend.address, h.backend.port, h.backend.proto}).port;
        record.weight = h.backend.weight;
        record.flags = flags_of(h.backend, h.selectable);
        record.service = plan.next.id;
        record.tag = storage_.read_backend(h.id).tag + 1;
        record.cluster_id = h.backend.cluster_id;
        storage_.clear_connects(h.id);
        storage_.write_backend(h.id, record);
        ++stats.entries_written;
    }
    if (plan.new_range && plan.next.range.count > 0) {
        std::vector<std::uint16_t> weights;
        std::vector<std::uint32_t> ids;
        for (const Held& h : plan.next.backends) {
            if (!h.selectable) continue;
            weights.push_back(h.backend.weight);
            ids.push_back(h.id);
        }
        const std::vector<AliasRow> rows = make_alias_table(weights);
        std::vector<mesh_slot> slots(rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i) {
            slots[i] = {ids[i], ids[rows[i].alias], rows[i].threshold, 0};
        }
        storage_.write_slots(plan.next.range.base, slots);
        stats.entries_written += slots.size();
    }
    if (plan.new_balance) write_maglev(plan.next, stats);
    if (plan.is_new) {
        // Of a service that had the id before, there may be an old one.
        publish_balance(plan.next, stats);
        storage_.write_service(
            plan.next.id, {.frontend = table_key(plan.frontend),
                           .affinity_seconds = plan.next.affinity_seconds,
                           .window = MESH_WINDOW(plan.next.range.base, plan.next.range.count)});
        stats.entries_written += 2;
    }
}

Result<void> ServiceTables::insert_new(const std::vector<Plan>& plans) {
    std::vector<FrontendEntry> entries;
    for (const Plan& plan : plans) {
        if (plan.is_new) entries.push_back({table_key(plan.frontend), plan.next.id});
    }
    if (entries.empty()) return {};
    auto inserted = storage_.insert_frontends(entries);
    if (inserted) return {};
    std::vector<mesh_frontend_key> keys;
    for (const FrontendEntry& entry : entries) keys.push_back(entry.key);
    (void)storage_.delete_frontends(keys);
    for (const Plan& plan : plans) {
        // A client may have seen a part of them for a moment: no id is reused at once.
        for (const std::uint32_t id : plan.fresh) retire_backend(id);
        if (plan.new_range && plan.next.range.count > 0) {
            slots_.release(plan.next.range.base, plan.next.range.count);
        }
        if (plan.new_balance) release_maglev(plan.next.balance, false);
        if (plan.is_new) service_ids_.release(plan.next.id);
        account(plan, true);
    }
    return inserted;
}

void ServiceTables::publish(const Plan& plan, ApplyStats& stats) {
    const Service& held = services_.at(plan.frontend);
    std::unordered_map<std::uint32_t, const Held*> by_id;
    for (const Held& h : held.backends) by_id.emplace(h.id, &h);
    const auto each_kept = [&](const auto& visit) {
        for (const Held& next : plan.next.backends) {
            if (const auto before = by_id.find(next.id); before != by_id.end()) {
                visit(*before->second, next);
            }
        }
    };
    // Flags are a superset of the slots while the window moves, or an affinity could be lost.
    each_kept([&](const Held& before, const Held& next) {
        if (next.selectable && !before.selectable) {
            storage_.set_backend_flags(next.id, flags_of(next.backend, true));
            ++stats.entries_written;
        }
        if (next.backend.cluster_id != before.backend.cluster_id ||
            next.backend.weight != before.backend.weight) {
            storage_.set_backend_info(next.id, next.backend.cluster_id, next.backend.weight);
            ++stats.entries_written;
        }
    });
    if (plan.next.affinity_seconds != held.affinity_seconds) {
        storage_.set_affinity(plan.next.id, plan.next.affinity_seconds);
        ++stats.entries_written;
    }
    if (plan.new_range) {
        storage_.publish_window(plan.next.id,
                                MESH_WINDOW(plan.next.range.base, plan.next.range.count));
        ++stats.entries_written;
    }
    if (plan.new_balance) publish_balance(plan.next, stats);
    each_kept([&](const Held& before, const Held& next) {
        const std::uint32_t flags = flags_of(next.backend, next.selectable);
        const bool changed = flags_of(before.backend, before.selectable) != flags;
        if (changed && !(next.selectable && !before.selectable)) {
            storage_.set_backend_flags(next.id, flags);
            ++stats.entries_written;
        }
    });
}

void ServiceTables::retire(const Plan& plan, ApplyStats& stats) {
    for (const std::uint32_t id : plan.gone) retire_backend(id);
    stats.backends_removed += plan.gone.size();
    stats.entries_written += plan.gone.size();
    if (plan.new_range && plan.old_range.count > 0) {
        slots_.release(plan.old_range.base, plan.old_range.count);
    }
    if (plan.new_balance) release_maglev(plan.old_balance, false);
}

void ServiceTables::retire_service(const Service& service, ApplyStats& stats) {
    for (const Held& h : service.backends) {
        retire_backend(h.id);
        shares_.remove(h.backend.cluster_id);
    }
    if (service.range.count > 0) slots_.release(service.range.base, service.range.count);
    release_maglev(service.balance, false);
    service_ids_.release(service.id);
    ++stats.services_removed;
    stats.backends_removed += service.backends.size();
    stats.entries_written += service.backends.size();
}

void ServiceTables::retire_backend(std::uint32_t id) {
    storage_.set_backend_flags(id, 0);
    backend_ids_.release(id);
}

void ServiceTables::remember(Plan& plan) {
    const bool confirmed =
        plan.next.confirmed && std::ranges::all_of(plan.next.backends, &Held::confirmed);
    if (confirmed) {
        unconfirmed_.erase(plan.frontend);
    } else {
        unconfirmed_.insert(plan.frontend);
    }
    services_[plan.frontend] = std::move(plan.next);
}

}  // namespace mesh::datapath
