#include "datapath/netlink/rtnetlink.hpp"

#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <system_error>

#include "datapath/netlink/message.hpp"

namespace mesh::datapath {
namespace {

using detail::aligned;
using detail::for_each_attribute;
using detail::Message;
using detail::read_as;
using model::IpAddress;
using model::IpPrefix;
using Bytes = std::span<const std::byte>;

constexpr int kDumpAttempts = 5;

Errc code_of(int error) {
    switch (error) {
        case EEXIST:
            return Errc::kConflict;
        case ENOENT:
        case ENODEV:
        case ESRCH:
        case EADDRNOTAVAIL:
            return Errc::kNotFound;
        case EPERM:
        case EACCES:
            return Errc::kPermission;
        case EINVAL:
        case ERANGE:
            return Errc::kInvalidArgument;
        default:
            return Errc::kUnavailable;
    }
}

std::uint8_t family_of(const IpAddress& address) {
    return address.is_v4() ? AF_INET : AF_INET6;
}

Bytes bytes_of(const IpAddress& address) {
    const Bytes all = std::as_bytes(std::span(address.bytes()));
    return address.is_v4() ? all.subspan(12) : all;
}

void add_ip(Message& message, std::uint16_t type, const IpAddress& address) {
    const Bytes bytes = bytes_of(address);
    message.attribute(type, bytes.data(), bytes.size());
}

std::optional<IpAddress> ip_of(Bytes bytes) {
    IpAddress::Bytes all{};
    if (bytes.size() == 4) {
        all[10] = all[11] = 0xff;
        std::memcpy(all.data() + 12, bytes.data(), 4);
    } else if (bytes.size() == 16) {
        std::memcpy(all.data(), bytes.data(), 16);
    } else {
        return std::nullopt;
    }
    return IpAddress(all);
}

std::string text_of(Bytes bytes) {
    std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    while (!text.empty() && text.back() == '\0') text.pop_back();
    return text;
}

Result<void> check_device_name(std::string_view name) {
    if (name.empty() || name.size() >= IFNAMSIZ || name.find('/') != std::string_view::npos) {
        return invalid_argument(fmt::format("device name \"{}\": expected 1 to 15 bytes", name));
    }
    return {};
}

Link link_of(Bytes body) {
    const auto info = read_as<ifinfomsg>(body);
    Link link;
    link.index = static_cast<std::uint32_t>(info.ifi_index);
    link.up = (info.ifi_flags & IFF_UP) != 0;
    for_each_attribute(body.subspan(aligned(sizeof info)), [&](std::uint16_t type, Bytes value) {
        if (type == IFLA_IFNAME) link.name = text_of(value);
        if (type == IFLA_MTU) link.mtu = read_as<std::uint32_t>(value);
        if (type == IFLA_MASTER) link.master = read_as<std::uint32_t>(value);
        if (type == IFLA_ADDRESS) link.mac = read_as<MacAddress>(value);
        if (type == IFLA_LINKINFO) {
            for_each_attribute(value, [&](std::uint16_t inner, Bytes text) {
                if (inner == IFLA_INFO_KIND) link.kind = text_of(text);
            });
        }
    });
    return link;
}

}  // namespace

std::string to_string(const MacAddress& mac) {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3],
                       mac[4], mac[5]);
}

// The socket and the request/answer exchange.
class Rtnetlink::Socket {
  public:
    Socket(int fd, std::string netns) : fd_(fd), netns_(std::move(netns)) {}
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    ~Socket() { ::close(fd_); }

    Result<void> request(Message message, std::string_view what) {
        return exchange(std::move(message), what, [](std::uint16_t, Bytes) {}).first;
    }

    // Repeats a dump that the kernel says it changed underneath; `restart` forgets what came.
    Result<void> dump(const Message& message, std::string_view what,
                      const std::function<void()>& restart,
                      const std::function<void(std::uint16_t, Bytes)>& on) {
        for (int attempt = 0; attempt < kDumpAttempts; ++attempt) {
            restart();
            auto [result, interrupted] = exchange(message, what, on);
            if (!result || !interrupted) return result;
        }
        return unavailable(
            fmt::format("{} in network namespace {}: it kept changing", what, netns_));
    }

