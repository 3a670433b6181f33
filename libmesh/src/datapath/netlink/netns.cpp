#include "datapath/netlink/netns.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace mesh::datapath {
namespace {

constexpr const char* kDirectory = "/run/netns";
constexpr const char* kOwn = "/proc/thread-self/ns/net";

Error system_error(std::string_view what, int error) {
    Errc code = Errc::kUnavailable;
    if (error == EPERM || error == EACCES) code = Errc::kPermission;
    if (error == ENOENT || error == ESRCH) code = Errc::kNotFound;
    if (error == EEXIST) code = Errc::kConflict;
    if (error == EINVAL) code = Errc::kInvalidArgument;
    return {code, fmt::format("{}: {}", what, std::generic_category().message(error))};
}

Result<std::string> path_of(std::string_view name) {
    if (name.empty() || name == "." || name == ".." || name.size() > 255 ||
        name.find('/') != std::string_view::npos) {
        return invalid_argument(
            fmt::format("network namespace \"{}\": expected a file name", name));
    }
    return fmt::format("{}/{}", kDirectory, name);
}

Result<std::string> sysctl_path(std::string_view key) {
    if (key.empty() || key.front() == '/' || key.find("..") != std::string_view::npos) {
        return invalid_argument(
            fmt::format("sysctl \"{}\": expected a path such as ipv4/ip_forward", key));
    }
    return fmt::format("/proc/sys/net/{}", key);
}

// Names must be seen from other mount namespaces, and a namespace removed elsewhere must go here:
// as ip-netns does, the directory is a shared mount.
Result<void> share_directory() {
    if (::mkdir(kDirectory, 0755) != 0 && errno != EEXIST) {
        return system_error(fmt::format("create {}", kDirectory), errno);
    }
    if (::mount("", kDirectory, "none", MS_SHARED | MS_REC, nullptr) == 0) return {};
    if (errno != EINVAL ||
        ::mount(kDirectory, kDirectory, "none", MS_BIND | MS_REC, nullptr) != 0 ||
        ::mount("", kDirectory, "none", MS_SHARED | MS_REC, nullptr) != 0) {
        return system_error(fmt::format("share {}", kDirectory), errno);
    }
    return {};
}

void bring_loopback_up() {
    const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    ifreq request{};
    std::snprintf(request.ifr_name, sizeof request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    (void)::ioctl(fd, SIOCSIFFLAGS, &request);
    ::close(fd);
}

}  // namespace

std::string_view netns_directory() noexcept {
    return kDirectory;
}

Result<Netns> Netns::open_path(const std::string& path, std::string name) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return system_error(fmt::format("open network namespace {}", name), errno);
    Netns opened(fd, std::move(name));
    // A file without a namespace on it is what a crash while making one leaves.
    struct statfs status {};
    if (::fstatfs(fd, &status) != 0 || status.f_type != NSFS_MAGIC) {
        return Error(Errc::kCorrupt,
                     fmt::format("network namespace {}: there is none", opened.name()));
    }
    return opened;
}

Result<Netns> Netns::current() {
    return open_path(kOwn, "of this thread");
}

Result<Netns> Netns::open(std::string_view name) {
    MESH_TRY(const std::string path, path_of(name));
    return open_path(path, std::string(name));
}

Result<Netns> Netns::at(const std::string& path) {
    return open_path(path, path);
}

Result<Netns> Netns::of_process(int pid) {
    return open_path(fmt::format("/proc/{}/ns/net", pid), fmt::format("of process {}", pid));
}

Netns& Netns::operator=(Netns&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = std::exchange(other.fd_, -1);
        name_ = std::move(other.name_);
    }
    return *this;
}

Netns::~Netns() {
    if (fd_ >= 0) ::close(fd_);
}

Result<NetnsScope> NetnsScope::enter(const Netns& netns) {
    MESH_TRY(Netns home, Netns::current());
    if (::setns(netns.fd(), CLONE_NEWNET) != 0) {
        return system_error(fmt::format("enter network namespace {}", netns.name()), errno);
    }
    return NetnsScope(std::move(home));
}

NetnsScope::~NetnsScope() {
    if (home_.fd() < 0) return;
    if (::setns(home_.fd(), CLONE_NEWNET) != 0) std::abort();
}

Result<void> create_netns(std::string_view name) {
    MESH_TRY(const std::string path, path_of(name));
    MESH_CHECK(share_directory());
    const int fd = ::open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
    if (fd < 0) return system_error(fmt::format("create network namespace {}", name), errno);
    ::close(fd);
    int error = 0;
    {
        MESH_TRY(const Netns home, Netns::current());
        MESH_TRY(const NetnsScope back, NetnsScope::enter(home));
        if (::unshare(CLONE_NEWNET) != 0 ||
            ::mount(kOwn, path.c_str(), "none", MS_BIND, nullptr) != 0) {
            error = errno;
        } else {
            bring_loopback_up();
        }
    }
    if (error != 0) {
        ::unlink(path.c_str());
        return system_error(fmt::format("create network namespace {}", name), error);
    }
    return {};
}

Result<void> delete_netns(std::string_view name) {
    MESH_TRY(const std::string path, path_of(name));
    // A crash between making the file and mounting on it leaves nothing to unmount.
    if (::umount2(path.c_str(), MNT_DETACH) != 0 && errno != EINVAL) {
        return system_error(fmt::format("unmount network namespace {}", name), errno);
    }
    if (::unlink(path.c_str()) != 0) {
        return system_error(fmt::format("remove network namespace {}", name), errno);
    }
    return {};
}

Result<std::vector<std::string>> list_netns(std::string_view prefix) {
    std::vector<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator it(kDirectory, error), end; !error && it != end;
         it.increment(error)) {
        const std::string name = it->path().filename().string();
        if (name.starts_with(prefix)) names.push_back(name);
    }
    if (error && error != std::errc::no_such_file_or_directory) {
        return system_error(fmt::format("list {}", kDirectory), error.value());
    }
    std::sort(names.begin(), names.end());
    return names;
}

Result<void> join_netns(const Netns& netns) {
    if (::setns(netns.fd(), CLONE_NEWNET) != 0) {
        return system_error(fmt::format("enter network namespace {}", netns.name()), errno);
    }
    return {};
}

Result<void> set_sysctl(const Netns& netns, std::string_view key, std::string_view value) {
    MESH_TRY(const std::string path, sysctl_path(key));
    MESH_TRY(const NetnsScope scope, NetnsScope::enter(netns));
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const ssize_t written = fd < 0 ? -1 : ::write(fd, value.data(), value.size());
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (written < 0) {
        return system_error(
            fmt::format("set sysctl {} in network namespace {}", path, netns.name()), error);
    }
    return {};
}

Result<std::string> get_sysctl(const Netns& netns, std::string_view key) {
    MESH_TRY(const std::string path, sysctl_path(key));
    MESH_TRY(const NetnsScope scope, NetnsScope::enter(netns));
    char text[4096];
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t size = fd < 0 ? -1 : ::read(fd, text, sizeof text);
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (size < 0) {
        return system_error(
            fmt::format("read sysctl {} in network namespace {}", path, netns.name()), error);
    }
    std::string value(text, static_cast<std::size_t>(size));
    while (!value.empty() && value.back() == '\n') value.pop_back();
    return value;
}

}  // namespace mesh::datapath
