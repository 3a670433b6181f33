// Denials: each counted, told once per client and minute, in bounded memory.
#include "serve/etcd/denial_log.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

class DenialLogTest : public ::testing::Test {
  protected:
    void deny(std::string name, std::string address = "10.0.0.7:4711",
              std::string_view key = "mesh/local/x", DenialReason reason = DenialReason::kKey) {
        rpc::Peer peer;
        peer.verified = true;
        peer.common_name = std::move(name);
        peer.address = std::move(address);
        log.add({.action = EtcdAction::kRange,
                 .method = "/etcdserverpb.KV/Range",
                 .range = {key, {}},
                 .peer = peer,
                 .listener = "remote"},
                reason, "its role may not use such keys");
    }
    std::uint64_t count(std::string_view name, DenialReason reason) const {
        for (const DenialCount& one : log.counts())
            if (one.client == name && one.reason == reason) return one.count;
        return 0;
    }

    ManualClock clock;
    std::vector<std::string> lines;
    DenialLog log{clock,
                  Logger("access", [this](LogLevel, std::string_view, std::string_view text) {
                      lines.emplace_back(text);
                  })};
};

TEST_F(DenialLogTest, OnceAMinuteAndTheNextLineTellsHowManyWereNot) {
    for (int i = 0; i < 10; ++i) deny("remote-two");
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0],
              "denied: \"remote-two\" at 10.0.0.7 (listener remote): /etcdserverpb.KV/Range of "
              "\"mesh/local/x\": its role may not use such keys");
    deny("remote-two", "[fd00::1]:1");
    EXPECT_EQ(lines.size(), 2U) << "another client";
    clock.advance(59s);
    deny("remote-two");
    EXPECT_EQ(lines.size(), 2U);
    clock.advance(1s);
    deny("remote-two");
    ASSERT_EQ(lines.size(), 3U);
    EXPECT_TRUE(lines[2].ends_with("; 10 more denials of it were not told")) << lines[2];
    clock.advance(1min);
    deny("remote-two");
    EXPECT_EQ(lines[3], lines[0]);
    EXPECT_EQ(count("remote-two", DenialReason::kKey), 14U);
    deny("remote-two", "10.0.0.7:4711", {}, DenialReason::kMethod);
    EXPECT_EQ(count("remote-two", DenialReason::kMethod), 1U);
}

TEST_F(DenialLogTest, WhatPeersWriteIsCutAndEscaped) {
    deny("a\n\"b", "10.0.0.7:4711", std::string("k\0\xff", 3) + std::string(100, 'x'));
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_NE(lines[0].find("\"a\\x0a\\x22b\""), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find("\"k\\x00\\xff" + std::string(61, 'x') + "...\""), std::string::npos)
        << lines[0];
}

TEST_F(DenialLogTest, ManyNamesAreOthers) {
    const auto many = 3 * DenialLog::kMostClients;
    for (std::size_t i = 0; i < many; ++i) deny("name-" + std::to_string(i));
    std::uint64_t all = 0;
    for (const DenialCount& one : log.counts()) all += one.count;
    EXPECT_EQ(all, many);
    EXPECT_LE(log.counts().size(), DenialLog::kMostNames + 1);
    EXPECT_EQ(count("others", DenialReason::kKey), many - DenialLog::kMostNames);
    EXPECT_LE(lines.size(), DenialLog::kMostClients + 1);
    EXPECT_EQ(lines.back().find("name-2999"), std::string::npos);
    clock.advance(1min);
    deny("name-2999");
    EXPECT_NE(lines[lines.size() - 2].find("calls of clients beyond"), std::string::npos);
    EXPECT_NE(lines.back().find("name-2999"), std::string::npos) << "there is room again";
}

}  // namespace
}  // namespace mesh::serve
