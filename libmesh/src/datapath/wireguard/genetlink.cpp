#include "datapath/wireguard/genetlink.hpp"

#include <linux/genetlink.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/wireguard.h>
#include <netinet/in.h>
#include <time.h>

#include <algorithm>
#include <cstring>

namespace mesh::datapath::genetlink {
namespace {

using detail::aligned;
using detail::for_each_attribute;
using detail::Message;
using detail::read_as;
using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;
using Bytes = std::span<const std::byte>;

// An allowed ip takes at most 40 bytes, the rest of a peer at most 120.
constexpr std::size_t kAllowedIpBytes = 40;
constexpr std::size_t kPeerBytes = 120;
constexpr std::size_t kMessageBytes = std::size_t{12} * 1024;
constexpr std::size_t kAllowedIpsPerPart = 128;

static_assert(WG_KEY_LEN == WireguardPublicKey::kSize);

Message message_of(std::uint16_t family, std::uint8_t command, std::uint16_t flags,
                   std::uint8_t version) {
    Message message(family, flags);
    message.body(genlmsghdr{command, version, 0});
    return message;
}

Bytes bytes_of(const IpAddress& address) {
    const Bytes all = std::as_bytes(std::span(address.bytes()));
    return address.is_v4() ? all.subspan(12) : all;
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

void add_endpoint(Message& message, const WireguardEndpoint& endpoint) {
    const Bytes address = bytes_of(endpoint.address);
    if (endpoint.address.is_v4()) {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(endpoint.port);
        std::memcpy(&to.sin_addr, address.data(), address.size());
        message.attribute(WGPEER_A_ENDPOINT, &to, sizeof to);
    } else {
        sockaddr_in6 to{};
        to.sin6_family = AF_INET6;
        to.sin6_port = htons(endpoint.port);
        std::memcpy(&to.sin6_addr, address.data(), address.size());
        message.attribute(WGPEER_A_ENDPOINT, &to, sizeof to);
    }
}

std::optional<WireguardEndpoint> endpoint_of(Bytes value) {
    const auto family = read_as<sa_family_t>(value);
    WireguardEndpoint endpoint;
    std::optional<IpAddress> address;
    if (family == AF_INET && value.size() >= sizeof(sockaddr_in)) {
        const auto from = read_as<sockaddr_in>(value);
        address = ip_of(std::as_bytes(std::span(&from.sin_addr, 1)));
        endpoint.port = ntohs(from.sin_port);
    } else if (family == AF_INET6 && value.size() >= sizeof(sockaddr_in6)) {
        const auto from = read_as<sockaddr_in6>(value);
        address = ip_of(std::as_bytes(std::span(&from.sin6_addr, 1)));
        endpoint.port = ntohs(from.sin6_port);
    }
    if (!address) return std::nullopt;
    endpoint.address = *address;
    return endpoint;
}

void add_allowed_ips(Message& message, std::span<const IpPrefix> prefixes) {
    message.nest(WGPEER_A_ALLOWEDIPS, [&] {
        for (const IpPrefix& prefix : prefixes) {
            message.nest(0, [&] {
                const std::uint16_t family = prefix.is_v4() ? AF_INET : AF_INET6;
                const std::uint8_t length = prefix.length();
                const Bytes address = bytes_of(prefix.address());
                message.attribute(WGALLOWEDIP_A_FAMILY, &family, sizeof family);
                message.attribute(WGALLOWEDIP_A_IPADDR, address.data(), address.size());
                message.attribute(WGALLOWEDIP_A_CIDR_MASK, &length, sizeof length);
            });
        }
    });
}

std::optional<IpPrefix> allowed_ip_of(Bytes value) {
    std::optional<IpAddress> address;
    std::uint8_t length = 0;
    for_each_attribute(value, [&](std::uint16_t type, Bytes inner) {
        if (type == WGALLOWEDIP_A_IPADDR) address = ip_of(inner);
        if (type == WGALLOWEDIP_A_CIDR_MASK) length = read_as<std::uint8_t>(inner);
    });
    if (!address) return std::nullopt;
    return IpPrefix(*address, length);
}

// What one message says of a peer: all of it, or the next of its allowed ips.
struct Part {
    WireguardPeerChange change;
    std::size_t bytes = 0;
};

Part part_of(WireguardPeerChange change) {
    const std::size_t size = kPeerBytes + kAllowedIpBytes * change.allowed_ips.size();
    return {std::move(change), size};
}

std::vector<Part> split(std::span<const WireguardPeerChange> changes) {
    std::vector<Part> parts;
    for (const WireguardPeerChange& change : changes) {
        WireguardPeerChange first = change;
        first.start_session = false;
        std::span<const IpPrefix> rest(change.allowed_ips);
        const auto take = [&](WireguardPeerChange& part) {
            const std::size_t count = std::min(rest.size(), kAllowedIpsPerPart);
            part.allowed_ips.assign(rest.begin(), rest.begin() + static_cast<long>(count));
            rest = rest.subspan(count);
        };
        take(first);
        // A keepalive that was off and comes on is sent at once, and so is a handshake before it.
        if (change.start_session) first.keepalive = std::chrono::seconds(25);
        parts.push_back(part_of(std::move(first)));
        while (!rest.empty()) {
            WireguardPeerChange next;
            next.public_key = change.public_key;
            take(next);
            parts.push_back(part_of(std::move(next)));
        }
        if (change.start_session) {
            WireguardPeerChange last;
            last.public_key = change.public_key;
            last.keepalive = change.keepalive.value_or(std::chrono::seconds(0));
            parts.push_back(part_of(std::move(last)));
        }
    }
    return parts;
}

void add_peer(Message& message, const WireguardPeerChange& change) {
    message.nest(0, [&] {
        message.attribute(WGPEER_A_PUBLIC_KEY, change.public_key.bytes().data(), WG_KEY_LEN);
        std::uint32_t flags = 0;
        if (change.remove) flags |= WGPEER_F_REMOVE_ME;
        if (change.replace_allowed_ips) flags |= WGPEER_F_REPLACE_ALLOWEDIPS;
        if (flags != 0) message.attribute(WGPEER_A_FLAGS, flags);
        if (change.remove) return;
        if (change.endpoint) add_endpoint(message, *change.endpoint);
        if (change.keepalive) {
            const auto seconds = static_cast<std::uint16_t>(change.keepalive->count());
            message.attribute(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, &seconds, sizeof seconds);
        }
        if (!change.allowed_ips.empty()) add_allowed_ips(message, change.allowed_ips);
    });
}

std::optional<WireguardPublicKey> key_of(Bytes value) {
    if (value.size() != WG_KEY_LEN) return std::nullopt;
    return WireguardPublicKey(read_as<WireguardPublicKey::Bytes>(value));
}

void read_peer(Bytes value, WireguardState& state) {
    std::optional<WireguardPublicKey> key;
    for_each_attribute(value, [&](std::uint16_t type, Bytes inner) {
        if (type == WGPEER_A_PUBLIC_KEY) key = key_of(inner);
    });
    if (!key) return;
    WireguardPeerState& peer = state.peers[*key];
    for_each_attribute(value, [&](std::uint16_t type, Bytes inner) {
        if (type == WGPEER_A_ENDPOINT) peer.endpoint = endpoint_of(inner);
        if (type == WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL) {
            peer.keepalive = std::chrono::seconds(read_as<std::uint16_t>(inner));
        }
        if (type == WGPEER_A_RX_BYTES) peer.received_bytes = read_as<std::uint64_t>(inner);
        if (type == WGPEER_A_TX_BYTES) peer.sent_bytes = read_as<std::uint64_t>(inner);
        if (type == WGPEER_A_LAST_HANDSHAKE_TIME) {
            struct KernelTimespec {
                std::int64_t seconds, nanoseconds;
            };
            const auto time = read_as<KernelTimespec>(inner);
            peer.last_handshake =
                std::chrono::seconds(time.seconds) + std::chrono::nanoseconds(time.nanoseconds);
        }
        if (type == WGPEER_A_ALLOWEDIPS) {
            for_each_attribute(inner, [&](std::uint16_t, Bytes entry) {
                if (const auto prefix = allowed_ip_of(entry)) peer.allowed_ips.push_back(*prefix);
            });
            std::ranges::sort(peer.allowed_ips);
        }
    });
}

}  // namespace

Message encode_get_family() {
    Message message = message_of(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, 1);
    message.attribute(CTRL_ATTR_FAMILY_NAME, std::string_view(WG_GENL_NAME));
    return message;
}

std::optional<std::uint16_t> parse_family(Bytes body) {
    std::optional<std::uint16_t> id;
    if (body.size() < sizeof(genlmsghdr)) return id;
    for_each_attribute(body.subspan(sizeof(genlmsghdr)), [&](std::uint16_t type, Bytes value) {
        if (type == CTRL_ATTR_FAMILY_ID && value.size() == sizeof(std::uint16_t)) {
            id = read_as<std::uint16_t>(value);
        }
    });
    return id;
}

Message encode_get(std::uint16_t family, std::string_view device) {
    Message message = message_of(family, WG_CMD_GET_DEVICE, NLM_F_DUMP, WG_GENL_VERSION);
    message.attribute(WGDEVICE_A_IFNAME, device);
    return message;
}

void parse_state(Bytes body, WireguardState& state) {
    if (body.size() < sizeof(genlmsghdr)) return;
    for_each_attribute(body.subspan(sizeof(genlmsghdr)), [&](std::uint16_t type, Bytes value) {
        if (type == WGDEVICE_A_PRIVATE_KEY && value.size() == WG_KEY_LEN) {
            const auto bytes = read_as<WireguardPrivateKey::Bytes>(value);
            // All zero: it has none.
            if (bytes != WireguardPrivateKey::Bytes{}) state.private_key.emplace(bytes);
        }
        if (type == WGDEVICE_A_LISTEN_PORT) state.port = read_as<std::uint16_t>(value);
        if (type == WGDEVICE_A_FWMARK) state.mark = read_as<std::uint32_t>(value);
        if (type == WGDEVICE_A_PEERS) {
            for_each_attribute(value, [&](std::uint16_t, Bytes peer) { read_peer(peer, state); });
        }
    });
}

Message encode(std::uint16_t family, std::string_view device, const WireguardSettings& settings) {
    Message message = message_of(family, WG_CMD_SET_DEVICE, NLM_F_ACK, WG_GENL_VERSION);
    message.attribute(WGDEVICE_A_IFNAME, device);
    if (settings.private_key) {
        message.attribute(WGDEVICE_A_PRIVATE_KEY, settings.private_key->bytes().data(), WG_KEY_LEN);
    }
    if (settings.port)
        message.attribute(WGDEVICE_A_LISTEN_PORT, &*settings.port, sizeof(std::uint16_t));
    if (settings.mark) message.attribute(WGDEVICE_A_FWMARK, *settings.mark);
    return message;
}

std::vector<Message> encode(std::uint16_t family, std::string_view device,
                            std::span<const WireguardPeerChange> changes) {
    const std::vector<Part> parts = split(changes);
    std::vector<Message> messages;
    for (std::size_t at = 0; at < parts.size();) {
        Message message = message_of(family, WG_CMD_SET_DEVICE, NLM_F_ACK, WG_GENL_VERSION);
        message.attribute(WGDEVICE_A_IFNAME, device);
        message.nest(WGDEVICE_A_PEERS, [&] {
            std::size_t bytes = 0;
            do {
                bytes += parts[at].bytes;
                add_peer(message, parts[at++].change);
            } while (at < parts.size() && bytes + parts[at].bytes <= kMessageBytes);
        });
        messages.push_back(std::move(message));
    }
    return messages;
}

Message encode_new_link(std::string_view device, std::uint32_t mtu) {
    Message message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    message.body(ifinfomsg{});
    message.attribute(IFLA_IFNAME, device);
    message.attribute(IFLA_MTU, mtu);
    message.nest(IFLA_LINKINFO,
                 [&] { message.attribute(IFLA_INFO_KIND, std::string_view("wireguard")); });
    return message;
}

}  // namespace mesh::datapath::genetlink
