#include "datapath/wireguard/uapi.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::datapath {
namespace {

using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

WireguardPublicKey key(std::uint8_t last) {
    WireguardPublicKey::Bytes bytes{};
    bytes[0] = 0xa0;
    bytes[31] = last;
    return WireguardPublicKey(bytes);
}
std::string hex(const char* last) {
    return "a0" + std::string(60, '0') + last;
}
IpPrefix prefix(const char* text) {
    return IpPrefix::parse(text).value();
}

TEST(Uapi, EncodesSettings) {
    WireguardSettings settings;
    EXPECT_EQ(uapi::encode(settings), "set=1\n\n");
    settings.port = 51871;
    settings.mark = 0xe00;
    settings.private_key.emplace(WireguardPrivateKey::Bytes{});
    EXPECT_EQ(uapi::encode(settings), "set=1\nprivate_key=" + std::string(62, '0') +
                                          "40\nlisten_port=51871\nfwmark=3584\n\n");
}

TEST(Uapi, EncodesPeersInBatches) {
    WireguardPeerChange add{key(1)};
    add.endpoint = {IpAddress::parse("192.0.2.1").value(), 51871};
    add.keepalive = seconds(7);
    add.allowed_ips = {prefix("10.1.0.0/24"), prefix("fd00::/64")};
    WireguardPeerChange replace{key(2)};
    replace.endpoint = {IpAddress::parse("fd00::2").value(), 1};
    replace.replace_allowed_ips = true;
    WireguardPeerChange successor{key(3)};
    successor.allowed_ips = {prefix("10.3.0.0/24")};
    successor.start_session = true;
    WireguardPeerChange remove{key(4)};
    remove.remove = true;
    const std::vector<WireguardPeerChange> changes{add, replace, successor, remove};
    EXPECT_THAT(uapi::encode(changes, 3),
                ElementsAre("set=1\npublic_key=" + hex("01") +
                                "\nendpoint=192.0.2.1:51871\nallowed_ip=10.1.0.0/24\n"
                                "allowed_ip=fd00::/64\npersistent_keepalive_interval=7\n"
                                "public_key=" +
                                hex("02") +
                                "\nendpoint=[fd00::2]:1\nreplace_allowed_ips=true\n"
                                "public_key=" +
                                hex("03") +
                                "\nallowed_ip=10.3.0.0/24\npersistent_keepalive_interval=25\n"
                                "public_key=" +
                                hex("03") + "\npersistent_keepalive_interval=0\n\n",
                            "set=1\npublic_key=" + hex("04") + "\nremove=true\n\n"));
    EXPECT_THAT(uapi::encode(std::span<const WireguardPeerChange>{}), testing::IsEmpty());
}

TEST(Uapi, ReadsTheOutcome) {
    EXPECT_TRUE(uapi::parse_outcome("errno=0\n\n"));
    EXPECT_EQ(uapi::parse_outcome("errno=-22\n\n").error().code(), Errc::kInvalidArgument);
    EXPECT_EQ(uapi::parse_outcome("errno=-98\n\n").error().code(), Errc::kUnavailable);
    EXPECT_EQ(uapi::parse_outcome("errno=x\n\n").error().code(), Errc::kCorrupt);
    EXPECT_EQ(uapi::parse_outcome("\n\n").error().code(), Errc::kCorrupt);
}

// As wireguard-go 0.0.20220316 answers.
TEST(Uapi, ReadsTheStateOfADevice) {
    const std::string answer = "private_key=" + std::string(62, '1') +
                               "51\nlisten_port=51871\nfwmark=3584\npublic_key=" + hex("01") +
                               "\npreshared_key=" + std::string(64, '0') +
                               "\nprotocol_version=1\nendpoint=[fd00::1]:5\n"
                               "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n"
                               "tx_bytes=148\nrx_bytes=92\npersistent_keepalive_interval=7\n"
                               "allowed_ip=fd00::/64\nallowed_ip=10.0.0.0/8\npublic_key=" +
                               hex("02") + "\nlast_handshake_time_sec=0\nerrno=0\n\n";
    const auto state = uapi::parse_state(answer);
    ASSERT_TRUE(state) << state.error().message();
    EXPECT_EQ(state->private_key->bytes()[1], 0x11);
    EXPECT_EQ(state->port, 51871);
    EXPECT_EQ(state->mark, 0xe00U);
    ASSERT_EQ(state->peers.size(), 2U);
    const WireguardPeerState& peer = state->peers.at(key(1));
    EXPECT_EQ(peer.endpoint, (WireguardEndpoint{IpAddress::parse("fd00::1").value(), 5}));
    EXPECT_EQ(peer.last_handshake, seconds(1700000000) + std::chrono::nanoseconds(5));
    EXPECT_EQ(peer.sent_bytes, 148U);
    EXPECT_EQ(peer.received_bytes, 92U);
    EXPECT_EQ(peer.keepalive, seconds(7));
    EXPECT_THAT(peer.allowed_ips, ElementsAre(prefix("10.0.0.0/8"), prefix("fd00::/64")));
    EXPECT_FALSE(state->peers.at(key(2)).endpoint);
}

TEST(Uapi, ABrokenAnswerIsAnErrorThatTellsNoValue) {
    for (const std::string& bad :
         {std::string("private_key=secret\nerrno=0\n\n"),
          std::string("listen_port=secret\nerrno=0\n\n"),
          "public_key=" + hex("0g") + "\nerrno=0\n\n",
          "public_key=" + hex("01") + "\nallowed_ip=secret\nerrno=0\n\n"}) {
        const auto state = uapi::parse_state(bad);
        ASSERT_FALSE(state) << bad;
        EXPECT_EQ(state.error().code(), Errc::kCorrupt);
        EXPECT_THAT(state.error().detail(), Not(HasSubstr("secret")));
    }
    EXPECT_FALSE(uapi::parse_state("listen_port=1\nerrno=-5\n\n"));
}

}  // namespace
}  // namespace mesh::datapath
