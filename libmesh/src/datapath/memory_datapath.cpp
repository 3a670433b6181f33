#include "datapath/memory_datapath.hpp"

#include <fmt/format.h>

#include <cstring>

#include "datapath/memory_storage.hpp"
#include "datapath/service_tables.hpp"

namespace mesh::datapath {

struct MemoryDatapath::State {
    explicit State(std::shared_ptr<MemoryStorage> shared)
        : storage(std::move(shared)), tables(*storage) {
        // Ordinary memory refuses nothing, so adoption cannot fail.
        if (auto found = tables.adopt()) adopted = *found;
    }
    std::shared_ptr<MemoryStorage> storage;
    ServiceTables tables;
    AdoptStats adopted;
};

MemoryDatapath::MemoryDatapath(TableSizes sizes)
    : state_(std::make_unique<State>(std::make_shared<MemoryStorage>(sizes))) {}
MemoryDatapath::MemoryDatapath(std::unique_ptr<State> state) : state_(std::move(state)) {}
MemoryDatapath::~MemoryDatapath() = default;

void MemoryDatapath::set_own_cluster(std::uint32_t cluster_id) {
    state_->tables.set_own_cluster(cluster_id);
}
Result<ApplyStats> MemoryDatapath::apply(std::span<const ServiceChange> changes) {
    return state_->tables.apply(changes);
}
AdoptStats MemoryDatapath::adopted() const {
    return state_->adopted;
}
Result<ApplyStats> MemoryDatapath::finish_adopt_cluster(std::uint32_t cluster_id) {
    return state_->tables.finish_adopt(cluster_id);
}
Result<ApplyStats> MemoryDatapath::finish_adopt() {
    return state_->tables.finish_adopt({});
}
std::vector<ServiceStatus> MemoryDatapath::dump() const {
    return state_->tables.dump();
}
std::optional<ServiceStatus> MemoryDatapath::find(const ServiceFrontend& frontend) const {
    return state_->tables.find(frontend);
}
Counters MemoryDatapath::counters() const {
    return state_->storage->counters();
}
Occupancy MemoryDatapath::occupancy() const {
    return state_->tables.occupancy();
}

Result<Backend> MemoryDatapath::connect(const ServiceFrontend& frontend, Rng& rng) {
    const auto id = state_->storage->connect(table_key(frontend), rng);
    const std::string where =
        fmt::format("{} port {}", frontend.address.to_string(), frontend.port);
    if (!id) return not_found(where + ": no such service");
    if (*id == 0) return unavailable(where + ": the service has no backend");
    const mesh_backend record = state_->storage->read_backend(*id);
    model::IpAddress::Bytes bytes{};
    std::memcpy(bytes.data(), record.address, bytes.size());
    return Backend{model::IpAddress(bytes), host_port(record.port),
                   frontend.proto,          record.cluster_id,
                   record.weight,           (record.flags & MESH_BACKEND_TERMINATING) != 0};
}

std::unique_ptr<MemoryDatapath> MemoryDatapath::restart() {
    return std::unique_ptr<MemoryDatapath>(
        new MemoryDatapath(std::make_unique<State>(state_->storage)));
}

}  // namespace mesh::datapath
