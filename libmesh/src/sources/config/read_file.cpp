#include "sources/config/read_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace mesh::sources::config {
namespace {

struct Descriptor {
    explicit Descriptor(int opened) : fd(opened) {}
    ~Descriptor() {
        if (fd >= 0) ::close(fd);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int fd;
};

Error failure(const std::string& path, int error) {
    const bool absent = error == ENOENT || error == ENOTDIR;
    return {absent ? Errc::kNotFound : Errc::kUnavailable,
            fmt::format("{}: {}", path, std::generic_category().message(error))};
}

}  // namespace

Result<std::string> read_file(const std::string& path, std::size_t limit) {
    // O_NONBLOCK: opening a FIFO that somebody left in the directory must not hang.
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.fd < 0) return failure(path, errno);
    struct stat info {};
    if (::fstat(file.fd, &info) != 0) return failure(path, errno);
    if (!S_ISREG(info.st_mode)) return invalid_argument(path + ": expected a regular file");
    std::string text;
    char buffer[16384];
    for (;;) {
        const ssize_t got = ::read(file.fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failure(path, errno);
        if (got == 0) return text;
        text.append(buffer, static_cast<std::size_t>(got));
        if (text.size() > limit) {
            return invalid_argument(fmt::format("{}: expected at most {} bytes", path, limit));
        }
    }
}

}  // namespace mesh::sources::config
