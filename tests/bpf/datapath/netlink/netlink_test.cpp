// Needs root: works in namespaces of its own, named after this process, and removes them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/route_table.hpp"
#include "datapath/netlink/rtnetlink.hpp"

namespace mesh::datapath {
namespace {

using model::IpAddress;
using model::IpPrefix;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

IpPrefix prefix(const char* text) {
    return IpPrefix::parse(text).value();
}
IpAddress address(const char* text) {
    return IpAddress::parse(text).value();
}

#define ASSERT_OK(...)                                                      \
    do {                                                                    \
        auto result_ = (__VA_ARGS__);                                       \
        ASSERT_TRUE(result_) << (result_ ? "" : result_.error().message()); \
    } while (false)

std::uint64_t inode(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

class Netlink : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: needs root for network namespaces";
        prefix_ = "nltest-" + std::to_string(::getpid()) + "-";
    }
    void TearDown() override {
        if (prefix_.empty()) return;
        for (const std::string& name : list_netns(prefix_).value()) {
            EXPECT_TRUE(delete_netns(name)) << name;
        }
    }
    Netns make(const std::string& name) {
        auto made = create_netns(prefix_ + name);
        EXPECT_TRUE(made) << (made ? "" : made.error().message());
        return Netns::open(prefix_ + name).value();
    }
    int run(const Netns& netns, const std::string& command) {
        const NetnsScope scope = NetnsScope::enter(netns).value();
        return std::system((command + " >/dev/null 2>&1").c_str());
    }
    std::string prefix_;
};

TEST_F(Netlink, NamespacesComeAndGoAndTheThreadReturns) {
    const std::uint64_t home = inode("/proc/thread-self/ns/net");
    const Netns a = make("a");
    EXPECT_EQ(inode("/proc/thread-self/ns/net"), home);
    EXPECT_EQ(create_netns(prefix_ + "a").error().code(), Errc::kConflict);
    EXPECT_THAT(list_netns(prefix_).value(), ElementsAre(prefix_ + "a"));
    {
        const NetnsScope scope = NetnsScope::enter(a).value();
        EXPECT_EQ(inode("/proc/thread-self/ns/net"), inode("/run/netns/" + prefix_ + "a"));
    }
    EXPECT_EQ(inode("/proc/thread-self/ns/net"), home);
    EXPECT_EQ(std::system(("ip netns list | grep -q " + prefix_ + "a").c_str()), 0);
    ASSERT_OK(delete_netns(prefix_ + "a"));
    EXPECT_THAT(list_netns(prefix_).value(), IsEmpty());
    EXPECT_EQ(delete_netns(prefix_ + "a").error().code(), Errc::kNotFound);
    EXPECT_EQ(Netns::open(prefix_ + "a").error().code(), Errc::kNotFound);
    // What a crash between the file and the mount leaves.
    std::ofstream("/run/netns/" + prefix_ + "half") << "";
    EXPECT_EQ(Netns::open(prefix_ + "half").error().code(), Errc::kCorrupt);
    ASSERT_OK(delete_netns(prefix_ + "half"));
    for (const char* bad : {"", "..", "a/b"}) {
        EXPECT_EQ(create_netns(bad).error().code(), Errc::kInvalidArgument) << bad;
    }
}

TEST_F(Netlink, SysctlsBelongToOneNamespace) {
    const Netns a = make("a");
    const Netns b = make("b");
    ASSERT_OK(set_sysctl(a, "ipv4/ip_forward", "1"));
    ASSERT_OK(set_sysctl(b, "ipv4/ip_forward", "0"));
    EXPECT_EQ(get_sysctl(a, "ipv4/ip_forward").value(), "1");
    EXPECT_EQ(get_sysctl(b, "ipv4/ip_forward").value(), "0");
    EXPECT_EQ(set_sysctl(a, "ipv4/nothing", "1").error().code(), Errc::kNotFound);
    EXPECT_EQ(set_sysctl(a, "ipv4/ip_forward", "x").error().code(), Errc::kInvalidArgument);
    EXPECT_EQ(set_sysctl(a, "../vm/x", "1").error().code(), Errc::kInvalidArgument);
}

TEST_F(Netlink, VethCarriesPacketsOfBothFamilies) {
    const Netns a = make("a");
    const Netns b = make("b");
    Rtnetlink left = Rtnetlink::open(a).value();
    Rtnetlink right = Rtnetlink::open(b).value();
    const MacAddress mac{0x02, 0, 0, 0, 0, 7};
    ASSERT_OK(left.add_veth({"left", &a, mac, 1450}, {"right", &b, std::nullopt, 1450}));
    EXPECT_EQ(left.link("left").value().mac, mac);
    EXPECT_EQ(left.link("left").value().mtu, 1450U);
    EXPECT_EQ(right.link("right").value().mtu, 1450U);
    EXPECT_FALSE(left.link("left").value().up);
    EXPECT_EQ(left.link("right").error().code(), Errc::kNotFound);
    ASSERT_OK(left.set_up("left"));
    ASSERT_OK(right.set_up("right"));
    ASSERT_OK(left.add_address("left", address("10.0.0.1"), 24));
    ASSERT_OK(right.add_address("right", address("10.0.0.2"), 24));
    ASSERT_OK(left.add_address("left", address("fd00::1"), 64));
    ASSERT_OK(right.add_address("right", address("fd00::2"), 64));
    EXPECT_EQ(left.add_address("left", address("10.0.0.1"), 24).error().code(), Errc::kConflict);
    EXPECT_THAT(left.addresses("left").value(),
                testing::IsSupersetOf({DeviceAddress{address("10.0.0.1"), 24},
                                       DeviceAddress{address("fd00::1"), 64}}));
    EXPECT_EQ(run(a, "ping -c1 -W2 10.0.0.2"), 0);
    EXPECT_EQ(run(a, "ping -c1 -W2 fd00::2"), 0);

    ASSERT_OK(left.set_mtu("left", 1400));
    EXPECT_EQ(left.link("left").value().mtu, 1400U);
    ASSERT_OK(left.set_mac("left", {0x02, 0, 0, 0, 0, 9}));
    EXPECT_EQ(to_string(left.link("left").value().mac), "02:00:00:00:00:09");
    ASSERT_OK(left.delete_address("left", address("10.0.0.1"), 24));
    EXPECT_THAT(left.addresses("left").value(),
                Not(Contains(DeviceAddress{address("10.0.0.1"), 24})));
    ASSERT_OK(left.delete_link("left"));
    EXPECT_EQ(right.link("right").error().code(), Errc::kNotFound);
    const auto refused = left.set_up("left");
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().detail(),
                testing::AllOf(HasSubstr("left"), HasSubstr(prefix_ + "a")));
}

