// Pods of two clusters: who reaches whom, as whom, and what is dropped for which reason.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "echo_server.hpp"
#include "fabric.hpp"
#include "traffic.hpp"

namespace mesh::test {
namespace {

using datapath::DropReason;
using datapath::PodEvent;

class PodsTest : public ::testing::TestWithParam<bool> {
  protected:
    Fabric fabric{GetParam()};
    [[nodiscard]] static bool tunnel() { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Modes, PodsTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(PodsTest, EveryPodReachesEveryPodAsItself) {
    for (const auto& [n, k] : {std::pair(1, 1), std::pair(2, 0), std::pair(2, 1)}) {
        for (const int family : {AF_INET, AF_INET6}) {
            for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
                EXPECT_EQ(reaches(fabric.pod(1, 0), fabric.pod(n, k), family, type), "")
                    << n << " " << k << " " << family << " " << type;
                EXPECT_EQ(reaches(fabric.pod(n, k), fabric.pod(1, 0), family, type), "")
                    << n << " " << k << " " << family << " " << type;
            }
        }
        EXPECT_EQ(ping(fabric.pod(1, 0).netns, fabric.pod(n, k).ip4), 0);
        EXPECT_EQ(ping(fabric.pod(1, 0).netns, fabric.pod(n, k).ip6), 0);
    }
    for (const int n : {1, 2}) EXPECT_TRUE(fabric.node(n).pods().drops().empty());
}

TEST_P(PodsTest, TheSourcesIdentityIsKnownAtTheDestination) {
    (void)fabric.node(2).events();
    ASSERT_EQ(reaches(fabric.pod(1, 1), fabric.pod(2, 0), AF_INET, SOCK_STREAM), "");
    ASSERT_EQ(reaches(fabric.pod(1, 1), fabric.pod(2, 0), AF_INET6, SOCK_DGRAM), "");
    const auto point = tunnel() ? PodEvent::Point::kFromOverlay : PodEvent::Point::kFromDevice;
    std::set<std::uint8_t> protocols;
    for (const auto& event : fabric.node(2).events()) {
        if (event.point != point) continue;
        EXPECT_EQ(event.source_identity, fabric.pod(1, 1).identity);
        EXPECT_EQ(event.destination_identity, fabric.pod(2, 0).identity);
        if (event.destination_port == 7000) protocols.insert(event.protocol);
    }
    EXPECT_EQ(protocols, (std::set<std::uint8_t>{IPPROTO_TCP, IPPROTO_UDP}));
}

TEST_P(PodsTest, NodesReachPodsOfOtherNodesAndAreAnswered) {
    EXPECT_EQ(ping(fabric.node(1).netns, fabric.pod(2, 0).ip4), 0);
    EXPECT_EQ(ping(fabric.node(1).netns, fabric.pod(2, 0).ip6), 0);
    EXPECT_EQ(ping(fabric.pod(2, 0).netns, fabric.node(1).ip4()), 0);
    EXPECT_EQ(ping(fabric.pod(2, 0).netns, fabric.node(2).ip4()), 0);
    if (!tunnel()) return;
    EXPECT_EQ(ping(fabric.pod(2, 0).netns, fabric.node(1).pod4(1)), 0);
    EXPECT_EQ(ping(fabric.pod(2, 0).netns, fabric.node(1).pod6(1)), 0);
}

TEST_P(PodsTest, LargeDatagramsArriveInFragments) {
    for (const int family : {AF_INET, AF_INET6}) {
        const Listener listener(fabric.pod(2, 0).netns, family, SOCK_DGRAM, 7001);
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_DGRAM);
            const std::string& ip = family == AF_INET ? fabric.pod(2, 0).ip4 : fabric.pod(2, 0).ip6;
            ASSERT_EQ(socket.connect(ip, 7001), 0);
            ASSERT_EQ(socket.send(std::string(9000, 'x')), 0);
        });
        std::size_t length = 0;
        EXPECT_EQ(listener.sender(&length),
                  family == AF_INET ? fabric.pod(1, 0).ip4 : fabric.pod(1, 0).ip6);
        EXPECT_EQ(length, 9000U);
    }
}

