// Restarts: the kernel goes on serving, the successor takes over what it finds.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "datapath/bpf/bpf_pods.hpp"
#include "echo_server.hpp"

namespace mesh::test {

/// --writer <cgroup> <directory>: adopts, prints "<service id> <services>", then updates for ever.
int writer_main(int argc, char** argv) {
    if (argc != 4) return 2;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_place({argv[2], argv[3], argv[0]});
    auto opened = datapath::BpfDatapath::open(node_options());
    if (!opened) {
        std::fprintf(stderr, "%s\n", opened.error().message().c_str());
        return 1;
    }
    auto& path = **opened;
    const auto front = frontend("10.11.0.1", 80, datapath::Protocol::kTcp);
    const auto found = path.find(front);
    std::printf("%u %lu\n", found ? found->id : 0,
                static_cast<unsigned long>(path.adopted().services));
    std::fflush(stdout);
    for (int round = 0;; ++round) {
        std::vector<datapath::ServiceChange> changes;
        changes.push_back(datapath::ServiceChange::upsert(
            service(front, {backend(1 + round % 8), backend(1 + (round + 1) % 8)})));
        for (int n = 2; n < 20; ++n) {
            const auto other =
                frontend("10.11.0." + std::to_string(n), 80, datapath::Protocol::kTcp);
            changes.push_back((round + n) % 3 == 0 ? datapath::ServiceChange::remove(other)
                                                   : datapath::ServiceChange::upsert(service(
                                                         other, {backend(1 + (round + n) % 8)})));
        }
        if (!path.apply(changes)) return 1;
        if (round == 20 && !path.finish_adopt()) return 1;
    }
}

namespace {

using datapath::Protocol;

constexpr const char* kVip = "10.11.0.1";

class Writer {
  public:
    Writer() {
        int out[2];
        if (::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
        pid_ = ::fork();
        if (pid_ == 0) {
            ::dup2(out[1], STDOUT_FILENO);
            ::execl(place().program.c_str(), "datapath_bpf_test", "--writer",
                    place().cgroup.c_str(), place().directory.c_str(), nullptr);
            ::_exit(127);
        }
        ::close(out[1]);
        FILE* lines = ::fdopen(out[0], "r");
        ready_ = std::fscanf(lines, "%u %lu", &service_id_, &adopted_) == 2;
        std::fclose(lines);
    }
    ~Writer() { kill(); }
    void kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }
    [[nodiscard]] bool ready() const { return ready_; }
    [[nodiscard]] unsigned service_id() const { return service_id_; }
    [[nodiscard]] unsigned long adopted() const { return adopted_; }

