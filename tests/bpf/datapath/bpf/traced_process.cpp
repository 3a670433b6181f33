#include "traced_process.hpp"

#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <stdexcept>

namespace mesh::test {
namespace {

/// The name of a call that changes something which outlives the process; "" = it does not.
std::string change_of(std::uint64_t number, std::uint64_t first_argument) {
    switch (number) {
        case SYS_mkdir:
            return "mkdir";
        case SYS_rmdir:
            return "rmdir";
        case SYS_unlink:
            return "unlink";
        case SYS_renameat2:
            return "renameat2";
        case SYS_sendto:
        case SYS_sendmsg:
            return "netlink";
        case SYS_bpf:
            break;
        default:
            return "";
    }
    switch (first_argument) {
        case BPF_MAP_UPDATE_ELEM:
        case BPF_MAP_UPDATE_BATCH:
            return "map update";
        case BPF_OBJ_PIN:
            return "pin";
        case BPF_LINK_CREATE:
        case BPF_LINK_UPDATE:
            return "link";
        default:
            return "";
    }
}

pid_t start(const std::vector<std::string>& command, int out) {
    std::vector<char*> words;
    for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0) ::execv(words[0], words.data());
    ::_exit(127);
}

/// Until the next stop at a system call. @return false: it has ended
bool go_on(pid_t pid, TracedRun& run) {
    int signal = 0;
    for (;;) {
        if (::ptrace(PTRACE_SYSCALL, pid, nullptr, signal) != 0) throw std::runtime_error("ptrace");
        int status = 0;
        ::waitpid(pid, &status, 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            return false;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) return true;
        signal = WSTOPSIG(status);
    }
}

using Before = std::function<bool(const std::string&)>;

void trace(pid_t pid, int kill_at, const Before& before, TracedRun& run) {
    int status = 0;
    ::waitpid(pid, &status, 0);  // it stops after execve
    ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    while (go_on(pid, run)) {
        __ptrace_syscall_info info{};
        ::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY) continue;
        const std::string change = change_of(info.entry.nr, info.entry.args[0]);
        if (change.empty()) continue;
        const bool kill = before && before(change);
        if (++run.changes != kill_at && !kill) continue;
        run.killed = true;
        run.last = change;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, &status, 0);
        return;
    }
}

TracedRun run_here(const std::vector<std::string>& command, int kill_at, const Before& before) {
    TracedRun run;
    int out[2];
    // Small enough output that nobody need read it meanwhile.
    if (::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    const pid_t pid = start(command, out[1]);
    ::close(out[1]);
    trace(pid, kill_at, before, run);
    char buffer[4096];
    for (ssize_t got = 0; (got = ::read(out[0], buffer, sizeof buffer)) > 0;) {
        run.output.append(buffer, static_cast<std::size_t>(got));
    }
    ::close(out[0]);
    return run;
}

}  // namespace

TracedRun run_traced(const Netns* netns, const std::vector<std::string>& command, int kill_at,
                     const Before& before) {
    if (netns == nullptr) return run_here(command, kill_at, before);
    TracedRun run;
    // The thread that traces is the one that forked.
    netns->run([&] { run = run_here(command, kill_at, before); });
    return run;
}

}  // namespace mesh::test