TEST_P(PodsTest, ATooLargePacketIsAnsweredWithTheMtu) {
    // The pod believes that its link takes more than the way does.
    const std::string mtu = tunnel() ? "1500" : "2000";
    fabric.pod(1, 0).netns.ip("link set eth0 mtu " + mtu);
    fabric.node(1).netns.ip("link set lxc0 mtu " + mtu);
    const std::string size = tunnel() ? "1440" : "1900";
    for (const std::string& ip : {fabric.pod(2, 0).ip4, fabric.pod(2, 0).ip6}) {
        // The first is refused on the way, and the kernel remembers why.
        EXPECT_NE(ping(fabric.pod(1, 0).netns, "-M do -s " + size + " " + ip), 0) << ip;
        std::string route;
        fabric.pod(1, 0).netns.run([&] {
            FILE* out = ::popen(("ip route get " + ip).c_str(), "r");
            char line[512] = {};
            while (::fgets(line, sizeof line, out) != nullptr) route += line;
            ::pclose(out);
        });
        EXPECT_THAT(route, ::testing::HasSubstr(tunnel() ? "mtu 1430" : "mtu 1500")) << ip;
    }
    // Without the bit it is cut into pieces on the way.
    EXPECT_EQ(ping(fabric.pod(1, 0).netns, "-M dont -s " + size + " " + fabric.pod(2, 0).ip4), 0);
}

TEST_P(PodsTest, AnExpiredTtlIsAnswered) {
    std::string output;
    fabric.pod(1, 0).netns.run([&] {
        FILE* out = ::popen(("ping -n -c 1 -W 2 -t 1 " + fabric.pod(2, 0).ip4).c_str(), "r");
        char line[512] = {};
        while (::fgets(line, sizeof line, out) != nullptr) output += line;
        ::pclose(out);
    });
    EXPECT_THAT(output, ::testing::HasSubstr("Time to live exceeded"));
}

TEST_P(PodsTest, ASpoofedSourceIsDroppedAndCounted) {
    fabric.pod(1, 0).netns.ip("addr add " + fabric.pod(1, 1).ip4 + "/32 dev eth0");
    EXPECT_NE(
        ping(fabric.pod(1, 0).netns, "-I " + fabric.pod(1, 1).ip4 + " " + fabric.pod(2, 0).ip4), 0);
    fabric.pod(1, 0).netns.ip("addr add 192.0.2.7/32 dev eth0");
    EXPECT_NE(ping(fabric.pod(1, 0).netns, "-I 192.0.2.7 " + fabric.pod(2, 0).ip4), 0);
    EXPECT_EQ(fabric.node(1).dropped(DropReason::kInvalidSource), 2U);
    std::size_t told = 0;
    for (const auto& event : fabric.node(1).events()) {
        if (event.kind != PodEvent::Kind::kDrop) continue;
        EXPECT_EQ(event.reason, DropReason::kInvalidSource);
        EXPECT_EQ(event.destination, address(fabric.pod(2, 0).ip4));
        ++told;
    }
    EXPECT_EQ(told, 2U);
}

/// Sends a frame of a pod as it is.
void send_frame(const FabricPod& pod, const std::vector<std::uint8_t>& bytes) {
    pod.netns.run([&] {
        const int fd = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
        sockaddr_ll to{};
        to.sll_family = AF_PACKET;
        to.sll_ifindex = static_cast<int>(::if_nametoindex("eth0"));
        to.sll_halen = 6;
        ASSERT_EQ(::sendto(fd, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&to),
                           sizeof to),
                  static_cast<ssize_t>(bytes.size()));
        ::close(fd);
    });
}

