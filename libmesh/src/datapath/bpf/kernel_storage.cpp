#include "datapath/bpf/kernel_storage.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "datapath/bpf/libbpf_call.hpp"
#include "datapath/bpf/pin_directory.hpp"

namespace mesh::datapath {
namespace {

constexpr std::uint32_t kReadBatch = 4096;

std::size_t mapped_bytes(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
}

/// A store that readers in other CPUs see whole, after all stores before it.
template <class T>
void publish(T& where, T value) {
    std::atomic_ref<T>(where).store(value, std::memory_order_release);
}

template <class T>
T read(T& where) {
    return std::atomic_ref<T>(where).load(std::memory_order_relaxed);
}

}  // namespace

Result<void*> map_array(int fd, std::string_view name, std::size_t bytes) {
    void* memory = ::mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return system_error(fmt::format("cannot map {}", name), errno);
    return memory;
}

void unmap_array(void* memory, std::size_t bytes) noexcept {
    ::munmap(memory, mapped_bytes(bytes));
}

Result<std::unique_ptr<KernelStorage>> KernelStorage::open(const MapFds& fds, TableSizes sizes,
                                                           std::uint32_t cpus) {
    std::unique_ptr<KernelStorage> storage(new KernelStorage);
    storage->sizes_ = sizes;
    storage->cpus_ = cpus;
    storage->frontends_ = fds.frontends;
    MESH_TRY(storage->services_,
             MappedArray<mesh_service>::map(fds.services, "services", sizes.services));
    MESH_TRY(storage->slots_, MappedArray<mesh_slot>::map(fds.slots, "slots", sizes.slots));
    MESH_TRY(storage->backends_,
             MappedArray<mesh_backend>::map(fds.backends, "backends", sizes.backends));
    MESH_TRY(storage->balances_,
             MappedArray<mesh_balance>::map(fds.balances, "balances", sizes.services));
    // A map without an entry does not exist.
    MESH_TRY(storage->maglev_,
             MappedArray<mesh_maglev>::map(fds.maglev, "maglev", std::max(sizes.maglev / 2, 1U)));
    MESH_TRY(storage->counters_, MappedArray<mesh_counters>::map(fds.counters, "counters", cpus));
    MESH_TRY(storage->connects_,
             MappedArray<std::uint64_t>::map(fds.connects, "connects", sizes.backends));
    MESH_TRY(storage->meta_, MappedArray<mesh_meta>::map(fds.meta, "meta", 1));
    MESH_CHECK(storage->make_grace_map());
    return storage;
}

Result<void> KernelStorage::make_grace_map() {
    grace_inner_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "mesh_inner", 4, 8, 1, nullptr));
    if (!grace_inner_) return system_error("cannot make a map", errno);
    auto options = sized<bpf_map_create_opts>();
    options.inner_map_fd = static_cast<__u32>(grace_inner_.get());
    grace_outer_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "mesh_grace", 4, 4, 1, &options));
    if (!grace_outer_) return system_error("cannot make a map of maps", errno);
    return {};
}

Result<void> KernelStorage::wait_for_readers() {
    // The kernel answers the update of a map of maps only after all programs that could have seen
    // the old value have ended; it is the one wait for them that bpf() offers.
    const std::uint32_t zero = 0;
    const int inner = grace_inner_.get();
    if (bpf_map_update_elem(grace_outer_.get(), &zero, &inner, BPF_ANY) != 0) {
        return system_error("cannot wait for running BPF programs", errno);
    }
    return {};
}

Result<std::vector<FrontendEntry>> KernelStorage::read_frontends() {
    std::vector<FrontendEntry> all;
    std::vector<mesh_frontend_key> keys(kReadBatch);
    std::vector<std::uint32_t> values(kReadBatch);
    std::uint32_t position = 0;
    auto options = sized<bpf_map_batch_opts>();
    for (bool first = true, last = false; !last; first = false) {
        std::uint32_t count = kReadBatch;
        const int error = bpf_map_lookup_batch(frontends_, first ? nullptr : &position, &position,
                                               keys.data(), values.data(), &count, &options);
        last = error != 0;
        if (last && errno != ENOENT) return system_error("cannot read frontends", errno);
        for (std::uint32_t i = 0; i < count; ++i) all.push_back({keys[i], values[i]});
    }
    return all;
}

mesh_service KernelStorage::read_service(std::uint32_t id) const {
    return services_[id];
}
mesh_backend KernelStorage::read_backend(std::uint32_t id) const {
    return backends_[id];
}
mesh_slot KernelStorage::read_slot(std::uint32_t index) const {
    return slots_[index];
}

