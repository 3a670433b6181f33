// Services at tc: clients that no socket load balancer translates, in pods and outside.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <thread>

#include "fabric.hpp"
#include "named_server.hpp"
#include "traffic.hpp"

namespace mesh::test {
namespace {

using datapath::Backend;
using datapath::DropReason;
using datapath::Protocol;
using datapath::ServiceRow;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::uint16_t kPort = 8080;  // of the backends
constexpr std::uint16_t kNodePort = 30080;

const char* const kVip4 = "10.11.0.1";
const char* const kVip6 = "fd11::1";

Protocol protocol(int type) {
    return type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp;
}

/// Says something to a service: the answer, or "errno <text>".
std::string ask(const Netns& client, int type, const std::string& ip, std::uint16_t port,
                const std::string& text = "hello") {
    std::string answer;
    client.run([&] {
        const Socket socket(ip.find(':') == std::string::npos ? AF_INET : AF_INET6, type);
        if (const int error = socket.connect(ip, port); error != 0) {
            answer = "errno " + std::generic_category().message(-error);
            return;
        }
        if (const int error = socket.send(text); error != 0) {
            answer = "errno " + std::generic_category().message(-error);
            return;
        }
        answer = socket.receive();
        if (answer.empty()) answer = "errno " + std::generic_category().message(errno);
    });
    return answer;
}

/// What a command says inside.
std::string output_in(const Netns& netns, const std::string& command) {
    std::string text;
    netns.run([&] {
        FILE* out = ::popen(command.c_str(), "r");
        char line[512] = {};
        while (::fgets(line, sizeof line, out) != nullptr) text += line;
        ::pclose(out);
    });
    return text;
}

std::uint16_t checksum(const std::vector<std::uint8_t>& bytes, std::size_t from, std::size_t to) {
    std::uint32_t sum = 0;
    for (std::size_t i = from; i < to; i += 2) {
        sum += static_cast<std::uint32_t>(bytes[i] << 8 | bytes[i + 1]);
    }
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

/// Says, as a router on the way would, that an answer of the service to this socket was too big.
void send_too_big(const Socket& socket, const std::string& service, std::uint16_t port,
                  std::uint16_t mtu) {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    ASSERT_EQ(::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &size), 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(address(service).v4_number());
    // ICMP: 3/4 with the MTU, then the answer's IP header and the beginning of its UDP header.
    std::vector<std::uint8_t> packet(8 + 20 + 8, 0);
    packet[0] = 3;
    packet[1] = 4;
    packet[6] = static_cast<std::uint8_t>(mtu >> 8);
    packet[7] = static_cast<std::uint8_t>(mtu & 0xff);
    std::uint8_t* ip = packet.data() + 8;
    ip[0] = 0x45;
    ip[2] = 5;  // 1400 bytes
    ip[3] = 0x78;
    ip[6] = 0x40;  // DF
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    std::memcpy(ip + 12, &to.sin_addr, 4);
    std::memcpy(ip + 16, &own.sin_addr, 4);
    const std::uint16_t inner = checksum(packet, 8, 28);
    ip[10] = static_cast<std::uint8_t>(inner >> 8);
    ip[11] = static_cast<std::uint8_t>(inner & 0xff);
    const std::uint16_t service_port = htons(port);
    std::memcpy(ip + 20, &service_port, 2);
    std::memcpy(ip + 22, &own.sin_port, 2);
    ip[24] = 5;  // UDP length
    ip[25] = 0x64;
    const std::uint16_t outer = checksum(packet, 0, packet.size());
    packet[2] = static_cast<std::uint8_t>(outer >> 8);
    packet[3] = static_cast<std::uint8_t>(outer & 0xff);
    const int raw = ::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
    EXPECT_EQ(
        ::sendto(raw, packet.data(), packet.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
        static_cast<ssize_t>(packet.size()));
    ::close(raw);
}

class ServicesTest : public ::testing::TestWithParam<bool> {
  protected:
    ServicesTest() {
        for (int n = 1; n <= 2; ++n) {
            for (int k = 0; k < 2; ++k) {
                const std::string name = "pod" + std::to_string(n) + std::to_string(k);
                servers.push_back(
                    std::make_unique<NamedServer>(fabric.pod(n, k).netns, name, kPort));
            }
        }
    }
    [[nodiscard]] static bool tunnel() { return GetParam(); }
    /// A pod as a backend.
    [[nodiscard]] Backend backend(int n, int k, int family, int type) {
        Backend b;
        b.address = address(family == AF_INET ? fabric.pod(n, k).ip4 : fabric.pod(n, k).ip6);
        b.port = kPort;
        b.proto = protocol(type);
        b.cluster_id = static_cast<std::uint32_t>(n);
        b.here = n == 1;
        return b;
    }
    /// Serves it at node 1.
    void serve(const std::string& ip, std::uint16_t port, int type,
               std::vector<std::pair<int, int>> pods, bool outside_local = false) {
        const int family = ip.find(':') == std::string::npos ? AF_INET : AF_INET6;
        ServiceRow row;
        row.frontend = frontend(ip, port, protocol(type));
        row.name = "default/test";
        row.outside = port == kNodePort;
        row.outside_local = outside_local;
        for (const auto& [n, k] : pods) row.backends.push_back(backend(n, k, family, type));
        fabric.node(1).upsert({row});
    }
    /// What a remote backend sees of an outside client.
    [[nodiscard]] std::string node_source(int family) {
        auto& node = fabric.node(1);
        if (tunnel()) return family == AF_INET ? node.pod4(1) : node.pod6(1);
        return family == AF_INET ? node.ip4() : node.ip6();
    }

    Fabric fabric{FabricOptions{.tunnel = GetParam(), .services = true}};
    std::vector<std::unique_ptr<NamedServer>> servers;
};
INSTANTIATE_TEST_SUITE_P(Modes, ServicesTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(ServicesTest, PodsReachAClusterIp) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        const auto& client = fabric.pod(1, 0);
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(vip, 80, type, {{1, 1}, {2, 0}});
            std::map<std::string, int> seen;
            for (int i = 0; i < 32; ++i) ++seen[ask(client.netns, type, vip, 80)];
            const std::string& own = family == AF_INET ? client.ip4 : client.ip6;
            EXPECT_EQ(seen.size(), 2U) << seen.begin()->first;
            EXPECT_GT(seen["pod11 " + own], 0) << type;
            EXPECT_GT(seen["pod20 " + own], 0) << type;
        }
    }
    for (const int n : {1, 2}) EXPECT_TRUE(fabric.node(n).pods().drops().empty());
}

TEST_P(ServicesTest, APodReachesItselfThroughItsService) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(vip, 80, type, {{1, 0}});
            const std::string router =
                family == AF_INET ? fabric.node(1).pod4(1) : fabric.node(1).pod6(1);
            EXPECT_EQ(ask(fabric.pod(1, 0).netns, type, vip, 80), "pod10 " + router);
        }
    }
}

