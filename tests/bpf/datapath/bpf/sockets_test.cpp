// What applications see: every protocol, family and way of talking through a service.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <unistd.h>

#include <map>
#include <set>

#include "bpf/layout.h"
#include "echo_server.hpp"

namespace mesh::test {
namespace {

using datapath::Backend;
using datapath::Protocol;
using ::testing::AnyOf;

constexpr const char* kVip = "10.11.0.1";
constexpr const char* kVip6 = "fd11::1";

class SocketsTest : public ::testing::Test {
  protected:
    Network network;
    EchoServer server{network};
    Node node;

    void in_client(const std::function<void()>& function) { network.client.run(function); }

    /// Who answers a TCP connection to the service; "" if nobody.
    static std::string ask(int family, std::string_view ip, std::uint16_t port = 80) {
        const Socket socket(family, SOCK_STREAM);
        return socket.connect(ip, port) == 0 ? socket.receive() : "";
    }
};

TEST_F(SocketsTest, TcpReachesABackendAndSeesTheService) {
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1), backend(2)})});
    in_client([] {
        const Socket socket(AF_INET, SOCK_STREAM);
        ASSERT_EQ(socket.connect(kVip, 80), 0);
        EXPECT_EQ(socket.peer(), "10.11.0.1 80");
        EXPECT_THAT(socket.receive(), AnyOf("10.10.0.1", "10.10.0.2"));
        // A backend is still what it is when asked for directly.
        const Socket direct(AF_INET, SOCK_STREAM);
        ASSERT_EQ(direct.connect("10.10.0.3", 8080), 0);
        EXPECT_EQ(direct.peer(), "10.10.0.3 8080");
    });
}

TEST_F(SocketsTest, MultipathTcpIsTcp) {
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)})});
    in_client([] {
        const Socket socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */);
        if (socket.fd() < 0) GTEST_SKIP() << "this kernel has no multipath TCP";
        ASSERT_EQ(socket.connect(kVip, 80), 0);
        EXPECT_EQ(socket.receive(), "10.10.0.1");
    });
}

TEST_F(SocketsTest, OtherPortsAndProtocolsAreNoService) {
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)})});
    in_client([] {
        EXPECT_EQ(Socket(AF_INET, SOCK_STREAM).connect(kVip, 81), -ENETUNREACH);
        EXPECT_EQ(Socket(AF_INET, SOCK_DGRAM).connect(kVip, 80), -ENETUNREACH);
    });
}

TEST_F(SocketsTest, OnlyProcessesOfTheCgroupAreServed) {
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)})});
    // bash's /dev/tcp, in the cgroup of this process and in the root cgroup.
    const std::string connect = "timeout 5 bash -c '%sexec 3<>/dev/tcp/10.11.0.1/80' 2>/dev/null";
    const std::string root = place().cgroup.substr(0, place().cgroup.rfind('/'));
    in_client([&] {
        auto command = connect;
        EXPECT_EQ(std::system(command.replace(command.find("%s"), 2, "").c_str()), 0);
        command = connect;
        command.replace(command.find("%s"), 2, "echo $$ >" + root + "/cgroup.procs; ");
        EXPECT_NE(std::system(command.c_str()), 0);
    });
}

TEST_F(SocketsTest, TcpOverIpv6) {
    node.upsert({service(frontend(kVip6, 80, Protocol::kTcp), {backend(1, Protocol::kTcp, true)})});
    in_client([] {
        const Socket socket(AF_INET6, SOCK_STREAM);
        ASSERT_EQ(socket.connect(kVip6, 80), 0);
        EXPECT_EQ(socket.peer(), "fd11::1 80");
        EXPECT_EQ(socket.receive(), "fd10::1");
    });
}

