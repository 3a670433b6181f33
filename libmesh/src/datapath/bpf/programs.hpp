// The loaded socket load balancer: its maps, made or adopted from pins, and its programs on a
// cgroup. Internal to this folder.
#pragma once

#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <vector>

#include "base/log.hpp"
#include "datapath/bpf/bpf_datapath.hpp"
#include "datapath/bpf/kernel_storage.hpp"
#include "datapath/bpf/migration.hpp"
#include "datapath/bpf/pin_directory.hpp"
#include "datapath/bpf/socket_sweep.hpp"

struct socklb;

namespace mesh::datapath {

class Programs {
  public:
    /// Loads the programs on the pinned maps; makes and pins the maps that are not there, and those
    /// that take the place of maps of another layout or size. Attaches nothing.
    /// @errors as BpfDatapath::open
    [[nodiscard]] static Result<std::unique_ptr<Programs>> load(const BpfOptions& options,
                                                                const PinDirectory& pins,
                                                                const Logger& logger);
    /// @errors kInvalidArgument: it is no cgroup v2 directory
    [[nodiscard]] static Result<void> check_cgroup(const std::string& cgroup);
    ~Programs();
    Programs(const Programs&) = delete;
    Programs& operator=(const Programs&) = delete;

    /// Attaches to the cgroup, or replaces, one by one and each atomically, what is attached there.
    /// Then lets go of maps that only the replaced programs used.
    [[nodiscard]] Result<void> attach(const std::string& cgroup, const PinDirectory& pins);

    [[nodiscard]] MapFds map_fds() const;
    [[nodiscard]] SocketMapFds socket_map_fds() const;
    /// Of the maps as they are.
    [[nodiscard]] TableSizes sizes() const noexcept { return sizes_; }
    [[nodiscard]] std::uint32_t cpus() const noexcept { return cpus_; }

  private:
    Programs() = default;
    [[nodiscard]] Result<std::vector<WantedMap>> wanted_maps(const BpfOptions& options,
                                                             const PinDirectory& pins,
                                                             const Logger& logger) const;
    [[nodiscard]] Result<void> load_and_fill(const PinDirectory& pins);

    socklb* skeleton_ = nullptr;
    TableSizes sizes_;
    std::uint32_t cpus_ = 0;
    std::optional<Migration> migration_;
};

}  // namespace mesh::datapath
