// Leases of a store run by the caller's clock.
#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

TEST(StoreLease, GrantChecksIdAndTtl) {
    ManualClock clock;
    auto store = memory_store();
    auto granted = store->lease_grant(LeaseId{77}, seconds(60), clock.now());
    EXPECT_EQ(granted->id, LeaseId{77});
    EXPECT_EQ(granted->ttl, seconds(60));
    EXPECT_EQ(store->lease_grant(LeaseId{77}, seconds(60), clock.now()).error().fault(),
              Fault::kLeaseExists);
    EXPECT_EQ(store->lease_grant(LeaseId{}, seconds(9'000'000'001), clock.now()).error().fault(),
              Fault::kLeaseTtlTooLarge);
    auto chosen = store->lease_grant(LeaseId{}, seconds(0), clock.now());
    EXPECT_GT(number(chosen->id), 0);
    EXPECT_EQ(chosen->ttl, seconds(2)) << "the shortest lease";
    EXPECT_EQ(store->leases().size(), 2U);
    EXPECT_EQ(store->revision(), 1) << "leases take no revision";
}

TEST(StoreLease, AreListedByExpiryAsEtcdDoes) {
    ManualClock clock;
    auto store = memory_store();
    for (const auto& [id, ttl] : std::vector<std::pair<int, int>>{{5, 300}, {3, 500}, {9, 100}})
        ASSERT_TRUE(store->lease_grant(LeaseId{id}, seconds(ttl), clock.now()));
    EXPECT_EQ(store->leases(), (std::vector<LeaseId>{LeaseId{9}, LeaseId{5}, LeaseId{3}}));
    clock.advance(seconds(250));
    ASSERT_TRUE(store->lease_keep_alive(LeaseId{5}, clock.now()));
    EXPECT_EQ(store->leases(), (std::vector<LeaseId>{LeaseId{9}, LeaseId{3}, LeaseId{5}}))
        << "a renewal moves it";
}

TEST(StoreLease, ExpiryDeletesItsKeysInOneRevision) {
    ManualClock clock;
    auto store = memory_store();
    ASSERT_TRUE(store->lease_grant(LeaseId{1}, seconds(10), clock.now()));
    put(*store, "b", "1", LeaseId{1});
    put(*store, "a", "1", LeaseId{1});
    put(*store, "c", "1");
    RecordingSink sink;
    ASSERT_TRUE(store->watch({.range = {kFromZero, kFromZero}}, sink));
    EXPECT_EQ(*store->next_tick(), clock.now() + seconds(10));
    clock.advance(seconds(9));
    EXPECT_EQ(*store->tick(clock.now()), 0U);
    clock.advance(seconds(1));
    EXPECT_EQ(*store->tick(clock.now()), 1U);
    EXPECT_EQ(sink.take(), "-a@5<1@3 -b@5<1@2");
    EXPECT_EQ(dump_all(*store), "c=1@4");
    EXPECT_TRUE(store->leases().empty());
    EXPECT_FALSE(store->next_tick());
}

TEST(StoreLease, KeepAliveMovesTheEnd) {
    ManualClock clock;
    auto store = memory_store();
    ASSERT_TRUE(store->lease_grant(LeaseId{1}, seconds(10), clock.now()));
    clock.advance(seconds(8));
    EXPECT_EQ(store->lease_time_to_live(LeaseId{1}, false, clock.now()).remaining, seconds(2));
    EXPECT_EQ(*store->lease_keep_alive(LeaseId{1}, clock.now()), seconds(10));
    clock.advance(seconds(8));
    EXPECT_EQ(*store->tick(clock.now()), 0U);
    clock.advance(seconds(2));
    EXPECT_EQ(store->lease_keep_alive(LeaseId{1}, clock.now()).error().fault(),
              Fault::kLeaseNotFound)
        << "expired, though not yet collected";
    EXPECT_EQ(*store->tick(clock.now()), 1U);
    EXPECT_EQ(store->lease_keep_alive(LeaseId{2}, clock.now()).error().fault(),
              Fault::kLeaseNotFound);
}

TEST(StoreLease, KeysFollowTheirLastPut) {
    ManualClock clock;
    auto store = memory_store();
    ASSERT_TRUE(store->lease_grant(LeaseId{1}, seconds(60), clock.now()));
    ASSERT_TRUE(store->lease_grant(LeaseId{2}, seconds(60), clock.now()));
    put(*store, "a", "1", LeaseId{1});
    put(*store, "b", "1", LeaseId{1});
    put(*store, "c", "1", LeaseId{1});
    put(*store, "a", "2", LeaseId{1});
    put(*store, "b", "2", LeaseId{2});
    del(*store, "c");
    const auto keys = [&](LeaseId id) {
        return store->lease_time_to_live(id, true, clock.now()).keys;
    };
    EXPECT_EQ(keys(LeaseId{1}), std::vector<std::string>{"a"});
    EXPECT_EQ(keys(LeaseId{2}), std::vector<std::string>{"b"});
    EXPECT_EQ(*store->lease_revoke(LeaseId{1}), 8);
    EXPECT_EQ(dump_all(*store), "b=2@6");
    EXPECT_EQ(store->lease_revoke(LeaseId{1}).error().fault(), Fault::kLeaseNotFound);
    const LeaseInfo gone = store->lease_time_to_live(LeaseId{1}, true, clock.now());
    EXPECT_EQ(gone.remaining, seconds(-1));
    EXPECT_EQ(gone.granted, seconds(0));
    EXPECT_EQ(store->range({.range = {"b", ""}})->kvs[0].lease(), LeaseId{2});
}

TEST(StoreLease, RevokeWithoutKeysTakesNoRevision) {
    auto store = memory_store();
    ASSERT_TRUE(store->lease_grant(LeaseId{1}, seconds(60), TimePoint{}));
    EXPECT_EQ(*store->lease_revoke(LeaseId{1}), 1);
}

}  // namespace
}  // namespace mesh::store::testing
