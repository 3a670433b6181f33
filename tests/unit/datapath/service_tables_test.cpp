// The planner against tables that can be looked at, stopped and made to fail between any two
// writes.
#include "datapath/service_tables.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <set>

#include "datapath/memory_storage.hpp"

namespace {

using namespace mesh::datapath;  // NOLINT: a test of this namespace
using mesh::Errc;
using mesh::Result;
using mesh::Rng;
using mesh::model::IpAddress;

ServiceFrontend vip(std::uint32_t n, std::uint16_t port = 80, Protocol proto = Protocol::kTcp) {
    return {IpAddress::v4(0x0a0b0000U + n), port, proto};
}

Backend backend(std::uint32_t n, std::uint16_t weight = 1, std::uint32_t cluster = 1) {
    Backend b;
    b.address = IpAddress::v4(0x0a0a0000U + n);
    b.port = 8080;
    b.cluster_id = cluster;
    b.weight = weight;
    return b;
}

ServiceRow row(std::uint32_t n, std::vector<Backend> backends, std::uint32_t affinity = 0) {
    return {vip(n), "default/s" + std::to_string(n), affinity, std::move(backends)};
}

/// Calls `before_write` before each write, which may throw to die there; counts, and fails calls.
class WatchedStorage final : public MemoryStorage {
  public:
    using MemoryStorage::MemoryStorage;
    struct Died {};
    std::function<void()> before_write = [] {};
    int writes = 0;
    int grace_periods = 0;
    bool refuse_inserts = false;
    bool refuse_deletes = false;

    void write_backend(std::uint32_t id, const mesh_backend& b) override {
        step();
        MemoryStorage::write_backend(id, b);
    }
    void write_slots(std::uint32_t base, std::span<const mesh_slot> slots) override {
        // One by one, as another CPU may see them.
        for (std::size_t i = 0; i < slots.size(); ++i) {
            step();
            MemoryStorage::write_slots(base + static_cast<std::uint32_t>(i), slots.subspan(i, 1));
        }
    }
    void write_service(std::uint32_t id, const mesh_service& s) override {
        step();
        MemoryStorage::write_service(id, s);
    }
    void write_maglev(std::uint32_t base, std::span<const std::uint32_t> backends) override {
        step();
        MemoryStorage::write_maglev(base, backends);
    }
    void publish_balance(std::uint32_t id, const mesh_balance& balance) override {
        step();
        MemoryStorage::publish_balance(id, balance);
    }
    void publish_window(std::uint32_t id, std::uint64_t window) override {
        step();
        MemoryStorage::publish_window(id, window);
    }
    void set_affinity(std::uint32_t id, std::uint32_t seconds) override {
        step();
        MemoryStorage::set_affinity(id, seconds);
    }
    void set_backend_flags(std::uint32_t id, std::uint32_t flags) override {
        step();
        MemoryStorage::set_backend_flags(id, flags);
    }
    void set_backend_info(std::uint32_t id, std::uint32_t cluster, std::uint16_t weight) override {
        step();
        MemoryStorage::set_backend_info(id, cluster, weight);
    }
    Result<void> insert_frontends(std::span<const FrontendEntry> entries) override {
        for (std::size_t i = 0; i < entries.size(); ++i) {
            step();
            if (refuse_inserts && i + 1 == entries.size()) return mesh::internal("E2BIG");
            (void)MemoryStorage::insert_frontends(entries.subspan(i, 1));
        }
        return {};
    }
    Result<void> delete_frontends(std::span<const mesh_frontend_key> keys) override {
        for (std::size_t i = 0; i < keys.size(); ++i) {
            step();
            if (refuse_deletes && i + 1 == keys.size()) return mesh::internal("EIO");
            (void)MemoryStorage::delete_frontends(keys.subspan(i, 1));
        }
        return {};
    }
    Result<void> wait_for_readers() override {
        ++grace_periods;
        return {};
    }

