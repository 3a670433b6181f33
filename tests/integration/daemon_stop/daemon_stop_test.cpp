// SIGTERM at several moments after the start, which for each daemon is a time of lists, of watches
// that are only being made and of retries: each ends in order, with exit code 0.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "etcd_process.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"

namespace mesh {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;
using test::EtcdOptions;
using test::EtcdProcess;
using Words = std::vector<std::string>;

class DaemonStopTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
        etcd_ = std::make_unique<EtcdProcess>(folder_, EtcdOptions{});
        ASSERT_TRUE(until([&] {
            return test::run_command(
                       {"etcdctl", "--endpoints=" + etcd_->endpoint(), "endpoint", "health"},
                       folder_, {{"ETCDCTL_API", "3"}})
                       .first == 0;
        }));
        write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
        // Of two remotes one answers, and one does not.
        for (const char* name : {"remotes", "manifests"})
            std::filesystem::create_directory(folder_.file(name));
        write("remotes/c2", "endpoints:\n- " + etcd_->endpoint() + "\n");
        write("remotes/c3",
              "endpoints:\n- http://127.0.0.1:" + std::to_string(test::free_port()) + "\n");
    }

    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    template <class Condition>
    static bool until(Condition condition) {
        const auto end = std::chrono::steady_clock::now() + 30s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() >= end) return false;
            std::this_thread::sleep_for(2ms);
        }
        return true;
    }

    /// Starts it, waits until it works (its status socket is there) and then `delay` more.
    void expect_orderly_stop(const Words& command) {
        int run = 0;
        for (const auto delay : {0ms, 150ms, 300ms, 600ms}) {
            const std::string name = std::to_string(++run);
            const std::string socket = folder_.file("status-" + name + ".sock");
            const std::string log = folder_.file("daemon-" + name + ".log");
            Words words = command;
            words.push_back("--status-socket=" + socket);
            ChildProcess daemon(words, log);
            ASSERT_TRUE(until([&] { return std::filesystem::exists(socket); }))
                << test::read_text(log);
            std::this_thread::sleep_for(delay);
            EXPECT_EQ(daemon.stop(SIGTERM), 0) << "SIGTERM after " << delay.count() << " ms:\n"
                                               << test::read_text(log);
        }
    }

    test::TemporaryFolder folder_;
    std::unique_ptr<EtcdProcess> etcd_;
};

TEST_F(DaemonStopTest, ProxyThatMirrors) {
    const WallTime now = SystemClock().wall_now();
    const auto ca = pki::Authority::make("mesh ca", 48h, now - 24h);
    const auto pair = ca->issue(pki::server_request(), now);
    write("ca.crt", ca->certificate());
    write("server.crt", pair->certificate);
    write("server.key", pair->private_key);
    expect_orderly_stop({MESH_PROXY, "--cluster-name=c1", "--cluster-id=1",
                         "--etcd-config=" + folder_.file("etcd.yaml"),
                         "--listen-remote=127.0.0.1:0", "--tls-ca=" + folder_.file("ca.crt"),
                         "--tls-cert=" + folder_.file("server.crt"),
                         "--tls-key=" + folder_.file("server.key")});
}

TEST_F(DaemonStopTest, Agent) {
    expect_orderly_stop({MESH_AGENT, "--cluster-name=c1", "--cluster-id=1", "--node-name=n1",
                         "--etcd-config=" + folder_.file("etcd.yaml"),
                         "--clustermesh-config=" + folder_.file("remotes"), "--datapath=memory"});
}

// --datapath auto, the default: a machine that does not give the kernel's is told of once.
TEST_F(DaemonStopTest, AgentThatFallsBackToMemory) {
    const Words agent{MESH_AGENT,
                      "--cluster-name=c1",
                      "--cluster-id=1",
                      "--node-name=n1",
                      "--etcd-config=" + folder_.file("etcd.yaml"),
                      "--clustermesh-config=" + folder_.file("remotes"),
                      "--routing-mode=tunnel",
                      "--endpoints=" + folder_.file("endpoints")};
    const auto expect_told_once = [&](const char* why) {
        const std::string log = test::read_text(folder_.file("daemon-1.log"));
        EXPECT_NE(log.find(why), std::string::npos) << log;
        const auto told = log.find("kept in memory");
        ASSERT_NE(told, std::string::npos) << log;
        EXPECT_EQ(log.find("kept in memory", told + 1), std::string::npos) << log;
        std::filesystem::remove(folder_.file("daemon-1.log"));
    };
    expect_orderly_stop(agent);
    expect_told_once("no --cgroup");

    // A user namespace takes the rights away.
    const std::string cgroup =
        test::run_command({"findmnt", "-nfo", "TARGET", "-t", "cgroup2"}, folder_).second;
    if (cgroup.empty() || test::run_command({"unshare", "--user", "true"}, folder_).first != 0) {
        GTEST_SKIP() << "needs a cgroup v2 mount and user namespaces";
    }
    Words forbidden{"unshare", "--user"};
    forbidden.insert(forbidden.end(), agent.begin(), agent.end());
    forbidden.push_back("--cgroup=" + cgroup.substr(0, cgroup.find('\n')));
    forbidden.push_back("--bpffs=" + folder_.file("bpffs"));
    expect_orderly_stop(forbidden);
    expect_told_once("ermi");
}

TEST_F(DaemonStopTest, Operator) {
    expect_orderly_stop({MESH_OPERATOR, "--cluster-name=c1", "--cluster-id=1",
                         "--etcd-config=" + folder_.file("etcd.yaml"),
                         "--manifests=" + folder_.file("manifests")});
}

}  // namespace
}  // namespace mesh
