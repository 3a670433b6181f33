// Watching the store. One revision's events are made once, as an immutable batch that all watchers
// share: a server that serialises them keeps the bytes in the batch (see EventBatch::encoded) and
// sends the same bytes to every watcher. Watchers are found by key and range, so that a change
// costs O(log ranges + matching watchers).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "state/store/key_value.hpp"
#include "state/store/ops.hpp"

namespace mesh::store {

enum class WatchId : std::uint64_t {};

struct Event {
    KeyValue kv{};    ///< a tombstone = deleted
    KeyValue prev{};  ///< the version before; null if there was none or history no longer has it
};

/// Events in order of (mod revision, position); always all events of a revision (of the watched
/// range). A live batch has one revision; one that catches a watcher up from history may have many.
struct EventBatch {
    Revision revision = 0;  ///< everything up to here has been seen by who took this batch
    std::vector<Event> events{};
    /// Room for what a consumer derives from the batch once and reuses for every watcher, e.g. its
    /// serialised form. The store never touches it. @thread the store's loop
    mutable std::shared_ptr<void> encoded;
};

/// What one watcher gets: a shared batch and which of its events are for it.
struct Delivery {
    std::shared_ptr<const EventBatch> batch;
    /// Positions in batch->events, ascending, never empty; null = all of them. Shared by all
    /// watchers of the same range and filters.
    std::shared_ptr<const std::vector<std::uint32_t>> selection;
};

enum class CancelReason : std::uint8_t {
    kCompacted,  ///< the events it still had to see are gone
    kReplaced,   ///< the mirrored etcd is another one now; revisions start anew
};

/// A watched range and who watches it, at a moment.
struct WatchedRange {
    KeyRange range{};          ///< views, valid during the call that shows it
    std::size_t watchers = 0;  ///< those behind included
    std::size_t behind = 0;    ///< being caught up from history, or waiting for room
    std::size_t blocked = 0;   ///< of them, those whose sink had no room
};

/// One watcher at a moment.
struct WatchState {
    KeyRange range{};  ///< views, valid until the watcher is gone
    bool no_put = false, no_delete = false;
    bool behind = false, blocked = false;
};

/// Takes a watcher's events. Called from within Store calls of the owner's loop, after what it
/// tells is durable. May call Store::cancel_watch and reading calls; must not write to the store or
/// add watches.
class WatchSink {
  public:
    virtual ~WatchSink() = default;
    /// @return false = no room: the batch was not taken. The watcher then falls behind, gets
    /// nothing until Store::resume(id), and is caught up from history from that batch on.
    [[nodiscard]] virtual bool on_events(WatchId id, const Delivery& delivery) = 0;
    /// The watcher has seen everything up to revision (answer to Store::request_progress).
    virtual void on_progress(WatchId id, Revision revision) = 0;
    /// The watch is gone. @param floor the oldest revision that a new watch may start at
    virtual void on_cancelled(WatchId id, CancelReason reason, Revision floor) = 0;
};

/// Most bytes of a watched key and range_end together: they stay in memory as long as the watch.
inline constexpr std::size_t kMaxWatchRangeBytes = 65536;

struct WatchRequest {
    KeyRange range{};  ///< copied; an empty key means the first possible one
    /// First revision to see; 0 = from now on; may lie in the future. A negative one is compacted,
    /// but for -1 in a store that never was, which means from the first revision on (as in etcd).
    Revision start_revision = 0;
    bool no_put = false;     ///< leave out puts
    bool no_delete = false;  ///< leave out deletes
};

}  // namespace mesh::store
