#include "datapath/wireguard/genetlink.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/genetlink.h>
#include <linux/wireguard.h>
#include <netinet/in.h>

#include <map>

namespace mesh::datapath {
namespace {

using detail::aligned;
using detail::for_each_attribute;
using detail::Message;
using detail::read_as;
using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;
using std::chrono::seconds;
using testing::ElementsAre;
using Bytes = std::span<const std::byte>;

constexpr std::uint16_t kFamily = 29;

WireguardPublicKey key(std::uint8_t last) {
    WireguardPublicKey::Bytes bytes{};
    bytes[31] = last;
    return WireguardPublicKey(bytes);
}
IpPrefix prefix(const char* text) {
    return IpPrefix::parse(text).value();
}
std::vector<IpPrefix> many_prefixes(std::size_t count) {
    std::vector<IpPrefix> prefixes;
    for (std::size_t i = 0; i < count; ++i) {
        prefixes.emplace_back(IpAddress::v4(static_cast<std::uint32_t>(0x0a000000 + i)),
                              std::uint8_t{32});
    }
    return prefixes;
}

using Attributes = std::multimap<std::uint16_t, Bytes>;
Attributes attributes(Bytes bytes) {
    Attributes found;
    for_each_attribute(bytes, [&](std::uint16_t type, Bytes value) { found.emplace(type, value); });
    return found;
}
// What follows nlmsghdr.
Bytes body_of(Message& message) {
    return message.finish(1).subspan(sizeof(nlmsghdr));
}
Bytes one(const Attributes& all, std::uint16_t type) {
    EXPECT_EQ(all.count(type), 1U) << type;
    return all.contains(type) ? all.find(type)->second : Bytes{};
}

TEST(Genetlink, AsksForTheFamilyByName) {
    Message message = genetlink::encode_get_family();
    const Bytes bytes = message.finish(7);
    EXPECT_EQ(read_as<nlmsghdr>(bytes).nlmsg_type, GENL_ID_CTRL);
    EXPECT_EQ(read_as<nlmsghdr>(bytes).nlmsg_len, bytes.size());
    const Bytes body = body_of(message);
    EXPECT_EQ(read_as<genlmsghdr>(body).cmd, CTRL_CMD_GETFAMILY);
    const Bytes name = one(attributes(body.subspan(4)), CTRL_ATTR_FAMILY_NAME);
    EXPECT_STREQ(reinterpret_cast<const char*>(name.data()), "wireguard");

    Message answer(GENL_ID_CTRL, 0);
    answer.body(genlmsghdr{CTRL_CMD_NEWFAMILY, 2, 0});
    answer.attribute(CTRL_ATTR_FAMILY_NAME, std::string_view("wireguard"));
    EXPECT_FALSE(genetlink::parse_family(body_of(answer)));
    answer.attribute(CTRL_ATTR_FAMILY_ID, &kFamily, sizeof kFamily);
    EXPECT_EQ(genetlink::parse_family(body_of(answer)), kFamily);
    EXPECT_FALSE(genetlink::parse_family({}));
}

TEST(Genetlink, EncodesSettings) {
    WireguardSettings settings;
    settings.private_key.emplace(WireguardPrivateKey::Bytes{8});
    settings.port = 51871;
    settings.mark = 0xe00;
    Message message = genetlink::encode(kFamily, "wg0", settings);
    const auto header = read_as<nlmsghdr>(message.finish(1));
    EXPECT_EQ(header.nlmsg_type, kFamily);
    EXPECT_EQ(header.nlmsg_flags, NLM_F_REQUEST | NLM_F_ACK);
    const Bytes body = body_of(message);
    EXPECT_EQ(read_as<genlmsghdr>(body).cmd, WG_CMD_SET_DEVICE);
    EXPECT_EQ(read_as<genlmsghdr>(body).version, WG_GENL_VERSION);
    const Attributes all = attributes(body.subspan(4));
    EXPECT_EQ(one(all, WGDEVICE_A_IFNAME).size(), 4U);
    EXPECT_EQ(one(all, WGDEVICE_A_PRIVATE_KEY).size(), 32U);
    EXPECT_EQ(one(all, WGDEVICE_A_LISTEN_PORT).size(), 2U);
    EXPECT_EQ(read_as<std::uint16_t>(one(all, WGDEVICE_A_LISTEN_PORT)), 51871);
    EXPECT_EQ(read_as<std::uint32_t>(one(all, WGDEVICE_A_FWMARK)), 0xe00U);
    EXPECT_EQ(all.size(), 4U);
}

TEST(Genetlink, EncodesPeers) {
    WireguardPeerChange add{key(1)};
    add.endpoint = {IpAddress::parse("192.0.2.1").value(), 51871};
    add.allowed_ips = {prefix("10.1.0.0/24"), prefix("fd00::/64")};
    add.replace_allowed_ips = true;
    add.keepalive = seconds(7);
    WireguardPeerChange six{key(2)};
    six.endpoint = {IpAddress::parse("fd00::2").value(), 1};
    WireguardPeerChange remove{key(3)};
    remove.remove = true;
    auto messages = genetlink::encode(kFamily, "wg0", std::vector{add, six, remove});
    ASSERT_EQ(messages.size(), 1U);
    const Attributes device = attributes(body_of(messages[0]).subspan(4));
    EXPECT_EQ(device.size(), 2U);
    std::vector<Attributes> peers;
    for_each_attribute(one(device, WGDEVICE_A_PEERS),
                       [&](std::uint16_t, Bytes value) { peers.push_back(attributes(value)); });
    ASSERT_EQ(peers.size(), 3U);

    EXPECT_EQ(read_as<WireguardPublicKey::Bytes>(one(peers[0], WGPEER_A_PUBLIC_KEY)),
              key(1).bytes());
    EXPECT_EQ(read_as<std::uint32_t>(one(peers[0], WGPEER_A_FLAGS)), WGPEER_F_REPLACE_ALLOWEDIPS);
    EXPECT_EQ(read_as<std::uint16_t>(one(peers[0], WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL)), 7);
    const auto to = read_as<sockaddr_in>(one(peers[0], WGPEER_A_ENDPOINT));
    EXPECT_EQ(one(peers[0], WGPEER_A_ENDPOINT).size(), sizeof to);
    EXPECT_EQ(to.sin_family, AF_INET);
    EXPECT_EQ(ntohs(to.sin_port), 51871);
    EXPECT_EQ(ntohl(to.sin_addr.s_addr), 0xc0000201U);
    std::vector<Attributes> ips;
    for_each_attribute(one(peers[0], WGPEER_A_ALLOWEDIPS),
                       [&](std::uint16_t, Bytes value) { ips.push_back(attributes(value)); });
    ASSERT_EQ(ips.size(), 2U);
    EXPECT_EQ(read_as<std::uint16_t>(one(ips[0], WGALLOWEDIP_A_FAMILY)), AF_INET);
    EXPECT_EQ(one(ips[0], WGALLOWEDIP_A_IPADDR).size(), 4U);
    EXPECT_EQ(read_as<std::uint8_t>(one(ips[0], WGALLOWEDIP_A_CIDR_MASK)), 24);
    EXPECT_EQ(read_as<std::uint16_t>(one(ips[1], WGALLOWEDIP_A_FAMILY)), AF_INET6);
    EXPECT_EQ(one(ips[1], WGALLOWEDIP_A_IPADDR).size(), 16U);

    const auto six_to = read_as<sockaddr_in6>(one(peers[1], WGPEER_A_ENDPOINT));
    EXPECT_EQ(six_to.sin6_family, AF_INET6);
    EXPECT_EQ(ntohs(six_to.sin6_port), 1);
    EXPECT_EQ(six_to.sin6_addr.s6_addr[15], 2);
    EXPECT_EQ(peers[1].size(), 2U);

    EXPECT_EQ(read_as<std::uint32_t>(one(peers[2], WGPEER_A_FLAGS)), WGPEER_F_REMOVE_ME);
    EXPECT_EQ(peers[2].size(), 2U);
}

// The messages of a set have the form of those of an answer, so that reading back what was encoded
// shows that nothing is lost at the seams.
TEST(Genetlink, LargePeersAreContinuedAndNoMessageIsTooLong) {
    std::vector<WireguardPeerChange> changes;
    for (std::uint8_t i = 1; i <= 60; ++i) {
        WireguardPeerChange& change = changes.emplace_back();
        change.public_key = key(i);
        change.endpoint = {IpAddress::parse("2001:db8::1").value(), i};
        change.replace_allowed_ips = true;
        change.allowed_ips = many_prefixes(i == 5 ? 3000 : 10);
    }
    WireguardState state;
    auto messages = genetlink::encode(kFamily, "wg0", changes);
    EXPECT_GT(messages.size(), 5U);
    std::size_t replacing = 0;
    for (Message& message : messages) {
        EXPECT_LT(message.finish(1).size(), 16U * 1024);
        const Bytes body = body_of(message);
        const Attributes device = attributes(body.subspan(4));
        for_each_attribute(one(device, WGDEVICE_A_PEERS), [&](std::uint16_t, Bytes value) {
            replacing += attributes(value).count(WGPEER_A_FLAGS);
        });
        genetlink::parse_state(body, state);
    }
    EXPECT_EQ(replacing, changes.size());  // once for each: a continuation only adds
    ASSERT_EQ(state.peers.size(), changes.size());
    for (const WireguardPeerChange& change : changes) {
        EXPECT_EQ(state.peers.at(change.public_key).allowed_ips, change.allowed_ips);
        EXPECT_EQ(state.peers.at(change.public_key).endpoint, change.endpoint);
    }
}

TEST(Genetlink, ASuccessorIsMadeToShakeHandsAndKeepsItsKeepalive) {
    WireguardPeerChange change{key(1)};
    change.start_session = true;
    auto messages = genetlink::encode(kFamily, "wg0", std::vector{change});
    std::vector<int> keepalives;
    for_each_attribute(one(attributes(body_of(messages.at(0)).subspan(4)), WGDEVICE_A_PEERS),
                       [&](std::uint16_t, Bytes value) {
                           keepalives.push_back(read_as<std::uint16_t>(
                               one(attributes(value), WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL)));
                       });
    EXPECT_THAT(keepalives, ElementsAre(25, 0));
}

TEST(Genetlink, ReadsTheStateAndSurvivesRubbish) {
    Message answer(kFamily, 0);
    answer.body(genlmsghdr{WG_CMD_GET_DEVICE, 1, 0});
    const WireguardPrivateKey::Bytes secret{8};
    const std::uint16_t port = 51871;
    answer.attribute(WGDEVICE_A_PRIVATE_KEY, secret.data(), secret.size());
    answer.attribute(WGDEVICE_A_LISTEN_PORT, &port, sizeof port);
    answer.attribute(WGDEVICE_A_FWMARK, 0xe00U);
    answer.nest(WGDEVICE_A_PEERS, [&] {
        answer.nest(0, [&] {
            const std::int64_t time[2] = {1700000000, 5};
            const std::uint64_t received = 92, sent = 148;
            answer.attribute(WGPEER_A_PUBLIC_KEY, key(1).bytes().data(), 32);
            answer.attribute(WGPEER_A_LAST_HANDSHAKE_TIME, time, sizeof time);
            answer.attribute(WGPEER_A_RX_BYTES, &received, sizeof received);
            answer.attribute(WGPEER_A_TX_BYTES, &sent, sizeof sent);
        });
    });
    const Bytes body = body_of(answer);
    WireguardState state;
    genetlink::parse_state(body, state);
    EXPECT_TRUE(state.private_key == WireguardPrivateKey(secret));
    EXPECT_EQ(state.port, 51871);
    EXPECT_EQ(state.mark, 0xe00U);
    EXPECT_EQ(state.peers.at(key(1)).last_handshake,
              seconds(1700000000) + std::chrono::nanoseconds(5));
    EXPECT_EQ(state.peers.at(key(1)).received_bytes, 92U);
    EXPECT_EQ(state.peers.at(key(1)).sent_bytes, 148U);
    for (std::size_t size = 0; size < body.size(); ++size) {
        WireguardState part;
        genetlink::parse_state(body.first(size), part);
    }
}

}  // namespace
}  // namespace mesh::datapath