TEST_P(ServicesTest, OutsideClientsReachANodePort) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const std::string client = family == AF_INET ? "10.250.0.100" : "fd25::100";
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            // On this node the backend sees the client itself.
            serve(node, kNodePort, type, {{1, 1}});
            EXPECT_EQ(ask(fabric.world, type, node, kNodePort), "pod11 " + client);
            // On another node, of another cluster, it sees this one: its answer must come back.
            serve(node, kNodePort, type, {{2, 1}});
            EXPECT_EQ(ask(fabric.world, type, node, kNodePort), "pod21 " + node_source(family));
        }
    }
    for (const int n : {1, 2}) {
        // The last packet of a connection may come after its backend went from the service.
        for (const auto& [reason, count] : fabric.node(n).pods().drops()) {
            EXPECT_EQ(reason, DropReason::kBackendGone) << to_string(reason);
        }
    }
}

TEST_P(ServicesTest, OutsideClientsReachAClusterIpThatIsRoutedHere) {
    fabric.world.ip("route add 10.11.0.0/16 via " + fabric.node(1).ip4());
    fabric.world.ip("-6 route add fd11::/64 via " + fabric.node(1).ip6());
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(vip, 80, type, {{2, 0}});
            EXPECT_EQ(ask(fabric.world, type, vip, 80), "pod20 " + node_source(family));
        }
    }
}

