#include "datapath/bpf/bpf_datapath.hpp"

#include <fmt/format.h>

#include <atomic>
#include <utility>

#include "datapath/bpf/kernel_storage.hpp"
#include "datapath/bpf/pin_directory.hpp"
#include "datapath/bpf/programs.hpp"
#include "datapath/bpf/socket_sweep.hpp"
#include "datapath/service_tables.hpp"

namespace mesh::datapath {

struct BpfDatapath::State {
    State(PinDirectory directory, std::unique_ptr<Programs> loaded,
          std::unique_ptr<KernelStorage> opened, std::uint32_t maglev_size)
        : pins(std::move(directory)),
          programs(std::move(loaded)),
          storage(std::move(opened)),
          tables(*storage, maglev_size) {}
    PinDirectory pins;  // holds the lock
    std::unique_ptr<Programs> programs;
    std::unique_ptr<KernelStorage> storage;
    ServiceTables tables;
    AdoptStats adopted;
};

BpfDatapath::BpfDatapath(std::unique_ptr<State> state) : state_(std::move(state)) {}
BpfDatapath::~BpfDatapath() = default;

Result<std::unique_ptr<BpfDatapath>> BpfDatapath::open(const BpfOptions& options, Logger logger) {
    if (!is_maglev_size(options.maglev_size)) {
        return invalid_argument(fmt::format(
            "maglev_size {}: expected 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521 or "
            "131071",
            options.maglev_size));
    }
    MESH_CHECK(Programs::check_cgroup(options.cgroup));
    MESH_TRY(PinDirectory pins, PinDirectory::open(options.bpffs, options.pin_directory));
    const bool was_empty = pins.was_empty();
    auto opened = open_on(std::move(pins), options, logger);
    // What nobody will adopt must not stay in the kernel.
    if (!opened && was_empty) (void)teardown(options);
    return opened;
}

Result<std::unique_ptr<BpfDatapath>> BpfDatapath::open_on(PinDirectory pins,
                                                          const BpfOptions& options,
                                                          const Logger& logger) {
    MESH_TRY(auto programs, Programs::load(options, pins, logger));
    MESH_TRY(auto storage,
             KernelStorage::open(programs->map_fds(), programs->sizes(), programs->cpus()));
    const TableSizes sizes = programs->sizes();
    if (storage->meta().layout_version == 0) {
        storage->meta() = {0, programs->cpus(), sizes.services, sizes.backends, sizes.slots, 0};
        // Last: a process that dies here leaves maps that its successor makes anew.
        std::atomic_ref(storage->meta().layout_version)
            .store(MESH_LAYOUT_VERSION, std::memory_order_release);
    }
    auto state = std::make_unique<State>(std::move(pins), std::move(programs), std::move(storage),
                                         options.maglev_size);
    MESH_TRY(state->adopted, state->tables.adopt());
    MESH_CHECK(state->programs->attach(options.cgroup, state->pins));
    const AdoptStats& adopted = state->adopted;
    logger.info("{}: attached to {}, adopted {} services with {} backends, removed {} broken ones",
                state->pins.path(), options.cgroup, adopted.services, adopted.backends,
                adopted.repaired);
    return std::unique_ptr<BpfDatapath>(new BpfDatapath(std::move(state)));
}

Result<void> BpfDatapath::teardown(const BpfOptions& options) {
    auto pins = PinDirectory::open_existing(options.bpffs, options.pin_directory);
    if (!pins && pins.error().code() == Errc::kNotFound) return {};
    if (!pins) return pins.error();
    MESH_CHECK(pins->remove_pins());
    return pins->remove();
}

void BpfDatapath::set_own_cluster(std::uint32_t cluster_id) {
    state_->tables.set_own_cluster(cluster_id);
}
Result<ApplyStats> BpfDatapath::apply(std::span<const ServiceChange> changes) {
    return state_->tables.apply(changes);
}
bool BpfDatapath::made_tables() const {
    return state_->pins.was_empty();
}
AdoptStats BpfDatapath::adopted() const {
    return state_->adopted;
}
Result<ApplyStats> BpfDatapath::finish_adopt_cluster(std::uint32_t cluster_id) {
    return state_->tables.finish_adopt(cluster_id);
}
Result<ApplyStats> BpfDatapath::finish_adopt() {
    return state_->tables.finish_adopt({});
}
std::vector<ServiceStatus> BpfDatapath::dump() const {
    return state_->tables.dump();
}
std::optional<ServiceStatus> BpfDatapath::find(const ServiceFrontend& frontend) const {
    return state_->tables.find(frontend);
}
Counters BpfDatapath::counters() const {
    return state_->storage->counters();
}
Occupancy BpfDatapath::occupancy() const {
    return state_->tables.occupancy();
}

Result<SweepStats> BpfDatapath::end_stale_sockets(std::span<const std::string> netns_paths,
                                                  bool tcp_too) {
    return end_sockets(netns_paths, {.tcp = tcp_too, .udp = true},
                       [](const ServiceSocket& socket) { return !socket.live; });
}

Result<SweepStats> BpfDatapath::end_sockets(std::span<const std::string> netns_paths,
                                            SocketKinds kinds,
                                            const std::function<bool(const ServiceSocket&)>& ends) {
    return datapath::end_sockets(netns_paths, state_->programs->socket_map_fds(), kinds,
                                 [&](ServiceSocket& socket, std::uint64_t choice) {
                                     socket.live = state_->tables.is_live(
                                         MESH_CHOICE_BACKEND(choice), MESH_CHOICE_TAG(choice));
                                     return ends(socket);
                                 });
}

}  // namespace mesh::datapath