  private:
    void step() {
        before_write();
        ++writes;
    }
};

constexpr TableSizes kSmall{64, 256, 512};

/// What a client can get from a service: the backends of its slots, or nullopt if it is none.
std::optional<std::set<IpAddress>> reachable(MemoryStorage& storage, const ServiceFrontend& front) {
    const auto entries = *storage.read_frontends();
    for (const FrontendEntry& entry : entries) {
        if (!same_key(entry.key, table_key(front))) continue;
        const mesh_service service = storage.read_service(entry.service);
        EXPECT_TRUE(same_key(service.frontend, entry.key));
        std::set<IpAddress> all;
        for (std::uint32_t i = 0; i < MESH_WINDOW_COUNT(service.window); ++i) {
            const mesh_slot slot = storage.read_slot(MESH_WINDOW_BASE(service.window) + i);
            for (const std::uint32_t id : {slot.backend, slot.alias}) {
                const mesh_backend b = storage.read_backend(id);
                EXPECT_EQ(b.service, entry.service) << "a slot of another service's backend";
                EXPECT_NE(b.flags & MESH_BACKEND_IN_USE, 0U) << "a slot of a removed backend";
                IpAddress::Bytes bytes{};
                std::memcpy(bytes.data(), b.address, bytes.size());
                all.insert(IpAddress(bytes));
            }
        }
        return all;
    }
    return std::nullopt;
}

/// What a client outside of the cluster can get from a service by its Maglev table: empty if it has
/// none, nullopt if there is no such service.
std::optional<std::set<IpAddress>> reachable_outside(MemoryStorage& storage,
                                                     const ServiceFrontend& front) {
    for (const FrontendEntry& entry : *storage.read_frontends()) {
        if (!same_key(entry.key, table_key(front))) continue;
        std::set<IpAddress> all;
        for (const std::uint32_t id : storage.maglev_of(entry.service)) {
            const mesh_backend b = storage.read_backend(id);
            EXPECT_EQ(b.service, entry.service) << "a place of another service's backend";
            EXPECT_NE(b.flags & MESH_BACKEND_IN_USE, 0U) << "a place of a removed backend";
            IpAddress::Bytes bytes{};
            std::memcpy(bytes.data(), b.address, bytes.size());
            all.insert(IpAddress(bytes));
        }
        return all;
    }
    return std::nullopt;
}

/// The same, of the row.
std::set<IpAddress> outside_addresses(const ServiceRow& row) {
    std::set<IpAddress> all;
    if (!row.outside && !row.outside_local) return all;
    for (const Backend& b : row.backends) {
        if (b.weight > 0 && (b.here || !row.outside_local)) all.insert(b.address);
    }
    return all;
}

std::uint64_t maglev_entries(const std::vector<ServiceRow>& rows) {
    std::uint64_t sum = 0;
    for (const ServiceRow& row : rows) sum += outside_addresses(row).empty() ? 0 : 252;
    return sum;
}

ServiceRow outside(ServiceRow row, bool local = false) {
    row.outside = true;
    row.outside_local = local;
    return row;
}

Backend here(Backend backend) {
    backend.here = true;
    return backend;
}

std::set<IpAddress> addresses(const std::vector<Backend>& backends) {
    std::set<IpAddress> all;
    for (const Backend& b : backends) all.insert(b.address);
    return all;
}

ApplyStats must_apply(ServiceTables& tables, const std::vector<ServiceChange>& changes) {
    auto stats = tables.apply(changes);
    EXPECT_TRUE(stats) << (stats ? "" : stats.error().message());
    return stats ? *stats : ApplyStats{};
}

class ServiceTablesTest : public ::testing::Test {
  protected:
    WatchedStorage storage{kSmall};
    ServiceTables tables{storage, 251};
    void SetUp() override { ASSERT_TRUE(tables.adopt()); }
    ApplyStats apply(const std::vector<ServiceChange>& changes) {
        return must_apply(tables, changes);
    }
};

TEST_F(ServiceTablesTest, ARowBecomesReachableAndGoesAgain) {
    const auto stats = apply({ServiceChange::upsert(row(1, {backend(1), backend(2)}))});
    EXPECT_EQ(stats.services_added, 1U);
    EXPECT_EQ(stats.backends_added, 2U);
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1), backend(2)}));
    EXPECT_EQ(reachable(storage, vip(1, 81)), std::nullopt);
    EXPECT_EQ(reachable(storage, vip(1, 80, Protocol::kUdp)), std::nullopt);
    EXPECT_EQ(apply({ServiceChange::remove(vip(1))}).services_removed, 1U);
    EXPECT_EQ(reachable(storage, vip(1)), std::nullopt);
    EXPECT_EQ(tables.occupancy().services, 0U);
    EXPECT_EQ(tables.occupancy().backends, 0U);
    EXPECT_EQ(tables.occupancy().slots, 0U);
}

TEST_F(ServiceTablesTest, TheSameRowAgainWritesNothing) {
    apply({ServiceChange::upsert(row(1, {backend(1), backend(2)}))});
    const int before = storage.writes;
    const auto stats = apply({ServiceChange::upsert(row(1, {backend(2), backend(1)}))});
    EXPECT_EQ(stats.services_unchanged, 1U);
    EXPECT_EQ(storage.writes, before);
}

