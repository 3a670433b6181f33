// What each program of bpf/pods.bpf.c costs per packet: BPF_PROG_TEST_RUN with packets that take
// the paths that matter, beside an empty program in the same way. Every tc program of the object is
// measured: those without packets of their own here with all of them. A line of JSON for each.
//
// The maps are filled as a node of a large mesh has them. Everything is in a network namespace of
// this process and unpinned, and goes with it. Needs root.
//
//   programs_bench [--program NAME] [--rounds N] [--addresses N]
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <pods.skel.h>
#include <sched.h>
#include <unistd.h>
#include <wrap.skel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bpf/layout.h"
#include "packets.hpp"

namespace {

using mesh::bench::make_packet;
using mesh::bench::PacketFields;

constexpr std::uint32_t kMarkEncapsulated = 0x6d657368;  // of bpf/pods.bpf.c
constexpr std::uint32_t kLoopback = 1;                   // the device of a test run's packets
constexpr const char* kOverlay = "mesh_bench";
// As many runs as a packet's TTL allows: each takes one off.
constexpr std::uint32_t kRepeat = 250;

struct Options {
    std::string program;
    std::uint32_t rounds = 400;
    std::uint32_t addresses = 100'000;  ///< of the ipcache
};

[[noreturn]] void die(const std::string& text) {
    std::cerr << "programs_bench: " << text << "\n";
    std::exit(1);
}
void must(bool ok, const std::string& what) {
    if (!ok) die(what + ": " + std::strerror(errno));
}

mesh_address address(const std::string& text) {
    mesh_address result{};
    if (text.find(':') != std::string::npos) {
        must(inet_pton(AF_INET6, text.c_str(), result.word) == 1, text);
    } else {
        result.word[2] = htonl(0xffff);
        must(inet_pton(AF_INET, text.c_str(), &result.word[3]) == 1, text);
    }
    return result;
}

/// A packet, and the state of the node that goes with it.
struct Case {
    const char* program;  ///< "": every program that has no case of its own
    const char* packet;
    PacketFields fields;
    int verdict = TC_ACT_REDIRECT;
    std::uint32_t settings = MESH_PODS_TUNNEL;
    std::uint32_t mark = 0;
    bool from_tunnel = false;
    bool once = false;  ///< a run changes the packet so that the next would take another path
};

constexpr const char* kPod4 = "10.1.0.2";
constexpr const char* kPod6 = "fd00:1::2";
constexpr std::uint32_t kMasquerade = MESH_PODS_TUNNEL | MESH_PODS_MASQUERADE;

std::vector<Case> all_cases() {
    const PacketFields local4{kPod4, "10.1.0.3"}, local6{kPod6, "fd00:1::3"};
    const PacketFields remote4{kPod4, "10.2.0.7"}, remote6{kPod6, "fd00:2::7"};
    const PacketFields world4{kPod4, "192.0.2.9"}, world6{kPod6, "2001:db8::9"};
    const PacketFields spoofed4{"10.9.9.9", "10.2.0.7"};
    const PacketFields in4{"10.2.0.7", kPod4}, in6{"fd00:2::7", kPod6};
    PacketFields large4 = remote4;
    large4.payload = 1'300;
    const auto t = [](const char* packet, PacketFields fields, bool drop = false) {
        return Case{"mesh_from_overlay",
                    packet,
                    std::move(fields),
                    drop ? TC_ACT_SHOT : TC_ACT_REDIRECT,
                    MESH_PODS_TUNNEL,
                    0,
                    true};
    };
    std::vector<Case> cases{
        {"mesh_from_pod", "to a pod of this node", local4},
        {"mesh_from_pod", "to a pod of this node, IPv6", local6},
        {"mesh_from_pod", "into the tunnel", remote4},
        {"mesh_from_pod", "into the tunnel, 1,300 bytes", large4},
        {"mesh_from_pod", "into the tunnel, IPv6", remote6},
        {"mesh_from_pod", "to a pod elsewhere, native", remote4, TC_ACT_REDIRECT, 0},
        {"mesh_from_pod", "to the world", world4, TC_ACT_OK},
        {"mesh_from_pod", "to the world, IPv6", world6, TC_ACT_OK},
        {"mesh_from_pod", "spoofed source: dropped and told", spoofed4, TC_ACT_SHOT},
        t("to a pod", in4),
        t("to a pod, IPv6", in6),
        t("of another cluster than its sender: dropped and told", {"10.200.0.7", kPod4}, true),
        {"mesh_to_overlay", "of a pod, has its key", remote4, TC_ACT_OK, MESH_PODS_TUNNEL,
         kMarkEncapsulated, false, true},
        {"mesh_to_overlay", "of the node itself", {"10.1.0.1", "10.2.0.7"}, TC_ACT_OK},
        {"mesh_from_device", "to a pod, native", in4, TC_ACT_REDIRECT, 0},
        {"mesh_from_device", "to a pod, native, IPv6", in6, TC_ACT_REDIRECT, 0},
        {"mesh_from_device", "to the node", {"192.0.2.9", "172.18.0.1"}, TC_ACT_OK},
        {"mesh_from_device",
         "answer to a masqueraded packet",
         {"192.0.2.9", "172.18.0.1"},
         TC_ACT_REDIRECT,
         kMasquerade,
         0,
         false,
         true},
        {"mesh_to_device", "of the node", {"172.18.0.1", "192.0.2.9"}, TC_ACT_OK, kMasquerade},
        {"mesh_to_device", "of a pod, masqueraded", world4, TC_ACT_OK, kMasquerade, 0, false, true},
    };
    // For programs that this list does not know.
    for (const auto& [name, fields] :
         std::vector<std::pair<const char*, PacketFields>>{{"pod to a pod of this node", local4},
                                                           {"pod to a pod elsewhere", remote4},
                                                           {"pod to the world", world4},
                                                           {"pod elsewhere to a pod", in4}}) {
        cases.push_back({"", name, fields, -1});
    }
    return cases;
}

// ---- the object and what its maps hold ----

class Node {
  public:
    explicit Node(const Options& options) {
        must(unshare(CLONE_NEWNET) == 0, "network namespace");
        // The collect-metadata device that packets are redirected to.
        const std::string command = fmt::format(
            "ip link set lo up && ip link add {0} type vxlan external dstport 8472 && "
            "ip link set {0} up && ip addr add 172.18.0.1/24 dev {0} && "
            "ip neigh add 172.18.0.2 lladdr 02:00:00:00:00:02 dev {0} && "
            "ip route add 10.2.0.0/16 via 172.18.0.2 && sysctl -qw net.ipv4.conf.all.forwarding=1",
            kOverlay);
        if (std::system(command.c_str()) != 0) die("cannot make a VXLAN device");
        std::size_t size = 0;
        const void* bytes = pods__elf_bytes(&size);
        object_ = bpf_object__open_mem(bytes, size, nullptr);
        must(object_ != nullptr, "open");
        bpf_map__set_max_entries(map("ipcache"), options.addresses + 1'000);
        must(bpf_object__load(object_) == 0, "load");
        wrap_ = wrap__open_and_load();
        must(wrap_ != nullptr, "load wrap.bpf.c");
        events_ = ring_buffer__new(
            bpf_map__fd(map("events")), [](void*, void*, std::size_t) { return 0; }, nullptr,
            nullptr);
        must(events_ != nullptr, "events");
        fill(options.addresses);
    }
    ~Node() {
        ring_buffer__free(events_);
        wrap__destroy(wrap_);
        bpf_object__close(object_);
    }
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    [[nodiscard]] bpf_object* object() const { return object_; }
    [[nodiscard]] int empty() const { return bpf_program__fd(wrap_->progs.empty); }
    [[nodiscard]] int from_tunnel() const { return bpf_program__fd(wrap_->progs.from_tunnel); }

    /// What from_tunnel goes on with; nullopt: nothing.
    void set_tail(std::optional<int> program) const {
        const std::uint32_t zero = 0;
        const int map = bpf_map__fd(wrap_->maps.programs);
        if (program) {
            must(bpf_map_update_elem(map, &zero, &*program, BPF_ANY) == 0, "tail call");
        } else {
            (void)bpf_map_delete_elem(map, &zero);
        }
    }
    void set_flags(std::uint32_t flags) const {
        mesh_pods_settings settings{};
        settings.layout_version = MESH_PODS_LAYOUT_VERSION;
        settings.flags = flags;
        settings.overlay_ifindex = if_nametoindex(kOverlay);
        settings.device_ifindex = settings.overlay_ifindex;
        settings.node4 = address("172.18.0.1");
        settings.node6 = address("fd18::1");
        settings.router4 = address("10.1.0.1");
        settings.router6 = address("fd00:1::1");
        settings.identity_shift = 16;
        put("settings", std::uint32_t{0}, settings);
    }
    void forget_events() const { (void)ring_buffer__consume(events_); }

  private:
    [[nodiscard]] bpf_map* map(const char* name) const {
        bpf_map* const found = bpf_object__find_map_by_name(object_, name);
        if (found == nullptr) die(fmt::format("bpf/pods.bpf.c has no map {}", name));
        return found;
    }
    template <class Key, class Value>
    void put(const char* name, const Key& key, const Value& value) const {
        must(bpf_map__update_elem(map(name), &key, sizeof key, &value, sizeof value, BPF_ANY) == 0,
             name);
    }

    /// Two pods here, one node of cluster 2 that has 10.2.0.0/16, addresses of pods of it.
    void fill(std::uint32_t addresses) const {
        for (const char* pod : {kPod4, kPod6, "10.1.0.3", "fd00:1::3"}) {
            mesh_endpoint endpoint{};
            endpoint.ifindex = kLoopback;
            endpoint.identity = (1U << 16) + 300;
            put("endpoints", address(pod), endpoint);
        }
        const mesh_address peer = address("172.18.0.2");
        put("nodes", peer, mesh_node{2});
        mesh_ipcache_entry entry{};
        entry.identity = (2U << 16) + 300;
        entry.cluster_id = 2;
        entry.tunnel = peer;
        mesh_ipcache_key key{128, address("10.2.0.0")};
        for (std::uint32_t n = 0; n < addresses; ++n) {
            key.address.word[3] = htonl((10U << 24) + (2U << 16) + n);
            put("ipcache", key, entry);
        }
        put("ipcache", mesh_ipcache_key{128, address("fd00:2::7")}, entry);
        entry.cluster_id = 3;
        entry.tunnel = address("172.18.0.3");
        put("ipcache", mesh_ipcache_key{96 + 16, address("10.200.0.0")}, entry);
        bpf_tunnel_key tunnel{};
        tunnel.tunnel_id = (2U << 16) + 300;
        tunnel.local_ipv4 = ntohl(peer.word[3]);
        tunnel.remote_ipv4 = 0xac120001;
        const std::uint32_t zero = 0;
        must(bpf_map_update_elem(bpf_map__fd(wrap_->maps.key), &zero, &tunnel, BPF_ANY) == 0,
             "key");
    }

    bpf_object* object_ = nullptr;
    wrap* wrap_ = nullptr;
    ring_buffer* events_ = nullptr;
};

// ---- test runs ----

struct Run {
    int verdict = 0;
    std::uint32_t ns = 0;              ///< per packet
    std::vector<std::uint8_t> packet;  ///< as the program left it
};

Run test_run(int program, const std::vector<std::uint8_t>& packet, std::uint32_t mark,
             std::uint32_t repeat) {
    __sk_buff context{};
    context.mark = mark;
    Run run;
    run.packet.resize(packet.size() + 256);
    bpf_test_run_opts options{};
    options.sz = sizeof options;
    options.data_in = packet.data();
    options.data_size_in = static_cast<std::uint32_t>(packet.size());
    options.data_out = run.packet.data();
    options.data_size_out = static_cast<std::uint32_t>(run.packet.size());
    options.ctx_in = &context;
    options.ctx_size_in = sizeof context;
    options.repeat = static_cast<int>(repeat);
    must(bpf_prog_test_run_opts(program, &options) == 0, "test run");
    run.packet.resize(options.data_size_out);
    run.verdict = static_cast<int>(options.retval);
    run.ns = options.duration;
    return run;
}

struct Cost {
    std::uint32_t least = 0, median = 0;
};

Cost cost_of(std::vector<std::uint32_t> ns) {
    std::ranges::sort(ns);
    return {ns.front(), ns[ns.size() / 2]};
}

class Bench {
  public:
    Bench(const Node& node, const Options& options) : node_(node), options_(options) {}