TEST_F(SocketsTest, AnIpv6SocketReachesAnIpv4Service) {
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)}),
                 service(frontend(kVip, 53, Protocol::kUdp), {backend(1, Protocol::kUdp)})});
    in_client([] {
        const Socket tcp(AF_INET6, SOCK_STREAM);
        ASSERT_EQ(tcp.connect(kVip, 80), 0);
        EXPECT_EQ(tcp.peer(), "10.11.0.1 80");
        EXPECT_EQ(tcp.receive(), "10.10.0.1");
        const Socket connected(AF_INET6, SOCK_DGRAM);
        ASSERT_EQ(connected.connect(kVip, 53), 0);
        EXPECT_EQ(connected.peer(), "10.11.0.1 53");
        ASSERT_EQ(connected.send("?"), 0);
        std::string sender;
        EXPECT_EQ(connected.receive_from(sender), "10.10.0.1");
        EXPECT_EQ(sender, "10.11.0.1 53");
        const Socket unconnected(AF_INET6, SOCK_DGRAM);
        ASSERT_EQ(unconnected.send_to("?", kVip, 53), 0);
        EXPECT_EQ(unconnected.receive_from(sender), "10.10.0.1");
        EXPECT_EQ(sender, "10.11.0.1 53");
    });
}

class UdpTest : public SocketsTest, public ::testing::WithParamInterface<bool> {
  protected:
    bool v6 = GetParam();
    int family = v6 ? AF_INET6 : AF_INET;
    std::string vip = v6 ? kVip6 : kVip;
    std::string vip2 = v6 ? "fd11::2" : "10.11.0.2";
    datapath::ServiceFrontend front = frontend(vip, 53, Protocol::kUdp);
    datapath::ServiceFrontend front2 = frontend(vip2, 5353, Protocol::kUdp);
    Backend to(int n) const { return backend(n, Protocol::kUdp, v6); }
    std::string name(int n) const { return to(n).address.to_string(); }
};
INSTANTIATE_TEST_SUITE_P(Families, UdpTest, ::testing::Bool(),
                         [](const auto& v6) { return v6.param ? "Ipv6" : "Ipv4"; });

TEST_P(UdpTest, AConnectedSocketHearsTheService) {
    node.upsert({service(front, {to(1), to(2)})});
    in_client([&] {
        const Socket socket(family, SOCK_DGRAM);
        ASSERT_EQ(socket.connect(vip, 53), 0);
        EXPECT_EQ(socket.peer(), vip + " 53");
        std::string sender;
        std::set<std::string> who;
        for (int i = 0; i < 10; ++i) {
            ASSERT_EQ(socket.send("?"), 0);
            who.insert(socket.receive_from(sender));
            EXPECT_EQ(sender, vip + " 53");
        }
        EXPECT_EQ(who.size(), 1U);
        EXPECT_THAT(*who.begin(), AnyOf(name(1), name(2)));
    });
}

TEST_P(UdpTest, AConnectedSocketMayNameItsServiceAgain) {
    node.upsert({service(front, {to(1), to(2), to(3), to(4)}), service(front2, {to(5)})});
    in_client([&] {
        for (int s = 0; s < 20; ++s) {
            const Socket socket(family, SOCK_DGRAM);
            ASSERT_EQ(socket.connect(vip, 53), 0);
            ASSERT_EQ(socket.send("?"), 0);
            const std::string peer = socket.receive();
            std::string sender;
            // The kernel hands a connected socket nothing of another backend.
            ASSERT_EQ(socket.send_to("?", vip, 53), 0);
            ASSERT_EQ(socket.receive_from(sender), peer);
            EXPECT_EQ(sender, vip + " 53");
        }
    });
}

