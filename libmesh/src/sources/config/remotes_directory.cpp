#include "sources/config/remotes_directory.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <utility>

#include "runtime/task_group.hpp"

namespace mesh::sources::config {

namespace asio = boost::asio;

struct RemotesDirectory::Impl {
    Impl(asio::any_io_executor ex, Options opt, const Clock& clock, const Logger& log,
         OnEvent callback)
        : options(std::move(opt)),
          on_event(std::move(callback)),
          scan(options.directory, options.local_cluster, clock, log),
          watcher(std::in_place, ex, options.directory, log, options.watch),
          timer(ex),
          tasks(ex) {}

    void look() {
        auto outcome = scan.scan();
        look_again = outcome.look_again;
        for (const RemoteEvent& event : outcome.events) {
            if (!stopping) on_event(event);
        }
    }

    asio::awaitable<void> watch() {
        while (!stopping) {
            if (look_again) {
                boost::system::error_code ignored;
                timer.expires_after(options.settle);
                co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
            } else if (!co_await watcher->async_changed()) {
                co_return;
            }
            if (!stopping) look();
        }
    }

    Options options;
    OnEvent on_event;
    RemotesScan scan;
    std::optional<DirectoryWatcher> watcher;
    asio::steady_timer timer;
    bool look_again = false;
    bool stopping = false;
    TaskGroup tasks;
};

RemotesDirectory::RemotesDirectory(asio::any_io_executor executor, Options options,
                                   const Clock& clock, Logger log, OnEvent on_event)
    : impl_(std::make_unique<Impl>(std::move(executor), std::move(options), clock, log,
                                   std::move(on_event))) {}

RemotesDirectory::~RemotesDirectory() = default;

void RemotesDirectory::start() {
    impl_->look();
    impl_->tasks.spawn(impl_->watch());
}

asio::awaitable<void> RemotesDirectory::stop() {
    impl_->stopping = true;
    impl_->timer.cancel();
    impl_->tasks.cancel();
    co_await impl_->tasks.join();
    impl_->watcher.reset();
}

const std::map<std::string, std::string>& RemotesDirectory::errors() const {
    return impl_->scan.errors();
}

}  // namespace mesh::sources::config