    void measure(const bpf_program* program, const Case& c) const {
        node_.set_flags(c.settings);
        PacketFields fields = c.fields;
        // The answer to what the device's other program made of a pod's packet.
        if (std::string_view(c.packet).starts_with("answer")) fields.destination_port = nat_port();
        if (std::string_view(c.packet).starts_with("answer")) fields.source_port = 80;
        const auto packet = make_packet(fields);
        const std::uint32_t repeat = c.once ? 1 : kRepeat;
        // One run by itself is as exact as the clock; there are more of them.
        const std::uint32_t rounds = options_.rounds * (c.once ? 20 : 1);
        const int measured = c.from_tunnel ? node_.from_tunnel() : bpf_program__fd(program);
        const int base = c.from_tunnel ? node_.from_tunnel() : node_.empty();
        const auto set_tail = [&](bool on) {
            if (c.from_tunnel)
                node_.set_tail(on ? std::optional(bpf_program__fd(program)) : std::nullopt);
        };
        set_tail(true);
        const Run first = test_run(measured, packet, c.mark, 1);
        if (c.verdict >= 0 && first.verdict != c.verdict) {
            die(fmt::format("{}, {}: expected verdict {}, got {}", bpf_program__name(program),
                            c.packet, c.verdict, first.verdict));
        }
        // In turn, so that what else the machine does touches both.
        std::vector<std::uint32_t> ours, nothing;
        for (std::uint32_t i = 0; i < rounds; ++i) {
            set_tail(true);
            ours.push_back(test_run(measured, packet, c.mark, repeat).ns);
            set_tail(false);
            nothing.push_back(test_run(base, packet, c.mark, repeat).ns);
            if (first.verdict == TC_ACT_SHOT) node_.forget_events();
        }
        const Cost cost = cost_of(std::move(ours));
        const Cost empty = cost_of(std::move(nothing));
        fmt::print(
            R"({{"program":"{}","packet":"{}","verdict":{},"ns":{},"median_ns":{},"empty_ns":{},)"
            R"("empty_median_ns":{}}})"
            "\n",
            bpf_program__name(program), c.packet, first.verdict, cost.least, cost.median,
            empty.least, empty.median);
    }

