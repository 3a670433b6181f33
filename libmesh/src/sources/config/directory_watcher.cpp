#include "sources/config/directory_watcher.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/error.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

namespace mesh::sources::config {

namespace asio = boost::asio;

// --- DirectoryWatcher -------------------------------------------------------------------------

class DirectoryWatcher::Impl {
  public:
    Impl(asio::any_io_executor executor, std::filesystem::path directory, Logger log,
         DirectoryWatcherOptions options)
        : log_(std::move(log)),
          directory_(std::move(directory)),
          options_(options),
          timer_(executor),
          events_(executor) {
        const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (fd < 0) {
            log_.warn("{}: inotify: {}; changes are found by re-scan only", directory_.native(),
                      std::strerror(errno));
            return;
        }
        events_.assign(fd);
        wait_for_events();
    }

    asio::awaitable<Result<void>> async_changed() {
        if (first_) {
            first_ = false;
            add_watch();
            co_return Result<void>{};
        }
        const auto rescan_at = asio::steady_timer::clock_type::now() + options_.rescan;
        // A directory that is absent now may be made at any time, and nothing tells us so.
        while (!changed_) {
            const auto next = watch_ < 0 ? std::chrono::milliseconds(250) : options_.rescan;
            const auto until = std::min(rescan_at, asio::steady_timer::clock_type::now() + next);
            const bool timer_ran_out = co_await sleep_until(until);
            if (cancelled_) co_return Error(Errc::kCancelled, "directory watch cancelled");
            if (changed_) break;
            if (watch_ < 0 && add_watch()) break;
            if (timer_ran_out && until >= rescan_at) break;
        }
        MESH_CO_CHECK(co_await settle());
        changed_ = false;
        poked_ = false;
        if (watch_ < 0) add_watch();
        co_return Result<void>{};
    }

    void poke() {
        changed_ = true;
        poked_ = true;
        timer_.cancel();
    }

    ~Impl() {
        // The read handler must not run on a dead object.
        *alive_ = false;
        boost::system::error_code ignored;
        events_.close(ignored);
    }

  private:
    /// Waits for the end of a burst of events: a writer may be in the middle of several files.
    asio::awaitable<Result<void>> settle() {
        const auto limit = asio::steady_timer::clock_type::now() + options_.quiet_limit;
        while (changed_ && !poked_) {
            const auto now = asio::steady_timer::clock_type::now();
            if (now >= limit) break;
            if (co_await sleep_until(std::min(limit, now + options_.quiet))) break;
            if (cancelled_) co_return Error(Errc::kCancelled, "directory watch cancelled");
        }
        co_return Result<void>{};
    }

    /// @return true if the time came, false if an event (or a cancellation) did
    asio::awaitable<bool> sleep_until(asio::steady_timer::time_point when) {
        boost::system::error_code ec;
        event_ = false;
        timer_.expires_at(when);
        co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
        if (ec && !event_ && !poked_) cancelled_ = true;
        co_return !ec;
    }

    bool add_watch() {
        if (!events_.is_open()) return false;
        // IN_CLOSE_WRITE, and not IN_MODIFY alone, so that half-written files are rarely read;
        // IN_MODIFY keeps a burst going while somebody writes.
        watch_ = ::inotify_add_watch(events_.native_handle(), directory_.c_str(),
                                     IN_CLOSE_WRITE | IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO |
                                         IN_CREATE | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF |
                                         IN_MOVE_SELF | IN_ONLYDIR);
        return watch_ >= 0;
    }

    void wait_for_events() {
        events_.async_read_some(
            asio::buffer(buffer_),
            [this, alive = alive_](const boost::system::error_code& ec, std::size_t bytes) {
                if (!*alive || ec == asio::error::operation_aborted) return;
                if (ec) {
                    log_.warn("{}: inotify: {}; changes are found by re-scan only",
                              directory_.native(), ec.message());
                    boost::system::error_code ignored;
                    events_.close(ignored);
                    watch_ = -1;
                    return;
                }
                take(bytes);
                wait_for_events();
            });
    }

    void take(std::size_t bytes) {
        for (std::size_t at = 0; at + sizeof(inotify_event) <= bytes;) {
            inotify_event event{};
            std::memcpy(&event, buffer_.data() + at, sizeof(event));
            at += sizeof(event) + event.len;
            if (event.wd != watch_ && (event.mask & IN_Q_OVERFLOW) == 0) continue;
            if ((event.mask & IN_MOVE_SELF) != 0) {
                // The watch follows the moved directory; we mean the one with this name.
                (void)::inotify_rm_watch(events_.native_handle(), watch_);
                watch_ = -1;
            }
            if ((event.mask & IN_IGNORED) != 0) watch_ = -1;
        }
        changed_ = true;
        event_ = true;
        timer_.cancel();
    }

    Logger log_;
    std::filesystem::path directory_;
    DirectoryWatcherOptions options_;
    asio::steady_timer timer_;
    asio::posix::stream_descriptor events_;
    alignas(inotify_event) std::array<char, 16 * 1024> buffer_{};
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
    int watch_ = -1;
    bool first_ = true;
    bool changed_ = false;
    bool poked_ = false;
    bool event_ = false;
    bool cancelled_ = false;
};

DirectoryWatcher::DirectoryWatcher(asio::any_io_executor executor, std::filesystem::path directory,
                                   Logger log, DirectoryWatcherOptions options)
    : impl_(std::make_unique<Impl>(std::move(executor), std::move(directory), std::move(log),
                                   options)) {}
DirectoryWatcher::~DirectoryWatcher() = default;

asio::awaitable<Result<void>> DirectoryWatcher::async_changed() {
    return impl_->async_changed();
}
void DirectoryWatcher::poke() {
    impl_->poke();
}

// --- DirectoryReader --------------------------------------------------------------------------

namespace {

Error error_of_errno(const std::filesystem::path& path, const char* what) {
    const int number = errno;
    const Errc code = number == ENOENT || number == ENOTDIR ? Errc::kNotFound
                      : number == EACCES || number == EPERM ? Errc::kPermission
                                                            : Errc::kUnavailable;
    return {code, fmt::format("{}: {}: {}", path.native(), what, std::strerror(number))};
}

struct Descriptor {
    int fd = -1;
    explicit Descriptor(int number) : fd(number) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd >= 0) ::close(fd);
    }
};

