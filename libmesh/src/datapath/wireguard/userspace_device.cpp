#include "datapath/wireguard/userspace_device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <climits>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <system_error>

#include "datapath/netlink/rtnetlink.hpp"
#include "datapath/wireguard/pidfd.hpp"
#include "datapath/wireguard/uapi.hpp"
#include "datapath/wireguard/uapi_socket.hpp"

namespace mesh::datapath {
namespace {

constexpr int kTurnMs = 5;         // between two looks at a starting process
constexpr int kStartTurns = 2000;  // 10 s
constexpr int kStopMs = 5000;

std::optional<std::string> find_program(const std::string& name) {
    if (name.find('/') != std::string::npos) {
        return ::access(name.c_str(), X_OK) == 0 ? std::optional(name) : std::nullopt;
    }
    // Where Debian and an administrator put it; PATH of a daemon may be anything.
    for (const char* folder : {"/usr/local/bin/", "/usr/bin/", "/usr/sbin/"}) {
        const std::string candidate = folder + name;
        if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    }
    return std::nullopt;
}

std::string path_in(const WireguardDeviceOptions& options) {
    return fmt::format("{}/{}.sock", options.socket_directory, options.name);
}

bool wait_for_end(const Fd& process, int timeout_ms) {
    pollfd end{process.get(), POLLIN, 0};
    int got = 0;
    do {
        got = ::poll(&end, 1, timeout_ms);
    } while (got < 0 && errno == EINTR);
    return got > 0;
}

// Ours to reap only if this process started it; otherwise there is nothing to do.
void reap(const Fd& process) {
    siginfo_t info{};
    (void)::waitid(P_PIDFD, static_cast<id_t>(process.get()), &info, WEXITED | WNOHANG);
}

// The end of a log file, on one line.
std::string end_of(const std::string& path) {
    constexpr std::streamoff kMost = 300;
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) return {};
    file.seekg(std::max<std::streamoff>(0, static_cast<std::streamoff>(file.tellg()) - kMost));
    std::string text((std::istreambuf_iterator<char>(file)), {});
    while (!text.empty() && text.back() == '\n') text.pop_back();
    const std::size_t line = text.rfind('\n');
    return line == std::string::npos ? text : text.substr(line + 1);
}

// In the child, between fork and exec: system calls only. Returns what failed in errno.
void become(const char* program, char* const* argv, char* const* environment, int netns, int log) {
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (::dup2(null, STDIN_FILENO) < 0 || ::dup2(log >= 0 ? log : null, STDOUT_FILENO) < 0 ||
        ::dup2(log >= 0 ? log : null, STDERR_FILENO) < 0 || ::setns(netns, CLONE_NEWNET) != 0) {
        return;
    }
    // What the caller inherited from its own parent may not be close-on-exec.
    if (::close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC) != 0) return;
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; ++number) (void)::sigaction(number, &standard, nullptr);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(program, argv, environment);
}

Result<Fd> spawn(const std::string& program, const std::string& device, const Netns& netns,
                 const std::string& log_file) {
    Fd log;
    if (!log_file.empty()) {
        log = Fd(::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640));
        if (!log) {
            return unavailable(fmt::format("cannot open log {}: {}", log_file,
                                           std::generic_category().message(errno)));
        }
    }
    // In the foreground: it then listens itself, so that its socket tells who it is.
    std::string argv0 = program, argv1 = "-f", argv2 = device;
    std::string environment0 = "LOG_LEVEL=error";
    char* const argv[] = {argv0.data(), argv1.data(), argv2.data(), nullptr};
    char* const environment[] = {environment0.data(), nullptr};
    int report[2] = {-1, -1};
    if (::pipe2(report, O_CLOEXEC) != 0) {
        return unavailable(
            fmt::format("cannot make a pipe: {}", std::generic_category().message(errno)));
    }
    const Fd reader(report[0]);
    Fd writer(report[1]);
    const pid_t pid = ::fork();
    if (pid == 0) {
        become(argv0.c_str(), argv, environment, netns.fd(), log.get());
        const int error = errno;
        (void)!::write(report[1], &error, sizeof error);
        ::_exit(127);
    }
    const int fork_error = errno;
    writer = Fd();
    if (pid < 0) {
        return unavailable(fmt::format("cannot fork for {}: {}", program,
                                       std::generic_category().message(fork_error)));
    }
    // Not reaped yet, so the id is still its own.
    Fd process(open_pidfd(pid));
    int error = 0;
    if (::read(reader.get(), &error, sizeof error) == static_cast<ssize_t>(sizeof error)) {
        (void)::waitpid(pid, nullptr, 0);
        return unavailable(fmt::format("cannot start {} in {}: {}", program, netns.name(),
                                       std::generic_category().message(error)));
    }
    if (!process) {
        return unavailable(
            fmt::format("cannot watch {}: {}", program, std::generic_category().message(errno)));
    }
    return process;
}

}  // namespace

bool userspace_wireguard_runs(const WireguardDeviceOptions& options) {
    return uapi::listener(path_in(options)).has_value();
}