TEST_F(ServiceTablesTest, OneBackendChangeCostsItsServiceOnly) {
    std::vector<ServiceChange> changes;
    for (std::uint32_t n = 1; n <= 50; ++n) {
        changes.push_back(ServiceChange::upsert(row(n, {backend(n), backend(n + 100)})));
    }
    apply(changes);
    const int before = storage.writes;
    apply({ServiceChange::upsert(row(7, {backend(7), backend(107), backend(200)}))});
    EXPECT_EQ(storage.writes - before, 1 + 3 + 1);  // the backend, three slots, the window
}

TEST_F(ServiceTablesTest, IdsStayWhileTheBackendStays) {
    apply({ServiceChange::upsert(row(1, {backend(1), backend(2)}))});
    const auto before = *tables.find(vip(1));
    apply({ServiceChange::upsert(row(1, {backend(2, 5), backend(3)}))});
    const auto after = *tables.find(vip(1));
    EXPECT_EQ(after.id, before.id);
    EXPECT_EQ(after.backends[0].id, before.backends[1].id);
    EXPECT_EQ(after.backends[0].backend.weight, 5);
    EXPECT_EQ(after.backends[1].backend, backend(3));
}

TEST_F(ServiceTablesTest, AReusedIdHasAnotherTag) {
    WatchedStorage tiny(TableSizes{2, 2, 4});
    ServiceTables small(tiny);
    ASSERT_TRUE(small.adopt());
    must_apply(small, {ServiceChange::upsert(row(1, {backend(1)}))});
    const auto tag = tiny.read_backend(1).tag;
    EXPECT_TRUE(small.is_live(1, tag));
    must_apply(small, {ServiceChange::remove(vip(1))});
    EXPECT_FALSE(small.is_live(1, tag));
    must_apply(small, {ServiceChange::upsert(row(2, {backend(2)}))});
    EXPECT_FALSE(small.is_live(1, tag));
    EXPECT_TRUE(small.is_live(1, tag + 1));
    EXPECT_FALSE(small.is_live(0, 0));
    EXPECT_FALSE(small.is_live(99, 0));
}

TEST_F(ServiceTablesTest, EntriesAreReusedOnlyAfterAGracePeriod) {
    WatchedStorage tiny(TableSizes{2, 4, 4});
    ServiceTables small(tiny);
    ASSERT_TRUE(small.adopt());
    must_apply(small, {ServiceChange::upsert(row(1, {backend(1), backend(2)}))});
    const int grace = tiny.grace_periods;
    must_apply(small, {ServiceChange::upsert(row(1, {backend(1)}))});  // the slots' other half
    EXPECT_EQ(tiny.grace_periods, grace);
    must_apply(small, {ServiceChange::upsert(row(1, {backend(1), backend(3)}))});
    EXPECT_GT(tiny.grace_periods, grace);
}

TEST_F(ServiceTablesTest, TerminatingBackendsAreTheLastResort) {
    Backend going = backend(1);
    going.terminating = true;
    apply({ServiceChange::upsert(row(1, {going, backend(2)}))});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(2)}));
    const auto id = tables.find(vip(1))->backends[0].id;
    apply({ServiceChange::upsert(row(1, {going}))});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({going}));
    EXPECT_EQ(tables.find(vip(1))->backends[0].id, id);
    EXPECT_TRUE(tables.find(vip(1))->backends[0].selectable);
}

TEST_F(ServiceTablesTest, WeightZeroGetsNothing) {
    apply({ServiceChange::upsert(row(1, {backend(1, 0), backend(2)}))});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(2)}));
    apply({ServiceChange::upsert(row(1, {backend(1, 0)}))});
    EXPECT_EQ(reachable(storage, vip(1)), std::set<IpAddress>{});
}

TEST_F(ServiceTablesTest, BadRowsAreRefusedByNameAndTheOthersApplied) {
    apply({ServiceChange::upsert(row(1, {backend(1)}))});
    Backend no_port = backend(2);
    no_port.port = 0;
    Backend v6 = backend(3);
    v6.address = *IpAddress::parse("fd00::1");
    Backend udp = backend(4);
    udp.proto = Protocol::kUdp;
    ServiceRow portless = row(9, {});
    portless.frontend.port = 0;
    const auto stats = apply({
        ServiceChange::upsert(row(1, {no_port})),
        ServiceChange::upsert(row(2, {v6})),
        ServiceChange::upsert(row(3, {udp})),
        ServiceChange::upsert(row(4, {backend(5), backend(5)})),
        ServiceChange::upsert(row(5, {backend(6, 1, 512)})),
        ServiceChange::upsert(portless),
        ServiceChange::upsert(row(6, {backend(7)})),
    });
    ASSERT_EQ(stats.rejected.size(), 6U);
    for (const RejectedRow& r : stats.rejected) {
        EXPECT_EQ(r.error.code(), Errc::kInvalidArgument);
        EXPECT_THAT(r.error.detail(), ::testing::HasSubstr("expected")) << r.name;
    }
    EXPECT_EQ(stats.services_added, 1U);
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1)}));  // the last good state
}

