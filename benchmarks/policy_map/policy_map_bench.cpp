// What policies in the kernel cost, as lines of JSON:
//   write   rows per second of a new policy of 16,000 rows beside the bare batch system call on
//           such a map; microseconds of a change of one row, of a new policy of ten, and of such
//           ones for 250 pods at once
//   packet  ns of mesh_to_pod per packet of a pod without a policy and with one of 10, 1,000 and
//           16,000 rows, beside the same program where nothing is enforced; packets are of many
//           peers
//   lookup  ns to find a packet's row in a hash map and in a trie
// By the kernel's test run; maps are unpinned and go with the process. Needs root.
//
//   policy_map_bench [--rounds N]
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/pkt_cls.h>
#include <lookup.skel.h>
#include <pods.skel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "bpf/layout.h"
#include "datapath/bpf/bpf_policy.hpp"
#include "packets.hpp"

namespace {

using namespace mesh::datapath;  // NOLINT: a benchmark of this namespace
using mesh::bench::make_packet;
using mesh::bench::PacketFields;

constexpr EndpointId kPod = 7;
constexpr std::uint32_t kMost = 16'000;
constexpr std::uint32_t kPorts = 4;  // rows of each identity
constexpr std::uint32_t kPeers = 512;
constexpr std::uint32_t kFirstIdentity = 0x20000;
/// Runs of a packet before the next peer's.
constexpr std::uint32_t kRepeat = 8;

[[noreturn]] void die(const std::string& text) {
    std::cerr << "policy_map_bench: " << text << "\n";
    std::exit(1);
}
void must(bool ok, const std::string& what) {
    if (!ok) die(what + ": " + std::strerror(errno));
}
template <class T>
void must(const mesh::Result<T>& result) {
    if (!result) die(result.error().message());
}

mesh_address address(const std::string& text) {
    mesh_address result{};
    result.word[2] = htonl(0xffff);
    must(inet_pton(AF_INET, text.c_str(), &result.word[3]) == 1, text);
    return result;
}

PolicyRow row(std::uint32_t n) {
    PolicyRow made;
    made.key.identity = kFirstIdentity + n / kPorts;
    made.key.protocol = 6;
    made.key.length = 24;
    made.key.port = static_cast<std::uint16_t>(8000 + n % kPorts);
    made.verdict.precedence = 0xffffff01;
    return made;
}

/// As compiled of a rule: some to anybody, the most to identities and ports.
std::vector<PolicyRow> rows(std::uint32_t count) {
    std::vector<PolicyRow> all;
    for (std::uint32_t n = 0; n + 1 < count; ++n) all.push_back(row(n));
    PolicyRow any;
    any.key.protocol = 17;
    any.key.length = 24;
    any.key.port = 53;
    any.verdict.precedence = 0xffffff01;
    if (count != 0) all.push_back(any);
    return all;
}

struct Cost {
    std::uint32_t least = 0, median = 0;
};
Cost cost_of(std::vector<std::uint32_t> ns) {
    std::ranges::sort(ns);
    return {ns.front(), ns[ns.size() / 2]};
}

std::uint32_t test_run(int program, const std::vector<std::uint8_t>& packet, std::uint32_t repeat,
                       std::uint32_t expected) {
    bpf_test_run_opts options{};
    options.sz = sizeof options;
    options.data_in = packet.data();
    options.data_size_in = static_cast<std::uint32_t>(packet.size());
    options.repeat = static_cast<int>(repeat);
    must(bpf_prog_test_run_opts(program, &options) == 0, "test run");
    if (options.retval != expected) {
        die(fmt::format("expected verdict {}, got {}", expected, options.retval));
    }
    return options.duration;
}

/// The programs on maps of their own.
class Node {
  public:
    Node() : skeleton_(pods__open()) {
        must(skeleton_ != nullptr, "open");
        for (bpf_map* map :
             {skeleton_->maps.frontends, skeleton_->maps.services, skeleton_->maps.slots,
              skeleton_->maps.backends, skeleton_->maps.affinity, skeleton_->maps.balances}) {
            bpf_map__set_max_entries(map, 2);
        }
        must(pods__load(skeleton_) == 0, "load");
        settings_.layout_version = MESH_PODS_LAYOUT_VERSION;
        settings_.identity_shift = 16;
        put(skeleton_->maps.settings, std::uint32_t{0}, settings_);
        mesh_endpoint endpoint{};
        endpoint.ifindex = 1;
        endpoint.identity = 0x10001;
        endpoint.id = kPod;
        put(skeleton_->maps.endpoints, address("10.1.0.2"), endpoint);
        for (std::uint32_t n = 0; n < kMost / kPorts; ++n) {
            mesh_ipcache_entry entry{};
            entry.identity = kFirstIdentity + n;
            entry.cluster_id = 2;
            mesh_ipcache_key key{128, address("10.9.0.0")};
            key.address.word[3] = htonl((10U << 24) + (9U << 16) + n);
            put(skeleton_->maps.ipcache, key, entry);
        }
    }
    ~Node() { pods__destroy(skeleton_); }
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    [[nodiscard]] BpfPolicy make_policy() {
        return BpfPolicy(bpf_map__fd(skeleton_->maps.policies), 16384, PolicyFields{},
                         [this](const PolicyFields& fields) -> mesh::Result<void> {
                             settings_.policy_flags = fields.flags;
                             put(skeleton_->maps.settings, std::uint32_t{0}, settings_);
                             return {};
                         });
    }
    [[nodiscard]] int program() const { return bpf_program__fd(skeleton_->progs.mesh_to_pod); }

