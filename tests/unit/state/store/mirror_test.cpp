// A store that mirrors another etcd: its revisions, its lists, its replacement.
#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

KeyValue upstream(std::string_view key, std::string_view value, Revision mod, Revision create = 0,
                  std::int64_t version = 1) {
    return KeyValue::make(key, value,
                          {.create_revision = create == 0 ? mod : create,
                           .mod_revision = mod,
                           .version = version,
                           .lease = LeaseId{3}});
}
KeyValue gone(std::string_view key, Revision mod) {
    return KeyValue::make_tombstone(key, mod);
}

struct Mirror {
    std::unique_ptr<Store> store = memory_store();
    RecordingSink sink;
    WatchId id{};

    void snapshot(Revision revision, const std::vector<KeyValue>& kvs, bool same = true) {
        auto done = store->reset_from_snapshot(revision, kvs, same);
        ASSERT_TRUE(done) << done.error().to_error().message();
    }
    void events(Revision revision, const std::vector<KeyValue>& kvs) {
        auto done = store->apply_upstream(revision, kvs);
        ASSERT_TRUE(done) << done.error().to_error().message();
    }
    void watch() { id = *store->watch({.range = {kFromZero, kFromZero}}, sink); }
};

TEST(StoreMirror, TakesRevisionsAsReceived) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90, 80, 4), upstream("b", "1", 95)}, false);
    EXPECT_EQ(m.store->revision(), 100);
    EXPECT_EQ(m.store->compact_revision(), 100);
    EXPECT_EQ(m.store->watch_floor(), 101);
    EXPECT_EQ(dump_all(*m.store, 100), "a=1@90 b=1@95");
    EXPECT_EQ(dump_all(*m.store, 99), "mvcc: required revision has been compacted");
    const KeyValue a = m.store->range({.range = {"a", ""}})->kvs[0];
    EXPECT_EQ(a.create_revision(), 80);
    EXPECT_EQ(a.version(), 4);
    EXPECT_EQ(a.lease(), LeaseId{3});
    EXPECT_EQ(m.store->stats().log_entries, 0U) << "a snapshot is no history";
}

TEST(StoreMirror, EachUpstreamRevisionIsOneBatch) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90)}, false);
    m.watch();
    m.events(105, {upstream("a", "2", 102, 90, 2), upstream("b", "1", 102), gone("a", 104)});
    EXPECT_EQ(m.sink.take(), "+a=2@102<1@90 +b=1@102; -a@104<2@102");
    EXPECT_EQ(m.store->revision(), 105);
    EXPECT_TRUE(m.store->request_progress(m.id));
    EXPECT_EQ(m.sink.progress.back(), 105);
    EXPECT_EQ(dump_all(*m.store, 103), "a=2@102 b=1@102");
    RecordingSink late;
    ASSERT_TRUE(m.store->watch({.range = {"a", ""}, .start_revision = 101}, late));
    while (m.store->catch_up()) {
    }
    EXPECT_EQ(late.take(), "+a=2@102<1@90 -a@104<2@102");
}

TEST(StoreMirror, RepeatedEventsAreSkippedAndLateOnesRefused) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90)}, false);
    m.watch();
    m.events(102, {upstream("a", "2", 102, 90, 2)});
    m.events(102, {gone("never", 95), upstream("a", "2", 102, 90, 2)});
    EXPECT_EQ(m.sink.take(), "+a=2@102<1@90");
    const auto refused = [&](Revision revision, std::vector<KeyValue> kvs) {
        auto done = m.store->apply_upstream(revision, kvs);
        return !done && done.error().fault() == Fault::kMirror;
    };
    EXPECT_TRUE(refused(103, {upstream("b", "rest of a revision", 102)}));
    EXPECT_TRUE(refused(103, {upstream("a", "2", 105)})) << "beyond its own revision";
    EXPECT_TRUE(refused(109, {upstream("a", "2", 105), upstream("b", "1", 104)}));
    EXPECT_TRUE(refused(103, {gone("a", 101), gone("a", 101)}) == false) << "an old deletion";
    EXPECT_EQ(dump_all(*m.store), "a=2@102");
}

