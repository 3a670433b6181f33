// Two nodes as network namespaces with a veth between them and a WireGuard device each, told over
// the library; packets through the tunnel, and a capture of what the underlay sees. Needs root,
// /dev/net/tun and wireguard-go; removes what it makes, all named after this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <thread>

#include "datapath/bpf/fd.hpp"
#include "datapath/netlink/netns.hpp"
#include "datapath/netlink/route_table.hpp"
#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/wireguard/peer_table.hpp"

namespace mesh::datapath {
namespace {

using model::IpAddress;
using model::IpPrefix;
using model::WireguardPublicKey;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kText = "the quick brown fox of no ciphertext";
constexpr std::uint16_t kEchoPort = 7777;
constexpr int kDeadlineMs = 15000;
constexpr int kPaceMs = 4;

#define ASSERT_OK(...)                                                      \
    do {                                                                    \
        auto result_ = (__VA_ARGS__);                                       \
        ASSERT_TRUE(result_) << (result_ ? "" : result_.error().message()); \
    } while (false)

IpAddress address(const std::string& text) {
    return IpAddress::parse(text).value();
}

sockaddr_storage socket_address(const IpAddress& ip, std::uint16_t port, socklen_t& size) {
    sockaddr_storage storage{};
    if (ip.is_v4()) {
        auto& in = reinterpret_cast<sockaddr_in&>(storage);
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        in.sin_addr.s_addr = htonl(ip.v4_number());
        size = sizeof in;
    } else {
        auto& in = reinterpret_cast<sockaddr_in6&>(storage);
        in.sin6_family = AF_INET6;
        in.sin6_port = htons(port);
        std::copy(ip.bytes().begin(), ip.bytes().end(), in.sin6_addr.s6_addr);
        size = sizeof in;
    }
    return storage;
}

// A socket of the namespace, bound to the address.
Fd socket_in(const Netns& netns, int type, const IpAddress& ip, std::uint16_t port) {
    const NetnsScope scope = NetnsScope::enter(netns).value();
    Fd fd(::socket(ip.is_v4() ? AF_INET : AF_INET6, type | SOCK_CLOEXEC, 0));
    socklen_t size = 0;
    const sockaddr_storage at = socket_address(ip, port, size);
    const int on = 1;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), size), 0)
        << ip.to_string() << ": " << std::generic_category().message(errno);
    return fd;
}

bool readable(int fd, int timeout_ms) {
    pollfd wanted{fd, POLLIN, 0};
    return ::poll(&wanted, 1, timeout_ms) > 0;
}

// Everything that crosses a device, until it goes.
class Capture {
  public:
    Capture(const Netns& netns, const std::string& device) {
        const NetnsScope scope = NetnsScope::enter(netns).value();
        fd_ = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
        sockaddr_ll at{};
        at.sll_family = AF_PACKET;
        at.sll_protocol = htons(ETH_P_ALL);
        at.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
        EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
        const int large = 16 << 20;
        (void)::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large);
    }
    // What came so far.
    std::vector<std::string> frames() {
        char buffer[65536];
        while (readable(fd_.get(), 0)) {
            const ssize_t size = ::recv(fd_.get(), buffer, sizeof buffer, 0);
            if (size > 0) frames_.emplace_back(buffer, static_cast<std::size_t>(size));
        }
        return frames_;
    }

  private:
    Fd fd_;
    std::vector<std::string> frames_;
};

// "UDP 51871", "ARP", ... of a frame of an IPv4 underlay.
std::string kind_of(const std::string& frame) {
    const auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(frame.at(at)); };
    const int type = byte(12) << 8 | byte(13);
    if (type == ETH_P_ARP) return "ARP";
    if (type == ETH_P_IPV6 && byte(20) == IPPROTO_ICMPV6 && byte(54) >= 130) return "IPv6 control";
    if (type == ETH_P_IPV6 && byte(20) == 0)
        return "IPv6 control";  // MLD, with a hop-by-hop header
    if (type != ETH_P_IP) return "protocol " + std::to_string(type);
    if (byte(23) != IPPROTO_UDP) return "IPv4 protocol " + std::to_string(byte(23));
    const std::size_t udp = 14 + std::size_t{4} * (byte(14) & 15U);
    const int source = byte(udp) << 8 | byte(udp + 1), to = byte(udp + 2) << 8 | byte(udp + 3);
    return source == kWireguardPort && to == kWireguardPort ? "UDP 51871" : "other UDP";
}

