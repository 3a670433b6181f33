// Packets that policies lead to a proxy of the node, on the real kernel: TCP and UDP, both
// families; the server sees the client's own address.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <chrono>
#include <thread>

#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/proxy_routes.hpp"
#include "fabric.hpp"
#include "policy_probe.hpp"
#include "traffic.hpp"
#include "transparent_proxy.hpp"

namespace mesh::test {
namespace {

using datapath::DropReason;
using datapath::EndpointEnforcement;
using datapath::PolicyRow;
using datapath::ProxySocket;
using ::testing::ElementsAre;

constexpr std::uint32_t kMark = 0x6d701000;
constexpr std::uint16_t kProxyPort = 10001, kOtherProxyPort = 10002;

class PolicyProxyTest : public ::testing::TestWithParam<bool> {
  protected:
    PolicyProxyTest() {
        for (const int n : {1, 2}) {
            datapath::PolicySettings settings;
            settings.proxy_mark = kMark;
            settings.verdict_events = true;
            EXPECT_TRUE(policy(n).configure(settings));
            const auto inside = datapath::Netns::of_process(fabric.node(n).netns.holder());
            auto links = datapath::Rtnetlink::open(*inside);
            for (int again = 0; again < 2; ++again) {
                const auto made = datapath::set_proxy_routes(*links, kMark);
                EXPECT_TRUE(made) << made.error().message();
            }
        }
    }
    datapath::PolicyDatapath& policy(int n) { return fabric.node(n).pods().policy(); }
    void set(int n, int k, const std::vector<PolicyRow>& rows) {
        const auto done = policy(n).replace(fabric.pod(n, k).id, EndpointEnforcement::kRules, rows);
        ASSERT_TRUE(done) << done.error().message();
    }
    static std::vector<PolicyRow> to_proxy(bool egress, std::uint16_t port = kProxyPort) {
        return {redirect(0, egress, IPPROTO_TCP, 7000, port),
                redirect(0, egress, IPPROTO_UDP, 7000, port), open_way(!egress)};
    }
    /// Sends from pod to pod, and waits until node n drops for that reason.
    bool drops_rise(int n, DropReason reason, const FabricPod& from, const FabricPod& to,
                    int family, int type) {
        const auto before = fabric.node(n).dropped(reason);
        bool risen = false;
        from.netns.run([&] {
            const Socket socket(family, type | SOCK_NONBLOCK);
            (void)socket.connect(family == AF_INET ? to.ip4 : to.ip6, 7000);
            if (type == SOCK_DGRAM) (void)socket.send("?");
            for (int i = 0; i < 3000 && !risen; ++i) {
                risen = fabric.node(n).dropped(reason) > before;
                if (!risen) std::this_thread::sleep_for(std::chrono::milliseconds(10));
            }
        });
        return risen;
    }
    Attempt of(const FabricPod& from, const FabricPod& to, int family, int type) {
        return {&from.netns, &to.netns, family == AF_INET ? to.ip4 : to.ip6, 7000, type};
    }

