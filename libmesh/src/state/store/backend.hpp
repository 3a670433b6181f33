// Where a store keeps what must survive: the interface, and the one that keeps nothing. LMDB is in
// lmdb_backend.hpp. A backend sees revisions, leases and two numbers; all semantics are the
// store's.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "state/store/key_value.hpp"
#include "state/store/outcome.hpp"

namespace mesh::store {

/// Who a store is; kept with its data, since a revision means nothing without it.
struct Identity {
    std::uint64_t cluster_id = 0;
    std::uint64_t member_id = 0;
    friend bool operator==(const Identity&, const Identity&) = default;
};

struct LeaseRecord {
    LeaseId id{};
    std::int64_t ttl_seconds = 0;
    std::int64_t remaining_seconds = 0;
    bool granted = false;  ///< new with this batch; not kept
};

struct RecordPosition {
    Revision revision = 0;
    std::uint32_t sub_revision = 0;
    friend auto operator<=>(const RecordPosition&, const RecordPosition&) = default;
};

/// What one commit changes; all or nothing.
struct WriteBatch {
    std::vector<KeyValue> records;       ///< new versions and tombstones, in order
    std::vector<RecordPosition> erased;  ///< versions that compaction dropped
    std::vector<LeaseRecord> leases;     ///< new or changed
    std::vector<LeaseId> erased_leases;
    std::optional<Revision> revision;
    std::optional<Revision> compact_revision;
    /// First everything that was kept before is forgotten. Only in a backend that keeps_mirror().
    bool replace = false;
    std::optional<Identity> identity;        ///< of the mirrored etcd
    std::optional<std::uint64_t> raft_term;  ///< of the mirrored etcd
    [[nodiscard]] bool empty() const noexcept;
    /// Whether it adds keys or leases: what a backend that is nearly full refuses first.
    [[nodiscard]] bool grows() const noexcept;
    /// Whether all it does is compaction, which makes room: refused last.
    [[nodiscard]] bool compacts() const noexcept;
    void clear() noexcept;
};

/// What load() found.
struct BackendState {
    std::optional<Identity> identity;  ///< none = a new backend
    std::uint64_t raft_term = 0;       ///< of a mirrored etcd
    Revision revision = 1;
    Revision compact_revision = 0;
    std::vector<LeaseRecord> leases;
};

/// @thread the store's loop; calls block until done
class Backend {
  public:
    virtual ~Backend() = default;
    /// Reads everything. @param on_record called for each version in order of (revision, sub
    /// revision)
    /// @errors kCorrupt (naming file and place), kBackend
    virtual Outcome<BackendState> load(const std::function<Outcome<void>(KeyValue)>& on_record) = 0;
    /// Makes a new backend that store's. Called once, after a load() without identity.
    virtual Outcome<void> initialise(const Identity& identity) = 0;
    /// Makes the batch durable, or changes nothing. A backend with a bound keeps some room below it
    /// for batches that do not grow() (deletes, the ends of leases), and some of that for those
    /// that compacts(): a store that is full must be able to make room.
    /// @errors kNoSpace (disk or the configured bound), kBackend
    virtual Outcome<void> commit(const WriteBatch& batch) = 0;
    /// Whether commit() keeps anything; if not, the store does not fill batches.
    [[nodiscard]] virtual bool durable() const noexcept = 0;
    /// Whether what it keeps is another etcd's history, which a mirror can list again: it may then
    /// be behind what commit() took, and initialise() is not called.
    [[nodiscard]] virtual bool keeps_mirror() const noexcept { return false; }
    /// The newest revision that survives, where that may be behind what commit() took; else 0.
    [[nodiscard]] virtual Revision durable_revision() const noexcept { return 0; }
    /// Bytes on disk, and of them in use. @thread as the rest
    [[nodiscard]] virtual std::uint64_t size_bytes() const noexcept = 0;
    [[nodiscard]] virtual std::uint64_t size_in_use_bytes() const noexcept = 0;
};

/// Keeps nothing: the store lives in memory alone.
class MemoryBackend final : public Backend {
  public:
    Outcome<BackendState> load(const std::function<Outcome<void>(KeyValue)>& on_record) override;
    Outcome<void> initialise(const Identity& identity) override;
    Outcome<void> commit(const WriteBatch& batch) override;
    [[nodiscard]] bool durable() const noexcept override { return false; }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return 0; }
    [[nodiscard]] std::uint64_t size_in_use_bytes() const noexcept override { return 0; }
};

}  // namespace mesh::store
