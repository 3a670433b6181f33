// Range, put, delete, txn, compaction: the rules of etcd, one by one.
#include <algorithm>

#include "state/store/txn_check.hpp"
#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

TEST(StoreKv, NewStoreIsEmptyAtRevisionOne) {
    auto store = memory_store();
    EXPECT_EQ(store->revision(), 1);
    EXPECT_EQ(store->compact_revision(), 0);
    EXPECT_EQ(store->identity().cluster_id, 7U);
    EXPECT_EQ(dump_all(*store), "");
}

TEST(StoreKv, PutCountsRevisionsAndVersions) {
    auto store = memory_store();
    EXPECT_EQ(put(*store, "a", "1"), 2);
    EXPECT_EQ(put(*store, "a", "2"), 3);
    auto answer = store->range({.range = {"a", ""}});
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->kvs.size(), 1U);
    EXPECT_EQ(answer->revision, 3);
    EXPECT_EQ(answer->kvs[0].create_revision(), 2);
    EXPECT_EQ(answer->kvs[0].mod_revision(), 3);
    EXPECT_EQ(answer->kvs[0].version(), 2);
    EXPECT_EQ(answer->kvs[0].value(), "2");
}

TEST(StoreKv, DeletedKeyStartsAnewWhenPutAgain) {
    auto store = memory_store();
    put(*store, "a", "1");
    EXPECT_EQ(del(*store, "a"), 3);
    EXPECT_EQ(del(*store, "a"), 3) << "a delete of nothing takes no revision";
    EXPECT_EQ(put(*store, "a", "2"), 4);
    auto answer = store->range({.range = {"a", ""}});
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->kvs[0].create_revision(), 4);
    EXPECT_EQ(answer->kvs[0].version(), 1);
}

TEST(StoreKv, RangeEndsFollowEtcd) {
    auto store = memory_store();
    for (const char* key : {"a", "b", "ba", "bb", "c"}) put(*store, key, "v");
    const auto keys = [&](std::string_view key, std::string_view end) {
        auto answer = store->range({.range = {key, end}});
        std::string text;
        for (const KeyValue& kv : answer->kvs) text += std::string(kv.key()) + ",";
        return text;
    };
    EXPECT_EQ(keys("b", ""), "b,");
    EXPECT_EQ(keys("b", "c"), "b,ba,bb,");
    EXPECT_EQ(keys("b", prefix_end("b")), "b,ba,bb,");
    EXPECT_EQ(keys("ba", kFromZero), "ba,bb,c,");
    EXPECT_EQ(keys(kFromZero, kFromZero), "a,b,ba,bb,c,");
    EXPECT_EQ(keys("c", "a"), "");
    EXPECT_EQ(prefix_end("a\xff"), "b");
    EXPECT_EQ(prefix_end("\xff"), kFromZero);
    EXPECT_EQ(prefix_end(""), kFromZero);
    EXPECT_EQ(store->range({.range = {"", ""}}).error().fault(), Fault::kEmptyKey);
}

TEST(StoreKv, RangeAtARevisionSeesThePast) {
    auto store = memory_store();
    put(*store, "a", "1");
    put(*store, "b", "1");
    put(*store, "a", "2");
    del(*store, "b");
    EXPECT_EQ(dump_all(*store, 1), "") << "the empty store is history too";
    EXPECT_EQ(dump_all(*store, 2), "a=1@2");
    EXPECT_EQ(dump_all(*store, 3), "a=1@2 b=1@3");
    EXPECT_EQ(dump_all(*store, 4), "a=2@4 b=1@3");
    EXPECT_EQ(dump_all(*store, 5), "a=2@4");
    EXPECT_EQ(dump_all(*store, 6), "mvcc: required revision is a future revision");
}

