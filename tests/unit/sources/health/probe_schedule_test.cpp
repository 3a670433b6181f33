// The prober's decisions under a clock that moves only when told to.
#include "sources/health/probe_schedule.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace {

using namespace mesh;
using namespace mesh::sources::health;
using namespace std::chrono_literals;
using model::IpAddress;

Target backend(std::uint8_t n) {
    return {.address = IpAddress::v4(10, 0, 0, n), .port = 8080, .check = {}, .group = {}};
}
Target host(std::string cluster, std::uint8_t n) {
    return {.address = IpAddress::v4(172, 16, 0, n),
            .port = 4240,
            .check = {},
            .group = std::move(cluster)};
}

class Schedule : public testing::Test {
  protected:
    /// Passes time until the next probe is due, and takes it.
    Start next() {
        const auto due = schedule_.next_due();
        EXPECT_TRUE(due.has_value());
        if (due && *due > clock_.now()) clock_.advance(*due - clock_.now());
        auto starts = schedule_.take_due(clock_.now());
        EXPECT_EQ(starts.size(), 1U);
        return starts.empty() ? Start{} : starts.front();
    }
    /// The next probe is answered after `took`, or gives up.
    std::optional<Verdict> probe(bool answered, Duration took = 1ms) {
        const Start start = next();
        clock_.advance(answered ? took : start.timeout);
        return schedule_.done(start.id, answered ? "" : "no answer in time", clock_.now());
    }
    State state(const Target& target) { return schedule_.find(target).value().state; }

    ManualClock clock_;
    ProbeSchedule schedule_{{}, Rng(1)};
};

TEST_F(Schedule, ABackendIsUnhealthyAfterItsFailuresAndBackAfterItsAnswers) {
    schedule_.add(backend(1), clock_.now());
    EXPECT_EQ(state(backend(1)), State::kUnknown);
    const auto up = probe(true);
    ASSERT_TRUE(up);
    EXPECT_EQ(up->status.state, State::kHealthy);
    EXPECT_FALSE(probe(false));
    EXPECT_EQ(state(backend(1)), State::kHealthy);
    const auto down = probe(false);
    ASSERT_TRUE(down);
    EXPECT_EQ(down->target, backend(1));
    EXPECT_EQ(down->status.state, State::kUnhealthy);
    EXPECT_EQ(down->status.last_error, "no answer in time");
    EXPECT_EQ(down->status.since, clock_.now());
    EXPECT_FALSE(probe(true)) << "one answer is not enough";
    EXPECT_FALSE(probe(false)) << "the answers must come in a row";
    EXPECT_FALSE(probe(true));
    const auto back = probe(true);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->status.state, State::kHealthy);
    EXPECT_EQ(back->status.probes, 7U);
    EXPECT_EQ(back->status.failed, 3U);
}

TEST_F(Schedule, FailuresThatDoNotFollowEachOtherAreNoVerdict) {
    schedule_.add(backend(1), clock_.now());
    (void)probe(true);
    for (int i = 0; i < 5; ++i) {
        EXPECT_FALSE(probe(false));
        EXPECT_FALSE(probe(true));
    }
    EXPECT_EQ(state(backend(1)), State::kHealthy);
}

TEST_F(Schedule, ADeathIsNoticedInTimeByTheDefaults) {
    schedule_.add(backend(1), clock_.now());
    for (int i = 0; i < 200; ++i) {
        for (int n = 0; n < 3; ++n) (void)probe(true);
        const TimePoint died = clock_.now();  // right after an answer: the worst case
        while (state(backend(1)) != State::kUnhealthy) (void)probe(false);
        EXPECT_LE(clock_.now() - died, 700ms);
        while (state(backend(1)) != State::kHealthy) (void)probe(true);
    }
}

