// The compact values that objects are made of: Text, SharedList, StringMap.
#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "model/types.hpp"

namespace mesh::model {
namespace {

TEST(Text, HoldsWhatItWasMadeOfAtEveryLength) {
    for (std::size_t size = 0; size < 40; ++size) {
        const std::string text(size, static_cast<char>('a' + size % 26));
        const Text a(text);
        EXPECT_EQ(a, text);
        EXPECT_EQ(a.size(), size);
        EXPECT_EQ(a.heap_bytes(), size <= 7 ? 0 : size + 8);
        Text b = a;
        EXPECT_EQ(b, a);
        Text c = std::move(b);
        EXPECT_EQ(c, a);
        b = c;
        c = Text("other text that is long");
        EXPECT_EQ(b, a);
        EXPECT_NE(c, a);
        EXPECT_EQ(std::string(a), text);
    }
    EXPECT_EQ(Text(std::string_view("a\0b", 3)).size(), 3U);
    EXPECT_NE(Text(std::string_view("a\0", 2)), Text("a"));
}

TEST(Text, ComparesAsBytesWithTextsAndStrings) {
    EXPECT_LT(Text("a"), Text("b"));
    EXPECT_LT(Text("abcdefgh"), Text("b"));
    EXPECT_LT(Text("a"), "\xff");
    EXPECT_TRUE(std::string("x") == Text("x"));
    EXPECT_TRUE("x" == Text("x"));
    std::map<Text, int, std::less<>> map{{"key", 1}};
    EXPECT_TRUE(map.contains(std::string_view("key")));
    EXPECT_EQ(fmt::format("<{}>", Text("hello world")), "<hello world>");
    std::ostringstream out;
    out << Text("hello world");
    EXPECT_EQ(out.str(), "hello world");
}

TEST(SharedList, SharesAndGrowsApart) {
    const SharedList<ServicePort> a{{"http", "TCP", 80}, {"a long port name", "UDP", 53}};
    SharedList<ServicePort> b = a;
    EXPECT_TRUE(a.shares_with(b));
    b.push_back({"x", "TCP", 1});
    EXPECT_EQ(a.size(), 2U);
    ASSERT_EQ(b.size(), 3U);
    EXPECT_EQ(b[1].name, "a long port name");
    EXPECT_EQ(b.back().name, "x");
    EXPECT_EQ(a, (SharedList<ServicePort>(a.to_vector())));
    EXPECT_FALSE(a == b);
    b = SharedList<ServicePort>();
    EXPECT_TRUE(b.empty());
    EXPECT_EQ(b.begin(), b.end());
}

TEST(SharedList, NullIsEmptyYetNotEqualToEmpty) {
    const auto null = SharedList<ServicePort>::null();
    EXPECT_TRUE(null.empty());
    EXPECT_TRUE(null.is_null());
    EXPECT_FALSE(null == SharedList<ServicePort>());
    SharedList<ServicePort> grown = null;
    grown.push_back({"x", "TCP", 1});
    EXPECT_FALSE(grown.is_null());
    EXPECT_EQ(grown.size(), 1U);
}

TEST(StringMap, BehavesAsASortedMap) {
    StringMap map{{"b", "2"}, {"a", "1"}};
    map["c"] = "3";
    map.insert_or_assign("a", "4");
    EXPECT_FALSE(map.emplace("b", "5"));
    EXPECT_EQ(map, (StringMap{{"a", "4"}, {"b", "2"}, {"c", "3"}}));
    EXPECT_EQ(map.begin()->first, "a");
    EXPECT_EQ(map.get("c"), "3");
    EXPECT_FALSE(map.get("d"));
    EXPECT_EQ(map.erase("b"), 1U);
    EXPECT_EQ(map.erase("b"), 0U);
    EXPECT_EQ(map.size(), 2U);
    EXPECT_EQ(StringMap::from_pairs({{"b", "1"}, {"a", "2"}, {"b", "3"}, {"a", "4"}, {"a", "5"}}),
              (StringMap{{"a", "5"}, {"b", "3"}}));
}

TEST(Types, StayCompact) {
    EXPECT_LE(sizeof(IpIdentityPair), 80U);
    EXPECT_LE(sizeof(ServiceAddress), 32U);
    EXPECT_LE(sizeof(ServicePort), 24U);
    EXPECT_LE(sizeof(Label), 24U);
}

}  // namespace
}  // namespace mesh::model
