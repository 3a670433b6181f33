#include "datapath/bpf/programs.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <socklb.skel.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "datapath/bpf/libbpf_call.hpp"

namespace mesh::datapath {
namespace {

struct Hook {
    const char* name;
    bpf_program* program;
    bpf_attach_type type;
};

/// In the order of attaching: nothing is translated before it can be translated back.
std::array<Hook, 9> hooks_of(const socklb& skeleton) {
    const auto& programs = skeleton.progs;
    return {{{"release", programs.mesh_release, BPF_CGROUP_INET_SOCK_RELEASE},
             {"getpeername4", programs.mesh_peername4, BPF_CGROUP_INET4_GETPEERNAME},
             {"getpeername6", programs.mesh_peername6, BPF_CGROUP_INET6_GETPEERNAME},
             {"recvmsg4", programs.mesh_recvmsg4, BPF_CGROUP_UDP4_RECVMSG},
             {"recvmsg6", programs.mesh_recvmsg6, BPF_CGROUP_UDP6_RECVMSG},
             {"sendmsg4", programs.mesh_sendmsg4, BPF_CGROUP_UDP4_SENDMSG},
             {"sendmsg6", programs.mesh_sendmsg6, BPF_CGROUP_UDP6_SENDMSG},
             {"connect4", programs.mesh_connect4, BPF_CGROUP_INET4_CONNECT},
             {"connect6", programs.mesh_connect6, BPF_CGROUP_INET6_CONNECT}}};
}

struct Cgroup {
    Fd fd;
    std::uint64_t id = 0;
};

Result<Cgroup> open_cgroup(const std::string& path) {
    struct statfs filesystem {};
    struct stat info {};
    Cgroup cgroup{Fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)), 0};
    if (!cgroup.fd || ::fstatfs(cgroup.fd.get(), &filesystem) != 0 ||
        static_cast<unsigned long>(filesystem.f_type) != CGROUP2_SUPER_MAGIC ||
        ::fstat(cgroup.fd.get(), &info) != 0) {
        return invalid_argument(
            fmt::format("cgroup \"{}\": expected a directory of a cgroup v2 hierarchy", path));
    }
    cgroup.id = info.st_ino;  // cgroup v2 numbers its directories by the cgroup's id
    return cgroup;
}

/// True if the pinned link is on that cgroup still (a link outlives its cgroup, but does nothing).
bool is_on(int link, std::uint64_t cgroup_id) {
    bpf_link_info info{};
    __u32 length = sizeof info;
    return bpf_obj_get_info_by_fd(link, &info, &length) == 0 && info.type == BPF_LINK_TYPE_CGROUP &&
           info.cgroup.cgroup_id == cgroup_id;
}

Result<void> attach_hook(const Hook& hook, const Cgroup& cgroup, const PinDirectory& pins) {
    const std::string path = pins.link_path(hook.name);
    const int program = bpf_program__fd(hook.program);
    if (const Fd link(bpf_obj_get(path.c_str())); link) {
        if (is_on(link.get(), cgroup.id)) {
            if (bpf_link_update(link.get(), program, nullptr) == 0) return {};
            return system_error(fmt::format("cannot replace the program of {}", path), errno);
        }
        if (::unlink(path.c_str()) != 0) return system_error(path, errno);
    }
    const Fd link(bpf_link_create(program, cgroup.fd.get(), hook.type, nullptr));
    if (!link) return system_error(fmt::format("cannot attach {} to the cgroup", hook.name), errno);
    if (bpf_obj_pin(link.get(), path.c_str()) != 0) return system_error(path, errno);
    return {};
}

}  // namespace

Result<std::unique_ptr<Programs>> Programs::load(const BpfOptions& options,
                                                 const PinDirectory& pins, const Logger& logger) {
    std::unique_ptr<Programs> programs(new Programs);
    const int cpus = libbpf_num_possible_cpus();
    if (cpus <= 0) return system_error("cannot count the CPUs", cpus);
    programs->cpus_ = static_cast<std::uint32_t>(cpus);
    programs->skeleton_ = socklb__open();
    if (programs->skeleton_ == nullptr) return system_error("cannot open the BPF object", errno);
    MESH_TRY(const auto maps, programs->wanted_maps(options, pins, logger));
    MESH_TRY(programs->migration_, Migration::prepare(pins, maps, services_layout(), logger));
    if (auto loaded = programs->load_and_fill(pins); !loaded) {
        programs->migration_->abandon(pins);
        return loaded.error();
    }
    return programs;
}

