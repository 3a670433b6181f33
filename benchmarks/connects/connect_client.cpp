// New TCP connections, one after the other: how many a second. scripts/bench makes the namespaces
// and puts the ways beside each other.
//
//   connect_client program --services N ...   writes N services of ten backends and leaves them in
//   the
//                                             kernel, on the cgroup
//   connect_client teardown ...               takes them away
//   connect_client serve                      accepts and closes; says "ready"
//   connect_client direct --seconds S         connects to the backends by their own addresses
//   connect_client services --services N --from F --seconds S [--cgroup C]
//                                             connects to services, any of N after the first F; in
//                                             that cgroup
//   connect_client cost --services N --cgroup C ...
//                                             the same with the kernel's run time statistics: ns
//                                             for each run of each program
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/bpf.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "datapath/bpf/bpf_datapath.hpp"

namespace {

using namespace mesh::datapath;  // NOLINT: a benchmark of this namespace
using mesh::model::IpAddress;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kBackends = 10;
constexpr std::uint16_t kBackendPort = 8080;
constexpr std::uint16_t kServicePort = 80;

struct Options {
    std::uint32_t services = 1, from = 0;
    double seconds = 1;
    std::string cgroup, bpffs = "/sys/fs/bpf", pin;
};

[[noreturn]] void die(const std::string& text) {
    std::cerr << "connect_client: " << text << "\n";
    std::exit(1);
}
void must(bool ok, const std::string& what) {
    if (!ok) die(what + ": " + std::strerror(errno));
}

/// 10.10.0.1 and so on.
std::uint32_t backend_address(std::uint32_t n) {
    return 0x0a0a0001U + n;
}
/// 10.96.0.1 and so on, as the nftables rules of scripts/bench count them.
std::uint32_t service_address(std::uint32_t n) {
    return 0x0a600001U + n;
}

BpfOptions datapath_options(const Options& options) {
    BpfOptions to;
    to.bpffs = options.bpffs;
    to.pin_directory = options.pin;
    to.cgroup = options.cgroup;
    to.sizes = {16'384, 131'072, 262'144};
    return to;
}

/// Even backends are of the own cluster, odd ones of another: a global service.
int program(const Options& options) {
    auto opened = BpfDatapath::open(datapath_options(options));
    if (!opened) die(opened.error().message());
    std::vector<ServiceChange> changes;
    for (std::uint32_t n = 0; n < options.services; ++n) {
        ServiceRow row{{IpAddress::v4(service_address(n)), kServicePort, Protocol::kTcp},
                       "default/service" + std::to_string(n),
                       0,
                       {}};
        for (std::uint32_t b = 0; b < kBackends; ++b) {
            Backend backend;
            backend.address = IpAddress::v4(backend_address(b));
            backend.port = kBackendPort;
            backend.cluster_id = 1 + b % 2;
            row.backends.push_back(backend);
        }
        changes.push_back(ServiceChange::upsert(std::move(row)));
    }
    const auto stats = (*opened)->apply(changes);
    if (!stats) die(stats.error().message());
    if (!stats->rejected.empty()) die("a service found no room");
    return 0;
}

int teardown(const Options& options) {
    const auto done = BpfDatapath::teardown(datapath_options(options));
    if (!done) die(done.error().message());
    return 0;
}

int serve() {
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(kBackendPort);
    must(bind(listener, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0, "bind");
    must(listen(listener, 4096) == 0, "listen");
    std::cout << "ready" << std::endl;
    for (;;) {
        const int accepted = accept(listener, nullptr, nullptr);
        if (accepted >= 0) close(accepted);
    }
}

void enter(const std::string& cgroup) {
    if (cgroup.empty()) return;
    std::ofstream out(cgroup + "/cgroup.procs");
    out << getpid() << std::flush;
    if (!out) die(cgroup + ": cannot enter the cgroup");
}

/// Connects until the time is up. @return connects per second
double connect_for(double seconds, std::uint32_t base, std::uint32_t count, std::uint16_t port) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    // A reset at close, so that no port is kept busy.
    const linger hard{1, 0};
    std::uint32_t random = 2'463'534'242;
    std::uint64_t connects = 0;
    const auto begin = Clock::now();
    const auto end = begin + std::chrono::duration<double>(seconds);
    auto now = begin;
    while (now < end) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        to.sin_addr.s_addr = htonl(base + random % count);
        const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        must(connect(s, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0, "connect");
        close(s);
        ++connects;
        now = Clock::now();
    }
    return static_cast<double>(connects) / std::chrono::duration<double>(now - begin).count();
}

// ---- run time statistics ----

bpf_prog_info info_of(std::uint32_t id) {
    const int fd = bpf_prog_get_fd_by_id(id);
    must(fd >= 0, "program");
    bpf_prog_info info{};
    std::uint32_t length = sizeof info;
    must(bpf_obj_get_info_by_fd(fd, &info, &length) == 0, "program");
    close(fd);
    return info;
}

std::vector<std::uint32_t> programs_of(const std::string& links) {
    std::vector<std::uint32_t> ids;
    for (const auto& entry : std::filesystem::directory_iterator(links)) {
        const int fd = bpf_obj_get(entry.path().c_str());
        must(fd >= 0, entry.path());
        bpf_link_info info{};
        std::uint32_t length = sizeof info;
        must(bpf_obj_get_info_by_fd(fd, &info, &length) == 0, entry.path());
        close(fd);
        ids.push_back(info.prog_id);
    }
    return ids;
}

/// A program that does nothing, on the same hook: what the statistics cost by themselves.
class EmptyProgram {
  public:
    explicit EmptyProgram(const std::string& cgroup) {
        const bpf_insn code[] = {
            {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 1},
            {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
        bpf_prog_load_opts options{};
        options.sz = sizeof options;
        options.expected_attach_type = BPF_CGROUP_INET4_CONNECT;
        program_ = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "empty", "GPL", code, 2, &options);
        must(program_ >= 0, "empty program");
        const int directory = ::open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        must(directory >= 0, cgroup);
        link_ = bpf_link_create(program_, directory, BPF_CGROUP_INET4_CONNECT, nullptr);
        must(link_ >= 0, "attach");
        close(directory);
    }
    ~EmptyProgram() {
        close(link_);
        close(program_);
    }
    EmptyProgram(const EmptyProgram&) = delete;
    EmptyProgram& operator=(const EmptyProgram&) = delete;
    [[nodiscard]] std::uint32_t id() const {
        bpf_prog_info info{};
        std::uint32_t length = sizeof info;
        must(bpf_obj_get_info_by_fd(program_, &info, &length) == 0, "empty program");
        return info.id;
    }

  private:
    int program_ = -1, link_ = -1;
};

int cost(const Options& options) {
    const EmptyProgram empty(options.cgroup);
    auto ids = programs_of(options.bpffs + "/" + options.pin + "/links");
    ids.push_back(empty.id());
    enter(options.cgroup);
    const int stats = bpf_enable_stats(BPF_STATS_RUN_TIME);
    must(stats >= 0, "run time statistics");
    // Of several short rounds the best: others may run in between.
    constexpr int kRounds = 10;
    std::vector<double> best(ids.size(), 0);
    std::vector<std::uint64_t> runs(ids.size(), 0);
    for (int round = 0; round < kRounds; ++round) {
        std::vector<bpf_prog_info> before;
        for (const auto id : ids) before.push_back(info_of(id));
        (void)connect_for(options.seconds / kRounds, service_address(options.from),
                          options.services, kServicePort);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            const bpf_prog_info after = info_of(ids[i]);
            const std::uint64_t count = after.run_cnt - before[i].run_cnt;
            if (count == 0) continue;
            const double ns = static_cast<double>(after.run_time_ns - before[i].run_time_ns) /
                              static_cast<double>(count);
            best[i] = runs[i] == 0 ? ns : std::min(best[i], ns);
            runs[i] += count;
        }
    }
    bool first = true;
    fmt::print("{{");
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (runs[i] == 0) continue;
        fmt::print("{}\"{}\":{{\"ns\":{:.1f},\"runs\":{}}}", first ? "" : ",", info_of(ids[i]).name,
                   best[i], runs[i]);
        first = false;
    }
    fmt::print("}}\n");
    close(stats);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("New connections, directly and through services");
    app.require_subcommand(1);
    int code = 0;
    const auto add = [&](const char* name, auto run) {
        CLI::App* command = app.add_subcommand(name);
        command->add_option("--services", options.services)->check(CLI::Range(1, 16'000));
        command->add_option("--from", options.from);
        command->add_option("--seconds", options.seconds);
        command->add_option("--cgroup", options.cgroup);
        command->add_option("--bpffs", options.bpffs);
        command->add_option("--pin", options.pin);
        command->callback([&code, run] { code = run(); });
    };
    const auto rate = [&](std::uint32_t base, std::uint32_t count, std::uint16_t port) {
        enter(options.cgroup);
        fmt::print("{:.1f}\n", connect_for(options.seconds, base, count, port));
        return 0;
    };
    add("program", [&] { return program(options); });
    add("teardown", [&] { return teardown(options); });
    add("serve", [] { return serve(); });
    add("direct", [&] { return rate(backend_address(0), kBackends, kBackendPort); });
    add("services",
        [&] { return rate(service_address(options.from), options.services, kServicePort); });
    add("cost", [&] { return cost(options); });
    CLI11_PARSE(app, argc, argv);
    return code;
}