TEST(StoreKv, LimitMoreAndCount) {
    auto store = memory_store();
    for (int i = 0; i < 1000; ++i) put(*store, fmt::format("k{:04}", i), "v");
    RangeRequest request{.range = {"k0100", "k0900"}, .limit = 10};
    auto answer = store->range(request);
    EXPECT_EQ(answer->kvs.size(), 10U);
    EXPECT_TRUE(answer->more);
    EXPECT_EQ(answer->count, 800);
    request.limit = 800;
    answer = store->range(request);
    EXPECT_EQ(answer->kvs.size(), 800U);
    EXPECT_FALSE(answer->more);
    request.count_only = true;
    answer = store->range(request);
    EXPECT_TRUE(answer->kvs.empty());
    EXPECT_EQ(answer->count, 800);
    request.count_only = false;
    request.keys_only = true;
    request.limit = 1;
    answer = store->range(request);
    EXPECT_EQ(answer->kvs[0].value(), "");
    EXPECT_EQ(answer->kvs[0].version(), 1);
}

TEST(StoreKv, CountAtAPinnedRevisionIgnoresLaterChanges) {
    auto store = memory_store();
    for (int i = 0; i < 300; ++i) put(*store, fmt::format("k{:03}", i), "v");
    const Revision pinned = store->revision();
    for (int i = 0; i < 300; i += 2) del(*store, fmt::format("k{:03}", i));
    RangeRequest request{.range = {"k", "l"}, .revision = pinned, .count_only = true};
    EXPECT_EQ(store->range(request)->count, 300);
    request.revision = 0;
    EXPECT_EQ(store->range(request)->count, 150);
}

TEST(StoreKv, SortsAndFilters) {
    auto store = memory_store();
    put(*store, "a", "3");
    put(*store, "b", "1");
    put(*store, "c", "2");
    put(*store, "a", "0");
    const auto order = [&](SortTarget target, SortOrder sort, std::int64_t limit = 0) {
        const auto answer = store->range(
            {.range = {"a", "z"}, .limit = limit, .sort_order = sort, .sort_target = target});
        std::string text;
        for (const KeyValue& kv : answer->kvs) text += kv.key();
        return text;
    };
    EXPECT_EQ(order(SortTarget::kKey, SortOrder::kDescend), "cba");
    EXPECT_EQ(order(SortTarget::kValue, SortOrder::kAscend), "abc");
    EXPECT_EQ(order(SortTarget::kMod, SortOrder::kAscend), "bca");
    EXPECT_EQ(order(SortTarget::kMod, SortOrder::kNone), "bca");
    EXPECT_EQ(order(SortTarget::kVersion, SortOrder::kDescend, 1), "a");
    EXPECT_EQ(order(SortTarget::kCreate, SortOrder::kDescend), "cba");
    auto answer = store->range({.range = {"a", "z"}, .min_mod_revision = 3, .max_mod_revision = 4});
    EXPECT_EQ(dump(answer->kvs), "b=1@3 c=2@4");
    EXPECT_EQ(answer->count, 3) << "etcd counts before it filters";
    answer = store->range({.range = {"a", "z"}, .limit = 1, .max_create_revision = 3});
    EXPECT_EQ(dump(answer->kvs), "a=0@5");
    EXPECT_TRUE(answer->more);
}

TEST(StoreKv, PutOptions) {
    auto store = memory_store();
    const LeaseId lease = store->lease_grant(LeaseId{5}, seconds(60), TimePoint{})->id;
    EXPECT_EQ(store->put({.key = "a", .ignore_value = true}).error().fault(), Fault::kKeyNotFound);
    EXPECT_EQ(store->put({.key = "a", .ignore_lease = true}).error().fault(), Fault::kKeyNotFound);
    put(*store, "a", "1", lease);
    EXPECT_EQ(store->put({.key = "a", .value = "2", .ignore_value = true}).error().fault(),
              Fault::kValueProvided);
    EXPECT_EQ(store->put({.key = "a", .lease = lease, .ignore_lease = true}).error().fault(),
              Fault::kLeaseProvided);
    EXPECT_EQ(store->put({.key = "", .value = "2"}).error().fault(), Fault::kEmptyKey);
    EXPECT_EQ(store->put({.key = "a", .value = "2", .lease = LeaseId{6}}).error().fault(),
              Fault::kLeaseNotFound);
    EXPECT_EQ(store->revision(), 2) << "a refused put changes nothing";
    auto done = store->put({.key = "a", .value = "2", .prev_kv = true, .ignore_lease = true});
    ASSERT_TRUE(done);
    EXPECT_EQ(done->prev_kv.value(), "1");
    EXPECT_EQ(store->range({.range = {"a", ""}})->kvs[0].lease(), lease);
    done = store->put({.key = "a", .ignore_value = true});
    EXPECT_FALSE(done->prev_kv);
    auto kv = store->range({.range = {"a", ""}})->kvs[0];
    EXPECT_EQ(kv.value(), "2");
    EXPECT_EQ(kv.lease(), LeaseId{}) << "a put without a lease detaches the key";
}