/// An Ethernet frame with an IPv4 header from one pod to another, checksum right.
std::vector<std::uint8_t> frame_v4(const FabricPod& from, const FabricPod& to) {
    std::vector<std::uint8_t> frame(14 + 20 + 8, 0);
    frame[12] = 0x08;
    iphdr ip{};
    ip.version = 4;
    ip.ihl = 5;
    ip.tot_len = htons(28);
    ip.ttl = 64;
    ip.protocol = IPPROTO_UDP;
    ip.saddr = htonl(address(from.ip4).v4_number());
    ip.daddr = htonl(address(to.ip4).v4_number());
    std::uint32_t sum = 0;
    std::uint16_t half[10];
    std::memcpy(half, &ip, sizeof ip);
    for (const auto word : half) sum += word;
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    ip.check = static_cast<std::uint16_t>(~sum);
    std::memcpy(frame.data() + 14, &ip, sizeof ip);
    frame[14 + 20 + 5] = 8;  // UDP length
    return frame;
}

TEST_P(PodsTest, MalformedPacketsAreDroppedAndCounted) {
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    const auto good = frame_v4(from, to);
    send_frame(from, good);
    EXPECT_EQ(fabric.node(1).dropped(DropReason::kMalformed), 0U);
    std::uint64_t expected = 0;
    const auto bad = [&](std::vector<std::uint8_t> frame) {
        send_frame(from, frame);
        EXPECT_EQ(fabric.node(1).dropped(DropReason::kMalformed), ++expected);
    };
    auto frame = good;
    frame[14 + 10] ^= 0x55;  // checksum
    bad(frame);
    frame = good;
    frame[14] = 0x44;  // header of 16 bytes
    bad(frame);
    frame = good;
    frame[14] = 0x65;  // version 6 in an IPv4 frame
    bad(frame);
    frame = good;
    frame.resize(14 + 12);  // truncated
    bad(frame);
    frame = good;
    frame[14 + 2] = 0x7f;  // longer than what is there (and the checksum is wrong as well)
    bad(frame);
    frame.assign(14 + 20, 0);  // an IPv6 header of 20 bytes
    frame[12] = 0x86;
    frame[13] = 0xdd;
    frame[14] = 0x60;
    bad(frame);
    frame.assign(60, 0);  // another protocol altogether
    frame[12] = 0x88;
    frame[13] = 0xcc;
    send_frame(from, frame);
    EXPECT_EQ(fabric.node(1).dropped(DropReason::kUnsupported), 1U);
}

TEST_P(PodsTest, ForwardingGoesOnWithoutAWriterAndIsAdopted) {
    fabric.node(1).close();
    fabric.node(2).close();
    EXPECT_EQ(reaches(fabric.pod(1, 0), fabric.pod(2, 0), AF_INET, SOCK_STREAM), "");
    fabric.node(1).open();
    fabric.node(2).open();
    auto& pods = fabric.node(1).pods();
    EXPECT_EQ(pods.occupancy().ipcache, 16U);
    EXPECT_EQ(pods.occupancy().nodes, 4U);
    EXPECT_EQ(pods.endpoints().size(), 4U);
    EXPECT_EQ(pods.settings().tunnel, tunnel());
    // Programs are replaced without a packet lost.
    fabric.node(1).netns.run([&] {
        ASSERT_TRUE(pods.attach(pods.settings().device_ifindex, datapath::DeviceRole::kDevice));
        ASSERT_TRUE(pods.attach(pods.endpoints().front().ifindex, datapath::DeviceRole::kPod));
    });
    EXPECT_EQ(reaches(fabric.pod(1, 0), fabric.pod(2, 0), AF_INET, SOCK_STREAM), "");
    // One entry of cluster 2 is confirmed; the others go with its sync, cluster 1's stay.
    auto changes = fabric.everything();
    datapath::PodsChanges confirmed;
    confirmed.upserts.push_back(changes.upserts.back());
    ASSERT_TRUE(pods.apply(confirmed));
    const auto pruned = pods.finish_adopt_cluster(2);
    ASSERT_TRUE(pruned);
    EXPECT_EQ(pruned->removed, 9U);  // 7 of the ipcache, 2 nodes
    EXPECT_EQ(pods.occupancy().ipcache, 9U);
    EXPECT_TRUE(pods.find(changes.upserts.back().prefix));
    EXPECT_EQ(pods.finish_adopt()->removed, 10U);
    EXPECT_EQ(pods.occupancy().ipcache, 1U);
    EXPECT_EQ(pods.finish_adopt()->removed, 0U);
}

