#include "serve/dns/fqdn_cache.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

namespace mesh::serve::dns {
namespace {

using model::IpAddress;
using model::policy::FqdnSelector;
using std::chrono::hours;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

FqdnSelector name(std::string text) {
    return {std::move(text), {}};
}
FqdnSelector pattern(std::string text) {
    return {{}, std::move(text)};
}
IpAddress ip(unsigned last) {
    return IpAddress::v4(0x0a000000U + last);
}
std::vector<IpAddress> ips(std::initializer_list<unsigned> last) {
    std::vector<IpAddress> out;
    for (const unsigned one : last) out.push_back(ip(one));
    return out;
}
SelectorChange change(std::string selector, std::vector<IpAddress> added,
                      std::vector<IpAddress> removed = {}) {
    return {std::move(selector), std::move(added), std::move(removed)};
}
bool nobody(EndpointId, const IpAddress&) {
    return false;
}
bool everybody(EndpointId, const IpAddress&) {
    return true;
}

constexpr TimePoint kStart{hours(100)};

TEST(FqdnCache, TellsWhatChangesOfASelectorsSet) {
    FqdnCache cache;
    EXPECT_THAT(cache.add_selector(pattern("*.com")), IsEmpty());
    EXPECT_THAT(cache.add_selector(name("a.com")), IsEmpty());
    EXPECT_THAT(cache.update(1, "a.com", ips({2, 1}), seconds(60), kStart),
                ElementsAre(change("*.com", ips({1, 2})), change("a.com", ips({1, 2}))));
    // The same again, for another endpoint, under another name: nothing new in "*.com".
    EXPECT_THAT(cache.update(1, "a.com", ips({1}), seconds(60), kStart), IsEmpty());
    EXPECT_THAT(cache.update(2, "a.com", ips({1}), seconds(60), kStart), IsEmpty());
    EXPECT_THAT(cache.update(2, "b.com", ips({1, 3}), seconds(60), kStart),
                ElementsAre(change("*.com", ips({3}))));
    EXPECT_THAT(cache.update(2, "b.org", ips({9}), seconds(60), kStart), IsEmpty());
    EXPECT_EQ(cache.addresses("*.com"), ips({1, 2, 3}));
    // Each holder has to go.
    EXPECT_THAT(cache.remove_endpoint(1),
                ElementsAre(change("*.com", {}, ips({2})), change("a.com", {}, ips({2}))));
    EXPECT_THAT(cache.remove_endpoint(2),
                ElementsAre(change("*.com", {}, ips({1, 3})), change("a.com", {}, ips({1}))));
    EXPECT_EQ(cache.size(), 0U);
}

TEST(FqdnCache, ANewSelectorSeesNamesKnownAlready) {
    FqdnCache cache;
    for (const char* known : {"a.example.com", "b.example.com", "example.com", "a.example-1.com",
                              "x.a.example.com", "other.org"}) {
        static_cast<void>(
            cache.update(1, known, ips({static_cast<unsigned>(known[0])}), seconds(60), kStart));
    }
    EXPECT_EQ(cache.add_selector(pattern("*.example.com")), ips({'a', 'b'}));
    EXPECT_EQ(cache.add_selector(pattern("**.example.com")), ips({'a', 'b', 'x'}));
    EXPECT_EQ(cache.add_selector(name("example.com")), ips({'e'}));
    EXPECT_EQ(cache.add_selector(pattern("oth*")), ips({}));
    EXPECT_EQ(cache.add_selector(pattern("oth*.o*")), ips({'o'}));
    EXPECT_EQ(cache.add_selector(pattern("*")), ips({'a', 'b', 'e', 'o', 'x'}));
}

TEST(FqdnCache, SelectorsAreCounted) {
    FqdnCache cache;
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(60), kStart));
    EXPECT_EQ(cache.add_selector(name("a.com")), ips({1}));
    EXPECT_EQ(cache.add_selector(name("a.com")), ips({1}));
    EXPECT_FALSE(cache.remove_selector(name("a.com")));
    EXPECT_THAT(cache.selectors(), ElementsAre("a.com"));
    EXPECT_TRUE(cache.remove_selector(name("a.com")));
    EXPECT_FALSE(cache.remove_selector(name("a.com")));
    EXPECT_THAT(cache.selectors(), IsEmpty());
    EXPECT_THAT(cache.update(1, "a.com", ips({2}), seconds(60), kStart), IsEmpty());
    EXPECT_EQ(cache.add_selector(name("a.com")), ips({1, 2}));
}

