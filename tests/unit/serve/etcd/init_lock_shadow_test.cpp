#include "serve/etcd/init_lock_shadow.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mesh::serve {
namespace {

TEST(InitLockShadowTest, CoversWhatIsBelowThePrefixAndNothingMore) {
    const std::string end = store::prefix_end("cilium/.initlock/");
    EXPECT_TRUE(InitLockShadow::covers(store::KeyRange{"cilium/.initlock/a/1", {}}));
    EXPECT_TRUE(InitLockShadow::covers(store::KeyRange{"cilium/.initlock/", end}));
    for (const store::KeyRange& range :
         {store::KeyRange{"cilium/.initlock", {}}, store::KeyRange{"cilium/.initlock", end},
          store::KeyRange{"cilium/.initlock/", std::string_view("\0", 1)},
          store::KeyRange{"cilium/state/x", {}}, store::KeyRange{"", {}}}) {
        EXPECT_FALSE(InitLockShadow::covers(range)) << range.key;
    }
}

TEST(InitLockShadowTest, ATransactionIsCoveredIfAllItsPartsAre) {
    const store::KeyRange mine{"cilium/.initlock/a", {}};
    const store::KeyRange other{"cilium/state/x", {}};
    store::TxnRequest txn;
    EXPECT_FALSE(InitLockShadow::covers(txn));
    txn.compare.push_back({.range = mine});
    txn.success.push_back({store::PutRequest{.key = mine.key}});
    txn.failure.push_back({store::RangeRequest{.range = mine}});
    EXPECT_TRUE(InitLockShadow::covers(txn));
    for (const store::TxnOp& op :
         {store::TxnOp{store::PutRequest{.key = other.key}}, store::TxnOp{},
          store::TxnOp{store::RangeRequest{.range = other}},
          store::TxnOp{store::DeleteRangeRequest{.range = other}},
          store::TxnOp{store::TxnRequest{.compare = {{.range = other}}}}}) {
        store::TxnRequest mixed = txn;
        mixed.failure.push_back(op);
        EXPECT_FALSE(InitLockShadow::covers(mixed));
    }
    txn.compare.push_back({.range = other});
    EXPECT_FALSE(InitLockShadow::covers(txn));
}

}  // namespace
}  // namespace mesh::serve