TEST_P(UdpTest, AnUnconnectedSocketHearsEachServiceItAsked) {
    node.upsert({service(front, {to(1), to(2)}), service(front2, {to(3)})});
    in_client([&] {
        const Socket socket(family, SOCK_DGRAM);
        std::string sender;
        for (int i = 0; i < 5; ++i) {
            ASSERT_EQ(socket.send_to("?", vip, 53), 0);
            EXPECT_THAT(socket.receive_from(sender), AnyOf(name(1), name(2)));
            EXPECT_EQ(sender, vip + " 53");
            ASSERT_EQ(socket.send_to("?", vip2, 5353), 0);
            EXPECT_EQ(socket.receive_from(sender), name(3));
            EXPECT_EQ(sender, vip2 + " 5353");
            ASSERT_EQ(socket.send_to("?", name(4), 8080), 0);
            EXPECT_EQ(socket.receive_from(sender), name(4));
            EXPECT_EQ(sender, name(4) + " 8080");
        }
        // Asked as itself, a backend answers as itself.
        ASSERT_EQ(socket.send_to("?", name(3), 8080), 0);
        EXPECT_EQ(socket.receive_from(sender), name(3));
        EXPECT_EQ(sender, name(3) + " 8080");
    });
}

TEST_P(UdpTest, AnUnconnectedSocketStaysWithItsBackend) {
    node.upsert({service(front, {to(1), to(2), to(3), to(4)})});
    in_client([&] {
        std::set<std::string> of_all;
        for (int s = 0; s < 40; ++s) {
            const Socket socket(family, SOCK_DGRAM);
            std::set<std::string> of_one;
            for (int i = 0; i < 4; ++i) {
                ASSERT_EQ(socket.send_to("?", vip, 53), 0);
                of_one.insert(socket.receive());
            }
            EXPECT_EQ(of_one.size(), 1U);
            of_all.merge(of_one);
        }
        EXPECT_EQ(of_all.size(), 4U);
    });
}

TEST_P(UdpTest, AnUnconnectedSocketMovesOnWhenItsBackendGoes) {
    node.upsert({service(front, {to(1), to(2)})});
    in_client([&] {
        const Socket socket(family, SOCK_DGRAM);
        ASSERT_EQ(socket.send_to("?", vip, 53), 0);
        const std::string first = socket.receive();
        const int other = first == name(1) ? 2 : 1;
        node.upsert({service(front, {to(other)})});
        std::string sender;
        ASSERT_EQ(socket.send_to("?", vip, 53), 0);
        EXPECT_EQ(socket.receive_from(sender), name(other));
        EXPECT_EQ(sender, vip + " 53");
    });
}

TEST_P(UdpTest, ASocketMayConnectElsewhereAndDisconnect) {
    node.upsert({service(front, {to(1)}), service(front2, {to(2)})});
    in_client([&] {
        const Socket socket(family, SOCK_DGRAM);
        std::string sender;
        ASSERT_EQ(socket.connect(vip, 53), 0);
        ASSERT_EQ(socket.connect(vip2, 5353), 0);
        EXPECT_EQ(socket.peer(), vip2 + " 5353");
        ASSERT_EQ(socket.send("?"), 0);
        EXPECT_EQ(socket.receive_from(sender), name(2));
        EXPECT_EQ(sender, vip2 + " 5353");
        ASSERT_EQ(socket.connect(name(2), 8080), 0);  // the same backend, not as a service
        EXPECT_EQ(socket.peer(), name(2) + " 8080");
        ASSERT_EQ(socket.send("?"), 0);
        EXPECT_EQ(socket.receive_from(sender), name(2));
        EXPECT_EQ(sender, name(2) + " 8080");
        // The kernel's IPv6 sockets hear only their former peer after a disconnect.
        if (v6) return;
        ASSERT_EQ(socket.disconnect(), 0);
        ASSERT_EQ(socket.send_to("?", vip, 53), 0);
        EXPECT_EQ(socket.receive_from(sender), name(1));
        EXPECT_EQ(sender, vip + " 53");
    });
}

