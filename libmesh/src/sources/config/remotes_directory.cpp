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
         OnEvent callback, OnErrors errors_callback)
        : options(std::move(opt)),
          on_event(std::move(callback)),
          on_errors(std::move(errors_callback)),
          scan(options.directory, options.local_cluster, clock, log),
          watcher(std::in_place, ex, options.directory, log, options.watch),
          timer(ex),
          tasks(ex) {}

    void look() {
        const auto errors_before = scan.errors();
        auto outcome = scan.scan();
        look_again = outcome.look_again;
        for (const RemoteEvent& event : outcome.events) {
            if (!stopping) on_event(event);
        }
        if (!stopping && on_errors && scan.errors() != errors_before) on_errors();
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
    OnErrors on_errors;
    RemotesScan scan;
    std::optional<DirectoryWatcher> watcher;
    asio::steady_timer timer;
    bool look_again = false;
    bool stopping = false;
    TaskGroup tasks;
};

RemotesDirectory::RemotesDirectory(asio::any_io_executor executor, Options options,
                                   const Clock& clock, Logger log, OnEvent on_event,
                                   OnErrors on_errors)
    : impl_(std::make_unique<Impl>(std::move(executor), std::move(options), clock, log,
                                   std::move(on_event), std::move(on_errors))) {}

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