    Result<std::uint32_t> index(std::string_view device) {
        MESH_TRY(const Link found, find(device));
        return found.index;
    }

    Result<Link> find(std::string_view device) {
        MESH_CHECK(check_device_name(device));
        Message message(RTM_GETLINK, 0);
        message.body(ifinfomsg{});
        message.attribute(IFLA_IFNAME, device);
        Link link;
        MESH_CHECK(exchange(std::move(message), fmt::format("find device {}", device),
                            [&](std::uint16_t, Bytes body) { link = link_of(body); })
                       .first);
        return link;
    }

  private:
    // @return the outcome, and whether a dump was interrupted
    std::pair<Result<void>, bool> exchange(Message message, std::string_view what,
                                           const std::function<void(std::uint16_t, Bytes)>& on) {
        const std::uint32_t sequence = ++sequence_;
        const Bytes bytes = message.finish(sequence);
        const auto flags = read_as<nlmsghdr>(bytes).nlmsg_flags;
        const bool dump = (flags & NLM_F_DUMP) == NLM_F_DUMP;
        // A GET without NLM_F_ACK ends with its one answer.
        const bool acknowledged = (flags & NLM_F_ACK) != 0;
        sockaddr_nl kernel{};
        kernel.nl_family = AF_NETLINK;
        if (::sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel),
                     sizeof kernel) < 0) {
            return {failure(what, errno, {}), false};
        }
        bool interrupted = false;
        for (;;) {
            const ssize_t size = ::recv(fd_, buffer_.data(), buffer_.size(), 0);
            if (size < 0 && errno == EINTR) continue;
            if (size < 0) return {failure(what, errno, {}), false};
            Bytes rest(buffer_.data(), static_cast<std::size_t>(size));
            while (rest.size() >= sizeof(nlmsghdr)) {
                const auto header = read_as<nlmsghdr>(rest);
                if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size()) break;
                const Bytes body = rest.subspan(sizeof header, header.nlmsg_len - sizeof header);
                rest = rest.subspan(std::min(aligned(header.nlmsg_len), rest.size()));
                if (header.nlmsg_seq != sequence) continue;
                interrupted = interrupted || (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
                if (header.nlmsg_type == NLMSG_DONE) return {Result<void>(), interrupted};
                if (header.nlmsg_type == NLMSG_ERROR) {
                    return {outcome(what, header, body), interrupted};
                }
                on(header.nlmsg_type, body);
                if (!dump && !acknowledged) return {Result<void>(), interrupted};
            }
        }
    }

    Result<void> outcome(std::string_view what, const nlmsghdr& header, Bytes body) const {
        const int error = -read_as<nlmsgerr>(body).error;
        if (error == 0) return {};
        std::string kernel_says;
        if ((header.nlmsg_flags & NLM_F_ACK_TLVS) != 0 && body.size() >= sizeof(nlmsgerr)) {
            // With NETLINK_CAP_ACK only the header of our request is echoed before the attributes.
            for_each_attribute(body.subspan(sizeof(nlmsgerr)),
                               [&](std::uint16_t type, Bytes value) {
                                   if (type == NLMSGERR_ATTR_MSG) kernel_says = text_of(value);
                               });
        }
        return failure(what, error, kernel_says);
    }

    Error failure(std::string_view what, int error, const std::string& kernel_says) const {
        std::string text = fmt::format("{} in network namespace {}: {}", what, netns_,
                                       std::generic_category().message(error));
        if (!kernel_says.empty()) text += fmt::format(" ({})", kernel_says);
        return {code_of(error), std::move(text)};
    }

    int fd_;
    std::string netns_;
    std::uint32_t sequence_ = 0;
    // The kernel fills at most 32 KiB per datagram of a dump.
    std::vector<std::byte> buffer_ = std::vector<std::byte>(std::size_t{64} * 1024);
};

