// Policy enforcement without a kernel: keeps what it is given. For tests, and for agents that have
// no privileges.
#pragma once

#include <map>

#include "datapath/policy.hpp"

namespace mesh::datapath {

class MemoryPolicy : public PolicyDatapath {
  public:
    /// @param max_rows room for each endpoint
    explicit MemoryPolicy(std::uint64_t max_rows = 16384) : max_rows_(max_rows) {}

    [[nodiscard]] Result<void> configure(const PolicySettings& settings) override;
    [[nodiscard]] Result<void> replace(EndpointId endpoint, EndpointEnforcement enforcement,
                                       std::span<const PolicyRow> rows) override;
    [[nodiscard]] Result<void> change(EndpointId endpoint,
                                      std::span<const PolicyRowChange> changes) override;
    [[nodiscard]] Result<void> enforce(EndpointId endpoint,
                                       EndpointEnforcement enforcement) override;
    [[nodiscard]] Result<void> remove(EndpointId endpoint) override;
    [[nodiscard]] std::vector<PolicyOccupancy> endpoints() const override;
    [[nodiscard]] Result<std::vector<PolicyRow>> rows(EndpointId endpoint) const override;
    [[nodiscard]] std::uint64_t max_rows() const override { return max_rows_; }

    [[nodiscard]] const PolicySettings& settings() const noexcept { return settings_; }

  private:
    struct Map {
        EndpointEnforcement enforcement = EndpointEnforcement::kNone;
        std::map<PolicyKey, PolicyVerdict> rows;
    };
    [[nodiscard]] Result<Map*> find(EndpointId endpoint);

    std::uint64_t max_rows_;
    PolicySettings settings_;
    std::map<EndpointId, Map> maps_;
};

}  // namespace mesh::datapath