TEST_P(ServicesTest, AServiceWithoutBackendsRefusesAtOnce) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(node, kNodePort, type, {});
            serve(vip, 80, type, {});
            EXPECT_EQ(ask(fabric.world, type, node, kNodePort), "errno Connection refused");
            EXPECT_EQ(ask(fabric.pod(1, 0).netns, type, vip, 80), "errno Connection refused");
        }
    }
    EXPECT_GE(fabric.node(1).dropped(DropReason::kNoBackend), 8U);
}

TEST_P(ServicesTest, FragmentsGoToTheBackendTogetherAndBack) {
    const std::string large(6000, 'x');
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        for (const auto& [n, k] : {std::pair(1, 1), std::pair(2, 0)}) {
            serve(node, kNodePort, SOCK_DGRAM, {{n, k}});
            serve(vip, 80, SOCK_DGRAM, {{n, k}});
            const std::string name = "pod" + std::to_string(n) + std::to_string(k) + " ";
            // IPv6 learns by the first what the way takes: nobody on it cuts a packet to pieces.
            if (tunnel() && family == AF_INET6 && n == 2) {
                (void)ask(fabric.world, SOCK_DGRAM, node, kNodePort, large);
            }
            EXPECT_THAT(ask(fabric.world, SOCK_DGRAM, node, kNodePort, large), StartsWith(name));
            EXPECT_THAT(ask(fabric.pod(1, 0).netns, SOCK_DGRAM, vip, 80, large), StartsWith(name));
        }
    }
}

TEST_P(ServicesTest, AFlowWhoseBackendWentIsReset) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        for (const bool outside : {true, false}) {
            const std::string& ip = outside ? node : vip;
            const std::uint16_t port = outside ? kNodePort : 80;
            const Netns& client = outside ? fabric.world : fabric.pod(1, 0).netns;
            serve(ip, port, SOCK_STREAM, {{1, 1}, {2, 0}});
            client.run([&] {
                const Socket socket(family, SOCK_STREAM);
                ASSERT_EQ(socket.connect(ip, port), 0);
                ASSERT_EQ(socket.send("x"), 0);
                const std::string first = socket.receive();
                const bool here = first.starts_with("pod11 ");
                EXPECT_TRUE(here || first.starts_with("pod20 ")) << first;
                // Others go, it stays ...
                serve(ip, port, SOCK_STREAM, {here ? std::pair(1, 1) : std::pair(2, 0)});
                ASSERT_EQ(socket.send("x"), 0);
                EXPECT_EQ(socket.receive(), first);
                // ... and it goes.
                serve(ip, port, SOCK_STREAM, {here ? std::pair(2, 0) : std::pair(1, 1)});
                ASSERT_EQ(socket.send("x"), 0);
                EXPECT_EQ(socket.receive(), "");
                EXPECT_EQ(errno, ECONNRESET);
                const Socket again(family, SOCK_STREAM);
                ASSERT_EQ(again.connect(ip, port), 0);
                ASSERT_EQ(again.send("x"), 0);
                EXPECT_THAT(again.receive(), StartsWith(here ? "pod20 " : "pod11 "));
                // The service itself goes.
                (void)fabric.node(1).services().apply(std::vector{
                    datapath::ServiceChange::remove(frontend(ip, port, Protocol::kTcp))});
                ASSERT_EQ(again.send("x"), 0);
                EXPECT_EQ(again.receive(), "");
                EXPECT_EQ(errno, ECONNRESET);
            });
        }
    }
    EXPECT_GE(fabric.node(1).dropped(DropReason::kBackendGone), 8U);
}

TEST_P(ServicesTest, FlowsGoOnWithoutAnAgentAndAreAdopted) {
    auto& node = fabric.node(1);
    serve(node.ip4(), kNodePort, SOCK_STREAM, {{2, 0}});
    fabric.world.run([&] {
        const Socket socket(AF_INET, SOCK_STREAM);
        ASSERT_EQ(socket.connect(node.ip4(), kNodePort), 0);
        const auto works = [&] {
            return socket.send("x") == 0 && socket.receive().starts_with("pod20 ");
        };
        EXPECT_TRUE(works());
        node.close();
        EXPECT_TRUE(works());
        node.open();
        node.netns.run([&] {
            const auto device = node.pods().settings().device_ifindex;
            ASSERT_TRUE(node.pods().attach(device, datapath::DeviceRole::kDevice));
        });
        EXPECT_TRUE(works());
        // The adopted tables are written again, and programs read these.
        serve(node.ip4(), kNodePort, SOCK_STREAM, {{2, 1}});
        EXPECT_THAT(ask(fabric.world, SOCK_STREAM, node.ip4(), kNodePort), StartsWith("pod"));
        ASSERT_TRUE(node.services().finish_adopt());
        EXPECT_THAT(ask(fabric.world, SOCK_STREAM, node.ip4(), kNodePort), StartsWith("pod21 "));
    });
}