Rtnetlink::Rtnetlink(std::unique_ptr<Socket> socket) : socket_(std::move(socket)) {}
Rtnetlink::Rtnetlink(Rtnetlink&&) noexcept = default;
Rtnetlink& Rtnetlink::operator=(Rtnetlink&&) noexcept = default;
Rtnetlink::~Rtnetlink() = default;

Result<Rtnetlink> Rtnetlink::open(const Netns& netns) {
    MESH_TRY(const NetnsScope scope, NetnsScope::enter(netns));
    const int fd = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) {
        return Error(code_of(errno),
                     fmt::format("open rtnetlink in network namespace {}: {}", netns.name(),
                                 std::generic_category().message(errno)));
    }
    const int on = 1;
    (void)::setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    (void)::setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    return Rtnetlink(std::make_unique<Socket>(fd, netns.name()));
}

Result<void> Rtnetlink::add_veth(const VethEnd& a, const VethEnd& b) {
    MESH_CHECK(check_device_name(a.name));
    MESH_CHECK(check_device_name(b.name));
    if (a.netns == nullptr || b.netns == nullptr) {
        return invalid_argument(fmt::format("veth {}: expected a namespace on both ends", a.name));
    }
    Message message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    const auto describe = [&](const VethEnd& end) {
        message.body(ifinfomsg{});
        message.attribute(IFLA_IFNAME, end.name);
        message.attribute(IFLA_MTU, end.mtu);
        message.attribute(IFLA_NET_NS_FD, static_cast<std::uint32_t>(end.netns->fd()));
        if (end.mac) message.attribute(IFLA_ADDRESS, end.mac->data(), end.mac->size());
    };
    describe(a);
    message.nest(IFLA_LINKINFO, [&] {
        message.attribute(IFLA_INFO_KIND, std::string_view("veth"));
        message.nest(IFLA_INFO_DATA, [&] { message.nest(VETH_INFO_PEER, [&] { describe(b); }); });
    });
    return socket_->request(std::move(message), fmt::format("add veth {} and {}", a.name, b.name));
}

Result<void> Rtnetlink::add_bridge(std::string_view name) {
    MESH_CHECK(check_device_name(name));
    Message message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    message.body(ifinfomsg{});
    message.attribute(IFLA_IFNAME, name);
    message.nest(IFLA_LINKINFO,
                 [&] { message.attribute(IFLA_INFO_KIND, std::string_view("bridge")); });
    return socket_->request(std::move(message), fmt::format("add bridge {}", name));
}

Result<void> Rtnetlink::add_overlay(const OverlayLink& overlay) {
    MESH_CHECK(check_device_name(overlay.name));
    const bool vxlan = overlay.kind == "vxlan";
    if (!vxlan && overlay.kind != "geneve") {
        return invalid_argument(
            fmt::format("overlay of kind \"{}\": expected vxlan or geneve", overlay.kind));
    }
    Message message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    ifinfomsg info{};
    info.ifi_flags = IFF_NOARP;
    info.ifi_change = IFF_NOARP;
    message.body(info);
    message.attribute(IFLA_IFNAME, overlay.name);
    message.attribute(IFLA_MTU, overlay.mtu);
    message.nest(IFLA_LINKINFO, [&] {
        message.attribute(IFLA_INFO_KIND, std::string_view(overlay.kind));
        message.nest(IFLA_INFO_DATA, [&] {
            const std::uint8_t on = 1;
            const std::uint16_t port = htons(overlay.port);
            if (vxlan) {
                message.attribute(IFLA_VXLAN_PORT, &port, sizeof port);
                message.attribute(IFLA_VXLAN_COLLECT_METADATA, &on, sizeof on);
                // Else the link layer address of each packet, which is nobody's, is learnt.
                const std::uint8_t off = 0;
                message.attribute(IFLA_VXLAN_LEARNING, &off, sizeof off);
                message.attribute(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, &on, sizeof on);
            } else {
                message.attribute(IFLA_GENEVE_PORT, &port, sizeof port);
                message.attribute(IFLA_GENEVE_COLLECT_METADATA, &on, 0);  // a flag
                message.attribute(IFLA_GENEVE_UDP_ZERO_CSUM6_RX, &on, sizeof on);
            }
        });
    });
    return socket_->request(std::move(message),
                            fmt::format("add {} device {}", overlay.kind, overlay.name));
}

