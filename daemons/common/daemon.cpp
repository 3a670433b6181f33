#include "common/daemon.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "common/log_sink.hpp"

namespace mesh::daemon {

namespace asio = boost::asio;

namespace {

/// sd_notify(3) without libsystemd: one datagram to the socket named in the environment.
void notify_systemd(const char* state) {
    const char* path = std::getenv("NOTIFY_SOCKET");
    if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
    sockaddr_un address{};
    const std::size_t length = std::strlen(path);
    if (length >= sizeof(address.sun_path)) return;
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = '\0';
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    // Whether systemd listens is its business: a failure to tell it changes nothing for us.
    (void)::sendto(fd, state, std::strlen(state), MSG_NOSIGNAL,
                   reinterpret_cast<const sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
    ::close(fd);
}

/// systemd of Type=notify-reload tells by the time which of its requests this is the answer to.
void notify_reloading() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const long long us = 1'000'000LL * now.tv_sec + now.tv_nsec / 1000;
    notify_systemd(("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(us)).c_str());
}

rlimit descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = limit.rlim_max = 1024;
    return limit;
}

/// Distributions keep the soft limit low for programs that use select(); ours do not.
void raise_descriptor_limit() {
    rlimit limit = descriptor_limit();
    if (limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    // What is refused here is lived with: most_descriptors() tells what there is.
    (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

std::size_t most_descriptors() {
    return static_cast<std::size_t>(descriptor_limit().rlim_cur);
}

struct Daemon::Impl {
    Impl(std::string name, const CommonFlags& flags)
        : log(make_logger(std::move(name), flags)),
          signals(context, SIGTERM, SIGINT),
          stop(context) {
        stop.expires_at(asio::steady_timer::time_point::max());
        // A peer that closes its end is an error of write(), not the end of the process.
        ::signal(SIGPIPE, SIG_IGN);
        raise_descriptor_limit();
        signals.add(SIGHUP);
    }

    void wait_for_signal() {
        signals.async_wait([this](const boost::system::error_code& ec, int number) {
            if (ec) return;
            if (number == SIGHUP) {
                if (reload) {
                    log.info("SIGHUP: reloading");
                    if (ready) notify_reloading();
                    reload();
                    if (ready && !stopping) notify_systemd("READY=1");
                } else {
                    log.info("SIGHUP: nothing to reload");
                }
            } else if (stopping) {
                log.warn("second signal {}: ending at once", number);
                ::_exit(kExitFailure);
            } else {
                log.info("{}: stopping", number == SIGTERM ? "SIGTERM" : "SIGINT");
                request_stop();
            }
            wait_for_signal();
        });
    }

    void request_stop() {
        if (std::exchange(stopping, true)) return;
        notify_systemd("STOPPING=1");
        stop.cancel();
    }

    asio::io_context context{1};
    Logger log;
    asio::signal_set signals;
    asio::steady_timer stop;
    std::function<void()> reload;
    bool stopping = false;
    bool ready = false;
};

Daemon::Daemon(std::string name, const CommonFlags& flags)
    : impl_(std::make_unique<Impl>(std::move(name), flags)) {}
Daemon::~Daemon() = default;

asio::any_io_executor Daemon::executor() const {
    return impl_->context.get_executor();
}
const Logger& Daemon::log() const noexcept {
    return impl_->log;
}
void Daemon::request_stop() {
    impl_->request_stop();
}
void Daemon::on_reload(std::function<void()> reload) {
    impl_->reload = std::move(reload);
}

asio::awaitable<void> Daemon::stop_requested() {
    boost::system::error_code ignored;
    // Cancellation of the waiter ends the wait, too: a task group may join it.
    if (!impl_->stopping) {
        co_await impl_->stop.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
}

void Daemon::set_ready() {
    if (!std::exchange(impl_->ready, true)) notify_systemd("READY=1");
}

int Daemon::run(std::function<asio::awaitable<Result<void>>()> main) {
    int code = kExitFailure;
    impl_->wait_for_signal();
    asio::co_spawn(impl_->context, main(), [&](std::exception_ptr failure, Result<void> result) {
        if (failure) {
            try {
                std::rethrow_exception(failure);
            } catch (const std::exception& e) {
                impl_->log.error("unexpected exception: {}", e.what());
            }
        } else if (!result) {
            impl_->log.error("{}", result.error().message());
            code = result.error().code() == Errc::kInvalidArgument ? kExitUsage : kExitFailure;
        } else {
            code = kExitOk;
        }
        // `main` has joined what it started; what still waits (signals, an idle inotify) is of no
        // use.
        impl_->context.stop();
    });
    impl_->context.run();
    return code;
}

}  // namespace mesh::daemon
