// No service load balancing at all: rows lead to nothing. For embedders that read the mesh.
#pragma once

#include "datapath/datapath.hpp"

namespace mesh::datapath {

class NoDatapath final : public Datapath {
  public:
    void set_own_cluster(std::uint32_t /*cluster_id*/) override {}
    [[nodiscard]] bool programs() const noexcept override { return false; }
    [[nodiscard]] Result<ApplyStats> apply(std::span<const ServiceChange> /*changes*/) override {
        return ApplyStats{};
    }
    [[nodiscard]] AdoptStats adopted() const override { return {}; }
    [[nodiscard]] Result<ApplyStats> finish_adopt_cluster(std::uint32_t /*cluster_id*/) override {
        return ApplyStats{};
    }
    [[nodiscard]] Result<ApplyStats> finish_adopt() override { return ApplyStats{}; }
    [[nodiscard]] std::vector<ServiceStatus> dump() const override { return {}; }
    [[nodiscard]] std::optional<ServiceStatus> find(
        const ServiceFrontend& /*frontend*/) const override {
        return std::nullopt;
    }
    [[nodiscard]] Counters counters() const override { return {}; }
    [[nodiscard]] Occupancy occupancy() const override { return {}; }
    [[nodiscard]] std::string_view kind() const override { return "none"; }
};

}  // namespace mesh::datapath
