#include "state/store/lmdb_backend.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <lmdb.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <limits>
#include <string_view>
#include <system_error>
#include <utility>

// Layout (format "1"). All integers big-endian, so that LMDB's bytewise order is theirs.
//   db "meta":   "format" → text; "cluster_id", "member_id", "revision", "compact_revision" → u64;
//                of a mirror also "raft_term"
//   db "rev":    revision u64, position u32 → create u64, version u64, lease u64, flags u8
//                (1 = tombstone), key size u32, key, value
//   db "lease":  id u64 → ttl seconds u64, remaining seconds u64

namespace mesh::store {
namespace {

constexpr std::string_view kFormat = "libmesh store 1";
constexpr std::string_view kMirrorFormat = "libmesh mirror 1";
constexpr std::string_view kAnyMirror = "libmesh mirror ";
constexpr std::size_t kHeader = 8 + 8 + 8 + 1 + 4;
// Kept free below the bound, for what makes room: an eighth of it, at most this. Half of that is
// for compaction alone.
constexpr std::uint64_t kMostReserved = std::uint64_t{64} << 20;
// Beside LMDB's codes: what a change would leave in use is over its limit.
constexpr int kOverLimit = 1'000'000;

template <class Int>
void append_int(std::string& out, Int value) {
    for (int shift = static_cast<int>(sizeof(Int)) * 8 - 8; shift >= 0; shift -= 8)
        out.push_back(static_cast<char>((static_cast<std::uint64_t>(value) >> shift) & 0xff));
}

std::uint64_t read_int(std::string_view bytes) {
    std::uint64_t value = 0;
    for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
    return value;
}

MDB_val to_val(std::string_view bytes) {
    return {bytes.size(), const_cast<char*>(bytes.data())};  // LMDB does not write through it
}
std::string_view to_view(const MDB_val& value) {
    return {static_cast<const char*>(value.mv_data), value.mv_size};
}

std::string position_key(const RecordPosition& position) {
    std::string key;
    append_int(key, position.revision);
    append_int(key, position.sub_revision);
    return key;
}

std::string encode_record(const KeyValue& kv) {
    std::string out;
    out.reserve(kHeader + kv.key().size() + kv.value().size());
    append_int(out, kv.create_revision());
    append_int(out, kv.version());
    append_int(out, number(kv.lease()));
    out.push_back(kv.tombstone() ? '\1' : '\0');
    append_int(out, static_cast<std::uint32_t>(kv.key().size()));
    out.append(kv.key()).append(kv.value());
    return out;
}

/// @return null if the bytes make no sense
KeyValue parse_record(std::string_view position, std::string_view bytes) {
    if (position.size() != 12 || bytes.size() < kHeader) return {};
    const std::uint64_t key_size = read_int(bytes.substr(25, 4));
    const std::string_view rest = bytes.substr(kHeader);
    const auto flags = static_cast<unsigned char>(bytes[24]);
    if (key_size > rest.size() || flags > 1) return {};
    const auto signed_at = [&bytes](std::size_t at) {
        return static_cast<std::int64_t>(read_int(bytes.substr(at, 8)));
    };
    const std::uint64_t sub = read_int(position.substr(8, 4));
    if (sub >= std::uint64_t{1} << 31) return {};
    return KeyValue::make(
        rest.substr(0, key_size), rest.substr(key_size),
        {.create_revision = signed_at(0),
         .mod_revision = static_cast<std::int64_t>(read_int(position.substr(0, 8))),
         .version = signed_at(8),
         .lease = LeaseId{signed_at(16)},
         .sub_revision = static_cast<std::uint32_t>(sub),
         .tombstone = flags == 1});
}

struct CloseEnv {
    void operator()(MDB_env* env) const { mdb_env_close(env); }
};
struct AbortTxn {
    void operator()(MDB_txn* txn) const { mdb_txn_abort(txn); }
};
struct CloseCursor {
    void operator()(MDB_cursor* cursor) const { mdb_cursor_close(cursor); }
};
using Env = std::unique_ptr<MDB_env, CloseEnv>;
using Txn = std::unique_ptr<MDB_txn, AbortTxn>;
using Cursor = std::unique_ptr<MDB_cursor, CloseCursor>;

class FileDescriptor {
  public:
    explicit FileDescriptor(int fd = -1) : fd_(fd) {}
    FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~FileDescriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    [[nodiscard]] int get() const noexcept { return fd_; }

