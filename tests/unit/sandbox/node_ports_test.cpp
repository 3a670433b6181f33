#include "sandbox/node_ports.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <set>

namespace mesh::sandbox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

boost::json::object service(const std::string& text) {
    return boost::json::parse(text).as_object();
}

class NodePortsTest : public ::testing::Test {
  protected:
    std::uint64_t cursor = 0;
    std::set<NodePort> used;
    Result<void> assign(boost::json::object& one, const boost::json::object* before = nullptr) {
        return assign_node_ports(one, before, cursor,
                                 [this](const NodePort& port) { return used.contains(port); });
    }
};

TEST_F(NodePortsTest, EachPortGetsOneAndKeepsIt) {
    const auto* text = R"({"spec":{"type":"NodePort","ports":[
        {"name":"web","port":80},{"name":"dns","port":53,"protocol":"UDP"}]}})";
    auto first = service(text);
    ASSERT_TRUE(assign(first));
    EXPECT_THAT(node_ports(first), ElementsAre(Pair(30001, "TCP"), Pair(30002, "UDP")));
    auto again = service(text);
    ASSERT_TRUE(assign(again, &first));
    EXPECT_EQ(again, first);
    auto other = service(text);
    used = {{30003, "TCP"}};
    ASSERT_TRUE(assign(other));
    EXPECT_THAT(node_ports(other), ElementsAre(Pair(30004, "TCP"), Pair(30005, "UDP")));
}

TEST_F(NodePortsTest, OneThatIsAskedForMustBeFree) {
    auto asked = service(R"({"spec":{"type":"LoadBalancer","ports":[
        {"name":"a","port":80,"nodePort":30001},{"name":"b","port":81}]}})");
    ASSERT_TRUE(assign(asked));
    EXPECT_THAT(node_ports(asked), ElementsAre(Pair(30001, "TCP"), Pair(30002, "TCP")));
    used = {{30001, "TCP"}};
    auto taken = service(R"({"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30001}]}})");
    const auto refused = assign(taken);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("nodePort 30001/TCP: expected a free one"));
}

TEST_F(NodePortsTest, OnlyTypesThatHaveThem) {
    for (const char* text : {R"({"spec":{"ports":[{"port":80}]}})",
                             R"({"spec":{"type":"ClusterIP","ports":[{"port":80}]}})",
                             R"({"spec":{"type":"LoadBalancer",
                                         "allocateLoadBalancerNodePorts":false,
                                         "ports":[{"port":80}]}})"}) {
        auto one = service(text);
        ASSERT_TRUE(assign(one));
        EXPECT_THAT(node_ports(one), IsEmpty()) << text;
    }
}

TEST_F(NodePortsTest, WhenNoneIsFreeItSaysSo) {
    for (std::uint32_t port = kFirstNodePort; port <= kLastNodePort; ++port) {
        used.emplace(static_cast<std::uint16_t>(port), "TCP");
    }
    auto tcp = service(R"({"spec":{"type":"NodePort","ports":[{"port":80}]}})");
    EXPECT_EQ(assign(tcp).error().code(), Errc::kCapacity);
    auto udp = service(R"({"spec":{"type":"NodePort","ports":[{"port":80,"protocol":"UDP"}]}})");
    EXPECT_TRUE(assign(udp));
}

}  // namespace
}  // namespace mesh::sandbox
