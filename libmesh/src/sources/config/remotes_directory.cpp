#include "sources/config/remotes_directory.hpp"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <system_error>
#include <utility>

#include "runtime/task_group.hpp"

namespace mesh::sources::config {

namespace asio = boost::asio;

struct RemotesDirectory::Impl {
    Impl(asio::any_io_executor ex, Options opt, Logger logger, OnEvent callback)
        : options(std::move(opt)),
          log(logger),
          on_event(std::move(callback)),
          scan(options.directory, options.local_cluster, logger),
          events(ex),
          timer(ex),
          tasks(ex) {}

    void open_inotify();
    void follow(const std::set<std::string>& folders);
    /// Looks now, and returns how long to wait until the next look if nothing is heard.
    Duration look();
    asio::awaitable<void> listen();
    asio::awaitable<void> pace();

    Options options;
    Logger log;
    OnEvent on_event;
    RemotesScan scan;
    asio::posix::stream_descriptor events;
    asio::steady_timer timer;
    std::map<std::string, int> watched;
    bool heard = false;
    bool stopping = false;
    bool listening = false;
    TaskGroup tasks;
};

void RemotesDirectory::Impl::open_inotify() {
    const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        log.warn("{}: no inotify ({}); changes are seen by a look every {} ms", options.directory,
                 std::generic_category().message(errno), options.settle.count() * 5 / 1'000'000);
        return;
    }
    events.assign(fd);
    listening = true;
}

void RemotesDirectory::Impl::follow(const std::set<std::string>& folders) {
    if (!listening) return;
    constexpr std::uint32_t kMask = IN_CREATE | IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_DELETE |
                                    IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF |
                                    IN_ONLYDIR;
    const int fd = events.native_handle();
    // Added anew each time: a folder replaced under the same name is another inode.
    std::map<std::string, int> now;
    for (const std::string& folder : folders) {
        const int wd = ::inotify_add_watch(fd, folder.c_str(), kMask);
        if (wd >= 0) now[folder] = wd;
    }
    std::set<int> used;
    for (const auto& [folder, wd] : now) used.insert(wd);
    for (const auto& [folder, wd] : watched) {
        if (!used.contains(wd)) ::inotify_rm_watch(fd, wd);
    }
    watched = std::move(now);
}

Duration RemotesDirectory::Impl::look() {
    auto outcome = scan.scan();
    const bool deaf = !listening || watched.size() < outcome.folders.size();
    follow(outcome.folders);
    for (const RemoteEvent& event : outcome.events) on_event(event);
    if (outcome.look_again || deaf) return options.settle * 3;
    return options.rescan;
}

asio::awaitable<void> RemotesDirectory::Impl::listen() {
    std::array<char, 8192> buffer{};
    while (!stopping) {
        boost::system::error_code ec;
        co_await events.async_read_some(asio::buffer(buffer),
                                        asio::redirect_error(asio::use_awaitable, ec));
        if (ec) co_return;
        // Which file it was does not matter: the scan compares all. IN_Q_OVERFLOW needs no care.
        heard = true;
        timer.cancel();
    }
}

asio::awaitable<void> RemotesDirectory::Impl::pace() {
    // The first look was start()'s; what happened since then is in the inotify queue.
    Duration wait = options.settle;
    while (!stopping) {
        boost::system::error_code ec;
        if (!heard) {
            timer.expires_after(wait);
            co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
        }
        if (stopping) co_return;
        if (heard) {
            // Let the writer finish; what is heard meanwhile is part of the same look. A steady
            // stream of events cannot put the look off: the wait is not started over.
            timer.expires_after(options.settle);
            const auto until = timer.expiry();
            do {
                timer.expires_at(until);
                co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
            } while (ec && !stopping);
            if (stopping) co_return;
            heard = false;
        }
        wait = look();
    }
}

RemotesDirectory::RemotesDirectory(asio::any_io_executor executor, Options options, Logger log,
                                   OnEvent on_event)
    : impl_(std::make_unique<Impl>(std::move(executor), std::move(options), std::move(log),
                                   std::move(on_event))) {}

RemotesDirectory::~RemotesDirectory() = default;

void RemotesDirectory::start() {
    impl_->open_inotify();
    // Watched before it is read, so that nothing falls between.
    impl_->follow({impl_->options.directory});
    static_cast<void>(impl_->look());
    if (impl_->listening) impl_->tasks.spawn(impl_->listen());
    impl_->tasks.spawn(impl_->pace());
}

asio::awaitable<void> RemotesDirectory::stop() {
    impl_->stopping = true;
    impl_->timer.cancel();
    boost::system::error_code ignored;
    if (impl_->listening) impl_->events.cancel(ignored);
    impl_->tasks.cancel();
    co_await impl_->tasks.join();
}

const std::map<std::string, std::string>& RemotesDirectory::errors() const {
    return impl_->scan.errors();
}

}  // namespace mesh::sources::config