TEST(FqdnCache, AnAddressGoesWhenItsTimeAndItsGraceAreOver) {
    FqdnCache cache({.grace = seconds(60)});
    cache.add_selector(name("a.com"));
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(30), kStart));
    EXPECT_EQ(cache.next_due(), kStart + seconds(30));
    EXPECT_THAT(cache.expire(kStart + seconds(29), nobody), IsEmpty());
    EXPECT_EQ(cache.zombies(), 0U);
    EXPECT_FALSE(cache.asks_alive(kStart + seconds(30)));
    EXPECT_THAT(cache.expire(kStart + seconds(30), nobody), IsEmpty());
    EXPECT_EQ(cache.zombies(), 1U);
    EXPECT_EQ(cache.next_due(), kStart + seconds(90));
    EXPECT_TRUE(cache.asks_alive(kStart + seconds(90)));
    EXPECT_THAT(cache.expire(kStart + seconds(90), nobody),
                ElementsAre(change("a.com", {}, ips({1}))));
    EXPECT_EQ(cache.next_due(), std::nullopt);
    EXPECT_EQ(cache.size(), 0U);
}

TEST(FqdnCache, AZombieStaysWhileAConnectionLives) {
    FqdnCache cache({.grace = seconds(10), .recheck = seconds(5)});
    cache.add_selector(name("a.com"));
    static_cast<void>(cache.update(7, "a.com", ips({1}), seconds(0), kStart));
    EXPECT_THAT(cache.expire(kStart, nobody), IsEmpty());
    std::vector<std::pair<EndpointId, IpAddress>> asked;
    const auto alive = [&](EndpointId endpoint, const IpAddress& address) {
        asked.emplace_back(endpoint, address);
        return true;
    };
    EXPECT_THAT(cache.expire(kStart + seconds(10), alive), IsEmpty());
    EXPECT_THAT(asked, ElementsAre(std::pair<EndpointId, IpAddress>(7, ip(1))));
    EXPECT_EQ(cache.next_due(), kStart + seconds(15));
    for (int i = 0; i < 1000; ++i) {
        EXPECT_THAT(cache.expire(*cache.next_due(), everybody), IsEmpty());
    }
    EXPECT_THAT(cache.expire(*cache.next_due(), nobody),
                ElementsAre(change("a.com", {}, ips({1}))));
}

TEST(FqdnCache, ANewAnswerRevivesAZombie) {
    FqdnCache cache({.grace = seconds(10)});
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(5), kStart));
    static_cast<void>(cache.expire(kStart + seconds(6), nobody));
    EXPECT_EQ(cache.zombies(), 1U);
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(5), kStart + seconds(7)));
    EXPECT_EQ(cache.zombies(), 0U);
    EXPECT_EQ(cache.next_due(), kStart + seconds(12));
}

TEST(FqdnCache, AShorterAnswerShortensNothing) {
    FqdnCache cache;
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(50), kStart));
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(5), kStart));
    EXPECT_EQ(cache.next_due(), kStart + seconds(50));
}

TEST(FqdnCache, TimesAreWithinTheirBounds) {
    FqdnCache cache({.min_ttl = seconds(3600)});
    static_cast<void>(cache.update(1, "a.com", ips({1}), seconds(5), kStart));
    EXPECT_EQ(cache.next_due(), kStart + hours(1));
    FqdnCache other;
    static_cast<void>(other.update(1, "a.com", ips({1}), hours(24 * 365), kStart));
    EXPECT_EQ(other.next_due(), kStart + hours(24 * 7));
}

