// Pod forwarding without a kernel: the rows in ordinary memory, for tests and for agents that only
// look at the mesh.
#pragma once

#include <map>
#include <set>

#include "datapath/memory_policy.hpp"
#include "datapath/pods.hpp"

namespace mesh::datapath {

class MemoryPods final : public PodDatapath {
  public:
    /// @param max_ipcache entries that find room
    explicit MemoryPods(std::size_t max_ipcache = 1'000'000, std::size_t max_nodes = 65'536)
        : max_ipcache_(max_ipcache), max_nodes_(max_nodes) {}

    [[nodiscard]] Result<void> configure(const PodsSettings& settings) override;
    [[nodiscard]] PodsSettings settings() const override { return settings_; }
    [[nodiscard]] Result<PodsStats> apply(const PodsChanges& changes) override;
    [[nodiscard]] Result<void> upsert_endpoint(const Endpoint& endpoint) override;
    [[nodiscard]] Result<void> remove_endpoint(const model::IpAddress& address) override;
    [[nodiscard]] std::vector<Endpoint> endpoints() const override;
    [[nodiscard]] Result<void> set_non_masquerade(
        const std::vector<model::IpPrefix>& cidrs) override;
    [[nodiscard]] Result<void> configure_encryption(const PodsEncryption& encryption) override {
        encryption_ = encryption;
        return {};
    }
    [[nodiscard]] Result<void> set_encrypted(const model::IpAddress& node, bool encrypted) override;
    [[nodiscard]] std::vector<model::IpAddress> encrypted() const override {
        return {encrypted_.begin(), encrypted_.end()};
    }
    [[nodiscard]] Result<void> attach(std::uint32_t ifindex, DeviceRole role) override;
    [[nodiscard]] Result<PodsStats> finish_adopt_cluster(std::uint32_t) override { return {}; }
    [[nodiscard]] Result<PodsStats> finish_adopt() override { return {}; }
    [[nodiscard]] std::optional<IpcacheEntry> find(const model::IpPrefix& prefix) const override;
    [[nodiscard]] std::optional<IpcacheEntry> lookup(
        const model::IpAddress& address) const override;
    [[nodiscard]] std::vector<IpcacheEntry> adopted_local() const override { return {}; }
    [[nodiscard]] PodsOccupancy occupancy() const override;
    [[nodiscard]] Result<void> collect_flows(std::size_t, TimePoint) override { return {}; }
    [[nodiscard]] FlowStats flows() const override { return {}; }
    [[nodiscard]] std::map<DropReason, DropCount> drops() const override { return {}; }
    [[nodiscard]] MemoryPolicy& policy() override { return policy_; }

    [[nodiscard]] const std::vector<model::IpPrefix>& non_masquerade() const noexcept {
        return non_masquerade_;
    }
    [[nodiscard]] const PodsEncryption& encryption() const noexcept { return encryption_; }
    /// All rows, for tests.
    [[nodiscard]] const std::map<model::IpPrefix, IpcacheEntry>& ipcache() const noexcept {
        return ipcache_;
    }
    [[nodiscard]] const std::map<model::IpAddress, std::uint32_t>& nodes() const noexcept {
        return nodes_;
    }
    [[nodiscard]] const std::map<std::uint32_t, DeviceRole>& attached() const noexcept {
        return attached_;
    }

  private:
    std::size_t max_ipcache_, max_nodes_;
    PodsSettings settings_;
    std::map<model::IpPrefix, IpcacheEntry> ipcache_;
    std::map<model::IpAddress, std::uint32_t> nodes_;
    std::map<model::IpAddress, Endpoint> endpoints_;
    std::map<std::uint32_t, DeviceRole> attached_;
    std::vector<model::IpPrefix> non_masquerade_;
    PodsEncryption encryption_;
    std::set<model::IpAddress> encrypted_;
    MemoryPolicy policy_;
};

}  // namespace mesh::datapath
