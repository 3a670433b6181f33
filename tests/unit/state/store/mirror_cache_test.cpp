// A mirror that survives: what is there after reopening, what is refused, what a backend that fails
// costs.
#include "state/store/mirror_cache.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "state/store/lmdb_backend.hpp"
#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

namespace fs = std::filesystem;

KeyValue upstream(std::string_view key, std::string_view value, Revision mod,
                  std::uint32_t sub_revision = 0, std::int64_t version = 1) {
    return KeyValue::make(key, value,
                          {.create_revision = mod,
                           .mod_revision = mod,
                           .version = version,
                           .lease = LeaseId{3},
                           .sub_revision = sub_revision});
}
KeyValue gone(std::string_view key, Revision mod) {
    return KeyValue::make_tombstone(key, mod);
}

class MirrorCacheTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "mirror_cache_test.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        root_ = name;
        options_.directory = name + "/cache";
        options_.sync = false;
        options_.background.gather = std::chrono::milliseconds(1);
    }
    void TearDown() override {
        store_.reset();
        fs::remove_all(root_);
    }
    [[nodiscard]] std::string data_file() const { return options_.directory + "/data.mdb"; }
    /// Ends the one that is open, which waits for its disk.
    void open() {
        store_.reset();
        auto cache = open_mirror_cache(options_, {}, clock_);
        ASSERT_TRUE(cache) << cache.error().to_error().message();
        store_ = std::move(cache->store);
        set_aside_ = cache->set_aside;
        written_ = cache->written;
    }
    void snapshot(Revision revision, const std::vector<KeyValue>& kvs, bool same = true) {
        auto done = store_->reset_from_snapshot(revision, kvs, same);
        ASSERT_TRUE(done) << done.error().to_error().message();
    }
    void events(Revision revision, const std::vector<KeyValue>& kvs) {
        auto done = store_->apply_upstream(revision, kvs);
        ASSERT_TRUE(done) << done.error().to_error().message();
    }
    std::string history(Revision from) {
        RecordingSink sink;
        const auto id =
            store_->watch({.range = {kFromZero, kFromZero}, .start_revision = from}, sink);
        if (!id) return std::string(to_string(id.error().fault()));
        while (store_->catch_up()) {
        }
        store_->cancel_watch(*id);
        return sink.take();
    }

    fs::path root_;
    SystemClock clock_;
    MirrorCacheOptions options_;
    std::unique_ptr<Store> store_;
    std::string set_aside_;
    TimePoint written_{};
};

TEST_F(MirrorCacheTest, IsThereAfterReopeningWithItsHistory) {
    open();
    EXPECT_FALSE(store_->mirrors());
    store_->set_identity({.cluster_id = 21, .member_id = 22}, 23);
    // Two keys of one revision, as of a txn.
    snapshot(100, {upstream("a", "1", 90, 0), upstream("b", "1", 95, 1), upstream("c", "1", 95, 2)},
             false);
    EXPECT_TRUE(store_->mirrors());
    events(102, {upstream("a", "2", 102, 0, 2), upstream("d", "1", 102, 1)});
    events(104, {gone("b", 104)});
    events(110, {});

    open();
    EXPECT_TRUE(store_->mirrors());
    EXPECT_EQ(store_->revision(), 110);
    EXPECT_EQ(store_->identity(), (Identity{.cluster_id = 21, .member_id = 22}));
    EXPECT_EQ(store_->raft_term(), 23U);
    EXPECT_EQ(dump_all(*store_), "a=2@102 c=1@95 d=1@102");
    EXPECT_EQ(dump_all(*store_, 100), "a=1@90 b=1@95 c=1@95");
    EXPECT_EQ(dump_all(*store_, 99), "mvcc: required revision has been compacted");
    EXPECT_EQ(store_->watch_floor(), 101);
    EXPECT_EQ(history(101), "+a=2@102<1@90 +d=1@102 -b@104<1@95");
    EXPECT_EQ(history(104), "-b@104<1@95");
    EXPECT_EQ(history(100), "mvcc: required revision has been compacted");
    EXPECT_EQ(store_->newest().live.mod_revision(), 102);
    EXPECT_EQ(store_->newest().change.key(), "b");
    EXPECT_TRUE(store_->newest().change.tombstone());
    EXPECT_EQ(store_->put({.key = "a", .value = "3"}).error().fault(), Fault::kMirror);
    EXPECT_GT(written_, clock_.now() - std::chrono::minutes(5));

    // And it goes on from there.
    events(111, {upstream("e", "1", 111)});
    open();
    EXPECT_EQ(history(104), "-b@104<1@95 +e=1@111");
}