  private:
    int fd_;
};

class LmdbBackend final : public Backend {
  public:
    explicit LmdbBackend(LmdbOptions options) : options_(std::move(options)) {}

    Outcome<void> open();
    Outcome<BackendState> load(const std::function<Outcome<void>(KeyValue)>& on_record) override;
    Outcome<void> initialise(const Identity& identity) override;
    Outcome<void> commit(const WriteBatch& batch) override;
    [[nodiscard]] bool durable() const noexcept override { return true; }
    [[nodiscard]] bool keeps_mirror() const noexcept override { return options_.mirror; }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept override;
    [[nodiscard]] std::uint64_t size_in_use_bytes() const noexcept override;

  private:
    [[nodiscard]] std::string_view format() const noexcept {
        return options_.mirror ? kMirrorFormat : kFormat;
    }
    [[nodiscard]] StoreError other_format(std::string_view found) const;
    int apply_replacement(MDB_txn* txn) const;
    [[nodiscard]] std::string data_file() const { return options_.directory + "/data.mdb"; }
    [[nodiscard]] StoreError failure(int code, std::string_view what) const;
    [[nodiscard]] StoreError corrupt(std::string_view what) const;
    Outcome<void> lock();
    Outcome<void> open_env();
    Outcome<void> prepare(MDB_env* env);
    Outcome<void> open_databases();
    /// Runs change in a write transaction, after opening anew if the last one failed.
    Outcome<void> write(const std::function<int(MDB_txn*)>& change);
    /// Grows the map and runs change again if it is full.
    Outcome<void> write_growing(const std::function<int(MDB_txn*)>& change);
    int write_once(const std::function<int(MDB_txn*)>& change);
    /// The most that may be in use after a batch that adds to it.
    [[nodiscard]] std::uint64_t limit_of(const WriteBatch& batch) const;
    [[nodiscard]] std::uint64_t bytes_in_use(MDB_txn* txn) const;
    int apply(MDB_txn* txn, const WriteBatch& batch) const;
    int put(MDB_txn* txn, MDB_dbi db, std::string_view key, std::string_view value) const;
    int erase(MDB_txn* txn, MDB_dbi db, std::string_view key) const;
    int put_number(MDB_txn* txn, std::string_view name, std::uint64_t value) const;
    Outcome<std::optional<std::uint64_t>> get_number(MDB_txn* txn, std::string_view name) const;
    Outcome<BackendState> load_meta(MDB_txn* txn) const;
    Outcome<void> load_leases(MDB_txn* txn, BackendState& state) const;
    Outcome<void> load_records(MDB_txn* txn,
                               const std::function<Outcome<void>(KeyValue)>& on_record) const;
    Outcome<void> each(
        MDB_txn* txn, MDB_dbi db,
        const std::function<Outcome<void>(std::string_view, std::string_view)>& f) const;

    int step(MDB_cursor* cursor, MDB_val& key, MDB_val& value, MDB_cursor_op op) const;
    static void on_assert(MDB_env* env, const char* text);

