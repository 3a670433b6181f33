// What the programs decide against what datapath/policy.hpp says, row by row, by the kernel's test
// runs; and that a packet meets the rows of one policy while they are exchanged.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>
#include <pods.skel.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "datapath/bpf/bpf_policy.hpp"
#include "fabric.hpp"
#include "policy_probe.hpp"
#include "traffic.hpp"

namespace mesh::test {
namespace {

using datapath::BpfPolicy;
using datapath::EndpointEnforcement;
using datapath::PolicyFields;
using datapath::PolicyKey;
using datapath::PolicyRow;
using datapath::PolicyRowChange;

constexpr datapath::EndpointId kPod = 7;
constexpr std::uint32_t kLoopback = 1;  // the device of a test run's packets
constexpr std::uint8_t kGre = 47;

// ---- The rule of policy.hpp, read once more ----------------------------------------------------

struct Question {
    std::uint32_t identity = 0;
    bool egress = false;
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;  ///< or ICMP type
    [[nodiscard]] bool has_port() const { return protocol != kGre; }
};

bool is_for(const PolicyKey& key, std::uint32_t identity, const Question& packet) {
    if (key.identity != identity || key.egress != packet.egress) return false;
    if (key.length == 0) return true;
    if (key.protocol != packet.protocol) return false;
    if (key.length == 8) return true;
    const int unused = 24 - key.length;
    return packet.has_port() && key.port >> unused == packet.port >> unused;
}

/// nullptr: no row is for the packet.
const PolicyRow* decides(const std::vector<PolicyRow>& rows, const Question& packet) {
    const auto longest = [&](std::uint32_t identity) {
        const PolicyRow* found = nullptr;
        for (const PolicyRow& row : rows) {
            if (!is_for(row.key, identity, packet)) continue;
            if (found == nullptr || row.key.length > found->key.length) found = &row;
        }
        return found;
    };
    const PolicyRow* const own = longest(packet.identity);
    const PolicyRow* const any = longest(0);
    if (own == nullptr || any == nullptr) return own != nullptr ? own : any;
    if (own->verdict.precedence != any->verdict.precedence) {
        return own->verdict.precedence > any->verdict.precedence ? own : any;
    }
    return any->key.length > own->key.length ? any : own;
}

bool passes(const std::vector<PolicyRow>& rows, const Question& packet) {
    const PolicyRow* const row = decides(rows, packet);
    return row != nullptr && !row->verdict.deny;
}

// ---- Packets -----------------------------------------------------------------------------------

void put16(std::vector<std::uint8_t>& to, std::size_t value) {
    to.push_back(static_cast<std::uint8_t>(value >> 8));
    to.push_back(static_cast<std::uint8_t>(value));
}

/// An Ethernet frame; what the programs do not look at is zero.
std::vector<std::uint8_t> frame(const model::IpAddress& source, const model::IpAddress& destination,
                                std::uint8_t protocol, std::uint16_t port, std::uint16_t client,
                                std::uint8_t tcp_flags = 0x02 /* SYN */) {
    const bool v4 = source.is_v4();
    std::vector<std::uint8_t> packet(12, 0);
    put16(packet, v4 ? 0x0800 : 0x86dd);
    if (v4) {
        std::vector<std::uint8_t> ip;
        put16(ip, 0x4500);
        put16(ip, 40);
        put16(ip, 1);
        put16(ip, 0);
        ip.push_back(64);
        ip.push_back(protocol);
        put16(ip, 0);
        const std::uint32_t from = source.v4_number(), to = destination.v4_number();
        for (const std::uint32_t address : {from, to}) {
            put16(ip, address >> 16);
            put16(ip, address & 0xffff);
        }
        std::uint32_t sum = 0;
        for (std::size_t i = 0; i < ip.size(); i += 2) {
            sum += static_cast<std::uint32_t>(ip[i] << 8 | ip[i + 1]);
        }
        while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
        ip[10] = static_cast<std::uint8_t>(~sum >> 8);
        ip[11] = static_cast<std::uint8_t>(~sum);
        packet.insert(packet.end(), ip.begin(), ip.end());
    } else {
        put16(packet, 0x6000);
        put16(packet, 0);
        put16(packet, 20);
        packet.push_back(protocol);
        packet.push_back(64);
        for (const auto& address : {source, destination}) {
            const auto& bytes = address.bytes();
            packet.insert(packet.end(), bytes.begin(), bytes.end());
        }
    }
    std::vector<std::uint8_t> rest;
    if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
        rest.push_back(static_cast<std::uint8_t>(port));
        rest.resize(4, 0);
        put16(rest, client);
    } else {
        put16(rest, client);
        put16(rest, port);
        rest.resize(13, 0);
        rest.push_back(tcp_flags);
    }
    rest.resize(20, 0);
    packet.insert(packet.end(), rest.begin(), rest.end());
    return packet;
}

// ---- The programs with maps of their own -------------------------------------------------------

/// The programs on maps of this test, with a pod and the addresses of peers. Attached nowhere.
class Bench {
  public:
    explicit Bench(std::chrono::nanoseconds udp_timeout = std::chrono::seconds(60))
        : skeleton_(pods__open()) {
        skeleton_->rodata->flow_udp_ns = static_cast<std::uint64_t>(udp_timeout.count());
        for (bpf_map* map :
             {skeleton_->maps.frontends, skeleton_->maps.services, skeleton_->maps.slots,
              skeleton_->maps.backends, skeleton_->maps.affinity, skeleton_->maps.balances}) {
            bpf_map__set_max_entries(map, 2);
        }
        if (pods__load(skeleton_) != 0) throw std::runtime_error("load");
        settings_.layout_version = MESH_PODS_LAYOUT_VERSION;
        settings_.identity_shift = 16;
        policy_ = std::make_unique<BpfPolicy>(
            bpf_map__fd(skeleton_->maps.policies), 16384, PolicyFields{},
            [this](const PolicyFields& fields) -> Result<void> {
                settings_.policy_flags = fields.flags;
                put(skeleton_->maps.settings, std::uint32_t{0}, settings_);
                return {};
            });
        put(skeleton_->maps.settings, std::uint32_t{0}, settings_);
        for (const bool v4 : {true, false}) {
            mesh_endpoint endpoint{};
            endpoint.ifindex = kLoopback;
            endpoint.identity = 0x10001;
            endpoint.id = kPod;
            put(skeleton_->maps.endpoints, key_of(pod(v4)), endpoint);
            for (std::size_t i = 0; i < kIdentities.size(); ++i) {
                mesh_ipcache_entry entry{};
                entry.identity = kIdentities[i];
                entry.cluster_id = 1;
                put(skeleton_->maps.ipcache, mesh_ipcache_key{128, key_of(peer(i, v4))}, entry);
            }
        }
    }
    ~Bench() { pods__destroy(skeleton_); }
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    static constexpr std::array<std::uint32_t, 5> kIdentities{0x10002, 0x10003, 0x20001, 6,
                                                              0x1000001};
    [[nodiscard]] BpfPolicy& policy() { return *policy_; }
    static model::IpAddress pod(bool v4) { return address(v4 ? "10.1.0.2" : "fd00:1::2"); }
    /// An address of kIdentities[i]; beyond them one that nothing is known of.
    static model::IpAddress peer(std::size_t i, bool v4) {
        return address((v4 ? "10.9.0." : "fd00:9::") + std::to_string(i + 1));
    }
    static std::uint32_t identity(std::size_t i, bool v4 = true) {
        return i < kIdentities.size() ? kIdentities[i] : v4 ? 9U : 10U;
    }