mesh_balance KernelStorage::read_balance(std::uint32_t id) const {
    return balances_[id];
}

void KernelStorage::write_maglev(std::uint32_t base, std::span<const std::uint32_t> backends) {
    for (std::uint32_t i = 0; i < backends.size(); ++i) {
        maglev_[(base + i) / 2].backend[(base + i) % 2] = backends[i];
    }
}

void KernelStorage::publish_balance(std::uint32_t id, const mesh_balance& balance) {
    mesh_balance& held = balances_[id];
    if ((balance.flags & MESH_BALANCE_LOCAL) == 0) publish(held.flags, balance.flags);
    publish(held.window, balance.window);
    publish(held.local_window, balance.local_window);
    publish(held.digest, balance.digest);
    publish(held.flags, balance.flags);
}

void KernelStorage::write_backend(std::uint32_t id, const mesh_backend& backend) {
    if (id >= meta_[0].used_backends) publish(meta_[0].used_backends, id + 1);
    // Programs may remember the id: the old tag must not be seen with the new address.
    publish(backends_[id].tag, backend.tag);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    mesh_backend without_flags = backend;
    without_flags.flags = 0;
    backends_[id] = without_flags;
    publish(backends_[id].flags, backend.flags);
}

void KernelStorage::write_slots(std::uint32_t base, std::span<const mesh_slot> slots) {
    for (std::size_t i = 0; i < slots.size(); ++i) slots_[base + i] = slots[i];
}

void KernelStorage::write_service(std::uint32_t id, const mesh_service& service) {
    services_[id] = service;
}

void KernelStorage::publish_window(std::uint32_t id, std::uint64_t window) {
    publish(services_[id].window, static_cast<__u64>(window));
}

void KernelStorage::set_affinity(std::uint32_t id, std::uint32_t seconds) {
    publish(services_[id].affinity_seconds, seconds);
}

void KernelStorage::set_backend_flags(std::uint32_t id, std::uint32_t flags) {
    publish(backends_[id].flags, flags);
}

void KernelStorage::set_backend_info(std::uint32_t id, std::uint32_t cluster_id,
                                     std::uint16_t weight) {
    publish(backends_[id].cluster_id, cluster_id);
    publish(backends_[id].weight, weight);
}

Result<void> KernelStorage::insert_frontends(std::span<const FrontendEntry> entries) {
    std::vector<mesh_frontend_key> keys;
    std::vector<std::uint32_t> values;
    keys.reserve(entries.size());
    values.reserve(entries.size());
    for (const FrontendEntry& entry : entries) {
        keys.push_back(entry.key);
        values.push_back(entry.service);
    }
    auto options = sized<bpf_map_batch_opts>();
    auto count = static_cast<std::uint32_t>(entries.size());
    std::atomic_thread_fence(std::memory_order_release);
    if (bpf_map_update_batch(frontends_, keys.data(), values.data(), &count, &options) != 0) {
        return system_error("cannot write frontends", errno);
    }
    return {};
}

Result<void> KernelStorage::delete_frontends(std::span<const mesh_frontend_key> keys) {
    auto options = sized<bpf_map_batch_opts>();
    for (std::size_t done = 0; done < keys.size();) {
        auto count = static_cast<std::uint32_t>(keys.size() - done);
        if (bpf_map_delete_batch(frontends_, keys.data() + done, &count, &options) == 0) break;
        if (errno != ENOENT) return system_error("cannot delete frontends", errno);
        done += count + std::size_t{1};  // an absent key ends a batch
    }
    return {};
}

std::uint64_t KernelStorage::connects(std::uint32_t backend_id) const {
    return read(connects_[backend_id]);
}

void KernelStorage::clear_connects(std::uint32_t backend_id) {
    connects_[backend_id] = 0;
}

std::uint32_t KernelStorage::used_backends() const {
    return std::min(meta_[0].used_backends, sizes_.backends);
}

Counters KernelStorage::counters() const {
    Counters sum;
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
        mesh_counters& row = counters_[cpu];
        for (std::uint32_t cluster = 0; cluster < MESH_MAX_CLUSTERS; ++cluster) {
            const std::uint64_t count = read(row.connects_by_cluster[cluster]);
            if (count > 0) sum.connects_by_cluster[cluster] += count;
        }
        sum.no_backend += read(row.no_backend);
        sum.affinity_kept += read(row.affinity_kept);
        sum.affinity_replaced += read(row.affinity_replaced);
        sum.flow_table_errors += read(row.flow_table_errors);
    }
    return sum;
}

}  // namespace mesh::datapath
