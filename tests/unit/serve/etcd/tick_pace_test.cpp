// When ticks come: by the leases, and ever more rarely while they fail.
#include "serve/etcd/tick_pace.hpp"

#include <gtest/gtest.h>

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

TEST(TickPace, FollowsWhatIsDue) {
    TickPace pace;
    const TimePoint now{100s};
    EXPECT_FALSE(pace.on_tick(true)) << "nothing to tell";
    EXPECT_EQ(pace.wait(now + 300ms, now), 300ms);
    EXPECT_EQ(pace.wait(now - 10s, now), TickPace::kShortest);
    EXPECT_EQ(pace.wait(now + 1h, now), 1s);
    EXPECT_EQ(pace.wait(std::nullopt, now), 1s);
}

TEST(TickPace, WaitsLongerAndLongerWhileTicksFailAndTellsItOnce) {
    TickPace pace;
    const TimePoint now{100s};
    const TimePoint overdue = now - 10s;
    EXPECT_TRUE(pace.on_tick(false)) << "it begins";
    EXPECT_EQ(pace.wait(overdue, now), 1s);
    EXPECT_FALSE(pace.on_tick(false));
    EXPECT_EQ(pace.wait(overdue, now), 2s);
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(pace.on_tick(false));
    EXPECT_EQ(pace.wait(overdue, now), TickPace::kLastRetry);
    EXPECT_EQ(pace.failures(), 1002U);
    EXPECT_TRUE(pace.on_tick(true)) << "it ends";
    EXPECT_EQ(pace.wait(overdue, now), TickPace::kShortest);
    EXPECT_FALSE(pace.on_tick(true));
    EXPECT_TRUE(pace.on_tick(false));
    EXPECT_EQ(pace.wait(overdue, now), 1s) << "from the first again";
}

}  // namespace
}  // namespace mesh::serve
