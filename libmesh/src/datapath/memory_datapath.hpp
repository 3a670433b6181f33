// The datapath without a kernel: the planner over tables in ordinary memory. For tests, for
// machines without root or BPF, and as the reference of what the BPF programs choose.
#pragma once

#include <memory>

#include "datapath/datapath.hpp"
#include "runtime/clock.hpp"

namespace mesh::datapath {

/// Bounds of the tables; an apply beyond them rejects the row with kCapacity.
struct TableSizes {
    std::uint32_t services = 65536;
    std::uint32_t backends = 131072;  ///< summed over services
    std::uint32_t slots = 262144;     ///< at least twice the backends, so that ranges can move
    std::uint32_t maglev = 4U << 20;  ///< entries of Maglev tables, summed over frontends; even
    friend bool operator==(const TableSizes&, const TableSizes&) = default;
};

class MemoryDatapath final : public Datapath {
  public:
    explicit MemoryDatapath(TableSizes sizes = {});
    ~MemoryDatapath() override;

    void set_own_cluster(std::uint32_t cluster_id) override;
    [[nodiscard]] Result<ApplyStats> apply(std::span<const ServiceChange> changes) override;
    [[nodiscard]] AdoptStats adopted() const override;
    [[nodiscard]] Result<ApplyStats> finish_adopt_cluster(std::uint32_t cluster_id) override;
    [[nodiscard]] Result<ApplyStats> finish_adopt() override;
    [[nodiscard]] std::vector<ServiceStatus> dump() const override;
    [[nodiscard]] std::optional<ServiceStatus> find(const ServiceFrontend& frontend) const override;
    [[nodiscard]] Counters counters() const override;
    [[nodiscard]] Occupancy occupancy() const override;
    [[nodiscard]] std::string_view kind() const override { return "memory"; }

    /// Chooses a backend as connect() does in the kernel: weighted random, counted.
    /// @errors kNotFound: no such service; kUnavailable: it has no backend to give
    [[nodiscard]] Result<Backend> connect(const ServiceFrontend& frontend, Rng& rng);

    /// A second datapath over the same tables, as a restarted process finds them.
    /// @thread the first must not be used any more
    [[nodiscard]] std::unique_ptr<MemoryDatapath> restart();

  private:
    struct State;
    explicit MemoryDatapath(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh::datapath