    /// Whether the pod may send or get the packet.
    bool passes(std::size_t peer_index, bool v4, const Question& question, std::uint16_t client) {
        const auto peer_address = peer(peer_index, v4);
        const auto packet =
            question.egress
                ? frame(pod(v4), peer_address, question.protocol, question.port, client)
                : frame(peer_address, pod(v4), question.protocol, question.port, client);
        return run(packet, question.egress);
    }
    bool run(const std::vector<std::uint8_t>& packet, bool egress) {
        bpf_test_run_opts options{};
        options.sz = sizeof options;
        options.data_in = packet.data();
        options.data_size_in = static_cast<std::uint32_t>(packet.size());
        const int program =
            bpf_program__fd(egress ? skeleton_->progs.mesh_from_pod : skeleton_->progs.mesh_to_pod);
        if (bpf_prog_test_run_opts(program, &options) != 0) throw std::runtime_error("test run");
        return options.retval != TC_ACT_SHOT;
    }

  private:
    static mesh_address key_of(const model::IpAddress& address) {
        mesh_address key{};
        std::memcpy(key.word, address.bytes().data(), sizeof key.word);
        return key;
    }
    template <class Key, class Value>
    static void put(const bpf_map* map, const Key& key, const Value& value) {
        if (bpf_map_update_elem(bpf_map__fd(map), &key, &value, BPF_ANY) != 0) {
            throw std::runtime_error(bpf_map__name(map));
        }
    }

