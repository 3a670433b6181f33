// Reads one remote for the cache (protocol.md §9): connects, takes its cluster-config, waits for
// canaries, lists and watches each resource raw, and tells the ledger. What it says is not decoded:
// readers of the cache validate it, as they do with a remote's own etcd; what is bounded here is
// how much of it there is, and that all of it stays below the remote's own part of the cache.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.hpp"
#include "model/types.hpp"
#include "reflect/cache_ledger.hpp"
#include "runtime/clock.hpp"
#include "sources/config/etcd_yaml.hpp"

namespace mesh::reflect {

struct ReaderStatus {
    bool connected = false;
    bool configured = false;  ///< its cluster-config was taken
    bool listed = false;      ///< every resource, once to the end, over this connection
    std::string endpoint;     ///< of the connection, or the last one
    model::ClusterId id{};
    std::int64_t revision = 0;  ///< of its etcd, as last heard
    std::optional<Duration> last_heard;
    std::uint64_t failures = 0, too_many = 0;  ///< too_many: keys and values beyond the limits
    std::string last_failure;                  ///< empty once all is well again
};

/// @thread the executor's thread
class RemoteReader {
  public:
    /// @param local_id ours, which no remote may have @param ledger, clock outlive it
    /// @param on_change the ledger has something to write, or status() is another
    RemoteReader(boost::asio::any_io_executor executor, CacheLedger& ledger, std::string cluster,
                 model::ClusterId local_id, std::uint32_t max_clusters, const Clock& clock, Rng rng,
                 Logger log, std::function<void()> on_change);
    ~RemoteReader();
    RemoteReader(const RemoteReader&) = delete;
    RemoteReader& operator=(const RemoteReader&) = delete;

    /// Connects by this configuration; what the ledger has stays until lists say otherwise.
    void configure(sources::config::RemoteConfig config);
    /// Reads all once more: the ledger needs values again.
    void read_again();
    /// Whether the remote is to wait: what it has told is more than was written yet.
    void hold(bool wait);
    /// Ends all tasks. Await it before destruction.
    [[nodiscard]] boost::asio::awaitable<void> stop();
    [[nodiscard]] ReaderStatus status() const;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::reflect
