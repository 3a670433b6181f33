// Encryption in strict mode: what of pods is dropped as it would go, or came, in plain. What stands
// for the WireGuard device is the underlay's: the programs only ask whether a packet goes or came
// by the device that they are told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>

#include "fabric.hpp"

namespace mesh::test {
namespace {

using datapath::DeviceRole;
using datapath::DropReason;

constexpr std::uint16_t kVxlanPort = 8472;

class StrictTest : public ::testing::TestWithParam<bool> {
  protected:
    Fabric fabric{GetParam()};

    /// @param encrypted whether the peer has a key
    void make_strict(int n, bool encrypted, std::uint32_t wireguard) {
        auto& pods = fabric.node(n).pods();
        const FabricNode& peer = fabric.node(3 - n);
        for (const std::string& ip : {peer.ip4(), peer.ip6()}) {
            ASSERT_TRUE(pods.set_encrypted(address(ip), encrypted));
        }
        ASSERT_TRUE(
            pods.configure_encryption({.strict = true,
                                       .wireguard_ifindex = wireguard,
                                       .tunnel_port = GetParam() ? kVxlanPort : std::uint16_t{0}}));
    }
    [[nodiscard]] std::uint32_t device(int n) {
        unsigned index = 0;
        fabric.node(n).netns.run([&] { index = ::if_nametoindex("eth0"); });
        return index;
    }
    /// Puts a program on the underlay's device.
    [[nodiscard]] bool attach(int n, DeviceRole role) {
        const std::uint32_t index = device(n);
        bool done = false;
        fabric.node(n).netns.run(
            [&] { done = fabric.node(n).pods().attach(index, role).has_value(); });
        return done;
    }
    /// Whether a request of a pod of node 1 to one of node 2 is answered.
    [[nodiscard]] bool answered(bool v6 = false) {
        const FabricPod& to = fabric.pod(2, 0);
        int code = -1;
        fabric.pod(1, 0).netns.run([&] {
            const std::string command =
                "ping -n -c 1 -W 1 " + (v6 ? to.ip6 : to.ip4) + " >/dev/null 2>&1";
            code = std::system(command.c_str());
        });
        return code == 0;
    }
    [[nodiscard]] std::uint64_t plain(int n) {
        return fabric.node(n).dropped(DropReason::kPlaintext);
    }
};
INSTANTIATE_TEST_SUITE_P(Modes, StrictTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(StrictTest, WhatWouldGoInPlainIsDropped) {
    ASSERT_TRUE(answered() && answered(true));
    make_strict(1, true, 4711);
    EXPECT_FALSE(answered());
    EXPECT_FALSE(answered(true));
    EXPECT_EQ(plain(1), 2U);
    EXPECT_EQ(plain(2), 0U);
}

TEST_P(StrictTest, WhatCameInPlainIsDropped) {
    make_strict(2, true, 4711);
    EXPECT_FALSE(answered());
    EXPECT_FALSE(answered(true));
    EXPECT_EQ(plain(1), 0U);
    EXPECT_EQ(plain(2), 2U);
}

TEST_P(StrictTest, NodesWithoutAKeyAreSpokenToInPlain) {
    make_strict(1, false, 4711);
    make_strict(2, false, 4711);
    EXPECT_TRUE(answered() && answered(true));
    // It publishes one, and takes it back.
    make_strict(1, true, 4711);
    EXPECT_FALSE(answered());
    make_strict(1, false, 4711);
    EXPECT_TRUE(answered());
    // A node whose record is gone, or not known yet, may have a key.
    const FabricNode& peer = fabric.node(2);
    ASSERT_TRUE(
        fabric.node(1).pods().apply({.removed_nodes = {address(peer.ip4()), address(peer.ip6())}}));
    EXPECT_FALSE(answered());
}

TEST_P(StrictTest, WhatGoesAndComesByTheWireguardDeviceIsTaken) {
    if (!GetParam()) GTEST_SKIP() << "native: the stack forwards what WireGuard decrypted";
    for (const int n : {1, 2}) {
        make_strict(n, true, device(n));
        ASSERT_TRUE(attach(n, DeviceRole::kWireguard));
    }
    EXPECT_TRUE(answered());
    EXPECT_TRUE(answered(true));
    EXPECT_EQ(plain(1) + plain(2), 0U);
    // The mark is what tells: without it the same packets are plain.
    ASSERT_TRUE(attach(2, DeviceRole::kDevice));
    EXPECT_FALSE(answered());
    EXPECT_EQ(plain(2), 1U);
}

TEST_P(StrictTest, ARestartKnowsWhoMustBeEncrypted) {
    make_strict(1, true, 4711);
    fabric.node(1).close();
    EXPECT_FALSE(answered());
    fabric.node(1).open();
    const FabricNode& peer = fabric.node(2);
    EXPECT_THAT(fabric.node(1).pods().encrypted(),
                ::testing::UnorderedElementsAre(address(peer.ip4()), address(peer.ip6())));
    EXPECT_FALSE(answered());
    ASSERT_TRUE(fabric.node(1).pods().configure_encryption({}));
    EXPECT_TRUE(answered());
}

}  // namespace
}  // namespace mesh::test
