// Links, addresses, neighbours and routes of one network namespace, over rtnetlink(7). One request,
// one answer; nothing is cached. Calls block for the kernel's answer, which comes from the same
// system call, so there is nothing to wait for.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/netlink/netns.hpp"
#include "model/ip.hpp"

namespace mesh::datapath {

/// The protocol number of every route that we make. rtnetlink.h and iproute2's rt_protos leave it
/// free; a route with another number is somebody else's and never changed.
inline constexpr std::uint8_t kRouteProtocol = 109;

using MacAddress = std::array<std::uint8_t, 6>;
/// "02:0a:0a:00:00:05".
[[nodiscard]] std::string to_string(const MacAddress& mac);

struct Link {
    std::uint32_t index = 0;
    std::string name;
    std::string kind;  ///< "veth", "vxlan", ...; "" for a physical one
    MacAddress mac{};
    std::uint32_t mtu = 0;     ///< bytes
    std::uint32_t master = 0;  ///< index of the bridge it belongs to, 0 = none
    bool up = false;
};

/// An address of a device and the length of the block that the device is on.
struct DeviceAddress {
    model::IpAddress address;
    std::uint8_t prefix_length = 0;
    friend bool operator==(const DeviceAddress&, const DeviceAddress&) = default;
};

/// One end of a veth pair to be made.
struct VethEnd {
    std::string name;              ///< 1..15 bytes
    const Netns* netns = nullptr;  ///< where it appears; must outlive the call
    std::optional<MacAddress> mac;
    std::uint32_t mtu = 1500;
};

/// A VXLAN or Geneve device that takes and gives the tunnel key with each packet (collect
/// metadata), over IPv4 and IPv6 underlays alike. It resolves no neighbours.
struct OverlayLink {
    std::string name;            ///< 1..15 bytes
    std::string kind = "vxlan";  ///< or "geneve"
    std::uint16_t port = 8472;   ///< UDP
    std::uint32_t mtu = 1450;    ///< bytes of the packets inside
};

struct Route {
    model::IpPrefix destination;
    std::optional<model::IpAddress> via;       ///< nullopt = on the link
    std::string device;                        ///< "" = where `via` is reached
    bool onlink = false;                       ///< `via` needs no route of its own; needs a device
    std::optional<model::IpAddress> source{};  ///< which own address packets get; nullopt = any
    std::uint8_t protocol = kRouteProtocol;
    std::uint32_t table = 254;  ///< 254 = main
    std::uint32_t metric = 0;   ///< the kernel makes it 1024 for IPv6
    bool blackhole = false;     ///< packets are dropped; then neither `via` nor `device`
    bool local = false;         ///< packets are the node's own; on lo. Not among routes()
    friend bool operator==(const Route&, const Route&) = default;
};

/// Which packets look into which table, as `ip rule`; of kRouteProtocol, as our routes.
struct RoutingRule {
    bool v4 = true;
    std::uint32_t priority = 0;  ///< lower ones come first; 0 is the local table's, 32766 main's
    std::uint32_t table = 254;
    std::uint8_t protocol = 0;           ///< IPPROTO_*; 0 = any
    std::uint16_t destination_port = 0;  ///< 0 = any
    std::uint32_t mark = 0;              ///< of the packet, all bits; 0 = any
    friend bool operator==(const RoutingRule&, const RoutingRule&) = default;
};

/// A socket into one namespace. Everything named by a device fails with kNotFound when there is no
/// such device.
/// @errors of every call: kConflict (exists), kNotFound, kPermission, kInvalidArgument, else
///   kUnavailable; the detail says what was tried, in which namespace, and the kernel's words
/// @thread any thread, the same object not concurrently
class Rtnetlink {
  public:
    [[nodiscard]] static Result<Rtnetlink> open(const Netns& netns);
    Rtnetlink(Rtnetlink&&) noexcept;
    Rtnetlink& operator=(Rtnetlink&&) noexcept;
    ~Rtnetlink();

    /// Both ends appear in their namespaces at once, down.
    [[nodiscard]] Result<void> add_veth(const VethEnd& a, const VethEnd& b);
    [[nodiscard]] Result<void> add_bridge(std::string_view name);
    /// Appears down.
    /// @errors kUnavailable also when the kernel has no devices of that kind
    [[nodiscard]] Result<void> add_overlay(const OverlayLink& overlay);
    [[nodiscard]] Result<void> delete_link(std::string_view name);
    [[nodiscard]] Result<Link> link(std::string_view name);
    [[nodiscard]] Result<std::vector<Link>> links();
    [[nodiscard]] Result<void> set_up(std::string_view name, bool up = true);
    [[nodiscard]] Result<void> set_mtu(std::string_view name, std::uint32_t bytes);
    [[nodiscard]] Result<void> set_mac(std::string_view name, const MacAddress& mac);
    [[nodiscard]] Result<void> set_master(std::string_view name, std::string_view bridge);

    /// IPv6 addresses are usable at once (no duplicate address detection).
    [[nodiscard]] Result<void> add_address(std::string_view device, const model::IpAddress& address,
                                           std::uint8_t prefix_length);
    [[nodiscard]] Result<void> delete_address(std::string_view device,
                                              const model::IpAddress& address,
                                              std::uint8_t prefix_length);
    [[nodiscard]] Result<std::vector<DeviceAddress>> addresses(std::string_view device);
    /// The device that has the address.
    [[nodiscard]] Result<Link> device_of(const model::IpAddress& address);

    /// A permanent entry; replaces one of the same address.
    [[nodiscard]] Result<void> set_neighbour(std::string_view device,
                                             const model::IpAddress& address,
                                             const MacAddress& mac);
    [[nodiscard]] Result<void> delete_neighbour(std::string_view device,
                                                const model::IpAddress& address);

    /// @errors kConflict when the table has the destination with that metric
    [[nodiscard]] Result<void> add_route(const Route& route);
    /// Adds or replaces the route of that destination and metric, whoever made it.
    [[nodiscard]] Result<void> replace_route(const Route& route);
    /// Only a route of `route.protocol` goes.
    [[nodiscard]] Result<void> delete_route(const Route& route);
    /// Unicast routes of both families in a table, without the kernel's clones, and our black
    /// holes.
    [[nodiscard]] Result<std::vector<Route>> routes(std::uint32_t table = 254);

    /// @errors kConflict when there is that rule
    [[nodiscard]] Result<void> add_rule(const RoutingRule& rule);
    [[nodiscard]] Result<void> delete_rule(const RoutingRule& rule);
    /// Ours, of both families.
    [[nodiscard]] Result<std::vector<RoutingRule>> rules();

  private:
    class Socket;
    explicit Rtnetlink(std::unique_ptr<Socket> socket);
    Result<void> change_rule(const RoutingRule& rule, std::uint16_t type, std::uint16_t flags);
    Result<void> change_route(const Route& route, std::uint16_t type, std::uint16_t flags);
    std::unique_ptr<Socket> socket_;
};

}  // namespace mesh::datapath
