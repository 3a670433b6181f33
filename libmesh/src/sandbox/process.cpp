#include "sandbox/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>

#include "datapath/netlink/netns.hpp"
#include "sandbox/cgroup.hpp"

namespace mesh::sandbox {
namespace {

Error failure(std::string_view what, int error) {
    const Errc code = error == ENOENT || error == ENOTDIR ? Errc::kNotFound
                      : error == EPERM || error == EACCES ? Errc::kPermission
                                                          : Errc::kUnavailable;
    return {code, fmt::format("{}: {}", what, std::generic_category().message(error))};
}

std::string variable(const std::vector<std::string>& environment, std::string_view name) {
    for (const std::string& entry : environment) {
        if (entry.starts_with(name) && entry.size() > name.size() && entry[name.size()] == '=') {
            return entry.substr(name.size() + 1);
        }
    }
    return {};
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
    std::vector<char*> out;
    for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
    out.push_back(nullptr);
    return out;
}

void reset_signals() {
    for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// In the child: from here to the program. Returns only on failure.
Error enter_and_execute(const ProcessSpec& spec, const std::string& program) {
    // The cgroup first: entering a namespace does not need it, but programs attached to the cgroup
    // must see every socket of the process.
    if (!spec.cgroup.empty()) {
        if (auto joined = join_cgroup(spec.cgroup); !joined) return joined.error();
    }
    if (!spec.netns.empty()) {
        auto netns = datapath::Netns::open(spec.netns);
        if (!netns) return netns.error();
        if (auto joined = datapath::join_netns(*netns); !joined) return joined.error();
    }
    if (::chdir(spec.working_directory.c_str()) != 0) {
        return failure(fmt::format("enter {}", spec.working_directory), errno);
    }
    reset_signals();
    const std::vector<char*> argv = pointers(spec.argv);
    const std::vector<char*> environment = pointers(spec.environment);
    ::execve(program.c_str(), argv.data(), environment.data());
    return failure(fmt::format("execute {}", program), errno);
}

Result<std::string> program_of(const ProcessSpec& spec) {
    if (spec.argv.empty()) return invalid_argument("no program to start");
    const std::string path = variable(spec.environment, "PATH");
    auto program = find_program(spec.argv.front(), path);
    if (!program) {
        return not_found(fmt::format(
            "program {}: not found{}", spec.argv.front(),
            spec.argv.front().find('/') == std::string::npos ? fmt::format(" in {}", path) : ""));
    }
    return *program;
}

// In the child: streams, session; then the error, if any, back to the parent.
[[noreturn]] void run_child(const ProcessSpec& spec, const std::string& program, int log,
                            int report) {
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, STDIN_FILENO);
    ::dup2(log >= 0 ? log : null, STDOUT_FILENO);
    ::dup2(log >= 0 ? log : null, STDERR_FILENO);
    // Everything of ours is close-on-exec; what the caller inherited from its own parent is not.
    ::close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC);
    if (spec.keep_fd > 2) ::fcntl(spec.keep_fd, F_SETFD, 0);
    const Error error = enter_and_execute(spec, program);
    const auto code = static_cast<char>(error.code());
    (void)!::write(report, &code, 1);
    (void)!::write(report, error.detail().data(), error.detail().size());
    ::_exit(127);
}

}  // namespace

Result<ProcessId> start_process(const ProcessSpec& spec) {
    MESH_TRY(const std::string program, program_of(spec));
    int log = -1;
    if (!spec.log_file.empty()) {
        log = ::open(spec.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (log < 0) return failure(fmt::format("open log {}", spec.log_file), errno);
    }
    int report[2] = {-1, -1};
    if (::pipe2(report, O_CLOEXEC) != 0) {
        const int error = errno;
        if (log >= 0) ::close(log);
        return failure("make a pipe", error);
    }
    const pid_t pid = ::fork();
    if (pid == 0) run_child(spec, program, log, report[1]);
    const int fork_error = errno;
    ::close(report[1]);
    if (log >= 0) ::close(log);
    std::string answer;
    char buffer[512];
    for (ssize_t n = 0; pid > 0;) {
        n = ::read(report[0], buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        answer.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(report[0]);
    if (pid < 0) return failure("fork", fork_error);
    if (!answer.empty()) {
        ::waitpid(pid, nullptr, 0);
        return Error(static_cast<Errc>(answer.front()), answer.substr(1));
    }
    return ProcessId{pid, start_time_of(pid).value_or(0)};
}

Error become_process(const ProcessSpec& spec) {
    auto program = program_of(spec);
    if (!program) return program.error();
    ::close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC);
    return enter_and_execute(spec, *program);
}

std::optional<std::uint64_t> start_time_of(int pid) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string line;
    if (!std::getline(file, line)) return std::nullopt;
    // The program's name, in parentheses, may hold spaces and parentheses itself.
    const std::size_t end = line.rfind(')');
    if (end == std::string::npos || end + 2 >= line.size()) return std::nullopt;
    std::istringstream rest(line.substr(end + 2));
    std::string field;
    char state = '?';
    rest >> state;
    if (state == 'Z' || state == 'X') return std::nullopt;
    for (int i = 4; i < 22; ++i) rest >> field;
    std::uint64_t start = 0;
    if (!(rest >> start)) return std::nullopt;
    return start;
}

bool is_running(const ProcessId& process) {
    return process.pid > 0 && start_time_of(process.pid) == process.start_time;
}

bool signal_process(const ProcessId& process, int signal) {
    return is_running(process) && ::kill(process.pid, signal) == 0;
}

std::string last_lines(const std::string& path, std::size_t lines) {
    constexpr std::streamoff kMost = 4096;
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) return {};
    const std::streamoff size = file.tellg();
    file.seekg(std::max<std::streamoff>(0, size - kMost));
    std::string text((std::istreambuf_iterator<char>(file)), {});
    while (!text.empty() && text.back() == '\n') text.pop_back();
    std::size_t begin = text.size();
    for (std::size_t n = 0; n < lines && begin != 0 && begin != std::string::npos; ++n) {
        begin = text.rfind('\n', begin - 1);
        if (begin == std::string::npos) return text;
    }
    return begin == 0 ? text : text.substr(begin + 1);
}

std::optional<std::string> find_program(const std::string& name, const std::string& path_variable) {
    if (name.empty()) return std::nullopt;
    if (name.find('/') != std::string::npos) {
        return ::access(name.c_str(), X_OK) == 0 ? std::optional(name) : std::nullopt;
    }
    std::istringstream folders(path_variable);
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string candidate = folder + "/" + name;
        if (!folder.empty() && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    }
    return std::nullopt;
}

}  // namespace mesh::sandbox