    pods* skeleton_;
    mesh_pods_settings settings_{};
    std::unique_ptr<BpfPolicy> policy_;
};

/// Rows that meet: few identities, protocols and ports.
std::vector<PolicyRow> random_rows(std::mt19937& random) {
    const auto below = [&](std::uint32_t n) {
        return std::uniform_int_distribution<std::uint32_t>(0, n - 1)(random);
    };
    constexpr std::array<std::uint8_t, 5> kProtocols{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP,
                                                     IPPROTO_ICMP, kGre};
    std::map<PolicyKey, datapath::PolicyVerdict> rows;
    const std::uint32_t count = below(40);
    for (std::uint32_t i = 0; i < count; ++i) {
        PolicyKey key;
        key.identity = below(3) == 0 ? 0 : Bench::identity(below(7), below(2) == 0);
        key.egress = below(2) == 0;
        const std::uint32_t kind = below(6);
        key.length = static_cast<std::uint8_t>(kind == 0 ? 0 : kind == 1 ? 8 : 9 + below(16));
        if (key.length != 0) key.protocol = kProtocols[below(kProtocols.size())];
        if (key.length > 8) {
            key.port = static_cast<std::uint16_t>((8 + below(16)) & (0xffffU << (24 - key.length)));
        }
        datapath::PolicyVerdict verdict;
        verdict.deny = below(3) == 0;
        verdict.precedence = below(4);
        verdict.cookie = i;
        rows.insert_or_assign(key, verdict);
    }
    std::vector<PolicyRow> all;
    for (const auto& [key, verdict] : rows) all.push_back({key, verdict});
    return all;
}

TEST(PolicyRowsTest, TheProgramsDecideAsTheRuleSays) {
    Bench bench;
    std::mt19937 random(20261127);
    std::uint16_t client = 1;
    constexpr std::array<std::uint8_t, 5> kProtocols{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP,
                                                     IPPROTO_ICMP, kGre};
    int passed = 0, denied = 0;
    for (int round = 0; round < 120; ++round) {
        const auto rows = random_rows(random);
        ASSERT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules, rows));
        for (int i = 0; i < 150; ++i) {
            const bool v4 = random() % 2 == 0;
            const std::size_t peer = random() % 7;
            Question question;
            question.identity = Bench::identity(peer, v4);
            question.egress = random() % 2 == 0;
            question.protocol = kProtocols[random() % kProtocols.size()];
            question.port = static_cast<std::uint16_t>(8 + random() % 20);
            // What is not an error or an answer, which are judged by what went before.
            if (question.protocol == IPPROTO_ICMP && question.port == 11) question.port = 8;
            if (question.protocol == IPPROTO_ICMP && question.port == 12) question.port = 8;
            client = client == 60000 ? 1 : client + 1;
            const bool expected = passes(rows, question);
            ASSERT_EQ(bench.passes(peer, v4, question, client), expected)
                << "round " << round << ": identity " << question.identity << " egress "
                << question.egress << " protocol " << int(question.protocol) << " port "
                << question.port << ", seed 20261127";
            ++(expected ? passed : denied);
        }
    }
    EXPECT_GT(passed, 1000);
    EXPECT_GT(denied, 1000);
}

