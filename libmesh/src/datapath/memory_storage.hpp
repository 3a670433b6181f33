// The tables in ordinary memory, with the read path of bpf/socklb.bpf.c in C++. A grace period
// passes at once: readers run on the same thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "datapath/table_storage.hpp"
#include "runtime/clock.hpp"

namespace mesh::datapath {

class MemoryStorage : public TableStorage {
  public:
    explicit MemoryStorage(TableSizes sizes);

    [[nodiscard]] TableSizes sizes() const override { return sizes_; }
    [[nodiscard]] Result<std::vector<FrontendEntry>> read_frontends() override;
    [[nodiscard]] mesh_service read_service(std::uint32_t id) const override;
    [[nodiscard]] mesh_backend read_backend(std::uint32_t id) const override;
    [[nodiscard]] mesh_slot read_slot(std::uint32_t index) const override;
    [[nodiscard]] mesh_balance read_balance(std::uint32_t id) const override;
    [[nodiscard]] std::uint32_t used_backends() const override {
        return static_cast<std::uint32_t>(backends_.size());
    }
    void write_backend(std::uint32_t id, const mesh_backend& backend) override;
    void write_slots(std::uint32_t base, std::span<const mesh_slot> slots) override;
    void write_service(std::uint32_t id, const mesh_service& service) override;
    void write_maglev(std::uint32_t base, std::span<const std::uint32_t> backends) override;
    void publish_balance(std::uint32_t id, const mesh_balance& balance) override;
    void publish_window(std::uint32_t id, std::uint64_t window) override;
    void set_affinity(std::uint32_t id, std::uint32_t seconds) override;
    void set_backend_flags(std::uint32_t id, std::uint32_t flags) override;
    void set_backend_info(std::uint32_t id, std::uint32_t cluster_id,
                          std::uint16_t weight) override;
    [[nodiscard]] Result<void> insert_frontends(std::span<const FrontendEntry> entries) override;
    [[nodiscard]] Result<void> delete_frontends(std::span<const mesh_frontend_key> keys) override;
    [[nodiscard]] Result<void> wait_for_readers() override { return {}; }
    [[nodiscard]] std::uint64_t connects(std::uint32_t backend_id) const override;
    void clear_connects(std::uint32_t backend_id) override;
    [[nodiscard]] Counters counters() const override { return counters_; }

    /// The Maglev table of a service for clients outside of the cluster, of backend ids; empty if
    /// it has none.
    [[nodiscard]] std::vector<std::uint32_t> maglev_of(std::uint32_t service) const;

    /// Chooses as pick_backend() of the BPF program does; counts it.
    /// @return the backend's id; 0: the service has none to give; nullopt: no such service
    [[nodiscard]] std::optional<std::uint32_t> connect(const mesh_frontend_key& key, Rng& rng);

  private:
    TableSizes sizes_;
    std::map<std::string, FrontendEntry> frontends_;  // by the key's bytes
    std::vector<mesh_service> services_;
    std::vector<mesh_backend> backends_;
    std::vector<mesh_slot> slots_;
    std::vector<mesh_balance> balances_;
    std::vector<std::uint32_t> maglev_;
    std::vector<std::uint64_t> connects_;
    Counters counters_;
};

}  // namespace mesh::datapath
