#include "state/store/store.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "state/store/store_impl.hpp"
#include "state/store/txn_check.hpp"

namespace mesh::store {

Store::Impl::Impl(std::unique_ptr<Backend> backend_in, const StoreOptions& options_in)
    : backend(std::move(backend_in)),
      options(options_in),
      identity(options_in.identity),
      rng(options_in.seed),
      hub(*this) {}

// --- Opening
// ------------------------------------------------------------------------------------------

Outcome<void> Store::Impl::load_record(KeyValue kv) {
    const bool sane = !kv.key().empty() && kv.mod_revision() > 1 &&
                      kv.create_revision() <= kv.mod_revision() &&
                      (kv.tombstone() || (kv.version() > 0 && kv.create_revision() > 1));
    const bool in_order = log.size() == 0 || log.back().mod_revision() <= kv.mod_revision();
    if (!sane || !in_order)
        return StoreError(Fault::kCorrupt,
                          fmt::format("revision {}, position {}: key {} has create "
                                      "revision {} and version {}",
                                      kv.mod_revision(), kv.sub_revision(), kv.key(),
                                      kv.create_revision(), kv.version()));
    const KeyValue before = index.newest(kv.key());
    if (before && before.mod_revision() >= kv.mod_revision())
        return StoreError(Fault::kCorrupt, fmt::format("revision {}: key {} changes twice",
                                                       kv.mod_revision(), kv.key()));
    if (before) first_superseding = std::min(first_superseding, kv.mod_revision());
    if (kv.tombstone()) first_superseding = std::min(first_superseding, kv.mod_revision() + 1);
    index.append(kv);
    log.append(std::move(kv));
    return {};
}

void Store::Impl::load_lease(const LeaseRecord& record, TimePoint now) {
    const std::chrono::seconds remaining(
        std::clamp<std::int64_t>(record.remaining_seconds, 0, record.ttl_seconds));
    lessor.add({.id = record.id,
                .ttl = std::chrono::seconds(record.ttl_seconds),
                .expiry = now + remaining,
                .durable_remaining = remaining,
                .keys = {}});
    next_checkpoint = now + options.lease_checkpoint_interval;
}

Outcome<void> Store::Impl::load(TimePoint now) {
    MESH_TRY(const BackendState state,
             backend->load([this](KeyValue kv) { return load_record(std::move(kv)); }));
    mirror = backend->keeps_mirror();
    if (!state.identity && !mirror) MESH_CHECK(backend->initialise(identity));
    if (state.identity) identity = *state.identity;
    holds_history = backend_begun = mirror && state.identity;
    raft_term = state.raft_term;
    kept_from = state.compact_revision;
    if (log.size() != 0 && log.back().mod_revision() > state.revision)
        return StoreError(Fault::kCorrupt, fmt::format("revision {} is beyond the last one, {}",
                                                       log.back().mod_revision(), state.revision));
    revision = published = revision_before = state.revision;
    compacted = state.compact_revision > 0 ? state.compact_revision : -1;
    floor = log_start = state.compact_revision;
    if (first_superseding <= compacted) {
        // A compaction was not finished.
        const std::vector<RecordPosition> positions = superseded(compacted);
        garbage.assign(positions.begin(), positions.end());
        forget(compacted);
    }
    // A mirror's history may begin with a snapshot, which tells nothing of what led to it.
    if (mirror) floor = log_start = state.compact_revision + 1;
    while (log.size() != 0 && log[0].mod_revision() < floor) log.pop_front();
    for (const LeaseRecord& lease : state.leases) load_lease(lease, now);
    static constexpr std::string_view kZero("\0", 1);
    index.visit({kZero, kZero}, kNewest, [this](const KeyValue& kv) {
        lessor.move_key({}, kv);
        return true;
    });
    return {};
}

Outcome<std::unique_ptr<Store>> Store::open(std::unique_ptr<Backend> backend,
                                            const StoreOptions& options, TimePoint now) {
    auto impl = std::make_unique<Impl>(std::move(backend), options);
    MESH_CHECK(impl->load(now));
    return std::unique_ptr<Store>(new Store(std::move(impl)));
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

const Identity& Store::identity() const noexcept {
    return impl_->identity;
}
Revision Store::revision() const noexcept {
    return impl_->revision;
}
Revision Store::compact_revision() const noexcept {
    return std::max<Revision>(impl_->compacted, 0);
}
Revision Store::watch_floor() const noexcept {
    return impl_->floor;
}
std::uint64_t Store::rewrites() const noexcept {
    return impl_->rewrites;
}
const Backend& Store::backend() const noexcept {
    return *impl_->backend;
}

StoreStats Store::stats() const noexcept {
    return {.keys = impl_->index.live(),
            .log_entries = impl_->log.size(),
            .leases = impl_->lessor.size(),
            .watchers = impl_->hub.size(),
            .behind = impl_->hub.behind(),
            .watch_ranges = impl_->hub.ranges(),
            .to_erase = impl_->garbage.size(),
            .compaction_steps = impl_->compaction_steps};
}

// --- Reading
// ------------------------------------------------------------------------------------------

Outcome<void> Store::Impl::check_revision(Revision wanted) const {
    if (wanted > revision) return StoreError(Fault::kFutureRevision);
    if (wanted > 0 && wanted < compacted) return StoreError(Fault::kCompacted);
    return {};
}

Outcome<void> Store::Impl::check_txn_revision(Revision wanted) const {
    if (wanted != 0 && wanted < compacted) return StoreError(Fault::kCompacted);
    return check_revision(wanted);
}

namespace {

bool passes(const RangeRequest& request, const KeyValue& kv) {
    const auto within = [](Revision value, Revision least, Revision most) {
        return (least == 0 || value >= least) && (most == 0 || value <= most);
    };
    return within(kv.mod_revision(), request.min_mod_revision, request.max_mod_revision) &&
           within(kv.create_revision(), request.min_create_revision, request.max_create_revision);
}

bool less_by(SortTarget target, const KeyValue& a, const KeyValue& b) {
    switch (target) {
        case SortTarget::kKey:
            return a.key() < b.key();
        case SortTarget::kVersion:
            return a.version() < b.version();
        case SortTarget::kCreate:
            return a.create_revision() < b.create_revision();
        case SortTarget::kMod:
            return a.mod_revision() < b.mod_revision();
        case SortTarget::kValue:
            return a.value() < b.value();
    }
    return false;
}

void sort_answer(const RangeRequest& request, std::vector<KeyValue>& kvs) {
    const SortTarget target = request.sort_target;
    if (request.sort_order == SortOrder::kDescend) {
        std::stable_sort(kvs.begin(), kvs.end(), [target](const KeyValue& a, const KeyValue& b) {
            return less_by(target, b, a);
        });
    } else if (target != SortTarget::kKey) {
        std::stable_sort(kvs.begin(), kvs.end(), [target](const KeyValue& a, const KeyValue& b) {
            return less_by(target, a, b);
        });
    }
}

}  // namespace

RangeAnswer Store::Impl::read(const RangeRequest& request) const {
    const Revision at = request.revision > 0 ? request.revision : kNewest;
    RangeAnswer answer;
    answer.count = index.count(request.range, at);
    if (request.count_only) return answer;

    // With a sort target but no order, etcd cuts before it sorts; so do we.
    const bool filtered = request.min_mod_revision != 0 || request.max_mod_revision != 0 ||
                          request.min_create_revision != 0 || request.max_create_revision != 0;
    // Keys come in ascending order anyway.
    const bool sorted =
        request.sort_order != SortOrder::kNone &&
        !(request.sort_order == SortOrder::kAscend && request.sort_target == SortTarget::kKey);
    const bool need_all = request.limit <= 0 || filtered || sorted;
    const std::size_t limit =
        request.limit > 0 ? static_cast<std::size_t>(request.limit) : std::size_t{0};
    index.visit(request.range, at, [&](const KeyValue& kv) {
        if (passes(request, kv)) answer.kvs.push_back(kv);
        return need_all || answer.kvs.size() <= limit;
    });
    sort_answer(request, answer.kvs);
    if (limit != 0 && answer.kvs.size() > limit) {
        answer.kvs.resize(limit);
        answer.more = true;
    }
    if (request.keys_only)
        for (KeyValue& kv : answer.kvs) kv = kv.without_value();
    return answer;
}

Outcome<RangeAnswer> Store::range(const RangeRequest& request) const {
    MESH_CHECK(check_range(request));
    MESH_CHECK(impl_->check_revision(request.revision));
    RangeAnswer answer = impl_->read(request);
    answer.revision = impl_->revision;
    return answer;
}

// --- Writing
// ------------------------------------------------------------------------------------------

Outcome<void> Store::Impl::writable() const {
    if (mirror) return StoreError(Fault::kMirror);
    return {};
}

void Store::Impl::add_version(KeyValue kv) {
    lessor.move_key(index.newest(kv.key()), kv);
    index.append(kv);
    if (backend->durable()) {
        pending.records.push_back(kv);
        undo.emplace_back(Appended{});
    }
    log.append(std::move(kv));
}

std::uint32_t Store::Impl::Writer::next_position() {
    impl_.revision = revision_;
    return changes_++;
}

Outcome<void> Store::Impl::Writer::count_answer(std::span<const KeyValue> kvs) {
    // What handles and the objects of a message cost beyond the bytes.
    constexpr std::size_t kOverhead = 64;
    answer_bytes_ += kOverhead;
    for (const KeyValue& kv : kvs) answer_bytes_ += kOverhead + kv.memory();
    if (answer_bytes_ > impl_.options.max_answer_bytes) return StoreError(Fault::kAnswerTooLarge);
    return {};
}

Outcome<PutAnswer> Store::Impl::Writer::put(const PutRequest& request) {
    KeyValue before = impl_.index.newest(request.key);
    if (changed(before)) return StoreError(Fault::kDuplicateKey);
    if (before && before.tombstone()) before = {};
    const bool tell_before = request.prev_kv && before;
    MESH_CHECK(count_answer({&before, tell_before ? std::size_t{1} : std::size_t{0}}));
    const VersionInfo info{.create_revision = before ? before.create_revision() : revision_,
                           .mod_revision = revision_,
                           .version = before ? before.version() + 1 : 1,
                           .lease = request.ignore_lease && before ? before.lease() : request.lease,
                           .sub_revision = next_position(),
                           .tombstone = false};
    impl_.add_version(KeyValue::make(
        request.key, request.ignore_value && before ? before.value() : request.value, info));
    return PutAnswer{.revision = impl_.revision, .prev_kv = tell_before ? before : KeyValue()};
}

void Store::Impl::Writer::delete_key(std::string_view key) {
    impl_.add_version(KeyValue::make_tombstone(key, revision_, next_position()));
}

Outcome<DeleteRangeAnswer> Store::Impl::Writer::delete_range(const DeleteRangeRequest& request) {
    std::vector<KeyValue> gone;
    bool twice = false;
    impl_.index.visit(request.range, kNewest, [&](const KeyValue& kv) {
        twice = changed(kv);
        gone.push_back(kv);
        return !twice;
    });
    if (twice) return StoreError(Fault::kDuplicateKey);
    MESH_CHECK(count_answer(request.prev_kv ? std::span<const KeyValue>(gone)
                                            : std::span<const KeyValue>()));
    for (const KeyValue& kv : gone) delete_key(kv.key());
    DeleteRangeAnswer answer{.revision = impl_.revision,
                             .deleted = static_cast<std::int64_t>(gone.size()),
                             .prev_kvs = {}};
    if (request.prev_kv) answer.prev_kvs = std::move(gone);
    return answer;
}

Outcome<RangeAnswer> Store::Impl::Writer::range(const RangeRequest& request) {
    RangeAnswer answer = impl_.read(request);
    MESH_CHECK(count_answer(answer.kvs));
    answer.revision = impl_.revision;
    return answer;
}

namespace {

Outcome<void> check_put_key(const PutRequest& request, const KeyIndex& index) {
    if ((request.ignore_value || request.ignore_lease) && !index.find(request.key, kNewest))
        return StoreError(Fault::kKeyNotFound);
    return {};
}

Outcome<void> check_put_lease(const PutRequest& request, const Lessor& lessor) {
    if (request.lease != LeaseId{} && !lessor.has(request.lease))
        return StoreError(Fault::kLeaseNotFound);
    return {};
}

}  // namespace

Outcome<PutAnswer> Store::put(const PutRequest& request) {
    MESH_CHECK(check_put(request));
    MESH_CHECK(impl_->writable());
    // In this order as etcd does, and in the other one within a txn.
    MESH_CHECK(check_put_lease(request, impl_->lessor));
    MESH_CHECK(check_put_key(request, impl_->index));
    MESH_TRY(PutAnswer answer, Impl::Writer(*impl_).put(request));
    MESH_CHECK(impl_->settle());
    return answer;
}

Outcome<DeleteRangeAnswer> Store::delete_range(const DeleteRangeRequest& request) {
    MESH_CHECK(check_delete(request));
    MESH_CHECK(impl_->writable());
    MESH_TRY(DeleteRangeAnswer answer, Impl::Writer(*impl_).delete_range(request));
    MESH_CHECK(impl_->settle());
    return answer;
}

// --- Txn
// ----------------------------------------------------------------------------------------------

bool Store::Impl::holds(const Compare& compare) const {
    const auto matches = [&compare](const KeyValue& kv) {
        std::int64_t stored = 0;
        int order = 0;
        switch (compare.target) {
            case Compare::Target::kVersion:
                stored = kv ? kv.version() : 0;
                break;
            case Compare::Target::kCreate:
                stored = kv ? kv.create_revision() : 0;
                break;
            case Compare::Target::kMod:
                stored = kv ? kv.mod_revision() : 0;
                break;
            case Compare::Target::kLease:
                stored = kv ? number(kv.lease()) : 0;
                break;
            case Compare::Target::kValue:
                order = kv.value().compare(compare.value);
                break;
        }
        if (compare.target != Compare::Target::kValue)
            order = stored < compare.number ? -1 : (stored > compare.number ? 1 : 0);
        switch (compare.result) {
            case Compare::Result::kEqual:
                return order == 0;
            case Compare::Result::kGreater:
                return order > 0;
            case Compare::Result::kLess:
                return order < 0;
            case Compare::Result::kNotEqual:
                return order != 0;
        }
        return false;
    };
    bool any = false;
    bool all = true;
    index.visit(compare.range, kNewest, [&](const KeyValue& kv) {
        any = true;
        all = matches(kv);
        return all;
    });
    if (any) return all;
    return compare.target != Compare::Target::kValue && matches({});
}

namespace {

/// The branches a txn takes, its own first, then those of nested ones in order of their operations.
/// All are chosen before anything is written, as etcd does.
struct Path {
    bool succeeded = false;
    std::vector<Path> nested;
};

class TxnRun {
  public:
    TxnRun(Store::Impl& impl) : impl_(impl) {}

    Path choose(const TxnRequest& txn) const {
        Path path;
        path.succeeded = std::all_of(txn.compare.begin(), txn.compare.end(),
                                     [this](const Compare& c) { return impl_.holds(c); });
        for (const TxnOp& op : branch(txn, path))
            if (const auto* nested = std::get_if<TxnRequest>(&op.request))
                path.nested.push_back(choose(*nested));
        return path;
    }

    /// @param puts whether puts or ranges are checked: etcd looks at all puts first
    Outcome<void> check(const TxnRequest& txn, const Path& path, bool puts) const {
        std::size_t nested = 0;
        for (const TxnOp& op : branch(txn, path)) {
            if (const auto* inner = std::get_if<TxnRequest>(&op.request)) {
                MESH_CHECK(check(*inner, path.nested[nested++], puts));
            } else if (const auto* put = std::get_if<PutRequest>(&op.request); put && puts) {
                MESH_CHECK(check_put_key(*put, impl_.index));
                MESH_CHECK(check_put_lease(*put, impl_.lessor));
            } else if (const auto* range = std::get_if<RangeRequest>(&op.request); range && !puts) {
                MESH_CHECK(impl_.check_txn_revision(range->revision));
            }
        }
        return {};
    }

    /// @errors kAnswerTooLarge, kDuplicateKey; what was written until then is to be taken back
    Outcome<TxnAnswer> run(const TxnRequest& txn, const Path& path,
                           Store::Impl::Writer& writer) const {
        TxnAnswer answer;
        answer.succeeded = path.succeeded;
        MESH_CHECK(writer.count_answer({}));
        std::size_t nested = 0;
        for (const TxnOp& op : branch(txn, path)) {
            auto& next = answer.answers.emplace_back().answer;
            if (const auto* range = std::get_if<RangeRequest>(&op.request)) {
                MESH_TRY(next, writer.range(*range));
            } else if (const auto* put = std::get_if<PutRequest>(&op.request)) {
                MESH_TRY(next, writer.put(*put));
            } else if (const auto* gone = std::get_if<DeleteRangeRequest>(&op.request)) {
                MESH_TRY(next, writer.delete_range(*gone));
            } else if (const auto* inner = std::get_if<TxnRequest>(&op.request)) {
                MESH_TRY(next, run(*inner, path.nested[nested++], writer));
            }
        }
        answer.revision = writer.revision();
        return answer;
    }

  private:
    static const std::vector<TxnOp>& branch(const TxnRequest& txn, const Path& path) {
        return path.succeeded ? txn.success : txn.failure;
    }
    Store::Impl& impl_;
};

}  // namespace

Outcome<TxnAnswer> Store::txn(const TxnRequest& request) {
    MESH_CHECK(check_txn(request, impl_->options.max_txn_ops));
    if (writes(request)) MESH_CHECK(impl_->writable());
    const TxnRun run(*impl_);
    const Path path = run.choose(request);
    MESH_CHECK(run.check(request, path, true));
    MESH_CHECK(run.check(request, path, false));
    Impl::Writer writer(*impl_);
    Outcome<TxnAnswer> answer = run.run(request, path, writer);
    if (!answer) {
        writer.take_back();
        return answer;
    }
    MESH_CHECK(impl_->settle());
    return answer;
}

// --- Commit
// -------------------------------------------------------------------------------------------

Outcome<void> Store::Impl::settle() {
    return held ? Outcome<void>() : commit();
}

Outcome<void> Store::Impl::commit() {
    if (backend->durable()) {
        if (revision != revision_before) pending.revision = revision;
        if (mirror) {
            keep(std::exchange(pending, {}));
        } else if (!pending.empty()) {
            if (Outcome<void> done = backend->commit(pending); !done) {
                undo_all();
                return done;
            }
        }
    }
    pending.clear();
    undo.clear();
    revision_before = revision;
    publish();
    return {};
}

void Store::Impl::undo_append() {
    const KeyValue kv = log.back();
    log.pop_back();
    index.undo(kv.key());
    lessor.move_key(kv, index.newest(kv.key()));
}

void Store::Impl::take_back(std::size_t log_size, Revision revision_then) {
    while (log.size() > log_size) {
        undo_append();
        if (!backend->durable()) continue;
        pending.records.pop_back();
        undo.pop_back();
    }
    revision = revision_then;
}

void Store::Impl::undo_all() {
    struct TakeBack {
        Impl& impl;
        void operator()(const Appended&) const { impl.undo_append(); }
        void operator()(const LeaseAdded& added) const { impl.lessor.remove(added.id); }
        void operator()(LeaseRemoved& removed) const { impl.lessor.add(std::move(removed.lease)); }
    };
    for (auto entry = undo.rbegin(); entry != undo.rend(); ++entry)
        std::visit(TakeBack{*this}, *entry);
    undo.clear();
    // What the backend knows of these is open now: the next checkpoint writes them again.
    for (const LeaseRecord& record : pending.leases)
        lessor.set_durable_remaining(record.id, std::chrono::seconds(-1));
    pending.clear();
    revision = revision_before;
    ++rewrites;
}

Event Store::Impl::event_of(const KeyValue& kv) const {
    return {.kv = kv, .prev = index.find(kv.key(), kv.mod_revision() - 1)};
}

void Store::Impl::publish() {
    const Revision first = published + 1;
    if (!hub.empty()) {
        for (std::size_t i = log.lower_bound(published + 1); i < log.size();) {
            auto batch = std::make_shared<EventBatch>();
            batch->revision = log[i].mod_revision();
            for (; i < log.size() && log[i].mod_revision() == batch->revision; ++i)
                batch->events.push_back(event_of(log[i]));
            const Revision told = batch->revision;
            hub.publish(std::move(batch));
            published = told;
        }
    }
    published = revision;
    if (revision < first) return;
    if (follower) tell_follower(first);
    if (on_revision) on_revision(published);
}

void Store::hold() noexcept {
    impl_->held = true;
}

Outcome<void> Store::flush() {
    impl_->held = false;
    if (impl_->group_failure) {
        impl_->undo_all();
        return *std::exchange(impl_->group_failure, std::nullopt);
    }
    return impl_->commit();
}

// --- Watches
// ------------------------------------------------------------------------------------------

std::shared_ptr<const EventBatch> Store::Impl::read_history(const KeyRange& range,
                                                            Revision from) const {
    // Bounds the work of one call also where little of the log is in the range.
    constexpr std::size_t kMostScanned = 20'000;
    auto batch = std::make_shared<EventBatch>();
    std::size_t bytes = 0;
    std::size_t i = log.lower_bound(from);
    for (std::size_t scanned = 0; i < log.size() && log[i].mod_revision() <= published; ++scanned) {
        const Revision current = log[i].mod_revision();
        const bool enough = batch->events.size() >= options.catch_up_events ||
                            bytes >= options.catch_up_bytes || scanned >= kMostScanned;
        if (enough && current != batch->revision) return batch;
        batch->revision = current;
        if (contains(range, log[i].key())) {
            batch->events.push_back(event_of(log[i]));
            bytes += log[i].memory();
        }
        ++i;
    }
    batch->revision = published;
    return batch;
}

Outcome<WatchId> Store::watch(const WatchRequest& request, WatchSink& sink) {
    const Revision start = request.start_revision;
    const Revision next = start == 0 ? impl_->published + 1 : std::max<Revision>(start, 1);
    const bool negative = start < 0 && start < impl_->compacted;
    if (negative || next < impl_->floor) return StoreError(Fault::kCompacted);
    return impl_->hub.add(request, next, sink);
}

void Store::cancel_watch(WatchId id) {
    impl_->hub.cancel(id);
}
void Store::resume(WatchId id) {
    impl_->hub.resume(id);
}
bool Store::is_up_to_date(WatchId id) const {
    return impl_->hub.is_up_to_date(id);
}
void Store::for_each_watched_range(const std::function<void(const WatchedRange&)>& visit) const {
    impl_->hub.for_each_range(visit);
}
std::optional<WatchState> Store::watch_state(WatchId id) const {
    return impl_->hub.state_of(id);
}
std::size_t Store::blocked_watchers() const {
    return impl_->hub.blocked();
}
KeyRange Store::watched_range(WatchId id) const {
    return impl_->hub.range_of(id);
}
bool Store::request_progress(WatchId id) {
    return impl_->hub.request_progress(id);
}
bool Store::catch_up(std::size_t budget) {
    return impl_->hub.catch_up(budget);
}

}  // namespace mesh::store
