#include "attach/directory_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace mesh::attach {

Result<DirectoryLock> DirectoryLock::take(const std::string& directory) {
    std::error_code ec;
    std::filesystem::create_directories(directory, ec);
    if (ec) return unavailable(fmt::format("{}: {}", directory, ec.message()));
    const auto fail = [&] {
        return unavailable(
            fmt::format("lock {}: {}", directory, std::generic_category().message(errno)));
    };
    const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail();
    DirectoryLock lock(fd);
    while (::flock(fd, LOCK_EX) != 0) {
        if (errno != EINTR) return fail();
    }
    return lock;
}

DirectoryLock::~DirectoryLock() {
    if (fd_ >= 0) ::close(fd_);
}

}  // namespace mesh::attach