TEST_P(PodsTest, AFullTableRefusesRowsAndKeepsTheRest) {
    datapath::PodsChanges changes;
    for (std::uint32_t i = 0; i < 5000; ++i) {
        datapath::IpcacheEntry entry;
        entry.prefix = model::IpPrefix(model::IpAddress::v4(0x0b000000 + i), 32);
        entry.identity = 70000;
        entry.cluster_id = 1;
        changes.upserts.push_back(entry);
    }
    auto& pods = fabric.node(1).pods();
    const auto stats = pods.apply(changes);
    ASSERT_TRUE(stats) << stats.error().message();
    EXPECT_EQ(stats->written, 4096U - 16U);
    EXPECT_EQ(stats->refused.size(), 5000U - stats->written);
    EXPECT_EQ(stats->refused.front(), stats->written);
    EXPECT_THAT(stats->refusal, ::testing::HasSubstr("no room for 11.0.15.240/32"));
    EXPECT_EQ(pods.occupancy().ipcache, 4096U);
    EXPECT_EQ(reaches(fabric.pod(1, 0), fabric.pod(2, 0), AF_INET, SOCK_STREAM), "");
    datapath::PodsChanges less;
    for (const auto& entry : changes.upserts) less.removed.push_back(entry.prefix);
    EXPECT_EQ(pods.apply(less)->removed, 4080U);
    EXPECT_EQ(pods.occupancy().ipcache, 16U);
}

class MasqueradeTest : public ::testing::TestWithParam<bool> {
  protected:
    Fabric fabric{GetParam(), true};
    [[nodiscard]] static std::string world(int family) {
        return family == AF_INET ? "10.250.0.100" : "fd25::100";
    }
};
INSTANTIATE_TEST_SUITE_P(Modes, MasqueradeTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(MasqueradeTest, PodsReachTheWorldAsTheirNodeAndAreAnswered) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        EXPECT_EQ(ping(fabric.pod(1, 0).netns, world(family)), 0) << family;
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            const Listener listener(fabric.world, family, type, 7002);
            fabric.pod(1, 0).netns.run([&] {
                const Socket socket(family, type);
                // A connection that is set up was answered.
                ASSERT_EQ(socket.connect(world(family), 7002), 0);
                if (type == SOCK_DGRAM) {
                    ASSERT_EQ(socket.send("x"), 0);
                }
                EXPECT_EQ(listener.sender(), node);
                EXPECT_THAT(socket.peer(), ::testing::StartsWith(world(family)));
            });
        }
    }
    EXPECT_TRUE(fabric.node(1).pods().drops().empty());
}

TEST_P(MasqueradeTest, PodsOfTheMeshSeeOneAnother) {
    for (const int family : {AF_INET, AF_INET6}) {
        EXPECT_EQ(reaches(fabric.pod(1, 0), fabric.pod(2, 0), family, SOCK_STREAM), "");
        EXPECT_EQ(reaches(fabric.pod(1, 0), fabric.pod(1, 1), family, SOCK_DGRAM), "");
    }
    EXPECT_EQ(ping(fabric.pod(1, 0).netns, fabric.node(2).ip4()), 0);
    EXPECT_EQ(ping(fabric.pod(1, 0).netns, fabric.node(2).ip6()), 0);
}

