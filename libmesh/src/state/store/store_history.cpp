// Compaction of a Store, and mirror mode: another etcd's history taken as our own.
#include <fmt/format.h>
#include <algorithm>

#include "state/store/store_impl.hpp"

namespace mesh::store {

// --- Compaction
// ---------------------------------------------------------------------------------------

// A version is superseded by a change that the log has, so the keys of the log's entries up to the
// revision are all that need a look: each once, at its last change.

std::vector<RecordPosition> Store::Impl::superseded(Revision at) {
    std::vector<RecordPosition> positions;
    for (std::size_t i = 0; i < log.size() && log[i].mod_revision() <= at; ++i) {
        const std::vector<KeyValue> versions = index.superseded(log[i], at);
        for (const KeyValue& kv : versions)
            positions.push_back({kv.mod_revision(), kv.sub_revision()});
        compaction_steps += 1 + versions.size();
    }
    std::sort(positions.begin(), positions.end());
    return positions;
}

Outcome<void> Store::Impl::erase_superseded(std::optional<Revision> mark) {
    if (!mark && garbage.empty()) return {};
    std::size_t count = std::min(erase_at_once, garbage.size());
    for (;;) {
        const auto end = garbage.begin() + static_cast<std::ptrdiff_t>(count);
        WriteBatch batch;
        batch.erased.assign(garbage.begin(), end);
        batch.compact_revision = mark;
        if (Outcome<void> done = backend->commit(batch); done) {
            garbage.erase(garbage.begin(), end);
            mark.reset();
            erase_at_once = std::min(erase_at_once * 2, kMostErasedAtOnce);
            if (garbage.empty()) return {};
            count = std::min(erase_at_once, garbage.size());
        } else if (done.error().fault() == Fault::kNoSpace && count > (mark ? 0U : 1U)) {
            count /= 2;
            erase_at_once = std::max<std::size_t>(count, 1);
        } else {
            return mark ? done : Outcome<void>();  // the rest stays in garbage
        }
    }
}

void Store::Impl::forget(Revision at) {
    while (log.size() != 0 && log[0].mod_revision() < at) {
        const KeyValue kv = log[0];
        log.pop_front();
        index.trim(kv.key(), at);
    }
    for (std::size_t i = 0; i < log.size() && log[i].mod_revision() == at; ++i)
        index.trim(log[i].key(), at);
}

Outcome<Revision> Store::compact(Revision at) {
    Impl& impl = *impl_;
    if (at <= impl.compacted) return StoreError(Fault::kCompacted);
    if (at > impl.revision) return StoreError(Fault::kFutureRevision);
    // Dropped versions cannot be brought back: whatever is held is committed first, then this.
    if (Outcome<void> done = impl.commit(); !done) {
        if (impl.held) impl.group_failure = done.error();
        return done.error();
    }
    if (impl.mirror && impl.backend->durable()) {
        WriteBatch batch;
        batch.erased = impl.superseded(at);
        batch.compact_revision = at;
        impl.keep(std::move(batch));
    } else if (impl.backend->durable()) {
        const std::size_t left_over = impl.garbage.size();
        const std::vector<RecordPosition> positions = impl.superseded(at);
        impl.garbage.insert(impl.garbage.end(), positions.begin(), positions.end());
        if (Outcome<void> done = impl.erase_superseded(at); !done) {
            // Nothing was erased: it begins with the mark.
            impl.garbage.resize(left_over);
            return done.error();
        }
    }
    impl.forget(at);
    impl.compacted = impl.floor = impl.log_start = at;
    impl.hub.history_cut(at, at);
    return impl.revision;
}

Revision Store::revision_keeping(std::size_t changes) const {
    const RevisionLog& log = impl_->log;
    return log.size() <= changes ? 0 : log[log.size() - changes - 1].mod_revision();
}

// --- Mirror mode
// --------------------------------------------------------------------------------------

Outcome<void> Store::Impl::become_mirror() {
    if (backend->durable() && !backend->keeps_mirror())
        return StoreError(Fault::kMirror, "a store with a durable backend keeps its own history");
    mirror = true;
    return {};
}

void Store::Impl::keep(WriteBatch batch) {
    if (!backend->durable()) return;
    if (batch.replace) {
        backend_begun = true;
        backend_failure.reset();
        garbage.clear();  // positions of what is replaced
        kept_from = *batch.compact_revision;
    }
    if (!backend_begun || backend_failure) return;
    if (batch.replace || identity_is_new) {
        batch.identity = identity;
        batch.raft_term = raft_term;
    }
    // What was written anew may begin later than what is in memory.
    if (batch.compact_revision)
        batch.compact_revision = kept_from = std::max(kept_from, *batch.compact_revision);
    if (batch.empty()) return;
    identity_is_new = false;
    if (Outcome<void> done = backend->commit(batch); !done) backend_failure = done.error();
}

WriteBatch Store::Impl::everything() const {
    static constexpr std::string_view kZero("\0", 1);
    WriteBatch batch;
    batch.replace = true;
    batch.revision = batch.compact_revision = revision;
    batch.records.reserve(index.live());
    index.visit({kZero, kZero}, kNewest, [&batch](const KeyValue& kv) {
        batch.records.push_back(kv);
        return true;
    });
    return batch;
}

void Store::Impl::advance_to(Revision at) {
    revision = revision_before = published = at;
    holds_history = true;
    if (on_revision) on_revision(at);
}

namespace {

StoreError out_of_order(const KeyValue& kv, std::string_view expected) {
    return {Fault::kMirror,
            fmt::format("key {} at revision {}: {}", kv.key(), kv.mod_revision(), expected)};
}

}  // namespace

Outcome<void> Store::apply_upstream(Revision revision, std::span<const KeyValue> events) {
    Impl& impl = *impl_;
    MESH_CHECK(impl.become_mirror());
    impl.snapshot.reset();
    Revision last = 0;
    for (const KeyValue& kv : events) {
        if (kv.mod_revision() < last) return out_of_order(kv, "the event before it is newer");
        if (kv.mod_revision() > revision)
            return out_of_order(kv, fmt::format("expected at most revision {}", revision));
        last = kv.mod_revision();
        if (last > impl.revision) continue;
        // A repetition is fine; the rest of a revision that was taken as complete is not.
        const KeyValue known = impl.index.newest(kv.key());
        if (known ? known.mod_revision() < last : !kv.tombstone())
            return out_of_order(kv, fmt::format("never seen, but {} was reached", impl.revision));
    }
    for (const KeyValue& kv : events) {
        const KeyValue known = impl.index.newest(kv.key());
        if (kv.mod_revision() <= impl.published) continue;
        if (known ? known.mod_revision() >= kv.mod_revision() : kv.tombstone()) continue;
        if (known && known.tombstone() && kv.tombstone()) continue;
        impl.revision = kv.mod_revision();
        impl.add_version(kv);
    }
    impl.revision = std::max(impl.revision, revision);
    return impl.commit();
}

void Store::begin_snapshot(Revision revision, bool same_history) {
    impl_->snapshot = Impl::Snapshot{
        .revision = revision, .same_history = same_history, .last_key = {}, .changed = {}};
}

Outcome<void> Store::Impl::check_page(const Snapshot& open, std::span<const KeyValue> page) const {
    std::string_view last = open.last_key;
    for (const KeyValue& kv : page) {
        if (kv.key() <= last) return out_of_order(kv, "keys of a snapshot must ascend");
        if (kv.tombstone() || kv.mod_revision() > open.revision || kv.mod_revision() <= 0)
            return out_of_order(kv,
                                fmt::format("expected a value of revision 1 to {}", open.revision));
        last = kv.key();
    }
    return {};
}

void Store::Impl::compare_page(Snapshot& open, std::span<const KeyValue> page) const {
    // Everything of ours between the last page's end and this one's is either in this page or
    // deleted.
    static constexpr std::string_view kOpen("\0", 1);
    // Beyond the positions of the page's own changes at that revision.
    static constexpr std::uint32_t kFirstDeletion = std::uint32_t{1} << 30;
    std::string from = open.last_key;
    from.push_back('\0');
    std::string to;
    if (!page.empty()) to.assign(page.back().key()).push_back('\0');
    auto theirs = page.begin();
    const auto take = [&open, this](const KeyValue& kv) {
        open.consistent = open.consistent && kv.mod_revision() > revision;
        open.changed.push_back(kv);
    };
    index.visit({from, to.empty() ? kOpen : std::string_view(to)}, kNewest,
                [&](const KeyValue& ours) {
                    for (; theirs != page.end() && theirs->key() < ours.key(); ++theirs)
                        take(*theirs);
                    if (theirs == page.end() || theirs->key() != ours.key()) {
                        open.changed.push_back(KeyValue::make_tombstone(
                            ours.key(), open.revision, kFirstDeletion + open.deletions++));
                        return true;
                    }
                    if (theirs->mod_revision() != ours.mod_revision()) take(*theirs);
                    ++theirs;
                    return true;
                });
    for (; theirs != page.end(); ++theirs) take(*theirs);
}

Outcome<void> Store::add_snapshot_page(std::span<const KeyValue> page) {
    Impl& impl = *impl_;
    if (!impl.snapshot) return StoreError(Fault::kMirror, "no snapshot was begun");
    if (page.empty()) return {};
    Impl::Snapshot& open = *impl.snapshot;
    MESH_CHECK(impl.check_page(open, page));
    if (open.same_history)
        impl.compare_page(open, page);
    else
        open.changed.insert(open.changed.end(), page.begin(), page.end());
    open.last_key = page.back().key();
    return {};
}

Outcome<void> Store::commit_snapshot() {
    Impl& impl = *impl_;
    if (!impl.snapshot) return StoreError(Fault::kMirror, "no snapshot was begun");
    MESH_CHECK(impl.become_mirror());
    Impl::Snapshot open = *std::exchange(impl.snapshot, std::nullopt);
    if (!open.same_history) {
        impl.replace_all(open.revision, std::move(open.changed));
        return {};
    }
    if (open.revision < impl.revision)
        return StoreError(Fault::kMirror, fmt::format("a snapshot of revision {} after revision {}",
                                                      open.revision, impl.revision));
    impl.compare_page(open, {});
    if (!open.consistent)
        return StoreError(Fault::kMirror,
                          fmt::format("the snapshot has a change that should have been seen "
                                      "before revision {}",
                                      impl.revision));
    impl.apply_difference(open.revision, std::move(open.changed));
    return {};
}

void Store::abort_snapshot() noexcept {
    impl_->snapshot.reset();
}

Outcome<void> Store::reset_from_snapshot(Revision revision, std::span<const KeyValue> kvs,
                                         bool same_history) {
    begin_snapshot(revision, same_history);
    if (Outcome<void> added = add_snapshot_page(kvs); !added) {
        abort_snapshot();
        return added;
    }
    return commit_snapshot();
}

void Store::Impl::apply_difference(Revision at, std::vector<KeyValue> changed) {
    // The log's order is that of revisions; deletions are told as of the snapshot, hence last.
    std::stable_sort(changed.begin(), changed.end(), [](const KeyValue& a, const KeyValue& b) {
        return a.mod_revision() < b.mod_revision();
    });
    StoreChange told{.kind = StoreChange::Kind::kDifference, .revision = at};
    if (follower) told.records = changed;
    ++rewrites;
    auto batch = std::make_shared<EventBatch>();
    batch->revision = at;
    for (KeyValue& kv : changed) {
        if (!hub.empty()) batch->events.push_back(event_of(kv));
        add_version(std::move(kv));
    }
    undo.clear();
    if (WriteBatch batch_to_keep = std::exchange(pending, {}); backend->durable()) {
        batch_to_keep.revision = batch_to_keep.compact_revision = at;
        batch_to_keep.erased = superseded(at + 1);
        keep(std::move(batch_to_keep));
    }
    revision = revision_before = at;
    compacted = at;
    floor = at + 1;
    if (!batch->events.empty()) hub.publish(std::move(batch));
    if (follower) follower(std::move(told));
    advance_to(at);
    // Watchers that are behind may still read their way through what came before.
    if (hub.any_behind()) return;
    forget(at + 1);
    log_start = at + 1;
}

void Store::Impl::replace_all(Revision at, std::vector<KeyValue> kvs) {
    ++rewrites;
    index.clear();
    log.clear();
    StoreChange told{.kind = StoreChange::Kind::kReplaced, .revision = at};
    if (follower) told.records = kvs;
    for (KeyValue& kv : kvs) index.append(std::move(kv));
    revision = published = compacted = at;
    floor = log_start = at + 1;
    if (backend->durable()) keep(everything());
    hub.cancel_all(CancelReason::kReplaced, floor);
    if (follower) follower(std::move(told));
    advance_to(at);
}

void Store::set_identity(const Identity& identity, std::uint64_t raft_term) {
    Impl& impl = *impl_;
    impl.identity_is_new =
        impl.identity_is_new || impl.identity != identity || impl.raft_term != raft_term;
    impl.identity = identity;
    impl.raft_term = raft_term;
}
std::uint64_t Store::raft_term() const noexcept {
    return impl_->raft_term;
}
bool Store::mirrors() const noexcept {
    return impl_->holds_history;
}
const std::optional<StoreError>& Store::backend_failure() const noexcept {
    return impl_->backend_failure;
}
void Store::rewrite_backend() {
    impl_->keep(impl_->everything());
}
void Store::on_revision(std::function<void(Revision)> callback) {
    impl_->on_revision = std::move(callback);
}

Store::Newest Store::newest() const {
    static constexpr std::string_view kZero("\0", 1);
    Newest newest;
    impl_->index.visit({kZero, kZero}, kNewest, [&newest](const KeyValue& kv) {
        if (!newest.live || kv.mod_revision() > newest.live.mod_revision()) newest.live = kv;
        return true;
    });
    newest.change = newest.live;
    if (const RevisionLog& log = impl_->log; log.size() != 0) newest.change = log.back();
    return newest;
}

// --- Copies
// --------------------------------------------------------------------------------------

void Store::Impl::tell_follower(Revision first) const {
    StoreChange told{.kind = StoreChange::Kind::kChanges, .revision = revision};
    for (std::size_t i = log.lower_bound(first); i < log.size(); ++i)
        told.records.push_back(log[i]);
    follower(std::move(told));
}

void Store::on_change(std::function<void(StoreChange)> callback) {
    impl_->follower = std::move(callback);
}

std::vector<StoreChange> Store::copy() const {
    const Impl& impl = *impl_;
    // What every watch can still be told begins behind this revision.
    const Revision base = std::max({impl.compacted, impl.log_start - 1, Revision{0}});
    StoreChange all{.kind = StoreChange::Kind::kReplaced, .revision = base};
    static constexpr std::string_view kEverything("\0", 1);
    impl.index.visit({kEverything, kEverything}, base, [&all](const KeyValue& kv) {
        all.records.push_back(kv);
        return true;
    });
    StoreChange since{.kind = StoreChange::Kind::kChanges, .revision = impl.published};
    for (std::size_t i = impl.log.lower_bound(base + 1); i < impl.log.size(); ++i)
        since.records.push_back(impl.log[i]);
    return {std::move(all), std::move(since)};
}

Outcome<void> Store::apply(const StoreChange& change) {
    Impl& impl = *impl_;
    switch (change.kind) {
        case StoreChange::Kind::kChanges:
            return apply_upstream(change.revision, change.records);
        case StoreChange::Kind::kDifference:
            MESH_CHECK(impl.become_mirror());
            if (change.revision < impl.revision)
                return StoreError(Fault::kMirror,
                                  fmt::format("a difference up to revision {} after revision {}",
                                              change.revision, impl.revision));
            impl.apply_difference(change.revision, change.records);
            return {};
        case StoreChange::Kind::kReplaced:
            MESH_CHECK(impl.become_mirror());
            impl.snapshot.reset();
            impl.replace_all(change.revision, change.records);
            return {};
    }
    return {};
}

}  // namespace mesh::store