TEST_F(ServiceTablesTest, ARowBeyondTheTablesIsRefusedAndMayComeWhenThereIsRoom) {
    std::vector<Backend> many;
    for (std::uint32_t n = 0; n < 200; ++n) many.push_back(backend(n));
    apply({ServiceChange::upsert(row(1, many))});
    auto stats = apply({ServiceChange::upsert(row(2, many))});
    ASSERT_EQ(stats.rejected.size(), 1U);
    EXPECT_EQ(stats.rejected[0].error.code(), Errc::kCapacity);
    EXPECT_EQ(tables.occupancy().backends, 200U);
    EXPECT_EQ(tables.occupancy().services, 1U);
    EXPECT_EQ(tables.occupancy().slots, 200U);
    // In one apply the first row gives back what the second needs.
    stats = apply({ServiceChange::upsert(row(2, many)), ServiceChange::remove(vip(1))});
    EXPECT_TRUE(stats.rejected.empty());
    EXPECT_EQ(reachable(storage, vip(2)), addresses(many));
}

std::vector<Backend> backends_of(std::uint32_t cluster, std::uint32_t first, std::uint32_t count) {
    std::vector<Backend> all;
    for (std::uint32_t n = first; n < first + count; ++n) all.push_back(backend(n, 1, cluster));
    return all;
}

std::map<std::uint32_t, std::size_t> by_cluster(const ServiceTables& tables, std::uint32_t n) {
    std::map<std::uint32_t, std::size_t> counts;
    if (const auto held = tables.find(vip(n))) {
        for (const auto& b : held->backends) ++counts[b.backend.cluster_id];
    }
    return counts;
}

using Counts = std::map<std::uint32_t, std::size_t>;

TEST_F(ServiceTablesTest, NoRemoteTakesTheRoomOfTheOwnClustersBackends) {
    tables.set_own_cluster(1);  // of 255 backends, one remote gets 127, all together 189
    auto mixed = backends_of(7, 1000, 200);
    for (const Backend& b : backends_of(1, 0, 2)) mixed.push_back(b);
    auto stats = apply({ServiceChange::upsert(row(1, mixed))});
    EXPECT_TRUE(stats.rejected.empty());
    ASSERT_EQ(stats.truncated.size(), 1U);
    EXPECT_EQ(stats.truncated[0].frontend, vip(1));
    EXPECT_EQ(stats.truncated[0].left_out, 73U);
    EXPECT_EQ(by_cluster(tables, 1), (Counts{{1, 2}, {7, 127}}));

    stats = apply({ServiceChange::upsert(row(2, backends_of(8, 2000, 100)))});
    ASSERT_EQ(stats.truncated.size(), 1U);
    EXPECT_EQ(by_cluster(tables, 2), (Counts{{8, 62}}));
    // A service of the own cluster grows and is replaced, also in the row that is full of others.
    stats = apply({ServiceChange::upsert(row(3, backends_of(1, 100, 30)))});
    stats = apply({ServiceChange::upsert(row(3, backends_of(1, 150, 30)))});
    EXPECT_TRUE(stats.rejected.empty());
    EXPECT_TRUE(stats.truncated.empty());
    mixed.resize(200);
    for (const Backend& b : backends_of(1, 10, 5)) mixed.push_back(b);
    stats = apply({ServiceChange::upsert(row(1, mixed))});
    EXPECT_EQ(by_cluster(tables, 1), (Counts{{1, 5}, {7, 127}}));
    ASSERT_EQ(stats.truncated.size(), 1U);
    EXPECT_EQ(stats.backends_removed, 2U) << "what served of the remote goes on serving";
}