TEST(StoreKv, APutAsksForItsLeaseBeforeItsKeyAsEtcdDoes) {
    auto store = memory_store();
    const PutRequest put{.key = "a", .lease = LeaseId{6}, .ignore_value = true};
    EXPECT_EQ(store->put(put).error().fault(), Fault::kLeaseNotFound);
    TxnRequest txn;
    txn.success = {{put}};
    EXPECT_EQ(store->txn(txn).error().fault(), Fault::kKeyNotFound) << "and in a txn after it";
}

TEST(StoreKv, DeleteRangeIsOneRevision) {
    auto store = memory_store();
    for (const char* key : {"a", "b", "c"}) put(*store, key, key);
    auto done = store->delete_range({.range = {"a", "c"}, .prev_kv = true});
    EXPECT_EQ(done->deleted, 2);
    EXPECT_EQ(done->revision, 5);
    EXPECT_EQ(dump(done->prev_kvs), "a=a@2 b=b@3");
    EXPECT_EQ(dump_all(*store), "c=c@4");
}

// --- Txn
// ----------------------------------------------------------------------------------------------

Compare compare(Compare::Target target, Compare::Result result, std::string_view key,
                std::int64_t number) {
    return {.target = target, .result = result, .range = {key, ""}, .number = number, .value = {}};
}

TEST(StoreTxn, TakesTheBranchItsComparesSay) {
    auto store = memory_store();
    put(*store, "a", "1");
    TxnRequest txn;
    txn.compare = {compare(Compare::Target::kVersion, Compare::Result::kEqual, "a", 1),
                   compare(Compare::Target::kMod, Compare::Result::kGreater, "a", 1),
                   compare(Compare::Target::kCreate, Compare::Result::kLess, "a", 3),
                   compare(Compare::Target::kLease, Compare::Result::kNotEqual, "a", 9)};
    txn.success = {{PutRequest{.key = "b", .value = "yes"}}, {RangeRequest{.range = {"b", ""}}}};
    txn.failure = {{PutRequest{.key = "b", .value = "no"}}};
    auto done = store->txn(txn);
    ASSERT_TRUE(done);
    EXPECT_TRUE(done->succeeded);
    EXPECT_EQ(done->revision, 3);
    EXPECT_EQ(dump(std::get<RangeAnswer>(done->answers[1].answer).kvs), "b=yes@3")
        << "a range sees the txn's own writes";
    EXPECT_EQ(std::get<RangeAnswer>(done->answers[1].answer).revision, 3);
    done = store->txn(txn);
    txn.compare[0].number = 2;
    done = store->txn(txn);
    EXPECT_FALSE(done->succeeded);
    EXPECT_EQ(dump_all(*store), "a=1@2 b=no@5");
}

TEST(StoreTxn, MissingKeysCompareAsZeroButNeverByValue) {
    auto store = memory_store();
    TxnRequest txn;
    txn.compare = {compare(Compare::Target::kVersion, Compare::Result::kEqual, "x", 0)};
    EXPECT_TRUE(store->txn(txn)->succeeded);
    txn.compare = {{.target = Compare::Target::kValue,
                    .result = Compare::Result::kNotEqual,
                    .range = {"x", ""},
                    .value = "v"}};
    EXPECT_FALSE(store->txn(txn)->succeeded);
    EXPECT_EQ(store->revision(), 1) << "a txn that changes nothing takes no revision";
}

TEST(StoreTxn, ARangeCompareMustHoldForEveryKey) {
    auto store = memory_store();
    put(*store, "k1", "v");
    put(*store, "k2", "v");
    TxnRequest txn;
    txn.compare = {{.target = Compare::Target::kValue,
                    .result = Compare::Result::kEqual,
                    .range = {"k", "l"},
                    .value = "v"}};
    EXPECT_TRUE(store->txn(txn)->succeeded);
    put(*store, "k2", "w");
    EXPECT_FALSE(store->txn(txn)->succeeded);
}

