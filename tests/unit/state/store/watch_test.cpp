// Watches of a store: live, from the past, filtered, slow, compacted.
#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

void settle(Store& store) {
    for (int turns = 0; store.catch_up(); ++turns) ASSERT_LT(turns, 10'000);
}

TEST(StoreWatch, TellsWhatMatches) {
    auto store = memory_store();
    RecordingSink one, range, all;
    ASSERT_TRUE(store->watch({.range = {"b", ""}}, one));
    ASSERT_TRUE(store->watch({.range = {"b", "c"}}, range));
    ASSERT_TRUE(store->watch({.range = {"", kFromZero}}, all));
    put(*store, "a", "1");
    put(*store, "b", "1");
    put(*store, "bb", "1");
    put(*store, "b", "2");
    del(*store, "b");
    EXPECT_EQ(one.take(), "+b=1@3; +b=2@5<1@3; -b@6<2@5");
    EXPECT_EQ(range.take(), "+b=1@3; +bb=1@4; +b=2@5<1@3; -b@6<2@5");
    EXPECT_EQ(all.take(), "+a=1@2; +b=1@3; +bb=1@4; +b=2@5<1@3; -b@6<2@5");
}

TEST(StoreWatch, ATxnArrivesWholeAndSharedByItsWatchers) {
    auto store = memory_store();
    RecordingSink a, b, both;
    ASSERT_TRUE(store->watch({.range = {"a", ""}}, a));
    ASSERT_TRUE(store->watch({.range = {"b", ""}}, b));
    ASSERT_TRUE(store->watch({.range = {"a", "z"}}, both));
    TxnRequest txn;
    txn.success = {{PutRequest{.key = "b", .value = "1"}}, {PutRequest{.key = "a", .value = "1"}}};
    ASSERT_TRUE(store->txn(txn));
    EXPECT_EQ(both.take(), "+b=1@2 +a=1@2");
    EXPECT_EQ(a.take(), "+a=1@2");
    EXPECT_EQ(b.take(), "+b=1@2");
    EXPECT_EQ(a.batches[0], both.batches[0]);
    EXPECT_EQ(b.batches[0], both.batches[0]);
}

TEST(StoreWatch, Filters) {
    auto store = memory_store();
    RecordingSink puts, deletes, none;
    ASSERT_TRUE(store->watch({.range = {"a", "z"}, .no_delete = true}, puts));
    ASSERT_TRUE(store->watch({.range = {"a", "z"}, .no_put = true}, deletes));
    ASSERT_TRUE(store->watch({.range = {"a", "z"}, .no_put = true, .no_delete = true}, none));
    put(*store, "a", "1");
    put(*store, "b", "1");
    TxnRequest txn;
    txn.success = {{DeleteRangeRequest{.range = {"a", ""}}},
                   {PutRequest{.key = "b", .value = "2"}}};
    ASSERT_TRUE(store->txn(txn));
    EXPECT_EQ(puts.take(), "+a=1@2; +b=1@3; +b=2@4<1@3");
    EXPECT_EQ(deletes.take(), "-a@4<1@2");
    EXPECT_EQ(none.take(), "");
}

TEST(StoreWatch, FromThePastThenLive) {
    auto store = memory_store();
    put(*store, "a", "1");
    put(*store, "b", "1");
    put(*store, "a", "2");
    RecordingSink sink;
    auto id = store->watch({.range = {"a", ""}, .start_revision = 2}, sink);
    EXPECT_EQ(store->stats().behind, 1U);
    EXPECT_FALSE(store->request_progress(*id)) << "it has not seen everything";
    put(*store, "a", "3");
    EXPECT_EQ(sink.take(), "") << "live events wait for their turn";
    settle(*store);
    EXPECT_EQ(sink.take(), "+a=1@2 +a=2@4<1@2 +a=3@5<2@4");
    EXPECT_EQ(store->stats().behind, 0U);
    put(*store, "a", "4");
    EXPECT_EQ(sink.take(), "+a=4@6<3@5");
    EXPECT_TRUE(store->request_progress(*id));
    EXPECT_EQ(sink.progress, std::vector<Revision>{6});
}

TEST(StoreWatch, FromTheFuture) {
    auto store = memory_store();
    RecordingSink sink;
    ASSERT_TRUE(store->watch({.range = {"a", ""}, .start_revision = 4}, sink));
    put(*store, "a", "1");
    put(*store, "a", "2");
    put(*store, "a", "3");
    EXPECT_EQ(sink.take(), "+a=3@4<2@3");
}

TEST(StoreWatch, HistoryComesInBoundedPiecesOfWholeRevisions) {
    auto store = memory_store({.catch_up_events = 4});
    for (int i = 0; i < 5; ++i) {
        TxnRequest txn;
        for (const char* key : {"a", "b", "c"})
            txn.success.push_back({PutRequest{.key = key, .value = "v"}});
        ASSERT_TRUE(store->txn(txn));
    }
    RecordingSink first, second;
    ASSERT_TRUE(store->watch({.range = {"a", "z"}, .start_revision = 2}, first));
    ASSERT_TRUE(store->watch({.range = {"a", "z"}, .start_revision = 2}, second));
    settle(*store);
    ASSERT_EQ(first.batches.size(), 3U);
    EXPECT_EQ(first.batches[0]->events.size(), 6U) << "two whole revisions, though four events do";
    EXPECT_EQ(first.last_mod, (std::vector<Revision>{2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6}));
    EXPECT_EQ(first.batches, second.batches) << "watchers that resume together share the pieces";
}

TEST(StoreWatch, CompactedStartIsRefused) {
    auto store = memory_store();
    for (int i = 0; i < 5; ++i) put(*store, "a", "v");
    ASSERT_TRUE(store->compact(4));
    RecordingSink sink;
    EXPECT_EQ(store->watch({.range = {"a", ""}, .start_revision = 3}, sink).error().fault(),
              Fault::kCompacted);
    EXPECT_EQ(store->watch_floor(), 4);
    ASSERT_TRUE(store->watch({.range = {"a", ""}, .start_revision = 4}, sink));
    settle(*store);
    EXPECT_EQ(sink.take(), "+a=v@4 +a=v@5<v@4 +a=v@6<v@5");
}

TEST(StoreWatch, ADeletionAtTheCompactedRevisionIsStillTold) {
    auto store = memory_store();
    put(*store, "a", "1");
    del(*store, "a");
    ASSERT_TRUE(store->compact(3));
    RecordingSink sink;
    ASSERT_TRUE(store->watch({.range = {"a", ""}, .start_revision = 3}, sink));
    settle(*store);
    EXPECT_EQ(sink.take(), "-a@3");
}

TEST(StoreWatch, AFullSinkFallsBehindAndLosesNothing) {
    auto store = memory_store({.catch_up_events = 2});
    RecordingSink slow, fast;
    auto id = store->watch({.range = {"a", ""}}, slow);
    ASSERT_TRUE(store->watch({.range = {"a", ""}}, fast));
    slow.room = 1;
    for (int i = 0; i < 6; ++i) put(*store, "a", fmt::format("{}", i));
    EXPECT_EQ(slow.take(), "+a=0@2");
    EXPECT_EQ(fast.last_mod.size(), 6U) << "the others do not feel it";
    EXPECT_EQ(store->stats().behind, 1U);
    EXPECT_FALSE(store->catch_up()) << "nothing to do until it says that it has room";
    slow.room = 1;
    store->resume(*id);
    settle(*store);
    EXPECT_EQ(slow.take(), "+a=1@3<0@2 +a=2@4<1@3");
    slow.room = -1;
    store->resume(*id);
    settle(*store);
    put(*store, "a", "6");
    EXPECT_EQ(slow.take(), "+a=3@5<2@4 +a=4@6<3@5; +a=5@7<4@6; +a=6@8<5@7");
}

TEST(StoreWatch, ASlowWatcherWhoseHistoryIsCompactedIsTold) {
    auto store = memory_store();
    RecordingSink slow;
    auto id = store->watch({.range = {"a", ""}}, slow);
    slow.room = 0;
    for (int i = 0; i < 4; ++i) put(*store, "a", "v");
    ASSERT_TRUE(store->compact(2));
    EXPECT_FALSE(slow.cancelled) << "revision 2 is what it still needs first";
    ASSERT_TRUE(store->compact(4));
    EXPECT_TRUE(slow.cancelled);
    EXPECT_EQ(slow.cancel_reason, CancelReason::kCompacted);
    EXPECT_EQ(slow.cancel_floor, 4);
    EXPECT_EQ(store->stats().watchers, 0U);
    store->cancel_watch(*id);
}

class CancellingSink final : public WatchSink {
  public:
    bool on_events(WatchId, const Delivery&) override {
        ++events;
        for (const WatchId id : victims) store->cancel_watch(id);
        return true;
    }
    void on_progress(WatchId, Revision) override {}
    void on_cancelled(WatchId, CancelReason, Revision) override {}
    Store* store = nullptr;
    std::vector<WatchId> victims;
    int events = 0;
};

TEST(StoreWatch, SinksMayCancelWhileTheyAreTold) {
    auto store = memory_store();
    CancellingSink sink;
    sink.store = store.get();
    RecordingSink before, after;
    const WatchId first = *store->watch({.range = {"a", ""}}, before);
    const WatchId self = *store->watch({.range = {"a", ""}}, sink);
    const WatchId last = *store->watch({.range = {"a", ""}}, after);
    sink.victims = {first, self, last};
    put(*store, "a", "1");
    put(*store, "a", "2");
    EXPECT_EQ(sink.events, 1);
    EXPECT_EQ(before.take(), "+a=1@2");
    EXPECT_EQ(after.take(), "");
    EXPECT_EQ(store->stats().watchers, 0U);
    EXPECT_EQ(store->stats().watch_ranges, 0U);
}

TEST(StoreWatch, RefusesAnEmptyRange) {
    auto store = memory_store();
    RecordingSink sink;
    EXPECT_EQ(store->watch({.range = {"b", "a"}}, sink).error().fault(), Fault::kEmptyWatchRange);
    EXPECT_EQ(store->watch({.range = {"b", "b"}}, sink).error().fault(), Fault::kEmptyWatchRange);
}

TEST(StoreWatch, RefusesARangeTooLongToKeep) {
    auto store = memory_store();
    RecordingSink sink;
    const std::string half(kMaxWatchRangeBytes / 2, 'k');
    std::string end = half;
    end.back() = 'l';
    EXPECT_TRUE(store->watch({.range = {half, end}}, sink));
    end.push_back('x');
    EXPECT_EQ(store->watch({.range = {half, end}}, sink).error().fault(),
              Fault::kWatchRangeTooLong);
    const std::string single(kMaxWatchRangeBytes + 1, 'k');
    EXPECT_EQ(store->watch({.range = {single, ""}}, sink).error().fault(),
              Fault::kWatchRangeTooLong);
    EXPECT_EQ(store->stats().watch_ranges, 1U);
}

TEST(StoreWatch, NegativeStartsAreBelowWhatWasCompacted) {
    auto store = memory_store();
    put(*store, "a", "1");
    RecordingSink sink;
    const auto fault = [&](Revision start) {
        auto added = store->watch({.range = {"a", ""}, .start_revision = start}, sink);
        return added ? Fault{} : added.error().fault();
    };
    EXPECT_EQ(fault(-4), Fault::kCompacted);
    EXPECT_EQ(fault(-1), Fault{});
    while (store->catch_up()) {
    }
    EXPECT_EQ(sink.take(), "+a=1@2") << "all of it";
    ASSERT_TRUE(store->compact(0));
    EXPECT_EQ(fault(-1), Fault::kCompacted);
}

TEST(StoreWatch, FindsWatchersAmongManyRanges) {
    auto store = memory_store();
    std::vector<std::unique_ptr<RecordingSink>> sinks;
    std::vector<WatchId> ids;
    std::vector<std::string> keys;
    const auto key_of = [](int i) { return fmt::format("{:03}", i); };
    for (int i = 0; i < 200; ++i) {
        keys.push_back(key_of(i));
        sinks.push_back(std::make_unique<RecordingSink>());
        // Ranges [i, i + i % 7 + 1): nested, disjoint, equal starts.
        ids.push_back(
            *store->watch({.range = {key_of(i / 2), key_of(i / 2 + i % 7 + 1)}}, *sinks.back()));
    }
    for (int round = 0; round < 2; ++round) {
        for (int key = 0; key < 110; ++key) {
            put(*store, key_of(key), "v");
            for (int i = 0; i < 200; ++i) {
                const bool cancelled = round == 1 && i % 3 == 0;
                const bool hit = key >= i / 2 && key < i / 2 + i % 7 + 1 && !cancelled;
                EXPECT_EQ(!sinks[static_cast<std::size_t>(i)]->take().empty(), hit)
                    << key << " " << i;
            }
        }
        for (std::size_t i = 0; i < 200 && round == 0; i += 3) store->cancel_watch(ids[i]);
    }
}

}  // namespace
}  // namespace mesh::store::testing