TEST_P(MasqueradeTest, AnswersGoToWhoAsked) {
    // Two pods from the same port to the same server.
    const Listener server(fabric.world, AF_INET, SOCK_DGRAM, 7003);
    std::vector<std::unique_ptr<Listener>> clients;
    for (const int k : {0, 1}) {
        clients.push_back(
            std::make_unique<Listener>(fabric.pod(1, k).netns, AF_INET, SOCK_DGRAM, 5555));
        EXPECT_TRUE(clients.back()->send_to("ask" + std::to_string(k), world(AF_INET), 7003));
        EXPECT_TRUE(server.echo());
    }
    for (const int k : {0, 1}) {
        EXPECT_EQ(clients[static_cast<std::size_t>(k)]->receive(), "ask" + std::to_string(k));
    }
}

TEST_P(MasqueradeTest, ErrorsAboutMasqueradedPacketsComeBack) {
    for (const int family : {AF_INET, AF_INET6}) {
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_DGRAM);
            ASSERT_EQ(socket.connect(world(family), 9), 0);  // nobody listens
            ASSERT_EQ(socket.send("x"), 0);
            EXPECT_EQ(socket.receive(), "");
            EXPECT_EQ(errno, ECONNREFUSED) << family;
        });
    }
}

TEST_P(MasqueradeTest, FragmentsAreMasqueradedTogether) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const Listener listener(fabric.world, family, SOCK_DGRAM, 7004);
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_DGRAM);
            ASSERT_EQ(socket.connect(world(family), 7004), 0);
            ASSERT_EQ(socket.send(std::string(6000, 'x')), 0);
            std::size_t length = 0;
            EXPECT_EQ(listener.sender(&length), node);
            EXPECT_EQ(length, 6000U);
        });
        // Its answer comes in fragments as well.
        EXPECT_EQ(ping(fabric.pod(1, 0).netns, "-s 6000 " + world(family)), 0) << family;
    }
    EXPECT_TRUE(fabric.node(1).pods().drops().empty());
}

TEST_P(MasqueradeTest, NonMasqueradeCidrsSeeThePod) {
    ASSERT_TRUE(
        fabric.node(1).pods().set_non_masquerade({*model::IpPrefix::parse("10.250.0.96/28")}));
    fabric.world.ip("route add " + fabric.node(1).cidr4() + " via " + fabric.node(1).ip4());
    const Listener listener(fabric.world, AF_INET, SOCK_STREAM, 7005);
    const auto seen = [&] {
        std::string from;
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(AF_INET, SOCK_STREAM);
            EXPECT_EQ(socket.connect(world(AF_INET), 7005), 0);
            from = listener.sender();
        });
        return from;
    };
    EXPECT_EQ(seen(), fabric.pod(1, 0).ip4);
    ASSERT_TRUE(fabric.node(1).pods().set_non_masquerade({}));
    EXPECT_EQ(seen(), fabric.node(1).ip4());
}

/// What a policy of this node calls an address does not bring it into the mesh.
TEST_P(MasqueradeTest, ABlockThatOnlyPoliciesNameIsOutsideOfTheMesh) {
    datapath::PodsChanges named;
    for (const auto* block : {"10.250.0.96/28", "fd25::100/128"}) {
        named.upserts.push_back(
            {.prefix = *model::IpPrefix::parse(block), .identity = 0x01000005, .tunnel = {}});
    }
    ASSERT_TRUE(fabric.node(1).pods().apply(named));
    for (const int family : {AF_INET, AF_INET6}) {
        const Listener listener(fabric.world, family, SOCK_STREAM, 7006);
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_STREAM);
            ASSERT_EQ(socket.connect(world(family), 7006), 0);
            EXPECT_EQ(listener.sender(),
                      family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6());
        });
    }
}