TEST_F(SocketsTest, AServiceWithoutBackendsIsUnreachable) {
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {}),
                 service(frontend(kVip, 53, Protocol::kUdp), {}),
                 service(frontend(kVip6, 80, Protocol::kTcp), {}),
                 service(frontend(kVip6, 53, Protocol::kUdp), {})});
    in_client([] {
        for (const auto& [family, ip] : {std::pair{AF_INET, kVip}, std::pair{AF_INET6, kVip6}}) {
            EXPECT_EQ(Socket(family, SOCK_STREAM).connect(ip, 80), -EHOSTUNREACH);
            EXPECT_EQ(Socket(family, SOCK_DGRAM).connect(ip, 53), -EHOSTUNREACH);
            EXPECT_EQ(Socket(family, SOCK_DGRAM).send_to("?", ip, 53), -EHOSTUNREACH);
        }
    });
    EXPECT_EQ(node.datapath().counters().no_backend, 6U);
}

TEST_F(SocketsTest, ConnectionsFollowTheWeights) {
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    node.upsert(
        {service(front, {backend(1, Protocol::kTcp, false, 1), backend(2, Protocol::kTcp, false, 3),
                         backend(3, Protocol::kTcp, false, 6)})});
    std::map<std::string, int> answers;
    in_client([&] {
        for (int i = 0; i < 2000; ++i) ++answers[ask(AF_INET, kVip)];
    });
    // Ten standard deviations and more: 200±13, 600±20, 1200±22 are expected.
    EXPECT_NEAR(answers["10.10.0.1"], 200, 140);
    EXPECT_NEAR(answers["10.10.0.2"], 600, 220);
    EXPECT_NEAR(answers["10.10.0.3"], 1200, 240);
    EXPECT_EQ(answers[""], 0);
    // The counters tell the same.
    const auto status = node.datapath().find(front);
    ASSERT_TRUE(status);
    for (const auto& b : status->backends) {
        EXPECT_EQ(b.connects, static_cast<std::uint64_t>(answers[b.backend.address.to_string()]));
    }
    const auto by_cluster = node.datapath().counters().connects_by_cluster;
    EXPECT_EQ(by_cluster.at(1), static_cast<std::uint64_t>(answers["10.10.0.2"]));
    EXPECT_EQ(by_cluster.at(2),
              static_cast<std::uint64_t>(answers["10.10.0.1"] + answers["10.10.0.3"]));
}

TEST_F(SocketsTest, AffinityKeepsAClientWithItsBackend) {
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    const auto udp = frontend(kVip, 53, Protocol::kUdp);
    std::vector<Backend> backends;
    std::vector<Backend> udp_backends;
    for (int n = 1; n <= 8; ++n) {
        backends.push_back(backend(n));
        udp_backends.push_back(backend(n, Protocol::kUdp));
    }
    node.upsert({service(front, backends, 600), service(udp, udp_backends, 600)});
    std::set<std::string> answers;
    in_client([&] {
        for (int i = 0; i < 50; ++i) answers.insert(ask(AF_INET, kVip));
        for (int i = 0; i < 50; ++i) answers.insert(ask(AF_INET6, kVip));  // the same client
    });
    ASSERT_EQ(answers.size(), 1U);
    EXPECT_EQ(node.datapath().counters().affinity_kept, 99U);
    std::set<std::string> datagrams;
    in_client([&] {
        for (int i = 0; i < 50; ++i) {
            const Socket socket(AF_INET, SOCK_DGRAM);
            ASSERT_EQ(socket.send_to("?", kVip, 53), 0);
            datagrams.insert(socket.receive());
        }
    });
    EXPECT_EQ(datagrams.size(), 1U);

    // Another client is another identity: with 8 backends, 12 clients choose 1 backend with 8^-11.
    std::set<std::string> of_others;
    for (int i = 0; i < 12; ++i) {
        const Netns other;
        other.run([&] {
            // Without a route the connection fails, but the choice was made and is remembered.
            (void)Socket(AF_INET, SOCK_STREAM).connect(kVip, 80);
        });
    }
    const auto chosen = node.datapath().find(front);
    ASSERT_TRUE(chosen);
    for (const auto& b : chosen->backends) {
        if (b.connects > 0) of_others.insert(b.backend.address.to_string());
    }
    EXPECT_GT(of_others.size(), 1U);

    // Its backend goes: another is chosen, and kept.
    std::erase_if(backends,
                  [&](const Backend& b) { return b.address.to_string() == *answers.begin(); });
    node.upsert({service(front, backends, 600)});
    std::set<std::string> later;
    in_client([&] {
        for (int i = 0; i < 50; ++i) later.insert(ask(AF_INET, kVip));
    });
    EXPECT_EQ(later.size(), 1U);
    EXPECT_NE(*later.begin(), *answers.begin());
    EXPECT_EQ(node.datapath().counters().affinity_replaced, 1U);

    // A terminating backend keeps no clients.
    for (Backend& b : backends) b.terminating = b.address.to_string() == *later.begin();
    node.upsert({service(front, backends, 600)});
    in_client([&] { EXPECT_NE(ask(AF_INET, kVip), *later.begin()); });
}

