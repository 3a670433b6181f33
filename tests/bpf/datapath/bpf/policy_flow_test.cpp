// Network policy and what else happens to packets: errors about them, services, masquerading, the
// node's own stack, fragments; and what is told.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "fabric.hpp"
#include "policy_probe.hpp"
#include "traffic.hpp"

namespace mesh::test {
namespace {

using datapath::DropReason;
using datapath::EndpointEnforcement;
using datapath::PodEvent;
using datapath::PolicyRow;
using Verdict = PodEvent::Verdict;

constexpr std::uint32_t kHost = 1, kRemoteNode = 6;
constexpr std::uint32_t world(bool v4) {
    return v4 ? 9 : 10;
}
/// Of an outside CIDR: a number of this node only.
constexpr std::uint32_t kLocalCidr = 0x1000005;

bool wait_until(const std::function<bool()>& condition) {
    for (int i = 0; i < 3000; ++i) {
        if (condition()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

class PolicyFlowTest : public ::testing::TestWithParam<bool> {
  protected:
    PolicyFlowTest() : PolicyFlowTest(FabricOptions{.tunnel = GetParam()}) {}
    explicit PolicyFlowTest(const FabricOptions& options) : fabric(options) {
        for (const int n : {1, 2}) {
            datapath::PolicySettings settings;
            settings.verdict_events = true;
            EXPECT_TRUE(fabric.node(n).pods().policy().configure(settings));
        }
    }
    [[nodiscard]] static bool tunnel() { return GetParam(); }
    void set(int n, int k, const std::vector<PolicyRow>& rows,
             EndpointEnforcement enforcement = EndpointEnforcement::kRules) {
        const auto done =
            fabric.node(n).pods().policy().replace(fabric.pod(n, k).id, enforcement, rows);
        ASSERT_TRUE(done) << done.error().message();
    }
    static const std::string& ip_of(const FabricPod& pod, int family) {
        return family == AF_INET ? pod.ip4 : pod.ip6;
    }
    /// Tells node n whose the address is.
    void know(int n, const std::string& prefix, std::uint32_t identity) {
        datapath::PodsChanges changes;
        datapath::IpcacheEntry entry;
        entry.prefix = *model::IpPrefix::parse(prefix);
        entry.identity = identity;
        changes.upserts.push_back(entry);
        ASSERT_TRUE(fabric.node(n).pods().apply(changes));
    }

    Fabric fabric;
};
INSTANTIATE_TEST_SUITE_P(Modes, PolicyFlowTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(PolicyFlowTest, VerdictsAreToldOncePerFlowAndDenialsAlways) {
    auto row = allow(fabric.pod(1, 0).identity, kIngress, IPPROTO_TCP, 7000);
    row.verdict.cookie = 4711;
    auto no = deny(fabric.pod(1, 0).identity, kIngress, IPPROTO_UDP);
    no.verdict.cookie = 4712;
    set(2, 0, {row, no});
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    Conversation good(fabric, {&from.netns, &to.netns, to.ip4, 7000, SOCK_STREAM});
    ASSERT_EQ(good.open(), Fate::kAnswered);
    ASSERT_EQ(good.exchange(), Fate::kAnswered);
    ASSERT_EQ(good.events().size(), 1U) << "of the flow, not of each packet";
    const PodEvent& event = good.events().front();
    EXPECT_EQ(event.verdict, Verdict::kAllowed);
    EXPECT_EQ(event.cookie, 4711U);
    EXPECT_EQ(event.endpoint, to.id);
    EXPECT_FALSE(event.egress);
    EXPECT_EQ(event.source_identity, from.identity);
    EXPECT_EQ(event.destination_identity, to.identity);
    EXPECT_EQ(event.destination_port, 7000);
    EXPECT_EQ(event.protocol, IPPROTO_TCP);
    Conversation bad(fabric, {&from.netns, &to.netns, to.ip6, 7000, SOCK_DGRAM});
    ASSERT_EQ(bad.open(), Fate::kDenied);
    EXPECT_EQ(bad.events().back().reason, DropReason::kPolicyDenied);
    EXPECT_EQ(bad.events().back().cookie, 4712U);
    EXPECT_EQ(bad.exchange(), Fate::kDenied);
    EXPECT_EQ(bad.events().size(), 2U);
    Conversation unknown(fabric, {&from.netns, &to.netns, to.ip4, 7001, SOCK_STREAM});
    ASSERT_EQ(unknown.open(), Fate::kDenied);
    EXPECT_EQ(unknown.events().back().cookie, 0U) << "no row";
}

TEST_P(PolicyFlowTest, AnAuditedPodLetsAllPassAndTellsWhatItWouldNot) {
    set(2, 0, {allow(fabric.pod(1, 1).identity, kIngress)}, EndpointEnforcement::kAudit);
    for (const int family : {AF_INET, AF_INET6}) {
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            const std::string& ip = ip_of(fabric.pod(2, 0), family);
            Conversation bad(fabric,
                             {&fabric.pod(1, 0).netns, &fabric.pod(2, 0).netns, ip, 7000, type});
            EXPECT_EQ(bad.open(), Fate::kAnswered);
            ASSERT_EQ(bad.events().size(), 1U);
            EXPECT_EQ(bad.events().front().verdict, Verdict::kAudited);
            Conversation good(fabric,
                              {&fabric.pod(1, 1).netns, &fabric.pod(2, 0).netns, ip, 7001, type});
            EXPECT_EQ(good.open(), Fate::kAnswered);
            ASSERT_EQ(good.events().size(), 1U);
            EXPECT_EQ(good.events().front().verdict, Verdict::kAllowed);
        }
    }
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kPolicyDenied), 0U);
}

/// Errors about packets that were let pass do, both from the pod and to it; others do not.
TEST_P(PolicyFlowTest, ErrorsAboutAFlowPass) {
    set(1, 0, {allow(fabric.pod(2, 0).identity, kEgress, IPPROTO_UDP)});
    set(2, 0, {allow(fabric.pod(1, 0).identity, kIngress, IPPROTO_UDP)});
    for (const int family : {AF_INET, AF_INET6}) {
        int error = 0;
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_DGRAM | SOCK_NONBLOCK);
            ASSERT_EQ(socket.connect(ip_of(fabric.pod(2, 0), family), 7999), 0);
            ASSERT_EQ(socket.send("?"), 0);
            wait_until([&] {
                char byte = 0;
                error = ::recv(socket.fd(), &byte, 1, 0) < 0 ? errno : 0;
                return error != EAGAIN;
            });
        });
        EXPECT_EQ(error, ECONNREFUSED) << family;
    }
    for (const int n : {1, 2}) EXPECT_EQ(fabric.node(n).dropped(DropReason::kPolicyDenied), 0U);
    // An echo request is no error, and no rule is for it.
    EXPECT_NE(ping(fabric.pod(2, 0).netns, fabric.pod(1, 0).ip4), 0);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kPolicyDenied), 1U);
}

