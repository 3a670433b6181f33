#include "sources/etcd/short_key.hpp"

#include <gtest/gtest.h>

#include <boost/unordered/unordered_flat_map.hpp>
#include <map>
#include <string>

namespace mesh::etcd {
namespace {

TEST(ShortKey, HoldsWhatItWasGivenInPlaceOrNot) {
    for (std::size_t size = 0; size < 100; ++size) {
        std::string text(size, 'x');
        if (size > 0) text.back() = '\0';
        ShortKey key(text);
        EXPECT_EQ(key.view(), text);
        ShortKey moved(std::move(key));
        EXPECT_EQ(moved.view(), text);
        ShortKey other("another text, a longer one");
        other = std::move(moved);
        EXPECT_EQ(other.view(), text);
    }
    const std::string large(1'500'000, 'y');
    EXPECT_EQ(ShortKey(large).view(), large);
}

TEST(ShortKey, IsFoundByItsText) {
    boost::unordered_flat_map<ShortKey, int, ShortKey::Hash, ShortKey::Equal> table;
    std::map<std::string, int, std::less<>> expected;
    std::uint32_t state = 7;
    for (int i = 0; i < 20'000; ++i) {
        state = state * 1'664'525 + 1'013'904'223;
        const std::uint32_t pick = state >> 8;
        const std::string text = std::string(pick % 40, 'k') + std::to_string(pick % 997);
        if (pick % 3 == 0) {
            const auto at = table.find(std::string_view(text));
            EXPECT_EQ(at != table.end(), expected.erase(text) != 0);
            if (at != table.end()) table.erase(at);
        } else {
            table.insert_or_assign(ShortKey(text), i);
            expected[text] = i;
        }
    }
    ASSERT_EQ(table.size(), expected.size());
    for (const auto& [key, value] : table) {
        const auto at = expected.find(key.view());
        ASSERT_NE(at, expected.end());
        EXPECT_EQ(at->second, value);
    }
}

}  // namespace
}  // namespace mesh::etcd
