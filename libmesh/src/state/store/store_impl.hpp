// The parts of a Store and what works on several of them. Internal to the store.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "runtime/clock.hpp"
#include "state/store/key_index.hpp"
#include "state/store/lessor.hpp"
#include "state/store/revision_log.hpp"
#include "state/store/store.hpp"
#include "state/store/watch_hub.hpp"

namespace mesh::store {

class Store::Impl final : public HistoryReader {
  public:
    Impl(std::unique_ptr<Backend> backend_in, const StoreOptions& options_in);

    // --- Writing: changes are made in memory first, and taken back if the backend refuses them
    // -------
    /// One revision's changes. Operations of a txn share one.
    class Writer;
    /// What flush() takes back on failure, newest last.
    struct Appended {};  // the last entry of the log
    struct LeaseAdded {
        LeaseId id;
    };
    struct LeaseRemoved {
        Lease lease;
    };
    using Undo = std::variant<Appended, LeaseAdded, LeaseRemoved>;

    Outcome<void> writable() const;
    void add_version(KeyValue kv);
    /// After each write operation: a commit of its own, unless hold() gathers.
    Outcome<void> settle();
    Outcome<void> commit();
    void undo_append();
    void undo_all();
    /// Takes back the newest changes, none of them committed, down to a log of that size.
    void take_back(std::size_t log_size, Revision revision_then);
    void publish();
    /// All of the log from the revision on.
    void tell_follower(Revision first) const;

    Outcome<void> load(TimePoint now);
    Outcome<void> load_record(KeyValue kv);
    void load_lease(const LeaseRecord& record, TimePoint now);

    // --- Reading ---------------------------------------------------------------------------------
    Outcome<void> check_revision(Revision wanted) const;
    /// The same by the rule for a txn's ranges: etcd takes 0 alone for "newest" there.
    Outcome<void> check_txn_revision(Revision wanted) const;
    /// A range at the request's revision, or the newest; revision in the answer is left to the
    /// caller.
    RangeAnswer read(const RangeRequest& request) const;
    bool holds(const Compare& compare) const;

    // HistoryReader
    [[nodiscard]] std::shared_ptr<const EventBatch> read_history(const KeyRange& range,
                                                                 Revision from) const override;
    [[nodiscard]] Revision published_revision() const noexcept override { return published; }
    [[nodiscard]] Event event_of(const KeyValue& kv) const;

    // --- Leases ----------------------------------------------------------------------------------
    void remove_lease(LeaseId id);
    void note_lease(LeaseId id, std::chrono::seconds remaining, bool granted = false);
    void checkpoint_leases(TimePoint now);

    // --- Compaction and mirror
    // ----------------------------------------------------------------------
    [[nodiscard]] std::vector<RecordPosition> superseded(Revision at);
    /// Erases what is in garbage, in as many commits as it takes; what the backend has no room for
    /// stays there. @param mark compact revision to note with the first commit
    /// @errors only if mark could not be noted; then nothing was erased
    Outcome<void> erase_superseded(std::optional<Revision> mark);
    void forget(Revision at);
    Outcome<void> become_mirror();
    /// Hands batch to the backend of a mirror, with the identity if that is new.
    void keep(WriteBatch batch);
    /// All live keys at a revision that is compacted.
    [[nodiscard]] WriteBatch everything() const;
    void advance_to(Revision at);
    void replace_all(Revision at, std::vector<KeyValue> kvs);
    void apply_difference(Revision at, std::vector<KeyValue> changed);

    struct Snapshot {
        Revision revision = 0;
        bool same_history = false;
        std::string last_key;           // of the pages so far
        std::vector<KeyValue> changed;  // new versions and tombstones
        std::uint32_t deletions = 0;    // of changed
        bool consistent = true;         // no change older than what we have seen
    };
    Outcome<void> check_page(const Snapshot& open, std::span<const KeyValue> page) const;
    /// Notes how page differs from what we hold; an empty page stands for the end of all keys.
    void compare_page(Snapshot& open, std::span<const KeyValue> page) const;

    std::unique_ptr<Backend> backend;
    StoreOptions options;
    Identity identity;
    Rng rng;

    KeyIndex index;
    RevisionLog log;
    Revision revision = 1;    // newest, durable or not
    Revision published = 1;   // newest that is durable and told to watchers
    Revision compacted = -1;  // -1 = never
    Revision floor = 0;       // oldest start of a new watch
    Revision log_start = 0;   // the log is complete from here on
    std::uint64_t rewrites = 0;
    Lessor lessor;
    std::optional<TimePoint> next_checkpoint;
    WatchHub hub;
    std::function<void(StoreChange)> follower;

    bool held = false;
    std::optional<StoreError> group_failure;  // of a commit that had to come before flush()
    WriteBatch pending;
    std::vector<Undo> undo;
    Revision revision_before = 1;  // of the group in progress

    bool mirror = false;
    bool holds_history = false;  // another etcd's
    std::uint64_t raft_term = 0;
    bool identity_is_new = false;  // to the backend
    bool backend_begun = false;    // of a mirror: it has a history to go on with
    Revision kept_from = 0;        // compacted, in the backend of a mirror
    std::optional<StoreError> backend_failure;
    std::function<void(Revision)> on_revision;
    std::optional<Snapshot> snapshot;

    // A commit copies every page it touches before the old ones are free: a backend that is full
    // takes small ones only, and larger ones as they make room.
    static constexpr std::size_t kMostErasedAtOnce = 1000;
    std::deque<RecordPosition> garbage;  // forgotten, but still in the backend
    std::size_t erase_at_once = kMostErasedAtOnce;
    std::uint64_t compaction_steps = 0;
    Revision first_superseding = kNewest;  // of what load() met: compacted here means garbage
};

/// Collects one revision's changes; revision() moves when the first one is made.
class Store::Impl::Writer {
  public:
    explicit Writer(Impl& impl)
        : impl_(impl),
          revision_before_(impl.revision),
          revision_(impl.revision + 1),
          log_before_(impl.log.size()) {}

    /// The revision that answers carry at this point of the txn.
    [[nodiscard]] Revision revision() const noexcept { return impl_.revision; }
    // An operation that fails has changed nothing itself; those before it stay until take_back().
    Outcome<PutAnswer> put(const PutRequest& request);
    Outcome<DeleteRangeAnswer> delete_range(const DeleteRangeRequest& request);
    Outcome<RangeAnswer> range(const RangeRequest& request);
    void delete_key(std::string_view key);
    /// Notes that the answer grows by so many key-values of a size. @errors kAnswerTooLarge
    Outcome<void> count_answer(std::span<const KeyValue> kvs);
    void take_back() { impl_.take_back(log_before_, revision_before_); }

  private:
    std::uint32_t next_position();
    [[nodiscard]] bool changed(const KeyValue& kv) const {
        return kv && kv.mod_revision() == revision_;
    }
    Impl& impl_;
    Revision revision_before_;
    Revision revision_;
    std::size_t log_before_;
    std::uint32_t changes_ = 0;
    std::size_t answer_bytes_ = 0;
};

}  // namespace mesh::store