TEST_P(PolicyFlowTest, TheNodesWordOnTooLargePacketsPasses) {
    set(1, 0, {allow(fabric.pod(2, 0).identity, kEgress)});
    const std::string mtu = tunnel() ? "1500" : "2000";
    fabric.pod(1, 0).netns.ip("link set eth0 mtu " + mtu);
    fabric.node(1).netns.ip("link set lxc0 mtu " + mtu);
    for (const int family : {AF_INET, AF_INET6}) {
        int error = 0;
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_DGRAM | SOCK_NONBLOCK);
            const int discover = IP_PMTUDISC_DO;
            ::setsockopt(socket.fd(), family == AF_INET ? SOL_IP : SOL_IPV6,
                         family == AF_INET ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, &discover,
                         sizeof discover);
            ASSERT_EQ(socket.connect(ip_of(fabric.pod(2, 0), family), 7000), 0);
            const std::string large(tunnel() ? 1440 : 1900, 'x');
            wait_until([&] {
                error = -socket.send(large);
                return error == EMSGSIZE;
            });
        });
        EXPECT_EQ(error, EMSGSIZE) << family;
    }
    EXPECT_EQ(fabric.node(1).dropped(DropReason::kPolicyDenied), 0U);
}

TEST_P(PolicyFlowTest, NodesAreTheHostAndRemoteNodes) {
    const FabricPod& pod = fabric.pod(2, 0);
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string& ip = ip_of(pod, family);
        const Attempt from_host{&fabric.node(2).netns, &pod.netns, ip, 7000, SOCK_STREAM};
        const Attempt from_other{&fabric.node(1).netns, &pod.netns, ip, 7000, SOCK_STREAM};
        set(2, 0, {allow(kHost, kIngress)});
        EXPECT_EQ(attempt(fabric, from_host), Fate::kAnswered);
        EXPECT_EQ(attempt(fabric, from_other), Fate::kDenied);
        set(2, 0, {allow(kRemoteNode, kIngress)});
        EXPECT_EQ(attempt(fabric, from_host), Fate::kDenied);
        EXPECT_EQ(attempt(fabric, from_other), Fate::kAnswered);
        const auto to = [&](int n) {
            const std::string address =
                family == AF_INET ? fabric.node(n).ip4() : fabric.node(n).ip6();
            return Attempt{&pod.netns, &fabric.node(n).netns, address, 7000, SOCK_STREAM};
        };
        set(2, 0, {allow(kHost, kEgress)});
        EXPECT_EQ(attempt(fabric, to(2)), Fate::kAnswered);
        EXPECT_EQ(attempt(fabric, to(1)), Fate::kDenied);
        set(2, 0, {allow(kRemoteNode, kEgress)});
        EXPECT_EQ(attempt(fabric, to(2)), Fate::kDenied);
        EXPECT_EQ(attempt(fabric, to(1)), Fate::kAnswered);
    }
}