// Numbered datagrams from one namespace to the other, one every few milliseconds, until finish().
class Stream {
  public:
    Stream(const Netns& from, const IpAddress& source, const Netns& to, const IpAddress& target,
           std::uint16_t port)
        : sender_(socket_in(from, SOCK_DGRAM, source, 0)),
          receiver_(socket_in(to, SOCK_DGRAM, target, port)) {
        socklen_t size = 0;
        const sockaddr_storage at = socket_address(target, port, size);
        EXPECT_EQ(::connect(sender_.get(), reinterpret_cast<const sockaddr*>(&at), size), 0);
        thread_ = std::thread([this] { run(); });
    }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() {
        stop_ = true;
        if (thread_.joinable()) thread_.join();
    }
    [[nodiscard]] std::uint32_t sent() const { return sent_; }
    [[nodiscard]] std::uint32_t received() const { return received_; }
    // Until so many more were sent, or received.
    void await_sent(std::uint32_t more) { await(sent_, more); }
    void await_received(std::uint32_t more) { await(received_, more); }
    // Stops sending. @return how many of those sent never came, or are on their way if it is not
    // to wait for them
    std::uint32_t finish(bool wait = true) {
        wait_ = wait;
        stop_ = true;
        thread_.join();
        return sent_ - received_;
    }

  private:
    static void await(const std::atomic<std::uint32_t>& counter, std::uint32_t more) {
        const std::uint32_t until = counter + more;
        for (int waited = 0; counter < until && waited < kDeadlineMs; waited += kPaceMs) {
            ::poll(nullptr, 0, kPaceMs);
        }
        EXPECT_GE(counter, until) << "after " << kDeadlineMs << " ms";
    }
    void run() {
        std::set<std::uint32_t> seen;
        const auto receive = [&](int timeout_ms) {
            if (!readable(receiver_.get(), timeout_ms)) return;
            std::uint32_t number = 0;
            if (::recv(receiver_.get(), &number, sizeof number, 0) != sizeof number) return;
            seen.insert(number);
            received_ = static_cast<std::uint32_t>(seen.size());
        };
        using Clock = std::chrono::steady_clock;
        for (auto turn = Clock::now(); !stop_; turn += std::chrono::milliseconds(kPaceMs)) {
            const std::uint32_t number = sent_;
            if (::send(sender_.get(), &number, sizeof number, 0) == sizeof number) ++sent_;
            while (Clock::now() < turn + std::chrono::milliseconds(kPaceMs)) receive(1);
        }
        for (int waited = 0; wait_ && received_ < sent_ && waited < kDeadlineMs;
             waited += kPaceMs) {
            receive(kPaceMs);
        }
    }

    Fd sender_, receiver_;
    std::atomic<std::uint32_t> sent_{0}, received_{0};
    std::atomic<bool> stop_{false}, wait_{true};
    std::thread thread_;
};

// One side.
struct Node {
    Netns netns;
    std::string device;
    IpAddress underlay, inner, inner6;
    WireguardPrivateKey key;

    [[nodiscard]] WireguardPeer peer() const {
        WireguardPeer made;
        made.public_key = key.public_key().value();
        made.endpoint.address = underlay;
        made.allowed_ips = {IpPrefix(inner, 24), IpPrefix(inner6, 64), IpPrefix(underlay, 32)};
        return made;
    }
};

