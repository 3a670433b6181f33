#include "datapath/bpf/tc_filters.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <net/if.h>

#include <cerrno>
#include <memory>
#include <string>

#include "datapath/bpf/fd.hpp"
#include "datapath/bpf/libbpf_call.hpp"
#include "datapath/bpf/pin_directory.hpp"

namespace mesh::datapath {
namespace {

// Beside filters of other programs on the same device.
constexpr std::uint32_t kFilterPriority = 109;
constexpr std::uint32_t kFilterHandle = 1;

bpf_tc_hook hook_at(std::uint32_t ifindex, bpf_tc_attach_point point) {
    auto hook = sized<bpf_tc_hook>();
    hook.ifindex = static_cast<int>(ifindex);
    hook.attach_point = point;
    return hook;
}

/// The name, as the kernel keeps it, of the program that is attached there; empty: none is.
std::string attached_program(std::uint32_t ifindex, bpf_tc_attach_point point) {
    const LibbpfText text;  // that there is none is no error
    const bpf_tc_hook hook = hook_at(ifindex, point);
    auto options = sized<bpf_tc_opts>();
    options.handle = kFilterHandle;
    options.priority = kFilterPriority;
    if (bpf_tc_query(&hook, &options) != 0) return {};
    const Fd program(bpf_prog_get_fd_by_id(options.prog_id));
    bpf_prog_info info{};
    __u32 length = sizeof info;
    if (!program || bpf_obj_get_info_by_fd(program.get(), &info, &length) != 0) return {};
    return info.name;
}

const bpf_program* find_program(const bpf_object* object, const std::string& name) {
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object) {
        const std::string full = bpf_program__name(program);
        if (full.substr(0, BPF_OBJ_NAME_LEN - 1) == name) return program;
    }
    return nullptr;
}

}  // namespace

Result<void> set_filter(std::uint32_t ifindex, bpf_tc_attach_point point,
                        const bpf_program* program) {
    const LibbpfText text;
    auto hook = hook_at(ifindex, point);
    const auto fail = [&](int error) {
        Error failure = text.error(
            fmt::format("cannot attach {} to device {}", bpf_program__name(program), ifindex),
            error);
        if (error == -ENODEV) return Error(Errc::kNotFound, failure.detail());
        return failure;
    };
    if (const int error = bpf_tc_hook_create(&hook); error != 0 && error != -EEXIST) {
        return fail(error);
    }
    auto options = sized<bpf_tc_opts>();
    options.prog_fd = bpf_program__fd(program);
    options.handle = kFilterHandle;
    options.priority = kFilterPriority;
    options.flags = BPF_TC_F_REPLACE;
    if (const int error = bpf_tc_attach(&hook, &options); error != 0) return fail(error);
    return {};
}

Result<std::uint32_t> replace_filters(const bpf_object* object, const Logger& logger) {
    const std::unique_ptr<struct if_nameindex, decltype(&::if_freenameindex)> devices(
        ::if_nameindex(), ::if_freenameindex);
    if (!devices) return system_error("cannot list devices", errno);
    std::uint32_t replaced = 0;
    for (const auto* device = devices.get(); device->if_index != 0; ++device) {
        for (const auto point : {BPF_TC_INGRESS, BPF_TC_EGRESS}) {
            const std::string name = attached_program(device->if_index, point);
            if (name.empty()) continue;
            const bpf_program* program = find_program(object, name);
            if (program == nullptr) {
                logger.warn("device {}: program {} has no successor and stays", device->if_name,
                            name);
                continue;
            }
            const auto set = set_filter(device->if_index, point, program);
            // A device may go while it is looked at.
            if (!set && set.error().code() != Errc::kNotFound) return set.error();
            if (set) ++replaced;
        }
    }
    return replaced;
}

}  // namespace mesh::datapath