TEST_F(Netlink, BridgeJoinsThree) {
    const Netns hub = make("hub");
    const Netns a = make("a");
    const Netns b = make("b");
    Rtnetlink bridge = Rtnetlink::open(hub).value();
    ASSERT_OK(bridge.add_bridge("br0"));
    ASSERT_OK(bridge.set_up("br0"));
    int last = 1;
    for (const Netns* netns : {&a, &b}) {
        const std::string port = "p" + std::to_string(last);
        ASSERT_OK(
            bridge.add_veth({port, &hub, std::nullopt, 1500}, {"eth0", netns, std::nullopt, 1500}));
        ASSERT_OK(bridge.set_master(port, "br0"));
        ASSERT_OK(bridge.set_up(port));
        Rtnetlink node = Rtnetlink::open(*netns).value();
        ASSERT_OK(node.set_up("eth0"));
        ASSERT_OK(
            node.add_address("eth0", IpAddress::v4(10, 0, 0, static_cast<std::uint8_t>(last)), 24));
        ++last;
    }
    EXPECT_EQ(bridge.link("p1").value().master, bridge.link("br0").value().index);
    EXPECT_EQ(run(a, "ping -c1 -W2 10.0.0.2"), 0);
    EXPECT_EQ(bridge.links().value().size(), 4U);
}

// The pod's side of the recipe: a /32, a default route through an address that answers no ARP.
TEST_F(Netlink, PermanentNeighboursReplaceArp) {
    const Netns node = make("node");
    const Netns pod = make("pod");
    Rtnetlink n = Rtnetlink::open(node).value();
    Rtnetlink p = Rtnetlink::open(pod).value();
    const MacAddress node_mac{2, 0, 0, 0, 1, 1};
    const MacAddress pod_mac{2, 0, 0, 0, 1, 2};
    ASSERT_OK(n.add_veth({"pod1", &node, node_mac, 1450}, {"eth0", &pod, pod_mac, 1450}));
    ASSERT_OK(n.set_up("pod1"));
    ASSERT_OK(p.set_up("eth0"));
    ASSERT_OK(n.add_address("lo", address("192.168.9.1"), 32));
    ASSERT_OK(p.add_address("eth0", address("10.0.0.5"), 32));
    Route gateway;
    gateway.destination = prefix("0.0.0.0/0");
    gateway.via = address("169.254.1.1");
    gateway.device = "eth0";
    gateway.onlink = true;
    ASSERT_OK(p.add_route(gateway));
    ASSERT_OK(p.set_neighbour("eth0", address("169.254.1.1"), node_mac));
    Route host;
    host.destination = prefix("10.0.0.5/32");
    host.device = "pod1";
    ASSERT_OK(n.add_route(host));
    ASSERT_OK(n.set_neighbour("pod1", address("10.0.0.5"), pod_mac));
    EXPECT_EQ(run(pod, "ping -c1 -W2 192.168.9.1"), 0);
    ASSERT_OK(p.delete_neighbour("eth0", address("169.254.1.1")));
    EXPECT_EQ(p.delete_neighbour("eth0", address("169.254.1.1")).error().code(), Errc::kNotFound);
}

