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
#include <optional>
#include <string>
#include <utility>

#include "datapath/bpf/libbpf_call.hpp"

namespace mesh::datapath {
namespace {

std::optional<bpf_map_info> pinned_map(const PinDirectory& pins, std::string_view name, Fd& fd) {
    fd = Fd(bpf_obj_get(pins.map_path(name).c_str()));
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (!fd || bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0) return std::nullopt;
    return info;
}

/// The sizes that the pinned maps were made with; nullopt: there are none.
Result<std::optional<TableSizes>> pinned_sizes(const PinDirectory& pins, std::uint32_t cpus) {
    Fd fd;
    const auto info = pinned_map(pins, "meta", fd);
    mesh_meta meta{};
    const std::uint32_t zero = 0;
    if (info && info->value_size == sizeof meta) {
        (void)bpf_map_lookup_elem(fd.get(), &zero, &meta);
    }
    if (meta.layout_version == MESH_LAYOUT_VERSION && meta.cpus == cpus) {
        TableSizes sizes{meta.max_services, meta.max_backends, meta.max_slots};
        Fd maglev;
        const auto held = pinned_map(pins, "maglev", maglev);
        sizes.maglev = held ? 2 * held->max_entries : 0;
        return std::optional(sizes);
    }
    if (meta.layout_version != 0 || !pins.link_paths().empty()) {
        return Error(
            Errc::kConflict,
            fmt::format("{}: pinned maps of layout {} for {} CPUs, expected layout {} for "
                        "{}; tear them down first",
                        pins.path(), meta.layout_version, meta.cpus, MESH_LAYOUT_VERSION, cpus));
    }
    // A process died while it made them; nothing uses them yet.
    for (const std::string& path : pins.map_paths()) {
        if (::unlink(path.c_str()) != 0) return system_error(path, errno);
    }
    return std::optional<TableSizes>();
}

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
    const LibbpfText text;
    std::unique_ptr<Programs> programs(new Programs);
    const int cpus = libbpf_num_possible_cpus();
    if (cpus <= 0) return text.error("cannot count the CPUs", cpus);
    programs->cpus_ = static_cast<std::uint32_t>(cpus);
    programs->skeleton_ = socklb__open();
    if (programs->skeleton_ == nullptr) return text.error("cannot open the BPF object", errno);
    MESH_CHECK(programs->size_maps(options, pins, logger));
    if (const int error = socklb__load(programs->skeleton_); error != 0) {
        Error failure = text.error("cannot load the socket load balancer", error);
        // A kernel without a feature says "invalid argument" to the program that uses it.
        if (failure.code() == Errc::kInternal) return unavailable(failure.detail());
        return failure;
    }
    return programs;
}

Result<void> Programs::size_maps(const BpfOptions& options, const PinDirectory& pins,
                                 const Logger& logger) {
    MESH_TRY(const std::optional<TableSizes> pinned, pinned_sizes(pins, cpus_));
    sizes_ = pinned.value_or(options.sizes);
    if (sizes_ != options.sizes) {
        logger.warn("{}: the pinned maps keep their sizes: {} services, {} backends, {} slots",
                    pins.path(), sizes_.services, sizes_.backends, sizes_.slots);
    }
    if (sizes_.services < 2 || sizes_.backends < 2 || sizes_.slots < 1) {
        return invalid_argument("sizes: expected room for at least one service and one backend");
    }
    const auto& maps = skeleton_->maps;
    const auto client_entries = [&](const char* name, std::uint32_t wanted) {
        Fd fd;
        const auto info = pinned_map(pins, name, fd);
        return info ? info->max_entries : wanted;
    };
    const std::array<std::pair<bpf_map*, std::uint32_t>, 13> all{{
        {maps.frontends, sizes_.services},
        {maps.services, sizes_.services},
        {maps.slots, sizes_.slots},
        {maps.backends, sizes_.backends},
        {maps.balances, sizes_.services},
        {maps.maglev, std::max(sizes_.maglev / 2, 1U)},
        {maps.affinity, client_entries("affinity", options.affinity_entries)},
        {maps.sockets, 0},
        {maps.reverse, client_entries("reverse", options.udp_flows)},
        {maps.udp_connected, client_entries("udp_connected", options.udp_flows)},
        {maps.counters, cpus_},
        {maps.connects, sizes_.backends},
        {maps.meta, 1},
    }};
    for (const auto& [map, entries] : all) {
        const std::string path = pins.map_path(bpf_map__name(map));
        int error = bpf_map__set_max_entries(map, entries);
        if (error == 0) error = bpf_map__set_pin_path(map, path.c_str());
        if (error != 0) return system_error(path, error);
    }
    return {};
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
    return {};
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
