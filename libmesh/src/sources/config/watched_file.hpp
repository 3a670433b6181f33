// One configuration file that may change while a program runs: its text when it is another one than
// before. Symbolic links are followed, so that a mounted ConfigMap (whose files change by a link of
// their folder) is seen like a file that is replaced or written over.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <string>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "sources/config/directory_watcher.hpp"

namespace mesh::sources::config {

/// @thread the executor's
class WatchedFile {
  public:
    /// What was read, or why it could not be; each once, until it is something else again.
    using OnChange = std::function<void(const Result<std::string>& text)>;

    /// @param limit bytes that it may have
    /// @param rescan how often it is looked at whatever inotify says
    WatchedFile(boost::asio::any_io_executor executor, std::string path, std::size_t limit,
                Logger log, std::chrono::milliseconds rescan = std::chrono::seconds(1));
    ~WatchedFile();
    WatchedFile(const WatchedFile&) = delete;
    WatchedFile& operator=(const WatchedFile&) = delete;

    /// Reads it now; what start() tells is what differs from it. @errors as read_file()
    [[nodiscard]] Result<std::string> read();
    /// Watches it until stop(). @param on_change called on the executor
    void start(OnChange on_change);
    /// Looks now (SIGHUP); a file that is as before is told again.
    void poke();
    /// Ends the watch. Needed before destruction if started.
    [[nodiscard]] boost::asio::awaitable<void> stop();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::sources::config
