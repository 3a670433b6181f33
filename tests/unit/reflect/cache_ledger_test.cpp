#include "reflect/cache_ledger.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "runtime/clock.hpp"

namespace mesh::reflect {
namespace {

using model::Resource;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::int64_t kLease = 7;

/// The own etcd: what of a key counts here.
struct Stored {
    std::string value;
    std::int64_t lease = 0;
    friend bool operator==(const Stored&, const Stored&) = default;
};
using OwnEtcd = std::map<std::string, Stored>;

class CacheLedgerTest : public testing::Test {
  protected:
    void list_own(std::int64_t lease = kLease) {
        lease_ = lease;
        ledger.begin_present(lease);
        for (const auto& [key, stored] : own) ledger.found(key, stored.value, stored.lease);
        complete = ledger.end_present();
    }
    void list_remote(Resource resource, std::map<std::string, std::string> kvs) {
        ledger.begin_list(resource);
        for (const auto& [tail, value] : kvs) ledger.put(resource, tail, value);
        ledger.end_list(resource, "now");
    }
    void apply(const std::vector<CacheLedger::Write>& writes) {
        for (const auto& write : writes) {
            written.push_back(write.value ? write.key + "=" + *write.value : "-" + write.key);
            if (write.value) {
                own[write.key] = {*write.value, lease_};
            } else {
                own.erase(write.key);
            }
        }
    }
    /// Writes all that is due and tells what that was.
    std::vector<std::string> flush(std::size_t limit = 100) {
        written.clear();
        while (ledger.pending() != 0) {
            const auto writes = ledger.take(limit, 1U << 20);
            apply(writes);
            ledger.applied(writes);
        }
        return written;
    }
    OwnEtcd own;
    CacheLedger ledger{"ape"};
    std::vector<std::string> written;
    std::int64_t lease_ = kLease;
    bool complete = false;
};

TEST_F(CacheLedgerTest, ACanaryFollowsItsListAndTheConfigGoesBeforeAll) {
    list_own();
    list_remote(Resource::kNodes, {{"n2", "2"}, {"n1", "1"}});
    ledger.put_config("{}");
    EXPECT_THAT(flush(1),
                ElementsAre("cilium/cluster-config/ape={}", "cilium/cache/nodes/v1/ape/n1=1",
                            "cilium/cache/nodes/v1/ape/n2=2",
                            "cilium/synced/ape/cilium/cache/nodes/v1=now"));
    EXPECT_FALSE(ledger.synced());
    for (const Resource r : model::kResources) {
        if (r != Resource::kNodes) list_remote(r, {});
    }
    flush();
    EXPECT_TRUE(ledger.synced());
}

TEST_F(CacheLedgerTest, KeysArePutWhereTheCacheHasThem) {
    list_own();
    ledger.put(Resource::kIps, "10.7.0.1", "a");
    ledger.put(Resource::kIps, "10.7.0.0/16", "b");
    ledger.put(Resource::kIdentities, "458753", "c");
    ledger.put(Resource::kServiceExports, "ns/x", "d");
    EXPECT_THAT(flush(), ElementsAre("cilium/cache/ip/v1/ape/10.7.0.1=a",
                                     "cilium/cache/ip/v1/ape/10.7.0.0/16=b",
                                     "cilium/cache/identities/v1/ape/id/458753=c",
                                     "cilium/cache/serviceexports/v1/ape/ns/x=d"));
}

TEST_F(CacheLedgerTest, ARestartWritesWhatDiffersAndNothingElse) {
    own = {{"cilium/cluster-config/ape", {"{}", kLease}},
           {"cilium/cache/nodes/v1/ape/same", {"1", kLease}},
           {"cilium/cache/nodes/v1/ape/other", {"old", kLease}},
           {"cilium/cache/nodes/v1/ape/gone", {"3", kLease}},
           {"cilium/synced/ape/cilium/cache/nodes/v1", {"then", kLease}}};
    list_own();
    // The remote has said nothing yet.
    EXPECT_THAT(flush(), IsEmpty());
    ledger.put_config("{}");
    list_remote(Resource::kNodes, {{"same", "1"}, {"other", "new"}});
    EXPECT_THAT(flush(), ElementsAre("cilium/cache/nodes/v1/ape/other=new",
                                     "-cilium/cache/nodes/v1/ape/gone"));
}

TEST_F(CacheLedgerTest, WhoSpeaksFirstDoesNotMatter) {
    own = {{"cilium/cluster-config/ape", {"{}", kLease}},
           {"cilium/cache/nodes/v1/ape/same", {"1", kLease}},
           {"cilium/cache/nodes/v1/ape/gone", {"3", kLease}},
           {"cilium/synced/ape/cilium/cache/nodes/v1", {"then", kLease}}};
    ledger.put_config("{}");
    list_remote(Resource::kNodes, {{"same", "1"}});
    list_own();
    EXPECT_THAT(flush(), ElementsAre("-cilium/cache/nodes/v1/ape/gone"));
}

TEST_F(CacheLedgerTest, AnotherLeaseHasAllKeysPutAgainAsTheyWere) {
    own = {{"cilium/cache/nodes/v1/ape/a", {"1", 3}},
           {"cilium/cluster-config/ape", {"{}", 3}},
           {"cilium/synced/ape/cilium/cache/nodes/v1", {"then", 3}}};
    list_own();
    flush();
    EXPECT_TRUE(complete);
    for (const auto& [key, stored] : own) EXPECT_EQ(stored.lease, kLease) << key;
    EXPECT_EQ(own.at("cilium/cache/nodes/v1/ape/a").value, "1");
}

TEST_F(CacheLedgerTest, ALostCacheAsksForTheValues) {
    list_own();
    list_remote(Resource::kNodes, {{"a", "1"}});
    flush();
    own.clear();
    list_own();
    EXPECT_FALSE(complete);
    list_remote(Resource::kNodes, {{"a", "1"}});
    EXPECT_THAT(flush(), ElementsAre("cilium/cache/nodes/v1/ape/a=1",
                                     "cilium/synced/ape/cilium/cache/nodes/v1=now"));
}

TEST_F(CacheLedgerTest, NewValuesDuringAWriteAreWrittenAfterIt) {
    list_own();
    ledger.put(Resource::kNodes, "a", "1");
    ledger.put(Resource::kNodes, "b", "1");
    const auto writes = ledger.take(10, 1000);
    ledger.put(Resource::kNodes, "a", "2");
    ledger.remove(Resource::kNodes, "b");
    apply(writes);
    ledger.applied(writes);
    EXPECT_THAT(flush(),
                ElementsAre("cilium/cache/nodes/v1/ape/a=2", "-cilium/cache/nodes/v1/ape/b"));
    EXPECT_EQ(ledger.wanted(), 1U);
}

TEST_F(CacheLedgerTest, WritesOfUnknownOutcomeAreDoneAgain) {
    list_own();
    ledger.put(Resource::kNodes, "a", "1");
    auto writes = ledger.take(10, 1000);
    apply(writes);  // though nobody tells
    ledger.give_back(std::move(writes));
    EXPECT_THAT(flush(), ElementsAre("cilium/cache/nodes/v1/ape/a=1"));
    writes = ledger.take(10, 1000);
    ledger.remove(Resource::kNodes, "a");
    writes = ledger.take(10, 1000);
    ledger.give_back(std::move(writes));
    EXPECT_THAT(flush(), ElementsAre("-cilium/cache/nodes/v1/ape/a"));
    EXPECT_EQ(ledger.wanted(), 0U);
}

TEST_F(CacheLedgerTest, BoundsKeepTheLastGoodValue) {
    list_own();
    ledger.set_bounds({.value_bytes = 3, .total_bytes = 60});
    EXPECT_TRUE(ledger.put(Resource::kNodes, "a", "123"));
    EXPECT_FALSE(ledger.put(Resource::kNodes, "a", "1234"));
    EXPECT_TRUE(ledger.put(Resource::kNodes, "a", "321"));
    EXPECT_TRUE(ledger.put(Resource::kNodes, "b", "1"));
    EXPECT_FALSE(ledger.put(Resource::kNodes, "c", "1"));
    ledger.end_list(Resource::kNodes, "now");
    flush();
    EXPECT_EQ(own.at("cilium/cache/nodes/v1/ape/a").value, "321");
    ledger.remove(Resource::kNodes, "b");
    EXPECT_TRUE(ledger.put(Resource::kNodes, "c", "1"));
}

TEST_F(CacheLedgerTest, ARefusedValueWaitsForAnother) {
    list_own();
    ledger.put(Resource::kNodes, "a", "bad");
    const auto writes = ledger.take(10, 1000);
    ledger.refuse(writes[0]);
    EXPECT_EQ(ledger.refused(), 1U);
    ledger.put(Resource::kNodes, "a", "bad");
    EXPECT_EQ(ledger.pending(), 0U);
    ledger.put(Resource::kNodes, "a", "good");
    EXPECT_THAT(flush(), ElementsAre("cilium/cache/nodes/v1/ape/a=good"));
    EXPECT_EQ(ledger.refused(), 0U);
}

/// Whatever happens in whatever order: once all is quiet, the cache is the remote's state.
TEST_F(CacheLedgerTest, EndsEqualToTheRemote) {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        Rng rng(seed);
        CacheLedger it("ape");
        OwnEtcd store;
        std::map<std::string, std::string> remote;
        std::int64_t lease = 1;
        const auto prefix = model::resource_prefix(Resource::kIps, "ape", model::Layout::kCache);
        for (int i = 0; i < 20; ++i) {
            if (rng.below(2) == 0) store[prefix + std::to_string(rng.below(12))] = {"old", 1};
        }
        const auto list_remote_now = [&] {
            it.begin_list(Resource::kIps);
            for (const auto& [tail, value] : remote) it.put(Resource::kIps, tail, value);
            it.end_list(Resource::kIps, "now");
        };
        const auto list_store = [&] {
            it.begin_present(lease);
            for (const auto& [key, stored] : store) it.found(key, stored.value, stored.lease);
            return it.end_present();
        };
        bool again = !list_store();
        bool listed = false;
        const auto write = [&](bool done, bool told) {
            auto writes = it.take(1 + rng.below(4), 1000);
            // What comes while they are under way.
            if (rng.below(2) == 0) {
                const std::string tail = std::to_string(rng.below(12));
                remote.erase(tail);
                it.remove(Resource::kIps, tail);
            }
            for (const auto& w : writes) {
                if (!done) break;
                if (w.value) {
                    store[w.key] = {*w.value, lease};
                } else {
                    store.erase(w.key);
                }
            }
            told ? it.applied(writes) : it.give_back(std::move(writes));
        };
        for (int step = 0; step < 200; ++step) {
            const std::string tail = std::to_string(rng.below(12));
            switch (rng.below(8)) {
                case 0:
                case 1:
                    remote[tail] = std::to_string(rng.below(3));
                    it.put(Resource::kIps, tail, remote[tail]);
                    break;
                case 2:
                    remote.erase(tail);
                    it.remove(Resource::kIps, tail);
                    break;
                case 3:
                    list_remote_now();
                    again = false;
                    listed = true;
                    break;
                case 4:
                    if (rng.below(4) == 0) {
                        ++lease;
                        if (rng.below(2) == 0) store.clear();
                        again = !list_store() || again;
                    }
                    break;
                case 5:
                    write(rng.below(2) == 0, false);
                    break;
                default:
                    write(true, true);
            }
        }
        if (again || !listed) list_remote_now();
        while (it.pending() != 0) {
            const auto writes = it.take(3, 1000);
            for (const auto& w : writes) {
                if (w.value) {
                    store[w.key] = {*w.value, lease};
                } else {
                    store.erase(w.key);
                }
            }
            it.applied(writes);
        }
        OwnEtcd expected;
        for (const auto& [tail, value] : remote) expected[prefix + tail] = {value, lease};
        expected[model::synced_key("ape", Resource::kIps, model::Layout::kCache)] = {"now", lease};
        ASSERT_EQ(store, expected);
        EXPECT_EQ(it.wanted(), expected.size());
        EXPECT_EQ(it.pending_bytes(), 0U);
    }
}

}  // namespace
}  // namespace mesh::reflect
