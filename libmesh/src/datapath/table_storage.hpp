// Where the tables of bpf/layout.h live: in the kernel or in ordinary memory. The planner
// (service_tables.hpp) decides what is written and in which order; an implementation writes one
// thing per call, so that tests can stop, fail or look between any two writes.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <vector>

#include "bpf/layout.h"
#include "datapath/datapath.hpp"
#include "datapath/memory_datapath.hpp"

namespace mesh::datapath {

struct FrontendEntry {
    mesh_frontend_key key{};
    std::uint32_t service = 0;
};

/// @thread same object not concurrently; readers (BPF programs) run at any time
class TableStorage {
  public:
    virtual ~TableStorage() = default;

    /// Number of entries of each table, id 0 included.
    [[nodiscard]] virtual TableSizes sizes() const = 0;

    /// All entries of the frontend table, in no order. @errors kInternal
    [[nodiscard]] virtual Result<std::vector<FrontendEntry>> read_frontends() = 0;
    /// Ids are below sizes(); base + count too.
    [[nodiscard]] virtual mesh_service read_service(std::uint32_t id) const = 0;
    [[nodiscard]] virtual mesh_backend read_backend(std::uint32_t id) const = 0;
    [[nodiscard]] virtual mesh_slot read_slot(std::uint32_t index) const = 0;
    [[nodiscard]] virtual mesh_balance read_balance(std::uint32_t id) const = 0;
    /// No backend id from here on was ever written.
    [[nodiscard]] virtual std::uint32_t used_backends() const = 0;

    /// Writes what no reader can see yet.
    virtual void write_backend(std::uint32_t id, const mesh_backend& backend) = 0;
    virtual void write_slots(std::uint32_t base, std::span<const mesh_slot> slots) = 0;
    virtual void write_service(std::uint32_t id, const mesh_service& service) = 0;
    /// @param base even
    virtual void write_maglev(std::uint32_t base, std::span<const std::uint32_t> backends) = 0;

    /// Atomic changes of what readers see. publish_window orders all earlier writes before itself.
    virtual void publish_window(std::uint32_t id, std::uint64_t window) = 0;
    /// Each window at once; flags that need a window never before it.
    virtual void publish_balance(std::uint32_t id, const mesh_balance& balance) = 0;
    virtual void set_affinity(std::uint32_t id, std::uint32_t seconds) = 0;
    virtual void set_backend_flags(std::uint32_t id, std::uint32_t flags) = 0;
    /// The parts of a live backend that do not decide where a connection goes.
    virtual void set_backend_info(std::uint32_t id, std::uint32_t cluster_id,
                                  std::uint16_t weight) = 0;

    /// Orders all earlier writes before itself. On error some may have been inserted.
    [[nodiscard]] virtual Result<void> insert_frontends(std::span<const FrontendEntry> entries) = 0;
    /// Absent keys are no error. On error some may have been deleted.
    [[nodiscard]] virtual Result<void> delete_frontends(
        std::span<const mesh_frontend_key> keys) = 0;

    /// Returns when every reader that was active at the call has ended.
    [[nodiscard]] virtual Result<void> wait_for_readers() = 0;

    [[nodiscard]] virtual std::uint64_t connects(std::uint32_t backend_id) const = 0;
    virtual void clear_connects(std::uint32_t backend_id) = 0;
    [[nodiscard]] virtual Counters counters() const = 0;
};

/// The key of a frontend in the tables.
[[nodiscard]] mesh_frontend_key table_key(const ServiceFrontend& frontend) noexcept;
/// The frontend of a key, nullopt if the key makes no sense (port 0, unknown protocol).
[[nodiscard]] std::optional<ServiceFrontend> frontend_of(const mesh_frontend_key& key) noexcept;
/// A port of the tables (network order) in host order.
[[nodiscard]] std::uint16_t host_port(std::uint16_t port) noexcept;
[[nodiscard]] bool same_key(const mesh_frontend_key& a, const mesh_frontend_key& b) noexcept;

}  // namespace mesh::datapath
