// Userspace WireGuard: one wireguard-go process per device, which this object starts, adopts by its
// socket, watches by a pidfd and stops. The process is in a session of its own and outlives this
// one; a service manager must be told to leave it alone at a restart (systemd: KillMode=process).
// Internal to this folder; see device.hpp.
#pragma once

#include "datapath/bpf/fd.hpp"
#include "datapath/wireguard/device.hpp"

namespace mesh::datapath {

class UserspaceWireguardDevice final : public WireguardDevice {
  public:
    explicit UserspaceWireguardDevice(WireguardDeviceOptions options);

    [[nodiscard]] const std::string& name() const noexcept override { return options_.name; }
    [[nodiscard]] WireguardBackend backend() const noexcept override {
        return WireguardBackend::kUserspace;
    }
    [[nodiscard]] Result<bool> ensure() override;
    [[nodiscard]] Result<WireguardState> state() override;
    [[nodiscard]] Result<void> configure(const WireguardSettings& settings) override;
    [[nodiscard]] Result<void> set_up() override;
    [[nodiscard]] Result<void> apply(std::span<const WireguardPeerChange> changes) override;
    [[nodiscard]] Result<void> remove() override;
    [[nodiscard]] int ended_fd() const noexcept override { return process_ ? process_.get() : -1; }

  private:
    [[nodiscard]] std::string socket_path() const;
    [[nodiscard]] Result<void> adopt();
    [[nodiscard]] Result<void> start();
    [[nodiscard]] Error start_failure(const std::string& why) const;

    WireguardDeviceOptions options_;
    Fd process_;  ///< a pidfd
};

/// Whether a process answers at the socket of that device.
[[nodiscard]] bool userspace_wireguard_runs(const WireguardDeviceOptions& options);
/// Why no wireguard-go can be started; "" = it can be tried.
[[nodiscard]] std::string why_no_userspace_wireguard(const WireguardDeviceOptions& options);

}  // namespace mesh::datapath