TEST(PolicyRowsTest, ChangesLeadToTheSameAsANewPolicy) {
    Bench bench;
    std::mt19937 random(7);
    std::vector<PolicyRow> rows;
    ASSERT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules, rows));
    for (int round = 0; round < 200; ++round) {
        const auto wanted = random_rows(random);
        std::vector<PolicyRowChange> changes;
        for (const PolicyRow& row : rows) {
            if (std::ranges::none_of(wanted, [&](const auto& w) { return w.key == row.key; })) {
                changes.push_back({row.key, {}});
            }
        }
        for (const PolicyRow& row : wanted) {
            if (std::ranges::find(rows, row) == rows.end()) {
                changes.push_back({row.key, row.verdict});
            }
        }
        ASSERT_TRUE(bench.policy().change(kPod, changes));
        EXPECT_EQ(bench.policy().rows(kPod).value(), wanted);
        EXPECT_EQ(bench.policy().endpoints().front().rows, wanted.size());
        rows = wanted;
        for (int i = 0; i < 20; ++i) {
            const std::size_t peer = random() % 7;
            const Question question{Bench::identity(peer), random() % 2 == 0, IPPROTO_TCP,
                                    static_cast<std::uint16_t>(8 + random() % 20)};
            ASSERT_EQ(
                bench.passes(peer, true, question, static_cast<std::uint16_t>(1 + round * 20 + i)),
                passes(rows, question));
        }
    }
}

TEST(PolicyRowsTest, AnAnswerIsOneToAFlowThatWasLetPass) {
    Bench bench;
    ASSERT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules,
                                       std::vector{allow(Bench::identity(0), kEgress)}));
    const auto out = [&](std::uint8_t protocol, std::uint8_t flags) {
        return bench.run(frame(Bench::pod(true), Bench::peer(0, true), protocol, 80, 4000, flags),
                         kEgress);
    };
    const auto back = [&](std::uint8_t protocol, std::uint16_t from, std::uint16_t to,
                          std::uint8_t flags) {
        return bench.run(frame(Bench::peer(0, true), Bench::pod(true), protocol, to, from, flags),
                         kIngress);
    };
    for (const std::uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP}) {
        EXPECT_FALSE(back(protocol, 80, 4000, 0x12)) << "nothing was asked";
        EXPECT_TRUE(out(protocol, 0x02));
        EXPECT_TRUE(back(protocol, 80, 4000, 0x12));
        EXPECT_FALSE(back(protocol, 81, 4000, 0x12));
        EXPECT_FALSE(back(protocol, 80, 4001, 0x12));
    }
    EXPECT_FALSE(back(IPPROTO_TCP, 80, 4000, 0x02)) << "a connection of the other's own";
    // An echo's answer has its identifier.
    EXPECT_FALSE(
        bench.run(frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_ICMP, 0, 5), kIngress));
    EXPECT_TRUE(
        bench.run(frame(Bench::pod(true), Bench::peer(0, true), IPPROTO_ICMP, 8, 5), kEgress));
    EXPECT_TRUE(
        bench.run(frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_ICMP, 0, 5), kIngress));
    EXPECT_FALSE(
        bench.run(frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_ICMP, 0, 6), kIngress));
    // A locked pod still gets answers, and asks nothing.
    ASSERT_TRUE(bench.policy().enforce(kPod, EndpointEnforcement::kLocked));
    EXPECT_TRUE(back(IPPROTO_UDP, 80, 4000, 0));
    EXPECT_FALSE(out(IPPROTO_UDP, 0));
}

