// The directory of remote clusters' configurations, read as Cilium reads it (spec protocol.md §2):
// a file that holds `endpoints:` is a remote whose name is the file's name. Changes act within a
// second: DirectoryWatcher tells of them, by inotify with a re-scan as a net.
//
// Invariants: same bytes, no event. A file that is bad keeps the last good configuration and gives
// one error per content, also when it holds `endpoints:` no longer. A directory that is away
// changes nothing: only a file that is seen to be gone or empty, twice in a row, removes its
// remote.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "sources/config/directory_watcher.hpp"
#include "sources/config/etcd_yaml.hpp"

namespace mesh::sources::config {

/// What happened to one remote's file.
struct RemoteEvent {
    enum class Kind : std::uint8_t { kAdded, kChanged, kRemoved };
    Kind kind = Kind::kAdded;
    std::string cluster;
    RemoteConfig config;  ///< empty if removed
};

/// One look at the directory after the other, compared. @thread one thread
class RemotesScan {
  public:
    /// @param local_cluster a file of this name is ignored
    RemotesScan(const std::string& directory, std::string local_cluster, const Clock& clock,
                Logger log);

    struct Outcome {
        std::vector<RemoteEvent> events;  ///< sorted by cluster
        bool look_again = false;          ///< something is missing: look again soon to be sure
    };
    /// Looks at the directory now. @errors none: they are logged and kept for errors()
    [[nodiscard]] Outcome scan();

    /// What is wrong now, by file name; the directory's own under "". For status.
    [[nodiscard]] const std::map<std::string, std::string>& errors() const { return errors_; }

  private:
    /// Takes in one changed file; true if it is a remote's configuration, good or bad.
    bool take(const std::string& name, const std::string& text, Outcome& out);
    void refuse(const std::string& name, const std::string& what);

    std::string directory_;
    Logger log_;
    DirectoryReader reader_;
    std::map<std::string, RemoteConfig> known_;
    std::set<std::string> missing_;  ///< known, but not there at the last look
    std::map<std::string, std::string> errors_;
};

/// Watches the directory on an executor and hands on what changes.
/// @thread the executor's thread
class RemotesDirectory {
  public:
    struct Options {
        std::string directory;
        std::string local_cluster;
        /// A file that is gone for this long removes its remote.
        std::chrono::milliseconds settle{300};
        DirectoryWatcherOptions watch{.quiet = std::chrono::milliseconds(50),
                                      .quiet_limit = std::chrono::milliseconds(300),
                                      .rescan = std::chrono::milliseconds(1000)};
    };
    using OnEvent = std::function<void(const RemoteEvent&)>;
    /// errors() is another than before.
    using OnErrors = std::function<void()>;

    RemotesDirectory(boost::asio::any_io_executor executor, Options options, const Clock& clock,
                     Logger log, OnEvent on_event, OnErrors on_errors = {});
    ~RemotesDirectory();
    RemotesDirectory(const RemotesDirectory&) = delete;
    RemotesDirectory& operator=(const RemotesDirectory&) = delete;

    /// Looks once, hands on what is there before it returns, then watches until stop().
    void start();
    /// Ends the watch; no event comes after it completes. Needed before destruction if started.
    [[nodiscard]] boost::asio::awaitable<void> stop();
    /// As RemotesScan::errors().
    [[nodiscard]] const std::map<std::string, std::string>& errors() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::sources::config