TEST(StoreMirror, AReListTellsExactDifferences) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90), upstream("b", "1", 91), upstream("c", "1", 92)},
               false);
    m.watch();
    m.snapshot(200,
               {upstream("a", "1", 90), upstream("b", "2", 150, 91, 2), upstream("d", "1", 140)});
    EXPECT_EQ(m.sink.take(), "+d=1@140 +b=2@150<1@91 -c@200<1@92");
    EXPECT_FALSE(m.sink.cancelled);
    EXPECT_EQ(dump_all(*m.store), "a=1@90 b=2@150 d=1@140");
    EXPECT_EQ(dump_all(*m.store, 199), "mvcc: required revision has been compacted");
    EXPECT_EQ(m.store->watch_floor(), 201);
    EXPECT_EQ(m.store->stats().log_entries, 0U);
    m.snapshot(201, {});
    EXPECT_EQ(m.sink.take(), "-a@201<1@90 -b@201<2@150 -d@201<1@140");
    EXPECT_EQ(m.store->stats().keys, 0U);
}

TEST(StoreMirror, ASlowWatcherIsCaughtUpOverAReList) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90), upstream("b", "1", 91)}, false);
    m.watch();
    m.sink.room = 0;
    m.events(101, {upstream("a", "2", 101, 90, 2)});
    m.snapshot(110, {upstream("a", "3", 105, 90, 3)});
    EXPECT_EQ(m.sink.take(), "");
    RecordingSink other;
    EXPECT_EQ(m.store->watch({.range = {"a", ""}, .start_revision = 110}, other).error().fault(),
              Fault::kCompacted)
        << "what happened between 101 and 110 is not known";
    m.sink.room = -1;
    m.store->resume(m.id);
    while (m.store->catch_up()) {
    }
    EXPECT_EQ(m.sink.take(), "+a=2@101<1@90 +a=3@105<2@101 -b@110<1@91");
    EXPECT_FALSE(m.sink.cancelled);
    ASSERT_TRUE(m.store->apply_upstream(120, std::vector{upstream("c", "1", 120)}));
    ASSERT_TRUE(m.store->compact(120));
    EXPECT_EQ(m.store->stats().log_entries, 1U);
    EXPECT_EQ(dump_all(*m.store, 120), "a=3@105 c=1@120");
}

TEST(StoreMirror, AWatchFromARevisionAheadGetsNothingThatItsClientHasSeen) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90), upstream("b", "1", 91)}, false);
    RecordingSink ahead;
    const auto id = m.store->watch({.range = {kFromZero, kFromZero}, .start_revision = 150}, ahead);
    ASSERT_TRUE(id);
    m.events(120, {upstream("a", "2", 120, 90, 2)});
    EXPECT_EQ(ahead.take(), "");
    // Reached by a list, which has changes from before, too.
    m.snapshot(200, {upstream("a", "3", 140, 90, 3), upstream("c", "1", 160)});
    EXPECT_EQ(ahead.take(), "+c=1@160 -b@200<1@91");
    m.events(201, {upstream("d", "1", 201)});
    EXPECT_EQ(ahead.take(), "+d=1@201");
    EXPECT_FALSE(ahead.cancelled);
}

TEST(StoreMirror, TellsEachNewestRevisionOnceWatchersKnow) {
    Mirror m;
    std::vector<Revision> told;
    m.store->on_revision([&](Revision revision) { told.push_back(revision); });
    m.snapshot(100, {upstream("a", "1", 90)}, false);
    m.events(102, {upstream("a", "2", 102, 90, 2)});
    m.events(102, {});
    m.events(105, {});
    m.snapshot(110, {upstream("a", "2", 102, 90, 2)});
    m.snapshot(7, {}, false);
    EXPECT_EQ(told, (std::vector<Revision>{100, 102, 105, 110, 7}));
}

