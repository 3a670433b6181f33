#include "attach/cni.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::attach {
namespace {

using ::testing::HasSubstr;

CniAnswer run(std::vector<std::string> environment, std::string_view config) {
    const SystemClock clock;
    return run_cni(std::move(environment), config, clock);
}

std::vector<std::string> call(const std::string& command) {
    return {"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0",
            "CNI_NETNS=/nonexistent/netns"};
}

TEST(Cni, TellsItsVersions) {
    for (const char* config : {R"({"cniVersion":"1.0.0"})", "", "{}"}) {
        const auto answer = run({"CNI_COMMAND=VERSION"}, config);
        EXPECT_EQ(answer.exit_code, 0);
        EXPECT_EQ(answer.output,
                  R"({"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]})"
                  "\n");
    }
    EXPECT_THAT(run({"CNI_COMMAND=VERSION"}, R"({"cniVersion":"0.4.0"})").output,
                HasSubstr(R"("cniVersion":"0.4.0")"));
}

TEST(Cni, FailsWithAnErrorOfTheConfigsVersion) {
    const auto answer = run(call("ADD"), R"({"cniVersion":"0.4.0","name":"m"})");
    EXPECT_EQ(answer.exit_code, 1);
    EXPECT_THAT(answer.output, HasSubstr(R"({"cniVersion":"0.4.0","code":7,"msg":"ipam: )"));
    const auto nothing = run({"CNI_COMMAND=ADD"}, example_network_config());
    EXPECT_THAT(nothing.output, HasSubstr(R"("code":4,"msg":"CNI_CONTAINERID)"));
}

TEST(Cni, AContainerThatIsGoneIsUnknown) {
    const auto answer = run(call("ADD"), example_network_config());
    EXPECT_EQ(answer.exit_code, 1);
    EXPECT_THAT(answer.output, HasSubstr(R"("code":3,"msg":"CNI_NETNS: )"));
}

TEST(Cni, TheNodesOwnNamespaceIsRefused) {
    auto environment = call("ADD");
    environment.back() = "CNI_NETNS=/proc/self/ns/net";
    EXPECT_THAT(run(environment, example_network_config()).output,
                HasSubstr(R"("code":4,"msg":"CNI_NETNS /proc/self/ns/net: expected)"));
}

// A config with that version and this previous result.
std::string checked(std::string_view version, std::string_view previous) {
    return R"({"cniVersion":")" + std::string(version) +
           R"(","name":"m","ipam":{"type":"host-local"})" +
           (previous.empty() ? "" : R"(,"prevResult":)" + std::string(previous)) + "}";
}

TEST(Cni, CheckNeedsWhatAddSaid) {
    const auto why = [](std::string_view version, std::string_view previous) {
        return run(call("CHECK"), checked(version, previous)).output;
    };
    EXPECT_THAT(why("0.3.1", "{}"), HasSubstr(R"("code":1,)"));
    EXPECT_THAT(why("1.0.0", ""), HasSubstr(R"("code":7,"msg":"prevResult: )"));
    EXPECT_THAT(why("1.0.0", "{}"), HasSubstr(R"("code":7,"msg":"prevResult.interfaces: )"));
    EXPECT_THAT(why("1.0.0", R"({"interfaces":[{"name":"eth0","sandbox":"/nonexistent/netns"}],)"
                             R"("ips":[{"interface":5,"address":"10.0.0.1/32"}]})"),
                HasSubstr(R"("code":7,"msg":"prevResult.ips: )"));
}

}  // namespace
}  // namespace mesh::attach
