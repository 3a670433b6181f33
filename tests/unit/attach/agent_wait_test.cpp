#include "attach/agent_wait.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::attach {
namespace {

using ::testing::HasSubstr;

std::string seen(std::string_view answer) {
    const auto attached = check_attached(answer, "shop.a", "lxc1");
    return attached ? "attached" : attached.error().message();
}

TEST(AgentWait, OnlyTheEndpointOnItsDeviceCounts) {
    EXPECT_EQ(seen(R"([{"id":"shop.b"},{"id":"shop.a","device":"lxc1","attached":true}])"),
              "attached");
    EXPECT_THAT(seen(R"([{"id":"shop.b","device":"lxc1","attached":true}])"),
                HasSubstr("does not know it"));
    // Of the pod's last container.
    EXPECT_THAT(seen(R"([{"id":"shop.a","device":"lxc0","attached":true}])"),
                HasSubstr("does not know it"));
    EXPECT_THAT(seen("[]"), HasSubstr("does not know it"));
    EXPECT_THAT(seen("{}"), HasSubstr("corrupt: /v1/endpoints: expected a list"));
    EXPECT_THAT(seen("nonsense"), HasSubstr("corrupt"));
}

TEST(AgentWait, SaysHowFarItIs) {
    EXPECT_THAT(seen(R"([{"id":"shop.a","device":"lxc1","attached":false,"error":""}])"),
                HasSubstr("has not attached it yet"));
    EXPECT_THAT(seen(R"([{"id":"shop.a","device":"lxc1","attached":false,"error":"no room"}])"),
                HasSubstr("the agent says: no room"));
}

TEST(AgentWait, AnAgentThatIsNotThereIsATimeout) {
    const SystemClock clock;
    const auto waited = wait_until_attached("/nonexistent/agent.sock", "shop.a", "lxc1", {}, clock);
    ASSERT_FALSE(waited);
    EXPECT_EQ(waited.error().code(), Errc::kTimeout);
    EXPECT_THAT(waited.error().detail(), HasSubstr("endpoint shop.a is not attached after 0 s: "
                                                   "/nonexistent/agent.sock: connect"));
}

}  // namespace
}  // namespace mesh::attach