TEST_F(Schedule, ABackendThatNeverAnsweredIsJudgedButAHostOnlyOnceItsClusterAnswered) {
    schedule_.add(backend(1), clock_.now());
    (void)probe(false);
    EXPECT_TRUE(probe(false));
    EXPECT_EQ(state(backend(1)), State::kUnhealthy);
    schedule_.remove(backend(1));

    schedule_.add(host("bee", 1), clock_.now());
    for (int i = 0; i < 10; ++i) EXPECT_FALSE(probe(false));
    EXPECT_EQ(state(host("bee", 1)), State::kUnknown) << "a firewall swallows probes";
    // Another cluster's answers say nothing of this one.
    schedule_.add(host("cat", 2), clock_.now());
    for (int i = 0; i < 4; ++i) {
        const Start start = next();
        (void)schedule_.done(start.id, start.target.group == "bee" ? "silence" : "", clock_.now());
    }
    EXPECT_EQ(state(host("bee", 1)), State::kUnknown);
    schedule_.remove(host("cat", 2));
    schedule_.add(host("bee", 3), clock_.now());
    for (int i = 0; i < 8; ++i) {
        const Start start = next();
        (void)schedule_.done(start.id, start.target == host("bee", 1) ? "silence" : "",
                             clock_.now());
    }
    EXPECT_EQ(state(host("bee", 3)), State::kHealthy);
    EXPECT_EQ(state(host("bee", 1)), State::kUnhealthy);
}

TEST_F(Schedule, ADistantTargetHasItsTimeAndANewOneMore) {
    schedule_.add(backend(1), clock_.now());
    Start start = next();
    EXPECT_EQ(start.timeout, 1s);
    clock_.advance(300ms);
    (void)schedule_.done(start.id, "", clock_.now());
    EXPECT_EQ(next().timeout, 900ms);
}

TEST_F(Schedule, NoMoreThanTheLimitsAtOnceAndPerSecond) {
    ProbeSchedule schedule({.at_once = 10, .per_second = 100}, Rng(1));
    for (std::uint8_t n = 0; n < 100; ++n) schedule.add(backend(n), clock_.now());
    // 100 targets at 5 per second are five times of what is allowed.
    EXPECT_DOUBLE_EQ(schedule.stretch(), 5.0);
    const TimePoint begin = clock_.now();
    std::size_t started = 0;
    while (clock_.now() - begin < 20s) {
        clock_.advance(5ms);
        const auto starts = schedule.take_due(clock_.now());
        EXPECT_LE(schedule.running(), 10U);
        started += starts.size();
        for (const Start& start : starts) (void)schedule.done(start.id, "", clock_.now());
    }
    EXPECT_NEAR(static_cast<double>(started), 2000, 200);
    clock_.advance(10s);
    EXPECT_EQ(schedule.take_due(clock_.now()).size(), 10U);
    EXPECT_EQ(schedule.next_due(), std::nullopt) << "no room: nothing to wait for";
    for (std::uint8_t n = 0; n < 100; ++n) schedule.remove(backend(n));
    EXPECT_EQ(schedule.size(), 0U);
    EXPECT_DOUBLE_EQ(schedule.stretch(), 1.0);
}

TEST_F(Schedule, TargetsAddedTogetherAreNotProbedTogether) {
    for (std::uint8_t n = 0; n < 200; ++n) schedule_.add(backend(n), clock_.now());
    for (int turn = 0; turn < 40; ++turn) {
        clock_.advance(10ms);
        const auto starts = schedule_.take_due(clock_.now());
        EXPECT_LT(starts.size(), 40U) << "of 200, in 10 of 200 ms";
        for (const Start& start : starts) (void)schedule_.done(start.id, "", clock_.now());
    }
}

TEST_F(Schedule, WhatIsRemovedWhileItIsProbedHasNoVerdict) {
    schedule_.add(backend(1), clock_.now());
    const Start start = next();
    schedule_.remove(backend(1));
    EXPECT_FALSE(schedule_.done(start.id, "", clock_.now()));
    EXPECT_FALSE(schedule_.find(backend(1)));
    EXPECT_FALSE(schedule_.done(start.id, "", clock_.now())) << "told twice";
    EXPECT_EQ(schedule_.next_due(), std::nullopt);
    // Added again, it begins anew.
    schedule_.add(backend(1), clock_.now());
    EXPECT_TRUE(probe(true));
}

TEST_F(Schedule, AnUnhealthyTargetIsProbedLessOftenUntilItAnswers) {
    schedule_.add(backend(1), clock_.now());
    const auto refused = [&] {
        const Start start = next();
        (void)schedule_.done(start.id, "Connection refused", clock_.now());
        return clock_.now();
    };
    while (state(backend(1)) != State::kUnhealthy) (void)refused();
    const TimePoint last = clock_.now();
    EXPECT_GE(refused() - last, 720ms);
    EXPECT_FALSE(probe(true, 0ms));
    const TimePoint answered = clock_.now();
    EXPECT_TRUE(probe(true, 0ms));
    EXPECT_LE(clock_.now() - answered, 220ms);
}

}  // namespace