TEST(StoreMirror, PagesAreComparedAsTheyCome) {
    Mirror m;
    std::vector<KeyValue> all;
    for (int i = 0; i < 1000; ++i) all.push_back(upstream(fmt::format("k{:04}", i), "v", 50));
    m.snapshot(100, all, false);
    m.watch();
    m.store->begin_snapshot(200, true);
    std::vector<KeyValue> page;
    for (int i = 0; i < 1000; ++i) {
        if (i % 100 == 7) continue;  // deleted
        page.push_back(i % 100 == 8 ? upstream(fmt::format("k{:04}", i), "w", 150, 50, 2)
                                    : all[static_cast<std::size_t>(i)]);
        if (page.size() == 64) {
            ASSERT_TRUE(m.store->add_snapshot_page(page));
            page.clear();
        }
    }
    ASSERT_TRUE(m.store->add_snapshot_page(page));
    EXPECT_EQ(m.sink.take(), "") << "nothing before the commit";
    ASSERT_TRUE(m.store->commit_snapshot());
    ASSERT_EQ(m.sink.batches.size(), 1U);
    EXPECT_EQ(m.sink.batches[0]->events.size(), 20U);
    EXPECT_EQ(m.store->stats().keys, 990U);
}

TEST(StoreMirror, AnotherEtcdEndsAllWatches) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90)}, false);
    m.watch();
    m.store->set_identity({.cluster_id = 99, .member_id = 98});
    m.snapshot(10, {upstream("a", "other", 9)}, false);
    EXPECT_TRUE(m.sink.cancelled);
    EXPECT_EQ(m.sink.cancel_reason, CancelReason::kReplaced);
    EXPECT_EQ(m.sink.cancel_floor, 11);
    EXPECT_EQ(m.store->revision(), 10);
    EXPECT_EQ(dump_all(*m.store), "a=other@9");
    EXPECT_EQ(m.store->identity().cluster_id, 99U);
}

TEST(StoreMirror, RefusesSnapshotsThatCannotBe) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90)}, false);
    const auto refused = [&](Revision revision, std::vector<KeyValue> kvs) {
        auto done = m.store->reset_from_snapshot(revision, kvs, true);
        return !done && done.error().fault() == Fault::kMirror;
    };
    EXPECT_TRUE(refused(99, {})) << "history does not go back";
    EXPECT_TRUE(refused(200, {upstream("b", "1", 150), upstream("a", "1", 90)})) << "unsorted";
    EXPECT_TRUE(refused(200, {upstream("a", "1", 201)})) << "newer than the snapshot";
    EXPECT_TRUE(refused(200, {upstream("a", "1", 90), upstream("b", "1", 95)}))
        << "b was created at 95, but at 100 it was not there";
    EXPECT_EQ(dump_all(*m.store), "a=1@90");
    EXPECT_EQ(m.store->revision(), 100);
}

TEST(StoreMirror, TakesNoWritesOfItsOwn) {
    Mirror m;
    m.snapshot(100, {upstream("a", "1", 90)}, false);
    EXPECT_EQ(m.store->put({.key = "a", .value = "2"}).error().fault(), Fault::kMirror);
    EXPECT_EQ(m.store->delete_range({.range = {"a", ""}}).error().fault(), Fault::kMirror);
    EXPECT_EQ(m.store->lease_grant({}, seconds(5), TimePoint{}).error().fault(), Fault::kMirror);
    TxnRequest read_only;
    read_only.success = {{RangeRequest{.range = {"a", ""}}}};
    EXPECT_TRUE(m.store->txn(read_only));
    TxnRequest writing;
    writing.failure = {{PutRequest{.key = "a", .value = "2"}}};
    EXPECT_EQ(m.store->txn(writing).error().fault(), Fault::kMirror);
}

}  // namespace
}  // namespace mesh::store::testing
