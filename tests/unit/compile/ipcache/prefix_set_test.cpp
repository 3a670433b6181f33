#include "compile/ipcache/prefix_set.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "runtime/clock.hpp"

namespace {

using mesh::Rng;
using mesh::compile::PrefixSet;
using mesh::model::IpAddress;
using mesh::model::IpPrefix;
using testing::ElementsAre;
using testing::IsEmpty;

IpPrefix prefix(std::string_view text) {
    return *IpPrefix::parse(text);
}
void fill(PrefixSet& set, const std::vector<std::string_view>& texts) {
    for (const auto text : texts) EXPECT_TRUE(set.insert(prefix(text)));
}
std::vector<std::string> within(const PrefixSet& set, std::string_view outer) {
    std::vector<std::string> found;
    set.for_each_within(prefix(outer), [&](const IpPrefix& p) { found.push_back(p.to_string()); });
    return found;
}
std::vector<std::string> around(const PrefixSet& set, std::string_view address) {
    std::vector<std::string> found;
    set.for_each_around(*IpAddress::parse(address),
                        [&](const IpPrefix& p) { found.push_back(p.to_string()); });
    return found;
}

TEST(PrefixSet, FindsWhatLiesWithinAndAround) {
    PrefixSet set;
    fill(set, {"10.0.0.0", "10.0.0.63", "10.0.0.64", "10.0.0.255", "10.0.1.7", "10.0.0.0/24",
               "10.0.0.0/16", "10.0.0.128/25", "fd00::1", "fd00::/64", "::/0"});
    EXPECT_EQ(set.size(), 11U);
    EXPECT_THAT(within(set, "10.0.0.0/26"), ElementsAre("10.0.0.0/32", "10.0.0.63/32"));
    EXPECT_THAT(within(set, "10.0.0.64/26"), ElementsAre("10.0.0.64/32"));
    EXPECT_THAT(within(set, "10.0.0.64/32"), ElementsAre("10.0.0.64/32"));
    EXPECT_THAT(within(set, "10.0.0.128/25"), ElementsAre("10.0.0.255/32", "10.0.0.128/25"));
    EXPECT_THAT(within(set, "10.0.1.0/24"), ElementsAre("10.0.1.7/32"));
    EXPECT_EQ(within(set, "10.0.0.0/15").size(), 8U);
    EXPECT_EQ(within(set, "0.0.0.0/0").size(), 8U);
    EXPECT_THAT(within(set, "::/0"), ElementsAre("fd00::1/128", "::/0", "fd00::/64"));
    EXPECT_THAT(within(set, "10.1.0.0/16"), IsEmpty());
    EXPECT_THAT(around(set, "10.0.0.200"),
                ElementsAre("10.0.0.0/16", "10.0.0.0/24", "10.0.0.128/25"));
    EXPECT_THAT(around(set, "10.0.0.0"), ElementsAre("10.0.0.0/16", "10.0.0.0/24"));
    EXPECT_THAT(around(set, "fd00::1"), ElementsAre("::/0", "fd00::/64"));
    EXPECT_THAT(around(set, "192.0.2.1"), IsEmpty());
}

TEST(PrefixSet, TakesOutInOrder) {
    PrefixSet set;
    fill(set, {"fd00::/64", "10.0.0.0/24", "fd00::1", "10.0.0.200", "10.0.0.3"});
    std::vector<std::string> order;
    set.for_each_while([&](const IpPrefix& p) {
        order.push_back(p.to_string());
        return order.size() < 4;
    });
    EXPECT_THAT(order, ElementsAre("10.0.0.3/32", "10.0.0.200/32", "10.0.0.0/24", "fd00::1/128"));
    order.clear();
    while (const auto p = set.pop_first()) order.push_back(p->to_string());
    EXPECT_THAT(order, ElementsAre("10.0.0.3/32", "10.0.0.200/32", "10.0.0.0/24", "fd00::1/128",
                                   "fd00::/64"));
    EXPECT_TRUE(set.empty());
    EXPECT_EQ(set.bytes(), 0U);
}

TEST(PrefixSet, IsSmallWhereDense) {
    PrefixSet set;
    for (std::uint32_t i = 0; i < 100'000; ++i) {
        set.insert(IpPrefix(IpAddress::v4(0x0a000000U + i), 32));
    }
    EXPECT_LT(set.bytes(), 50'000U);
}

TEST(PrefixSet, IsASet) {
    Rng rng(7);
    PrefixSet set;
    std::set<IpPrefix> plain;
    const auto random_prefix = [&] {
        const auto low = static_cast<std::uint8_t>(rng.below(256));
        if (rng.below(3) == 0) {
            IpAddress::Bytes bytes{0xfd};
            bytes[14] = static_cast<std::uint8_t>(rng.below(2));
            bytes[15] = low;
            return IpPrefix(IpAddress(bytes),
                            static_cast<std::uint8_t>(rng.below(2) == 0 ? 128 : rng.below(129)));
        }
        return IpPrefix(IpAddress::v4(10, 0, static_cast<std::uint8_t>(rng.below(2)), low),
                        static_cast<std::uint8_t>(rng.below(2) == 0 ? 32 : rng.below(33)));
    };
    for (int step = 0; step < 20'000; ++step) {
        const IpPrefix p = random_prefix();
        if (rng.below(2) == 0) {
            ASSERT_EQ(set.insert(p), plain.insert(p).second);
        } else {
            ASSERT_EQ(set.erase(p), plain.erase(p) > 0);
        }
        ASSERT_EQ(set.size(), plain.size());
        const IpPrefix outer = random_prefix();
        ASSERT_EQ(set.contains(outer), plain.contains(outer));
        if (step % 20 != 0) continue;
        std::set<IpPrefix> found, expected, found_around, expected_around;
        set.for_each_within(outer, [&](const IpPrefix& q) { ASSERT_TRUE(found.insert(q).second); });
        set.for_each_around(outer.address(), [&](const IpPrefix& q) { found_around.insert(q); });
        for (const IpPrefix& q : plain) {
            if (outer.contains(q)) expected.insert(q);
            if (!q.is_host() && q.contains(outer.address())) expected_around.insert(q);
        }
        ASSERT_EQ(found, expected);
        ASSERT_EQ(found_around, expected_around);
    }
}

}  // namespace
