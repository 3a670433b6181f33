// Shared answers must be byte for byte what the store says at that revision, however it came there.
#include "serve/etcd/range_cache.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "model/etcdpb/etcd.pb.h"

namespace mesh::serve {
namespace {

using store::KeyValue;
using store::RangeRequest;
using store::Store;

constexpr std::size_t kEnough = std::size_t{1} << 20;

std::string bytes_of(const rpc::Frame& frame) {
    std::string bytes;
    while (bytes.size() < frame.size()) bytes += frame.piece(bytes.size());
    return bytes;
}

class RangeCacheTest : public ::testing::Test {
  protected:
    RangeCacheTest() {
        for (int i = 0; i < 100; ++i) put(i, "first");
    }
    void put(int i, std::string_view value) {
        ASSERT_TRUE(store_->put({.key = fmt::format("k{:03}", i), .value = value}));
    }
    WireHeader header() const {
        return {.cluster_id = 7, .member_id = 8, .revision = store_->revision(), .raft_term = 2};
    }
    /// The answer, which is compared with one that is encoded plainly.
    rpc::Frame ask(const RangeRequest& request) {
        auto got = cache_.range(*store_, request, header());
        const auto expected = store_->range(request);
        EXPECT_TRUE(got && expected);
        if (!got || !expected) return {};
        EXPECT_EQ(bytes_of(*got), bytes_of(encode_range(header(), *expected)));
        return *got;
    }

    std::unique_ptr<Store> store_ = *Store::open(std::make_unique<store::MemoryBackend>(), {},
                                                 TimePoint(std::chrono::seconds(1)));
    RangeCache cache_{kEnough};
};

constexpr RangeRequest kPage{.range = {"k", "l"}, .limit = 50};

TEST_F(RangeCacheTest, TheThirdToAskSharesWhatTheSecondGot) {
    ask(kPage);
    EXPECT_EQ(cache_.bytes(), 0U) << "one may be all who ask";
    const auto second = ask(kPage);
    const auto third = ask(kPage);
    EXPECT_EQ(cache_.hits(), 1U);
    EXPECT_EQ(second.tail().data(), third.tail().data());
    EXPECT_EQ(cache_.bytes(), third.tail().size());
}

TEST_F(RangeCacheTest, APageOfAnOlderRevisionIsSharedUnderTheHeaderOfNow) {
    RangeRequest page = kPage;
    page.revision = store_->revision();
    ask(page);
    const auto before = ask(page);
    put(3, "second");
    const auto after = ask(page);
    EXPECT_EQ(before.tail().data(), after.tail().data());
    EXPECT_EQ(cache_.hits(), 1U);
}

TEST_F(RangeCacheTest, TheNewestRevisionIsAskedForAnew) {
    ask(kPage);
    ask(kPage);
    put(3, "second");
    ask(kPage);
    EXPECT_EQ(cache_.hits(), 0U);
}

TEST_F(RangeCacheTest, WhateverChangesTheAnswerIsAskedForByItself) {
    const store::Revision middle = store_->revision() - 50;
    std::vector<RangeRequest> requests(10, kPage);
    requests[1].limit = 20;
    requests[2].range.key = "k0";
    requests[3].range.range_end = "k05";
    requests[4].keys_only = true;
    requests[5].sort_order = store::SortOrder::kDescend;
    requests[6].min_mod_revision = middle;
    requests[7].max_mod_revision = middle;
    requests[8].min_create_revision = middle;
    requests[9].max_create_revision = middle;
    for (int round = 0; round < 3; ++round)
        for (const RangeRequest& request : requests) ask(request);
    EXPECT_EQ(cache_.hits(), requests.size());
}

TEST_F(RangeCacheTest, KeyAndEndAreNotMixedUp) {
    put(900, "");
    for (int round = 0; round < 3; ++round) {
        ask({.range = {"k0", "k9"}});
        ask({.range = {"k", "0k9"}});
    }
}

TEST_F(RangeCacheTest, ACompactedRevisionIsRefused) {
    RangeRequest page = kPage;
    page.revision = store_->revision();
    for (int i = 0; i < 3; ++i) ask(page);
    put(3, "second");
    ASSERT_TRUE(store_->compact(store_->revision()));
    const auto refused = cache_.range(*store_, page, header());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().fault(), store::Fault::kCompacted);
    page.revision = store_->revision() + 1;
    EXPECT_EQ(cache_.range(*store_, page, header()).error().fault(), store::Fault::kFutureRevision);
}

TEST_F(RangeCacheTest, AnotherHistoryOfTheSameRevisionIsNotMixedIn) {
    std::vector<KeyValue> kvs;
    for (const bool same_history : {false, true}) {
        for (const int keys : {60, 40}) {
            kvs.clear();
            for (int i = 0; i < keys; ++i)
                kvs.push_back(
                    KeyValue::make(fmt::format("k{:03}", i), "other",
                                   {.create_revision = 5, .mod_revision = 5, .version = 1}));
            ASSERT_TRUE(store_->reset_from_snapshot(500, kvs, same_history && keys != 60));
            for (int i = 0; i < 3; ++i) ask(kPage);
        }
    }
}

TEST_F(RangeCacheTest, WhatIsKeptIsBounded) {
    cache_ = RangeCache(4000);
    for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 60; ++i) {
            const std::string from = fmt::format("k{:03}", i);
            ask({.range = {from, "l"}, .limit = 30});
            EXPECT_LE(cache_.bytes(), 4000U);
        }
    }
    EXPECT_GT(cache_.bytes(), 2000U);
}

TEST_F(RangeCacheTest, WhatIsTooLargeToBeKeptIsSharedWhileItIsOnItsWay) {
    cache_ = RangeCache(100);
    ask(kPage);
    auto second = ask(kPage);
    EXPECT_EQ(cache_.bytes(), 0U);
    auto third = ask(kPage);
    EXPECT_EQ(second.tail().data(), third.tail().data());
    EXPECT_EQ(cache_.hits(), 1U);
    second = third = {};
    ask(kPage);
    EXPECT_EQ(cache_.hits(), 1U);
}

TEST_F(RangeCacheTest, ASweepForgetsWhatNobodyAskedForSince) {
    for (int i = 0; i < 3; ++i) ask(kPage);
    EXPECT_TRUE(cache_.sweep());
    ask(kPage);
    EXPECT_EQ(cache_.hits(), 2U) << "asked for since the last sweep";
    EXPECT_TRUE(cache_.sweep());
    EXPECT_GT(cache_.bytes(), 0U);
    EXPECT_FALSE(cache_.sweep());
    EXPECT_EQ(cache_.bytes(), 0U);
}

}  // namespace
}  // namespace mesh::serve
