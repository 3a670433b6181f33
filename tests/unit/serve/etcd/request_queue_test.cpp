// Turns under a virtual clock: light clients do not wait for a greedy one, rates make wait and do
// not refuse, what waits is bounded.
#include "serve/etcd/request_queue.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kPage = 100'000;  // an answer of 256 keys

class RequestQueueTest : public ::testing::Test {
  protected:
    void load(std::string_view limits, std::string_view per_name = "{}") {
        const auto done = control.load(
            "users: [{name: \"*\", role: r}]\nroles:\n  r: {limits: " + std::string(limits) +
                ", limits-per-name: " + std::string(per_name) + "}\n",
            "access.yaml");
        ASSERT_TRUE(done) << done.error().message();
    }
    LoopPeerPtr peer(std::string name, std::string_view address = "10.0.0.1") {
        rpc::Peer from;
        from.verified = true;
        from.common_name = std::move(name);
        auto made = std::make_shared<LoopPeer>();
        made->client =
            std::make_shared<LoopClient>(control.clients().open(from.common_name, address));
        made->table = control.table();
        made->role = made->table->role_of(from);
        return made;
    }
    /// One request. @return whether it ran at once
    bool ask(const LoopPeerPtr& from, std::size_t answer = 100) {
        const std::string name = from->client->slot->client->name;
        if (queue.may_run(*from, {.bytes = 10}, clock.now())) {
            served.push_back(name);
            queue.ran(*from, {.bytes = 10}, answer, clock.now());
            return true;
        }
        if (!queue.keep(
                from, {.bytes = 10},
                [this, name, answer] {
                    served.push_back(name);
                    return answer;
                },
                clock.now()))
            ++refused;
        return false;
    }
    RequestQueue::Next run() { return queue.run(clock.now()); }
    std::size_t count(std::string_view name) const {
        return static_cast<std::size_t>(std::ranges::count(served, name));
    }
    ClientStatus status(std::string_view name) {
        for (const ClientStatus& one : control.clients().clients())
            if (one.name == name) return one;
        return {};
    }

    ManualClock clock;
    AccessControl control{"one", clock, Logger()};
    RequestQueue queue;
    std::vector<std::string> served;
    int refused = 0;
};

TEST_F(RequestQueueTest, AClientAloneTakesItsQuantumAndThenPortions) {
    const auto a = peer("a");
    int at_once = 0;
    for (int i = 0; i < 100; ++i) at_once += ask(a, kPage) ? 1 : 0;
    EXPECT_EQ(at_once, 2);
    EXPECT_EQ(queue.waiting(), 98U);
    EXPECT_EQ(status("a").waiting, 98U);
    std::size_t turns = 0;
    while (run().more) {
        EXPECT_LE(served.size(), 2 + 3 * ++turns) << "a portion per turn";
        EXPECT_GE(served.size(), 2 + 2 * turns) << "and no less";
    }
    EXPECT_EQ(served.size(), 100U);
    EXPECT_EQ(status("a").waiting, 0U);
    EXPECT_EQ(status("a").queued, 98U);
    EXPECT_EQ(status("a").throttled, 0U);
    EXPECT_EQ(status("a").bytes_out, 100 * kPage);
    EXPECT_EQ(status("a").requests, 100U);
}

TEST_F(RequestQueueTest, LightClientsAreServedBesideAGreedyOne) {
    const auto greedy = peer("greedy");
    std::vector<LoopPeerPtr> light;
    for (int i = 0; i < 10; ++i) light.push_back(peer("light-" + std::to_string(i)));
    for (int i = 0; i < 1000; ++i) ask(greedy, kPage);
    for (int turn = 0; turn < 20; ++turn) {
        for (const auto& one : light) EXPECT_TRUE(ask(one, kPage)) << "needs not wait at all";
        EXPECT_TRUE(run().more);
    }
    EXPECT_LE(count("greedy"), 2 + 20 * 3U);
}

TEST_F(RequestQueueTest, ThoseWhoWaitAreServedRoundRobinByBytes) {
    const auto big = peer("big");
    const auto small = peer("small");
    for (int i = 0; i < 200; ++i) ask(big, kPage);
    for (int i = 0; i < 2000; ++i) ask(small, kPage / 10);
    const std::size_t big_before = count("big");
    const std::size_t small_before = count("small");
    for (int turn = 0; turn < 40; ++turn) run();
    const double big_bytes = static_cast<double>((count("big") - big_before) * kPage);
    const double small_bytes = static_cast<double>((count("small") - small_before) * kPage / 10);
    EXPECT_GT(big_bytes, 20.0 * kPage);
    EXPECT_NEAR(small_bytes / big_bytes, 1.0, 0.15);
}

