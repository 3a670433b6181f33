// List-then-watch of one prefix (protocol.md §5): lists in pages at one revision, watches from the
// next, and after a compaction or a change of etcd lists again, giving exact deletes for what
// vanished meanwhile. Keeps key → mod revision only; values pass through.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
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

/// Why a key is not let through.
enum class KeyRefusal : std::uint8_t {
    kOutside,  ///< it does not begin with the prefix
    kTooLong,  ///< longer than max_key_bytes
    kTooMany,  ///< max_keys are known already; if one goes, another list finds the room
};

/// Keys that were refused for one reason, in one answer.
struct RefusedKeys {
    KeyRefusal reason{};
    std::uint64_t count = 0;
    std::string_view last;  ///< cut off; valid during the call
};

struct PrefixWatcherOptions {
    std::string prefix;  ///< with its trailing slash
    /// When another etcd answers (cluster id, or a revision that went back): wait in kHeld until
    /// proceed(), keeping what is known. For readers that gate lists on a canary. False: list again
    /// at once.
    bool hold_on_history_change = false;
    /// What a server may make us remember. Keys beyond are not told, but counted as refused; a list
    /// that goes on behind them is not read to its end.
    std::uint64_t max_keys = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t max_key_bytes = std::numeric_limits<std::uint64_t>::max();  ///< the prefix's too
    std::uint64_t max_list_bytes = std::numeric_limits<std::uint64_t>::max();
};

struct PrefixWatcherEvents {
    enum class State : std::uint8_t {
        kListing,   ///< the first list, or one again
        kWatching,  ///< in step with the server
        kLost,      ///< connection lost; what is known stays
        kHeld,      ///< see hold_on_history_change
        kRefused,   ///< the server refuses the prefix, or its answers make no sense; retried by
                    ///< backoff
    };
    std::function<void(const Batch&)> on_batch;
    /// Once per list that ended, after its last batch (its deletes included).
    std::function<void(const Header&)> on_list_done;
    /// Progress: nothing below the prefix changed up to header.revision.
    std::function<void(const Header&)> on_progress;
    /// @see WatchEvents::on_in_step
    std::function<void(const Header&)> on_in_step;
    /// After the batch of the answer that they came with.
    std::function<void(const RefusedKeys&)> on_refused;
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
