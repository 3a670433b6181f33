#include "datapath/wireguard/device.hpp"

#include <fmt/format.h>
#include <net/if.h>

#include "datapath/wireguard/kernel_device.hpp"
#include "datapath/wireguard/userspace_device.hpp"

namespace mesh::datapath {

std::string_view to_string(WireguardBackend backend) noexcept {
    switch (backend) {
        case WireguardBackend::kAuto:
            return "auto";
        case WireguardBackend::kKernel:
            return "kernel";
        case WireguardBackend::kUserspace:
            return "userspace";
    }
    return "unknown";
}

Result<std::unique_ptr<WireguardDevice>> make_wireguard_device(WireguardDeviceOptions options) {
    const std::string& name = options.name;
    if (name.empty() || name.size() >= IFNAMSIZ || name.find('/') != std::string::npos) {
        return invalid_argument(
            fmt::format("WireGuard device name \"{}\": expected 1 to 15 bytes without /", name));
    }
    const auto userspace = [&]() -> std::unique_ptr<WireguardDevice> {
        return std::make_unique<UserspaceWireguardDevice>(std::move(options));
    };
    const auto kernel = [&]() -> std::unique_ptr<WireguardDevice> {
        return std::make_unique<KernelWireguardDevice>(std::move(options));
    };
    if (options.backend == WireguardBackend::kUserspace) return userspace();
    // A kernel that learnt WireGuard in between must not cut what runs.
    const bool automatic = options.backend == WireguardBackend::kAuto;
    if (automatic && userspace_wireguard_runs(options)) return userspace();
    MESH_TRY(const bool has, kernel_has_wireguard(options.netns));
    if (has) return kernel();
    const std::string no_kernel = "the kernel has no WireGuard (CONFIG_WIREGUARD)";
    if (!automatic) return not_found(fmt::format("WireGuard device {}: {}", name, no_kernel));
    const std::string no_process = why_no_userspace_wireguard(options);
    if (no_process.empty()) return userspace();
    return not_found(fmt::format("WireGuard device {}: {}, and no process can stand in: {}", name,
                                 no_kernel, no_process));
}

std::string wireguard_device_name(std::string_view cluster, std::string_view node) {
    // FNV-1a; not for secrets, and a collision is found when the device is adopted.
    std::uint64_t hash = 0xcbf29ce484222325U;
    const auto add = [&](std::string_view text) {
        for (const char c : text) {
            hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
        }
        hash = (hash ^ 0xffU) * 0x100000001b3U;  // no name holds this byte
    };
    add(cluster);
    add(node);
    return fmt::format("wg-{:012x}", hash >> 16);
}

}  // namespace mesh::datapath
