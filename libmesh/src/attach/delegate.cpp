#include "attach/delegate.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

namespace mesh::attach {
namespace {

constexpr std::size_t kMaxOutput = std::size_t{1} << 20;
constexpr std::size_t kShownOutput = 200;
// Longer than a DHCP client waits, shorter than a container runtime does.
constexpr std::chrono::seconds kPluginTimeout{60};

class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() { reset(); }
    void reset(int fd = -1) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }
    [[nodiscard]] int get() const { return fd_; }

  private:
    int fd_;
};

Error failure(std::string_view what, std::string_view path, int error) {
    const Errc code = error == ENOENT || error == ENOTDIR ? Errc::kNotFound
                      : error == EPERM || error == EACCES ? Errc::kPermission
                                                          : Errc::kUnavailable;
    return {code, fmt::format("{} {}: {}", what, path, std::generic_category().message(error))};
}

// In the child, up to the program. Ends with the errno of what failed in the pipe.
[[noreturn]] void become(const char* path, char* const* environment, int input, int output,
                         int report, pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // The parent may have gone before that.
    if (::getppid() != parent) ::_exit(127);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    if (::dup2(input, STDIN_FILENO) >= 0 && ::dup2(output, STDOUT_FILENO) >= 0) {
        char* const arguments[] = {const_cast<char*>(path), nullptr};
        ::execve(path, arguments, environment);
    }
    const int error = errno;
    (void)!::write(report, &error, sizeof error);
    ::_exit(127);
}

// Appends what there is. @return false when it is too much
bool drain(int fd, std::string& output) {
    char buffer[16384];
    for (;;) {
        const ssize_t n = ::read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return true;
        if (output.size() + static_cast<std::size_t>(n) > kMaxOutput) return false;
        output.append(buffer, static_cast<std::size_t>(n));
    }
}

// Waits for the program's end, which a pidfd tells: its children may hold the pipe for longer.
Result<std::string> read_until_end(int process, int output, std::string_view path,
                                   TimePoint deadline, const Clock& clock) {
    std::string text;
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock.now());
        if (left.count() <= 0) return Error(Errc::kTimeout, fmt::format("{} does not end", path));
        pollfd watched[] = {{process, POLLIN, 0}, {output, POLLIN, 0}};
        if (::poll(watched, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) {
            return failure("wait for", path, errno);
        }
        const bool ended = (watched[0].revents & POLLIN) != 0;
        if (!drain(output, text)) {
            return Error(Errc::kCapacity,
                         fmt::format("{} says more than {} bytes", path, kMaxOutput));
        }
        if (ended) return text;
        if ((watched[1].revents & POLLHUP) != 0) {
            // A closed pipe would wake us for ever.
            pollfd last{process, POLLIN, 0};
            (void)::poll(&last, 1, static_cast<int>(left.count()));
        }
    }
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
    std::vector<char*> out;
    for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
    out.push_back(nullptr);
    return out;
}

std::optional<std::string> find_plugin(std::string_view type, std::string_view path) {
    while (!path.empty()) {
        const std::string_view folder = path.substr(0, path.find(':'));
        path.remove_prefix(std::min(folder.size() + 1, path.size()));
        std::string candidate = fmt::format("{}/{}", folder, type);
        std::error_code ec;
        if (!folder.empty() && std::filesystem::is_regular_file(candidate, ec) &&
            ::access(candidate.c_str(), X_OK) == 0) {
            return candidate;
        }
    }
    return std::nullopt;
}

}  // namespace

Result<ProgramEnd> run_program(const std::string& path, const std::vector<std::string>& environment,
                               std::string_view input, std::chrono::seconds timeout,
                               const Clock& clock) {
    const TimePoint deadline = clock.now() + timeout;
    // A file rather than a pipe: neither side waits for the other.
    const Descriptor given(::memfd_create("cni-input", MFD_CLOEXEC));
    if (given.get() < 0 || ::pwrite(given.get(), input.data(), input.size(), 0) !=
                               static_cast<ssize_t>(input.size())) {
        return failure("prepare the input of", path, errno);
    }
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return failure("make a pipe for", path, errno);
    const Descriptor output(ends[0]);
    Descriptor output_in(ends[1]);
    if (::pipe2(ends, O_CLOEXEC) != 0) return failure("make a pipe for", path, errno);
    const Descriptor report(ends[0]);
    Descriptor report_in(ends[1]);
    ::fcntl(output.get(), F_SETFL, O_NONBLOCK);
    const std::vector<char*> variables = pointers(environment);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid == 0) {
        become(path.c_str(), variables.data(), given.get(), output_in.get(), report_in.get(),
               parent);
    }
    if (pid < 0) return failure("fork for", path, errno);
    output_in.reset();
    report_in.reset();
    int error = 0;
    // Closed without a word when the program runs.
    const bool refused = ::read(report.get(), &error, sizeof error) == sizeof error;
    const Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    auto text = process.get() < 0
                    ? Result<std::string>(failure("watch", path, errno))
                    : read_until_end(process.get(), output.get(), path, deadline, clock);
    if (!text) ::kill(pid, SIGKILL);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (refused) return failure("execute", path, error);
    if (!text) return text.error();
    return ProgramEnd{WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status),
                      *std::move(text)};
}

CniResult<std::string> call_plugin(const DelegateCall& call,
                                   const std::vector<std::string>& environment,
                                   const Clock& clock) {
    const auto path = find_plugin(call.type, call.path);
    if (!path) {
        return CniError(CniCode::kBadEnvironment,
                        fmt::format("CNI_PATH \"{}\": expected a folder with the plugin {}",
                                    call.path, call.type));
    }
    std::vector<std::string> variables;
    for (const std::string& entry : environment) {
        if (!entry.starts_with("CNI_COMMAND=")) variables.push_back(entry);
    }
    variables.push_back(fmt::format("CNI_COMMAND={}", call.command));
    auto end = run_program(*path, variables, call.config, kPluginTimeout, clock);
    if (!end) {
        const bool late = end.error().code() == Errc::kTimeout;
        return CniError(late ? CniCode::kTryAgain : CniCode::kIpam, end.error());
    }
    if (end->exit_code == 0) return std::move(end->output);
    const std::string prefix = fmt::format("plugin {}, {}: ", call.type, call.command);
    if (auto error = parse_error(end->output)) {
        error->message.insert(0, prefix);
        return *std::move(error);
    }
    return CniError(CniCode::kIpam, fmt::format("{}exit code {}: {}", prefix, end->exit_code,
                                                end->output.substr(0, kShownOutput)));
}

}  // namespace mesh::attach