std::string why_no_userspace_wireguard(const WireguardDeviceOptions& options) {
    if (!find_program(options.program)) {
        return fmt::format("program {} is not there (Debian package wireguard-go)",
                           options.program);
    }
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) {
        return fmt::format("/dev/net/tun: {}", std::generic_category().message(errno));
    }
    return {};
}

UserspaceWireguardDevice::UserspaceWireguardDevice(WireguardDeviceOptions options)
    : options_(std::move(options)) {}

std::string UserspaceWireguardDevice::socket_path() const {
    return path_in(options_);
}

Result<void> UserspaceWireguardDevice::adopt() {
    MESH_TRY(Fd process, uapi::listener(socket_path()));
    MESH_TRY(Rtnetlink links, Rtnetlink::open(options_.netns));
    if (const auto link = links.link(options_.name); !link) {
        if (link.error().code() != Errc::kNotFound) return link.error();
        return Error(Errc::kConflict,
                     fmt::format("WireGuard device {}: a process listens at {}, but {} has no such "
                                 "device: expected a name that no other namespace uses",
                                 options_.name, socket_path(), options_.netns.name()));
    }
    process_ = std::move(process);
    return {};
}

Result<bool> UserspaceWireguardDevice::ensure() {
    if (process_) {
        if (!wait_for_end(process_, 0)) return false;
        reap(process_);
        process_ = Fd();
    }
    const auto adopted = adopt();
    if (adopted) return false;
    if (adopted.error().code() != Errc::kNotFound) return adopted.error();
    MESH_CHECK(start());
    return true;
}

Error UserspaceWireguardDevice::start_failure(const std::string& why) const {
    const std::string said = options_.log_file.empty() ? "" : end_of(options_.log_file);
    return unavailable(fmt::format("WireGuard device {} in {}: {} {}{}{}", options_.name,
                                   options_.netns.name(), options_.program, why,
                                   said.empty() ? "" : ": ", said));
}

Result<void> UserspaceWireguardDevice::start() {
    if (const std::string why = why_no_userspace_wireguard(options_); !why.empty()) {
        return not_found(fmt::format("WireGuard device {}: {}", options_.name, why));
    }
    MESH_TRY(Fd process, spawn(*find_program(options_.program), options_.name, options_.netns,
                               options_.log_file));
    for (int turn = 0; turn < kStartTurns; ++turn) {
        // Its device is there before its socket.
        if (userspace_wireguard_runs(options_)) {
            process_ = std::move(process);
            return {};
        }
        if (wait_for_end(process, kTurnMs)) {
            reap(process);
            return start_failure("ended at once");
        }
    }
    (void)signal_pidfd(process.get(), SIGKILL);
    if (wait_for_end(process, kStopMs)) reap(process);
    return start_failure("does not listen after 10 s");
}

Result<WireguardState> UserspaceWireguardDevice::state() {
    MESH_TRY(std::string answer, uapi::exchange(socket_path(), uapi::kGet));
    auto state = uapi::parse_state(answer);
    uapi::wipe(answer);
    if (!state) return state.error().with_prefix(fmt::format("WireGuard device {}", name()));
    return state;
}

Result<void> UserspaceWireguardDevice::configure(const WireguardSettings& settings) {
    std::string request = uapi::encode(settings);
    auto answer = uapi::exchange(socket_path(), request);
    uapi::wipe(request);
    if (!answer) return answer.error();
    auto outcome = uapi::parse_outcome(*answer);
    if (!outcome)
        return outcome.error().with_prefix(fmt::format("configure WireGuard device {}", name()));
    return outcome;
}

Result<void> UserspaceWireguardDevice::set_up() {
    MESH_TRY(Rtnetlink links, Rtnetlink::open(options_.netns));
    MESH_TRY(const Link link, links.link(options_.name));
    if (link.mtu != options_.mtu) MESH_CHECK(links.set_mtu(options_.name, options_.mtu));
    if (link.up) return {};
    return links.set_up(options_.name);
}

Result<void> UserspaceWireguardDevice::apply(std::span<const WireguardPeerChange> changes) {
    for (const std::string& request : uapi::encode(changes)) {
        MESH_TRY(const std::string answer, uapi::exchange(socket_path(), request));
        if (auto outcome = uapi::parse_outcome(answer); !outcome) {
            return outcome.error().with_prefix(
                fmt::format("set peers of WireGuard device {}", name()));
        }
    }
    return {};
}

Result<void> UserspaceWireguardDevice::remove() {
    if (!process_) {
        const auto adopted = adopt();
        // Gone already, or another namespace's: not ours to stop.
        if (!adopted && adopted.error().code() != Errc::kNotFound) return adopted.error();
    }
    if (process_) {
        (void)signal_pidfd(process_.get(), SIGTERM);
        if (!wait_for_end(process_, kStopMs)) {
            (void)signal_pidfd(process_.get(), SIGKILL);
            if (!wait_for_end(process_, kStopMs)) {
                return Error(Errc::kTimeout,
                             fmt::format("WireGuard device {}: its process does not end", name()));
            }
        }
        reap(process_);
        process_ = Fd();
    }
    // It does not always remove its socket itself.
    std::error_code ignored;
    std::filesystem::remove(socket_path(), ignored);
    return {};
}

}  // namespace mesh::datapath
