// What a workload may say of itself, and how what it may not say is refused.
#include "model/workload.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/keys.hpp"

namespace mesh::model {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr std::string_view kKey = "mesh/local/workloads/v1/vm1";

Workload vm1() {
    Workload workload;
    workload.name = "vm1";
    workload.namespace_ = "shop";
    workload.ips = {*IpAddress::parse("2001:db8::7"), *IpAddress::parse("192.0.2.7")};
    workload.labels = {{"app", "web"}, {"example.org/tier", "front"}};
    workload.backends = {{"shop/web", "https", 8443, "TCP"}, {"shop/web", "http", 8080, "TCP"}};
    workload.zone = "z1";
    normalise(workload);
    return workload;
}

TEST(Workload, IsWrittenAndRead) {
    const std::string text = encode(vm1());
    EXPECT_EQ(text,
              R"({"version":1,"namespace":"shop","ips":["192.0.2.7","2001:db8::7"],"labels":)"
              R"({"app":"web","example.org/tier":"front"},"backends":[{"service":"shop/web",)"
              R"("portName":"http","port":8080,"protocol":"TCP"},{"service":"shop/web",)"
              R"("portName":"https","port":8443,"protocol":"TCP"}],"zone":"z1","node":false})");
    const auto read = parse_workload(kKey, text);
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(*read, vm1());
    EXPECT_EQ(local_workload_key("vm1"), kKey);
    EXPECT_EQ(parse_key(kKey).kind, KeyKind::kLocalWorkload);
    EXPECT_EQ(parse_key(kKey).name, "vm1");
    EXPECT_EQ(parse_key(local_workload_status_key("vm1")).kind, KeyKind::kLocalWorkloadStatus);
    EXPECT_EQ(parse_key("mesh/local/workloads/v1/a/b").kind, KeyKind::kUnknown);
}

TEST(Workload, LeavesOutWhatItHasNot) {
    const auto read =
        parse_workload(kKey, R"({"version":1,"namespace":"shop","ips":["192.0.2.7"]})");
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_TRUE(read->labels.empty());
    EXPECT_TRUE(read->backends.empty());
    EXPECT_FALSE(read->node);
}

TEST(Workload, IsRefusedWithKeyAndField) {
    const std::string good = R"("version":1,"namespace":"shop","ips":["192.0.2.7"])";
    const auto refusal = [](const std::string& value, std::string_view key = kKey) {
        const auto read = parse_workload(key, value);
        if (read) return "accepted: " + value;
        EXPECT_EQ(read.error().code(), Errc::kInvalidArgument);
        EXPECT_THAT(read.error().detail(), StartsWith(std::string(key)));
        return read.error().detail();
    };
    const std::pair<std::string, std::string> cases[] = {
        {"", "expected"},
        {"[]", "expected an object"},
        {"{}", "version"},
        {R"({"version":2,)" + good.substr(12) + "}", "version: expected 1"},
        {R"({"version":1,"ips":["192.0.2.7"]})", "namespace: expected a DNS label"},
        {R"({"version":1,"namespace":"shop"})", "ips: expected 1 to 16"},
        {"{" + good + R"(,"colour":"red"})", "expected no other fields"},
        {"{" + good + R"(,"zone":"a","zone":"b"})", "each field once"},
        {"{" + good + R"(,"zone":"no zone"})", "zone: expected"},
        {"{" + good + R"(,"node":"yes"})", "node"},
        {"{" + good + R"(,"labels":{"a b":"c"}})", "labels: expected a key"},
        {"{" + good + R"(,"labels":{"a":"c d"}})", "labels: a: expected"},
        {"{" + good + R"(,"labels":{"a":"b","a":"c"}})", "each label once"},
        {"{" + good + R"(,"labels":null})", "expected an object"},
        {"{" + good + R"(,"backends":[{"service":"web","port":1,"protocol":"TCP"}]})",
         "backends: service: expected namespace/name"},
        {"{" + good + R"(,"backends":[{"service":"a/b/c","port":1,"protocol":"TCP"}]})",
         "backends: service: expected namespace/name"},
        {"{" + good + R"(,"backends":[{"service":"a/b","port":0,"protocol":"TCP"}]})",
         "backends: a/b: port: expected 1 to 65535"},
        {"{" + good + R"(,"backends":[{"service":"a/b","port":70000,"protocol":"TCP"}]})", "port"},
        {"{" + good + R"(,"backends":[{"service":"a/b","port":1,"protocol":"tcp"}]})",
         "backends: a/b: protocol: expected TCP"},
        {"{" + good + R"(,"backends":[{"service":"a/b","port":1},{"service":"a/b","port":2}]})",
         "portName: expected each name once"},
        {"{" + good + "} x", "expected"},
    };
    for (const auto& [value, expected] : cases) {
        EXPECT_THAT(refusal(value), HasSubstr(expected)) << value;
    }
    EXPECT_THAT(refusal("{" + good + "}", "mesh/local/workloads/v1/VM"),
                HasSubstr("name: expected"));
    EXPECT_THAT(refusal("{" + good + "}", "mesh/local/workloads/v1/a/b"),
                HasSubstr("expected a key"));
    EXPECT_THAT(refusal(std::string(kMaxWorkloadBytes + 1, ' ')), HasSubstr("at most 65536 bytes"));
    for (const char* const address :
         {"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "::", "::1",
          "fe80::1", "ff02::1", "::ffff:127.0.0.1", "ten", "10.0.0.1/32"}) {
        EXPECT_THAT(
            refusal(R"({"version":1,"namespace":"shop","ips":[")" + std::string(address) + "\"]}"),
            HasSubstr("ips"))
            << address;
    }
    EXPECT_THAT(refusal(R"({"version":1,"namespace":"shop","ips":["10.0.0.1","10.0.0.1"]})"),
                HasSubstr("each address once"));
}

TEST(WorkloadStatus, IsWrittenAndRead) {
    const std::string key = local_workload_status_key("vm1");
    const WorkloadStatus status{9'007'199'254'740'993, false, "no \"room\""};
    const std::string text = encode(status);
    EXPECT_EQ(text, R"({"version":1,"revision":"9007199254740993","state":"refused",)"
                    R"("reason":"no \"room\""})");
    const auto read = parse_workload_status(key, text);
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(*read, status);
    for (const char* const bad : {"{}", R"({"version":1})", R"({"version":1,"revision":"-1"})",
                                  R"({"version":1,"revision":"1","state":"maybe"})"}) {
        EXPECT_FALSE(parse_workload_status(key, bad)) << bad;
    }
}

}  // namespace
}  // namespace mesh::model