TEST_F(MirrorCacheTest, AReListIsKeptAsItsDifference) {
    open();
    snapshot(100, {upstream("a", "1", 90), upstream("b", "1", 91), upstream("c", "1", 92)}, false);
    events(101, {upstream("a", "2", 101, 0, 2)});
    snapshot(200,
             {upstream("a", "3", 150, 0, 3), upstream("c", "1", 92), upstream("d", "1", 150, 1)});
    open();
    EXPECT_EQ(store_->revision(), 200);
    EXPECT_EQ(dump_all(*store_), "a=3@150 c=1@92 d=1@150");
    EXPECT_EQ(store_->watch_floor(), 201);
    snapshot(201, {});
    open();
    EXPECT_EQ(store_->revision(), 201);
    EXPECT_EQ(dump_all(*store_), "");
    EXPECT_FALSE(store_->newest().live);
}

TEST_F(MirrorCacheTest, AnotherHistoryLeavesNothingOfTheOneBefore) {
    open();
    store_->set_identity({.cluster_id = 1, .member_id = 2}, 3);
    snapshot(100, {upstream("a", "1", 90), upstream("b", "1", 91)}, false);
    events(101, {gone("a", 101)});
    store_->set_identity({.cluster_id = 4, .member_id = 5}, 6);
    snapshot(10, {upstream("a", "other", 9)}, false);
    open();
    EXPECT_EQ(store_->identity().cluster_id, 4U);
    EXPECT_EQ(store_->revision(), 10);
    EXPECT_EQ(dump_all(*store_), "a=other@9");
    EXPECT_EQ(history(11), "");
}

TEST_F(MirrorCacheTest, CompactionIsKept) {
    open();
    snapshot(100, {upstream("a", "1", 90)}, false);
    for (Revision r = 101; r <= 130; ++r) events(r, {upstream("a", "x", r, 0, r)});
    ASSERT_TRUE(store_->compact(store_->revision_keeping(10)));
    open();
    EXPECT_EQ(store_->compact_revision(), 120);
    EXPECT_EQ(store_->watch_floor(), 121);
    EXPECT_EQ(store_->stats().log_entries, 10U);
    EXPECT_EQ(dump_all(*store_, 120), "a=x@120");
    EXPECT_EQ(dump_all(*store_), "a=x@130");
}

TEST_F(MirrorCacheTest, ACacheAndAnOwnStoreAreNotEachOthers) {
    open();
    snapshot(100, {upstream("a", "1", 90)}, false);
    store_.reset();
    auto own = Store::open(*open_lmdb({.directory = options_.directory}), {}, TimePoint{});
    ASSERT_FALSE(own);
    EXPECT_EQ(own.error().fault(), Fault::kBackend);
    EXPECT_EQ(own.error().detail(), data_file() +
                                        ": is the cache of a mirrored etcd, expected an own store; "
                                        "name another directory");

    options_.directory = (root_ / "own").string();
    own =
        Store::open(*open_lmdb({.directory = options_.directory, .sync = false}), {}, TimePoint{});
    ASSERT_TRUE(own);
    put(**own, "a", "1");
    own = StoreError(Fault::kBackend);
    const auto cache = open_mirror_cache(options_, {}, clock_);
    ASSERT_FALSE(cache);
    EXPECT_EQ(cache.error().fault(), Fault::kBackend);
    EXPECT_NE(cache.error().detail().find("is an own store"), std::string::npos)
        << cache.error().detail();
    EXPECT_FALSE(fs::exists(data_file() + ".damaged")) << "nobody's cache";
}