TEST(PolicyRowsTest, AFlowThatTimedOutIsForgotten) {
    Bench bench(std::chrono::nanoseconds(1));
    ASSERT_TRUE(
        bench.policy().replace(kPod, EndpointEnforcement::kRules, std::vector{open_way(kEgress)}));
    EXPECT_TRUE(
        bench.run(frame(Bench::pod(true), Bench::peer(0, true), IPPROTO_UDP, 80, 4000), kEgress));
    // The programs' clock goes on with the kernel's ticks.
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    const auto answer = frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_UDP, 4000, 80);
    bool passes = true;
    while (passes && std::chrono::steady_clock::now() < until) passes = bench.run(answer, kIngress);
    EXPECT_FALSE(passes);
}

TEST(PolicyRowsTest, AFragmentWithoutItsFirstIsJudgedByProtocol) {
    Bench bench;
    auto fragment = frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_UDP, 80, 4000);
    // At offset 1480; the checksum takes up the difference.
    fragment[14 + 7] = 185;
    const std::uint32_t sum =
        static_cast<std::uint16_t>(~((fragment[24] << 8) | fragment[25])) + 185U;
    const std::uint16_t check = static_cast<std::uint16_t>(~((sum & 0xffff) + (sum >> 16)));
    fragment[24] = static_cast<std::uint8_t>(check >> 8);
    fragment[25] = static_cast<std::uint8_t>(check);
    const auto fate_of = [&](const PolicyRow& row) {
        EXPECT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules, std::vector{row}));
        return bench.run(fragment, kIngress);
    };
    EXPECT_FALSE(fate_of(allow(Bench::identity(0), kIngress, IPPROTO_UDP, 80)));
    EXPECT_FALSE(fate_of(allow(Bench::identity(0), kIngress, IPPROTO_UDP, 0)));
    EXPECT_TRUE(fate_of(allow(Bench::identity(0), kIngress, IPPROTO_UDP)));
    EXPECT_FALSE(fate_of(allow(Bench::identity(0), kIngress, IPPROTO_TCP)));
    EXPECT_TRUE(fate_of(allow(0, kIngress)));
}

/// Two policies of a thousand rows. Both let port 80 pass and neither port 81, but each by other
/// rows: half of one and half of the other would do otherwise.
struct TwoPolicies {
    TwoPolicies(std::uint32_t peer, std::uint8_t protocol) {
        for (std::uint32_t i = 0; i < 1000; ++i) {
            a.push_back(allow(0x30000 + i, kIngress, protocol, 1000));
            b.push_back(allow(0x30000 + i, kIngress, protocol, 2000));
        }
        a.push_back(allow(peer, kIngress, protocol, 80));
        b.push_back(allow(0, kIngress, protocol, 80));
        // Port 81 would pass by the shorter row of one without the longer row of the same.
        a.push_back(allow(peer, kIngress));
        a.push_back(deny(peer, kIngress, protocol, 81));
    }
    std::vector<PolicyRow> a, b;
};

TEST(PolicyRowsTest, NoPacketMeetsHalfOfTwoPolicies) {
    Bench bench;
    const TwoPolicies policies(Bench::identity(0), IPPROTO_UDP);
    ASSERT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules, policies.a));
    std::atomic<bool> stop{false};
    std::atomic<int> wrong_passed{0}, wrong_denied{0}, runs{0};
    std::thread flood([&] {
        const auto both = frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_UDP, 80, 4000);
        const auto never = frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_UDP, 81, 4000);
        while (!stop) {
            if (!bench.run(both, kIngress)) ++wrong_denied;
            if (bench.run(never, kIngress)) ++wrong_passed;
            ++runs;
        }
    });
    for (int i = 0; i < 60; ++i) {
        const int before = runs;
        EXPECT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules,
                                           i % 2 == 0 ? policies.b : policies.a));
        while (runs < before + 2) std::this_thread::yield();
    }
    stop = true;
    flood.join();
    EXPECT_EQ(wrong_denied, 0);
    EXPECT_EQ(wrong_passed, 0);
    EXPECT_GT(runs, 100);
}

