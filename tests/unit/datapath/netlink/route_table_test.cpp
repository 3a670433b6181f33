#include "datapath/netlink/route_table.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::datapath {
namespace {

using model::IpAddress;
using model::IpPrefix;
using testing::ElementsAre;
using testing::IsEmpty;

IpPrefix prefix(const char* text) {
    return IpPrefix::parse(text).value();
}
IpAddress address(const char* text) {
    return IpAddress::parse(text).value();
}

Route route(const char* to, const char* via, std::uint8_t protocol = kRouteProtocol) {
    Route r;
    r.destination = prefix(to);
    r.via = address(via);
    r.protocol = protocol;
    r.metric = r.destination.is_v4() ? 0 : 1024;
    return r;
}

std::vector<std::string> names(const std::vector<Route>& routes) {
    std::vector<std::string> out;
    for (const Route& r : routes) {
        out.push_back(r.destination.to_string() + (r.via ? " via " + r.via->to_string() : ""));
    }
    return out;
}

TEST(PlanRoutes, AddsReplacesAndRemovesOnlyOurs) {
    DesiredRoutes desired;
    desired[prefix("10.1.0.0/24")] = {address("192.168.0.1"), "", false};
    desired[prefix("10.2.0.0/24")] = {address("192.168.0.2"), "", false};
    desired[prefix("fd00:2::/64")] = {address("fd00::2"), "", false};
    const RoutePlan plan = plan_routes(
        desired, {route("10.2.0.0/24", "192.168.0.9"), route("10.3.0.0/24", "192.168.0.3"),
                  route("10.4.0.0/24", "192.168.0.4", 3), route("fd00:2::/64", "fd00::2")});
    EXPECT_THAT(names(plan.add), ElementsAre("10.1.0.0/24 via 192.168.0.1"));
    EXPECT_THAT(names(plan.replace), ElementsAre("10.2.0.0/24 via 192.168.0.2"));
    EXPECT_THAT(names(plan.remove), ElementsAre("10.3.0.0/24 via 192.168.0.3"));
    EXPECT_THAT(plan.taken, IsEmpty());
}

TEST(PlanRoutes, NothingToDoWhenEqual) {
    DesiredRoutes desired;
    desired[prefix("10.1.0.0/24")] = {address("192.168.0.1"), "", false};
    Route there = route("10.1.0.0/24", "192.168.0.1");
    there.device = "eth0";
    const RoutePlan plan = plan_routes(desired, {there});
    EXPECT_THAT(plan.add, IsEmpty());
    EXPECT_THAT(plan.replace, IsEmpty());
    EXPECT_THAT(plan.remove, IsEmpty());
}

TEST(PlanRoutes, ForeignRouteToTheSamePrefixIsLeftAlone) {
    DesiredRoutes desired;
    desired[prefix("10.1.0.0/24")] = {address("192.168.0.1"), "", false};
    Route connected = route("10.1.0.0/24", "0.0.0.0", 2);
    connected.via.reset();
    const RoutePlan plan = plan_routes(desired, {connected});
    EXPECT_THAT(plan.add, IsEmpty());
    EXPECT_THAT(plan.replace, IsEmpty());
    EXPECT_THAT(plan.taken, ElementsAre(prefix("10.1.0.0/24")));
}

TEST(PlanRoutes, ForeignRouteOfAnotherMetricDoesNotMatter) {
    DesiredRoutes desired;
    desired[prefix("10.1.0.0/24")] = {address("192.168.0.1"), "", false};
    Route other = route("10.1.0.0/24", "192.168.0.7", 3);
    other.metric = 100;
    EXPECT_THAT(names(plan_routes(desired, {other}).add),
                ElementsAre("10.1.0.0/24 via 192.168.0.1"));
}

TEST(PlanRoutes, OursWithAnUnusualMetricOrInAnotherTable) {
    DesiredRoutes desired;
    desired[prefix("10.1.0.0/24")] = {address("192.168.0.1"), "", false};
    Route odd = route("10.1.0.0/24", "192.168.0.1");
    odd.metric = 5;
    Route elsewhere = route("10.9.0.0/24", "192.168.0.1");
    elsewhere.table = 100;
    const RoutePlan plan = plan_routes(desired, {odd, elsewhere});
    EXPECT_EQ(plan.add.size(), 1U);
    EXPECT_THAT(plan.remove, ElementsAre(odd));
}

}  // namespace
}  // namespace mesh::datapath
