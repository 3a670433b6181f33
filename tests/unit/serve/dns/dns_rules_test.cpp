#include "serve/dns/dns_rules.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <re2/re2.h>

#include <random>
#include <set>

namespace mesh::serve::dns {
namespace {

using model::policy::FqdnSelector;

FqdnSelector name(std::string text) {
    return {std::move(text), {}};
}
FqdnSelector pattern(std::string text) {
    return {{}, std::move(text)};
}

TEST(MatchesPattern, AStarStaysWithinItsLabel) {
    EXPECT_TRUE(matches_pattern("*.example.com", "api.example.com"));
    EXPECT_FALSE(matches_pattern("*.example.com", "a.b.example.com"));
    EXPECT_FALSE(matches_pattern("*.example.com", "example.com"));
    EXPECT_TRUE(matches_pattern("*example.com", "example.com"));
    EXPECT_TRUE(matches_pattern("*example.com", "my-example.com"));
    EXPECT_FALSE(matches_pattern("*example.com", "a.example.com"));
    EXPECT_TRUE(matches_pattern("a*b*c.com", "axbybzc.com"));
    EXPECT_FALSE(matches_pattern("a*b*c.com", "axbyb.zc.com"));
    EXPECT_TRUE(matches_pattern("api.*", "api.x"));
    EXPECT_TRUE(matches_pattern("api.example.com", "api.example.com"));
    EXPECT_FALSE(matches_pattern("api.example.com", "apiXexample.com"));
}

TEST(MatchesPattern, StarsInFrontTakeWholeLabels) {
    EXPECT_TRUE(matches_pattern("**.example.com", "a.example.com"));
    EXPECT_TRUE(matches_pattern("**.example.com", "a.b.c.example.com"));
    EXPECT_FALSE(matches_pattern("**.example.com", "example.com"));
    EXPECT_FALSE(matches_pattern("**.example.com", ".example.com"));
    EXPECT_FALSE(matches_pattern("**.example.com", "badexample.com"));
    EXPECT_TRUE(matches_pattern("**.*.com", "a.b.com"));
    EXPECT_FALSE(matches_pattern("**.*.com", "b.com"));
    // Elsewhere, two stars are one.
    EXPECT_TRUE(matches_pattern("a**.com", "ab.com"));
    EXPECT_FALSE(matches_pattern("x.**.com", "x.a.b.com"));
}

TEST(MatchesPattern, ALoneStarIsEverything) {
    for (const char* any : {"", "a", "a.b.c", "my\\032printer._ipp._tcp.local"}) {
        EXPECT_TRUE(matches_pattern("*", any)) << any;
    }
    // A star is no place for other bytes.
    EXPECT_FALSE(matches_pattern("*.local", "my\\032printer.local"));
    EXPECT_FALSE(matches_pattern("**.local", "a\\046b.local"));
}

TEST(Matches, NamesAndEmptySelectors) {
    EXPECT_TRUE(matches(name("a.com"), "a.com"));
    EXPECT_FALSE(matches(name("a.com"), "b.a.com"));
    EXPECT_TRUE(matches({}, "whatever"));
}

TEST(DnsRules, WithoutSelectorsNothingIsAllowed) {
    EXPECT_FALSE(DnsRules().allows("a.com"));
    EXPECT_FALSE(DnsRules(std::vector<FqdnSelector>{}).allows(""));
    const std::vector<FqdnSelector> some{name("a.com"), pattern("*.b.com"), pattern("api*")};
    const DnsRules rules(some);
    EXPECT_TRUE(rules.allows("a.com"));
    EXPECT_TRUE(rules.allows("x.b.com"));
    EXPECT_TRUE(rules.allows("api7"));
    EXPECT_FALSE(rules.allows("b.com"));
    EXPECT_FALSE(rules.allows("x.a.com"));
    EXPECT_TRUE(DnsRules(std::vector<FqdnSelector>{{}}).allows("x.y"));
}

TEST(DnsRuleSets, OneOfThemMustLetItPass) {
    const auto rules = [](std::vector<FqdnSelector> dns) {
        auto out = std::make_shared<model::policy::L7Rules>();
        out->dns = std::move(dns);
        return std::shared_ptr<const model::policy::L7Rules>(out);
    };
    DnsRuleSets sets;
    const auto a = rules({name("a.com")}), b = rules({pattern("*.b.com")}), none = rules({});
    EXPECT_TRUE(sets.allow(std::vector{a, b}, "x.b.com"));
    EXPECT_TRUE(sets.allow(std::vector{a, b}, "a.com"));
    EXPECT_FALSE(sets.allow(std::vector{a, b}, "c.com"));
    EXPECT_FALSE(sets.allow(std::vector{none}, "a.com"));
    EXPECT_FALSE(sets.allow({}, "a.com"));
    EXPECT_TRUE(sets.allow(std::vector{a, {}}, "c.com"));
    EXPECT_EQ(sets.size(), 3U);
    // What nobody holds any more is forgotten, and its place may be that of others.
    for (int i = 0; i < 1000; ++i) {
        const std::string host = "n" + std::to_string(i);
        const auto one = rules({name(host)});
        EXPECT_TRUE(sets.allow(std::vector{one}, host));
        EXPECT_FALSE(sets.allow(std::vector{one}, "n" + std::to_string(i + 1)));
    }
    EXPECT_LE(sets.size(), 64U);
}

// --- against regular expressions, and an index against its selectors
// ------------------------------

std::string expression_of(std::string_view text) {
    if (text == "*") return ".*";
    std::string out;
    if (text.starts_with("**.")) {
        out = "([-a-z0-9_]+[.])+";
        text.remove_prefix(3);
    }
    for (const char c : text) {
        if (c == '*') {
            out += "[-a-z0-9_]*";
        } else if (c == '.') {
            out += "[.]";
        } else {
            out += c;
        }
    }
    return out;
}

class Random {
  public:
    explicit Random(unsigned seed) : engine_(seed) {}
    unsigned below(unsigned bound) { return static_cast<unsigned>(engine_() % bound); }
    std::string text(std::string_view letters, unsigned labels) {
        std::string out;
        const unsigned count = 1 + below(labels);
        for (unsigned i = 0; i < count; ++i) {
            if (i > 0) out += '.';
            const unsigned length = 1 + below(4);
            for (unsigned j = 0; j < length; ++j) {
                out += letters[below(static_cast<unsigned>(letters.size()))];
            }
        }
        return out;
    }