  private:
    pid_t pid_ = -1;
    bool ready_ = false;
    unsigned service_id_ = 0;
    unsigned long adopted_ = 0;
};

TEST(AdoptionTest, KilledWritersAndTheirSuccessorsFailNoConnect) {
    const Network network;
    const EchoServer server(network);
    Node node;
    const auto front = frontend(kVip, 80, Protocol::kTcp);
    node.upsert({service(front, {backend(1), backend(2)})});
    const auto id = node.datapath().find(front)->id;
    node.close();

    std::atomic<bool> stop{false};
    std::atomic<int> connects{0}, failed{0};
    std::thread client([&] {
        network.client.run([&] {
            while (!stop) {
                const Socket socket(AF_INET, SOCK_STREAM);
                if (socket.connect(kVip, 80) != 0 || socket.peer() != "10.11.0.1 80" ||
                    socket.receive().empty()) {
                    ++failed;
                }
                ++connects;
            }
        });
    });
    for (int round = 0; round < 15; ++round) {
        Writer writer;
        EXPECT_TRUE(writer.ready());
        EXPECT_EQ(writer.service_id(), id);
        EXPECT_GE(writer.adopted(), 1U);
        const int before = connects;
        std::this_thread::sleep_for(std::chrono::milliseconds(20 + round * 7));
        while (connects < before + 20) std::this_thread::yield();
        writer.kill();
    }
    stop = true;
    client.join();
    std::printf("15 writers killed, %d connects\n", connects.load());
    EXPECT_EQ(failed, 0);

    node.reopen();
    EXPECT_EQ(node.datapath().adopted().repaired, 0U);
    EXPECT_EQ(node.datapath().find(front)->id, id);
    node.upsert({service(front, {backend(3)})});
    ASSERT_TRUE(node.datapath().finish_adopt());
    EXPECT_EQ(node.datapath().dump().size(), 1U);
    EXPECT_EQ(node.datapath().occupancy().backends, 1U);
    EXPECT_EQ(node.datapath().occupancy().slots, 1U);
    network.client.run([] {
        const Socket socket(AF_INET, SOCK_STREAM);
        ASSERT_EQ(socket.connect(kVip, 80), 0);
        EXPECT_EQ(socket.receive(), "10.10.0.3");
    });
}

TEST(AdoptionTest, FlowsAndCountersOutliveTheProcess) {
    const Network network;
    const EchoServer server(network);
    Node node;
    const auto tcp = frontend(kVip, 80, Protocol::kTcp);
    const auto udp = frontend(kVip, 53, Protocol::kUdp);
    const std::vector<datapath::ServiceRow> rows{
        service(tcp, {backend(1), backend(2), backend(3), backend(4)}, 600),
        service(udp, {backend(1, Protocol::kUdp), backend(2, Protocol::kUdp)})};
    node.upsert(rows);
    network.client.run([&] {
        const Socket connected(AF_INET, SOCK_DGRAM);
        const Socket unconnected(AF_INET, SOCK_DGRAM);
        const Socket first(AF_INET, SOCK_STREAM);
        ASSERT_EQ(connected.connect(kVip, 53), 0);
        ASSERT_EQ(unconnected.send_to("?", kVip, 53), 0);
        const std::string asked = unconnected.receive();
        ASSERT_EQ(first.connect(kVip, 80), 0);
        const std::string chosen = first.receive();

        node.close();
        EXPECT_EQ(first.peer(), "10.11.0.1 80");
        node.reopen();
        node.upsert(rows);
        ASSERT_TRUE(node.datapath().finish_adopt());

        EXPECT_EQ(first.peer(), "10.11.0.1 80");
        EXPECT_EQ(connected.peer(), "10.11.0.1 53");
        std::string sender;
        ASSERT_EQ(connected.send("?"), 0);
        EXPECT_NE(connected.receive_from(sender), "");
        EXPECT_EQ(sender, "10.11.0.1 53");
        ASSERT_EQ(unconnected.send_to("?", kVip, 53), 0);
        EXPECT_EQ(unconnected.receive_from(sender), asked);
        EXPECT_EQ(sender, "10.11.0.1 53");
        const Socket second(AF_INET, SOCK_STREAM);
        ASSERT_EQ(second.connect(kVip, 80), 0);
        EXPECT_EQ(second.receive(), chosen);
        const std::vector<std::string> namespaces{network.client.path()};
        EXPECT_EQ(node.datapath().end_stale_sockets(namespaces, true)->sockets_ended, 0U);
    });
    std::uint64_t total = 0;
    for (const auto& [cluster, n] : node.datapath().counters().connects_by_cluster) total += n;
    EXPECT_EQ(total, 4U);
}

TEST(AdoptionTest, OneWriterPerNode) {
    Node node;
    const auto second = datapath::BpfDatapath::open(node_options());
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), Errc::kConflict);
    const auto teardown = datapath::BpfDatapath::teardown(node_options());
    ASSERT_FALSE(teardown);
    EXPECT_EQ(teardown.error().code(), Errc::kConflict);
}

