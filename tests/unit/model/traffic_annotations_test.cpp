#include "model/traffic_annotations.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace {

using namespace mesh::model;
using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TrafficAnnotations parse(std::string_view name, std::string_view value) {
    return parse_traffic_annotations(StringMap{{Text(name), Text(value)}});
}

TEST(TrafficAnnotations, NoneAsksForNothing) {
    EXPECT_EQ(parse_traffic_annotations(std::nullopt), TrafficAnnotations{});
    const StringMap others{{"app", "x"}, {"libmesh.iota/slow-start", "1s"}, {"zone", "y"}};
    EXPECT_FALSE(has_traffic_annotations(others));
    EXPECT_FALSE(has_traffic_annotations(std::nullopt));
    EXPECT_EQ(parse_traffic_annotations(others), TrafficAnnotations{});
    EXPECT_TRUE(parse_traffic_annotations(others).policy.empty());
    EXPECT_TRUE(has_traffic_annotations(StringMap{{"app", "x"}, {"libmesh.io/x", ""}, {"z", ""}}));
}

TEST(TrafficAnnotations, ReadsAllFive) {
    const auto read = parse_traffic_annotations(
        StringMap{{"libmesh.io/cluster-weights", " zoo=1000, cluster1 = 80,cluster2=0 "},
                  {"libmesh.io/cluster-order", "cluster1, Cluster2,*"},
                  {"libmesh.io/min-local-backends", "3"},
                  {"libmesh.io/slow-start", "1m30s"},
                  {"libmesh.io/stale-policy", "Close:30s"}});
    EXPECT_THAT(read.warnings, IsEmpty());
    EXPECT_THAT(read.policy.cluster_weights,
                ElementsAre(ClusterWeight{"cluster1", 80}, ClusterWeight{"cluster2", 0},
                            ClusterWeight{"zoo", 1000}));
    EXPECT_THAT(read.policy.cluster_order, ElementsAre("cluster1", "cluster2", "*"));
    EXPECT_EQ(read.policy.min_local_backends, 3U);
    EXPECT_EQ(read.policy.slow_start, 90s);
    EXPECT_EQ(read.policy.close_when_stale, 30s);
    EXPECT_FALSE(read.policy.empty());
    EXPECT_EQ(parse("libmesh.io/stale-policy", "static"), TrafficAnnotations{});
}

TEST(TrafficAnnotations, AWrongValueIsIgnoredWithOneWarningThatNamesTheForm) {
    struct Case {
        const char* name;
        const char* form;
        std::vector<std::string> values;
    };
    const Case cases[] = {
        {"libmesh.io/cluster-weights",
         "cluster=weight pairs",
         {"", "cluster1", "cluster1=", "=5", "cluster1=1001", "cluster1=-1", "cluster1=1.5",
          "cluster1=0x10", "cluster1=80,", "cluster1=80,cluster1=20", "*=3", "-a=1", "a=1;b=2",
          "cluster1=99999999999999999999", "a b=1"}},
        {"libmesh.io/cluster-order",
         "names of clusters",
         {"", ",", "cluster1,,cluster2", "cluster1,cluster1", "*,*", "a_b", "cluster1 cluster2"}},
        {"libmesh.io/min-local-backends",
         "1 to 65535",
         {"", "0", "-1", "three", "3.0", "65536", "50%"}},
        {"libmesh.io/slow-start",
         "1s to 1h",
         {"", "30", "0s", "s", "30ms", "30 s", "1h1s", "-30s", "999999999999s", "4294967295h"}},
        {"libmesh.io/stale-policy",
         "static, or close:",
         {"", "closed", "close", "close:", "close:9s", "close:25h", "close:30", "static:30s"}}};
    for (const Case& c : cases) {
        for (const std::string& value : c.values) {
            const auto read = parse(c.name, value);
            EXPECT_TRUE(read.policy.empty()) << c.name << ": " << value;
            EXPECT_THAT(read.warnings,
                        ElementsAre(testing::AllOf(HasSubstr(c.name), HasSubstr(c.form),
                                                   HasSubstr("\"" + value + "\""))));
        }
    }
}

TEST(TrafficAnnotations, OneWrongValueLeavesTheOthers) {
    const auto read = parse_traffic_annotations(
        StringMap{{"libmesh.io/min-local-backends", "x"}, {"libmesh.io/slow-start", "30s"}});
    EXPECT_EQ(read.policy.slow_start, 30s);
    EXPECT_EQ(read.warnings.size(), 1U);
}

TEST(TrafficAnnotations, AWarningIsNotAsLongAsItsValue) {
    const auto read = parse("libmesh.io/cluster-order", std::string(100'000, '!'));
    ASSERT_EQ(read.warnings.size(), 1U);
    EXPECT_LT(read.warnings[0].size(), 400U);
}

}  // namespace