  private:
    std::mt19937 engine_;
};

TEST(MatchesPattern, IsWhatTheRegularExpressionSays) {
    Random random(1);
    std::size_t matched = 0;
    for (int round = 0; round < 30'000; ++round) {
        std::string text = random.text("ab*", 3);
        if (random.below(4) == 0) text = "**." + text;
        const std::string asked = random.text(random.below(8) == 0 ? "ab\\" : "ab", 4);
        const bool expected = RE2::FullMatch(asked, RE2(expression_of(text)));
        ASSERT_EQ(matches_pattern(text, asked), expected) << text << " " << asked;
        matched += expected;
    }
    EXPECT_GT(matched, 1000U);
}

TEST(NameIndex, FindsWhatEachSelectorSays) {
    Random random(2);
    NameIndex index;
    std::map<NameIndex::Id, FqdnSelector> all;
    NameIndex::Id next = 0;
    for (int round = 0; round < 4000; ++round) {
        if (all.size() < 40 || random.below(2) == 0) {
            FqdnSelector one =
                random.below(3) == 0 ? name(random.text("ab", 3)) : pattern(random.text("ab*", 3));
            if (random.below(20) == 0) one = pattern("*");
            index.add(one, ++next);
            all.emplace(next, one);
        } else {
            const auto victim =
                std::next(all.begin(), random.below(static_cast<unsigned>(all.size())));
            index.remove(victim->second, victim->first);
            all.erase(victim);
        }
        const std::string asked = random.text("ab", 3);
        std::multiset<NameIndex::Id> expected, got;
        for (const auto& [id, selector] : all) {
            if (matches(selector, asked)) expected.insert(id);
        }
        index.for_each(asked, [&](NameIndex::Id id) {
            got.insert(id);
            return true;
        });
        ASSERT_EQ(got, expected) << asked;
    }
    for (const auto& [id, selector] : all) index.remove(selector, id);
    EXPECT_TRUE(index.empty());
}

}  // namespace
}  // namespace mesh::serve::dns
