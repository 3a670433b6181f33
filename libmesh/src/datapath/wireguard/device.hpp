// A WireGuard device of one network namespace, whoever implements it: the kernel, told over generic
// netlink, or a wireguard-go process on /dev/net/tun, told over its Unix socket. Both outlive this
// process; an object made for an existing device adopts it.
//
// Calls block for the answer of the kernel or of the process on this machine; each has a deadline.
#pragma once

#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <span>
#include <string>
#include <string_view>

#include "datapath/netlink/netns.hpp"
#include "datapath/wireguard/peer.hpp"

namespace mesh::datapath {

enum class WireguardBackend : std::uint8_t { kAuto, kKernel, kUserspace };
/// "auto", "kernel", "userspace".
[[nodiscard]] std::string_view to_string(WireguardBackend backend) noexcept;

struct WireguardDeviceOptions {
    Netns netns;
    /// 1..15 bytes. With wireguard-go unique on the machine, not only in the namespace: see
    /// wireguard_device_name().
    std::string name;
    WireguardBackend backend = WireguardBackend::kAuto;
    std::uint32_t mtu = 1420;              ///< bytes; that of the underlay less 80
    std::string program = "wireguard-go";  ///< a path, or looked up in the usual folders
    std::string log_file{};                ///< of wireguard-go, appended; "" = nowhere
    /// Where wireguard-go listens; only tests have another.
    std::string socket_directory = "/var/run/wireguard";
};

/// @errors of every call: kNotFound when the device is not there; kPermission; kInvalidArgument;
///   kTimeout; else kUnavailable. The detail names the device. Never a key
/// @thread same object not concurrently
class WireguardDevice {
  public:
    virtual ~WireguardDevice() = default;

    [[nodiscard]] virtual const std::string& name() const noexcept = 0;
    [[nodiscard]] virtual WireguardBackend backend() const noexcept = 0;

    /// Makes the device exist: does nothing when it does, starts wireguard-go again when it died.
    /// A new device is down.
    /// @return whether it was made now and so knows no key and no peers
    /// @errors kConflict: the name is another namespace's, or another device's
    [[nodiscard]] virtual Result<bool> ensure() = 0;
    [[nodiscard]] virtual Result<WireguardState> state() = 0;
    [[nodiscard]] virtual Result<void> configure(const WireguardSettings& settings) = 0;
    [[nodiscard]] virtual Result<void> set_up() = 0;
    /// In order and in batches. After an error some may have been done: read state().
    [[nodiscard]] virtual Result<void> apply(std::span<const WireguardPeerChange> changes) = 0;
    /// Ends the device; nothing to do when there is none.
    [[nodiscard]] virtual Result<void> remove() = 0;

    /// Readable once the process behind the device has ended: then call ensure(). -1 = there is no
    /// process, or it was not found yet. Belongs to the object; changes with ensure() and remove().
    [[nodiscard]] virtual int ended_fd() const noexcept = 0;
};

/// Chooses the backend: as told, else wireguard-go if it already runs the device, else the kernel
/// if it can, else wireguard-go. Changes nothing yet.
/// @errors kNotFound when there is neither, saying what is missing; kInvalidArgument for a name
[[nodiscard]] Result<std::unique_ptr<WireguardDevice>> make_wireguard_device(
    WireguardDeviceOptions options);

/// Whether the kernel has WireGuard devices; loads its module if that is possible.
[[nodiscard]] Result<bool> kernel_has_wireguard(const Netns& netns);

/// A device name for the node that no other node of any cluster on this machine has: all nodes
/// share the folder of wireguard-go's sockets. 15 bytes, the same every time.
[[nodiscard]] std::string wireguard_device_name(std::string_view cluster, std::string_view node);

}  // namespace mesh::datapath