TEST_F(SocketsTest, AffinityEndsAfterSilence) {
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    std::vector<Backend> backends;
    for (int n = 1; n <= 8; ++n) backends.push_back(backend(n));
    node.upsert({service(front, backends, 1)});
    in_client([] {
        const std::string first = ask(AF_INET, kVip);
        // Each try is a new choice if the timeout works: the same 12 times has odds of 8^-12.
        bool changed = false;
        for (int i = 0; i < 12 && !changed; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1100));
            changed = ask(AF_INET, kVip) != first;
        }
        EXPECT_TRUE(changed);
    });
}

// Between a connect's reading of the clock and of the table, another CPU's connect may write a
// later time: here it is a minute later, so that the order of the two is certain.
TEST_F(SocketsTest, AffinityHoldsWhenAnotherCpuUsedItLater) {
    std::vector<Backend> backends;
    for (int n = 1; n <= 8; ++n) backends.push_back(backend(n));
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), backends, 600)});
    std::string first;
    in_client([&] { first = ask(AF_INET, kVip); });
    const auto options = node_options();
    const std::string pin = options.bpffs + "/" + options.pin_directory + "/maps/affinity";
    const int map = bpf_obj_get(pin.c_str());
    ASSERT_GE(map, 0) << pin;
    mesh_client_key key{};
    mesh_client client{};
    ASSERT_EQ(bpf_map_get_next_key(map, nullptr, &key), 0);
    ASSERT_EQ(bpf_map_lookup_elem(map, &key, &client), 0);
    client.last_used_ns += 60'000'000'000;
    ASSERT_EQ(bpf_map_update_elem(map, &key, &client, BPF_EXIST), 0);
    ::close(map);
    in_client([&] { EXPECT_EQ(ask(AF_INET, kVip), first); });
    EXPECT_EQ(node.datapath().counters().affinity_kept, 1U);
    EXPECT_EQ(node.datapath().counters().affinity_replaced, 0U);
}

TEST_F(SocketsTest, FirstConnectsAtOnceAgree) {
    std::vector<Backend> backends;
    for (int n = 1; n <= 8; ++n) backends.push_back(backend(n));
    for (std::uint16_t round = 0; round < 60; ++round) {
        const auto port = static_cast<std::uint16_t>(1000 + round);
        node.upsert({service(frontend(kVip, port, Protocol::kTcp), backends, 600)});
        std::vector<std::string> answers(4);
        std::atomic<int> waiting{4};
        in_client([&] {
            std::vector<std::thread> threads;
            for (std::string& answer : answers) {
                threads.emplace_back([&] {
                    const Socket socket(AF_INET, SOCK_STREAM);
                    --waiting;
                    while (waiting > 0) std::this_thread::yield();
                    if (socket.connect(kVip, port) == 0) answer = socket.receive();
                });
            }
            for (std::thread& thread : threads) thread.join();
        });
        EXPECT_EQ(std::set<std::string>(answers.begin(), answers.end()).size(), 1U);
        EXPECT_NE(answers[0], "");
    }
}