Result<void> Rtnetlink::delete_link(std::string_view name) {
    MESH_CHECK(check_device_name(name));
    Message message(RTM_DELLINK, NLM_F_ACK);
    message.body(ifinfomsg{});
    message.attribute(IFLA_IFNAME, name);
    return socket_->request(std::move(message), fmt::format("delete device {}", name));
}

Result<Link> Rtnetlink::link(std::string_view name) {
    return socket_->find(name);
}

Result<std::vector<Link>> Rtnetlink::links() {
    Message message(RTM_GETLINK, NLM_F_DUMP);
    message.body(ifinfomsg{});
    std::vector<Link> found;
    MESH_CHECK(socket_->dump(
        message, "list devices", [&] { found.clear(); },
        [&](std::uint16_t type, Bytes body) {
            if (type == RTM_NEWLINK) found.push_back(link_of(body));
        }));
    return found;
}

Result<void> Rtnetlink::set_up(std::string_view name, bool up) {
    MESH_TRY(const std::uint32_t index, socket_->index(name));
    Message message(RTM_NEWLINK, NLM_F_ACK);
    ifinfomsg info{};
    info.ifi_index = static_cast<int>(index);
    info.ifi_change = IFF_UP;
    info.ifi_flags = up ? static_cast<unsigned>(IFF_UP) : 0U;
    message.body(info);
    return socket_->request(std::move(message),
                            fmt::format("set device {} {}", name, up ? "up" : "down"));
}

Result<void> Rtnetlink::set_mtu(std::string_view name, std::uint32_t bytes) {
    MESH_TRY(const std::uint32_t index, socket_->index(name));
    Message message(RTM_NEWLINK, NLM_F_ACK);
    ifinfomsg info{};
    info.ifi_index = static_cast<int>(index);
    message.body(info);
    message.attribute(IFLA_MTU, bytes);
    return socket_->request(std::move(message), fmt::format("set MTU of {} to {}", name, bytes));
}

Result<void> Rtnetlink::set_mac(std::string_view name, const MacAddress& mac) {
    MESH_TRY(const std::uint32_t index, socket_->index(name));
    Message message(RTM_NEWLINK, NLM_F_ACK);
    ifinfomsg info{};
    info.ifi_index = static_cast<int>(index);
    message.body(info);
    message.attribute(IFLA_ADDRESS, mac.data(), mac.size());
    return socket_->request(std::move(message),
                            fmt::format("set address of {} to {}", name, to_string(mac)));
}

Result<void> Rtnetlink::set_master(std::string_view name, std::string_view bridge) {
    MESH_TRY(const std::uint32_t index, socket_->index(name));
    MESH_TRY(const std::uint32_t master, socket_->index(bridge));
    Message message(RTM_NEWLINK, NLM_F_ACK);
    ifinfomsg info{};
    info.ifi_index = static_cast<int>(index);
    message.body(info);
    message.attribute(IFLA_MASTER, master);
    return socket_->request(std::move(message),
                            fmt::format("put device {} on bridge {}", name, bridge));
}

Result<void> Rtnetlink::add_address(std::string_view device, const IpAddress& address,
                                    std::uint8_t prefix_length) {
    MESH_TRY(const std::uint32_t index, socket_->index(device));
    Message message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    ifaddrmsg info{};
    info.ifa_family = family_of(address);
    info.ifa_prefixlen = prefix_length;
    info.ifa_index = index;
    if (!address.is_v4()) info.ifa_flags = IFA_F_NODAD;
    message.body(info);
    add_ip(message, IFA_LOCAL, address);
    add_ip(message, IFA_ADDRESS, address);
    return socket_->request(
        std::move(message),
        fmt::format("add address {}/{} to {}", address.to_string(), prefix_length, device));
}