TEST(FqdnCache, OfTooManyAddressesOfANameTheFirstToExpireBecomeZombies) {
    FqdnCache cache({.max_addresses_per_name = 2});
    cache.add_selector(name("a.com"));
    static_cast<void>(cache.update(1, "a.com", ips({1, 2}), seconds(100), kStart));
    // They had been answered, so they get their grace, too.
    EXPECT_THAT(cache.update(1, "a.com", ips({3}), seconds(200), kStart),
                ElementsAre(change("a.com", ips({3}))));
    EXPECT_EQ(cache.zombies(), 1U);
    EXPECT_EQ(cache.entries()[0].address, ip(1));
    EXPECT_TRUE(cache.entries()[0].zombie);
    EXPECT_THAT(cache.expire(kStart + seconds(60), nobody),
                ElementsAre(change("a.com", {}, ips({1}))));
    EXPECT_EQ(cache.addresses("a.com"), ips({2, 3}));
}

TEST(FqdnCache, ZombiesAreBounded) {
    FqdnCache cache({.max_zombies = 2});
    cache.add_selector(pattern("*"));
    for (unsigned i = 1; i <= 4; ++i) {
        static_cast<void>(cache.update(1, "n" + std::to_string(i), ips({i}), seconds(i), kStart));
    }
    EXPECT_THAT(cache.expire(kStart + seconds(10), everybody),
                ElementsAre(change("*", {}, ips({1, 2}))));
    EXPECT_EQ(cache.zombies(), 2U);
}

TEST(FqdnCache, AnEndpointsAddressesAreBounded) {
    FqdnCache cache({.max_addresses = 10});
    for (unsigned i = 1; i <= 1000; ++i) {
        static_cast<void>(cache.update(1, "n" + std::to_string(i), ips({i}), seconds(i % 7),
                                       kStart + seconds(i)));
        ASSERT_LE(cache.entries(1).size(), 10U);
    }
    static_cast<void>(cache.update(2, "other", ips({1}), seconds(1), kStart));
    EXPECT_EQ(cache.size(), 11U);
    // What was learnt last is there.
    EXPECT_TRUE(std::ranges::any_of(cache.entries(1),
                                    [](const CacheEntry& e) { return e.name == "n1000"; }));
}

// --- against a model that does everything from scratch
// --------------------------------------------

/// The same promises, without any index.
class NaiveCache {
  public:
    explicit NaiveCache(CacheLimits limits) : limits_(limits) {}
    void update(EndpointId endpoint, const std::string& name, const std::vector<IpAddress>& all,
                Duration ttl, TimePoint now) {
        for (const auto& address : all) {
            Item& item = items_[{endpoint, name, address}];
            const TimePoint expires = now + std::clamp(ttl, limits_.min_ttl, limits_.max_ttl);
            item.expires = item.zombie ? expires : std::max(item.expires, expires);
            item.zombie = false;
            item.due = item.expires;
        }
    }
    void expire(TimePoint now, const FqdnCache::Alive& alive) {
        for (auto at = items_.begin(); at != items_.end();) {
            Item& item = at->second;
            bool gone = false;
            if (item.due <= now && !item.zombie) {
                item.zombie = true;
                item.due = now + limits_.grace;
            }
            if (item.due <= now && item.zombie) {
                gone = !alive(std::get<0>(at->first), std::get<2>(at->first));
                item.due = now + limits_.recheck;
            }
            at = gone ? items_.erase(at) : std::next(at);
        }
    }
    void remove_endpoint(EndpointId endpoint) {
        std::erase_if(items_,
                      [&](const auto& item) { return std::get<0>(item.first) == endpoint; });
    }
    [[nodiscard]] std::vector<IpAddress> addresses(const FqdnSelector& selector) const {
        std::set<IpAddress> out;
        for (const auto& [key, item] : items_) {
            if (matches(selector, std::get<1>(key))) out.insert(std::get<2>(key));
        }
        return {out.begin(), out.end()};
    }