TEST_F(MirrorCacheTest, ADamagedOneIsSetAside) {
    open();
    snapshot(100, {upstream("a", "1", 90)}, false);
    store_.reset();
    std::ofstream(data_file(), std::ios::binary | std::ios::trunc) << std::string(20'000, 'x');
    open();
    EXPECT_FALSE(store_->mirrors());
    EXPECT_NE(set_aside_.find(data_file() + ".damaged"), std::string::npos) << set_aside_;
    EXPECT_EQ(fs::file_size(data_file() + ".damaged"), 20'000U);
    snapshot(200, {upstream("b", "1", 190)}, false);
    open();
    EXPECT_EQ(set_aside_, "");
    EXPECT_EQ(dump_all(*store_), "b=1@190");
}

TEST_F(MirrorCacheTest, WhatDoesNotFitIsSaidAndTheLastDurableStateStays) {
    options_.background.max_waiting_bytes = 4000;
    options_.background.gather = std::chrono::hours(1);  // but for the first commit
    open();
    snapshot(100, {upstream("a", "1", 90)}, false);
    const TimePoint end = clock_.now() + std::chrono::seconds(30);
    while (store_->backend().durable_revision() != 100 && clock_.now() < end)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_EQ(store_->backend().durable_revision(), 100);
    for (Revision r = 101; r <= 120; ++r) events(r, {upstream("a", std::string(1000, 'x'), r)});
    ASSERT_TRUE(store_->backend_failure());
    EXPECT_EQ(store_->backend_failure()->fault(), Fault::kNoSpace);
    EXPECT_EQ(store_->revision(), 120) << "served all the same";
    open();
    EXPECT_EQ(dump_all(*store_), "a=1@90");
    EXPECT_EQ(store_->revision(), 100);

    for (Revision r = 101; r <= 120; ++r) events(r, {upstream("a", std::string(1000, 'x'), r)});
    ASSERT_TRUE(store_->backend_failure());
    store_->rewrite_backend();
    EXPECT_FALSE(store_->backend_failure());
    // History in memory begins before that on disk, and is compacted before it.
    ASSERT_TRUE(store_->compact(110));
    events(121, {upstream("b", "1", 121)});
    open();
    EXPECT_EQ(store_->revision(), 121);
    EXPECT_EQ(store_->compact_revision(), 120);
    EXPECT_EQ(history(121), "+b=1@121");
    EXPECT_EQ(history(120), "mvcc: required revision has been compacted");
    EXPECT_EQ(dump_all(*store_).substr(0, 10), "a=xxxxxxxx");
}

TEST_F(MirrorCacheTest, AnyOrderOfEventsListsAndCompactionsReopensAsItWas) {
    Rng rng(5);
    std::map<std::string, KeyValue> model;
    Revision revision = 100;
    open();
    snapshot(revision, {}, false);
    const auto put_one = [&](std::uint32_t sub) {
        const std::string key = fmt::format("k{:02}", rng.below(40));
        const KeyValue kv = upstream(key, fmt::format("v{}", rng.below(1000)), revision, sub);
        model[key] = kv;
        return kv;
    };
    for (int turn = 0; turn < 400; ++turn) {
        ++revision;
        switch (rng.below(8)) {
            case 0: {  // changes that were not seen, then a list
                for (std::uint32_t i = 0; i < 10; ++i, ++revision) put_one(i);
                if (!model.empty()) model.erase(model.begin());
                std::vector<KeyValue> page;
                for (const auto& [key, kv] : model) page.push_back(kv);
                snapshot(revision, page);
                break;
            }
            case 1:
                if (store_->revision_keeping(15) > store_->compact_revision()) {
                    ASSERT_TRUE(store_->compact(store_->revision_keeping(15)));
                }
                break;
            case 2:
                if (!model.empty()) {
                    const std::string key = model.begin()->first;
                    model.erase(key);
                    events(revision, {gone(key, revision)});
                }
                break;
            case 3: {
                const std::string before = dump_all(*store_);
                const Revision floor = store_->watch_floor();
                const std::string told = history(std::max(floor, store_->compact_revision() + 1));
                open();
                ASSERT_EQ(dump_all(*store_), before) << "turn " << turn;
                const std::string again = history(store_->watch_floor());
                // One catch-up tells what several did.
                ASSERT_EQ(again, told) << "turn " << turn;
                break;
            }
            default:
                events(revision, {put_one(0)});
        }
        std::vector<KeyValue> expected;
        for (const auto& [key, kv] : model) expected.push_back(kv);
        ASSERT_EQ(dump_all(*store_), dump(expected)) << "turn " << turn;
    }
}

}  // namespace
}  // namespace mesh::store::testing