Result<void> Rtnetlink::delete_address(std::string_view device, const IpAddress& address,
                                       std::uint8_t prefix_length) {
    MESH_TRY(const std::uint32_t index, socket_->index(device));
    Message message(RTM_DELADDR, NLM_F_ACK);
    ifaddrmsg info{};
    info.ifa_family = family_of(address);
    info.ifa_prefixlen = prefix_length;
    info.ifa_index = index;
    message.body(info);
    add_ip(message, IFA_LOCAL, address);
    return socket_->request(
        std::move(message),
        fmt::format("delete address {}/{} of {}", address.to_string(), prefix_length, device));
}

Result<std::vector<DeviceAddress>> Rtnetlink::addresses(std::string_view device) {
    MESH_TRY(const std::uint32_t index, socket_->index(device));
    Message message(RTM_GETADDR, NLM_F_DUMP);
    message.body(ifaddrmsg{});
    std::vector<DeviceAddress> found;
    MESH_CHECK(socket_->dump(
        message, "list addresses", [&] { found.clear(); },
        [&](std::uint16_t type, Bytes body) {
            const auto info = read_as<ifaddrmsg>(body);
            if (type != RTM_NEWADDR || info.ifa_index != index) return;
            std::optional<IpAddress> local, any;
            for_each_attribute(body.subspan(aligned(sizeof info)),
                               [&](std::uint16_t attribute, Bytes value) {
                                   if (attribute == IFA_LOCAL) local = ip_of(value);
                                   if (attribute == IFA_ADDRESS) any = ip_of(value);
                               });
            // IPv6 has IFA_ADDRESS only; on IPv4 that is the peer.
            if (!local) local = any;
            if (local) found.push_back({*local, info.ifa_prefixlen});
        }));
    return found;
}

Result<Link> Rtnetlink::device_of(const IpAddress& address) {
    Message message(RTM_GETADDR, NLM_F_DUMP);
    message.body(ifaddrmsg{});
    std::uint32_t index = 0;
    MESH_CHECK(socket_->dump(
        message, "list addresses", [&] { index = 0; },
        [&](std::uint16_t type, Bytes body) {
            const auto info = read_as<ifaddrmsg>(body);
            if (type != RTM_NEWADDR) return;
            for_each_attribute(body.subspan(aligned(sizeof info)),
                               [&](std::uint16_t attribute, Bytes value) {
                                   if ((attribute == IFA_LOCAL || attribute == IFA_ADDRESS) &&
                                       ip_of(value) == address) {
                                       index = info.ifa_index;
                                   }
                               });
        }));
    MESH_TRY(const std::vector<Link> devices, links());
    const auto found = std::ranges::find(devices, index, &Link::index);
    if (index != 0 && found != devices.end()) return *found;
    return not_found(fmt::format("no device has the address {}", address.to_string()));
}

