// Policy enforcement in the kernel: writes the maps of bpf/policy.h, which the pods' programs read.
// An endpoint's rows are in a hash map of its own; another set of rows is another map, put in its
// place at once. A part of BpfPods, internal to this folder.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <mesh/error.hpp>

#include "bpf/layout.h"
#include "datapath/bpf/fd.hpp"
#include "datapath/policy.hpp"

namespace mesh::datapath {

/// The part of the programs' settings that is of policy.
struct PolicyFields {
    std::uint32_t flags = 0;  ///< MESH_POLICY_*
    std::uint32_t proxy_mark = 0;
    friend bool operator==(const PolicyFields&, const PolicyFields&) = default;
};

/// An endpoint's map. Named by its id: thousands of open files would be too many.
struct BpfPolicyTable {
    std::uint32_t map_id = 0;
    std::uint32_t max_entries = 0;
    EndpointEnforcement enforcement = EndpointEnforcement::kNone;
    std::uint64_t rows = 0;
    std::uint64_t redirects = 0;  ///< rows that lead to a proxy
    std::array<std::uint32_t, 4> lengths{};
    std::uint32_t version = 0;  ///< of mesh_policy_header
    std::uint32_t counted = 0;  ///< flags_of() when it was counted
};

class BpfPolicy final : public PolicyDatapath {
  public:
    /// @param policies the map of maps; borrowed
    /// @param max_rows of an endpoint
    /// @param fields as the programs have them
    /// @param write changes these
    BpfPolicy(int policies, std::uint32_t max_rows, const PolicyFields& fields,
              std::function<Result<void>(const PolicyFields&)> write);

    /// Looks at what an earlier process left. @complexity O(rows)
    [[nodiscard]] Result<void> adopt();

    [[nodiscard]] Result<void> configure(const PolicySettings& settings) override;
    [[nodiscard]] Result<void> replace(EndpointId endpoint, EndpointEnforcement enforcement,
                                       std::span<const PolicyRow> rows) override;
    [[nodiscard]] std::vector<PolicyRefusal> replace_all(
        std::span<const PolicyReplacement> all) override;
    [[nodiscard]] Result<void> change(EndpointId endpoint,
                                      std::span<const PolicyRowChange> changes) override;
    [[nodiscard]] Result<void> enforce(EndpointId endpoint,
                                       EndpointEnforcement enforcement) override;
    [[nodiscard]] Result<void> remove(EndpointId endpoint) override;
    [[nodiscard]] std::vector<PolicyOccupancy> endpoints() const override;
    [[nodiscard]] Result<std::vector<PolicyRow>> rows(EndpointId endpoint) const override;
    [[nodiscard]] std::uint64_t max_rows() const override { return max_rows_; }

  private:
    using Table = BpfPolicyTable;
    struct Made {
        EndpointId endpoint = 0;
        Table table;
        Fd map;
    };
    using Keys = std::vector<mesh_policy_key>;
    using Entries = std::vector<mesh_policy_entry>;

    [[nodiscard]] Result<Table*> find(EndpointId endpoint);
    [[nodiscard]] Result<void> adopt_table(EndpointId endpoint, std::uint32_t map_id);
    [[nodiscard]] Result<Made> make(EndpointId endpoint, EndpointEnforcement enforcement,
                                    std::span<const PolicyRow> rows) const;
    [[nodiscard]] Result<Made> make_map(EndpointId endpoint, Table table, const Keys& keys,
                                        const Entries& entries) const;
    [[nodiscard]] Result<void> install(const std::vector<Made>& made);
    [[nodiscard]] Result<void> grow(EndpointId endpoint, Table& table, Fd& map);
    [[nodiscard]] Result<void> upsert(EndpointId endpoint, Table& table, Fd& map,
                                      const PolicyRow& row);
    [[nodiscard]] Result<void> change_in_steps(EndpointId endpoint, Table& table, Fd& map,
                                               std::span<const PolicyRowChange> changes);
    [[nodiscard]] Result<void> erase(Table& table, const Fd& map, const PolicyKey& key);
    /// Raises the flags that `more` needs; without it lowers those that nothing needs any more.
    [[nodiscard]] Result<void> write_flags(const Table* more);
    [[nodiscard]] static std::uint32_t flags_of(const Table& table);
    /// In enforced_ and redirecting_, as it is now.
    void count_in(Table& table);

    int policies_;
    std::uint32_t max_rows_;
    PolicyFields fields_;
    std::function<Result<void>(const PolicyFields&)> write_;
    std::map<EndpointId, Table> tables_;
    std::uint64_t enforced_ = 0;     ///< tables that are
    std::uint64_t redirecting_ = 0;  ///< tables with redirects
};

}  // namespace mesh::datapath
