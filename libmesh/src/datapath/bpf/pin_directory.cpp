#include "datapath/bpf/pin_directory.hpp"

#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>

namespace mesh::datapath {
namespace {

/// How long an earlier process is waited for: 5 s.
constexpr int kLockAttempts = 250;
constexpr std::chrono::milliseconds kLockPause{20};

/// bpffs keeps names with a dot for itself.
Result<void> check_name(const std::string& name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '-' || c == '/';
    };
    if (!name.empty() && name.front() != '/' && name.back() != '/' &&
        name.find("//") == std::string::npos && std::ranges::all_of(name, allowed)) {
        return {};
    }
    return invalid_argument(fmt::format(
        "pin directory \"{}\": expected a relative path of letters, digits, - and _", name));
}

bool is_bpffs(const std::string& path) {
    struct statfs info {};
    return ::statfs(path.c_str(), &info) == 0 &&
           static_cast<unsigned long>(info.f_type) == BPF_FS_MAGIC;
}

Result<void> make_directories(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) return system_error(path + ": cannot make the directory", error.value());
    return {};
}

Result<void> mount_bpffs(const std::string& path) {
    if (is_bpffs(path)) return {};
    MESH_CHECK(make_directories(path));
    if (::mount("bpf", path.c_str(), "bpf", 0, "mode=0700") != 0) {
        return system_error(path + ": cannot mount a BPF filesystem", errno);
    }
    return {};
}

}  // namespace

Error system_error(std::string_view what, int number) {
    const int code = number < 0 ? -number : number;
    std::string detail =
        fmt::format("{}: {}", what, std::error_code(code, std::generic_category()).message());
    switch (code) {
        case EPERM:
        case EACCES:
            return {Errc::kPermission, std::move(detail)};
        case E2BIG:
        case ENOSPC:
        case ENOMEM:
            return {Errc::kCapacity, std::move(detail)};
        case EOPNOTSUPP:
        case ENOSYS:
            return {Errc::kUnavailable, std::move(detail)};
        default:
            return {Errc::kInternal, std::move(detail)};
    }
}

Result<PinDirectory> PinDirectory::open(const std::string& bpffs, const std::string& name) {
    MESH_CHECK(check_name(name));
    MESH_CHECK(mount_bpffs(bpffs));
    std::string path = bpffs + "/" + name;
    MESH_CHECK(make_directories(path));
    MESH_TRY(Fd locked, lock(path));
    MESH_CHECK(make_directories(path + "/maps"));
    MESH_CHECK(make_directories(path + "/links"));
    return PinDirectory(bpffs, std::move(path), std::move(locked));
}

Result<PinDirectory> PinDirectory::open_existing(const std::string& bpffs,
                                                 const std::string& name) {
    MESH_CHECK(check_name(name));
    std::string path = bpffs + "/" + name;
    if (!is_bpffs(bpffs) || !std::filesystem::exists(path)) return not_found(path);
    MESH_TRY(Fd locked, lock(path));
    return PinDirectory(bpffs, std::move(path), std::move(locked));
}

Result<Fd> PinDirectory::lock(const std::string& path) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) return system_error(path, errno);
    // A process that was killed keeps its files open until the last of its threads has gone.
    int failed = 0;
    for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
        failed = ::flock(fd.get(), LOCK_EX | LOCK_NB);
        if (failed == 0 || errno != EWOULDBLOCK) break;
        std::this_thread::sleep_for(kLockPause);
        errno = EWOULDBLOCK;
    }
    if (failed != 0) {
        if (errno == EWOULDBLOCK) {
            return Error(Errc::kConflict,
                         path + ": another process writes these tables; one agent per node");
        }
        return system_error(path + ": cannot lock", errno);
    }
    return fd;
}

std::string PinDirectory::map_path(std::string_view name) const {
    return fmt::format("{}/maps/{}", path_, name);
}
std::string PinDirectory::link_path(std::string_view name) const {
    return fmt::format("{}/links/{}", path_, name);
}

std::string PinDirectory::next_path(std::string_view name) const {
    return fmt::format("{}/next/{}", path_, name);
}

bool PinDirectory::has_next() const {
    std::error_code error;
    return std::filesystem::exists(path_ + "/next", error);
}

Result<void> PinDirectory::make_next() const {
    return make_directories(path_ + "/next");
}

Result<void> PinDirectory::exchange_next() const {
    const std::string maps = path_ + "/maps", next = path_ + "/next";
    if (::renameat2(AT_FDCWD, next.c_str(), AT_FDCWD, maps.c_str(), RENAME_EXCHANGE) != 0) {
        return system_error(fmt::format("cannot swap {} and {}", next, maps), errno);
    }
    return {};
}

Result<void> PinDirectory::remove_next(std::string_view last) const {
    const std::string last_path = next_path(last);
    for (const std::string& path : files_in("next")) {
        if (path != last_path && ::unlink(path.c_str()) != 0) return system_error(path, errno);
    }
    if (::unlink(last_path.c_str()) != 0 && errno != ENOENT) return system_error(last_path, errno);
    const std::string directory = path_ + "/next";
    if (::rmdir(directory.c_str()) != 0 && errno != ENOENT) return system_error(directory, errno);
    return {};
}

std::vector<std::string> PinDirectory::files_in(std::string_view folder) const {
    std::vector<std::string> paths;
    std::error_code error;
    const auto directory = fmt::format("{}/{}", path_, folder);
    for (const auto& file : std::filesystem::directory_iterator(directory, error)) {
        paths.push_back(file.path().string());
    }
    return paths;
}

Result<void> PinDirectory::remove_pins() const {
    std::optional<Error> failure;
    const auto unlink_all = [&](const std::vector<std::string>& paths) {
        for (const std::string& path : paths) {
            if (::unlink(path.c_str()) != 0 && !failure) failure = system_error(path, errno);
        }
    };
    for (const std::string& path : link_paths()) {
        // Unpinning detaches too, but when is the kernel's choice.
        if (const Fd link(bpf_obj_get(path.c_str())); link) (void)bpf_link_detach(link.get());
    }
    unlink_all(link_paths());
    unlink_all(map_paths());
    unlink_all(files_in("next"));
    if (failure) return *std::move(failure);
    return {};
}

Result<void> PinDirectory::remove() {
    for (const std::string& path : {path_ + "/maps", path_ + "/next", path_ + "/links", path_}) {
        if (::rmdir(path.c_str()) != 0 && errno != ENOENT) return system_error(path, errno);
    }
    std::filesystem::path parent = std::filesystem::path(path_).parent_path();
    while (parent != std::filesystem::path(bpffs_) && ::rmdir(parent.c_str()) == 0) {
        parent = parent.parent_path();
    }
    return {};
}

}  // namespace mesh::datapath
