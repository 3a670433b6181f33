// A store that follows another one: after each change it answers as that one does.
#include <map>
#include <random>

#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

/// A source, a copy of it that was taken from the beginning on, and one that comes later.
struct Copies {
    explicit Copies(std::unique_ptr<Store> from = memory_store()) : source(std::move(from)) {
        source->on_change([this](const StoreChange& change) {
            for (auto* copy : {&early, &late}) {
                if (!*copy) continue;
                const auto done = (*copy)->apply(change);
                ASSERT_TRUE(done) << done.error().to_error().message();
            }
        });
        early = taken();
    }

    std::unique_ptr<Store> taken() const {
        auto copy = memory_store();
        for (const StoreChange& change : source->copy()) {
            const auto done = copy->apply(change);
            EXPECT_TRUE(done) << done.error().to_error().message();
        }
        return copy;
    }

    void expect_equal(Revision from) const {
        for (const auto* copy : {&early, &late}) {
            if (!*copy) continue;
            const Store& other = **copy;
            ASSERT_EQ(other.revision(), source->revision());
            for (Revision at = std::max(from, other.watch_floor()); at <= source->revision(); ++at)
                ASSERT_EQ(dump_all(other, at), dump_all(*source, at)) << "at revision " << at;
            ASSERT_EQ(dump_all(other), dump_all(*source));
        }
    }

    std::unique_ptr<Store> source, early, late;
};

TEST(StoreCopy, AnEmptyStoreAndItsFirstChanges) {
    Copies copies;
    copies.expect_equal(1);
    put(*copies.source, "a", "1");
    put(*copies.source, "b", "1");
    del(*copies.source, "a");
    copies.late = copies.taken();
    put(*copies.source, "b", "2");
    copies.expect_equal(1);
    EXPECT_EQ(dump_all(*copies.early, 3), "a=1@2 b=1@3");
    EXPECT_EQ(dump_all(*copies.late, 3), "a=1@2 b=1@3") << "history is copied too";
}

TEST(StoreCopy, WatchersOfACopyAreToldWhatThoseOfTheSourceAre) {
    Copies copies;
    put(*copies.source, "a", "0");
    copies.late = copies.taken();
    RecordingSink of_source, of_early, of_late;
    const WatchRequest everything{.range = {kFromZero, kFromZero}, .start_revision = 2};
    for (auto [store, sink] :
         {std::pair{copies.source.get(), &of_source}, std::pair{copies.early.get(), &of_early},
          std::pair{copies.late.get(), &of_late}}) {
        ASSERT_TRUE(store->watch(everything, *sink));
        while (store->catch_up()) {
        }
    }
    copies.source->hold();
    put(*copies.source, "a", "1");
    put(*copies.source, "b", "1");
    EXPECT_EQ(copies.early->revision(), 2) << "not before it is durable";
    ASSERT_TRUE(copies.source->flush());
    del(*copies.source, kFromZero, kFromZero);
    const std::string told = of_source.take();
    EXPECT_EQ(told, "+a=0@2; +a=1@3<0@2; +b=1@4; -a@5<1@3 -b@5<1@4");
    EXPECT_EQ(of_early.take(), told);
    EXPECT_EQ(of_late.take(), told);
}

TEST(StoreCopy, LeasesThatEndTakeTheirKeysInACopyToo) {
    Copies copies;
    const auto lease = copies.source->lease_grant({}, seconds(5), TimePoint{});
    ASSERT_TRUE(lease);
    put(*copies.source, "a", "1", lease->id);
    copies.expect_equal(1);
    EXPECT_EQ(copies.early->range({.range = {"a", ""}})->kvs[0].lease(), lease->id);
    ASSERT_EQ(*copies.source->tick(TimePoint{} + seconds(6)), 1U);
    copies.expect_equal(1);
    EXPECT_EQ(dump_all(*copies.early), "");
}

TEST(StoreCopy, OfAMirrorThatListsAgainAndIsReplaced) {
    Copies copies;
    const auto at = [](std::string_view key, Revision revision) {
        return KeyValue::make(
            key, "v", {.create_revision = revision, .mod_revision = revision, .version = 1});
    };
    const auto list = [&](Revision revision, std::vector<KeyValue> kvs, bool same) {
        ASSERT_TRUE(copies.source->reset_from_snapshot(revision, kvs, same));
    };
    list(100, {at("a", 90), at("b", 95)}, false);
    copies.late = copies.taken();
    const std::vector<KeyValue> event{at("c", 101)};
    ASSERT_TRUE(copies.source->apply_upstream(101, event));
    RecordingSink sink;
    ASSERT_TRUE(copies.late->watch({.range = {kFromZero, kFromZero}}, sink));
    list(110, {at("a", 90), at("d", 105)}, true);
    copies.expect_equal(110);
    EXPECT_EQ(sink.take(), "+d=v@105 -b@110<v@95 -c@110<v@101");
    EXPECT_EQ(copies.late->watch_floor(), 111) << "what happened in between is not history";
    ASSERT_TRUE(copies.source->apply_upstream(120, {})) << "progress without events";
    copies.expect_equal(120);
    list(50, {at("z", 7)}, false);
    copies.expect_equal(50);
    EXPECT_TRUE(sink.cancelled);
}

TEST(StoreCopy, RandomHistoriesWithCompactions) {
    for (unsigned seed = 1; seed <= 50; ++seed) {
        std::mt19937 random(seed);
        const auto below = [&random](unsigned n) { return static_cast<unsigned>(random() % n); };
        Copies copies;
        for (int step = 0; step < 200; ++step) {
            const std::string key(1, static_cast<char>('a' + below(8)));
            const unsigned what = below(20);
            if (what < 12) put(*copies.source, key, std::to_string(step));
            if (what >= 12 && what < 17) del(*copies.source, key);
            if (what == 17 && copies.source->revision() > copies.source->compact_revision() + 5) {
                ASSERT_TRUE(copies.source->compact(copies.source->revision() - below(5)));
            }
            if (what == 18 && !copies.late) copies.late = copies.taken();
        }
        copies.late = copies.taken();
        put(*copies.source, "last", "1");
        ASSERT_NO_FATAL_FAILURE(
            copies.expect_equal(std::max<Revision>(copies.source->compact_revision(), 1)))
            << "seed " << seed;
    }
}

TEST(StoreCopy, RefusesWhatDoesNotFollow) {
    auto copy = memory_store();
    ASSERT_TRUE(copy->apply({.kind = StoreChange::Kind::kReplaced, .revision = 100}));
    const auto early = copy->apply({.kind = StoreChange::Kind::kDifference, .revision = 90});
    ASSERT_FALSE(early);
    EXPECT_EQ(early.error().fault(), Fault::kMirror);
}

}  // namespace
}  // namespace mesh::store::testing
