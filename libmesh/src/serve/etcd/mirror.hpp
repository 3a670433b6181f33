// Keeps a Store in mirror mode equal to the mesh's prefixes of an upstream etcd: one list and one
// watch, whoever many clients read from the store. The store takes the upstream's revisions as its
// own, so that clients cannot tell the difference. While the upstream is away the store keeps
// serving; the mirror says since when it is stale, and on return resumes at its revision, or lists
// again with exact deletes when that revision is gone or another etcd answers. That it is the same
// history is proved by the newest key that was seen, not by ids and revisions alone. A store that
// was kept over a restart (store::open_mirror_cache) is served at once, as stale, and resumed in
// just that way.
//
// Invariant: the store's revision only grows while the upstream's history is the same one.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/read_barrier.hpp"
#include "sources/etcd/client.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

struct MirrorOptions {
    /// What is mirrored; none may be a leading part of another.
    std::vector<std::string> prefixes = {"cilium/", "mesh/local/"};
    Duration backoff_first = std::chrono::milliseconds(100);
    Duration backoff_limit = std::chrono::seconds(5);
    /// Between events the upstream is asked for a sign of life this often.
    Duration ask_interval = std::chrono::seconds(5);
    /// Silence beyond this is staleness, although the connection may still stand.
    Duration silence_limit = std::chrono::seconds(15);
    /// How long a read_barrier() waits for the upstream, and for what it had.
    Duration read_limit = std::chrono::seconds(1);
    /// When what the store has from before a restart was written last.
    std::optional<TimePoint> kept_since;
};

struct MirrorStatus {
    bool serving =
        false;          ///< a complete list has been taken; before that there is nothing to serve
    bool stale = true;  ///< not in step with the upstream now, as far as is known
    TimePoint stale_since{};            ///< only if stale: when the upstream was last heard
    etcd::Header position;              ///< of what is served
    std::uint64_t lists = 0;            ///< complete lists taken
    std::uint64_t history_changes = 0;  ///< lists that found another etcd than before
    std::uint64_t events = 0;           ///< changes taken from watches
    std::uint64_t failures = 0;
    std::string last_failure;
    std::string endpoint;  ///< of the upstream, while connected
    bool restored =
        false;  ///< what is served was kept over a restart, and no list was needed since
    store::Revision durable_revision = 0;  ///< where a restart would resume; 0 = nowhere
    ReadBarrierStats reads;
};

/// @thread the client's loop only
class Mirror {
  public:
    /// @param client not started yet; the mirror takes its on_connection. Outlives the mirror.
    /// @param store empty or already a mirror; outlives the mirror
    Mirror(boost::asio::any_io_executor loop, etcd::Client& client, store::Store& store,
           const Clock& clock, Rng rng, MirrorOptions options, Logger log);
    ~Mirror();
    Mirror(const Mirror&) = delete;
    Mirror& operator=(const Mirror&) = delete;

    /// Called after each change of the store, and when status() has changed. Set before start().
    void on_change(std::function<void()> callback);
    /// Starts the client and follows the upstream from now on.
    void start();
    /// Ends; await it before destruction. The client is left running.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();
    [[nodiscard]] const MirrorStatus& status() const noexcept;
    /// Asks the upstream what it has (see upstream_question.hpp): the answer comes when the store
    /// has all of it. Unknown, at once while the upstream is out of reach, else after read_limit.
    void read_barrier(OnReadMark then);

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::serve
