// The multi-version key-value store with etcd's semantics: revisions, history until compaction,
// ranges at a revision, transactions, leases, watches from a revision. One object, owned by one
// event loop; synchronous; does no I/O but through its Backend; takes the time as an argument.
//
// Invariants: revision() grows by one per write transaction that changed something; no key changes
// twice within a revision; a write is visible to watchers only after the backend has it; after a
// failed write everything is as before it.
//
// Used by serve/etcd (the etcd API in front of it) and by mesh-proxy (mirror mode).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/clock.hpp"
#include "state/store/backend.hpp"
#include "state/store/change.hpp"
#include "state/store/key_value.hpp"
#include "state/store/ops.hpp"
#include "state/store/outcome.hpp"
#include "state/store/watch.hpp"

namespace mesh::store {

struct StoreOptions {
    /// Used when the backend is new; otherwise its own stays. Take random numbers.
    Identity identity{};
    /// Shortest lease; shorter ones are granted this (etcd's default with its default timings).
    std::chrono::seconds min_lease_ttl{2};
    /// How often remaining lease times are made durable.
    std::chrono::seconds lease_checkpoint_interval{60};
    /// Most operations of a txn, as etcd's --max-txn-ops.
    std::size_t max_txn_ops = 128;
    /// Bounds of one catch-up delivery; a single revision may exceed them.
    std::size_t catch_up_events = 1000;
    std::size_t catch_up_bytes = std::size_t{1} << 20;
    /// Most bytes of key-values (with what they cost in memory) in the answer to a txn or a delete:
    /// a txn of a few bytes may ask for everything many times over.
    std::size_t max_answer_bytes = std::size_t{64} << 20;
    /// For lease ids that the store chooses.
    std::uint64_t seed = 0;
};

struct StoreStats {
    std::size_t keys = 0;         ///< live keys
    std::size_t log_entries = 0;  ///< changes that history holds
    std::size_t leases = 0;
    std::size_t watchers = 0;
    std::size_t behind = 0;              ///< watchers that history still has to catch up
    std::size_t watch_ranges = 0;        ///< distinct watched ranges
    std::size_t to_erase = 0;            ///< compacted versions that the backend still holds
    std::uint64_t compaction_steps = 0;  ///< changes and versions that compactions looked at
};

/// @thread control thread (the owner's loop) only; the KeyValues and EventBatches it hands out may
/// go to other threads (but EventBatch::encoded)
class Store {
  public:
    /// Loads what the backend holds.
    /// @param now monotonic; leases run on from their last durable remaining time
    /// @errors kCorrupt, kBackend (naming the file)
    [[nodiscard]] static Outcome<std::unique_ptr<Store>> open(std::unique_ptr<Backend> backend,
                                                              const StoreOptions& options,
                                                              TimePoint now);
    ~Store();
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    [[nodiscard]] const Identity& identity() const noexcept;
    /// The newest revision; 1 in an empty store. Within hold() it counts writes not yet durable.
    [[nodiscard]] Revision revision() const noexcept;
    /// Ranges below it answer kCompacted; 0 = nothing was compacted.
    [[nodiscard]] Revision compact_revision() const noexcept;
    /// The oldest start_revision that a new watch may have.
    [[nodiscard]] Revision watch_floor() const noexcept;
    /// Grows whenever what a revision holds may differ from what was told of it before: another
    /// history, a snapshot, a group that failed. While it stays, ranges at a revision are constant.
    [[nodiscard]] std::uint64_t rewrites() const noexcept;
    [[nodiscard]] StoreStats stats() const noexcept;
    [[nodiscard]] const Backend& backend() const noexcept;
    /// The revision to compact at so that history keeps at least the newest changes; at most what
    /// is compacted already = nothing to do.
    [[nodiscard]] Revision revision_keeping(std::size_t changes) const;

    // --- KV
    // -----------------------------------------------------------------------------------------

