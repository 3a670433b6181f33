// The life of a program: one event loop on the calling thread, SIGTERM and SIGINT ask it to stop
// (a second one ends it at once), SIGHUP asks it to reload, systemd is told when it is ready.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string>

#include "base/log.hpp"
#include "common/flags.hpp"

namespace mesh::daemon {

/// How many descriptors this process may have open: the soft limit, which a Daemon has raised to
/// the hard one. @thread any thread
[[nodiscard]] std::size_t most_descriptors();

/// One per process, made in main(). Raises the soft limit of open descriptors to the hard one.
///
///     daemon::Daemon daemon("mesh-x", flags);
///     return daemon.run([&]() -> asio::awaitable<Result<void>> {
///         MESH_CO_CHECK(server.start());
///         daemon.set_ready();
///         co_await daemon.stop_requested();
///         co_await server.async_stop();
///         co_return Result<void>{};
///     });
///
/// @thread the thread that calls run()
class Daemon {
  public:
    Daemon(std::string name, const CommonFlags& flags);
    ~Daemon();
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;

    [[nodiscard]] boost::asio::any_io_executor executor() const;
    [[nodiscard]] const Logger& log() const noexcept;

    /// Completes when a signal or request_stop() asked for the end. Any number of waiters.
    [[nodiscard]] boost::asio::awaitable<void> stop_requested();
    /// Asks for a clean stop, as SIGTERM does.
    void request_stop();
    /// Called on each SIGHUP; systemd is told before and after. Without it SIGHUP is logged and
    /// ignored.
    void on_reload(std::function<void()> reload);
    /// Tells systemd (sd_notify, if NOTIFY_SOCKET is set) READY=1; only the first call counts.
    void set_ready();

    /// Runs the loop until `main` has returned; it is to join what it started.
    /// @return the exit code: kExitOk; kExitUsage if main's error is kInvalidArgument (a bad
    ///   configuration); else kExitFailure. The error is logged here, once.
    [[nodiscard]] int run(std::function<boost::asio::awaitable<Result<void>>()> main);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::daemon
