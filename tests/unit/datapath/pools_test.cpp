#include "datapath/pools.hpp"

#include <gtest/gtest.h>

#include <map>

#include "runtime/clock.hpp"

namespace {

using mesh::datapath::IdPool;
using mesh::datapath::RangePool;

TEST(IdPool, GivesEachIdOnceAndNeverZero) {
    IdPool pool(4);
    EXPECT_EQ(pool.take(), 1U);
    EXPECT_EQ(pool.take(), 2U);
    EXPECT_EQ(pool.take(), 3U);
    EXPECT_EQ(pool.take(), std::nullopt);
    EXPECT_EQ(pool.in_use(), 3U);
}

TEST(IdPool, AReleasedIdWaitsForTheGracePeriod) {
    IdPool pool(2);
    ASSERT_EQ(pool.take(), 1U);
    pool.release(1);
    EXPECT_EQ(pool.take(), std::nullopt);
    EXPECT_TRUE(pool.has_waiting());
    pool.pass_grace();
    EXPECT_EQ(pool.take(), 1U);
}

TEST(IdPool, GapsBetweenAdoptedIdsAreFree) {
    IdPool pool(7);
    pool.adopt(5);
    pool.adopt(2);
    pool.seal();
    EXPECT_EQ(pool.in_use(), 2U);
    std::vector<std::uint32_t> taken;
    while (const auto id = pool.take()) taken.push_back(*id);
    EXPECT_EQ(taken, (std::vector<std::uint32_t>{1, 3, 4, 6}));
}

TEST(RangePool, TakesTheSmallestThatFitsAndJoinsNeighbours) {
    RangePool pool(100);
    EXPECT_EQ(pool.take(10), 0U);
    EXPECT_EQ(pool.take(20), 10U);
    EXPECT_EQ(pool.take(30), 30U);
    pool.release(0, 10);
    pool.release(30, 30);
    EXPECT_EQ(pool.in_use(), 20U);
    EXPECT_EQ(pool.take(41), std::nullopt);
    pool.pass_grace();
    EXPECT_EQ(pool.take(10), 0U);
    EXPECT_EQ(pool.take(70), 30U);  // 30..59 joined with the rest
    EXPECT_EQ(pool.take(1), std::nullopt);
}

TEST(RangePool, AdoptsOnlyWhatIsFree) {
    RangePool pool(100);
    EXPECT_TRUE(pool.adopt(40, 20));
    EXPECT_FALSE(pool.adopt(50, 20));
    EXPECT_FALSE(pool.adopt(30, 11));
    EXPECT_FALSE(pool.adopt(90, 11));
    EXPECT_TRUE(pool.adopt(60, 40));
    EXPECT_TRUE(pool.adopt(0, 0));
    EXPECT_EQ(pool.take(40), 0U);
    EXPECT_EQ(pool.take(1), std::nullopt);
}

TEST(RangePool, NeverGivesAnEntryTwice) {
    mesh::Rng rng(7);
    RangePool pool(1000);
    std::map<std::uint32_t, std::uint32_t> held;
    std::vector<bool> taken(1000, false);
    std::uint32_t used = 0;
    for (int step = 0; step < 20000; ++step) {
        if (!held.empty() && rng.below(2) == 0) {
            auto at = held.begin();
            std::advance(at, static_cast<long>(rng.below(held.size())));
            for (std::uint32_t i = 0; i < at->second; ++i) taken[at->first + i] = false;
            used -= at->second;
            rng.below(2) == 0 ? pool.release(at->first, at->second)
                              : pool.untake(at->first, at->second);
            held.erase(at);
        } else {
            const auto count = static_cast<std::uint32_t>(1 + rng.below(40));
            if (const auto base = pool.take(count)) {
                for (std::uint32_t i = *base; i < *base + count; ++i) {
                    ASSERT_FALSE(taken.at(i));
                    taken[i] = true;
                }
                held[*base] = count;
                used += count;
            } else {
                pool.pass_grace();
            }
        }
        ASSERT_EQ(pool.in_use(), used);
    }
}

}  // namespace
