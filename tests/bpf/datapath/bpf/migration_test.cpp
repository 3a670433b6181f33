// Maps of another layout or size under traffic: nothing breaks, and whatever the process dies of in
// between. The next layout is that of tests/bpf/next_layout.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>

#include "contents.hpp"
#include "datapath/bpf/fd.hpp"
#include "echo_server.hpp"
#include "fabric.hpp"
#include "pod_traffic.hpp"
#include "traced_process.hpp"

namespace mesh::test {
namespace {

using ::testing::HasSubstr;

/// Of the pinned map: how many entries it has room for; its id tells it from others.
struct MapFacts {
    std::uint32_t max_entries = 0, id = 0, value_size = 0;
};
MapFacts facts_of(const std::string& path) {
    const datapath::Fd map(bpf_obj_get(path.c_str()));
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (!map || bpf_obj_get_info_by_fd(map.get(), &info, &length) != 0) return {};
    return {info.max_entries, info.id, info.value_size};
}

/// The kernel lets a map go when neither a pin nor a program has it; soon after the last one.
bool is_gone(const MapFacts& map) {
    for (int i = 0; i < 500; ++i) {
        if (!datapath::Fd(bpf_map_get_fd_by_id(map.id))) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

class MigrationTest : public ::testing::Test {
  protected:
    FabricNode& node() { return fabric_.node(1); }
    [[nodiscard]] std::string pins() {
        return node().options().bpffs + "/" + node().options().pin_directory;
    }
    [[nodiscard]] MapFacts map(const std::string& name) {
        return facts_of(pins() + "/maps/" + name);
    }
    [[nodiscard]] bool is_finished() { return !std::filesystem::exists(pins() + "/next"); }
    [[nodiscard]] std::vector<std::string> prefixes() {
        std::vector<std::string> all;
        for (const auto& entry : fabric_.everything().upserts) {
            all.push_back(entry.prefix.to_string());
        }
        all.emplace_back("192.0.2.0/24");
        return all;
    }
    [[nodiscard]] std::string contents() { return contents_of(node().pods(), prefixes()); }
    /// Opens node 1 with these options, and leaves it open for `use`.
    template <class Use>
    void open(const datapath::BpfPodsOptions& options, const Logger& logger, Use&& use) {
        node().netns.run([&] {
            const auto opened = datapath::BpfPods::open(options, logger);
            ASSERT_TRUE(opened) << opened.error().message();
            use(**opened);
        });
    }
    [[nodiscard]] std::vector<std::string> next_layout(std::uint32_t max_ipcache = 4096) {
        const auto options = node().options();
        std::vector<std::string> command{MESH_NEXT_LAYOUT, "pods", options.bpffs,
                                         options.pin_directory, std::to_string(max_ipcache)};
        for (const std::string& prefix : prefixes()) command.push_back(prefix);
        return command;
    }

    Fabric fabric_{/*tunnel=*/true, /*masquerade=*/true};
};

TEST_F(MigrationTest, AnotherSizeKeepsEntriesAndConnections) {
    const PodTraffic traffic(fabric_.pod(1, 0).netns, fabric_.pod(2, 0).netns,
                             fabric_.pod(2, 0).ip4);
    const std::string before = contents();
    const MapFacts nat = map("nat"), ipcache = map("ipcache");
    node().close();
    for (const std::uint32_t size : {8192U, 16384U, 64U}) {
        auto options = node().options();
        options.max_ipcache = size;
        open(options, {}, [&](datapath::BpfPods& pods) {
            EXPECT_EQ(contents_of(pods, prefixes()), before);
            EXPECT_EQ(pods.occupancy().max_ipcache, size);
            traffic.wait_for_answers();
        });
        EXPECT_EQ(map("ipcache").max_entries, size);
        EXPECT_TRUE(is_finished());
        traffic.wait_for_answers();
    }
    EXPECT_TRUE(is_gone(ipcache)) << "a program uses it still";
    EXPECT_EQ(map("nat").id, nat.id) << "a map that did not change is kept as it is";
    EXPECT_EQ(traffic.failures(), 0);
}

TEST_F(MigrationTest, AMapIsNotMadeSmallerThanWhatItHolds) {
    const std::string before = contents();
    node().close();
    std::string warning;
    const Logger logger("datapath", [&](LogLevel level, std::string_view, std::string_view text) {
        if (level == LogLevel::kWarn) warning = text;
    });
    auto options = node().options();
    options.max_ipcache = 3;
    open(options, logger, [&](datapath::BpfPods& pods) {
        EXPECT_EQ(contents_of(pods, prefixes()), before);
        EXPECT_EQ(pods.occupancy().max_ipcache, 4096U);
    });
    EXPECT_THAT(warning, HasSubstr("map ipcache keeps its 4096 entries: it holds more than 3"));
}

/// A UDP flow of a pod to the host outside of the mesh.
class OutsideFlow {
  public:
    OutsideFlow(Fabric& fabric, std::uint16_t port) {
        fabric.world.run([&] {
            world_ = datapath::Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            sockaddr_in at{};
            at.sin_family = AF_INET;
            at.sin_port = htons(port);
            const timeval limit{.tv_sec = 5, .tv_usec = 0};
            ::setsockopt(world_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            if (::bind(world_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
                throw std::runtime_error("bind");
            }
        });
        fabric.pod(1, 0).netns.run([&] {
            pod_.emplace(AF_INET, SOCK_DGRAM);
            if (pod_->connect("10.250.0.100", port) != 0) throw std::runtime_error("connect");
        });
    }
    /// There and back: the port by which the world knows the pod; -1: something got lost.
    [[nodiscard]] int round_trip() const {
        char byte = 0;
        sockaddr_in from{};
        socklen_t size = sizeof from;
        auto* address = reinterpret_cast<sockaddr*>(&from);
        if (pod_->send("?") != 0 || ::recvfrom(world_.get(), &byte, 1, 0, address, &size) != 1 ||
            ::sendto(world_.get(), &byte, 1, 0, address, size) != 1 || pod_->receive() != "?") {
            return -1;
        }
        return ntohs(from.sin_port);
    }

  private:
    datapath::Fd world_;
    std::optional<Socket> pod_;
};

TEST_F(MigrationTest, MasqueradedFlowsKeepTheirPorts) {
    const OutsideFlow flow(fabric_, 9000);
    const int port = flow.round_trip();
    ASSERT_GE(port, 61000);
    node().close();
    auto options = node().options();
    options.max_nat = 4096;
    const auto nat = map("nat");
    open(options, {}, [](datapath::BpfPods&) {});
    EXPECT_NE(map("nat").id, nat.id);
    EXPECT_EQ(map("nat").max_entries, 4096U);
    EXPECT_EQ(flow.round_trip(), port);
    const auto next = run_traced(&node().netns, next_layout(), 0);
    ASSERT_EQ(next.exit_code, 0) << next.output;
    EXPECT_EQ(map("nat").value_size, 24U);
    EXPECT_EQ(flow.round_trip(), port);
}

TEST_F(MigrationTest, AFlowThatBeginsInBetweenIsTakenOver) {
    const OutsideFlow flow(fabric_, 9000);
    int port = 0;
    node().close();
    // The maps are copied and not swapped yet: what programs write now is in the old ones only.
    const auto next = run_traced(&node().netns, next_layout(), 0, [&](const auto& change) {
        if (change == "renameat2") port = flow.round_trip();
        return false;
    });
    ASSERT_EQ(next.exit_code, 0) << next.output;
    ASSERT_GE(port, 61000);
    EXPECT_EQ(flow.round_trip(), port);
}

TEST_F(MigrationTest, AFlowThatBeginsAfterTheProcessDiedIsTakenOver) {
    const OutsideFlow flow(fabric_, 9000);
    node().close();
    bool swapped = false;
    const auto killed = run_traced(&node().netns, next_layout(), 0, [&](const auto& change) {
        if (change != "renameat2") return swapped;
        swapped = true;
        return false;
    });
    ASSERT_TRUE(killed.killed);
    EXPECT_EQ(map("nat").value_size, 24U);
    const int port = flow.round_trip();
    ASSERT_GE(port, 61000);
    const auto next = run_traced(&node().netns, next_layout(), 0);
    ASSERT_EQ(next.exit_code, 0) << next.output;
    EXPECT_TRUE(is_finished());
    EXPECT_EQ(flow.round_trip(), port);
}

TEST_F(MigrationTest, TheNextLayoutTakesOverUnderTraffic) {
    const PodTraffic traffic(fabric_.pod(1, 0).netns, fabric_.pod(2, 0).netns,
                             fabric_.pod(2, 0).ip4);
    const std::string before = contents();
    const auto old_settings = map("settings"), old_endpoints = map("endpoints");
    node().close();
    const auto next = run_traced(&node().netns, next_layout(16384), 0);
    ASSERT_EQ(next.exit_code, 0) << next.output;
    EXPECT_EQ(next.output, before);
    EXPECT_TRUE(is_gone(old_settings) && is_gone(old_endpoints)) << "a program uses them still";
    EXPECT_EQ(map("ipcache").value_size, 32U);
    EXPECT_TRUE(is_finished());
    traffic.wait_for_answers();

    // Back: what is newer is not understood, told, and left to work.
    const auto ipcache = map("ipcache");
    node().netns.run([&] {
        const auto older = datapath::BpfPods::open(node().options());
        ASSERT_FALSE(older);
        EXPECT_EQ(older.error().code(), Errc::kConflict);
        EXPECT_THAT(older.error().detail(), HasSubstr("Start the newer version again"));
    });
    EXPECT_EQ(map("ipcache").id, ipcache.id);
    traffic.wait_for_answers();
    const auto again = run_traced(&node().netns, next_layout(16384), 0);
    EXPECT_EQ(again.output, before);
    EXPECT_EQ(map("ipcache").id, ipcache.id);
    EXPECT_EQ(traffic.failures(), 0);
}

TEST_F(MigrationTest, KilledBeforeEveryStepItFinishesInTheEnd) {
    const PodTraffic traffic(fabric_.pod(1, 0).netns, fabric_.pod(2, 0).netns,
                             fabric_.pod(2, 0).ip4);
    const std::string before = contents();
    const auto old_endpoints = map("endpoints");
    node().close();
    // Each process finds what the one before left, and comes one step further.
    std::set<std::string> steps;
    int kills = 0;
    bool swapped = false;
    for (int at = 1;; ++at) {
        const auto run = run_traced(&node().netns, next_layout(), at);
        traffic.wait_for_answers(1);
        ASSERT_EQ(traffic.failures(), 0) << "killed before " << run.last << ", call " << at;
        if (!swapped && map("ipcache").value_size == 32) {
            swapped = true;
            at = 0;  // from here on a process has another way to go
        }
        if (run.killed) {
            ++kills;
            steps.insert(run.last);
            continue;
        }
        ASSERT_EQ(run.exit_code, 0) << run.output;
        EXPECT_EQ(run.output, before);
        break;
    }
    std::printf("killed %d times\n", kills);
    EXPECT_TRUE(swapped);
    EXPECT_THAT(steps, ::testing::IsSupersetOf(
                           {"mkdir", "pin", "map update", "renameat2", "netlink", "unlink"}));
    EXPECT_TRUE(is_finished());
    EXPECT_TRUE(is_gone(old_endpoints)) << "a program uses it still";
}

TEST_F(MigrationTest, TheOldBuildGoesOnAfterAMigrationThatDied) {
    const std::string before = contents();
    node().close();
    const auto ipcache = map("ipcache");
    int at = 1;
    for (;; ++at) {
        const auto run = run_traced(&node().netns, next_layout(), at);
        ASSERT_TRUE(run.killed);
        if (run.last == "renameat2") break;
    }
    EXPECT_FALSE(is_finished());
    node().open();
    EXPECT_EQ(contents(), before);
    EXPECT_EQ(map("ipcache").id, ipcache.id);
    EXPECT_TRUE(is_finished());
}

// ---- Services ----------------------------------------------------------------------------------

constexpr const char* kVip = "10.11.0.1";

std::vector<std::string> next_services(const std::string& most = "8192") {
    const auto options = node_options();
    return {MESH_NEXT_LAYOUT,      "services",     options.bpffs,
            options.pin_directory, options.cgroup, most};
}

std::string service_pin(const std::string& name) {
    return node_options().bpffs + "/cluster1/node1/maps/" + name;
}

/// Connects to the service until it goes; what fails is counted.
class Connects {
  public:
    explicit Connects(const Network& network) {
        thread_ = std::thread([this, &network] {
            network.client.run([&] {
                while (!stop_) {
                    const Socket socket(AF_INET, SOCK_STREAM);
                    if (socket.connect(kVip, 80) != 0 || socket.peer() != "10.11.0.1 80" ||
                        socket.receive().empty()) {
                        ++failures_;
                    }
                    ++count_;
                }
            });
        });
    }
    ~Connects() {
        stop_ = true;
        thread_.join();
    }
    void wait(int more) const {
        const int until = count_ + more;
        while (count_ < until) std::this_thread::yield();
    }
    [[nodiscard]] int failures() const { return failures_; }

  private:
    std::atomic<bool> stop_{false};
    std::atomic<int> count_{0}, failures_{0};
    std::thread thread_;
};

class ServiceMigrationTest : public ::testing::Test {
  protected:
    ServiceMigrationTest() {
        node_.upsert({service(frontend(kVip, 80, datapath::Protocol::kTcp),
                              {backend(1), backend(2), backend(3)}),
                      service(frontend(kVip, 81, datapath::Protocol::kTcp),
                              {backend(1), backend(2), backend(3), backend(4)}, 600),
                      service(frontend(kVip, 53, datapath::Protocol::kUdp),
                              {backend(1, datapath::Protocol::kUdp),
                               backend(2, datapath::Protocol::kUdp)})});
        before_ = contents_of(node_.datapath());
    }
    [[nodiscard]] static bool is_finished() {
        return !std::filesystem::exists(node_options().bpffs + "/cluster1/node1/next");
    }

    const Network network_;
    const EchoServer server_{network_};
    Node node_;
    std::string before_;
};

TEST_F(ServiceMigrationTest, OtherSizesKeepServicesFlowsAndSockets) {
    network_.client.run([&] {
        const Socket kept(AF_INET, SOCK_STREAM), unconnected(AF_INET, SOCK_DGRAM);
        ASSERT_EQ(kept.connect(kVip, 81), 0);
        const std::string chosen = kept.receive();
        ASSERT_EQ(unconnected.send_to("?", kVip, 53), 0);
        const std::string asked = unconnected.receive();
        const Connects connects(network_);
        node_.close();
        const auto sockets = facts_of(service_pin("sockets"));
        for (const auto& sizes : {datapath::TableSizes{100, 200, 300}, {9000, 200, 300000}}) {
            auto options = node_options();
            options.sizes = sizes;
            options.affinity_entries = 777;
            options.udp_flows = 555;
            {
                const auto opened = datapath::BpfDatapath::open(options);
                ASSERT_TRUE(opened) << opened.error().message();
                EXPECT_EQ(contents_of(**opened), before_);
                EXPECT_EQ((*opened)->occupancy().max_services, sizes.services - 1);
                EXPECT_TRUE(is_finished());
                connects.wait(20);
            }
            EXPECT_EQ(facts_of(service_pin("affinity")).max_entries, 777U);
            EXPECT_EQ(kept.peer(), "10.11.0.1 81");
            const Socket again(AF_INET, SOCK_STREAM);
            ASSERT_EQ(again.connect(kVip, 81), 0);
            EXPECT_EQ(again.receive(), chosen) << "affinity";
            std::string sender;
            ASSERT_EQ(unconnected.send_to("?", kVip, 53), 0);
            EXPECT_EQ(unconnected.receive_from(sender), asked);
            EXPECT_EQ(sender, "10.11.0.1 53");
        }
        EXPECT_EQ(facts_of(service_pin("sockets")).id, sockets.id);
        EXPECT_EQ(connects.failures(), 0);
    });
}

TEST_F(ServiceMigrationTest, ATableIsNotMadeSmallerThanTheIdsInUse) {
    node_.close();
    std::string warning;
    const Logger logger("datapath", [&](LogLevel level, std::string_view, std::string_view text) {
        if (level == LogLevel::kWarn) warning += std::string(text) + "\n";
    });
    auto options = node_options();
    options.sizes = {2, 65536, 131072};
    const auto opened = datapath::BpfDatapath::open(options, logger);
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_EQ(contents_of(**opened), before_);
    EXPECT_EQ((*opened)->occupancy().max_services, 8191U);
    EXPECT_THAT(warning, HasSubstr("keeps its 8192"));
}

TEST_F(ServiceMigrationTest, KilledBeforeEveryStepItFinishesInTheEnd) {
    const Connects connects(network_);
    node_.close();
    const auto old_backends = facts_of(service_pin("backends"));
    std::set<std::string> steps;
    int kills = 0;
    bool swapped = false;
    for (int at = 1;; ++at) {
        const auto run = run_traced(nullptr, next_services(), at);
        connects.wait(2);
        ASSERT_EQ(connects.failures(), 0) << "killed before " << run.last << ", call " << at;
        if (!swapped && facts_of(service_pin("backends")).value_size == 48) {
            swapped = true;
            at = 0;
        }
        if (run.killed) {
            ++kills;
            steps.insert(run.last);
            continue;
        }
        ASSERT_EQ(run.exit_code, 0) << run.output;
        EXPECT_EQ(run.output, before_);
        break;
    }
    std::printf("killed %d times\n", kills);
    EXPECT_TRUE(swapped);
    EXPECT_THAT(steps, ::testing::IsSupersetOf(
                           {"mkdir", "pin", "map update", "renameat2", "link", "unlink"}));
    EXPECT_TRUE(is_finished());
    EXPECT_TRUE(is_gone(old_backends)) << "a program uses it still";

    const auto older = datapath::BpfDatapath::open(node_options());
    ASSERT_FALSE(older);
    EXPECT_EQ(older.error().code(), Errc::kConflict);
    EXPECT_THAT(older.error().detail(), HasSubstr("Start the newer version again"));
    connects.wait(20);
    EXPECT_EQ(connects.failures(), 0);
}

}  // namespace
}  // namespace mesh::test
