// The adopting half of ServiceTables: from what an earlier process left in the tables, which may
// have died between any two writes, back to services, backends and free entries.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "datapath/service_tables.hpp"

namespace mesh::datapath {

Result<AdoptStats> ServiceTables::adopt() {
    MESH_TRY(const std::vector<FrontendEntry> entries, storage_.read_frontends());
    std::vector<mesh_frontend_key> senseless;
    std::unordered_map<std::uint32_t, ServiceFrontend> by_id;
    for (const FrontendEntry& entry : entries) {
        const auto frontend = frontend_of(entry.key);
        if (frontend && !by_id.contains(entry.service) && adopt_service(entry, *frontend)) {
            by_id.emplace(entry.service, *frontend);
        } else {
            senseless.push_back(entry.key);
        }
    }
    if (!senseless.empty()) MESH_CHECK(storage_.delete_frontends(senseless));
    adopt_backends(by_id);
    service_ids_.seal();
    backend_ids_.seal();
    // The earlier process may have freed entries a moment ago: programs may still hold them.
    MESH_CHECK(storage_.wait_for_readers());
    adopted_.services = services_.size();
    adopted_.repaired = senseless.size();
    return adopted_;
}

bool ServiceTables::adopt_service(const FrontendEntry& entry, const ServiceFrontend& frontend) {
    const TableSizes sizes = storage_.sizes();
    if (entry.service == 0 || entry.service >= sizes.services) return false;
    const mesh_service record = storage_.read_service(entry.service);
    if (!same_key(record.frontend, entry.key)) return false;
    const Range range{MESH_WINDOW_BASE(record.window), MESH_WINDOW_COUNT(record.window)};
    if (range.count > sizes.slots || range.base > sizes.slots - range.count) return false;
    for (std::uint32_t i = range.base; i < range.base + range.count; ++i) {
        const mesh_slot slot = storage_.read_slot(i);
        for (const std::uint32_t id : {slot.backend, slot.alias}) {
            if (id == 0 || id >= sizes.backends) return false;
            const mesh_backend backend = storage_.read_backend(id);
            if (backend.service != entry.service || (backend.flags & MESH_BACKEND_IN_USE) == 0) {
                return false;
            }
        }
    }
    Service service;
    service.id = entry.service;
    if (!adopt_balance(service)) return false;
    if (!slots_.adopt(range.base, range.count)) {
        release_maglev(service.balance, true);
        return false;
    }
    service_ids_.adopt(entry.service);
    service.affinity_seconds = record.affinity_seconds;
    service.confirmed = false;
    service.range = range;
    services_.emplace(frontend, std::move(service));
    unconfirmed_.insert(frontend);
    return true;
}

void ServiceTables::adopt_backends(
    const std::unordered_map<std::uint32_t, ServiceFrontend>& by_id) {
    std::unordered_set<std::uint32_t> in_slots;
    for (const auto& [frontend, service] : services_) {
        for (std::uint32_t i = 0; i < service.range.count; ++i) {
            in_slots.insert(storage_.read_slot(service.range.base + i).backend);
        }
    }
    const std::uint32_t used = storage_.used_backends();
    for (std::uint32_t id = 1; id < used; ++id) {
        const mesh_backend record = storage_.read_backend(id);
        if ((record.flags & MESH_BACKEND_IN_USE) == 0) continue;
        const auto owner = by_id.find(record.service);
        if (owner == by_id.end()) {
            storage_.set_backend_flags(id, 0);
            continue;
        }
        model::IpAddress::Bytes bytes{};
        std::memcpy(bytes.data(), record.address, bytes.size());
        Held held;
        held.backend = {model::IpAddress(bytes),
                        host_port(record.port),
                        owner->second.proto,
                        record.cluster_id,
                        record.weight,
                        (record.flags & MESH_BACKEND_TERMINATING) != 0,
                        (record.flags & MESH_BACKEND_HERE) != 0};
        held.id = id;
        held.confirmed = false;
        held.selectable = in_slots.contains(id);
        if (!held.selectable && (record.flags & MESH_BACKEND_SELECTABLE) != 0) {
            // Its way in or out of the slots was not finished. No new connections until a row
            // names it; the flows that it may have stay.
            held.backend.weight = 0;
            storage_.set_backend_info(id, record.cluster_id, 0);
            storage_.set_backend_flags(id, record.flags & ~MESH_BACKEND_SELECTABLE);
        }
        backend_ids_.adopt(id);
        services_.at(owner->second).backends.push_back(std::move(held));
    }
    for (auto& [frontend, service] : services_) {
        sort_adopted(service);
        check_adopted_balance(service);
    }
}

void ServiceTables::sort_adopted(Service& service) {
    const auto key = [](const Held& h) { return std::pair(h.backend.address, h.backend.port); };
    // Of two entries for one backend the one that serves comes first, and stays.
    std::ranges::stable_sort(service.backends, [&](const Held& a, const Held& b) {
        return std::pair(key(a), !a.selectable) < std::pair(key(b), !b.selectable);
    });
    std::vector<Held> kept;
    for (Held& h : service.backends) {
        if (!kept.empty() && key(kept.back()) == key(h) && !h.selectable) {
            storage_.set_backend_flags(h.id, 0);
            backend_ids_.release(h.id);
            continue;
        }
        kept.push_back(std::move(h));
    }
    service.backends = std::move(kept);
    for (const Held& h : service.backends) shares_.add(h.backend.cluster_id);
    adopted_.backends += service.backends.size();
}

}  // namespace mesh::datapath