  private:
    template <class Key, class Value>
    static void put(const bpf_map* map, const Key& key, const Value& value) {
        must(bpf_map_update_elem(bpf_map__fd(map), &key, &value, BPF_ANY) == 0, bpf_map__name(map));
    }
    pods* skeleton_;
    mesh_pods_settings settings_{};
};

/// Median microseconds of a call.
template <class Call>
double microseconds(std::uint32_t rounds, Call&& call) {
    std::vector<double> times;
    for (std::uint32_t i = 0; i < rounds; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        call(i);
        times.push_back(
            std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
                .count());
    }
    std::ranges::sort(times);
    return times[times.size() / 2];
}

double bare_batch(std::uint32_t rounds) {
    std::vector<mesh_policy_key> keys(kMost);
    std::vector<mesh_policy_entry> entries(kMost);
    for (std::uint32_t n = 0; n < kMost; ++n) {
        keys[n].identity = kFirstIdentity + n / kPorts;
        keys[n].port = htons(static_cast<std::uint16_t>(8000 + n % kPorts));
        keys[n].proto = 6;
        keys[n].scope = 24;
        entries[n].key = keys[n];
    }
    return microseconds(rounds, [&](std::uint32_t) {
        bpf_map_create_opts make{};
        make.sz = sizeof make;
        make.map_flags = BPF_F_NO_PREALLOC;
        const int map = bpf_map_create(BPF_MAP_TYPE_HASH, "bare", sizeof keys[0], sizeof entries[0],
                                       16385, &make);
        must(map >= 0, "map");
        bpf_map_batch_opts options{};
        options.sz = sizeof options;
        for (std::uint32_t next = 0; next < kMost; next += 1024) {
            std::uint32_t count = std::min(kMost - next, 1024U);
            must(bpf_map_update_batch(map, &keys[next], &entries[next], &count, &options) == 0,
                 "batch");
        }
        ::close(map);
    });
}

void measure_writes(BpfPolicy& policy, std::uint32_t rounds) {
    const auto large = rows(kMost), small = rows(10);
    const std::uint32_t few = std::max(rounds / 10, 3U);
    const double bare = bare_batch(few);
    const double replace = microseconds(few, [&](std::uint32_t) {
        must(policy.replace(kPod, EndpointEnforcement::kRules, large));
    });
    const double change = microseconds(rounds * 10, [&](std::uint32_t i) {
        const PolicyRow one = row(kMost + 8);
        const PolicyRowChange add{one.key, one.verdict}, drop{one.key, {}};
        must(policy.change(kPod, std::span(i % 2 == 0 ? &add : &drop, 1)));
    });
    const double little = microseconds(rounds, [&](std::uint32_t) {
        must(policy.replace(kPod, EndpointEnforcement::kRules, small));
    });
    std::vector<PolicyReplacement> many;
    for (EndpointId id = 1; id <= 250; ++id) {
        many.push_back({id, EndpointEnforcement::kRules, small});
    }
    const double together = microseconds(few, [&](std::uint32_t) {
        if (!policy.replace_all(many).empty()) die("replace_all");
    });
    for (const PolicyReplacement& one : many) must(policy.remove(one.endpoint));
    fmt::print(R"({{"what":"write","rows_per_second":{:.0f},"bare_rows_per_second":{:.0f},)"
               R"("one_row_us":{:.1f},"ten_rows_us":{:.1f},"ten_rows_of_250_pods_us":{:.1f}}})"
               "\n",
               kMost / replace * 1e6, kMost / bare * 1e6, change, little, together);
}

/// Packets of many peers, each with a row.
std::vector<std::vector<std::uint8_t>> packets_for(std::uint32_t count) {
    std::vector<std::vector<std::uint8_t>> all;
    const std::uint32_t peers = std::clamp(count / kPorts, 2U, kMost / kPorts) - 1;
    for (std::uint32_t i = 0; i < kPeers; ++i) {
        const std::uint32_t peer = static_cast<std::uint32_t>(i * 2654435761U) % peers;
        PacketFields fields;
        fields.source = fmt::format("10.9.{}.{}", peer / 256, peer % 256);
        fields.destination = "10.1.0.2";
        fields.source_port = static_cast<std::uint16_t>(20'000 + i);
        fields.destination_port = static_cast<std::uint16_t>(8000 + i % kPorts);
        all.push_back(make_packet(fields));
    }
    return all;
}

Cost packet_cost(int program, const std::vector<std::vector<std::uint8_t>>& packets,
                 std::uint32_t rounds) {
    std::vector<std::uint32_t> ns;
    for (std::uint32_t round = 0; round < std::max(rounds / 10, 3U); ++round) {
        std::uint64_t sum = 0;
        for (const auto& packet : packets) sum += test_run(program, packet, kRepeat, TC_ACT_OK);
        if (round != 0) ns.push_back(static_cast<std::uint32_t>(sum / packets.size()));
    }
    return cost_of(std::move(ns));
}

void measure_packets(const Node& node, BpfPolicy& policy, std::uint32_t rounds) {
    for (const std::uint32_t count : {0U, 10U, 1'000U, kMost}) {
        const auto packets = packets_for(count);
        must(policy.remove(kPod));
        const Cost base = packet_cost(node.program(), packets, rounds);
        // Without rows: another pod is enforced, this one is not.
        must(policy.replace(count == 0 ? EndpointId{kPod + 1} : kPod, EndpointEnforcement::kRules,
                            rows(count)));
        const Cost cost = packet_cost(node.program(), packets, rounds);
        fmt::print(
            R"({{"what":"packet","rows":{},"ns":{},"median_ns":{},"base_ns":{},"base_median_ns":{}}})"
            "\n",
            count, cost.least, cost.median, base.least, base.median);
        must(policy.remove(EndpointId{kPod + 1}));
    }
}

struct TrieKey {
    std::uint32_t length, identity;
    std::uint8_t egress, protocol;
    std::uint16_t port;
};

void measure_lookups(std::uint32_t rounds) {
    const std::vector<std::uint8_t> packet(64, 0);
    for (const std::uint32_t count : {10U, 1'000U, kMost}) {
        lookup* const skeleton = lookup__open_and_load();
        must(skeleton != nullptr, "load lookup.bpf.c");
        mesh_policy_entry header{};
        header.key.scope = MESH_POLICY_HEADER;
        header.header.lengths[0] = header.header.lengths[1] = 1U << 24;
        const int table = bpf_map__fd(skeleton->maps.table),
                  trie = bpf_map__fd(skeleton->maps.trie);
        must(bpf_map_update_elem(table, &header.key, &header, BPF_ANY) == 0, "table");
        for (const PolicyRow& made : rows(count)) {
            mesh_policy_entry entry{};
            entry.key.identity = made.key.identity;
            entry.key.port = htons(made.key.port);
            entry.key.proto = made.key.protocol;
            entry.key.scope = 24;
            entry.row.precedence = made.verdict.precedence;
            must(bpf_map_update_elem(table, &entry.key, &entry, BPF_ANY) == 0, "table");
            const TrieKey key{64, made.key.identity, 0, made.key.protocol, htons(made.key.port)};
            must(bpf_map_update_elem(trie, &key, &entry.row, BPF_ANY) == 0, "trie");
        }
        for (std::uint32_t i = 0; i < 4096; ++i) {
            const PolicyRow asked = row(static_cast<std::uint32_t>(i * 2654435761U) % (count - 1));
            mesh_policy_key key{};
            key.identity = asked.key.identity;
            key.port = htons(asked.key.port);
            key.proto = asked.key.protocol;
            must(bpf_map_update_elem(bpf_map__fd(skeleton->maps.questions), &i, &key, BPF_ANY) == 0,
                 "questions");
        }
        std::vector<std::uint32_t> none, by_hash, by_trie;
        for (std::uint32_t round = 0; round < rounds; ++round) {
            const auto run = [&](const bpf_program* program) {
                return test_run(bpf_program__fd(program), packet, 4096, TC_ACT_OK);
            };
            none.push_back(run(skeleton->progs.none));
            by_hash.push_back(run(skeleton->progs.by_hash));
            by_trie.push_back(run(skeleton->progs.by_trie));
        }
        fmt::print(R"({{"what":"lookup","rows":{},"hash_ns":{},"trie_ns":{},"empty_ns":{}}})"
                   "\n",
                   count, cost_of(std::move(by_hash)).least, cost_of(std::move(by_trie)).least,
                   cost_of(std::move(none)).least);
        lookup__destroy(skeleton);
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::uint32_t rounds = 200;
    CLI::App app("What policies in the kernel cost, as lines of JSON; needs root");
    app.add_option("--rounds", rounds, "Measurements of each")->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    Node node;
    BpfPolicy policy = node.make_policy();
    measure_writes(policy, rounds);
    measure_packets(node, policy, rounds);
    measure_lookups(rounds);
    return 0;
}