Result<std::vector<WantedMap>> Programs::wanted_maps(const BpfOptions& options,
                                                     const PinDirectory& pins,
                                                     const Logger& logger) const {
    const TableSizes& sizes = options.sizes;
    if (sizes.services < 2 || sizes.backends < 2 || sizes.slots < 1) {
        return invalid_argument("sizes: expected room for at least one service and one backend");
    }
    // What is numbered alike has one size.
    MESH_TRY(const std::uint32_t services, fitting_size(pins, "services", sizes.services, logger));
    MESH_TRY(const std::uint32_t backends, fitting_size(pins, "backends", sizes.backends, logger));
    const auto& maps = skeleton_->maps;
    return std::vector<WantedMap>{
        {maps.frontends, services},
        {maps.services, services},
        {maps.slots, sizes.slots},
        {maps.backends, backends},
        {maps.balances, services},
        {maps.maglev, std::max(sizes.maglev / 2, 1U)},
        {maps.affinity, options.affinity_entries, Contents::kPrograms},
        {maps.sockets, 0, Contents::kSockets},
        {maps.reverse, options.udp_flows, Contents::kPrograms},
        {maps.udp_connected, options.udp_flows, Contents::kPrograms},
        {maps.counters, cpus_, Contents::kPrograms},
        {maps.connects, backends, Contents::kPrograms},
        {maps.meta, 1},
    };
}

Result<void> Programs::load_and_fill(const PinDirectory& pins) {
    const LibbpfText text;
    if (const int error = socklb__load(skeleton_); error != 0) {
        Error failure = text.error("cannot load the socket load balancer", error);
        // A kernel without a feature says "invalid argument" to the program that uses it.
        if (failure.code() == Errc::kInternal) return unavailable(failure.detail());
        return failure;
    }
    const auto& maps = skeleton_->maps;
    sizes_ = {bpf_map__max_entries(maps.services), bpf_map__max_entries(maps.backends),
              bpf_map__max_entries(maps.slots), 2 * bpf_map__max_entries(maps.maglev)};
    cpus_ = bpf_map__max_entries(maps.counters);
    return migration_->fill(pins, [this](EntryBytes element) {
        mesh_meta meta{};
        std::memcpy(&meta, element.data(), sizeof meta);
        meta.cpus = cpus_;
        meta.max_services = sizes_.services;
        meta.max_backends = sizes_.backends;
        meta.max_slots = sizes_.slots;
        std::memcpy(element.data(), &meta, sizeof meta);
    });
}

Programs::~Programs() {
    socklb__destroy(skeleton_);
}

Result<void> Programs::check_cgroup(const std::string& cgroup) {
    MESH_CHECK(open_cgroup(cgroup));
    return {};
}

Result<void> Programs::attach(const std::string& path, const PinDirectory& pins) {
    MESH_TRY(const Cgroup cgroup, open_cgroup(path));
    for (const Hook& hook : hooks_of(*skeleton_)) MESH_CHECK(attach_hook(hook, cgroup, pins));
    return migration_->finish(pins);
}

MapFds Programs::map_fds() const {
    const auto& maps = skeleton_->maps;
    return {bpf_map__fd(maps.frontends), bpf_map__fd(maps.services), bpf_map__fd(maps.slots),
            bpf_map__fd(maps.backends),  bpf_map__fd(maps.balances), bpf_map__fd(maps.maglev),
            bpf_map__fd(maps.counters),  bpf_map__fd(maps.connects), bpf_map__fd(maps.meta)};
}

SocketMapFds Programs::socket_map_fds() const {
    return {bpf_map__fd(skeleton_->maps.sockets), bpf_map__fd(skeleton_->maps.udp_connected)};
}

}  // namespace mesh::datapath
