#include "serve/l7/access_log.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace mesh::serve::l7 {
namespace {

using ::testing::ElementsAre;

class AccessLogTest : public ::testing::Test {
  public:
    AccessLogTest() {
        std::string text = std::filesystem::temp_directory_path() / "access_log.XXXXXX";
        folder = ::mkdtemp(text.data());
    }
    ~AccessLogTest() override { std::filesystem::remove_all(folder); }
    std::string text_of(const std::string& name) const {
        std::ostringstream out;
        out << std::ifstream(folder / name).rdbuf();
        return out.str();
    }
    std::filesystem::path folder;
};

TEST_F(AccessLogTest, OneLineOfJson) {
    const Flow flow{model::policy::Direction::kEgress,
                    {model::IpAddress::v4(10, 0, 0, 1), 4000},
                    {*model::IpAddress::parse("2001:db8::1"), 80}};
    AccessRecord record;
    record.time = WallTime(std::chrono::microseconds(1'795'773'296'000'123));
    record.flow = &flow;
    record.source_identity = 1234;
    record.protocol = "HTTP/1.1";
    record.method = "GET";
    record.path = "/a\"\\\xff\x01?b";
    record.host = "x:80";
    record.status = 403;
    record.verdict = Verdict::kDenied;
    record.reason = "policy";
    record.duration = std::chrono::microseconds(17);
    record.request_bytes = 100;
    record.response_bytes = 200;
    std::string out;
    append_json(record, out);
    EXPECT_EQ(
        out,
        "{\"time\":\"2026-11-27T09:54:56.000123Z\",\"direction\":\"egress\",\"source\":{\"ip\":"
        "\"10.0.0.1\",\"port\":4000,\"identity\":1234},\"destination\":{\"ip\":\"2001:db8::1\","
        "\"port\":80},\"protocol\":\"HTTP/1.1\",\"method\":\"GET\",\"path\":\"/a\\\"\\\\\\u00ff"
        "\\u0001?b\",\"host\":\"x:80\",\"status\":403,\"verdict\":\"denied\",\"reason\":"
        "\"policy\",\"duration_us\":17,\"request_bytes\":100,\"response_bytes\":200}\n");
}

TEST_F(AccessLogTest, FileOfBoundedSize) {
    AccessLogOptions options;
    options.file = folder / "log";
    options.max_bytes = 20;
    AccessLog log(options, {}, {});
    ASSERT_TRUE(log.open());
    for (const char* line : {"11111111\n", "22222222\n", "33333333\n", "44444444\n", "55555555\n"})
        log.write(line);
    EXPECT_EQ(text_of("log"), "55555555\n");
    EXPECT_EQ(text_of("log.1"), "33333333\n44444444\n");
    AccessLog again(options, {}, {});
    ASSERT_TRUE(again.open());
    again.write("66666666\n");
    again.write("77777777\n");
    EXPECT_EQ(text_of("log"), "77777777\n");
    EXPECT_EQ(text_of("log.1"), "55555555\n66666666\n");
}

TEST_F(AccessLogTest, FileThatCannotBeOpened) {
    AccessLogOptions options;
    options.file = folder / "none" / "log";
    AccessLog log(options, {}, {});
    const auto opened = log.open();
    ASSERT_FALSE(opened);
    EXPECT_THAT(opened.error().message(), ::testing::HasSubstr("none/log: open: No such file"));
}

TEST_F(AccessLogTest, RecentLinesAndCallback) {
    AccessLogOptions options;
    options.recent = 3;
    std::vector<std::string> told;
    AccessLog log(options, [&](std::string_view line) { told.emplace_back(line); }, {});
    log.write("a\nb\n");
    EXPECT_THAT(log.recent(10), ElementsAre("a", "b"));
    log.write("c\nd\ne\n");
    EXPECT_THAT(log.recent(10), ElementsAre("c", "d", "e"));
    EXPECT_THAT(log.recent(2), ElementsAre("d", "e"));
    EXPECT_THAT(told, ElementsAre("a", "b", "c", "d", "e"));
}

TEST_F(AccessLogTest, WhatIsWanted) {
    AccessLogOptions options;
    options.recent = 0;
    EXPECT_FALSE(AccessLog(options, {}, {}).wants(Verdict::kDenied));
    options.recent = 1;
    options.allowed = false;
    AccessLog log(options, {}, {});
    EXPECT_FALSE(log.wants(Verdict::kForwarded));
    EXPECT_TRUE(log.wants(Verdict::kDenied));
}

}  // namespace
}  // namespace mesh::serve::l7