  private:
    struct Item {
        TimePoint expires, due;
        bool zombie = false;
    };
    CacheLimits limits_;
    std::map<std::tuple<EndpointId, std::string, IpAddress>, Item> items_;
};

void follow(std::map<std::string, std::set<IpAddress>>& sets, const SelectorChanges& changes) {
    for (const auto& one : changes) {
        auto& set = sets[one.selector];
        for (const auto& address : one.added) ASSERT_TRUE(set.insert(address).second);
        for (const auto& address : one.removed) ASSERT_EQ(set.erase(address), 1U);
        ASSERT_FALSE(one.added.empty() && one.removed.empty());
    }
}

class FqdnCacheRandom : public ::testing::TestWithParam<unsigned> {};

TEST_P(FqdnCacheRandom, SaysWhatTheModelSays) {
    std::mt19937 engine(GetParam());
    const auto below = [&](unsigned bound) { return static_cast<unsigned>(engine() % bound); };
    const auto label = [&] { return std::string(1 + below(2), static_cast<char>('a' + below(3))); };
    const CacheLimits limits{.grace = seconds(below(3) * 10), .recheck = seconds(1 + below(20))};
    FqdnCache cache(limits);
    NaiveCache naive(limits);
    const std::vector<FqdnSelector> selectors{
        name("a.com"),      name("b.a.com"),   pattern("*.com"), pattern("**.com"),   pattern("*"),
        pattern("*.a.com"), pattern("a*.com"), pattern("a.*"),   pattern("*b.a*.com")};
    std::map<std::string, std::set<IpAddress>> sets;  // of the changes alone
    std::map<std::size_t, unsigned> references;
    TimePoint now = kStart;
    for (int round = 0; round < 3000; ++round) {
        const EndpointId endpoint = static_cast<EndpointId>(1 + below(3));
        const unsigned what = below(20);
        if (what < 10) {
            std::string asked = label() + (below(4) == 0 ? ".org" : ".com");
            if (below(2) == 0) asked = label() + "." + asked;
            std::vector<IpAddress> all;
            for (unsigned i = 0; i <= below(4); ++i) all.push_back(ip(below(12)));
            const Duration ttl = seconds(below(40));
            follow(sets, cache.update(endpoint, asked, all, ttl, now));
            naive.update(endpoint, asked, all, ttl, now);
        } else if (what < 14) {
            now += seconds(below(15));
            const unsigned mask = below(4096);
            const auto alive = [&](EndpointId of, const IpAddress& address) {
                return ((mask >> (address.v4_number() & 0xf)) + of) % 2 == 0;
            };
            follow(sets, cache.expire(now, alive));
            naive.expire(now, alive);
        } else if (what < 17) {
            const std::size_t which = below(static_cast<unsigned>(selectors.size()));
            const auto known = cache.add_selector(selectors[which]);
            if (++references[which] == 1) {
                sets[selectors[which].text()] = {known.begin(), known.end()};
            }
        } else if (what < 19) {
            const std::size_t which = below(static_cast<unsigned>(selectors.size()));
            const bool last = cache.remove_selector(selectors[which]);
            ASSERT_EQ(last, references[which] == 1);
            if (references[which] > 0) --references[which];
            if (last) sets.erase(selectors[which].text());
        } else {
            follow(sets, cache.remove_endpoint(endpoint));
            naive.remove_endpoint(endpoint);
        }
        for (const auto& [which, count] : references) {
            if (count == 0) continue;
            const auto expected = naive.addresses(selectors[which]);
            ASSERT_EQ(cache.addresses(selectors[which].text()), expected);
            const auto& told = sets[selectors[which].text()];
            ASSERT_EQ(std::vector<IpAddress>(told.begin(), told.end()), expected);
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Seeds, FqdnCacheRandom, ::testing::Range(1U, 13U));

}  // namespace
}  // namespace mesh::serve::dns
