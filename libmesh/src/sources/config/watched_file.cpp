#include "sources/config/watched_file.hpp"

#include <filesystem>
#include <optional>
#include <utility>

#include "runtime/task_group.hpp"
#include "sources/config/read_file.hpp"

namespace mesh::sources::config {

namespace asio = boost::asio;

namespace {

std::filesystem::path folder_of(const std::string& path) {
    auto folder = std::filesystem::path(path).parent_path();
    return folder.empty() ? std::filesystem::path(".") : folder;
}

}  // namespace

struct WatchedFile::Impl {
    Impl(asio::any_io_executor executor, std::string path_in, std::size_t limit_in, Logger log,
         std::chrono::milliseconds rescan)
        : path(std::move(path_in)),
          limit(limit_in),
          watcher(std::in_place, executor, folder_of(path), std::move(log),
                  DirectoryWatcherOptions{.quiet = std::chrono::milliseconds(50),
                                          .quiet_limit = std::chrono::milliseconds(300),
                                          .rescan = rescan}),
          tasks(executor) {}

    void look() {
        auto now = read_file(path, limit);
        const bool again = std::exchange(poked, false);
        const bool same = last && last->has_value() == now.has_value() &&
                          (now ? **last == *now : last->error() == now.error());
        if (same && !again) return;
        last = now;
        on_change(now);
    }
    asio::awaitable<void> watch() {
        while (!stopping) {
            const auto changed = co_await watcher->async_changed();
            if (!changed) co_return;
            if (!stopping) look();
        }
    }

    std::string path;
    std::size_t limit;
    OnChange on_change;
    std::optional<Result<std::string>> last;
    std::optional<DirectoryWatcher> watcher;
    bool poked = false;
    bool stopping = false;
    TaskGroup tasks;
};

WatchedFile::WatchedFile(asio::any_io_executor executor, std::string path, std::size_t limit,
                         Logger log, std::chrono::milliseconds rescan)
    : impl_(std::make_unique<Impl>(std::move(executor), std::move(path), limit, std::move(log),
                                   rescan)) {}
WatchedFile::~WatchedFile() = default;

Result<std::string> WatchedFile::read() {
    auto text = read_file(impl_->path, impl_->limit);
    impl_->last = text;
    return text;
}

void WatchedFile::start(OnChange on_change) {
    impl_->on_change = std::move(on_change);
    impl_->tasks.spawn(impl_->watch());
}

void WatchedFile::poke() {
    impl_->poked = true;
    impl_->watcher->poke();
}

asio::awaitable<void> WatchedFile::stop() {
    impl_->stopping = true;
    impl_->tasks.cancel();
    co_await impl_->tasks.join();
    impl_->watcher.reset();
}

}  // namespace mesh::sources::config