TEST_P(ServicesTest, DatagramsGoToAnotherBackendWhenOneWent) {
    serve(kVip4, 80, SOCK_DGRAM, {{1, 1}});
    fabric.pod(1, 0).netns.run([&] {
        const Socket socket(AF_INET, SOCK_DGRAM);
        ASSERT_EQ(socket.connect(kVip4, 80), 0);
        ASSERT_EQ(socket.send("x"), 0);
        EXPECT_THAT(socket.receive(), StartsWith("pod11 "));
        serve(kVip4, 80, SOCK_DGRAM, {{2, 0}});
        ASSERT_EQ(socket.send("x"), 0);
        EXPECT_THAT(socket.receive(), StartsWith("pod20 "));
    });
}

TEST_P(ServicesTest, ErrorsOfBackendsReachTheClient) {
    // Nobody listens there: the backend says so with an ICMP error about a packet to itself.
    servers.clear();
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const std::string vip = family == AF_INET ? kVip4 : kVip6;
        for (const auto& [n, k] : {std::pair(1, 1), std::pair(2, 0)}) {
            serve(node, kNodePort, SOCK_DGRAM, {{n, k}});
            serve(vip, 80, SOCK_DGRAM, {{n, k}});
            EXPECT_EQ(ask(fabric.world, SOCK_DGRAM, node, kNodePort), "errno Connection refused");
            EXPECT_EQ(ask(fabric.pod(1, 0).netns, SOCK_DGRAM, vip, 80), "errno Connection refused");
        }
    }
}

TEST_P(ServicesTest, ExternalTrafficPolicyLocalKeepsOutsidersOnThisNode) {
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        const std::string client = family == AF_INET ? "10.250.0.100" : "fd25::100";
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            serve(node, kNodePort, type, {{1, 1}, {2, 0}, {2, 1}}, true);
            std::map<std::string, int> inside;
            for (int i = 0; i < 24; ++i) {
                ASSERT_EQ(ask(fabric.world, type, node, kNodePort), "pod11 " + client);
                ++inside[ask(fabric.pod(1, 0).netns, type, node, kNodePort)];
            }
            EXPECT_EQ(inside.size(), 3U) << "a pod gets all backends";
        }
    }
    // With none on this node there is no answer at all: a load balancer tries another node.
    serve(fabric.node(1).ip4(), kNodePort, SOCK_DGRAM, {{2, 0}}, true);
    const auto before = fabric.node(1).dropped(DropReason::kNoLocalBackend);
    EXPECT_EQ(ask(fabric.world, SOCK_DGRAM, fabric.node(1).ip4(), kNodePort),
              "errno Resource temporarily unavailable");
    EXPECT_EQ(fabric.node(1).dropped(DropReason::kNoLocalBackend), before + 1);
}

TEST_P(ServicesTest, TwoNodesChooseTheSameBackendForAFlow) {
    // The same frontend at both nodes, and a client that turns from one to the other.
    fabric.world.ip("route add 192.0.2.1 via " + fabric.node(1).ip4());
    std::vector<std::pair<int, int>> pods{{1, 0}, {1, 1}, {2, 0}, {2, 1}};
    ServiceRow row;
    row.frontend = frontend("192.0.2.1", 80, Protocol::kUdp);
    row.name = "default/test";
    row.outside = true;
    for (const auto& [n, k] : pods) row.backends.push_back(backend(n, k, AF_INET, SOCK_DGRAM));
    fabric.node(1).upsert({row});
    // Other ids: another service came first.
    ServiceRow other = row;
    other.frontend.port = 81;
    other.backends.resize(1);
    fabric.node(2).upsert({other, row});
    std::map<std::string, int> names;
    for (std::uint16_t port = 6000; port < 6016; ++port) {
        const Listener client(fabric.world, AF_INET, SOCK_DGRAM, port);
        ASSERT_TRUE(client.send_to("x", "192.0.2.1", 80));
        const std::string first = client.receive();
        fabric.world.ip("route replace 192.0.2.1 via " + fabric.node(2).ip4());
        ASSERT_TRUE(client.send_to("x", "192.0.2.1", 80));
        const std::string second = client.receive();
        fabric.world.ip("route replace 192.0.2.1 via " + fabric.node(1).ip4());
        EXPECT_EQ(first.substr(0, 5), second.substr(0, 5)) << port;
        ++names[first.substr(0, 5)];
    }
    EXPECT_GE(names.size(), 3U);
}

