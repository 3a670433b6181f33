#include "sources/config/endpoint_files.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>

namespace mesh::sources::config {
namespace {

using ::testing::HasSubstr;

EndpointFile example() {
    return {.namespace_ = "shop",
            .pod = "echo-1",
            .container_id = "c0ffee",
            .netns = "/run/netns/x",
            .device = "lxc0a0a0105",
            .pod_mac = {2, 0x70, 0x0a, 0x0a, 1, 5},
            .node_mac = {2, 0x71, 0x0a, 0x0a, 1, 5},
            .ips = {*model::IpAddress::parse("10.10.1.5"), *model::IpAddress::parse("fd00::5")}};
}

class EndpointFiles : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "endpoints.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory = name;
    }
    void TearDown() override { std::filesystem::remove_all(directory); }
    std::string directory;
    SystemClock clock;
};

TEST_F(EndpointFiles, WhatIsWrittenIsRead) {
    const auto text = encode_endpoint_file(example());
    const auto parsed = parse_endpoint_file(text);
    ASSERT_TRUE(parsed) << parsed.error().message();
    EXPECT_EQ(*parsed, example());
    EXPECT_THAT(text, HasSubstr(R"("podDevice":"eth0")"));
    EXPECT_THAT(text, HasSubstr(R"("podMAC":"02:70:0a:0a:01:05")"));
}

TEST_F(EndpointFiles, BadFilesNameTheFieldAndWhatWasExpected) {
    const auto why = [](std::string text, std::string_view from, std::string_view to) {
        text.replace(text.find(from), from.size(), to);
        const auto parsed = parse_endpoint_file(text);
        return parsed ? "accepted" : parsed.error().message();
    };
    const auto text = encode_endpoint_file(example());
    EXPECT_THAT(why(text, "{", ""), HasSubstr("expected a JSON object"));
    EXPECT_THAT(why(text, "\"shop\"", "7"), HasSubstr("namespace: expected a text"));
    EXPECT_THAT(why(text, "\"echo-1\"", "\"\""), HasSubstr("pod: expected a text"));
    EXPECT_THAT(why(text, "lxc0a0a0105", "lxc0a0a01050000x"), HasSubstr("device: expected 1 to"));
    EXPECT_THAT(why(text, "\"eth0\"", "\"\""), HasSubstr("podDevice: expected a text"));
    EXPECT_EQ(why(text, "podDevice", "other"), "accepted");
    EXPECT_THAT(why(text, "02:70", "2:70"), HasSubstr("podMAC: expected six bytes"));
    EXPECT_THAT(why(text, "02:71", "02-71"), HasSubstr("nodeMAC: expected six bytes"));
    EXPECT_THAT(why(text, "10.10.1.5", "10.10.1.500"), HasSubstr("ips: "));
    EXPECT_THAT(why(text, R"(["10.10.1.5","fd00::5"])", "[]"), HasSubstr("ips: expected a list"));
}

TEST_F(EndpointFiles, TheScanFollowsTheDirectoryAndKeepsTheLastGoodOne) {
    EndpointsScan scan(directory, clock, {});
    EXPECT_FALSE(scan.scan());
    ASSERT_TRUE(write_endpoint_file(directory, "shop.echo-1", example()));
    EXPECT_TRUE(scan.scan());
    EXPECT_EQ(scan.endpoints().at("shop.echo-1"), example());
    EXPECT_FALSE(scan.scan());
    std::ofstream(directory + "/shop.echo-1.json") << "{}";
    std::ofstream(directory + "/notes.txt") << "not an endpoint";
    EXPECT_FALSE(scan.scan());
    EXPECT_EQ(scan.endpoints().at("shop.echo-1"), example());
    EXPECT_THAT(scan.errors().at("shop.echo-1.json"), HasSubstr("namespace"));
    ASSERT_TRUE(remove_endpoint_file(directory, "shop.echo-1"));
    ASSERT_TRUE(remove_endpoint_file(directory, "shop.echo-1"));
    EXPECT_TRUE(scan.scan());
    EXPECT_TRUE(scan.endpoints().empty());
    EXPECT_TRUE(scan.errors().empty());
}

TEST_F(EndpointFiles, AnIdCannotLeaveTheDirectory) {
    for (const char* id : {"", "../x", ".x", "a/b"}) {
        EXPECT_FALSE(write_endpoint_file(directory, id, example())) << id;
        EXPECT_FALSE(remove_endpoint_file(directory, id)) << id;
    }
}

TEST_F(EndpointFiles, ChangesAreToldAsTheyHappen) {
    boost::asio::io_context io;
    int changes = 0;
    EndpointsDirectory watched(io.get_executor(), directory, clock, {}, [&] {
        if (++changes == 1) {
            ASSERT_TRUE(remove_endpoint_file(directory, "shop.echo-1"));
        } else {
            io.stop();
        }
    });
    watched.start();
    boost::asio::post(
        io, [&] { ASSERT_TRUE(write_endpoint_file(directory, "shop.echo-1", example())); });
    io.run_for(std::chrono::seconds(20));
    EXPECT_EQ(changes, 2);
    EXPECT_TRUE(watched.scan().endpoints().empty());
    io.restart();
    boost::asio::co_spawn(io, watched.stop(), [](std::exception_ptr) {});
    io.run_for(std::chrono::seconds(20));
}

}  // namespace
}  // namespace mesh::sources::config