class SweepTest : public UdpTest {};
INSTANTIATE_TEST_SUITE_P(Families, SweepTest, ::testing::Bool(),
                         [](const auto& v6) { return v6.param ? "Ipv6" : "Ipv4"; });

TEST_P(SweepTest, ConnectedUdpSocketsOfRemovedBackendsAreEnded) {
    node.upsert({service(front, {to(1)}), service(front2, {to(2)})});
    in_client([&] {
        const Socket stale(family, SOCK_DGRAM);
        const Socket alive(family, SOCK_DGRAM);
        const Socket direct(family, SOCK_DGRAM);
        const Socket mapped(AF_INET6, SOCK_DGRAM);
        ASSERT_EQ(stale.connect(vip, 53), 0);
        ASSERT_EQ(mapped.connect(vip, 53), 0);
        ASSERT_EQ(alive.connect(vip2, 5353), 0);
        ASSERT_EQ(direct.connect(name(1), 8080), 0);
        node.upsert({service(front, {to(3)})});
        const std::vector<std::string> namespaces{network.client.path(), network.server.path()};
        const auto swept = node.datapath().end_stale_sockets(namespaces);
        ASSERT_TRUE(swept) << swept.error().message();
        EXPECT_EQ(swept->sockets_seen, 3U);
        EXPECT_EQ(swept->sockets_ended, 2U);
        for (const Socket* ended : {&stale, &mapped}) {
            EXPECT_EQ(ended->receive(), "");
            EXPECT_EQ(errno, ECONNABORTED);
        }
        // The application connects again, with the same socket if it likes.
        ASSERT_EQ(stale.connect(vip, 53), 0);
        ASSERT_EQ(stale.send("?"), 0);
        EXPECT_EQ(stale.receive(), name(3));
        for (const Socket* untouched : {&alive, &direct}) {
            ASSERT_EQ(untouched->send("?"), 0);
            EXPECT_NE(untouched->receive(), "");
        }
        const auto again = node.datapath().end_stale_sockets(namespaces);
        ASSERT_TRUE(again);
        EXPECT_EQ(again->sockets_ended, 0U);
    });
}

TEST_F(SocketsTest, SweepTakesTcpOnlyWhenAsked) {
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    node.upsert({service(front, {backend(1)})});
    in_client([&] {
        const Socket socket(AF_INET, SOCK_STREAM);
        ASSERT_EQ(socket.connect(kVip, 80), 0);
        EXPECT_EQ(socket.receive(), "10.10.0.1");
        node.remove(front);
        const std::vector<std::string> namespaces{network.client.path()};
        EXPECT_EQ(node.datapath().end_stale_sockets(namespaces)->sockets_ended, 0U);
        const auto swept = node.datapath().end_stale_sockets(namespaces, true);
        ASSERT_TRUE(swept) << swept.error().message();
        EXPECT_EQ(swept->sockets_ended, 1U);
        EXPECT_EQ(socket.send("?"), -ECONNABORTED);
    });
}

TEST_F(SocketsTest, SweepNamesWhatIsNoNamespaceAndDoesTheRest) {
    const auto front = frontend(kVip, 53, Protocol::kUdp);
    node.upsert({service(front, {backend(1, Protocol::kUdp)})});
    in_client([&] {
        const Socket socket(AF_INET, SOCK_DGRAM);
        ASSERT_EQ(socket.connect(kVip, 53), 0);
        node.remove(front);
        const std::vector<std::string> namespaces{"/etc/hostname", "/nowhere",
                                                  network.client.path()};
        const auto swept = node.datapath().end_stale_sockets(namespaces);
        ASSERT_FALSE(swept);
        EXPECT_EQ(swept.error().code(), Errc::kInvalidArgument);
        EXPECT_THAT(swept.error().detail(), ::testing::HasSubstr("/etc/hostname"));
        EXPECT_EQ(socket.receive(), "");
        EXPECT_EQ(errno, ECONNABORTED);
    });
}

}  // namespace
}  // namespace mesh::test
