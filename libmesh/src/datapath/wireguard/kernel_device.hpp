// The kernel's WireGuard. Internal to this folder; see device.hpp.
#pragma once

#include "datapath/wireguard/device.hpp"

namespace mesh::datapath {

class KernelWireguardDevice final : public WireguardDevice {
  public:
    explicit KernelWireguardDevice(WireguardDeviceOptions options);
    ~KernelWireguardDevice() override;

    [[nodiscard]] const std::string& name() const noexcept override { return options_.name; }
    [[nodiscard]] WireguardBackend backend() const noexcept override {
        return WireguardBackend::kKernel;
    }
    [[nodiscard]] Result<bool> ensure() override;
    [[nodiscard]] Result<WireguardState> state() override;
    [[nodiscard]] Result<void> configure(const WireguardSettings& settings) override;
    [[nodiscard]] Result<void> set_up() override;
    [[nodiscard]] Result<void> apply(std::span<const WireguardPeerChange> changes) override;
    [[nodiscard]] Result<void> remove() override;
    [[nodiscard]] int ended_fd() const noexcept override { return -1; }

  private:
    class Socket;
    [[nodiscard]] Result<Socket*> socket();

    WireguardDeviceOptions options_;
    std::unique_ptr<Socket> socket_;  ///< opened with the first call
};

}  // namespace mesh::datapath