TEST_F(ServiceTablesTest, SharesAreCountedThroughRemovalsFailuresAndRestarts) {
    tables.set_own_cluster(1);
    const auto many = backends_of(7, 1000, 200);
    storage.refuse_inserts = true;
    for (int i = 0; i < 3; ++i) {
        EXPECT_FALSE(tables.apply(std::vector{ServiceChange::upsert(row(1, many))}));
    }
    storage.refuse_inserts = false;
    for (int i = 0; i < 3; ++i) {
        apply({ServiceChange::upsert(row(1, many))});
        EXPECT_EQ(by_cluster(tables, 1), (Counts{{7, 127}}));
        apply({ServiceChange::remove(vip(1))});
    }
    apply({ServiceChange::upsert(row(1, many))});
    // What is one cluster's and becomes another's counts for that one.
    auto other = many;
    for (Backend& b : other) b.cluster_id = 8;
    apply({ServiceChange::upsert(row(1, other))});
    EXPECT_EQ(by_cluster(tables, 1), (Counts{{8, 127}}));
    apply({ServiceChange::upsert(row(2, backends_of(7, 1500, 200)))});
    EXPECT_EQ(by_cluster(tables, 2), (Counts{{7, 62}}));

    ServiceTables next(storage, 251);
    ASSERT_TRUE(next.adopt());
    next.set_own_cluster(1);
    must_apply(next, {ServiceChange::upsert(row(3, backends_of(9, 3000, 10)))});
    EXPECT_EQ(by_cluster(next, 3), (Counts{})) << "the share of all remotes is used up";
    must_apply(next, {ServiceChange::upsert(row(2, {}))});
    ASSERT_TRUE(next.finish_adopt(std::nullopt));
    must_apply(next, {ServiceChange::upsert(row(3, backends_of(9, 3000, 200)))});
    EXPECT_EQ(by_cluster(next, 3), (Counts{{9, 127}}));
}

TEST(ServiceTablesFit, WhatRemotesHoldGivesWayWhereTheSlotsOfARowDoNotSuffice) {
    WatchedStorage storage{TableSizes{64, 256, 40}};
    ServiceTables tables{storage};
    ASSERT_TRUE(tables.adopt());
    tables.set_own_cluster(1);
    must_apply(tables, {ServiceChange::upsert(row(1, backends_of(7, 1000, 30)))});
    // The row needs a second range, for which only 10 slots are left.
    auto mixed = backends_of(7, 1000, 30);
    for (const Backend& b : backends_of(1, 0, 5)) mixed.push_back(b);
    const auto stats = must_apply(tables, {ServiceChange::upsert(row(1, mixed))});
    EXPECT_TRUE(stats.rejected.empty());
    ASSERT_EQ(stats.truncated.size(), 1U);
    EXPECT_EQ(by_cluster(tables, 1).at(1), 5U);
    // Nothing but the own cluster's, and no room for it: refused, and what was there serves on.
    const auto refused =
        must_apply(tables, {ServiceChange::upsert(row(1, backends_of(1, 0, 100)))});
    ASSERT_EQ(refused.rejected.size(), 1U);
    EXPECT_EQ(by_cluster(tables, 1).at(1), 5U);
}

TEST_F(ServiceTablesTest, TheLastChangeOfAFrontendWins) {
    apply({ServiceChange::upsert(row(1, {backend(1)})), ServiceChange::remove(vip(1)),
           ServiceChange::upsert(row(1, {backend(2)}))});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(2)}));
    apply({ServiceChange::upsert(row(1, {backend(3)})), ServiceChange::remove(vip(1))});
    EXPECT_EQ(reachable(storage, vip(1)), std::nullopt);
}

TEST_F(ServiceTablesTest, ARemovalByNameSparesAFrontendThatChangedHands) {
    apply({ServiceChange::upsert(row(1, {backend(1)}))});
    ServiceRow other = row(1, {backend(2)});
    other.name = "default/other";
    apply({ServiceChange::upsert(other), ServiceChange::remove(vip(1), "default/s1")});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(2)}));
    apply({ServiceChange::remove(vip(1), "default/s1")});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(2)}));
    apply({ServiceChange::remove(vip(1), "default/other")});
    EXPECT_EQ(reachable(storage, vip(1)), std::nullopt);
}

TEST_F(ServiceTablesTest, ARefusedInsertLeavesNothingBehind) {
    apply({ServiceChange::upsert(row(1, {backend(1)}))});
    storage.refuse_inserts = true;
    const std::vector<ServiceChange> changes{ServiceChange::upsert(row(1, {backend(9)})),
                                             ServiceChange::upsert(row(2, {backend(2)})),
                                             ServiceChange::upsert(row(3, {backend(3)}))};
    EXPECT_FALSE(tables.apply(changes));
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1)}));
    EXPECT_EQ(reachable(storage, vip(2)), std::nullopt);
    EXPECT_EQ(tables.occupancy().services, 1U);
    EXPECT_EQ(tables.occupancy().backends, 1U);
    EXPECT_EQ(tables.occupancy().slots, 1U);
    storage.refuse_inserts = false;
    apply(changes);
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(9)}));
    EXPECT_EQ(reachable(storage, vip(3)), addresses({backend(3)}));
}

