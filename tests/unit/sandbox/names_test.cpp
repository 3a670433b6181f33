#include "sandbox/names.hpp"

#include <gtest/gtest.h>
#include <net/if.h>

#include "sandbox/ipam.hpp"

namespace mesh::sandbox {
namespace {

using model::IpAddress;
using model::IpPrefix;

IpPrefix prefix(const char* text) {
    return IpPrefix::parse(text).value();
}
IpAddress address(const char* text) {
    return IpAddress::parse(text).value();
}

TEST(Names, OneSandboxesPrefixIsNoneOfAnothers) {
    const Names a = Names::make("a").value();
    const Names ab = Names::make("a-b").value();
    EXPECT_EQ(ab.node("node1"), "mesh-a-b.node1");
    EXPECT_FALSE(ab.node("node1").starts_with(a.prefix()));
    EXPECT_FALSE(a.pod("node10", "ns", "p").starts_with(a.pods_of("node1")));
    EXPECT_EQ(ab.pins("node1"), "mesh-a-b_node1");
    EXPECT_EQ(ab.pins("node1").find('.'), std::string::npos);
    EXPECT_FALSE(ab.pins("node1").starts_with(a.pins_prefix()));
    EXPECT_EQ(sandbox_of("mesh-a-b.node1.shop.client"), "a-b");
    EXPECT_EQ(sandbox_of("mesh-underlay"), std::nullopt);
    EXPECT_EQ(sandbox_of("other"), std::nullopt);
    EXPECT_EQ(sandbox_of("mesh-A.b"), std::nullopt);
    for (const char* bad : {"", "A", "a.b", "a/b", "../x", "-a", "a-", "default",
                            "a23456789012345678901234567890123"}) {
        EXPECT_FALSE(Names::make(bad)) << bad;
    }
}

TEST(Names, DevicesFitIfnamsiz) {
    EXPECT_LT(underlay_port(kMaxSlot, kMaxNodes).size(), std::size_t{IFNAMSIZ});
    EXPECT_EQ(slot_of_port(underlay_port(12, 3)), 12U);
    EXPECT_EQ(slot_of_port("p12"), std::nullopt);
    EXPECT_EQ(slot_of_port("mesh0"), std::nullopt);
    EXPECT_EQ(slot_of_port("pxn1"), std::nullopt);
}

TEST(Names, NodeAddressesAreDistinctAndOnTheUnderlay) {
    EXPECT_EQ(node_address4(1, 2).to_string(), "172.18.1.2");
    EXPECT_EQ(node_address4(300, 1).to_string(), "172.19.44.1");
    EXPECT_EQ(node_address6(300, 1).to_string(), "fd6d:6573:6800::12c:1");
    EXPECT_TRUE(IpPrefix(node_address4(1, 1), kUnderlayLength4)
                    .contains(node_address4(kMaxSlot, kMaxNodes)));
}

TEST(Ipam, NodeBlocks) {
    EXPECT_EQ(node_block(prefix("10.10.0.0/16"), 1, 2)->to_string(), "10.10.0.0/24");
    EXPECT_EQ(node_block(prefix("10.10.0.0/16"), 250, 250)->to_string(), "10.10.249.0/24");
    EXPECT_EQ(node_block(prefix("10.10.0.0/24"), 2, 2)->to_string(), "10.10.0.128/25");
    EXPECT_EQ(node_block(prefix("10.0.0.0/8"), 250, 250)->to_string(), "10.0.249.0/24");
    EXPECT_EQ(node_block(prefix("fd00:10::/48"), 3, 3)->to_string(), "fd00:10:0:2::/64");
    EXPECT_EQ(node_block(prefix("10.10.0.0/30"), 1, 1).error().code(), Errc::kInvalidArgument);
    EXPECT_FALSE(node_block(prefix("10.10.0.0/16"), 3, 2));
}

TEST(Ipam, CidrsOfTheCommandLine) {
    EXPECT_EQ(parse_cidrs("--pod-cidr", "10.10.0.0/16")->size(), 1U);
    EXPECT_EQ(parse_cidrs("--pod-cidr", "10.10.0.0/16,fd00::/48")->at(1).to_string(), "fd00::/48");
    for (const char* bad : {"", "10.10.0.0", "10.10.0.1/16", "fd00::/48",
                            "10.10.0.0/16,10.1.0.0/16", "10.10.0.0/16,", "x"}) {
        const auto refused = parse_cidrs("--pod-cidr", bad);
        ASSERT_FALSE(refused) << bad;
        EXPECT_TRUE(refused.error().detail().starts_with("--pod-cidr")) << refused.error().detail();
    }
}

TEST(Ipam, AddressesAreNotReusedAtOnceAndRunOut) {
    const IpPrefix block = prefix("10.0.0.0/29");
    std::uint64_t cursor = 0;
    const auto none = [](const IpAddress&) { return false; };
    EXPECT_EQ(take_address(block, cursor, none)->to_string(), "10.0.0.2");
    EXPECT_EQ(take_address(block, cursor, none)->to_string(), "10.0.0.3");
    for (const char* next : {"10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"}) {
        EXPECT_EQ(take_address(block, cursor, none)->to_string(), next);
    }
    const auto but_five = [](const IpAddress& ip) { return ip != address("10.0.0.5"); };
    EXPECT_EQ(take_address(block, cursor, but_five)->to_string(), "10.0.0.5");
    const auto full = take_address(block, cursor, [](const IpAddress&) { return true; });
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code(), Errc::kCapacity);
    std::uint64_t six = 0;
    EXPECT_EQ(take_address(prefix("fd00::/64"), six, none)->to_string(), "fd00::2");
}

}  // namespace
}  // namespace mesh::sandbox