TEST(AdoptionTest, ANewCgroupIsAttachedAndTheOldOneLeft) {
    const Network network;
    const EchoServer server(network);
    Node node;
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)})});
    node.close();
    auto options = node_options();
    options.cgroup = place().cgroup + "/other";
    ASSERT_EQ(::mkdir(options.cgroup.c_str(), 0755), 0);
    const auto connect = [] {
        const Socket socket(AF_INET, SOCK_STREAM);
        return socket.connect(kVip, 80);
    };
    {
        const auto opened = datapath::BpfDatapath::open(options);
        ASSERT_TRUE(opened) << opened.error().message();
        network.client.run([&] { EXPECT_EQ(connect(), -ENETUNREACH); });
        // The cgroup goes while programs are attached; the next start finds a link that is dead.
        ASSERT_EQ(::rmdir(options.cgroup.c_str()), 0);
    }
    node.reopen();
    EXPECT_EQ(node.datapath().adopted().services, 1U);
    network.client.run([&] { EXPECT_EQ(connect(), 0); });
}

TEST(AdoptionTest, BadOptionsAreNamed) {
    auto options = node_options();
    options.cgroup = "/tmp";
    auto opened = datapath::BpfDatapath::open(options);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(opened.error().detail(), ::testing::HasSubstr("cgroup \"/tmp\""));
    options.cgroup = place().cgroup;
    for (const char* name : {"", "/x", "x/", "a.b", "../x", "a//b"}) {
        options.pin_directory = name;
        opened = datapath::BpfDatapath::open(options);
        ASSERT_FALSE(opened) << name;
        EXPECT_EQ(opened.error().code(), Errc::kInvalidArgument) << name;
    }
    ASSERT_TRUE(datapath::BpfDatapath::teardown(node_options()));
    ASSERT_TRUE(datapath::BpfDatapath::teardown(node_options()));  // nothing is fine, too
}

TEST(AdoptionTest, AFailedStartLeavesNothing) {
    auto options = node_options();
    const std::string pins = options.bpffs + "/cluster1";
    options.cgroup = "/tmp";
    EXPECT_FALSE(datapath::BpfDatapath::open(options));
    EXPECT_FALSE(std::filesystem::exists(pins));
    options = node_options();
    options.sizes.backends = 0xffffffff;  // after other maps were made
    EXPECT_FALSE(datapath::BpfDatapath::open(options));
    EXPECT_FALSE(std::filesystem::exists(pins));
    datapath::BpfPodsOptions pods;
    pods.bpffs = options.bpffs;
    pods.pin_directory = "cluster1/node1_pods";
    pods.max_nat = 0xffffffff;
    EXPECT_FALSE(datapath::BpfPods::open(pods));
    EXPECT_FALSE(std::filesystem::exists(pins));

    // What was there before stays.
    Node node;
    node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)})});
    EXPECT_TRUE(node.datapath().made_tables());
    node.close();
    options = node_options();
    options.cgroup = "/tmp";
    EXPECT_FALSE(datapath::BpfDatapath::open(options));
    node.reopen();
    EXPECT_FALSE(node.datapath().made_tables());
    EXPECT_EQ(node.datapath().adopted().services, 1U);
}

TEST(AdoptionTest, APartlyMadeSetOfMapsIsMadeAnew) {
    const auto options = node_options();
    Node node;
    node.close();
    // As if the process had died after pinning some maps: no meta, no links.
    for (const auto& link :
         std::filesystem::directory_iterator(options.bpffs + "/cluster1/node1/links")) {
        ::unlink(link.path().c_str());
    }
    ::unlink((options.bpffs + "/cluster1/node1/maps/meta").c_str());
    node.reopen();
    EXPECT_EQ(node.datapath().adopted().services, 0U);
}

TEST(AdoptionTest, TeardownEndsTheServices) {
    const Network network;
    const EchoServer server(network);
    const auto connect = [] {
        const Socket socket(AF_INET, SOCK_STREAM);
        return socket.connect(kVip, 80);
    };
    {
        Node node;
        node.upsert({service(frontend(kVip, 80, Protocol::kTcp), {backend(1)})});
        network.client.run([&] { EXPECT_EQ(connect(), 0); });
        node.close();
        network.client.run([&] { EXPECT_EQ(connect(), 0); });
    }
    network.client.run([&] { EXPECT_EQ(connect(), -ENETUNREACH); });
}

}  // namespace
}  // namespace mesh::test
