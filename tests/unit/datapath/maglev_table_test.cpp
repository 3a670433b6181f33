#include "datapath/maglev_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

namespace {

using namespace mesh::datapath;  // NOLINT: a test of this namespace
using mesh::model::IpAddress;

std::vector<Backend> backends(std::uint32_t count, std::uint32_t first = 1) {
    std::vector<Backend> all(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        all[i].address = IpAddress::v4(0x0a0a0000U + first + i);
        all[i].port = 8080;
    }
    return all;
}

std::map<IpAddress, std::size_t> shares(const std::vector<Backend>& of,
                                        const std::vector<std::uint32_t>& table) {
    std::map<IpAddress, std::size_t> count;
    for (const std::uint32_t index : table) ++count[of[index].address];
    return count;
}

TEST(MaglevTable, SizesArePrimesOfTheList) {
    for (const std::uint32_t size : {251U, 4093U, 16381U, 131071U}) {
        EXPECT_TRUE(is_maglev_size(size));
    }
    for (const std::uint32_t size : {0U, 1U, 250U, 257U, 4096U}) EXPECT_FALSE(is_maglev_size(size));
    EXPECT_TRUE(is_maglev_size(kDefaultMaglevSize));
}

TEST(MaglevTable, EveryPlaceIsTakenAndSharesAreEven) {
    for (const std::uint32_t count : {1U, 2U, 7U, 40U}) {
        const auto all = backends(count);
        const auto table = make_maglev_table(all, 4093);
        ASSERT_EQ(table.size(), 4093U);
        const auto counts = shares(all, table);
        ASSERT_EQ(counts.size(), count);
        std::size_t least = table.size(), most = 0;
        for (const auto& [address, places] : counts) {
            least = std::min(least, places);
            most = std::max(most, places);
        }
        // They take turns: nobody is ahead by more than one.
        EXPECT_LE(most - least, 1U) << count;
    }
}

TEST(MaglevTable, SharesFollowWeights) {
    auto all = backends(3);
    all[0].weight = 1;
    all[1].weight = 2;
    all[2].weight = 5;
    const auto counts = shares(all, make_maglev_table(all, 4093));
    EXPECT_NEAR(static_cast<double>(counts.at(all[0].address)), 4093.0 / 8, 2);
    EXPECT_NEAR(static_cast<double>(counts.at(all[1].address)), 4093.0 / 4, 2);
    EXPECT_NEAR(static_cast<double>(counts.at(all[2].address)), 4093.0 * 5 / 8, 2);
    all[2].weight = 0;
    EXPECT_EQ(shares(all, make_maglev_table(all, 4093)).size(), 2U);
    all[0].weight = all[1].weight = 0;
    EXPECT_TRUE(make_maglev_table(all, 4093).empty());
    EXPECT_TRUE(make_maglev_table({}, 4093).empty());
}

TEST(MaglevTable, FewChangePlacesWhenOneGoes) {
    const auto all = backends(20);
    const auto before = make_maglev_table(all, 4093);
    for (const std::size_t gone : {0U, 7U, 19U}) {
        std::vector<Backend> rest = all;
        rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(gone));
        const auto after = make_maglev_table(rest, 4093);
        std::size_t moved = 0, orphans = 0;
        for (std::size_t i = 0; i < before.size(); ++i) {
            if (before[i] == gone) {
                ++orphans;
            } else if (all[before[i]].address != rest[after[i]].address) {
                ++moved;
            }
        }
        EXPECT_NEAR(static_cast<double>(orphans), 4093.0 / 20, 2);
        // A hash modulo the number of backends would move 95%.
        EXPECT_LT(moved, before.size() / 10) << gone;
    }
}

TEST(MaglevTable, TheTableIsThatOfEveryNode) {
    // Written down: another version, compiler or machine must make the same.
    auto all = backends(5);
    all[3].weight = 3;
    const auto table = make_maglev_table(all, 251);
    std::uint64_t digest = 1469598103934665603ULL;
    for (const std::uint32_t index : table) digest = (digest ^ index) * 1099511628211ULL;
    EXPECT_EQ(digest, 7006213635153138741ULL);
}

}  // namespace
