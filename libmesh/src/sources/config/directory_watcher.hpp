// Watches one directory of small files (remote configurations, manifests): tells when something may
// have changed, and reads what did. Changes come from inotify; a re-scan each so often finds what
// inotify cannot see (targets of symbolic links, network file systems, a directory that appears
// later). Users: state/clusters and the operator's manifests.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"

namespace mesh::sources::config {

struct DirectoryWatcherOptions {
    /// A burst of events ends after this long without a further one.
    std::chrono::milliseconds quiet{50};
    /// ... and is reported after this long in any case.
    std::chrono::milliseconds quiet_limit{500};
    /// Reported as a possible change this often, whatever inotify says.
    std::chrono::milliseconds rescan{30'000};
};

/// Says when the directory should be read. The directory may be absent, vanish and come back.
/// @thread the executor's thread
class DirectoryWatcher {
  public:
    DirectoryWatcher(boost::asio::any_io_executor executor, std::filesystem::path directory,
                     Logger log, DirectoryWatcherOptions options = {});
    ~DirectoryWatcher();
    DirectoryWatcher(const DirectoryWatcher&) = delete;
    DirectoryWatcher& operator=(const DirectoryWatcher&) = delete;

    /// Completes when the directory may have changed since the previous completion; the first call
    /// completes at once. One call at a time.
    /// @errors kCancelled by asio cancellation
    [[nodiscard]] boost::asio::awaitable<Result<void>> async_changed();
    /// Makes the pending or the next async_changed() complete now (SIGHUP).
    void poke();

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

/// Reads the files of a directory that changed since the last read. Follows symbolic links; skips
/// sub-directories and names that begin with "." (editors' and kubelet's own files).
/// @thread one thread; blocks for the reads
class DirectoryReader {
  public:
    struct Limits {
        std::size_t max_files = 20'000;
        std::size_t max_file_bytes = 16 * 1024 * 1024;
    };
    struct File {
        std::string name;
        std::string content;
    };
    struct Failure {
        std::string name;
        Error error;  ///< names the path
    };
    /// In the bytewise order of names. A file that cannot be read is in `failed` (each time its
    /// failure is new) and neither changed nor removed; once it can be read again it is changed.
    struct Changes {
        std::vector<File> changed;
        std::vector<std::string> removed;
        std::vector<Failure> failed;
    };

    /// @param wanted decides by file name; empty = all
    DirectoryReader(std::filesystem::path directory, const Clock& clock,
                    std::function<bool(std::string_view name)> wanted, Limits limits);
    DirectoryReader(std::filesystem::path directory, const Clock& clock,
                    std::function<bool(std::string_view name)> wanted = {})
        : DirectoryReader(std::move(directory), clock, std::move(wanted), Limits{}) {}

    /// @errors kNotFound, kPermission or kUnavailable: the directory cannot be listed, nothing is
    ///   reported as removed; kCapacity: more than max_files
    [[nodiscard]] Result<Changes> read();
    /// Forgets what was read of `name`: the next read() reports it as changed again.
    void forget(std::string_view name);

  private:
    struct Seen {
        std::uint64_t device = 0, inode = 0, size = 0;
        std::int64_t mtime_ns = 0, ctime_ns = 0;
        bool settled = false;  ///< last modified long enough before the read to trust the stamps
        bool known = false;    ///< `hash` is of content that was reported
        std::size_t hash = 0;
        std::string failure;
    };
    [[nodiscard]] bool read_one(const std::string& name, Seen& seen, Changes& changes);

    std::filesystem::path directory_;
    const Clock& clock_;
    std::function<bool(std::string_view)> wanted_;
    Limits limits_;
    std::map<std::string, Seen, std::less<>> seen_;
};

}  // namespace mesh::sources::config
