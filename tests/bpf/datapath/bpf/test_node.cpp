#include "test_node.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>

namespace mesh::test {
namespace {

Place the_place;

void check(bool ok, const std::string& what) {
    if (!ok) throw std::runtime_error(what + ": " + std::generic_category().message(errno));
}

}  // namespace

const Place& place() {
    return the_place;
}
void set_place(Place place) {
    the_place = std::move(place);
}

Netns::Netns() {
    int ready[2];
    check(::pipe2(ready, O_CLOEXEC) == 0, "pipe");
    holder_ = ::fork();
    check(holder_ >= 0, "fork");
    if (holder_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        const char ok = ::unshare(CLONE_NEWNET) == 0 ? '1' : '0';
        if (::write(ready[1], &ok, 1) != 1) ::_exit(1);
        // Nothing that the test holds open, a lock for one, is to live as long as this process.
        ::close_range(0, ~0U, 0);
        for (;;) ::pause();
    }
    ::close(ready[1]);
    char ok = '0';
    const bool got = ::read(ready[0], &ok, 1) == 1;
    ::close(ready[0]);
    check(got && ok == '1', "cannot make a network namespace");
}

Netns::~Netns() {
    ::kill(holder_, SIGKILL);
    ::waitpid(holder_, nullptr, 0);
}

void Netns::run(const std::function<void()>& function) const {
    std::exception_ptr failure;
    std::thread([&] {
        try {
            const int fd = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);
            check(fd >= 0 && ::setns(fd, CLONE_NEWNET) == 0, path());
            ::close(fd);
            function();
        } catch (...) {
            failure = std::current_exception();
        }
    }).join();
    if (failure) std::rethrow_exception(failure);
}

void Netns::ip(const std::string& arguments) const {
    run([&] {
        const std::string command = "ip " + arguments;
        check(std::system(command.c_str()) == 0, command);
    });
}

Network::Network() {
    client.ip("link add c0 type veth peer name s0 netns " + std::to_string(server.holder()));
    server.ip("link set lo up");
    client.ip("link set lo up");
    client.ip("addr add 10.30.0.1/24 dev c0");
    server.ip("addr add 10.30.0.2/24 dev s0");
    client.ip("addr add fd30::1/64 dev c0 nodad");
    server.ip("addr add fd30::2/64 dev s0 nodad");
    client.ip("link set c0 up");
    server.ip("link set s0 up");
    for (int n = 1; n <= 8; ++n) {
        server.ip("addr add 10.10.0." + std::to_string(n) + "/32 dev lo");
        server.ip("addr add fd10::" + std::to_string(n) + "/128 dev lo nodad");
    }
    client.ip("route add 10.10.0.0/16 via 10.30.0.2");
    client.ip("-6 route add fd10::/64 via fd30::2");
}

datapath::BpfOptions node_options() {
    datapath::BpfOptions options;
    options.bpffs = place().directory + "/bpf";
    options.pin_directory = "cluster1/node1";
    options.cgroup = place().cgroup;
    options.sizes = {8192, 65536, 131072};
    return options;
}

model::IpAddress address(std::string_view text) {
    return *model::IpAddress::parse(text);
}

datapath::ServiceFrontend frontend(std::string_view ip, std::uint16_t port,
                                   datapath::Protocol proto) {
    return {address(ip), port, proto};
}

datapath::Backend backend(int n, datapath::Protocol proto, bool v6, std::uint16_t weight) {
    datapath::Backend b;
    b.address = address((v6 ? "fd10::" : "10.10.0.") + std::to_string(n));
    b.port = 8080;
    b.proto = proto;
    b.cluster_id = static_cast<std::uint32_t>(1 + n % 2);
    b.weight = weight;
    return b;
}

datapath::ServiceRow service(const datapath::ServiceFrontend& frontend,
                             std::vector<datapath::Backend> backends,
                             std::uint32_t affinity_seconds) {
    return {frontend, "default/test", affinity_seconds, std::move(backends)};
}

Node::Node() {
    reopen();
}

void Node::reopen() {
    auto opened = datapath::BpfDatapath::open(node_options());
    if (!opened) throw std::runtime_error(opened.error().message());
    datapath_ = *std::move(opened);
}

Node::~Node() {
    datapath_.reset();
    const auto options = node_options();
    const auto gone = datapath::BpfDatapath::teardown(options);
    EXPECT_TRUE(gone) << gone.error().message();
    EXPECT_FALSE(std::filesystem::exists(options.bpffs + "/cluster1"));
}

datapath::ApplyStats Node::upsert(std::vector<datapath::ServiceRow> rows) {
    std::vector<datapath::ServiceChange> changes;
    for (auto& row : rows) changes.push_back(datapath::ServiceChange::upsert(std::move(row)));
    auto stats = datapath_->apply(changes);
    if (!stats) throw std::runtime_error(stats.error().message());
    for (const auto& refused : stats->rejected) ADD_FAILURE() << refused.error.message();
    return *stats;
}

void Node::remove(const datapath::ServiceFrontend& frontend) {
    const std::vector<datapath::ServiceChange> changes{datapath::ServiceChange::remove(frontend)};
    const auto stats = datapath_->apply(changes);
    if (!stats) throw std::runtime_error(stats.error().message());
}

}  // namespace mesh::test
