#include "attach/cni_result.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace mesh::attach {
namespace {

using ::testing::HasSubstr;

model::IpAddress address(const char* text) {
    return *model::IpAddress::parse(text);
}

CniAddResult example() {
    CniAddResult result;
    result.interfaces = {{"lxc1", "02:71:0a:0a:01:05", ""}, {"eth0", "", "/run/netns/x"}};
    result.ips = {{address("10.10.1.5"), 32, address("169.254.1.1"), 1},
                  {address("fd00::5"), 128, std::nullopt, 1}};
    result.routes = {{*model::IpPrefix::parse("0.0.0.0/0"), address("169.254.1.1")}};
    result.dns = {{"nameservers", {"10.11.0.10"}}};
    return result;
}

TEST(CniResult, IsOfTheVersionAskedFor) {
    EXPECT_EQ(
        encode_result("1.0.0", example()),
        R"({"cniVersion":"1.0.0","interfaces":[{"name":"lxc1","mac":"02:71:0a:0a:01:05"},)"
        R"({"name":"eth0","sandbox":"/run/netns/x"}],)"
        R"("ips":[{"interface":1,"address":"10.10.1.5/32","gateway":"169.254.1.1"},)"
        R"({"interface":1,"address":"fd00::5/128"}],)"
        R"("routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}],"dns":{"nameservers":["10.11.0.10"]}})"
        "\n");
    const std::string old = encode_result("0.4.0", example());
    EXPECT_THAT(old, HasSubstr(R"({"version":"4","interface":1,"address":"10.10.1.5/32")"));
    EXPECT_THAT(old, HasSubstr(R"({"version":"6","interface":1,"address":"fd00::5/128"})"));
}

TEST(CniResult, WhatIsWrittenIsRead) {
    for (const std::string_view version : kCniVersions) {
        const auto text = encode_result(version, example());
        const auto parsed = parse_result(boost::json::parse(text).as_object());
        ASSERT_TRUE(parsed) << parsed.error().message();
        EXPECT_EQ(encode_result(version, *parsed), text);
    }
}

TEST(CniResult, BadOnesNameTheField) {
    const auto why = [](std::string_view text) {
        const auto parsed =
            parse_result(boost::json::parse({text.data(), text.size()}).as_object());
        return parsed ? "accepted" : parsed.error().message();
    };
    EXPECT_EQ(why("{}"), "accepted");
    EXPECT_EQ(why(R"({"ips":null})"), "accepted");
    EXPECT_THAT(why(R"({"ips":{}})"), HasSubstr("ips: expected a list"));
    EXPECT_THAT(why(R"({"interfaces":[1]})"), HasSubstr("interfaces: expected a list"));
    EXPECT_THAT(why(R"({"ips":[{"address":"10.0.0.1"}]})"), HasSubstr("ips: address"));
    EXPECT_THAT(why(R"({"ips":[{"address":"10.0.0.1/40"}]})"), HasSubstr("ips: "));
    EXPECT_THAT(why(R"({"ips":[{"address":"10.0.0.1/8","interface":-1}]})"),
                HasSubstr("interface: expected an index"));
    EXPECT_THAT(why(R"({"routes":[{"dst":"x"}]})"), HasSubstr("routes: "));
}

TEST(CniErrors, AreWrittenAndRead) {
    CniError error(CniCode::kBadConfig, "mtu: expected a number");
    EXPECT_EQ(encode_error("0.4.0", error),
              R"({"cniVersion":"0.4.0","code":7,"msg":"mtu: expected a number"})"
              "\n");
    error.details = "more";
    const auto parsed = parse_error(encode_error("1.0.0", error));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->code, 7U);
    EXPECT_EQ(parsed->message, "mtu: expected a number");
    EXPECT_EQ(parsed->details, "more");
    EXPECT_FALSE(parse_error("Segmentation fault"));
    EXPECT_FALSE(parse_error(R"({"msg":"no code"})"));
}

}  // namespace
}  // namespace mesh::attach