class Wireguard : public testing::TestWithParam<WireguardBackend> {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: needs root for network namespaces";
        if (GetParam() == WireguardBackend::kUserspace) {
            if (::access("/dev/net/tun", R_OK | W_OK) != 0) {
                GTEST_SKIP() << "SKIPPED: needs /dev/net/tun";
            }
            if (std::system("command -v wireguard-go >/dev/null") != 0) {
                GTEST_SKIP() << "SKIPPED: needs wireguard-go (Debian package wireguard-go)";
            }
        }
        prefix_ = "wgtest-" + std::to_string(::getpid()) + "-";
        make_node('a', 1);
        make_node('b', 2);
        connect();
    }
    void TearDown() override {
        if (prefix_.empty()) return;
        for (Node& node : nodes_) {
            EXPECT_TRUE(make_device(node)->remove()) << node.device;
        }
        nodes_.clear();
        for (const std::string& name : list_netns(prefix_).value()) {
            EXPECT_TRUE(delete_netns(name)) << name;
        }
    }

    void make_node(char letter, std::uint8_t number) {
        const std::string name = prefix_ + letter;
        ASSERT_OK(create_netns(name));
        const std::string digit = std::to_string(number);
        nodes_.push_back({Netns::open(name).value(), "wgt" + std::to_string(::getpid()) + letter,
                          address("192.0.2." + digit), address("10.91." + digit + ".1"),
                          address("fd91:" + digit + "::1"), WireguardPrivateKey::make().value()});
    }
    void connect() {
        Rtnetlink left = Rtnetlink::open(a().netns).value();
        ASSERT_OK(left.add_veth({"under0", &a().netns, std::nullopt, 1500},
                                {"under0", &b().netns, std::nullopt, 1500}));
        for (Node& node : nodes_) {
            Rtnetlink links = Rtnetlink::open(node.netns).value();
            ASSERT_OK(links.set_up("under0"));
            ASSERT_OK(links.add_address("under0", node.underlay, 24));
        }
    }
    static std::unique_ptr<WireguardDevice> make_device(const Node& node,
                                                        WireguardBackend backend = GetParam()) {
        WireguardDeviceOptions options{Netns::open(node.netns.name()).value(), node.device,
                                       backend};
        return make_wireguard_device(std::move(options)).value();
    }
    static WireguardTable make_table(const Node& node) {
        return {make_device(node), {node.key, kWireguardPort, 0}};
    }
    static void apply(WireguardTable& table, std::vector<WireguardChange> changes) {
        ASSERT_OK(table.apply(changes));
    }
    // The device, its peer, and what lies behind it.
    static void start(WireguardTable& table, const Node& self, const Node& other) {
        apply(table, {other.peer()});
        const auto outcome = table.reconcile();
        ASSERT_TRUE(outcome) << outcome.error().message();
        ASSERT_EQ(*outcome, (WireguardOutcome{true, 1, 0, 0}));
        route(self, other);
    }
    static void route(const Node& self, const Node& other) {
        Rtnetlink links = Rtnetlink::open(self.netns).value();
        ASSERT_OK(links.add_address(self.device, self.inner, 32));
        ASSERT_OK(links.add_address(self.device, self.inner6, 128));
        for (const IpPrefix& behind : {IpPrefix(other.inner, 24), IpPrefix(other.inner6, 64)}) {
            Route route;
            route.destination = behind;
            route.device = self.device;
            ASSERT_OK(links.add_route(route));
        }
    }
    static std::string output_of(const std::string& command) {
        std::string text;
        FILE* pipe = ::popen(command.c_str(), "r");
        char buffer[512];
        while (pipe != nullptr && std::fgets(buffer, sizeof buffer, pipe) != nullptr)
            text += buffer;
        if (pipe != nullptr) ::pclose(pipe);
        while (!text.empty() && text.back() == '\n') text.pop_back();
        return text;
    }
    static std::string wg(const Node& node, const std::string& what) {
        const NetnsScope scope = NetnsScope::enter(node.netns).value();
        return output_of("wg show " + node.device + " " + what);
    }
    Node& a() { return nodes_.at(0); }
    Node& b() { return nodes_.at(1); }

    std::string prefix_;
    std::vector<Node> nodes_;
};

void udp_round_trip(const Node& from, const IpAddress& source, const Node& to,
                    const IpAddress& target) {
    const Fd client = socket_in(from.netns, SOCK_DGRAM, source, 0);
    const Fd server = socket_in(to.netns, SOCK_DGRAM, target, kEchoPort);
    socklen_t size = 0;
    const sockaddr_storage at = socket_address(target, kEchoPort, size);
    const auto* address_of = reinterpret_cast<const sockaddr*>(&at);
    ASSERT_EQ(::sendto(client.get(), kText.data(), kText.size(), 0, address_of, size),
              static_cast<ssize_t>(kText.size()));
    ASSERT_TRUE(readable(server.get(), kDeadlineMs)) << target.to_string();
    char buffer[128];
    sockaddr_storage who{};
    socklen_t who_size = sizeof who;
    const ssize_t got = ::recvfrom(server.get(), buffer, sizeof buffer, 0,
                                   reinterpret_cast<sockaddr*>(&who), &who_size);
    EXPECT_EQ(std::string_view(buffer, static_cast<std::size_t>(got)), kText);
    ASSERT_EQ(::sendto(server.get(), buffer, static_cast<std::size_t>(got), 0,
                       reinterpret_cast<const sockaddr*>(&who), who_size),
              got);
    ASSERT_TRUE(readable(client.get(), kDeadlineMs));
}

