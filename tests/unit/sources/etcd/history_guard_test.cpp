#include "sources/etcd/history_guard.hpp"

#include <gtest/gtest.h>

namespace mesh::etcd::detail {
namespace {

using namespace std::chrono_literals;

class HistoryGuardTest : public testing::Test {
  protected:
    static Header at(std::int64_t revision, std::uint64_t cluster = 7) {
        return {.cluster_id = cluster, .member_id = 1, .revision = revision, .raft_term = 1};
    }
    bool connects(const std::string& endpoint, const Header& first) {
        const bool good = guard_.admits(first, clock_.now());
        guard_.judged(endpoint);
        EXPECT_EQ(guard_.refused(), !good);
        EXPECT_EQ(guard_.why().empty(), good);
        return good;
    }

    ManualClock clock_;
    HistoryGuard guard_{{.endpoints = 2, .limit = 5s, .limit_absent = 60s, .reached = {}}};
};

TEST_F(HistoryGuardTest, WhoReachedNothingTakesAnyServer) {
    EXPECT_TRUE(connects("a", at(1)));
    EXPECT_TRUE(connects("b", {})) << "a connection without a first read";
    guard_.reached(7, 10);
    EXPECT_TRUE(connects("b", {}));
}

TEST_F(HistoryGuardTest, AServerBehindIsRefusedAndOneThatCaughtUpIsNot) {
    guard_.reached(7, 10);
    guard_.reached(7, 9);
    EXPECT_TRUE(connects("a", at(10)));
    EXPECT_FALSE(connects("b", at(9)));
    EXPECT_EQ(guard_.why(), "the server is behind: its revision is 9, 10 was seen already");
    EXPECT_TRUE(connects("a", at(11)));
    EXPECT_TRUE(connects("b", at(10)));
}

TEST_F(HistoryGuardTest, AnotherClusterIdHasARevisionOfItsOwn) {
    guard_.reached(7, 10);
    EXPECT_TRUE(connects("a", at(1, 8)));
    guard_.reached(8, 2);
    EXPECT_FALSE(connects("a", at(1, 8)));
    EXPECT_TRUE(connects("a", at(1, 7)));
}

TEST_F(HistoryGuardTest, WhenAllStayBehindItIsAnotherHistory) {
    guard_.reached(7, 10);
    EXPECT_FALSE(connects("a", at(3)));
    clock_.advance(10s);
    EXPECT_FALSE(connects("a", at(4))) << "b was not asked";
    EXPECT_FALSE(connects("b", at(4)));
    EXPECT_TRUE(connects("a", at(5)));
    EXPECT_TRUE(connects("b", at(4))) << "what was reached is of no use any more";
    guard_.reached(7, 5);
    EXPECT_FALSE(connects("b", at(4)));
}

TEST_F(HistoryGuardTest, ThePatienceBeginsAnewWithEachGoodServer) {
    guard_.reached(7, 10);
    EXPECT_FALSE(connects("a", at(3)));
    EXPECT_FALSE(connects("b", at(3)));
    clock_.advance(4s);
    EXPECT_TRUE(connects("a", at(10)));
    clock_.advance(4s);
    EXPECT_FALSE(connects("a", at(9)));
    EXPECT_FALSE(connects("b", at(9)));
    clock_.advance(4s);
    EXPECT_FALSE(connects("a", at(9)));
    clock_.advance(1s);
    EXPECT_TRUE(connects("b", at(9)));
}

TEST_F(HistoryGuardTest, WhoDoesNotAnswerMayKnowBetterForAWhile) {
    guard_.reached(7, 10);
    EXPECT_FALSE(connects("a", at(3)));
    EXPECT_FALSE(connects("b", at(3)));
    guard_.failed("a");
    clock_.advance(59s);
    EXPECT_FALSE(connects("b", at(3)));
    clock_.advance(1s);
    EXPECT_TRUE(connects("b", at(3)));
}

TEST_F(HistoryGuardTest, WhatAnEarlierClientReachedCounts) {
    guard_ = HistoryGuard({.endpoints = 1, .limit = 5s, .limit_absent = 60s, .reached = at(10)});
    EXPECT_FALSE(connects("a", at(9)));
    EXPECT_TRUE(connects("a", at(10)));
}

}  // namespace
}  // namespace mesh::etcd::detail