std::int64_t nanoseconds(const timespec& t) {
    return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

/// @return nullopt if the file is not a regular one
Result<std::optional<std::string>> read_file(const std::filesystem::path& path, std::size_t limit,
                                             struct stat& status) {
    // O_NONBLOCK: a named pipe in the directory must not hang us.
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.fd < 0) return error_of_errno(path, "open");
    if (::fstat(file.fd, &status) != 0) return error_of_errno(path, "stat");
    if (!S_ISREG(status.st_mode)) return std::optional<std::string>{};
    std::string content;
    std::array<char, 64 * 1024> buffer{};
    for (;;) {
        const ssize_t got = ::read(file.fd, buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_of_errno(path, "read");
        if (got == 0) break;
        content.append(buffer.data(), static_cast<std::size_t>(got));
        if (content.size() > limit) {
            return Error(Errc::kCapacity, fmt::format("{}: larger than the limit of {} bytes",
                                                      path.native(), limit));
        }
    }
    return std::optional<std::string>(std::move(content));
}

}  // namespace

DirectoryReader::DirectoryReader(std::filesystem::path directory, const Clock& clock,
                                 std::function<bool(std::string_view)> wanted, Limits limits)
    : directory_(std::move(directory)),
      clock_(clock),
      wanted_(std::move(wanted)),
      limits_(limits) {}

Result<DirectoryReader::Changes> DirectoryReader::read() {
    DIR* const handle = ::opendir(directory_.c_str());
    if (handle == nullptr) return error_of_errno(directory_, "open directory");
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(handle)) {
        const std::string_view name(entry->d_name);
        if (name.starts_with('.') || entry->d_type == DT_DIR) continue;
        if (!wanted_ || wanted_(name)) names.emplace_back(name);
    }
    const int failure = errno;
    ::closedir(handle);
    if (failure != 0) {
        errno = failure;
        return error_of_errno(directory_, "read directory");
    }
    if (names.size() > limits_.max_files) {
        return Error(Errc::kCapacity,
                     fmt::format("{}: {} files, at most {} are read", directory_.native(),
                                 names.size(), limits_.max_files));
    }
    std::ranges::sort(names);

    Changes changes;
    std::map<std::string, Seen, std::less<>> now;
    for (std::string& name : names) {
        const auto before = seen_.find(name);
        Seen seen = before == seen_.end() ? Seen{} : before->second;
        if (read_one(name, seen, changes)) now.emplace(std::move(name), std::move(seen));
    }
    for (const auto& [name, seen] : seen_) {
        const bool reported = seen.known || !seen.failure.empty();
        if (reported && !now.contains(name)) changes.removed.push_back(name);
    }
    seen_ = std::move(now);
    return changes;
}

bool DirectoryReader::read_one(const std::string& name, Seen& seen, Changes& changes) {
    constexpr std::int64_t kSettledAfter = 2'000'000'000;
    const std::filesystem::path path = directory_ / name;
    struct stat status {};
    const auto fail = [&](Error error) {
        if (seen.failure != error.detail()) {
            seen.failure = error.detail();
            changes.failed.push_back({name, std::move(error)});
        }
        return true;
    };
    if (::stat(path.c_str(), &status) != 0) {
        // Gone since the directory was listed, or a symbolic link to nothing.
        if (errno == ENOENT && ::lstat(path.c_str(), &status) != 0) return false;
        errno = ENOENT;
        return fail(error_of_errno(path, "open"));
    }
    if (!S_ISREG(status.st_mode)) return false;
    const auto stamps_equal = [&] {
        return seen.device == status.st_dev && seen.inode == status.st_ino &&
               seen.size == static_cast<std::uint64_t>(status.st_size) &&
               seen.mtime_ns == nanoseconds(status.st_mtim) &&
               seen.ctime_ns == nanoseconds(status.st_ctim);
    };
    if (seen.known && seen.settled && seen.failure.empty() && stamps_equal()) return true;

    auto content = read_file(path, limits_.max_file_bytes, status);
    if (!content) return fail(content.error());
    if (!*content) return false;
    const bool recovered = !std::exchange(seen.failure, {}).empty();
    seen.device = status.st_dev;
    seen.inode = status.st_ino;
    seen.size = static_cast<std::uint64_t>(status.st_size);
    seen.mtime_ns = nanoseconds(status.st_mtim);
    seen.ctime_ns = nanoseconds(status.st_ctim);
    // File stamps tick every few milliseconds: a second write within one tick leaves no trace in
    // them, so that the stamps of a file written just now prove nothing.
    seen.settled = clock_.wall_now().time_since_epoch().count() - seen.ctime_ns > kSettledAfter;
    const std::size_t hash = std::hash<std::string_view>{}(**content);
    if (!seen.known || seen.hash != hash || recovered) {
        seen.known = true;
        seen.hash = hash;
        changes.changed.push_back({name, std::move(**content)});
    }
    return true;
}

void DirectoryReader::forget(std::string_view name) {
    if (const auto found = seen_.find(name); found != seen_.end()) {
        found->second.settled = false;
        found->second.known = false;
    }
}

}  // namespace mesh::sources::config
