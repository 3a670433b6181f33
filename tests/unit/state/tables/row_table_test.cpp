#include "state/tables/row_table.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "runtime/clock.hpp"
#include "state/tables/string_pool.hpp"

namespace {

using mesh::Rng;
using mesh::state::RowTable;
using mesh::state::sip_hash;
using mesh::state::SipKey;
using mesh::state::StringPool;

TEST(SipHash, GivesTheKnownAnswers) {
    // Of the bytes 0, 1, ... under the key 00 01 .. 0f: vectors that Rust's SipHasher13 is tested
    // with.
    const SipKey key{0x0706050403020100U, 0x0f0e0d0c0b0a0908U};
    std::string text;
    EXPECT_EQ(sip_hash(key, text), 0xabac0158050fc4dcU);
    text.push_back(0);
    EXPECT_EQ(sip_hash(key, text), 0xc9f49bf37d57ca93U);
    text.push_back(1);
    EXPECT_EQ(sip_hash(key, text), 0x82cb9b024dc7d44dU);
}

// Short keys, so that runs of colliding slots are common, and many deletes within them.
TEST(RowTable, HoldsWhatAMapHolds) {
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        Rng rng(seed);
        RowTable table(SipKey{seed, 7});
        std::map<std::string, std::string> expected;
        for (int i = 0; i < 3000; ++i) {
            const std::string key = std::to_string(rng.below(i < 1500 ? 400 : 60));
            if (rng.below(3) == 0) {
                EXPECT_EQ(table.erase(key), expected.erase(key) == 1);
            } else {
                const std::string payload(rng.below(40), static_cast<char>('a' + rng.below(26)));
                table.put(key, payload);
                expected[key] = payload;
            }
            ASSERT_EQ(table.size(), expected.size());
        }
        for (int k = 0; k < 400; ++k) {
            const auto found = table.find(std::to_string(k));
            const auto at = expected.find(std::to_string(k));
            ASSERT_EQ(found.has_value(), at != expected.end()) << k;
            if (found) {
                EXPECT_EQ(*found, at->second);
            }
        }
        std::map<std::string, std::string> all;
        std::string last;
        for (const auto& row : table.sorted()) {
            EXPECT_LE(last, row.key);
            last = row.key;
            all.emplace(row.key, row.payload);
        }
        EXPECT_EQ(all, expected);
        for (const auto& [key, payload] : expected) table.erase(key);
        EXPECT_EQ(table.size(), 0U);
        EXPECT_LT(table.bytes(), 1000U);
    }
}

TEST(RowTable, KeysMayHoldAnyByteAndPayloadsMayBeEmpty) {
    RowTable table(SipKey{1, 2});
    EXPECT_FALSE(table.find(""));
    EXPECT_FALSE(table.erase("x"));
    table.put("", "");
    table.put(std::string_view("\0", 1), "nul");
    EXPECT_EQ(table.find(""), "");
    EXPECT_EQ(table.find(std::string_view("\0", 1)), "nul");
    EXPECT_FALSE(table.find(std::string_view("\0\0", 2)));
}

TEST(StringPool, CountsAndForgets) {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        Rng rng(seed);
        StringPool pool(SipKey{seed, 3});
        std::map<std::string, std::pair<StringPool::Id, int>> expected;
        for (int i = 0; i < 4000; ++i) {
            const std::string text = "text-" + std::to_string(rng.below(200));
            auto at = expected.find(text);
            if (rng.below(2) == 0) {
                const StringPool::Id id = pool.intern(text);
                if (at == expected.end()) {
                    expected.emplace(text, std::pair(id, 1));
                } else {
                    EXPECT_EQ(at->second.first, id);
                    ++at->second.second;
                }
            } else if (at != expected.end()) {
                pool.release(at->second.first);
                if (--at->second.second == 0) expected.erase(at);
            }
            ASSERT_EQ(pool.size(), expected.size());
        }
        for (const auto& [text, held] : expected) EXPECT_EQ(pool.view(held.first), text);
    }
    StringPool pool(SipKey{1, 1});
    EXPECT_EQ(pool.intern(""), 0U);
    pool.release(0);
    EXPECT_EQ(pool.view(0), "");
}

}  // namespace