TEST_F(Netlink, RouteTableMakesTheKernelAgreeAndSparesOthers) {
    const Netns a = make("a");
    const Netns b = make("b");
    Rtnetlink left = Rtnetlink::open(a).value();
    ASSERT_OK(left.add_veth({"left", &a, std::nullopt, 1500}, {"right", &b, std::nullopt, 1500}));
    Rtnetlink right = Rtnetlink::open(b).value();
    ASSERT_OK(left.set_up("left"));
    ASSERT_OK(right.set_up("right"));
    ASSERT_OK(left.add_address("left", address("192.168.0.1"), 24));
    ASSERT_OK(left.add_address("left", address("fd00::1"), 64));
    ASSERT_EQ(run(a, "ip route add 10.7.0.0/16 via 192.168.0.7 proto static"), 0);
    ASSERT_EQ(run(a, "ip route add 10.8.0.0/16 via 192.168.0.8 proto static"), 0);

    RouteTable table(Rtnetlink::open(a).value());
    DesiredRoutes desired;
    desired[prefix("10.1.0.0/24")] = {address("192.168.0.11"), "", false};
    desired[prefix("10.2.0.0/24")] = {address("192.168.0.12"), "left", false};
    desired[prefix("fd01::/64")] = {address("fd00::9"), "", false};
    desired[prefix("10.8.0.0/16")] = {address("192.168.0.99"), "", false};  // taken
    desired[prefix("10.9.0.0/16")] = {address("172.16.0.1"), "", false};    // unreachable
    RouteOutcome outcome = table.reconcile(desired).value();
    EXPECT_EQ(outcome.added, 3U);
    ASSERT_EQ(outcome.failures.size(), 2U);
    EXPECT_THAT(outcome.failures[0].detail(), HasSubstr("10.9.0.0/16"));
    EXPECT_THAT(outcome.failures[1].detail(), HasSubstr("10.8.0.0/16"));
    EXPECT_EQ(run(a, "ip route show 10.1.0.0/24 proto 109 | grep -q 'via 192.168.0.11'"), 0);
    EXPECT_EQ(run(a, "ip -6 route show fd01::/64 proto 109 | grep -q 'via fd00::9'"), 0);

    desired.erase(prefix("10.8.0.0/16"));
    desired.erase(prefix("10.9.0.0/16"));
    desired[prefix("10.1.0.0/24")].via = address("192.168.0.13");
    desired[prefix("fd01::/64")].via = address("fd00::8");
    desired.erase(prefix("10.2.0.0/24"));
    outcome = table.reconcile(desired).value();
    EXPECT_THAT(outcome.failures, IsEmpty());
    EXPECT_EQ(outcome.replaced, 2U);
    EXPECT_EQ(outcome.removed, 1U);
    EXPECT_EQ(run(a, "ip route show 10.1.0.0/24 | grep -q 'via 192.168.0.13'"), 0);
    EXPECT_EQ(run(a, "ip -6 route show fd01::/64 | grep -q 'via fd00::8'"), 0);

    outcome = table.reconcile(desired).value();
    EXPECT_EQ(outcome.added + outcome.replaced + outcome.removed, 0U);
    outcome = table.reconcile({}).value();
    EXPECT_EQ(outcome.removed, 2U);
    EXPECT_THAT(outcome.failures, IsEmpty());
    EXPECT_EQ(run(a, "test -z \"$(ip route show proto 109; ip -6 route show proto 109)\""), 0);
    EXPECT_EQ(run(a, "ip route show 10.7.0.0/16 | grep -q 192.168.0.7"), 0);
    EXPECT_EQ(run(a, "ip route show 10.8.0.0/16 | grep -q 192.168.0.8"), 0);
}