TEST(StoreTxn, NestedBranchesAreChosenBeforeAnythingIsWritten) {
    auto store = memory_store();
    TxnRequest inner;
    inner.compare = {compare(Compare::Target::kVersion, Compare::Result::kEqual, "a", 0)};
    inner.success = {{PutRequest{.key = "b", .value = "a was missing"}}};
    inner.failure = {{PutRequest{.key = "b", .value = "a was there"}}};
    TxnRequest outer;
    outer.success = {{PutRequest{.key = "a", .value = "1"}}, {inner}};
    auto done = store->txn(outer);
    ASSERT_TRUE(done) << done.error().to_error().message();
    EXPECT_TRUE(std::get<TxnAnswer>(done->answers[1].answer).succeeded);
    EXPECT_EQ(dump_all(*store), "a=1@2 b=a was missing@2") << "one revision for both";
}

TEST(StoreTxn, NoKeyIsWrittenTwice) {
    auto store = memory_store();
    const TxnOp put_a{PutRequest{.key = "a", .value = "1"}};
    const TxnOp delete_a{DeleteRangeRequest{.range = {"a", "b"}}};
    const auto fault = [&](std::vector<TxnOp> success, std::vector<TxnOp> failure = {}) {
        TxnRequest txn;
        txn.success = std::move(success);
        txn.failure = std::move(failure);
        auto done = store->txn(txn);
        return done ? Fault{} : done.error().fault();
    };
    const auto nested = [](std::vector<TxnOp> success, std::vector<TxnOp> failure = {}) {
        TxnRequest txn;
        txn.success = std::move(success);
        txn.failure = std::move(failure);
        return TxnOp{txn};
    };
    EXPECT_EQ(fault({put_a, put_a}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({put_a, delete_a}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({delete_a, put_a}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({}, {put_a, put_a}), Fault::kDuplicateKey) << "also on the path not taken";
    EXPECT_EQ(fault({put_a, nested({put_a})}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({nested({put_a}), nested({put_a})}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({nested({put_a}), nested({delete_a})}), Fault::kDuplicateKey)
        << "which etcd lets pass";
    EXPECT_EQ(fault({nested({delete_a}), nested({put_a})}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({delete_a, nested({put_a})}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({nested({delete_a}), put_a}), Fault::kDuplicateKey);
    EXPECT_EQ(fault({nested({nested({put_a})}), nested({nested({put_a})})}), Fault::kDuplicateKey);
    EXPECT_EQ(store->revision(), 1);
    EXPECT_EQ(fault({nested({put_a}, {put_a})}), Fault{}) << "only one of the two can run";
    EXPECT_EQ(fault({delete_a, delete_a}), Fault{});
}

TEST(StoreTxn, SiblingsThatExcludeEachOtherMayWriteTheSameKey) {
    auto store = memory_store();
    const auto run = [&store] {
        TxnRequest create;
        create.compare = {compare(Compare::Target::kVersion, Compare::Result::kEqual, "z", 0)};
        create.success = {{PutRequest{.key = "z", .value = "1"}}};
        TxnRequest remove;
        remove.compare = {compare(Compare::Target::kVersion, Compare::Result::kGreater, "z", 0)};
        remove.success = {{DeleteRangeRequest{.range = {"z", ""}}}};
        TxnRequest txn;
        txn.success = {{create}, {remove}};
        return store->txn(txn);
    };
    ASSERT_TRUE(run());
    EXPECT_EQ(dump_all(*store), "z=1@2");
    ASSERT_TRUE(run());
    EXPECT_EQ(dump_all(*store), "");
    EXPECT_EQ(store->revision(), 3);
}

TEST(StoreTxn, ADeleteWithoutAnEndAndAPutOfAnotherKey) {
    auto store = memory_store();
    put(*store, "b", "1");
    TxnRequest txn;
    txn.success = {{DeleteRangeRequest{.range = {"a", kFromZero}}},
                   {PutRequest{.key = "c", .value = "1"}}};
    ASSERT_TRUE(store->txn(txn)) << "as etcd; nothing changes twice";
    EXPECT_EQ(dump_all(*store), "c=1@3");
    EXPECT_EQ(store->txn(txn).error().fault(), Fault::kDuplicateKey) << "now c would";
    EXPECT_EQ(dump_all(*store), "c=1@3");
    EXPECT_EQ(store->revision(), 3);
}

// etcd's check written down as its rule says: every put against every other put and delete.
struct NaiveCheck {
    std::vector<std::string_view> puts;
    std::vector<KeyRange> deletes;
    bool duplicate = false;

    void put(std::string_view key) { puts.push_back(key); }
    [[nodiscard]] bool meets(std::string_view key) const {
        const auto within = [key](const KeyRange& r) {
            return r.range_end.empty() ? key == r.key : key >= r.key && key < r.range_end;
        };
        return std::find(puts.begin(), puts.end(), key) != puts.end() ||
               std::any_of(deletes.begin(), deletes.end(), within);
    }
    static NaiveCheck of(const std::vector<TxnOp>& ops) {
        NaiveCheck all;
        for (const TxnOp& op : ops)
            if (const auto* gone = std::get_if<DeleteRangeRequest>(&op.request))
                all.deletes.push_back(gone->range);
        for (const TxnOp& op : ops) {
            const auto* txn = std::get_if<TxnRequest>(&op.request);
            if (txn == nullptr) continue;
            const NaiveCheck branches[] = {of(txn->success), of(txn->failure)};
            for (const NaiveCheck& branch : branches)
                all.duplicate =
                    all.duplicate || branch.duplicate ||
                    std::any_of(branch.puts.begin(), branch.puts.end(),
                                [&all](std::string_view key) { return all.meets(key); });
            for (const NaiveCheck& branch : branches) {
                all.puts.insert(all.puts.end(), branch.puts.begin(), branch.puts.end());
                all.deletes.insert(all.deletes.end(), branch.deletes.begin(), branch.deletes.end());
            }
        }
        for (const TxnOp& op : ops)
            if (const auto* put = std::get_if<PutRequest>(&op.request)) {
                all.duplicate = all.duplicate || all.meets(put->key);
                all.put(put->key);
            }
        return all;
    }
};

TEST(StoreTxn, TheCheckForDuplicatesIsEtcds) {
    static const std::vector<std::string> kKeys = [] {
        std::vector<std::string> keys{std::string(1, '\0')};
        for (const char* key : {"a", "b", "c", "d", "e", "f"})
            keys.insert(keys.end(), {key, std::string(key) + '\0', std::string(key) + "x"});
        return keys;
    }();
    Rng rng(1);
    const auto key = [&rng]() -> std::string_view { return kKeys[rng.below(kKeys.size())]; };
    const auto ops = [&](const auto& self, int depth) -> std::vector<TxnOp> {
        std::vector<TxnOp> made;
        for (std::uint64_t i = rng.below(4); i > 0; --i) {
            const std::uint64_t dice = rng.below(depth == 0 ? 6 : 10);
            if (dice < 3) {
                made.push_back({PutRequest{.key = key()}});
            } else if (dice < 6) {
                made.push_back({DeleteRangeRequest{
                    .range = {key(), rng.below(2) == 0 ? std::string_view() : key()}}});
            } else {
                TxnRequest txn;
                txn.success = self(self, depth - 1);
                txn.failure = self(self, depth - 1);
                made.push_back({std::move(txn)});
            }
        }
        return made;
    };
    int refused = 0;
    for (int i = 0; i < 20'000; ++i) {
        TxnRequest txn;
        txn.success = ops(ops, 3);
        const bool expected = NaiveCheck::of(txn.success).duplicate;
        ASSERT_EQ(check_txn(txn, 128).has_value(), !expected) << i;
        refused += expected ? 1 : 0;
    }
    EXPECT_GT(refused, 2000);
    EXPECT_LT(refused, 18'000);
}

// 200,000 puts and as many deletes, each in a nested txn of its own: 4 * 10^10 pairs. Checked pair
// by pair, this would outlast the time that ctest gives.
TEST(StoreTxn, TheCheckForDuplicatesDoesNotCompareAllWithAll) {
    constexpr std::size_t kEach = 200'000;
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < 2 * kEach; ++i) keys.push_back(fmt::format("{:06}", i));
    TxnRequest txn;
    for (std::size_t i = 0; i < kEach; ++i) {
        TxnRequest put, gone;
        put.success = {{PutRequest{.key = keys[2 * i]}}};
        gone.success = {{DeleteRangeRequest{.range = {keys[2 * i + 1], ""}}}};
        txn.success.push_back({std::move(put)});
        txn.failure.push_back({std::move(gone)});
        txn.success.push_back(txn.failure.back());
    }
    txn.failure.clear();
    TxnRequest chain = std::move(txn);
    for (int depth = 0; depth < 50; ++depth) {
        TxnRequest outer;
        outer.success.push_back({std::move(chain)});
        chain = std::move(outer);
    }
    EXPECT_TRUE(check_txn(chain, 1'000'000));
}

TEST(StoreTxn, AnAnswerThatIsTooLargeIsRefusedAndChangesNothing) {
    auto store = memory_store({.max_answer_bytes = 100'000});
    RecordingSink sink;
    for (int i = 0; i < 10; ++i) put(*store, fmt::format("k{}", i), std::string(1000, 'v'));
    ASSERT_TRUE(store->watch({.range = {kFromZero, kFromZero}}, sink));
    const RangeRequest all{.range = {kFromZero, kFromZero}};
    TxnRequest txn;
    txn.success = {{PutRequest{.key = "a", .value = "1"}},
                   {DeleteRangeRequest{.range = {"k0", ""}}}};
    txn.success.resize(7, {all});
    ASSERT_TRUE(store->txn(txn));
    EXPECT_EQ(store->revision(), 12);
    sink.take();
    const std::string before = dump_all(*store);
    txn.success[1] = {DeleteRangeRequest{.range = {"k1", "k5"}}};
    TxnRequest inner;
    inner.success.resize(64, {all});
    txn.success.push_back({inner});
    EXPECT_EQ(store->txn(txn).error().fault(), Fault::kAnswerTooLarge);
    EXPECT_EQ(store->txn(txn).error().to_error().code(), Errc::kCapacity);
    EXPECT_EQ(dump_all(*store), before);
    EXPECT_EQ(store->revision(), 12);
    EXPECT_EQ(store->stats().log_entries, 12U);
    EXPECT_EQ(sink.take(), "");
    EXPECT_EQ(put(*store, "a", "2"), 13);
    EXPECT_EQ(sink.take(), "+a=2@13<1@12");
}

TEST(StoreKv, ADeleteThatWouldTellTooMuchIsRefusedAndDeletesNothing) {
    auto store = memory_store({.max_answer_bytes = 10'000});
    for (int i = 0; i < 20; ++i) put(*store, fmt::format("k{}", i), std::string(1000, 'v'));
    EXPECT_EQ(store->delete_range({.range = {"k", "l"}, .prev_kv = true}).error().fault(),
              Fault::kAnswerTooLarge);
    EXPECT_EQ(store->stats().keys, 20U);
    EXPECT_EQ(store->delete_range({.range = {"k", "l"}})->deleted, 20);
}

TEST(StoreTxn, RefusesWhatEtcdRefuses) {
    auto store = memory_store();
    put(*store, "a", "1");
    const auto fault = [&](TxnOp op) {
        TxnRequest txn;
        txn.success = {{PutRequest{.key = "b", .value = "1"}}, std::move(op)};
        auto done = store->txn(txn);
        return done ? Fault{} : done.error().fault();
    };
    EXPECT_EQ(fault({}), Fault::kKeyNotFound);
    EXPECT_EQ(fault({RangeRequest{}}), Fault::kEmptyKey);
    EXPECT_EQ(fault({RangeRequest{.range = {"a", ""}, .revision = 99}}), Fault::kFutureRevision);
    EXPECT_EQ(fault({PutRequest{.key = "c", .lease = LeaseId{4}}}), Fault::kLeaseNotFound);
    EXPECT_EQ(fault({PutRequest{.key = "c", .ignore_value = true}}), Fault::kKeyNotFound);
    EXPECT_EQ(dump_all(*store), "a=1@2") << "nothing of a refused txn stays";
    TxnRequest many;
    many.success.resize(129, {RangeRequest{.range = {"a", ""}}});
    EXPECT_EQ(store->txn(many).error().fault(), Fault::kTooManyOps);
    TxnRequest empty_compare;
    empty_compare.compare.resize(1);
    EXPECT_EQ(store->txn(empty_compare).error().fault(), Fault::kEmptyKey);
}

// --- Compaction
// ---------------------------------------------------------------------------------------

TEST(StoreCompact, KeepsWhatIsVisibleAtTheRevision) {
    auto store = memory_store();
    put(*store, "a", "1");  // 2
    put(*store, "a", "2");  // 3
    put(*store, "b", "1");  // 4
    del(*store, "b");       // 5
    put(*store, "a", "3");  // 6
    EXPECT_EQ(*store->compact(4), 6);
    EXPECT_EQ(store->compact_revision(), 4);
    EXPECT_EQ(dump_all(*store, 3), "mvcc: required revision has been compacted");
    EXPECT_EQ(dump_all(*store, 4), "a=2@3 b=1@4");
    EXPECT_EQ(dump_all(*store, 5), "a=2@3");
    EXPECT_EQ(dump_all(*store), "a=3@6");
    EXPECT_EQ(store->compact(4).error().fault(), Fault::kCompacted);
    EXPECT_EQ(store->compact(7).error().fault(), Fault::kFutureRevision);
    ASSERT_TRUE(store->compact(6));
    EXPECT_EQ(dump_all(*store, 6), "a=3@6");
    EXPECT_EQ(store->stats().log_entries, 1U);
}

TEST(StoreCompact, ZeroAndNegativeRevisionsAreTakenAsEtcdTakesThem) {
    auto store = memory_store();
    put(*store, "a", "1");
    const auto in_txn = [&store](Revision at) {
        TxnRequest txn;
        txn.success = {{RangeRequest{.range = {"a", ""}, .revision = at}}};
        auto done = store->txn(txn);
        return done ? Fault{} : done.error().fault();
    };
    EXPECT_EQ(store->compact(-1).error().fault(), Fault::kCompacted);
    EXPECT_EQ(in_txn(-1), Fault{});
    EXPECT_EQ(in_txn(-2), Fault::kCompacted);
    EXPECT_TRUE(store->compact(0)) << "once";
    EXPECT_EQ(store->compact(0).error().fault(), Fault::kCompacted);
    EXPECT_EQ(store->compact_revision(), 0);
    EXPECT_EQ(in_txn(-1), Fault::kCompacted);
    EXPECT_TRUE(store->range({.range = {"a", ""}, .revision = -5})) << "outside of a txn: newest";
    EXPECT_EQ(dump_all(*store, 1), "");
    EXPECT_TRUE(store->compact(2));
    EXPECT_EQ(in_txn(0), Fault{});
    EXPECT_EQ(in_txn(1), Fault::kCompacted);
}

TEST(StoreCompact, ADeletedKeyLeavesNothingBehind) {
    auto store = memory_store();
    put(*store, "a", "1");
    del(*store, "a");  // 3
    ASSERT_TRUE(store->compact(3));
    EXPECT_EQ(store->stats().log_entries, 1U) << "the deletion itself can still be watched";
    put(*store, "b", "1");
    ASSERT_TRUE(store->compact(4));
    EXPECT_EQ(store->stats().log_entries, 1U);
    EXPECT_EQ(store->stats().keys, 1U);
    EXPECT_EQ(put(*store, "a", "2"), 5);
    EXPECT_EQ(store->range({.range = {"a", ""}})->kvs[0].version(), 1);
}

TEST(StoreCompact, RevisionKeepingTellsWhereToCompact) {
    auto store = memory_store();
    for (int i = 0; i < 10; ++i) put(*store, "a", fmt::format("{}", i));
    EXPECT_EQ(store->revision_keeping(10), 0);
    const Revision at = store->revision_keeping(3);
    ASSERT_TRUE(store->compact(at));
    EXPECT_EQ(store->stats().log_entries, 4U);
    EXPECT_LE(store->revision_keeping(4), store->compact_revision());
}

}  // namespace
}  // namespace mesh::store::testing