TEST_F(ServiceTablesTest, ARefusedDeleteKeepsTheServiceWhole) {
    apply(
        {ServiceChange::upsert(row(1, {backend(1)})), ServiceChange::upsert(row(2, {backend(2)}))});
    storage.refuse_deletes = true;
    const std::vector<ServiceChange> changes{ServiceChange::remove(vip(1)),
                                             ServiceChange::remove(vip(2))};
    EXPECT_FALSE(tables.apply(changes));
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1)}));
    EXPECT_EQ(reachable(storage, vip(2)), addresses({backend(2)}));
    storage.refuse_deletes = false;
    apply(changes);
    EXPECT_EQ(reachable(storage, vip(1)), std::nullopt);
}

TEST_F(ServiceTablesTest, ASuccessorKeepsIdsAndUnconfirmedBackendsUntilFinish) {
    apply({ServiceChange::upsert(row(1, {backend(1), backend(2, 3, 2), backend(4, 1, 3)}, 60)),
           ServiceChange::upsert(row(2, {backend(3)}))});
    const auto before = *tables.find(vip(1));
    ServiceTables next(storage, 251);
    const auto found = next.adopt();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->services, 2U);
    EXPECT_EQ(found->backends, 4U);
    EXPECT_EQ(found->repaired, 0U);
    EXPECT_FALSE(next.find(vip(1))->confirmed);

    const int writes = storage.writes;
    must_apply(next, {ServiceChange::upsert(row(1, {backend(1)}, 60))});
    EXPECT_EQ(storage.writes, writes);  // confirmed only
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1), backend(2), backend(4)}));
    const auto after = *next.find(vip(1));
    EXPECT_EQ(after.id, before.id);
    EXPECT_EQ(after.name, "default/s1");
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(after.backends[i].id, before.backends[i].id);
    EXPECT_EQ(after.backends[1].backend, backend(2, 3, 2));
    EXPECT_TRUE(after.backends[0].confirmed);
    EXPECT_FALSE(after.backends[1].confirmed);

    ASSERT_TRUE(next.finish_adopt(3));
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1), backend(2)}));
    EXPECT_EQ(reachable(storage, vip(2)), addresses({backend(3)}));
    const auto stats = next.finish_adopt({});
    ASSERT_TRUE(stats);
    EXPECT_EQ(stats->services_removed, 1U);
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(1)}));
    EXPECT_EQ(reachable(storage, vip(2)), std::nullopt);
    const int quiet = storage.writes;
    ASSERT_TRUE(next.finish_adopt({}));
    EXPECT_EQ(storage.writes, quiet);
    // From here on rows act at once.
    must_apply(next, {ServiceChange::upsert(row(1, {backend(5)}))});
    EXPECT_EQ(reachable(storage, vip(1)), addresses({backend(5)}));
}

TEST_F(ServiceTablesTest, ARowThatIsRemovedDuringAdoptionGoesAtOnce) {
    apply({ServiceChange::upsert(row(1, {backend(1)}))});
    ServiceTables next(storage, 251);
    ASSERT_TRUE(next.adopt());
    must_apply(next, {ServiceChange::remove(vip(1))});
    EXPECT_EQ(reachable(storage, vip(1)), std::nullopt);
    ASSERT_TRUE(next.finish_adopt({}));
}

TEST_F(ServiceTablesTest, SenselessRecordsAreRemovedAndTheOthersAdopted) {
    apply({ServiceChange::upsert(row(1, {backend(1)})), ServiceChange::upsert(row(2, {backend(2)})),
           ServiceChange::upsert(row(3, {backend(3)})),
           ServiceChange::upsert(row(4, {backend(4)}))});
    const auto id_of = [&](std::uint32_t n) { return tables.find(vip(n))->id; };
    storage.publish_window(id_of(1), MESH_WINDOW(500, 100));
    auto wrong = storage.read_service(id_of(2));
    wrong.frontend.port = 1;
    storage.write_service(id_of(2), wrong);
    storage.publish_window(id_of(3), storage.read_service(id_of(4)).window);
    ServiceTables next(storage, 251);
    const auto found = next.adopt();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->repaired, 3U);
    EXPECT_EQ(found->services, 1U);
    EXPECT_EQ(reachable(storage, vip(1)), std::nullopt);
    EXPECT_EQ(reachable(storage, vip(4)), addresses({backend(4)}));
    EXPECT_EQ(next.occupancy().backends, 1U);
}