    LmdbOptions options_;
    mutable std::jmp_buf* jump_ = nullptr;  // while step() runs
    FileDescriptor lock_;
    Env env_;
    MDB_dbi meta_ = 0, rev_ = 0, lease_ = 0;
    std::uint64_t map_bytes_ = 0;
    bool fresh_room_ = false;  // a commit erased versions, and none since made sure of their pages
    bool broken_ = false;      // LMDB may want to be opened anew after a failed write
};

StoreError LmdbBackend::failure(int code, std::string_view what) const {
    const bool space = code == kOverLimit || code == MDB_MAP_FULL || code == ENOSPC ||
                       code == EDQUOT || code == EFBIG || code == MDB_TXN_FULL;
    const bool damaged = code == MDB_CORRUPTED || code == MDB_INVALID ||
                         code == MDB_VERSION_MISMATCH || code == MDB_PAGE_NOTFOUND ||
                         code == MDB_INCOMPATIBLE;
    std::string detail =
        fmt::format("{}: {}: {}", data_file(), what,
                    code == kOverLimit ? "what is left is for deletes, leases and compaction"
                                       : mdb_strerror(code));
    if (code == MDB_MAP_FULL || code == kOverLimit)
        detail += fmt::format(" (the bound is {} bytes)", options_.max_map_bytes);
    const Fault fault = space ? Fault::kNoSpace : (damaged ? Fault::kCorrupt : Fault::kBackend);
    return {fault, std::move(detail)};
}

StoreError LmdbBackend::corrupt(std::string_view what) const {
    return {Fault::kCorrupt, fmt::format("{}: {}", data_file(), what)};
}

// --- Opening
// ------------------------------------------------------------------------------------------

Outcome<void> LmdbBackend::lock() {
    const std::string& directory = options_.directory;
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
        return StoreError(Fault::kBackend, fmt::format("{}: cannot make the directory: {}",
                                                       directory, std::strerror(errno)));
    const std::string file = directory + "/owner.lock";
    lock_ = FileDescriptor(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (lock_.get() < 0)
        return StoreError(Fault::kBackend, fmt::format("{}: {}", file, std::strerror(errno)));
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0)
        return StoreError(Fault::kBackend, fmt::format("{}: in use by another process", directory));
    return {};
}

Outcome<void> LmdbBackend::open_env() {
    // Until all of it is done, whatever was opened before stays, for those that only ask for sizes.
    MDB_env* raw = nullptr;
    if (const int code = mdb_env_create(&raw); code != 0) return failure(code, "create");
    Env env(raw);
    MESH_CHECK(prepare(raw));
    env_ = std::move(env);
    return {};
}

Outcome<void> LmdbBackend::prepare(MDB_env* env) {
    mdb_env_set_maxdbs(env, 3);
    mdb_env_set_userctx(env, this);
    mdb_env_set_assert(env, &LmdbBackend::on_assert);
    // A file that has grown beyond the options' first size keeps its own.
    struct stat info {};
    const bool exists = ::stat(data_file().c_str(), &info) == 0;
    const std::uint64_t on_disk = exists ? static_cast<std::uint64_t>(info.st_size) : 0;
    if (map_bytes_ == 0) map_bytes_ = options_.initial_map_bytes;
    map_bytes_ = std::max(map_bytes_, on_disk);
    mdb_env_set_mapsize(env, map_bytes_);
    // One thread of one process uses it, which owner.lock ensures: LMDB's own lock file is not
    // needed.
    const unsigned flags = MDB_NOTLS | MDB_NOLOCK | (options_.sync ? 0U : unsigned{MDB_NOSYNC});
    if (const int code = mdb_env_open(env, options_.directory.c_str(), flags, 0600); code != 0)
        return failure(code, "open");
    // Pages that LMDB freed before it wrote them may lie behind the file's end; in a file that was
    // cut short, so may pages it needs. As zeros these are found corrupt; as a hole in the map they
    // kill.
    MDB_envinfo tree{};
    MDB_stat pages{};
    mdb_env_info(env, &tree);
    mdb_env_stat(env, &pages);
    const std::uint64_t needed = (tree.me_last_pgno + 1) * pages.ms_psize;
    if (exists && on_disk < needed &&
        ::truncate(data_file().c_str(), static_cast<off_t>(needed)) != 0)
        return failure(errno, fmt::format("extend to {} bytes", needed));
    return {};
}

Outcome<void> LmdbBackend::open_databases() {
    return write_growing([this](MDB_txn* txn) {
        int code = mdb_dbi_open(txn, "meta", MDB_CREATE, &meta_);
        if (code == 0) code = mdb_dbi_open(txn, "rev", MDB_CREATE, &rev_);
        if (code == 0) code = mdb_dbi_open(txn, "lease", MDB_CREATE, &lease_);
        return code;
    });
}

Outcome<void> LmdbBackend::open() {
    MESH_CHECK(lock());
    MESH_CHECK(open_env());
    return open_databases();
}

// --- Writing
// ------------------------------------------------------------------------------------------

int LmdbBackend::write_once(const std::function<int(MDB_txn*)>& change) {
    MDB_txn* raw = nullptr;
    if (const int code = mdb_txn_begin(env_.get(), nullptr, 0, &raw); code != 0) return code;
    Txn txn(raw);
    if (const int code = change(txn.get()); code != 0) return code;
    return mdb_txn_commit(txn.release());
}

Outcome<void> LmdbBackend::write(const std::function<int(MDB_txn*)>& change) {
    if (broken_) {
        MESH_CHECK(open_env());
        MESH_CHECK(open_databases());
        broken_ = false;
    }
    return write_growing(change);
}

Outcome<void> LmdbBackend::write_growing(const std::function<int(MDB_txn*)>& change) {
    for (;;) {
        const int code = write_once(change);
        if (code == 0) return {};
        if (code == MDB_MAP_FULL && map_bytes_ < options_.max_map_bytes) {
            const std::uint64_t grown = std::min(map_bytes_ * 2, options_.max_map_bytes);
            if (const int failed = mdb_env_set_mapsize(env_.get(), grown); failed != 0)
                return failure(failed, fmt::format("grow the map to {} bytes", grown));
            map_bytes_ = grown;
            continue;
        }
        // What the last commit freed can be used from the next but one on.
        if (code == MDB_MAP_FULL && std::exchange(fresh_room_, false) &&
            write_once([this](MDB_txn* txn) { return put(txn, meta_, "format", format()); }) == 0)
            continue;
        broken_ = code != MDB_MAP_FULL && code != kOverLimit;
        return failure(code, "write");
    }
}

int LmdbBackend::put(MDB_txn* txn, MDB_dbi db, std::string_view key, std::string_view value) const {
    MDB_val k = to_val(key);
    MDB_val v = to_val(value);
    return mdb_put(txn, db, &k, &v, 0);
}

int LmdbBackend::erase(MDB_txn* txn, MDB_dbi db, std::string_view key) const {
    MDB_val k = to_val(key);
    const int code = mdb_del(txn, db, &k, nullptr);
    return code == MDB_NOTFOUND ? 0 : code;
}

int LmdbBackend::put_number(MDB_txn* txn, std::string_view name, std::uint64_t value) const {
    std::string bytes;
    append_int(bytes, value);
    return put(txn, meta_, name, bytes);
}

int LmdbBackend::apply(MDB_txn* txn, const WriteBatch& batch) const {
    const auto each_of = [](const auto& items, const auto& change) {
        int code = 0;
        for (auto item = items.begin(); code == 0 && item != items.end(); ++item)
            code = change(*item);
        return code;
    };
    int code = batch.replace ? apply_replacement(txn) : 0;
    if (code == 0)
        code = each_of(batch.records, [&](const KeyValue& kv) {
            return put(txn, rev_, position_key({kv.mod_revision(), kv.sub_revision()}),
                       encode_record(kv));
        });
    if (code == 0)
        code = each_of(batch.erased, [&](const RecordPosition& position) {
            return erase(txn, rev_, position_key(position));
        });
    if (code == 0)
        code = each_of(batch.erased_leases, [&](LeaseId id) {
            std::string key;
            append_int(key, number(id));
            return erase(txn, lease_, key);
        });
    if (code == 0)
        code = each_of(batch.leases, [&](const LeaseRecord& lease) {
            std::string key;
            std::string value;
            append_int(key, number(lease.id));
            append_int(value, lease.ttl_seconds);
            append_int(value, lease.remaining_seconds);
            return put(txn, lease_, key, value);
        });
    if (code == 0 && batch.revision)
        code = put_number(txn, "revision", static_cast<std::uint64_t>(*batch.revision));
    if (code == 0 && batch.compact_revision)
        code = put_number(txn, "compact_revision",
                          static_cast<std::uint64_t>(*batch.compact_revision));
    if (code == 0 && batch.identity)
        code = put_number(txn, "cluster_id", batch.identity->cluster_id);
    if (code == 0 && batch.identity) code = put_number(txn, "member_id", batch.identity->member_id);
    if (code == 0 && batch.raft_term) code = put_number(txn, "raft_term", *batch.raft_term);
    return code;
}

int LmdbBackend::apply_replacement(MDB_txn* txn) const {
    int code = mdb_drop(txn, rev_, 0);
    if (code == 0) code = put(txn, meta_, "format", format());
    return code;
}

std::uint64_t LmdbBackend::limit_of(const WriteBatch& batch) const {
    const std::uint64_t reserve = std::min(options_.max_map_bytes / 8, kMostReserved);
    if (batch.grows()) return options_.max_map_bytes - reserve;
    if (!batch.compacts()) return options_.max_map_bytes - reserve / 2;
    return std::numeric_limits<std::uint64_t>::max();
}

std::uint64_t LmdbBackend::bytes_in_use(MDB_txn* txn) const {
    std::uint64_t bytes = 0;
    for (const MDB_dbi db : {meta_, rev_, lease_}) {
        MDB_stat stat{};
        if (mdb_stat(txn, db, &stat) == 0)
            bytes += (stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages) *
                     std::uint64_t{stat.ms_psize};
    }
    return bytes;
}

Outcome<void> LmdbBackend::commit(const WriteBatch& batch) {
    const std::uint64_t limit = limit_of(batch);
    MESH_CHECK(write([&](MDB_txn* txn) {
        const std::uint64_t before = bytes_in_use(txn);
        if (const int code = apply(txn, batch); code != 0) return code;
        const std::uint64_t after = bytes_in_use(txn);
        return after > limit && after > before ? kOverLimit : 0;
    }));
    fresh_room_ = fresh_room_ || !batch.erased.empty();
    return {};
}

Outcome<void> LmdbBackend::initialise(const Identity& identity) {
    return write([&](MDB_txn* txn) {
        int code = put(txn, meta_, "format", format());
        if (code == 0) code = put_number(txn, "cluster_id", identity.cluster_id);
        if (code == 0) code = put_number(txn, "member_id", identity.member_id);
        if (code == 0) code = put_number(txn, "revision", 1);
        if (code == 0) code = put_number(txn, "compact_revision", 0);
        return code;
    });
}

// --- Reading
// ------------------------------------------------------------------------------------------

Outcome<std::optional<std::uint64_t>> LmdbBackend::get_number(MDB_txn* txn,
                                                              std::string_view name) const {
    MDB_val key = to_val(name);
    MDB_val value{};
    const int code = mdb_get(txn, meta_, &key, &value);
    if (code == MDB_NOTFOUND) return std::optional<std::uint64_t>();
    if (code != 0) return failure(code, name);
    if (value.mv_size != 8)
        return corrupt(fmt::format("{} has {} bytes, expected 8", name, value.mv_size));
    return std::optional(read_int(to_view(value)));
}

Outcome<BackendState> LmdbBackend::load_meta(MDB_txn* txn) const {
    BackendState state;
    MDB_val key = to_val("format");
    MDB_val value{};
    const int code = mdb_get(txn, meta_, &key, &value);
    if (code == MDB_NOTFOUND) {
        MDB_stat stat{};
        mdb_stat(txn, rev_, &stat);
        if (stat.ms_entries != 0) return corrupt("has revisions but no format");
        return state;
    }
    if (code != 0) return failure(code, "read the format");
    if (to_view(value) != format()) return other_format(to_view(value));
    std::array<std::uint64_t, 4> numbers{};
    constexpr std::array<std::string_view, 4> kNames{"cluster_id", "member_id", "revision",
                                                     "compact_revision"};
    for (std::size_t i = 0; i < kNames.size(); ++i) {
        MESH_TRY(const auto number, get_number(txn, kNames[i]));
        if (!number) return corrupt(fmt::format("has no {}", kNames[i]));
        numbers[i] = *number;
    }
    state.identity = Identity{.cluster_id = numbers[0], .member_id = numbers[1]};
    state.revision = static_cast<Revision>(numbers[2]);
    state.compact_revision = static_cast<Revision>(numbers[3]);
    if (options_.mirror) {
        MESH_TRY(const auto term, get_number(txn, "raft_term"));
        state.raft_term = term.value_or(0);
    }
    if (state.revision < 1 || state.compact_revision < 0 || state.compact_revision > state.revision)
        return corrupt(fmt::format("revision {} and compact revision {} do not fit", state.revision,
                                   state.compact_revision));
    return state;
}

StoreError LmdbBackend::other_format(std::string_view found) const {
    const bool of_mirror = found.starts_with(kAnyMirror);
    if (of_mirror && !options_.mirror)
        return {Fault::kBackend, fmt::format("{}: is the cache of a mirrored etcd, expected an own "
                                             "store; name another directory",
                                             data_file())};
    // Also of an own store of a later version: nobody's cache.
    if (!of_mirror && options_.mirror)
        return {Fault::kBackend,
                fmt::format("{}: is an own store (format \"{}\"), expected the cache of a mirrored "
                            "etcd; name another directory",
                            data_file(), found.substr(0, 64))};
    return corrupt(
        fmt::format("is of format \"{}\", expected \"{}\"", found.substr(0, 64), format()));
}

// LMDB finds some damage of a file by assertions, after which it would end the process. A read has
// nothing to undo: we leave it and call the file corrupt. No C++ object lives in the frames
// between.
void LmdbBackend::on_assert(MDB_env* env, const char*) {
    const auto* self = static_cast<const LmdbBackend*>(mdb_env_get_userctx(env));
    if (self != nullptr && self->jump_ != nullptr) std::longjmp(*self->jump_, 1);
}

int LmdbBackend::step(MDB_cursor* cursor, MDB_val& key, MDB_val& value, MDB_cursor_op op) const {
    std::jmp_buf from_assert;
    jump_ = &from_assert;
    const int code =
        setjmp(from_assert) == 0 ? mdb_cursor_get(cursor, &key, &value, op) : MDB_CORRUPTED;
    jump_ = nullptr;
    return code;
}

Outcome<void> LmdbBackend::each(
    MDB_txn* txn, MDB_dbi db,
    const std::function<Outcome<void>(std::string_view, std::string_view)>& f) const {
    MDB_cursor* raw = nullptr;
    if (const int code = mdb_cursor_open(txn, db, &raw); code != 0) return failure(code, "read");
    const Cursor cursor(raw);
    MDB_val key{};
    MDB_val value{};
    int code = step(raw, key, value, MDB_FIRST);
    for (; code == 0; code = step(raw, key, value, MDB_NEXT))
        MESH_CHECK(f(to_view(key), to_view(value)));
    if (code != MDB_NOTFOUND) return failure(code, "read");
    return {};
}

Outcome<void> LmdbBackend::load_leases(MDB_txn* txn, BackendState& state) const {
    return each(txn, lease_, [&](std::string_view key, std::string_view value) -> Outcome<void> {
        if (key.size() != 8 || value.size() != 16)
            return corrupt(fmt::format("lease of {} and {} bytes, expected 8 and 16", key.size(),
                                       value.size()));
        state.leases.push_back(
            {.id = LeaseId{static_cast<std::int64_t>(read_int(key))},
             .ttl_seconds = static_cast<std::int64_t>(read_int(value.substr(0, 8))),
             .remaining_seconds = static_cast<std::int64_t>(read_int(value.substr(8, 8)))});
        return {};
    });
}

Outcome<void> LmdbBackend::load_records(
    MDB_txn* txn, const std::function<Outcome<void>(KeyValue)>& on_record) const {
    return each(txn, rev_, [&](std::string_view key, std::string_view value) -> Outcome<void> {
        KeyValue kv = parse_record(key, value);
        if (!kv)
            return corrupt(
                fmt::format("record of {} and {} bytes cannot be read", key.size(), value.size()));
        if (Outcome<void> taken = on_record(std::move(kv)); !taken)
            return corrupt(taken.error().detail());
        return {};
    });
}

Outcome<BackendState> LmdbBackend::load(const std::function<Outcome<void>(KeyValue)>& on_record) {
    MDB_txn* raw = nullptr;
    if (const int code = mdb_txn_begin(env_.get(), nullptr, MDB_RDONLY, &raw); code != 0)
        return failure(code, "read");
    const Txn txn(raw);
    MESH_TRY(BackendState state, load_meta(raw));
    MESH_CHECK(load_leases(raw, state));
    MESH_CHECK(load_records(raw, on_record));
    return state;
}

std::uint64_t LmdbBackend::size_bytes() const noexcept {
    struct stat info {};
    return ::stat(data_file().c_str(), &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

std::uint64_t LmdbBackend::size_in_use_bytes() const noexcept {
    MDB_txn* raw = nullptr;
    if (!env_ || mdb_txn_begin(env_.get(), nullptr, MDB_RDONLY, &raw) != 0) return 0;
    const Txn txn(raw);
    return bytes_in_use(raw);
}

}  // namespace

Outcome<std::unique_ptr<Backend>> open_lmdb(const LmdbOptions& options) {
    auto backend = std::make_unique<LmdbBackend>(options);
    MESH_CHECK(backend->open());
    return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace mesh::store
