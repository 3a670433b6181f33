#include "publish/key_ledger.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::publish {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class KeyLedgerTest : public testing::Test {
  protected:
    KeyLedgerTest() { ledger.set_lease(7); }
    std::vector<std::string> due() const {
        std::vector<std::string> out;
        for (const auto& w : ledger.next(1000, 1U << 20)) {
            out.push_back(w.value ? w.key + "=" + *w.value : "-" + w.key);
        }
        return out;
    }
    void list(std::initializer_list<std::pair<const char*, const char*>> keys, std::int64_t lease) {
        ledger.begin_list();
        for (const auto& [key, value] : keys) ledger.listed(key, value, lease);
        ledger.end_list();
    }
    void flush() { ledger.applied(ledger.next(1000, 1U << 20)); }
    /// By the first digit.
    KeyLedger ledger{[](std::string_view key) { return static_cast<int>(key[0]); }};
};

TEST_F(KeyLedgerTest, WritesOnlyWhatDiffers) {
    ledger.want("1a", "x");
    ledger.want("1b", "y");
    ledger.want("1c", "z");
    list({{"1a", "x"}, {"1b", "old"}, {"1d", "gone"}}, 7);
    EXPECT_THAT(due(), ElementsAre("1b=y", "1c=z", "-1d"));
    flush();
    EXPECT_EQ(ledger.due(), 0U);
    EXPECT_EQ(ledger.wanted(), 3U);
    ledger.want("1a", "x");
    EXPECT_EQ(ledger.due(), 0U);
    ledger.want("1a", "x2");
    ledger.want("1a", "x");
    EXPECT_EQ(ledger.due(), 0U);
}

TEST_F(KeyLedgerTest, KeepsTheNewestValuePerKeyUntilApplied) {
    ledger.want("1a", "1");
    ledger.want("1a", "2");
    const auto sent = ledger.next(10, 1000);
    ledger.want("1a", "3");
    EXPECT_THAT(due(), ElementsAre("1a=3"));
    ledger.applied(sent);
    EXPECT_THAT(due(), ElementsAre("1a=3"));
    flush();
    ledger.unwant("1a");
    EXPECT_THAT(due(), ElementsAre("-1a"));
    ledger.want("1a", "3");
    EXPECT_THAT(due(), IsEmpty());
}

TEST_F(KeyLedgerTest, PutsByRankThenDeletesInReverse) {
    list({{"1x", "v"}, {"3x", "v"}}, 7);
    ledger.want("3a", "v");
    ledger.want("1a", "v");
    ledger.want("2a", "v");
    EXPECT_THAT(due(), ElementsAre("1a=v", "2a=v", "3a=v", "-3x", "-1x"));
}

TEST_F(KeyLedgerTest, AnotherLeaseMeansToPutAgain) {
    ledger.want("1a", "x");
    list({{"1a", "x"}}, 6);
    EXPECT_THAT(due(), ElementsAre("1a=x"));
    flush();
    ledger.set_lease(8);
    EXPECT_THAT(due(), ElementsAre("1a=x"));
}

TEST_F(KeyLedgerTest, AListTellsWhatIsNotThereAnyMore) {
    ledger.want("1a", "x");
    flush();
    ledger.unwant("1a");
    ledger.want("1b", "y");
    list({}, 7);
    EXPECT_THAT(due(), ElementsAre("1b=y"));
}

TEST_F(KeyLedgerTest, BatchesAreBoundByCountAndBytes) {
    for (int i = 0; i < 10; ++i) ledger.want(fmt::format("1{}", i), std::string(98, 'v'));
    EXPECT_EQ(ledger.next(4, 10'000).size(), 4U);
    EXPECT_EQ(ledger.next(100, 250).size(), 2U);
    EXPECT_EQ(ledger.next(100, 1).size(), 1U);
}

TEST_F(KeyLedgerTest, WhileHeldOnlyWhatIsKnownChanges) {
    ledger.want("1same", "x");
    ledger.want("1differs", "new");
    ledger.want("1missing", "x");
    ledger.hold(true);
    list({{"1same", "x"}, {"1differs", "old"}, {"1unknown", "x"}, {"1unknown2", "x"}}, 7);
    EXPECT_THAT(due(), ElementsAre("1missing=x"));
    flush();
    ledger.want("1differs", "newer");
    ledger.want("1unknown2", "known");
    ledger.unwant("1same");
    EXPECT_THAT(due(), ElementsAre("1differs=newer", "1unknown2=known", "-1same"));
    ledger.hold(false);
    EXPECT_THAT(due(), ElementsAre("1differs=newer", "1unknown2=known", "-1same", "-1unknown"));
}

TEST_F(KeyLedgerTest, ARefusedWriteWaitsForAnotherValue) {
    ledger.want("1a", "too large");
    ledger.want("1b", "x");
    ledger.refused("1a");
    EXPECT_THAT(due(), ElementsAre("1b=x"));
    EXPECT_EQ(ledger.refused(), 1U);
    ledger.want("1a", "small");
    EXPECT_THAT(due(), ElementsAre("1a=small", "1b=x"));
    EXPECT_EQ(ledger.refused(), 0U);
}

}  // namespace
}  // namespace mesh::publish
