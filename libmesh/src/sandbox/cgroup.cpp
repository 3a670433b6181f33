#include "sandbox/cgroup.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <mntent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>

namespace mesh::sandbox {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kPoll{2};
constexpr std::chrono::seconds kKillDeadline{10};

Error cgroup_error(std::string_view what, const std::string& path, int error) {
    const Errc code = error == ENOENT                     ? Errc::kNotFound
                      : error == EPERM || error == EACCES ? Errc::kPermission
                                                          : Errc::kUnavailable;
    return {code,
            fmt::format("{} cgroup {}: {}", what, path, std::generic_category().message(error))};
}

int write_text(const std::string& path, std::string_view text) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    const int error = ::write(fd, text.data(), text.size()) < 0 ? errno : 0;
    ::close(fd);
    return error;
}

// Deepest first, so that they can be removed in this order.
std::vector<std::string> folders_of(const std::string& path) {
    std::vector<std::string> folders{path};
    std::error_code error;
    for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
         it.increment(error)) {
        if (it->is_directory(error)) folders.push_back(it->path().string());
    }
    std::sort(folders.begin(), folders.end(),
              [](const auto& a, const auto& b) { return a.size() > b.size(); });
    return folders;
}

template <class Done>
bool poll_until(std::chrono::milliseconds timeout, Done&& done) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (!done()) {
        if (std::chrono::steady_clock::now() >= deadline) return false;
        std::this_thread::sleep_for(kPoll);
    }
    return true;
}

}  // namespace

Result<std::string> cgroup_mount() {
    std::string found;
    if (FILE* mounts = ::setmntent("/proc/self/mounts", "re"); mounts != nullptr) {
        mntent entry{};
        char buffer[4096];
        while (::getmntent_r(mounts, &entry, buffer, sizeof buffer) != nullptr) {
            if (std::string_view(entry.mnt_type) == "cgroup2" && found.empty()) {
                found = entry.mnt_dir;
            }
        }
        ::endmntent(mounts);
    }
    if (found.empty()) {
        return not_found(
            "cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified "
            "(or boot with systemd.unified_cgroup_hierarchy)");
    }
    return found;
}

Result<void> make_cgroup(const std::string& path) {
    if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
        return cgroup_error("create", path, errno);
    }
    return {};
}

Result<void> join_cgroup(const std::string& path) {
    if (const int error = write_text(path + "/cgroup.procs", "0"); error != 0) {
        return cgroup_error("join", path, error);
    }
    return {};
}

std::vector<int> cgroup_processes(const std::string& path) {
    std::vector<int> processes;
    for (const std::string& folder : folders_of(path)) {
        std::ifstream file(folder + "/cgroup.procs");
        for (int pid = 0; file >> pid;) {
            // 0: a process of a pid namespace that we do not see.
            if (pid > 0) processes.push_back(pid);
        }
    }
    return processes;
}

void signal_cgroup(const std::string& path, int signal) {
    for (const int pid : cgroup_processes(path)) ::kill(pid, signal);
}

bool wait_cgroup_empty(const std::string& path, std::chrono::milliseconds timeout) {
    return poll_until(timeout, [&] { return cgroup_processes(path).empty(); });
}

Result<void> destroy_cgroup(const std::string& path) {
    if (!fs::exists(path)) return {};
    int error = 0;
    std::string last;
    const bool gone = poll_until(kKillDeadline, [&] {
        // cgroup.kill (Linux 5.14) reaches what forks meanwhile; the loop does so without it.
        (void)write_text(path + "/cgroup.kill", "1");
        signal_cgroup(path, SIGKILL);
        error = 0;
        for (const std::string& folder : folders_of(path)) {
            if (::rmdir(folder.c_str()) != 0 && errno != ENOENT) {
                error = errno;
                last = folder;
            }
        }
        return error == 0;
    });
    if (!gone) return cgroup_error("remove", last, error);
    return {};
}

}  // namespace mesh::sandbox
