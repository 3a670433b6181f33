// BpfDatapath of a library that was built with MESH_WITH_BPF=OFF: it cannot be opened, and says so.
#include "datapath/bpf/bpf_datapath.hpp"

namespace mesh::datapath {

struct BpfDatapath::State {};

namespace {
Error built_without() {
    return unavailable(
        "this libmesh was built without BPF (MESH_WITH_BPF=OFF): expected the memory datapath");
}
}  // namespace

Result<std::unique_ptr<BpfDatapath>> BpfDatapath::open(const BpfOptions&, Logger) {
    return built_without();
}
Result<void> BpfDatapath::teardown(const BpfOptions&) {
    return {};
}

BpfDatapath::BpfDatapath(std::unique_ptr<State> state) : state_(std::move(state)) {}
BpfDatapath::~BpfDatapath() = default;
void BpfDatapath::set_own_cluster(std::uint32_t) {}
Result<ApplyStats> BpfDatapath::apply(std::span<const ServiceChange>) {
    return built_without();
}
bool BpfDatapath::made_tables() const {
    return false;
}
AdoptStats BpfDatapath::adopted() const {
    return {};
}
Result<ApplyStats> BpfDatapath::finish_adopt_cluster(std::uint32_t) {
    return built_without();
}
Result<ApplyStats> BpfDatapath::finish_adopt() {
    return built_without();
}
std::vector<ServiceStatus> BpfDatapath::dump() const {
    return {};
}
std::optional<ServiceStatus> BpfDatapath::find(const ServiceFrontend&) const {
    return {};
}
Counters BpfDatapath::counters() const {
    return {};
}
Occupancy BpfDatapath::occupancy() const {
    return {};
}
Result<SweepStats> BpfDatapath::end_sockets(std::span<const std::string>, SocketKinds,
                                            const std::function<bool(const ServiceSocket&)>&) {
    return built_without();
}
Result<SweepStats> BpfDatapath::end_stale_sockets(std::span<const std::string>, bool) {
    return built_without();
}

}  // namespace mesh::datapath
