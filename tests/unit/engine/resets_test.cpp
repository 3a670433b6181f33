// Which connections are ended, and when.
#include "engine/resets.hpp"

#include <gtest/gtest.h>

namespace {

using namespace mesh;
using namespace mesh::engine;
using namespace std::chrono_literals;
using compile::Reason;
using datapath::Protocol;
using model::IpAddress;

const datapath::ServiceFrontend kFrontend{IpAddress::v4(10, 96, 0, 1), 80, Protocol::kTcp};
const IpAddress kSick = IpAddress::v4(10, 2, 0, 1);
const IpAddress kWell = IpAddress::v4(10, 2, 0, 2);

class Resets : public testing::Test {
  protected:
    compile::FrontendRow row(Reason sick, bool well_is_selected = true) {
        compile::FrontendRow made;
        made.backends = {{.address = kSick,
                          .port = 8080,
                          .programmed = true,
                          .selected = sick == Reason::kActive || sick == Reason::kAllUnhealthy,
                          .reason = sick},
                         {.address = kWell,
                          .port = 8080,
                          .programmed = true,
                          .selected = well_is_selected,
                          .reason = Reason::kActive}};
        return made;
    }
    datapath::ServiceSocket socket(const IpAddress& backend, bool live = true) {
        return {.proto = Protocol::kTcp,
                .backend = backend,
                .port = 8080,
                .frontend = kFrontend.address,
                .frontend_port = kFrontend.port,
                .established = true,
                .live = live};
    }
    bool ends(const datapath::ServiceSocket& each) {
        return resets_.ends(each, now_, [this](const IpAddress& a) { return pods_.contains(a); });
    }

    engine::Resets resets_{{}};
    TimePoint now_{1h};
    std::set<IpAddress> pods_{kSick, kWell};
};

TEST_F(Resets, UnhealthyPastTheGraceAndOnlyThen) {
    resets_.note_row(kFrontend, row(Reason::kActive), now_);
    EXPECT_FALSE(resets_.take_due(now_));
    resets_.note_row(kFrontend, row(Reason::kNodeUnreachable), now_);
    EXPECT_TRUE(resets_.take_due(now_)) << "for those that still connect";
    EXPECT_FALSE(ends(socket(kSick)));
    auto connecting = socket(kSick);
    connecting.established = false;
    EXPECT_TRUE(ends(connecting));
    EXPECT_EQ(resets_.next_due(), now_ + 5s);
    now_ += 4999ms;
    // Another change of the row does not begin the grace anew.
    resets_.note_row(kFrontend, row(Reason::kFailsProbe), now_);
    EXPECT_FALSE(resets_.take_due(now_));
    EXPECT_FALSE(ends(socket(kSick)));
    now_ += 1ms;
    EXPECT_TRUE(resets_.take_due(now_));
    EXPECT_TRUE(ends(socket(kSick)));
    EXPECT_FALSE(ends(socket(kWell)));
    EXPECT_EQ(resets_.next_due(), std::nullopt);
    // Through another service, which does not probe it.
    auto other = socket(kSick);
    other.frontend_port = 81;
    EXPECT_FALSE(ends(other));
}

TEST_F(Resets, WhatRecoversInTimeIsLeftAlone) {
    resets_.note_row(kFrontend, row(Reason::kFailsProbe), now_);
    now_ += 3s;
    resets_.note_row(kFrontend, row(Reason::kActive), now_);
    now_ += 3s;
    EXPECT_FALSE(ends(socket(kSick)));
    // Ill again: the grace is whole again.
    resets_.note_row(kFrontend, row(Reason::kFailsProbe), now_);
    EXPECT_EQ(resets_.unhealthy(), 1U);
    now_ += 3s;
    EXPECT_FALSE(ends(socket(kSick)));
}

TEST_F(Resets, NotWhereNothingElseCouldBeUsed) {
    resets_.note_row(kFrontend, row(Reason::kAllUnhealthy, false), now_);
    now_ += 1h;
    EXPECT_FALSE(ends(socket(kSick)));
    resets_.note_row(kFrontend, row(Reason::kNodeUnreachable, false), now_);
    now_ += 1h;
    EXPECT_FALSE(ends(socket(kSick)));
}

TEST_F(Resets, ARemovedBackendFinishesWhileItsPodIsThere) {
    EXPECT_FALSE(ends(socket(kSick, false)));
    auto udp = socket(kSick, false);
    udp.proto = Protocol::kUdp;
    EXPECT_TRUE(ends(udp));
    resets_.note_pod_gone(kWell);
    EXPECT_FALSE(resets_.take_due(now_)) << "nobody talks to it";
    pods_.erase(kSick);
    resets_.note_pod_gone(kSick);
    EXPECT_TRUE(resets_.take_due(now_));
    resets_.begin_sweep();
    EXPECT_FALSE(ends(socket(kSick, false))) << "an answer may be under way";
    auto connecting = socket(kSick, false);
    connecting.established = false;
    EXPECT_TRUE(ends(connecting));
    EXPECT_EQ(resets_.next_due(), now_ + 1s);
    now_ += 500ms;
    resets_.begin_sweep();  // for another's sake
    EXPECT_FALSE(ends(socket(kSick, false)));
    now_ += 500ms;
    EXPECT_TRUE(resets_.take_due(now_));
    resets_.begin_sweep();
    EXPECT_TRUE(ends(socket(kSick, false)));
    resets_.note_pod_gone(kSick);
    EXPECT_FALSE(resets_.take_due(now_));
}

TEST_F(Resets, APodThatIsBackInTimeKeepsItsConnections) {
    pods_.clear();
    resets_.begin_sweep();
    EXPECT_FALSE(ends(socket(kSick, false)));
    pods_ = {kSick};
    now_ += 1s;
    EXPECT_TRUE(resets_.take_due(now_));
    resets_.begin_sweep();
    EXPECT_FALSE(ends(socket(kSick, false)));
    // Gone again: the time is whole again.
    pods_.clear();
    resets_.begin_sweep();
    EXPECT_FALSE(ends(socket(kSick, false)));
}

TEST_F(Resets, AServiceMayHaveItsConnectionsLeftAlone) {
    auto kept = row(Reason::kNodeUnreachable);
    kept.reset_connections = false;
    resets_.note_row(kFrontend, kept, now_);
    now_ += 1h;
    EXPECT_FALSE(ends(socket(kSick)));
    pods_.clear();
    EXPECT_FALSE(ends(socket(kSick, false)));
    resets_.note_row(kFrontend, row(Reason::kNodeUnreachable), now_);
    EXPECT_FALSE(ends(socket(kSick, false)));
    now_ += 1s;
    EXPECT_TRUE(ends(socket(kSick, false)));
}

}  // namespace