/// A host that registered itself is of the mesh, and knows pods' addresses only where they are
/// routed.
TEST_P(MasqueradeTest, AHostOfTheMeshWithoutATunnelIsReachedAsNodesAre) {
    datapath::PodsChanges registered;
    for (const auto* block : {"10.250.0.100/32", "fd25::100/128"}) {
        registered.upserts.push_back({.prefix = *model::IpPrefix::parse(block),
                                      .identity = (1U << 16) + 77,
                                      .cluster_id = 1,
                                      .tunnel = {}});
    }
    ASSERT_TRUE(fabric.node(1).pods().apply(registered));
    if (!GetParam()) {
        fabric.world.ip("route add " + fabric.node(1).cidr4() + " via " + fabric.node(1).ip4());
        fabric.world.ip("-6 route add " + fabric.node(1).cidr6() + " via " + fabric.node(1).ip6());
    }
    for (const int family : {AF_INET, AF_INET6}) {
        const bool v4 = family == AF_INET;
        const Listener listener(fabric.world, family, SOCK_STREAM, 7007);
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(family, SOCK_STREAM);
            ASSERT_EQ(socket.connect(world(family), 7007), 0);
            const std::string node = v4 ? fabric.node(1).ip4() : fabric.node(1).ip6();
            const std::string pod = v4 ? fabric.pod(1, 0).ip4 : fabric.pod(1, 0).ip6;
            EXPECT_EQ(listener.sender(), GetParam() ? node : pod);
        });
    }
    EXPECT_TRUE(fabric.node(1).pods().drops().empty());
}

class OverlayTest : public ::testing::Test {
  protected:
    Fabric fabric{true};
};

TEST_F(OverlayTest, WhoIsNoNodeCannotEncapsulate) {
    datapath::PodsChanges changes;
    changes.removed_nodes = {address(fabric.node(1).ip4()), address(fabric.node(1).ip6())};
    ASSERT_TRUE(fabric.node(2).pods().apply(changes));
    EXPECT_NE(ping(fabric.pod(1, 0).netns, fabric.pod(2, 0).ip4), 0);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kUnknownTunnelPeer), 1U);
}

TEST_F(OverlayTest, ANodeSpeaksForItsOwnClusterOnly) {
    // A node of cluster 1 that claims an identity of cluster 2 ...
    auto endpoint = fabric.pod(1, 0).endpoints.front();
    endpoint.identity = (2U << 16) + 100;
    ASSERT_TRUE(fabric.node(1).pods().upsert_endpoint(endpoint));
    EXPECT_NE(ping(fabric.pod(1, 0).netns, fabric.pod(2, 0).ip4), 0);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kInvalidIdentity), 1U);
    // ... or an address of cluster 2.
    endpoint.identity = fabric.pod(1, 0).identity;
    ASSERT_TRUE(fabric.node(1).pods().upsert_endpoint(endpoint));
    datapath::PodsChanges changes;
    datapath::IpcacheEntry stolen;
    stolen.prefix = *model::IpPrefix::parse(fabric.pod(1, 0).ip4);
    stolen.identity = (2U << 16) + 200;
    stolen.cluster_id = 2;
    changes.upserts.push_back(stolen);
    ASSERT_TRUE(fabric.node(2).pods().apply(changes));
    EXPECT_NE(ping(fabric.pod(1, 0).netns, fabric.pod(2, 0).ip4), 0);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kInvalidSource), 1U);
}

TEST_F(OverlayTest, APodThatIsGoneIsCounted) {
    for (const auto& endpoint : fabric.pod(2, 0).endpoints) {
        ASSERT_TRUE(fabric.node(2).pods().remove_endpoint(endpoint.address));
    }
    EXPECT_NE(ping(fabric.pod(1, 0).netns, fabric.pod(2, 0).ip4), 0);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kNoEndpoint), 1U);
    EXPECT_EQ(ping(fabric.pod(1, 0).netns, fabric.pod(2, 1).ip4), 0);
}

}  // namespace
}  // namespace mesh::test