/// By rows that come and go one by one, a packet that neither lets pass does not pass.
TEST(PolicyRowsTest, AChangeLetsNothingPassThatNeitherDoes) {
    Bench bench;
    const TwoPolicies policies(Bench::identity(0), IPPROTO_UDP);
    ASSERT_TRUE(bench.policy().replace(kPod, EndpointEnforcement::kRules, policies.a));
    const auto changes_to = [](const std::vector<PolicyRow>& from,
                               const std::vector<PolicyRow>& to) {
        std::vector<PolicyRowChange> changes;
        for (const PolicyRow& row : to) changes.push_back({row.key, row.verdict});
        for (const PolicyRow& row : from) {
            if (std::ranges::none_of(to, [&](const auto& w) { return w.key == row.key; })) {
                changes.push_back({row.key, {}});
            }
        }
        return changes;
    };
    const auto to_b = changes_to(policies.a, policies.b), to_a = changes_to(policies.b, policies.a);
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0}, runs{0};
    std::thread flood([&] {
        const auto never = frame(Bench::peer(0, true), Bench::pod(true), IPPROTO_UDP, 81, 4000);
        while (!stop) {
            if (bench.run(never, kIngress)) ++wrong;
            ++runs;
        }
    });
    for (int i = 0; i < 60; ++i) {
        const int before = runs;
        EXPECT_TRUE(bench.policy().change(kPod, i % 2 == 0 ? to_b : to_a));
        while (runs < before + 2) std::this_thread::yield();
    }
    stop = true;
    flood.join();
    EXPECT_EQ(wrong, 0);
}

/// The same with packets of a pod on their way.
TEST(PolicyFloodTest, NoPacketMeetsHalfOfTwoPolicies) {
    Fabric fabric{/*tunnel=*/true};
    const FabricPod& to = fabric.pod(2, 0);
    auto& policy = fabric.node(2).pods().policy();
    const TwoPolicies policies(fabric.pod(1, 0).identity, IPPROTO_UDP);
    ASSERT_TRUE(policy.replace(to.id, EndpointEnforcement::kRules, policies.a));
    const Listener both(to.netns, AF_INET, SOCK_DGRAM, 80),
        never(to.netns, AF_INET, SOCK_DGRAM, 81);
    std::atomic<bool> stop{false};
    std::atomic<int> sent{0};
    std::thread flood([&] {
        fabric.pod(1, 0).netns.run([&] {
            const Socket socket(AF_INET, SOCK_DGRAM);
            while (!stop) {
                (void)socket.send_to("both", to.ip4, 80);
                (void)socket.send_to("never", to.ip4, 81);
                ++sent;
            }
        });
    });
    std::size_t denied = 0;
    for (int i = 0; i < 30; ++i) {
        const int before = sent;
        ASSERT_TRUE(policy.replace(to.id, EndpointEnforcement::kRules,
                                   i % 2 == 0 ? policies.b : policies.a));
        while (sent < before + 5) std::this_thread::yield();
        for (const auto& event : fabric.node(2).events()) {
            if (event.kind != datapath::PodEvent::Kind::kPolicy) continue;
            EXPECT_EQ(event.destination_port, 81);
            ++denied;
        }
    }
    stop = true;
    flood.join();
    EXPECT_EQ(both.receive(), "both");
    EXPECT_GT(denied, 0U);
    pollfd nothing{never.fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&nothing, 1, 0), 0) << "something passed that neither policy lets pass";
}

}  // namespace
}  // namespace mesh::test