    /// @errors kEmptyKey, kCompacted, kFutureRevision
    /// @complexity O(log n + answer); a count is O(log n + n/128) at the newest revision
    [[nodiscard]] Outcome<RangeAnswer> range(const RangeRequest& request) const;
    /// @errors kEmptyKey, kValueProvided, kLeaseProvided, kKeyNotFound, kLeaseNotFound, kNoSpace,
    /// kBackend, kMirror
    Outcome<PutAnswer> put(const PutRequest& request);
    /// @errors kEmptyKey, kAnswerTooLarge (with prev_kv), kNoSpace, kBackend, kMirror
    Outcome<DeleteRangeAnswer> delete_range(const DeleteRangeRequest& request);
    /// All or nothing, in one revision. A txn without a change takes no revision.
    /// @errors those of its operations, kTooManyOps, kAnswerTooLarge; kDuplicateKey, also where
    /// etcd's own check lets a txn pass that would change a key twice
    Outcome<TxnAnswer> txn(const TxnRequest& request);
    /// Forgets versions that are older than revision and superseded at it. Once the backend has
    /// noted the revision it is done; the versions are erased there in several commits, and what a
    /// full disk still refuses in later ticks.
    /// @param revision 0 is good once, in a store that was never compacted (as in etcd)
    /// @return the store's revision. @errors kCompacted (already), kFutureRevision, kNoSpace,
    /// kBackend
    /// @complexity O(changes between the old and the new compact revision)
    Outcome<Revision> compact(Revision revision);

    // --- Group commit
    // -------------------------------------------------------------------------------

    /// From here on writes change the store but are neither durable nor seen by watchers until
    /// flush(). Their answers, and those of reads in between, must not leave before flush()
    /// succeeded.
    void hold() noexcept;
    /// One durable commit of everything since hold(), then the watchers are told. On failure all of
    /// it is undone: every answer of the group becomes this error.
    /// @errors kNoSpace, kBackend
    Outcome<void> flush();

    // --- Leases
    // -------------------------------------------------------------------------------------

    /// @param id 0 = choose one. @errors kLeaseExists, kLeaseTtlTooLarge, kNoSpace, kBackend,
    /// kMirror
    Outcome<LeaseGrant> lease_grant(LeaseId id, std::chrono::seconds ttl, TimePoint now);
    /// Deletes the lease and, in one revision, its keys. @return the store's revision
    /// @errors kLeaseNotFound, kNoSpace, kBackend, kMirror
    Outcome<Revision> lease_revoke(LeaseId id);
    /// @return the full time to live. @errors kLeaseNotFound
    Outcome<std::chrono::seconds> lease_keep_alive(LeaseId id, TimePoint now);
    /// A missing lease is an answer too: remaining = -1, granted = 0.
    [[nodiscard]] LeaseInfo lease_time_to_live(LeaseId id, bool with_keys, TimePoint now) const;
    /// By expiry, the soonest first.
    [[nodiscard]] std::vector<LeaseId> leases() const;
    /// Revokes what has expired, and makes remaining times durable now and then.
    /// @return how many leases expired. @errors kNoSpace, kBackend (leases then stay; call again)
    Outcome<std::size_t> tick(TimePoint now);
    /// When tick() has something to do next; none without leases.
    [[nodiscard]] std::optional<TimePoint> next_tick() const;

    // --- Watches
    // ------------------------------------------------------------------------------------

    /// Adds a watcher. Past events come with the next catch_up(), later ones as they are committed.
    /// @param sink lives until cancel_watch(id) returned or on_cancelled was called
    /// @errors kEmptyWatchRange, kWatchRangeTooLong; kCompacted if start_revision < watch_floor()
    Outcome<WatchId> watch(const WatchRequest& request, WatchSink& sink);
    /// Ends a watch silently; unknown ids are ignored. Allowed within sink callbacks.
    void cancel_watch(WatchId id);
    /// The sink has room again: the watcher goes back to being caught up.
    void resume(WatchId id);
    /// Whether the watcher has been given everything up to the newest durable revision.
    [[nodiscard]] bool is_up_to_date(WatchId id) const;
    /// Each watched range, in order. The visitor must not call the store. @complexity O(watchers)
    void for_each_watched_range(const std::function<void(const WatchedRange&)>& visit) const;
    /// @return nothing for unknown ids
    [[nodiscard]] std::optional<WatchState> watch_state(WatchId id) const;
    /// Watchers whose sink had no room: slow readers. @complexity O(watchers behind)
    [[nodiscard]] std::size_t blocked_watchers() const;
    /// What a watch is of, by etcd's conventions; unknown ids: nothing. Valid as long as the watch.
    [[nodiscard]] KeyRange watched_range(WatchId id) const;
    /// Calls on_progress if the watcher has seen everything. @return whether it has
    bool request_progress(WatchId id);
    /// Gives each watcher that is behind at most one delivery from history; at most budget
    /// deliveries.
    /// @return whether more is to do; call again in a later turn of the loop
    bool catch_up(std::size_t budget = 256);