TEST_P(ServicesTest, TooLargeAPacketIsAnsweredToItsSender) {
    // The node's way to the backend takes less than the client's to the node.
    if (!tunnel()) GTEST_SKIP() << "all links take the same";
    for (const int family : {AF_INET, AF_INET6}) {
        const std::string node = family == AF_INET ? fabric.node(1).ip4() : fabric.node(1).ip6();
        serve(node, kNodePort, SOCK_DGRAM, {{2, 0}});
        fabric.world.run([&] {
            const Socket socket(family, SOCK_DGRAM);
            const int discover = IP_PMTUDISC_DO;
            if (family == AF_INET) {
                ::setsockopt(socket.fd(), IPPROTO_IP, IP_MTU_DISCOVER, &discover, sizeof discover);
            } else {
                ::setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_MTU_DISCOVER, &discover,
                             sizeof discover);
            }
            ASSERT_EQ(socket.connect(node, kNodePort), 0);
            ASSERT_EQ(socket.send(std::string(1440, 'x')), 0);
            EXPECT_EQ(socket.receive(), "");
            EXPECT_EQ(errno, EMSGSIZE) << family;
            EXPECT_EQ(socket.send(std::string(1440, 'x')), -EMSGSIZE) << "it is remembered";
            ASSERT_EQ(socket.send(std::string(1300, 'x')), 0);
            EXPECT_THAT(socket.receive(), StartsWith("pod20 "));
        });
    }
    EXPECT_GE(fabric.node(1).dropped(DropReason::kTooBig), 2U);
}

TEST_P(ServicesTest, AClientsErrorReachesTheBackend) {
    // The client's way back is narrower: its router tells the frontend, which is to tell the
    // backend, whose next answer comes in pieces that fit.
    for (const auto& [n, k] : {std::pair(1, 1), std::pair(2, 0)}) {
        serve(fabric.node(1).ip4(), kNodePort, SOCK_DGRAM, {{n, k}});
        const auto& pod = fabric.pod(n, k);
        fabric.world.run([&] {
            const Socket socket(AF_INET, SOCK_DGRAM);
            ASSERT_EQ(socket.connect(fabric.node(1).ip4(), kNodePort), 0);
            ASSERT_EQ(socket.send("x"), 0);
            EXPECT_THAT(socket.receive(), StartsWith("pod"));
            send_too_big(socket, fabric.node(1).ip4(), kNodePort, 1000);
        });
        std::string route;
        for (int i = 0; i < 100 && route.find("mtu 1000") == std::string::npos; ++i) {
            route = output_in(pod.netns, "ip route get " + (n == 1 ? std::string("10.250.0.100")
                                                                   : node_source(AF_INET)));
        }
        EXPECT_THAT(route, HasSubstr("mtu 1000")) << n;
    }
}

/// All flows, as the agent would have them in some seconds.
void collect(datapath::BpfPods& pods, std::chrono::seconds later) {
    const TimePoint now = std::chrono::steady_clock::now() + later;
    const std::uint64_t rounds = pods.flows().rounds;
    while (pods.flows().rounds == rounds) {
        const auto done = pods.collect_flows(256, now);
        ASSERT_TRUE(done) << done.error().message();
    }
}