// Some hundred kilobytes of the text, one way.
void tcp_transfer(const Node& from, const IpAddress& source, const Node& to,
                  const IpAddress& target) {
    const Fd listener = socket_in(to.netns, SOCK_STREAM, target, kEchoPort);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    const Fd client = socket_in(from.netns, SOCK_STREAM, source, 0);
    socklen_t size = 0;
    const sockaddr_storage at = socket_address(target, kEchoPort, size);
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&at), size), 0);
    const Fd server(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::string sent;
    while (sent.size() < 400'000) sent += kText;
    std::thread sender([&] {
        std::string_view rest = sent;
        while (!rest.empty()) {
            const ssize_t done = ::send(client.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
            if (done <= 0) break;
            rest.remove_prefix(static_cast<std::size_t>(done));
        }
        ::shutdown(client.get(), SHUT_WR);
    });
    std::string received;
    char buffer[65536];
    while (readable(server.get(), kDeadlineMs)) {
        const ssize_t got = ::recv(server.get(), buffer, sizeof buffer, 0);
        if (got <= 0) break;
        received.append(buffer, static_cast<std::size_t>(got));
    }
    sender.join();
    EXPECT_TRUE(received == sent) << received.size() << " of " << sent.size() << " bytes";
}

TEST_P(Wireguard, CarriesUdpAndTcpAndTheUnderlaySeesNothingOfIt) {
    WireguardTable left = make_table(a());
    WireguardTable right = make_table(b());
    ASSERT_NO_FATAL_FAILURE(start(left, a(), b()));
    ASSERT_NO_FATAL_FAILURE(start(right, b(), a()));
    Capture capture(a().netns, "under0");
    udp_round_trip(a(), a().inner, b(), b().inner);
    udp_round_trip(a(), a().inner6, b(), b().inner6);
    tcp_transfer(a(), a().inner, b(), b().inner);
    tcp_transfer(b(), b().inner6, a(), a().inner6);
    std::map<std::string, std::size_t> kinds;
    for (const std::string& frame : capture.frames()) {
        ++kinds[kind_of(frame)];
        ASSERT_EQ(frame.find(kText.substr(0, 12)), std::string::npos) << kind_of(frame);
    }
    EXPECT_GT(kinds["UDP 51871"], 500U);
    kinds.erase("UDP 51871");
    kinds.erase("ARP");
    kinds.erase("IPv6 control");
    for (const auto& [kind, count] : kinds) ADD_FAILURE() << count << " frames of " << kind;

    // The capture can see a text: what goes beside the tunnel is seen.
    udp_round_trip(a(), a().underlay, b(), b().underlay);
    const auto all = capture.frames();
    EXPECT_TRUE(std::ranges::any_of(
        all, [](const std::string& f) { return f.find(kText) != std::string::npos; }));

    // As wg(8) sees it.
    EXPECT_EQ(wg(a(), "public-key"), a().key.public_key()->to_string());
    EXPECT_EQ(wg(a(), "listen-port"), "51871");
    EXPECT_EQ(wg(a(), "endpoints"), b().key.public_key()->to_string() + "\t192.0.2.2:51871");
    EXPECT_THAT(wg(a(), "allowed-ips"), HasSubstr("10.91.2.0/24"));
    const auto state = left.device().state().value();
    EXPECT_GT(state.peers.at(b().peer().public_key).sent_bytes, 400'000U);
}

TEST_P(Wireguard, AnAgentThatRestartsAdoptsTheSession) {
    std::optional<WireguardTable> left(make_table(a()));
    WireguardTable right = make_table(b());
    ASSERT_NO_FATAL_FAILURE(start(*left, a(), b()));
    ASSERT_NO_FATAL_FAILURE(start(right, b(), a()));
    // The second only once there is a session: two initiations that cross wait for WireGuard's own
    // repetition after 5 s.
    Stream there(a().netns, a().inner, b().netns, b().inner, 5001);
    there.await_received(50);
    Stream back(b().netns, b().inner, a().netns, a().inner, 5002);
    const auto peer = b().peer().public_key;
    const auto before = left->device().state()->peers.at(peer).last_handshake;
    EXPECT_NE(before.count(), 0);
    for (int restart = 0; restart < 3; ++restart) {
        left.reset();
        there.await_received(20);
        left.emplace(make_table(a()));
        apply(*left, {b().peer()});
        const auto outcome = left->reconcile();
        ASSERT_TRUE(outcome) << outcome.error().message();
        EXPECT_EQ(*outcome, WireguardOutcome{});
        there.await_received(20);
    }
    EXPECT_EQ(left->device().state()->peers.at(peer).last_handshake, before);
    EXPECT_EQ(there.finish(), 0U) << "of " << there.sent();
    EXPECT_EQ(back.finish(), 0U) << "of " << back.sent();
}

TEST_P(Wireguard, AProcessThatDiesIsSeenAndStartedAgain) {
    if (GetParam() == WireguardBackend::kKernel) GTEST_SKIP() << "the kernel has no process";
    WireguardTable left = make_table(a());
    WireguardTable right = make_table(b());
    ASSERT_NO_FATAL_FAILURE(start(left, a(), b()));
    ASSERT_NO_FATAL_FAILURE(start(right, b(), a()));
    udp_round_trip(a(), a().inner, b(), b().inner);
    ASSERT_GE(left.device().ended_fd(), 0);
    EXPECT_FALSE(readable(left.device().ended_fd(), 0));
    ASSERT_EQ(::syscall(SYS_pidfd_send_signal, left.device().ended_fd(), SIGKILL, nullptr, 0), 0);
    ASSERT_TRUE(readable(left.device().ended_fd(), kDeadlineMs));
    const auto refused = left.device().state();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kNotFound);
    const auto outcome = left.reconcile();
    ASSERT_TRUE(outcome) << outcome.error().message();
    EXPECT_EQ(*outcome, (WireguardOutcome{true, 1, 0, 0}));
    EXPECT_FALSE(readable(left.device().ended_fd(), 0));
    ASSERT_NO_FATAL_FAILURE(route(a(), b()));  // they went with the device
    udp_round_trip(a(), a().inner, b(), b().inner);
    EXPECT_EQ(*left.reconcile(), WireguardOutcome{});
}

TEST_P(Wireguard, ARemovedPeerGetsNothing) {
    WireguardTable left = make_table(a());
    WireguardTable right = make_table(b());
    ASSERT_NO_FATAL_FAILURE(start(left, a(), b()));
    ASSERT_NO_FATAL_FAILURE(start(right, b(), a()));
    Stream stream(a().netns, a().inner, b().netns, b().inner, 5001);
    stream.await_received(20);
    apply(left, {b().peer().public_key});
    EXPECT_TRUE(left.device().state()->peers.empty());
    // The tunnel keeps the order, so once one of those sent later is there, those sent meanwhile
    // will not come. (They are counted where sending succeeds: the kernel refuses it.)
    const std::uint32_t at_most = stream.sent();
    if (GetParam() == WireguardBackend::kUserspace) stream.await_sent(50);
    const std::uint32_t resumed = stream.sent();
    apply(left, {b().peer()});
    stream.await_received(20);
    const std::uint32_t lost = stream.finish(false);
    // Some were on their way when the peer went and came.
    if (GetParam() == WireguardBackend::kUserspace) {
        EXPECT_GE(lost + 4, resumed - at_most);
    }
    EXPECT_EQ(right.device().state()->peers.size(), 1U);
}

TEST_P(Wireguard, AKeyChangesUnderLoadWithoutLoss) {
    WireguardTable left = make_table(a());
    WireguardTable right = make_table(b());
    ASSERT_NO_FATAL_FAILURE(start(left, a(), b()));
    ASSERT_NO_FATAL_FAILURE(start(right, b(), a()));
    // One way, so that only what apply() does makes the node's new key shake hands.
    Stream there(a().netns, a().inner, b().netns, b().inner, 5001);
    there.await_received(50);
    for (int rotation = 0; rotation < 3; ++rotation) {
        const auto old = a().peer().public_key;
        a().key = WireguardPrivateKey::make().value();
        ASSERT_OK(left.set_private_key(a().key));
        there.await_sent(20);  // while the mesh carries the new key
        apply(right, {old, a().peer()});
        there.await_received(20);
        const auto state = right.device().state().value();
        EXPECT_FALSE(state.peers.contains(old));
        EXPECT_NE(state.peers.at(a().peer().public_key).last_handshake.count(), 0);
    }
    EXPECT_EQ(there.finish(), 0U) << "of " << there.sent();

    // And with traffic both ways, where the peer rotates.
    Stream forth(a().netns, a().inner, b().netns, b().inner, 5003);
    Stream back(b().netns, b().inner6, a().netns, a().inner6, 5002);
    back.await_received(50);
    const auto old = b().peer().public_key;
    b().key = WireguardPrivateKey::make().value();
    ASSERT_OK(right.set_private_key(b().key));
    back.await_sent(20);
    apply(left, {old, b().peer()});
    back.await_received(50);
    EXPECT_EQ(back.finish(), 0U) << "of " << back.sent();
    EXPECT_EQ(forth.finish(), 0U) << "of " << forth.sent();
}

TEST_P(Wireguard, HoldsThousandsOfPeers) {
    WireguardTable left = make_table(a());
    ASSERT_OK(left.reconcile());
    std::vector<WireguardChange> changes;
    for (std::uint32_t i = 1; i <= 2000; ++i) {
        WireguardPeer peer;
        WireguardPublicKey::Bytes bytes{};
        bytes[0] = 9;
        bytes[1] = static_cast<std::uint8_t>(i);
        bytes[2] = static_cast<std::uint8_t>(i >> 8);
        peer.public_key = WireguardPublicKey(bytes);
        peer.endpoint.address = IpAddress::v4(0xc0000200U + i % 200);
        peer.allowed_ips = {IpPrefix(IpAddress::v4(0x0a000000U + (i << 8)), 24)};
        changes.emplace_back(peer);
    }
    apply(left, changes);
    EXPECT_EQ(left.device().state()->peers.size(), 2000U);
    EXPECT_EQ(*left.reconcile(), WireguardOutcome{});
}

TEST_P(Wireguard, ADeviceIsRemovedWholeAndOnlyByItsNamespace) {
    WireguardTable left = make_table(a());
    ASSERT_OK(left.reconcile());
    if (GetParam() == WireguardBackend::kUserspace) {
        Node impostor{Netns::open(b().netns.name()).value(),
                      a().device,
                      a().underlay,
                      a().inner,
                      a().inner6,
                      a().key};
        const auto device = make_device(impostor);
        const auto refused = device->ensure();
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::kConflict);
        EXPECT_THAT(refused.error().detail(), HasSubstr(a().device));
        EXPECT_EQ(device->remove().error().code(), Errc::kConflict);
        EXPECT_TRUE(left.device().state());
        EXPECT_TRUE(std::filesystem::exists("/var/run/wireguard/" + a().device + ".sock"));
    }
    ASSERT_OK(left.remove());
    EXPECT_FALSE(std::filesystem::exists("/var/run/wireguard/" + a().device + ".sock"));
    EXPECT_EQ(Rtnetlink::open(a().netns)->link(a().device).error().code(), Errc::kNotFound);
    EXPECT_EQ(left.device().ended_fd(), -1);
    ASSERT_OK(left.remove());  // again
}

TEST_P(Wireguard, WhatIsMissingIsNamed) {
    if (kernel_has_wireguard(a().netns).value()) GTEST_SKIP() << "nothing is missing";
    WireguardDeviceOptions kernel{Netns::open(a().netns.name()).value(), a().device,
                                  WireguardBackend::kKernel};
    EXPECT_EQ(make_wireguard_device(std::move(kernel)).error().code(), Errc::kNotFound);
    WireguardDeviceOptions none{Netns::open(a().netns.name()).value(), a().device};
    none.program = "/nonexistent/wireguard-go";
    const auto refused = make_wireguard_device(std::move(none));
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().detail(),
                testing::AllOf(HasSubstr("CONFIG_WIREGUARD"), HasSubstr("/nonexistent/")));
    WireguardDeviceOptions automatic{Netns::open(a().netns.name()).value(), a().device};
    EXPECT_EQ(make_wireguard_device(std::move(automatic)).value()->backend(),
              WireguardBackend::kUserspace);
    WireguardDeviceOptions fails{Netns::open(a().netns.name()).value(), a().device};
    fails.program = "/bin/false";
    const auto ended = make_wireguard_device(std::move(fails)).value()->ensure();
    ASSERT_FALSE(ended);
    EXPECT_THAT(ended.error().detail(), HasSubstr("ended at once"));
}

bool kernel_can() {
    const auto here = Netns::current();
    if (!here) return false;
    const auto can = kernel_has_wireguard(*here);
    return can && *can;
}

std::vector<WireguardBackend> backends() {
    std::vector<WireguardBackend> all{WireguardBackend::kUserspace};
    if (kernel_can()) all.push_back(WireguardBackend::kKernel);
    return all;
}

INSTANTIATE_TEST_SUITE_P(Backends, Wireguard, testing::ValuesIn(backends()),
                         [](const auto& the) { return std::string(to_string(the.param)); });

TEST(WireguardOfTheKernel, IsTriedAsWell) {
    if (!kernel_can()) GTEST_SKIP() << "this kernel has none: its messages are tested, it is not";
}

}  // namespace
}  // namespace mesh::datapath