    // --- Mirror mode: another etcd's history taken as our own
    // --------------------------------------- The first of these calls makes the store a mirror:
    // from then on put, delete_range, txn with writes and the lease calls answer kMirror; compact()
    // stays allowed. The backend keeps nothing, or keeps_mirror(): then the store is a mirror from
    // the beginning. A backend that fails does not stop a mirror; see backend_failure().

    /// Events of the mirrored keys, in order of their mod revision, with create and mod revision,
    /// version and lease as received (tombstones: KeyValue::make_tombstone). Each revision becomes
    /// one batch for watchers. Events that the store already has are skipped.
    /// @param revision everything of the mirrored keys up to here is in events or already applied
    /// (>= the events' revisions; a progress notification is a call without events)
    /// @errors kMirror out of order, or of a revision that the store passed without it: list again
    Outcome<void> apply_upstream(Revision revision, std::span<const KeyValue> events);
    /// The upstream's complete state at a revision, replacing ours: watchers get exact puts and
    /// deletes. History before it is gone for new watches (watch_floor() = revision + 1).
    /// @param kvs ascending by key; those of one revision have different sub revisions below 2^30
    /// if the backend is durable
    /// @param same_history false = another etcd than before (or the first): watchers are cancelled
    /// with kReplaced instead of being told a difference
    /// @errors kMirror not ascending, a mod revision above revision, or revision < revision() with
    /// same_history; the store is then unchanged
    Outcome<void> reset_from_snapshot(Revision revision, std::span<const KeyValue> kvs,
                                      bool same_history);

    /// The same in pages, so that a re-list need not be held twice: unchanged keys of a page are
    /// dropped at once. Nothing is visible before commit_snapshot(). apply_upstream() ends an open
    /// snapshot.
    void begin_snapshot(Revision revision, bool same_history);
    Outcome<void> add_snapshot_page(std::span<const KeyValue> page);
    Outcome<void> commit_snapshot();
    void abort_snapshot() noexcept;

    /// In mirror mode: the identity told to clients is the upstream's. It becomes durable with the
    /// next change, in one commit.
    /// @param raft_term kept with it, for who asks for raft_term() after a restart
    void set_identity(const Identity& identity, std::uint64_t raft_term = 0);
    [[nodiscard]] std::uint64_t raft_term() const noexcept;
    /// Whether it holds another etcd's history: after a complete snapshot, or from the backend.
    [[nodiscard]] bool mirrors() const noexcept;
    struct Newest {
        KeyValue live;    ///< the live key that changed last; null if none is live
        KeyValue change;  ///< the last change that is known, maybe a tombstone; null: none
    };
    /// @complexity O(keys)
    [[nodiscard]] Newest newest() const;
    /// In mirror mode: why what is durable is not kept up to date any more. A new snapshot of
    /// another history, or rewrite_backend(), starts anew.
    [[nodiscard]] const std::optional<StoreError>& backend_failure() const noexcept;
    /// Hands all live keys to the backend, in one batch. @complexity O(keys)
    void rewrite_backend();
    /// Called with each newest revision that readers and watchers may know of, after the watchers
    /// were told. Must not write to the store, nor add watches.
    void on_revision(std::function<void(Revision)> callback);

    // --- Copies: a store that follows another, in mirror mode
    // ---------------------------------------

    /// Called with each change once it is durable and told to watchers; replaces the one before,
    /// empty = none. Must not call the store.
    void on_change(std::function<void(StoreChange change)> callback);
    /// What makes an empty store equal to this one, its history included. Not within hold().
    /// @complexity O(keys + history)
    [[nodiscard]] std::vector<StoreChange> copy() const;
    /// Takes what another store told: all of copy(), then all changes since, in order.
    /// @errors kMirror: not what follows on what this store has; take a new copy()
    Outcome<void> apply(const StoreChange& change);

    class Impl;  // store_impl.hpp

  private:
    explicit Store(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::store