/// From `before` to `after`, stopped before each write in turn.
void stop_everywhere(const std::vector<ServiceRow>& before, const std::vector<ServiceChange>& step,
                     const std::vector<ServiceRow>& after) {
    for (int stop_at = 0;; ++stop_at) {
        SCOPED_TRACE("stopped before write " + std::to_string(stop_at));
        WatchedStorage storage(kSmall);
        ServiceTables tables(storage, 251);
        ASSERT_TRUE(tables.adopt());
        std::vector<ServiceChange> first;
        for (const ServiceRow& r : before) first.push_back(ServiceChange::upsert(r));
        must_apply(tables, first);
        const int base = storage.writes;
        storage.before_write = [&] {
            for (std::size_t i = 0; i < before.size(); ++i) {
                const auto now = reachable(storage, before[i].frontend);
                const auto old_set = addresses(before[i].backends);
                const auto later =
                    std::ranges::find(after, before[i].frontend, &ServiceRow::frontend);
                const bool is_old = now == old_set;
                const bool is_new = later == after.end() ? !now : now == addresses(later->backends);
                EXPECT_TRUE(is_old || is_new) << "half of service " << before[i].name;
                const auto outside_now = reachable_outside(storage, before[i].frontend);
                EXPECT_TRUE(outside_now == outside_addresses(before[i]) ||
                            (later == after.end() ? !outside_now
                                                  : outside_now == outside_addresses(*later)))
                    << "half of service " << before[i].name;
            }
            if (storage.writes - base == stop_at) throw WatchedStorage::Died{};
        };
        bool died = false;
        try {
            (void)tables.apply(step);
        } catch (const WatchedStorage::Died&) {
            died = true;
        }
        storage.before_write = [] {};
        // Whatever state it died in, a successor ends where the rows say, and leaks nothing.
        ServiceTables next(storage, 251);
        const auto found = next.adopt();
        ASSERT_TRUE(found);
        EXPECT_EQ(found->repaired, 0U);
        for (const ServiceRow& r : before) {
            const auto now = reachable(storage, r.frontend);
            EXPECT_FALSE(now && now->empty()) << r.name;
        }
        std::vector<ServiceChange> last;
        std::uint64_t backends = 0;
        for (const ServiceRow& r : after) {
            last.push_back(ServiceChange::upsert(r));
            backends += r.backends.size();
        }
        must_apply(next, last);
        ASSERT_TRUE(next.finish_adopt({}));
        for (const ServiceRow& r : after) {
            EXPECT_EQ(reachable(storage, r.frontend), addresses(r.backends)) << r.name;
            EXPECT_EQ(reachable_outside(storage, r.frontend), outside_addresses(r)) << r.name;
        }
        EXPECT_EQ(storage.read_frontends()->size(), after.size());
        EXPECT_EQ(next.occupancy().services, after.size());
        EXPECT_EQ(next.occupancy().backends, backends);
        EXPECT_EQ(next.occupancy().slots, backends);
        EXPECT_EQ(next.occupancy().maglev, maglev_entries(after));
        if (!died) {
            EXPECT_GT(stop_at, 5);
            return;
        }
    }
}

TEST(ServiceTablesCrash, NoStopLeavesHalfAService) {
    const std::vector<ServiceRow> before{row(1, {backend(1), backend(2), backend(3)}),
                                         row(2, {backend(4), backend(5)}), row(3, {backend(6)})};
    const std::vector<ServiceRow> after{row(1, {backend(2), backend(7), backend(8)}, 30),
                                        row(2, {backend(4), backend(5), backend(9)}),
                                        row(4, {backend(10), backend(11)})};
    stop_everywhere(before,
                    {ServiceChange::upsert(after[0]), ServiceChange::upsert(after[1]),
                     ServiceChange::upsert(after[2]), ServiceChange::remove(vip(3))},
                    after);
}

TEST(ServiceTablesCrash, NoStopLeavesHalfOfAnExchange) {
    const std::vector<ServiceRow> before{row(1, {backend(1, 5), backend(2, 1)})};
    const std::vector<ServiceRow> after{row(1, {backend(3, 1), backend(4, 7)})};
    stop_everywhere(before, {ServiceChange::upsert(after[0])}, after);
}

TEST(ServiceTablesCrash, NoStopLeavesHalfAServiceForOutsiders) {
    const std::vector<ServiceRow> before{outside(row(1, {backend(1), backend(2), backend(3)})),
                                         outside(row(2, {here(backend(4)), backend(5)}), true),
                                         outside(row(3, {backend(6)})), row(5, {backend(12)})};
    const std::vector<ServiceRow> after{outside(row(1, {backend(2), backend(7)})),
                                        outside(row(2, {backend(4), here(backend(5))}), true),
                                        outside(row(4, {here(backend(10)), backend(11)}), true),
                                        outside(row(5, {backend(12)}))};
    stop_everywhere(before,
                    {ServiceChange::upsert(after[0]), ServiceChange::upsert(after[1]),
                     ServiceChange::upsert(after[2]), ServiceChange::upsert(after[3]),
                     ServiceChange::remove(vip(3))},
                    after);
}

