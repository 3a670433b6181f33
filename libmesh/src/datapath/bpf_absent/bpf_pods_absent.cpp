// BpfPods of a library that was built with MESH_WITH_BPF=OFF: it cannot be opened, and says so.
#include "datapath/bpf/bpf_pods.hpp"

#include <cstdlib>

namespace mesh::datapath {

struct BpfPods::State {};

namespace {
Error built_without() {
    return unavailable(
        "this libmesh was built without BPF (MESH_WITH_BPF=OFF): expected the memory datapath");
}
}  // namespace

Result<std::unique_ptr<BpfPods>> BpfPods::open(const BpfPodsOptions&, Logger) {
    return built_without();
}
Result<void> BpfPods::teardown(const BpfPodsOptions&) {
    return {};
}

BpfPods::BpfPods(std::unique_ptr<State> state) : state_(std::move(state)) {}
BpfPods::~BpfPods() = default;
bool BpfPods::made_tables() const {
    return false;
}
Result<void> BpfPods::configure(const PodsSettings&) {
    return built_without();
}
PodsSettings BpfPods::settings() const {
    return {};
}
Result<PodsStats> BpfPods::apply(const PodsChanges&) {
    return built_without();
}
Result<void> BpfPods::upsert_endpoint(const Endpoint&) {
    return built_without();
}
Result<void> BpfPods::remove_endpoint(const model::IpAddress&) {
    return built_without();
}
std::vector<Endpoint> BpfPods::endpoints() const {
    return {};
}
Result<void> BpfPods::set_non_masquerade(const std::vector<model::IpPrefix>&) {
    return built_without();
}
Result<void> BpfPods::configure_encryption(const PodsEncryption&) {
    return built_without();
}
Result<void> BpfPods::set_encrypted(const model::IpAddress&, bool) {
    return built_without();
}
std::vector<model::IpAddress> BpfPods::encrypted() const {
    return {};
}
Result<void> BpfPods::attach(std::uint32_t, DeviceRole) {
    return built_without();
}
Result<PodsStats> BpfPods::finish_adopt_cluster(std::uint32_t) {
    return built_without();
}
Result<PodsStats> BpfPods::finish_adopt() {
    return built_without();
}
std::optional<IpcacheEntry> BpfPods::find(const model::IpPrefix&) const {
    return {};
}
std::optional<IpcacheEntry> BpfPods::lookup(const model::IpAddress&) const {
    return {};
}
std::vector<IpcacheEntry> BpfPods::adopted_local() const {
    return {};
}
PodsOccupancy BpfPods::occupancy() const {
    return {};
}
Result<void> BpfPods::collect_flows(std::size_t, TimePoint) {
    return built_without();
}
FlowStats BpfPods::flows() const {
    return {};
}
std::map<DropReason, DropCount> BpfPods::drops() const {
    return {};
}
PolicyDatapath& BpfPods::policy() {
    std::abort();  // there is no object of this class
}
int BpfPods::event_fd() const noexcept {
    return -1;
}
std::size_t BpfPods::read_events(std::size_t, const std::function<void(const PodEvent&)>&) {
    return 0;
}
std::string_view to_string(PodEvent::Point) noexcept {
    return "unknown";
}
std::string_view to_string(PodEvent::Verdict) noexcept {
    return "unknown";
}
std::string_view to_string(PodEvent::To) noexcept {
    return "unknown";
}

}  // namespace mesh::datapath
