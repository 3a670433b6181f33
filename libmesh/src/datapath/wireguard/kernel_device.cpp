#include "datapath/wireguard/kernel_device.hpp"

#include <fmt/format.h>
#include <linux/netlink.h>

#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/wireguard/genetlink.hpp"
#include "datapath/wireguard/netlink_exchange.hpp"

namespace mesh::datapath {
namespace {

Result<std::uint16_t> find_family(NetlinkExchange& generic) {
    std::optional<std::uint16_t> family;
    MESH_CHECK(generic.exchange(genetlink::encode_get_family(), "find netlink family wireguard",
                                [&](std::uint16_t, std::span<const std::byte> body) {
                                    family = genetlink::parse_family(body);
                                }));
    if (!family) return Error(Errc::kCorrupt, "find netlink family wireguard: it has no id");
    return *family;
}

}  // namespace

class KernelWireguardDevice::Socket {
  public:
    Socket(NetlinkExchange its_generic, std::uint16_t its_family)
        : generic(std::move(its_generic)), family(its_family) {}
    NetlinkExchange generic;
    std::uint16_t family;
};

Result<bool> kernel_has_wireguard(const Netns& netns) {
    MESH_TRY(NetlinkExchange generic, NetlinkExchange::open(netns, NETLINK_GENERIC));
    const auto family = find_family(generic);
    if (family) return true;
    if (family.error().code() == Errc::kNotFound) return false;
    return family.error();
}

KernelWireguardDevice::KernelWireguardDevice(WireguardDeviceOptions options)
    : options_(std::move(options)) {}
KernelWireguardDevice::~KernelWireguardDevice() = default;

Result<KernelWireguardDevice::Socket*> KernelWireguardDevice::socket() {
    if (!socket_) {
        MESH_TRY(NetlinkExchange generic, NetlinkExchange::open(options_.netns, NETLINK_GENERIC));
        MESH_TRY(const std::uint16_t family, find_family(generic));
        socket_ = std::make_unique<Socket>(std::move(generic), family);
    }
    return socket_.get();
}

Result<bool> KernelWireguardDevice::ensure() {
    MESH_CHECK(socket());
    auto held = state();
    if (held) return false;
    if (held.error().code() != Errc::kNotFound) return held.error();
    // A device of another kind (EOPNOTSUPP) is kNotFound here, too; then making one conflicts.
    MESH_TRY(NetlinkExchange route, NetlinkExchange::open(options_.netns, NETLINK_ROUTE));
    MESH_CHECK(route.exchange(genetlink::encode_new_link(options_.name, options_.mtu),
                              fmt::format("add WireGuard device {}", options_.name)));
    return true;
}

Result<WireguardState> KernelWireguardDevice::state() {
    MESH_TRY(Socket* const at, socket());
    WireguardState state;
    MESH_CHECK(at->generic.exchange(genetlink::encode_get(at->family, options_.name),
                                    fmt::format("read WireGuard device {}", options_.name),
                                    [&](std::uint16_t, std::span<const std::byte> body) {
                                        genetlink::parse_state(body, state);
                                    }));
    return state;
}

Result<void> KernelWireguardDevice::configure(const WireguardSettings& settings) {
    MESH_TRY(Socket* const at, socket());
    return at->generic.exchange(genetlink::encode(at->family, options_.name, settings),
                                fmt::format("configure WireGuard device {}", options_.name));
}

Result<void> KernelWireguardDevice::set_up() {
    MESH_TRY(Rtnetlink links, Rtnetlink::open(options_.netns));
    MESH_TRY(const Link link, links.link(options_.name));
    if (link.mtu != options_.mtu) MESH_CHECK(links.set_mtu(options_.name, options_.mtu));
    if (link.up) return {};
    return links.set_up(options_.name);
}

Result<void> KernelWireguardDevice::apply(std::span<const WireguardPeerChange> changes) {
    MESH_TRY(Socket* const at, socket());
    for (detail::Message& message : genetlink::encode(at->family, options_.name, changes)) {
        MESH_CHECK(at->generic.exchange(
            std::move(message), fmt::format("set peers of WireGuard device {}", options_.name)));
    }
    return {};
}

Result<void> KernelWireguardDevice::remove() {
    // A device of another kind is not ours to remove.
    const auto held = state();
    if (!held) return held.error().code() == Errc::kNotFound ? Result<void>() : held.error();
    MESH_TRY(Rtnetlink links, Rtnetlink::open(options_.netns));
    return links.delete_link(options_.name);
}

}  // namespace mesh::datapath