TEST(ServiceTablesProperty, AnyWayToTheSameRowsGivesTheSameTables) {
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        Rng rng(seed);
        WatchedStorage storage(kSmall);
        auto tables = std::make_unique<ServiceTables>(storage, 251);
        ASSERT_TRUE(tables->adopt());
        std::map<ServiceFrontend, ServiceRow> model;
        for (int step = 0; step < 60; ++step) {
            std::vector<ServiceChange> changes;
            for (std::uint64_t n = 1 + rng.below(4); n > 0; --n) {
                const auto which = static_cast<std::uint32_t>(rng.below(8));
                if (rng.below(5) == 0) {
                    changes.push_back(ServiceChange::remove(vip(which)));
                    model.erase(vip(which));
                    continue;
                }
                std::vector<Backend> backends;
                for (std::uint32_t i = 0; i < 8; ++i) {
                    if (rng.below(2) == 0) continue;
                    backends.push_back(backend(i, static_cast<std::uint16_t>(rng.below(4))));
                    backends.back().terminating = rng.below(4) == 0;
                    backends.back().here = rng.below(2) == 0;
                }
                ServiceRow r = row(which, backends, static_cast<std::uint32_t>(rng.below(2)));
                r.outside = rng.below(2) == 0;
                r.outside_local = r.outside && rng.below(2) == 0;
                model[r.frontend] = r;
                changes.push_back(ServiceChange::upsert(r));
            }
            must_apply(*tables, changes);
            if (rng.below(6) == 0) {
                tables = std::make_unique<ServiceTables>(storage, 251);
                ASSERT_TRUE(tables->adopt());
                std::vector<ServiceChange> all;
                for (const auto& [f, r] : model) all.push_back(ServiceChange::upsert(r));
                const int writes = storage.writes;
                must_apply(*tables, all);
                EXPECT_EQ(storage.writes, writes) << "a restart wrote what was there already";
                ASSERT_TRUE(tables->finish_adopt({}));
            }
            const auto dump = tables->dump();
            ASSERT_EQ(dump.size(), model.size());
            std::size_t i = 0;
            std::uint64_t places = 0;
            for (const auto& [frontend, r] : model) {
                EXPECT_EQ(dump[i].frontend, frontend);
                EXPECT_EQ(dump[i].affinity_seconds, r.affinity_seconds);
                ASSERT_EQ(dump[i].backends.size(), r.backends.size());
                std::set<IpAddress> selectable;
                for (std::size_t b = 0; b < r.backends.size(); ++b) {
                    EXPECT_EQ(dump[i].backends[b].backend, r.backends[b]);
                    if (dump[i].backends[b].selectable) selectable.insert(r.backends[b].address);
                }
                EXPECT_EQ(reachable(storage, frontend), selectable);
                std::set<IpAddress> outside_set;
                for (const auto& b : dump[i].backends) {
                    if (b.selectable && r.outside && (b.backend.here || !r.outside_local)) {
                        outside_set.insert(b.backend.address);
                    }
                }
                EXPECT_EQ(reachable_outside(storage, frontend), outside_set);
                places += outside_set.empty() ? 0 : 252;
                ++i;
            }
            EXPECT_EQ(tables->occupancy().maglev, places);
        }
    }
}

TEST(ServiceTablesMaglev, WithoutRoomSlotsServeAndOnlyLocalRowsAreRefused) {
    TableSizes sizes = kSmall;
    sizes.maglev = 252;
    WatchedStorage storage(sizes);
    ServiceTables tables(storage, 251);
    ASSERT_TRUE(tables.adopt());
    must_apply(tables, {ServiceChange::upsert(outside(row(1, {backend(1)})))});
    auto stats = must_apply(tables, {ServiceChange::upsert(outside(row(2, {backend(2)})))});
    EXPECT_TRUE(stats.rejected.empty());
    EXPECT_EQ(reachable(storage, vip(2)), addresses({backend(2)}));
    EXPECT_EQ(reachable_outside(storage, vip(2)), std::set<IpAddress>());
    const ServiceRow local = outside(row(3, {here(backend(3))}), true);
    stats = must_apply(tables, {ServiceChange::upsert(local)});
    ASSERT_EQ(stats.rejected.size(), 1U);
    EXPECT_EQ(stats.rejected[0].error.code(), Errc::kCapacity);
    EXPECT_EQ(tables.occupancy().backends, 2U);
    must_apply(tables, {ServiceChange::remove(vip(1))});
    stats = must_apply(tables, {ServiceChange::upsert(local)});
    EXPECT_TRUE(stats.rejected.empty());
    EXPECT_EQ(reachable_outside(storage, vip(3)), addresses({backend(3)}));
}

}  // namespace
