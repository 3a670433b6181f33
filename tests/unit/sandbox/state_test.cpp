#include "sandbox/state.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "sandbox/process.hpp"

namespace mesh::sandbox {
namespace {

using model::IpAddress;
using model::IpPrefix;
using testing::HasSubstr;

class StateFiles : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "state_XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        paths_.folder = name;
    }
    void TearDown() override { std::filesystem::remove_all(paths_.folder); }
    Paths paths_;
};

State sample() {
    State state;
    state.name = "c1";
    state.cluster_id = 3;
    state.pod_cidrs = {IpPrefix::parse("10.10.0.0/16").value(),
                       IpPrefix::parse("fd00::/48").value()};
    state.service_cidrs = {IpPrefix::parse("10.11.0.0/16").value()};
    state.nodes = 2;
    state.slot = 4;
    state.etcd = "real";
    state.encryption = "wireguard";
    state.encryption_strict = true;
    state.wireguard_keys = {{"node1", "a2V5"}};
    state.complete = true;
    state.daemons.push_back(
        {"mesh-proxy", "node1", {"mesh-proxy", "--x", "a b"}, "/s", "/l", {42, 1ULL << 40}});
    state.objects.namespaces["default"] = {{"kind", "Namespace"}};
    state.objects.services[{"shop", "echo"}] = {{"kind", "Service"}};
    state.objects.slices[{"shop", "s"}] = {{"kind", "EndpointSlice"}};
    state.deployments[{"shop", "echo"}] = {{"kind", "Deployment"}};
    state.objects.policies[{"NetworkPolicy", "shop", "web"}] = {{"kind", "NetworkPolicy"}};
    Pod pod;
    pod.namespace_ = "shop";
    pod.name = "p";
    pod.node = "node2";
    pod.ips = {IpAddress::v4(10, 10, 1, 2), IpAddress::parse("fd00:0:0:1::2").value()};
    pod.manifest = {{"spec", boost::json::object{{"a", "\"\n"}}}};
    pod.owner = "echo";
    pod.uid = "c1-7";
    pod.phase = PodPhase::kFailed;
    pod.exit_code = 139;
    pod.message = "ended";
    state.objects.pods[{"shop", "p"}] = pod;
    state.cursors["pods/node1/4"] = 5;
    state.next_uid = 8;
    return state;
}

TEST_F(StateFiles, WhatIsSavedIsLoaded) {
    const State state = sample();
    ASSERT_TRUE(save_state(paths_, state));
    const State loaded = load_state(paths_).value();
    EXPECT_EQ(encode_state(loaded), encode_state(state));
    EXPECT_EQ(loaded.objects.pods.at({"shop", "p"}).exit_code, 139);
    EXPECT_EQ(loaded.objects.policies, state.objects.policies);
    EXPECT_EQ(loaded.daemons.at(0).process.start_time, 1ULL << 40);
    EXPECT_EQ(loaded.pod_cidrs, state.pod_cidrs);
    EXPECT_EQ(loaded.wireguard_keys, state.wireguard_keys);
    const auto nodes = nodes_of(loaded).value();
    EXPECT_EQ(nodes.at(0).wireguard_key, "a2V5");
    EXPECT_EQ(nodes.at(1).wireguard_key, "");
}

TEST_F(StateFiles, DamagedFileIsOneErrorThatNamesIt) {
    EXPECT_EQ(load_state(paths_).error().code(), Errc::kNotFound);
    const std::string whole = encode_state(sample());
    // Cut anywhere, and with each field of another type.
    for (std::size_t size = 0; size + 1 < whole.size(); size += 7) {
        EXPECT_EQ(decode_state(whole.substr(0, size)).error().code(), Errc::kCorrupt) << size;
    }
    const boost::json::object fields = boost::json::parse(whole).as_object();
    for (const auto& [key, value] : fields) {
        boost::json::object wrong = fields;
        wrong[key] = boost::json::array{nullptr};
        EXPECT_FALSE(decode_state(boost::json::serialize(wrong))) << std::string_view(key);
    }
    std::ofstream(paths_.state()) << "{";
    EXPECT_THAT(load_state(paths_).error().detail(), HasSubstr(paths_.state()));
}

TEST_F(StateFiles, LockExcludesAndEndsWithItsHolder) {
    EXPECT_EQ(FileLock::acquire(paths_.lock(), false).error().code(), Errc::kNotFound);
    int held[2];
    ASSERT_EQ(::pipe(held), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const auto lock = FileLock::acquire(paths_.lock(), true);
        (void)!::write(held[1], "x", 1);
        ::pause();
        ::_exit(lock ? 0 : 1);
    }
    char byte = 0;
    ASSERT_EQ(::read(held[0], &byte, 1), 1);
    const pid_t waiter = ::fork();
    if (waiter == 0) {
        const auto lock = FileLock::acquire(paths_.lock(), false);
        (void)!::write(held[1], "y", 1);
        ::_exit(lock ? 0 : 1);
    }
    ::kill(child, SIGKILL);
    ASSERT_EQ(::read(held[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'y');
    int status = 0;
    ::waitpid(child, &status, 0);
    ::waitpid(waiter, &status, 0);
    EXPECT_EQ(status, 0);
    ::close(held[0]);
    ::close(held[1]);
}

TEST_F(StateFiles, ProcessesStartReportAndAreToldApart) {
    ProcessSpec spec;
    spec.argv = {"sh", "-c", "echo out; echo err >&2; exec sleep 1000"};
    spec.environment = {"PATH=/usr/bin:/bin"};
    spec.log_file = paths_.folder + "/log";
    const ProcessId process = start_process(spec).value();
    EXPECT_TRUE(is_running(process));
    EXPECT_FALSE(is_running({process.pid, process.start_time + 1}));
    EXPECT_FALSE(signal_process({process.pid, process.start_time + 1}, SIGKILL));
    EXPECT_TRUE(signal_process(process, SIGKILL));
    int status = 0;
    ASSERT_EQ(::waitpid(process.pid, &status, 0), process.pid);
    EXPECT_FALSE(is_running(process));

    spec.argv = {"no-such-program"};
    EXPECT_EQ(start_process(spec).error().code(), Errc::kNotFound);
    spec.argv = {"sh"};
    spec.netns = "no-such-namespace";
    const auto refused = start_process(spec);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kNotFound);
    EXPECT_THAT(refused.error().detail(), HasSubstr("no-such-namespace"));
}

TEST_F(StateFiles, LastLines) {
    const std::string path = paths_.folder + "/log";
    EXPECT_EQ(last_lines(path, 3), "");
    std::ofstream(path) << "1\n2\n3\n4\n";
    EXPECT_EQ(last_lines(path, 2), "3\n4");
    EXPECT_EQ(last_lines(path, 9), "1\n2\n3\n4");
    std::ofstream(path) << std::string(10000, 'x') << "\nlast\n";
    EXPECT_EQ(last_lines(path, 1), "last");
    EXPECT_LE(last_lines(path, 9).size(), 4096U);
}

}  // namespace
}  // namespace mesh::sandbox
