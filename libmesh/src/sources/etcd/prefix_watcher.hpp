// List-then-watch of one prefix (protocol.md §5): lists in pages at one revision, watches from the
// next, and after a compaction or a change of etcd lists again, giving exact deletes for what
// vanished meanwhile. Keeps key → mod revision only; values pass through.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "sources/etcd/client.hpp"

namespace mesh::etcd {

struct Change {
    enum class Kind : std::uint8_t { kPut, kDelete };
    Kind kind = Kind::kPut;
    KeyValueView kv;         ///< of a delete: key and mod_revision only
    bool synthetic = false;  ///< a delete found by listing again; mod_revision is the list's
};

/// Changes in the order of their revisions (of a list: of their keys, deletes last). A revision is
/// never split over two batches of a watch.
struct Batch {
    Header header;  ///< who answered; header.revision is the list's or the last change's
    bool from_list = false;
    std::span<const Change> changes;
};

struct PrefixWatcherOptions {
    std::string prefix;  ///< with its trailing slash
    /// When another etcd answers (cluster id, or a revision that went back): wait in kHeld until
    /// proceed(), keeping what is known. For readers that gate lists on a canary. False: list again
    /// at once.
    bool hold_on_history_change = false;
};

struct PrefixWatcherEvents {
    enum class State : std::uint8_t {
        kListing,   ///< the first list, or one again
        kWatching,  ///< in step with the server
        kLost,      ///< connection lost; what is known stays
        kHeld,      ///< see hold_on_history_change
        kRefused,   ///< the server refuses the prefix; retried by backoff
    };
    std::function<void(const Batch&)> on_batch;
    /// Once per list that ended, after its last batch (its deletes included).
    std::function<void(const Header&)> on_list_done;
    /// Progress: nothing below the prefix changed up to header.revision.
    std::function<void(const Header&)> on_progress;
    std::function<void(State state, const Error* reason)> on_state;
};

/// @thread the client's loop only
class PrefixWatcher {
  public:
    /// Starts at once. @param client outlives the watcher
    PrefixWatcher(Client& client, const Clock& clock, Rng rng, PrefixWatcherOptions options,
                  PrefixWatcherEvents events);
    /// Stops; nothing is reported any more.
    ~PrefixWatcher();
    PrefixWatcher(const PrefixWatcher&) = delete;
    PrefixWatcher& operator=(const PrefixWatcher&) = delete;

    /// Lists again now, with exact deletes.
    void relist();
    /// Leaves kHeld by listing again.
    void proceed();
    [[nodiscard]] PrefixWatcherEvents::State state() const noexcept;
    [[nodiscard]] std::size_t keys() const noexcept;
    /// Where it stands: cluster id, member id and the revision up to which all is known.
    [[nodiscard]] const Header& position() const noexcept;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::etcd