TEST_F(Netlink, AnOverlayDeviceIsMadeOrRefusedWithAClearError) {
    const Netns netns = make("a");
    auto links = Rtnetlink::open(netns).value();
    ASSERT_OK(links.add_overlay({"ov0", "vxlan", 8472, 1400}));
    const auto made = links.link("ov0");
    ASSERT_OK(made);
    EXPECT_EQ(made->kind, "vxlan");
    EXPECT_EQ(made->mtu, 1400U);
    const auto again = links.add_overlay({"ov0", "vxlan", 8472, 1400});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code(), Errc::kConflict);
    const auto odd = links.add_overlay({"ov1", "gre", 8472, 1400});
    ASSERT_FALSE(odd);
    EXPECT_THAT(odd.error().message(), HasSubstr("expected vxlan or geneve"));
    // Not every kernel has Geneve.
    const auto geneve = links.add_overlay({"ov2", "geneve", 6081, 1400});
    if (geneve) {
        EXPECT_EQ(links.link("ov2").value().kind, "geneve");
    } else {
        EXPECT_EQ(geneve.error().code(), Errc::kUnavailable);
        EXPECT_THAT(geneve.error().message(), HasSubstr("add geneve device ov2"));
    }
}

TEST_F(Netlink, RoutesTellTheSourceAndDevicesAreFoundByAddress) {
    const Netns netns = make("a");
    auto links = Rtnetlink::open(netns).value();
    ASSERT_OK(links.add_bridge("br0"));
    ASSERT_OK(links.set_up("br0"));
    ASSERT_OK(links.add_address("br0", address("10.1.0.1"), 24));
    ASSERT_OK(links.add_address("br0", address("fd01::1"), 64));
    Route route;
    route.destination = prefix("10.2.0.0/16");
    route.device = "br0";
    route.source = address("10.1.0.1");
    ASSERT_OK(links.add_route(route));
    EXPECT_THAT(links.routes().value(), Contains(route));
    for (const char* text : {"10.1.0.1", "fd01::1"}) {
        EXPECT_EQ(links.device_of(address(text)).value().name, "br0");
    }
    const auto none = links.device_of(address("10.1.0.2"));
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code(), Errc::kNotFound);
}

TEST_F(Netlink, RulesLeadToATableWithBlackHolesBehindItsRoutes) {
    const Netns netns = make("a");
    auto links = Rtnetlink::open(netns).value();
    ASSERT_OK(links.add_bridge("br0"));
    ASSERT_OK(links.set_up("br0"));
    ASSERT_OK(links.add_address("br0", address("10.1.0.1"), 24));
    ASSERT_EQ(run(netns, "ip rule add pref 50 lookup 77"), 0);  // another's
    const std::vector<RoutingRule> rules{{true, 109, 201, IPPROTO_UDP, 8472},
                                         {false, 109, 201, IPPROTO_UDP, 8472},
                                         {true, 110, 1000, 0, 0}};
    for (const RoutingRule& rule : rules) ASSERT_OK(links.add_rule(rule));
    EXPECT_EQ(links.add_rule(rules[0]).error().code(), Errc::kConflict);
    EXPECT_THAT(links.rules().value(), testing::UnorderedElementsAreArray(rules));

    Route way, hole;
    way.destination = hole.destination = prefix("10.9.0.1/32");
    way.table = hole.table = 201;
    way.device = "br0";
    hole.blackhole = true;
    hole.metric = 4000;
    Route hole6 = hole;
    hole6.destination = prefix("fd09::1/128");
    for (const Route& route : {way, hole, hole6}) ASSERT_OK(links.replace_route(route));
    EXPECT_THAT(links.routes(201).value(), testing::UnorderedElementsAre(way, hole, hole6));
    const char* const asked = "ip route get 10.9.0.1 ipproto udp dport 8472 | grep -q 'dev br0'";
    EXPECT_EQ(run(netns, asked), 0);
    EXPECT_NE(run(netns, "ip route get 10.9.0.1 ipproto udp dport 8473 2>&1 | grep -q br0"), 0);
    ASSERT_OK(links.set_up("br0", false));
    EXPECT_THAT(links.routes(201).value(), testing::UnorderedElementsAre(hole, hole6));
    EXPECT_NE(run(netns, asked), 0);

    for (const Route& route : {hole, hole6}) ASSERT_OK(links.delete_route(route));
    EXPECT_THAT(links.routes(201).value(), IsEmpty());
    for (const RoutingRule& rule : rules) ASSERT_OK(links.delete_rule(rule));
    EXPECT_EQ(links.delete_rule(rules[0]).error().code(), Errc::kNotFound);
    EXPECT_THAT(links.rules().value(), IsEmpty());
    EXPECT_EQ(run(netns, "ip rule | grep -q 'lookup 77'"), 0);
}

}  // namespace
}  // namespace mesh::datapath
