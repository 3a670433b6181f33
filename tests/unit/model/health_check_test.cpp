#include "model/health_check.hpp"

#include <gtest/gtest.h>

#include "model/traffic_annotations.hpp"

namespace {

using namespace mesh::model;
using namespace std::chrono_literals;

TEST(HealthCheck, DefaultsAndOptions) {
    const auto tcp = parse_health_check("tcp");
    ASSERT_TRUE(tcp);
    EXPECT_EQ(*tcp, HealthCheck{});
    EXPECT_EQ(to_string(*tcp), "tcp");
    const auto http = parse_health_check(
        "http:/Healthz?a=b , interval=1s, timeout=500ms,failures=3,successes=1,port=9090");
    ASSERT_TRUE(http);
    EXPECT_EQ(http->kind, HealthCheck::Kind::kHttp);
    EXPECT_EQ(http->path, "/Healthz?a=b");
    EXPECT_EQ(http->interval, 1s);
    EXPECT_EQ(http->timeout, 500ms);
    EXPECT_EQ(http->failures, 3);
    EXPECT_EQ(http->successes, 1);
    EXPECT_EQ(http->port, 9090);
    EXPECT_EQ(to_string(*http), "http:/Healthz?a=b");
}

TEST(HealthCheck, WhatIsNotOfTheFormIsRefused) {
    for (const char* text : {"",
                             "udp",
                             "TCP",
                             "http",
                             "http:",
                             "http:healthz",
                             "http:/a b",
                             "http:/a\r\nHost: x",
                             "tcp,",
                             "tcp,interval",
                             "tcp,interval=",
                             "tcp,interval=1",
                             "tcp,interval=49ms",
                             "tcp,interval=61s",
                             "tcp,timeout=1m",
                             "tcp,failures=0",
                             "tcp,failures=11",
                             "tcp,successes=-1",
                             "tcp,port=0",
                             "tcp,port=65536",
                             "tcp,retries=3",
                             "interval=1s,tcp"}) {
        EXPECT_FALSE(parse_health_check(text)) << text;
    }
    EXPECT_FALSE(parse_health_check("http:/" + std::string(200, 'a')));
}

TEST(HealthCheck, IsReadWithTheTrafficAnnotationsAndWarnsWithThem) {
    const StringMap good{{"libmesh.io/health-check", " http:/Up "}};
    const auto parsed = parse_traffic_annotations(good);
    ASSERT_TRUE(parsed.health_check);
    EXPECT_EQ(parsed.health_check->path, "/Up");
    EXPECT_TRUE(parsed.policy.empty());
    EXPECT_TRUE(parsed.warnings.empty());
    const StringMap bad{{"libmesh.io/health-check", "ping"}};
    const auto refused = parse_traffic_annotations(bad);
    EXPECT_FALSE(refused.health_check);
    ASSERT_EQ(refused.warnings.size(), 1U);
    EXPECT_NE(refused.warnings.front().find("tcp or http:/path"), std::string::npos);
}

}  // namespace