    Fabric fabric{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Modes, PolicyProxyTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

/// Every way a packet may come to the proxy of the client's or of the server's node.
TEST_P(PolicyProxyTest, TheServerSeesTheClientThroughTheProxy) {
    for (const bool egress : {true, false}) {
        for (const bool local : {true, false}) {
            const FabricPod& from = fabric.pod(1, 0);
            const FabricPod& to = local ? fabric.pod(1, 1) : fabric.pod(2, 0);
            const int node = egress || local ? 1 : 2;
            const int k = egress ? 0 : local ? 1 : 0;
            set(node, k, to_proxy(egress));
            for (const int family : {AF_INET, AF_INET6}) {
                for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
                    const TransparentProxy proxy(
                        fabric.node(node).netns, kProxyPort, kMark,
                        egress ? ProxySocket::kToServerOfEgress : ProxySocket::kToServerOfIngress);
                    Conversation talk(fabric, of(from, to, family, type));
                    EXPECT_EQ(talk.open(), Fate::kAnswered)
                        << "egress " << egress << " local " << local << " family " << family
                        << " type " << type;
                    EXPECT_EQ(talk.exchange(), Fate::kAnswered);
                    EXPECT_EQ(talk.seen_client(), family == AF_INET ? from.ip4 : from.ip6);
                    const std::string expected = family == AF_INET
                                                     ? from.ip4 + " " + to.ip4 + ":7000"
                                                     : from.ip6 + " " + to.ip6 + ":7000";
                    ASSERT_FALSE(proxy.seen().empty());
                    EXPECT_EQ(proxy.seen().front(), expected);
                    // Other ports have no row.
                    EXPECT_EQ(attempt(fabric, from, to, family, type, 7001), Fate::kDenied);
                }
            }
            ASSERT_TRUE(policy(node).remove(fabric.pod(node, k).id));
        }
    }
}

TEST_P(PolicyProxyTest, BothEndsOfALocalConnectionMayHaveAProxy) {
    set(1, 0, to_proxy(kEgress, kProxyPort));
    set(1, 1, to_proxy(kIngress, kOtherProxyPort));
    const TransparentProxy first(fabric.node(1).netns, kProxyPort, kMark,
                                 ProxySocket::kToServerOfEgress);
    const TransparentProxy second(fabric.node(1).netns, kOtherProxyPort, kMark,
                                  ProxySocket::kToServerOfIngress);
    for (const int family : {AF_INET, AF_INET6}) {
        Conversation talk(fabric, of(fabric.pod(1, 0), fabric.pod(1, 1), family, SOCK_STREAM));
        EXPECT_EQ(talk.open(), Fate::kAnswered) << family;
        EXPECT_EQ(talk.exchange(), Fate::kAnswered);
        EXPECT_EQ(talk.seen_client(),
                  family == AF_INET ? fabric.pod(1, 0).ip4 : fabric.pod(1, 0).ip6);
    }
    EXPECT_EQ(first.seen().size(), 2U);
    EXPECT_EQ(second.seen().size(), 2U) << "the server's own policy is not passed by";
    // The server's policy is asked also when it has no proxy.
    set(1, 1, {allow(fabric.pod(2, 0).identity, kIngress)});
    EXPECT_TRUE(drops_rise(1, DropReason::kPolicyDenied, fabric.pod(1, 0), fabric.pod(1, 1),
                           AF_INET, SOCK_STREAM));
}

TEST_P(PolicyProxyTest, WithoutAProxyNothingPasses) {
    set(1, 0, to_proxy(kEgress));
    set(2, 0, to_proxy(kIngress));
    for (const int family : {AF_INET, AF_INET6}) {
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            for (const int n : {1, 2}) {
                const FabricPod& from = n == 1 ? fabric.pod(1, 0) : fabric.pod(1, 1);
                EXPECT_TRUE(
                    drops_rise(n, DropReason::kProxyGone, from, fabric.pod(2, 0), family, type));
            }
        }
    }
}

TEST_P(PolicyProxyTest, APolicyThatForbidsCutsWhatGoesThroughAProxy) {
    set(2, 0, to_proxy(kIngress));
    const TransparentProxy proxy(fabric.node(2).netns, kProxyPort, kMark,
                                 ProxySocket::kToServerOfIngress);
    Conversation talk(fabric, of(fabric.pod(1, 0), fabric.pod(2, 0), AF_INET, SOCK_STREAM));
    ASSERT_EQ(talk.open(), Fate::kAnswered);
    // Another row leads to a proxy still, so sockets are looked for.
    auto rows = to_proxy(kIngress);
    rows.push_back(deny(fabric.pod(1, 0).identity, kIngress));
    set(2, 0, rows);
    EXPECT_EQ(talk.exchange(), Fate::kDenied);
}

TEST_P(PolicyProxyTest, WithoutTheRuleTheConnectionStaysWithItsProxy) {
    set(2, 1, to_proxy(kIngress));  // somebody's
    set(2, 0, to_proxy(kIngress));
    const TransparentProxy proxy(fabric.node(2).netns, kProxyPort, kMark,
                                 ProxySocket::kToServerOfIngress);
    {
        Conversation talk(fabric, of(fabric.pod(1, 0), fabric.pod(2, 0), AF_INET6, SOCK_STREAM));
        ASSERT_EQ(talk.open(), Fate::kAnswered);
        set(2, 0, {open_way(kIngress), open_way(kEgress)});
        EXPECT_EQ(talk.exchange(), Fate::kAnswered);
    }
    Conversation next(fabric, of(fabric.pod(1, 0), fabric.pod(2, 0), AF_INET6, SOCK_STREAM));
    ASSERT_EQ(next.open(), Fate::kAnswered);
    EXPECT_EQ(proxy.seen().size(), 1U) << "a new one goes straight";
}

TEST_P(PolicyProxyTest, TheNodesOwnPacketsToAPodMakeATurn) {
    set(2, 0, to_proxy(kIngress));
    const auto inside = datapath::Netns::of_process(fabric.node(2).netns.holder());
    ASSERT_TRUE(datapath::set_sysctl(*inside, "ipv4/conf/lxc0/accept_local", "1"));
    const TransparentProxy proxy(fabric.node(2).netns, kProxyPort, kMark,
                                 ProxySocket::kToServerOfIngress);
    for (const std::string& ip : {fabric.pod(2, 0).ip4, fabric.pod(2, 0).ip6}) {
        EXPECT_EQ(attempt(fabric,
                          {&fabric.node(2).netns, &fabric.pod(2, 0).netns, ip, 7000, SOCK_STREAM}),
                  Fate::kAnswered)
            << ip;
    }
    EXPECT_EQ(proxy.seen().size(), 2U);
}

TEST_P(PolicyProxyTest, RoutesForProxiesGo) {
    const auto inside = datapath::Netns::of_process(fabric.node(1).netns.holder());
    auto links = datapath::Rtnetlink::open(*inside);
    EXPECT_EQ(links->rules()->size(), 2U);
    ASSERT_TRUE(datapath::set_proxy_routes(*links, kMark + 0x100));
    ASSERT_EQ(links->rules()->size(), 2U);
    EXPECT_EQ(links->rules()->front().mark, kMark + 0x100);
    ASSERT_TRUE(datapath::clear_proxy_routes(*links));
    ASSERT_TRUE(datapath::clear_proxy_routes(*links));
    EXPECT_TRUE(links->rules()->empty());
}

}  // namespace
}  // namespace mesh::test