Result<void> Rtnetlink::set_neighbour(std::string_view device, const IpAddress& address,
                                      const MacAddress& mac) {
    MESH_TRY(const std::uint32_t index, socket_->index(device));
    Message message(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
    ndmsg info{};
    info.ndm_family = family_of(address);
    info.ndm_ifindex = static_cast<int>(index);
    info.ndm_state = NUD_PERMANENT;
    message.body(info);
    add_ip(message, NDA_DST, address);
    message.attribute(NDA_LLADDR, mac.data(), mac.size());
    return socket_->request(std::move(message),
                            fmt::format("set neighbour {} on {}", address.to_string(), device));
}

Result<void> Rtnetlink::delete_neighbour(std::string_view device, const IpAddress& address) {
    MESH_TRY(const std::uint32_t index, socket_->index(device));
    Message message(RTM_DELNEIGH, NLM_F_ACK);
    ndmsg info{};
    info.ndm_family = family_of(address);
    info.ndm_ifindex = static_cast<int>(index);
    message.body(info);
    add_ip(message, NDA_DST, address);
    return socket_->request(std::move(message),
                            fmt::format("delete neighbour {} on {}", address.to_string(), device));
}

Result<void> Rtnetlink::change_route(const Route& route, std::uint16_t type, std::uint16_t flags) {
    const std::string what = fmt::format(
        "{} route to {}{}{}", type == RTM_DELROUTE ? "delete" : "set",
        route.destination.to_string(), route.via ? " via " + route.via->to_string() : "",
        route.device.empty() ? "" : " on " + route.device);
    if (route.via && route.via->is_v4() != route.destination.is_v4()) {
        return invalid_argument(what + ": expected a next hop of the same family");
    }
    Message message(type, static_cast<std::uint16_t>(NLM_F_ACK | flags));
    rtmsg info{};
    info.rtm_family = family_of(route.destination.address());
    info.rtm_dst_len = route.destination.length();
    info.rtm_table = static_cast<std::uint8_t>(route.table < 256 ? route.table : RT_TABLE_UNSPEC);
    info.rtm_protocol = route.protocol;
    info.rtm_scope = route.via || !route.destination.is_v4() ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    info.rtm_type = RTN_UNICAST;
    if (route.blackhole) {
        info.rtm_type = RTN_BLACKHOLE;
        info.rtm_scope = RT_SCOPE_UNIVERSE;
    }
    if (route.local) {
        info.rtm_type = RTN_LOCAL;
        info.rtm_scope = RT_SCOPE_HOST;
    }
    // A delete that names no next hop must not ask for a scope either.
    if (type == RTM_DELROUTE) info.rtm_scope = RT_SCOPE_NOWHERE;
    if (route.onlink) info.rtm_flags = RTNH_F_ONLINK;
    message.body(info);
    if (route.destination.length() != 0) add_ip(message, RTA_DST, route.destination.address());
    message.attribute(RTA_TABLE, route.table);
    if (route.metric != 0) message.attribute(RTA_PRIORITY, route.metric);
    if (route.via) add_ip(message, RTA_GATEWAY, *route.via);
    if (route.source) add_ip(message, RTA_PREFSRC, *route.source);
    if (!route.device.empty()) {
        MESH_TRY(const std::uint32_t index, socket_->index(route.device));
        message.attribute(RTA_OIF, index);
    }
    return socket_->request(std::move(message), what);
}

Result<void> Rtnetlink::add_route(const Route& route) {
    return change_route(route, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
}

Result<void> Rtnetlink::replace_route(const Route& route) {
    return change_route(route, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
}

Result<void> Rtnetlink::delete_route(const Route& route) {
    return change_route(route, RTM_DELROUTE, 0);
}

Result<std::vector<Route>> Rtnetlink::routes(std::uint32_t table) {
    MESH_TRY(const std::vector<Link> devices, links());
    std::map<std::uint32_t, std::string> names;
    for (const Link& device : devices) names.emplace(device.index, device.name);
    Message message(RTM_GETROUTE, NLM_F_DUMP);
    message.body(rtmsg{});
    std::vector<Route> found;
    MESH_CHECK(socket_->dump(
        message, "list routes", [&] { found.clear(); },
        [&](std::uint16_t type, Bytes body) {
            const auto info = read_as<rtmsg>(body);
            const bool blackhole =
                info.rtm_type == RTN_BLACKHOLE && info.rtm_protocol == kRouteProtocol;
            if (type != RTM_NEWROUTE || (info.rtm_type != RTN_UNICAST && !blackhole) ||
                (info.rtm_family != AF_INET && info.rtm_family != AF_INET6) ||
                (info.rtm_flags & RTM_F_CLONED) != 0) {
                return;
            }
            Route route;
            route.blackhole = blackhole;
            route.protocol = info.rtm_protocol;
            route.table = info.rtm_table;
            route.onlink = (info.rtm_flags & RTNH_F_ONLINK) != 0;
            IpAddress destination = info.rtm_family == AF_INET ? IpAddress::v4(0) : IpAddress();
            for_each_attribute(body.subspan(aligned(sizeof info)),
                               [&](std::uint16_t attribute, Bytes value) {
                                   if (attribute == RTA_DST)
                                       destination = ip_of(value).value_or(destination);
                                   if (attribute == RTA_GATEWAY) route.via = ip_of(value);
                                   if (attribute == RTA_PREFSRC) route.source = ip_of(value);
                                   if (attribute == RTA_TABLE)
                                       route.table = read_as<std::uint32_t>(value);
                                   if (attribute == RTA_PRIORITY)
                                       route.metric = read_as<std::uint32_t>(value);
                                   if (attribute == RTA_OIF) {
                                       const auto name = names.find(read_as<std::uint32_t>(value));
                                       if (name != names.end()) route.device = name->second;
                                   }
                               });
            route.destination = IpPrefix(destination, info.rtm_dst_len);
            if (blackhole) route.device.clear();  // lo, of IPv6
            if (route.table == table) found.push_back(std::move(route));
        }));
    return found;
}

Result<void> Rtnetlink::change_rule(const RoutingRule& rule, std::uint16_t type,
                                    std::uint16_t flags) {
    Message message(type, static_cast<std::uint16_t>(NLM_F_ACK | flags));
    fib_rule_hdr header{};
    header.family = rule.v4 ? AF_INET : AF_INET6;
    header.action = FR_ACT_TO_TBL;
    header.table = static_cast<std::uint8_t>(rule.table < 256 ? rule.table : RT_TABLE_UNSPEC);
    message.body(header);
    message.attribute(FRA_TABLE, rule.table);
    message.attribute(FRA_PRIORITY, rule.priority);
    message.attribute(FRA_PROTOCOL, &kRouteProtocol, sizeof kRouteProtocol);
    if (rule.protocol != 0) message.attribute(FRA_IP_PROTO, &rule.protocol, sizeof rule.protocol);
    if (rule.destination_port != 0) {
        const fib_rule_port_range port{rule.destination_port, rule.destination_port};
        message.attribute(FRA_DPORT_RANGE, &port, sizeof port);
    }
    if (rule.mark != 0) message.attribute(FRA_FWMARK, rule.mark);
    return socket_->request(std::move(message), fmt::format("{} rule {} for table {}",
                                                            type == RTM_DELRULE ? "delete" : "add",
                                                            rule.priority, rule.table));
}

Result<void> Rtnetlink::add_rule(const RoutingRule& rule) {
    return change_rule(rule, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
}

Result<void> Rtnetlink::delete_rule(const RoutingRule& rule) {
    return change_rule(rule, RTM_DELRULE, 0);
}

Result<std::vector<RoutingRule>> Rtnetlink::rules() {
    Message message(RTM_GETRULE, NLM_F_DUMP);
    message.body(fib_rule_hdr{});
    std::vector<RoutingRule> found;
    MESH_CHECK(socket_->dump(
        message, "list rules", [&] { found.clear(); },
        [&](std::uint16_t type, Bytes body) {
            const auto header = read_as<fib_rule_hdr>(body);
            if (type != RTM_NEWRULE || (header.family != AF_INET && header.family != AF_INET6)) {
                return;
            }
            RoutingRule rule;
            rule.v4 = header.family == AF_INET;
            rule.table = header.table;
            std::uint8_t protocol = 0;
            for_each_attribute(
                body.subspan(aligned(sizeof header)), [&](std::uint16_t attribute, Bytes value) {
                    if (attribute == FRA_TABLE) rule.table = read_as<std::uint32_t>(value);
                    if (attribute == FRA_PRIORITY) rule.priority = read_as<std::uint32_t>(value);
                    if (attribute == FRA_IP_PROTO) rule.protocol = read_as<std::uint8_t>(value);
                    if (attribute == FRA_PROTOCOL) protocol = read_as<std::uint8_t>(value);
                    if (attribute == FRA_DPORT_RANGE) {
                        rule.destination_port = read_as<fib_rule_port_range>(value).start;
                    }
                    if (attribute == FRA_FWMARK) rule.mark = read_as<std::uint32_t>(value);
                });
            if (protocol == kRouteProtocol) found.push_back(rule);
        }));
    return found;
}

}  // namespace mesh::datapath