TEST_P(ServicesTest, FlowsTimeOutByTheirState) {
    auto& pods = fabric.node(1).pods();
    const Netns& client = fabric.pod(1, 0).netns;
    serve(kVip4, 80, SOCK_STREAM, {{2, 0}});
    serve(kVip4, 80, SOCK_DGRAM, {{2, 0}});
    serve(kVip4, 81, SOCK_STREAM, {{2, 0}});
    EXPECT_THAT(ask(client, SOCK_DGRAM, kVip4, 80), StartsWith("pod20"));
    client.run([&] {
        const Socket open(AF_INET, SOCK_STREAM);
        ASSERT_EQ(open.connect(kVip4, 81), 0);
        {
            const Socket closed(AF_INET, SOCK_STREAM);
            ASSERT_EQ(closed.connect(kVip4, 80), 0);
            ASSERT_EQ(closed.send("x"), 0);
            EXPECT_THAT(closed.receive(), StartsWith("pod20"));
        }
        collect(pods, std::chrono::seconds(0));
        EXPECT_EQ(pods.flows().live, 3U);
        EXPECT_EQ(pods.flows().expired, 0U);
        // Both sides' FINs may still be on their way.
        for (int i = 0; i < 20000 && pods.flows().expired == 0; ++i) {
            collect(pods, std::chrono::seconds(12));
            std::this_thread::yield();
        }
        // The client's last ACK may come later yet and make a flow of its own: no exact counts.
        EXPECT_GE(pods.flows().expired, 1U);
        collect(pods, std::chrono::seconds(70));
        EXPECT_GE(pods.flows().expired, 2U);  // UDP
        collect(pods, std::chrono::seconds(70));
        EXPECT_EQ(pods.flows().live, 1U);
        ASSERT_EQ(open.send("x"), 0);
        EXPECT_THAT(open.receive(), StartsWith("pod20"));
        const std::uint64_t before = pods.flows().expired;
        collect(pods, std::chrono::seconds(8100));
        EXPECT_GT(pods.flows().expired, before);
        EXPECT_EQ(pods.flows().live, 0U);
        // What was forgotten is found again: the hash leads to the same backend.
        ASSERT_EQ(open.send("x"), 0);
        EXPECT_THAT(open.receive(), StartsWith("pod20"));
    });
}

TEST(FlowTableTest, AFullTableForgetsTheOldestAndServesAll) {
    Fabric fabric{FabricOptions{.tunnel = true, .services = true, .timeouts = {}, .max_flows = 64}};
    const NamedServer here(fabric.pod(1, 1).netns, "here", kPort);
    ServiceRow row;
    row.frontend = frontend(fabric.node(1).ip4(), kNodePort, Protocol::kUdp);
    row.name = "default/test";
    Backend b;
    b.address = address(fabric.pod(1, 1).ip4);
    b.port = kPort;
    b.proto = Protocol::kUdp;
    row.backends = {b};
    fabric.node(1).upsert({row});
    for (int i = 0; i < 1000; ++i) {
        ASSERT_EQ(ask(fabric.world, SOCK_DGRAM, fabric.node(1).ip4(), kNodePort),
                  "here 10.250.0.100");
    }
    auto& pods = fabric.node(1).pods();
    EXPECT_EQ(pods.flows().max, 64U);
    collect(pods, std::chrono::seconds(0));
    EXPECT_LE(pods.flows().live, 64U);
    EXPECT_GT(pods.flows().live, 0U);
    EXPECT_TRUE(pods.drops().empty());
}

TEST(FlowTableTest, TheProgramsTakeATimedOutFlowForAbsent) {
    datapath::FlowTimeouts timeouts;
    timeouts.udp = std::chrono::nanoseconds(0);
    Fabric fabric{
        FabricOptions{.tunnel = true, .services = true, .timeouts = timeouts, .max_flows = 64}};
    ServiceRow row;
    row.frontend = frontend(kVip4, 80, Protocol::kUdp);
    row.name = "default/test";
    Backend b;
    b.address = address(fabric.pod(2, 0).ip4);
    b.port = kPort;
    b.proto = Protocol::kUdp;
    row.backends = {b};
    fabric.node(1).upsert({row});
    // The answer comes as the backend's own, which the socket did not ask.
    const Listener server(fabric.pod(2, 0).netns, AF_INET, SOCK_DGRAM, kPort);
    const Listener client(fabric.pod(1, 0).netns, AF_INET, SOCK_DGRAM, 5000);
    ASSERT_TRUE(client.send_to("x", kVip4, 80));
    ASSERT_TRUE(server.echo());
    EXPECT_EQ(client.sender(), fabric.pod(2, 0).ip4);
}

}  // namespace
}  // namespace mesh::test
