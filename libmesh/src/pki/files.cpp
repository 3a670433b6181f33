#include "pki/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace mesh::pki {
namespace {

Error file_error(Errc code, std::string_view what, const std::string& path, int error) {
    return {code,
            fmt::format("cannot {} {}: {}", what, path, std::generic_category().message(error))};
}

// Closes and, unless kept, removes the temporary file.
class TemporaryFile {
  public:
    TemporaryFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() {
        if (fd_ >= 0) ::close(fd_);
        if (!path_.empty()) ::unlink(path_.c_str());
    }
    [[nodiscard]] int fd() const { return fd_; }
    [[nodiscard]] const std::string& path() const { return path_; }
    int close() {
        const int fd = fd_;
        fd_ = -1;
        return ::close(fd);
    }
    void keep() { path_.clear(); }

  private:
    int fd_;
    std::string path_;
};

int write_all(int fd, std::string_view content) {
    while (!content.empty()) {
        const ssize_t n = ::write(fd, content.data(), content.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        content.remove_prefix(static_cast<std::size_t>(n));
    }
    return 0;
}

}  // namespace

Result<void> write_file(const std::string& path, std::string_view content, FileMode mode,
                        const std::string& staging) {
    const std::filesystem::path target(path);
    const std::filesystem::path directory =
        staging.empty() ? target.parent_path() : std::filesystem::path(staging);
    std::string name = (directory / ("." + target.filename().string() + ".XXXXXX")).string();
    // mkostemp opens with O_EXCL and 0600, so that a secret is never readable, not even empty.
    const int fd = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd < 0) return file_error(Errc::kUnavailable, "create a file beside", path, errno);
    TemporaryFile file(fd, name);
    if (::fchmod(fd, static_cast<mode_t>(mode)) != 0) {
        return file_error(Errc::kUnavailable, "set the permissions of", path, errno);
    }
    if (const int error = write_all(fd, content); error != 0) {
        return file_error(Errc::kUnavailable, "write", path, error);
    }
    if (::fsync(fd) != 0 || file.close() != 0) {
        return file_error(Errc::kUnavailable, "write", path, errno);
    }
    if (::rename(file.path().c_str(), path.c_str()) != 0) {
        return file_error(Errc::kUnavailable, "put in place", path, errno);
    }
    file.keep();
    return {};
}

Result<std::string> read_file(const std::string& path, std::size_t max_bytes) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return file_error(errno == ENOENT ? Errc::kNotFound : Errc::kUnavailable, "open", path,
                          errno);
    }
    std::string content;
    char buffer[16384];
    int error = 0;
    for (;;) {
        const ssize_t n = ::read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) error = errno;
        if (n <= 0 || content.size() > max_bytes) break;
        content.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(fd);
    if (error != 0) return file_error(Errc::kUnavailable, "read", path, error);
    if (content.size() > max_bytes) {
        return Error(Errc::kCapacity, fmt::format("{} is larger than {} bytes", path, max_bytes));
    }
    return content;
}

}  // namespace mesh::pki
