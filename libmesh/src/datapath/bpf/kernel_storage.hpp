// The tables in the kernel's maps. Arrays are mapped into memory, so that a write is a store;
// frontends, a hash, goes in batches. Internal to this folder.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "datapath/bpf/fd.hpp"
#include "datapath/table_storage.hpp"

namespace mesh::datapath {

/// Maps the first `bytes` of an array map. @errors kInternal, kPermission
[[nodiscard]] Result<void*> map_array(int fd, std::string_view name, std::size_t bytes);
void unmap_array(void* memory, std::size_t bytes) noexcept;

/// An array map (BPF_F_MMAPABLE) in this process's memory.
template <class T>
class MappedArray {
  public:
    MappedArray() = default;
    MappedArray(MappedArray&& other) noexcept : entries_(std::exchange(other.entries_, {})) {}
    MappedArray& operator=(MappedArray&& other) noexcept {
        std::swap(entries_, other.entries_);
        return *this;
    }
    ~MappedArray() {
        if (!entries_.empty()) unmap_array(entries_.data(), entries_.size_bytes());
    }
    /// @param fd of the map; may be closed afterwards
    [[nodiscard]] static Result<MappedArray> map(int fd, std::string_view name,
                                                 std::uint32_t count) {
        // The kernel rounds the size of an entry up to 8 bytes.
        static_assert(sizeof(T) % 8 == 0);
        MESH_TRY(void* const memory, map_array(fd, name, sizeof(T) * count));
        MappedArray array;
        array.entries_ = std::span(static_cast<T*>(memory), count);
        return array;
    }

    [[nodiscard]] T& operator[](std::size_t index) const noexcept { return entries_[index]; }
    [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

  private:
    std::span<T> entries_;
};

/// Descriptors of the loaded maps; borrowed.
struct MapFds {
    int frontends, services, slots, backends, balances, maglev, counters, connects, meta;
};

class KernelStorage final : public TableStorage {
  public:
    /// @param sizes of the maps as they are
    [[nodiscard]] static Result<std::unique_ptr<KernelStorage>> open(const MapFds& fds,
                                                                     TableSizes sizes,
                                                                     std::uint32_t cpus);

    [[nodiscard]] mesh_meta& meta() noexcept { return meta_[0]; }

    [[nodiscard]] TableSizes sizes() const override { return sizes_; }
    [[nodiscard]] Result<std::vector<FrontendEntry>> read_frontends() override;
    [[nodiscard]] mesh_service read_service(std::uint32_t id) const override;
    [[nodiscard]] mesh_backend read_backend(std::uint32_t id) const override;
    [[nodiscard]] mesh_slot read_slot(std::uint32_t index) const override;
    [[nodiscard]] mesh_balance read_balance(std::uint32_t id) const override;
    [[nodiscard]] std::uint32_t used_backends() const override;
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
    [[nodiscard]] Result<void> wait_for_readers() override;
    [[nodiscard]] std::uint64_t connects(std::uint32_t backend_id) const override;
    void clear_connects(std::uint32_t backend_id) override;
    [[nodiscard]] Counters counters() const override;

  private:
    KernelStorage() = default;
    [[nodiscard]] Result<void> make_grace_map();

    TableSizes sizes_;
    std::uint32_t cpus_ = 0;
    int frontends_ = -1;
    MappedArray<mesh_service> services_;
    MappedArray<mesh_slot> slots_;
    MappedArray<mesh_backend> backends_;
    MappedArray<mesh_balance> balances_;
    MappedArray<mesh_maglev> maglev_;
    MappedArray<mesh_counters> counters_;
    MappedArray<std::uint64_t> connects_;
    MappedArray<mesh_meta> meta_;
    Fd grace_outer_;
    Fd grace_inner_;
};

}  // namespace mesh::datapath