  private:
    /// The port that a pod's packet to the world gets.
    [[nodiscard]] std::uint16_t nat_port() const {
        bpf_program* out = bpf_object__find_program_by_name(node_.object(), "mesh_to_device");
        if (out == nullptr) die("no program mesh_to_device");
        const Run run = test_run(bpf_program__fd(out), make_packet({kPod4, "192.0.2.9"}), 0, 1);
        return static_cast<std::uint16_t>((run.packet[34] << 8) + run.packet[35]);
    }

    const Node& node_;
    const Options& options_;
};

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("What each tc program costs per packet, as lines of JSON; needs root");
    app.add_option("--program", options.program, "Only the one of this name");
    app.add_option("--rounds", options.rounds, "Measurements of each packet")
        ->capture_default_str();
    app.add_option("--addresses", options.addresses, "Entries of the ipcache")
        ->check(CLI::Range(100, 1'000'000))
        ->capture_default_str();
    CLI11_PARSE(app, argc, argv);
    const Node node(options);
    const Bench bench(node, options);
    const auto cases = all_cases();
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, node.object()) {
        const std::string name = bpf_program__name(program);
        if (bpf_program__type(program) != BPF_PROG_TYPE_SCHED_CLS) continue;
        if (!options.program.empty() && name != options.program) continue;
        const bool known =
            std::ranges::any_of(cases, [&](const Case& c) { return c.program == name; });
        for (const Case& c : cases) {
            if (known ? c.program == name : *c.program == '\0') bench.measure(program, c);
        }
    }
    return 0;
}
