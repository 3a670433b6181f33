#include "datapath/memory_storage.hpp"

#include <algorithm>

namespace mesh::datapath {
namespace {

std::string bytes_of(const mesh_frontend_key& key) {
    return {reinterpret_cast<const char*>(&key), sizeof key};
}

/// Grows a table to hold `index`: memory is used for what is stored, not for the bound.
template <class T>
T& entry(std::vector<T>& table, std::uint32_t index) {
    if (table.size() <= index) table.resize(index + std::size_t{1});
    return table[index];
}

template <class T>
T entry_or_zero(const std::vector<T>& table, std::uint32_t index) {
    return index < table.size() ? table[index] : T{};
}

}  // namespace

MemoryStorage::MemoryStorage(TableSizes sizes) : sizes_(sizes) {}

Result<std::vector<FrontendEntry>> MemoryStorage::read_frontends() {
    std::vector<FrontendEntry> all;
    for (const auto& [bytes, entry] : frontends_) all.push_back(entry);
    return all;
}

mesh_service MemoryStorage::read_service(std::uint32_t id) const {
    return entry_or_zero(services_, id);
}
mesh_backend MemoryStorage::read_backend(std::uint32_t id) const {
    return entry_or_zero(backends_, id);
}
mesh_slot MemoryStorage::read_slot(std::uint32_t index) const {
    return entry_or_zero(slots_, index);
}

mesh_balance MemoryStorage::read_balance(std::uint32_t id) const {
    return entry_or_zero(balances_, id);
}

void MemoryStorage::write_maglev(std::uint32_t base, std::span<const std::uint32_t> backends) {
    if (backends.empty()) return;
    (void)entry(maglev_, base + static_cast<std::uint32_t>(backends.size()) - 1);
    std::ranges::copy(backends, maglev_.begin() + base);
}

void MemoryStorage::publish_balance(std::uint32_t id, const mesh_balance& balance) {
    entry(balances_, id) = balance;
}

std::vector<std::uint32_t> MemoryStorage::maglev_of(std::uint32_t service) const {
    const mesh_balance balance = read_balance(service);
    const bool local = (balance.flags & MESH_BALANCE_LOCAL) != 0;
    const std::uint64_t window = local ? balance.local_window : balance.window;
    std::vector<std::uint32_t> backends;
    for (std::uint32_t i = 0; i < MESH_WINDOW_COUNT(window); ++i) {
        backends.push_back(entry_or_zero(maglev_, MESH_WINDOW_BASE(window) + i));
    }
    return backends;
}

void MemoryStorage::write_backend(std::uint32_t id, const mesh_backend& backend) {
    entry(backends_, id) = backend;
}

void MemoryStorage::write_slots(std::uint32_t base, std::span<const mesh_slot> slots) {
    if (slots.empty()) return;
    (void)entry(slots_, base + static_cast<std::uint32_t>(slots.size()) - 1);
    std::ranges::copy(slots, slots_.begin() + base);
}

void MemoryStorage::write_service(std::uint32_t id, const mesh_service& service) {
    entry(services_, id) = service;
}

void MemoryStorage::publish_window(std::uint32_t id, std::uint64_t window) {
    entry(services_, id).window = window;
}

void MemoryStorage::set_affinity(std::uint32_t id, std::uint32_t seconds) {
    entry(services_, id).affinity_seconds = seconds;
}

void MemoryStorage::set_backend_flags(std::uint32_t id, std::uint32_t flags) {
    entry(backends_, id).flags = flags;
}

void MemoryStorage::set_backend_info(std::uint32_t id, std::uint32_t cluster_id,
                                     std::uint16_t weight) {
    entry(backends_, id).cluster_id = cluster_id;
    entry(backends_, id).weight = weight;
}

Result<void> MemoryStorage::insert_frontends(std::span<const FrontendEntry> entries) {
    for (const FrontendEntry& entry : entries) frontends_[bytes_of(entry.key)] = entry;
    return {};
}

Result<void> MemoryStorage::delete_frontends(std::span<const mesh_frontend_key> keys) {
    for (const mesh_frontend_key& key : keys) frontends_.erase(bytes_of(key));
    return {};
}

std::uint64_t MemoryStorage::connects(std::uint32_t backend_id) const {
    return entry_or_zero(connects_, backend_id);
}

void MemoryStorage::clear_connects(std::uint32_t backend_id) {
    entry(connects_, backend_id) = 0;
}

std::optional<std::uint32_t> MemoryStorage::connect(const mesh_frontend_key& key, Rng& rng) {
    const auto at = frontends_.find(bytes_of(key));
    if (at == frontends_.end()) return std::nullopt;
    const std::uint64_t window = read_service(at->second.service).window;
    if (MESH_WINDOW_COUNT(window) == 0) {
        ++counters_.no_backend;
        return 0;
    }
    const auto index =
        MESH_WINDOW_BASE(window) + static_cast<std::uint32_t>(rng.below(MESH_WINDOW_COUNT(window)));
    const mesh_slot slot = read_slot(index);
    const bool own = (rng.next() >> 32) < slot.threshold;
    const std::uint32_t id = own ? slot.backend : slot.alias;
    ++entry(connects_, id);
    ++counters_.connects_by_cluster[read_backend(id).cluster_id];
    return id;
}

}  // namespace mesh::datapath