TEST_F(RequestQueueTest, AnAnswerBeyondTheQuantumIsPaidForLater) {
    const auto huge = peer("huge");
    const auto other = peer("other");
    for (int i = 0; i < 10; ++i) ask(huge, 20 * kPage);
    for (int i = 0; i < 100; ++i) ask(other, kPage);
    while (count("other") < 90) ASSERT_TRUE(run().more);
    EXPECT_LE(count("huge"), 100 / 20 + 2U) << "as many bytes as the other, and one answer";
    while (run().more) {
    }
    EXPECT_EQ(count("huge"), 10U);
}

TEST_F(RequestQueueTest, OverItsRateAClientWaitsAndIsNotRefused) {
    load("{requests-per-second: 10, request-burst: 2}");
    const auto a = peer("a");
    const auto b = peer("b");
    for (int i = 0; i < 5; ++i) ask(a);
    EXPECT_EQ(count("a"), 2U);
    EXPECT_TRUE(ask(b)) << "its own rate";
    RequestQueue::Next next = run();
    EXPECT_FALSE(next.more);
    ASSERT_TRUE(next.at);
    EXPECT_EQ(*next.at - clock.now(), 100ms);
    clock.advance(99ms);
    run();
    EXPECT_EQ(count("a"), 2U);
    clock.advance(1ms);
    next = run();
    EXPECT_EQ(count("a"), 3U);
    EXPECT_EQ(*next.at - clock.now(), 100ms);
    clock.advance(1s);
    EXPECT_FALSE(run().at);
    EXPECT_EQ(count("a"), 5U) << "the rest after it saved up";
    EXPECT_EQ(status("a").throttled, 3U);
    EXPECT_EQ(refused, 0);
}

TEST_F(RequestQueueTest, ARateOfTheNameIsSharedByItsAddresses) {
    load("{requests-per-second: 1000}", "{requests-per-second: 10, request-burst: 1}");
    const auto one = peer("a", "10.0.0.1");
    const auto two = peer("a", "10.0.0.2");
    EXPECT_TRUE(ask(one));
    EXPECT_FALSE(ask(two));
    EXPECT_FALSE(ask(one));
    EXPECT_TRUE(ask(peer("b")));
    for (int i = 0; i < 2; ++i) {
        run();
        clock.advance(100ms);
    }
    run();
    EXPECT_EQ(count("a"), 3U);
}

TEST_F(RequestQueueTest, BytesOutAreARateToo) {
    load("{bytes-out-per-second: 1000}");
    const auto a = peer("a");
    EXPECT_TRUE(ask(a, 3000));
    EXPECT_FALSE(ask(a, 10));
    const auto next = run();
    ASSERT_TRUE(next.at);
    EXPECT_EQ(*next.at - clock.now(), 2s);
    clock.advance(2s);
    run();
    EXPECT_EQ(count("a"), 2U);
}

TEST_F(RequestQueueTest, WhatWaitsIsBounded) {
    load("{requests-per-second: 1, waiting-requests: 3}");
    const auto a = peer("a");
    for (int i = 0; i < 10; ++i) ask(a);
    EXPECT_EQ(served.size(), 1U);
    EXPECT_EQ(queue.waiting(), 3U);
    EXPECT_EQ(refused, 6);
    EXPECT_TRUE(ask(peer("b")));
    queue.clear();
    EXPECT_EQ(queue.waiting(), 0U);
    EXPECT_EQ(status("a").waiting, 0U);
}

TEST_F(RequestQueueTest, BytesThatWaitAreBounded) {
    load("{requests-per-second: 1}");
    const auto a = peer("a");
    ask(a);
    const auto keep = [&](std::size_t bytes) {
        return queue.keep(
            a, {.bytes = bytes}, [] { return std::size_t{}; }, clock.now());
    };
    EXPECT_TRUE(keep(2 * RequestQueue::kMostWaitingBytes)) << "one always";
    EXPECT_FALSE(keep(1));
}

}  // namespace
}  // namespace mesh::serve