TEST_P(PolicyFlowTest, FragmentsAreJudgedByTheirDatagramsPorts) {
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    set(2, 0, {allow(from.identity, kIngress, IPPROTO_UDP, 7001)});
    set(1, 0, {allow(to.identity, kEgress, IPPROTO_UDP)});
    for (const int family : {AF_INET, AF_INET6}) {
        const Listener listener(to.netns, family, SOCK_DGRAM, 7001);
        from.netns.run([&] {
            const Socket socket(family, SOCK_DGRAM);
            ASSERT_EQ(socket.connect(ip_of(to, family), 7001), 0);
            ASSERT_EQ(socket.send(std::string(9000, 'x')), 0);
        });
        std::size_t length = 0;
        EXPECT_EQ(listener.sender(&length), ip_of(from, family));
        EXPECT_EQ(length, 9000U);
        EXPECT_EQ(fabric.node(2).dropped(DropReason::kPolicyDenied), 0U);
    }
    for (const int family : {AF_INET, AF_INET6}) {
        const auto before = fabric.node(2).dropped(DropReason::kPolicyDenied);
        from.netns.run([&] {
            const Socket socket(family, SOCK_DGRAM);
            ASSERT_EQ(socket.connect(ip_of(to, family), 7002), 0);
            ASSERT_EQ(socket.send(std::string(9000, 'x')), 0);
        });
        EXPECT_TRUE(wait_until([&] {
            return fabric.node(2).dropped(DropReason::kPolicyDenied) >= before + 7;
        })) << "each of the fragments";
    }
}

// ---- Outside -----------------------------------------------------------------------------------

class PolicyWorldTest : public PolicyFlowTest {
  protected:
    PolicyWorldTest() : PolicyFlowTest(FabricOptions{.tunnel = GetParam(), .masquerade = true}) {}
};
INSTANTIATE_TEST_SUITE_P(Modes, PolicyWorldTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(PolicyWorldTest, OutsideAddressesHaveIdentitiesOfThisNode) {
    const FabricPod& pod = fabric.pod(1, 0);
    for (const int family : {AF_INET, AF_INET6}) {
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            const bool v4 = family == AF_INET;
            const Attempt out{&pod.netns, &fabric.world, v4 ? "10.250.0.100" : "fd25::100", 7000,
                              type};
            const auto masqueraded = [&] {
                Conversation talk(fabric, out);
                EXPECT_EQ(talk.open(), Fate::kAnswered);
                EXPECT_EQ(talk.seen_client(), v4 ? fabric.node(1).ip4() : fabric.node(1).ip6());
            };
            set(1, 0, {allow(world(v4), kEgress)});
            masqueraded();
            set(1, 0, {allow(kRemoteNode, kEgress)});
            EXPECT_EQ(attempt(fabric, out), Fate::kDenied);
            // A CIDR that a policy names.
            know(1, v4 ? "10.250.0.96/28" : "fd25::100/124", kLocalCidr);
            EXPECT_EQ(attempt(fabric, out), Fate::kDenied);
            set(1, 0, {allow(world(v4), kEgress)});
            EXPECT_EQ(attempt(fabric, out), Fate::kDenied);
            set(1, 0, {allow(kLocalCidr, kEgress)});
            masqueraded();
            datapath::PodsChanges changes;
            changes.removed.push_back(
                *model::IpPrefix::parse(v4 ? "10.250.0.96/28" : "fd25::100/124"));
            ASSERT_TRUE(fabric.node(1).pods().apply(changes));
        }
    }
}

// ---- Services ----------------------------------------------------------------------------------

class PolicyServicesTest : public PolicyFlowTest {
  protected:
    PolicyServicesTest() : PolicyFlowTest(FabricOptions{.tunnel = GetParam(), .services = true}) {}
    /// A service of node 1 on that pod's port 8080.
    void serve(const std::string& ip, std::uint16_t port, int type, int n, int k) {
        const int family = ip.find(':') == std::string::npos ? AF_INET : AF_INET6;
        const auto proto =
            type == SOCK_STREAM ? datapath::Protocol::kTcp : datapath::Protocol::kUdp;
        datapath::ServiceRow row;
        row.frontend = frontend(ip, port, proto);
        row.name = "default/test";
        row.outside = port != 80;
        datapath::Backend backend;
        backend.address = address(ip_of(fabric.pod(n, k), family));
        backend.port = 8080;
        backend.proto = proto;
        backend.cluster_id = static_cast<std::uint32_t>(n);
        backend.here = n == 1;
        row.backends.push_back(backend);
        fabric.node(1).upsert({row});
    }
};
INSTANTIATE_TEST_SUITE_P(Modes, PolicyServicesTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(PolicyServicesTest, AServicesBackendIsWhoIsJudged) {
    const FabricPod& client = fabric.pod(1, 0);
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string vip = family == AF_INET ? "10.11.0.1" : "fd11::1";
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            const std::uint8_t protocol = type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
            for (const auto& [n, k] : {std::pair(1, 1), std::pair(2, 0)}) {
                const FabricPod& backend = fabric.pod(n, k);
                serve(vip, 80, type, n, k);
                const Attempt ask{&client.netns, &backend.netns, vip, 80, type, 8080};
                set(1, 0, {allow(backend.identity, kEgress, protocol, 8080)});
                set(n, k, {allow(client.identity, kIngress, protocol, 8080)});
                {
                    Conversation talk(fabric, ask);
                    EXPECT_EQ(talk.open(), Fate::kAnswered) << n << " " << type << " " << family;
                    EXPECT_EQ(talk.exchange(), Fate::kAnswered);
                    EXPECT_EQ(talk.seen_client(), ip_of(client, family));
                }
                set(1, 0, {allow(backend.identity, kEgress, protocol, 80)});
                EXPECT_EQ(attempt(fabric, ask), Fate::kDenied) << "the port is the backend's";
                set(1, 0, {open_way(kEgress)});
                set(n, k, {allow(client.identity, kIngress, protocol, 80)});
                EXPECT_EQ(attempt(fabric, ask), Fate::kDenied);
                ASSERT_TRUE(fabric.node(n).pods().policy().remove(backend.id));
            }
        }
    }
}

TEST_P(PolicyServicesTest, NoPolicyKeepsAPodFromItself) {
    set(1, 0, {});
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string vip = family == AF_INET ? "10.11.0.1" : "fd11::1";
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(vip, 80, type, 1, 0);
            const FabricPod& pod = fabric.pod(1, 0);
            EXPECT_EQ(attempt(fabric, {&pod.netns, &pod.netns, vip, 80, type, 8080}),
                      Fate::kAnswered);
        }
    }
}

TEST_P(PolicyServicesTest, AnOutsideClientsIdentityStaysOnThisNode) {
    const std::uint16_t port = 30080;
    for (const int family : {AF_INET, AF_INET6}) {
        const bool v4 = family == AF_INET;
        const std::string node = v4 ? fabric.node(1).ip4() : fabric.node(1).ip6();
        know(1, v4 ? "10.250.0.96/28" : "fd25::100/124", kLocalCidr);
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(node, port, type, 1, 1);
            const Attempt ask{&fabric.world, &fabric.pod(1, 1).netns, node, port, type, 8080};
            set(1, 1, {allow(kLocalCidr, kIngress)});
            EXPECT_EQ(attempt(fabric, ask), Fate::kAnswered);
            set(1, 1, {allow(world(v4), kIngress)});
            EXPECT_EQ(attempt(fabric, ask), Fate::kDenied);
            // Another node sees the world, or this node, and never a number that is this node's.
            serve(node, port, type, 2, 0);
            const Attempt far{&fabric.world, &fabric.pod(2, 0).netns, node, port, type, 8080};
            set(2, 0, {allow(tunnel() ? world(v4) : kRemoteNode, kIngress)});
            EXPECT_EQ(attempt(fabric, far), Fate::kAnswered);
        }
    }
}

}  // namespace
}  // namespace mesh::test
