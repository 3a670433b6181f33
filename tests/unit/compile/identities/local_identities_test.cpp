#include "compile/identities/local_identities.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "compile/policy/selector_cache.hpp"

namespace mesh::compile {
namespace {

using model::IpAddress;
using model::IpPrefix;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

IpPrefix prefix(std::string_view text) {
    return *IpPrefix::parse(text);
}
IpAddress address(std::string_view text) {
    return *IpAddress::parse(text);
}

std::string text(const LocalIdentity& one) {
    std::string line;
    for (const model::Label& label : one.labels) {
        line += label.source.str() + ":" + label.key.str() + ";";
    }
    if (one.cidr) line += " in " + one.cidr->to_string();
    return line;
}

/// What the changes add up to; each must fit what was there before it.
struct Node {
    std::map<std::uint32_t, LocalIdentity> identities;
    std::map<IpPrefix, std::uint32_t> rows;

    void take(const LocalIdentityChanges& changes) {
        for (const LocalIdentity& one : changes.added) {
            EXPECT_TRUE(identities.emplace(one.id, one).second) << one.id << " twice";
        }
        for (const auto& [where, id] : changes.rows) {
            EXPECT_TRUE(identities.contains(id)) << where.to_string();
            const auto held = rows.find(where);
            EXPECT_TRUE(held == rows.end() || held->second != id) << where.to_string();
            rows.insert_or_assign(where, id);
        }
        for (const IpPrefix& where : changes.removed_rows) {
            EXPECT_EQ(rows.erase(where), 1U) << where.to_string();
        }
        for (const std::uint32_t id : changes.removed) {
            EXPECT_EQ(identities.erase(id), 1U) << id;
            for (const auto& [where, its] : rows) EXPECT_NE(its, id) << where.to_string();
        }
    }
    /// "10.0.0.0/8 cidr:10.0.0.0/8;reserved:world; in 10.0.0.0/8"
    std::vector<std::string> lines() const {
        std::vector<std::string> all;
        for (const auto& [where, id] : rows) {
            all.push_back(where.to_string() + " " + text(identities.at(id)));
        }
        return all;
    }
};

class LocalIdentitiesTest : public ::testing::Test {
  protected:
    std::vector<std::string> lines() {
        node_.take(ids_.flush());
        return node_.lines();
    }
    std::uint32_t id(std::string_view where) const { return node_.rows.at(prefix(where)); }

    LocalIdentities ids_{{}, Rng(1)};
    Node node_;
};

TEST_F(LocalIdentitiesTest, ABlockHasAnIdentityWhileSomebodyNamesIt) {
    ids_.acquire(prefix("10.0.0.0/8"));
    ids_.acquire(prefix("10.0.0.0/8"));
    EXPECT_THAT(lines(), ElementsAre("10.0.0.0/8 cidr:10.0.0.0/8;reserved:world; in 10.0.0.0/8"));
    EXPECT_TRUE(is_local_identity(id("10.0.0.0/8")));
    ids_.release(prefix("10.0.0.0/8"));
    EXPECT_TRUE(ids_.flush().empty());
    ids_.release(prefix("10.0.0.0/8"));
    EXPECT_THAT(lines(), IsEmpty());
    EXPECT_THAT(node_.identities, IsEmpty());
    ids_.release(prefix("10.0.0.0/8"));  // once too often
    EXPECT_TRUE(ids_.flush().empty());
}

TEST_F(LocalIdentitiesTest, TheWorldIsNoBlock) {
    ids_.acquire(prefix("0.0.0.0/0"));
    ids_.acquire(prefix("::/0"));
    EXPECT_THAT(lines(), IsEmpty());
    ids_.add_address("a.example", address("192.0.2.1"));
    EXPECT_THAT(lines(), ElementsAre("192.0.2.1/32 fqdn:a.example;reserved:world;"));
    ids_.release(prefix("0.0.0.0/0"));
    EXPECT_TRUE(ids_.flush().empty());
}

TEST_F(LocalIdentitiesTest, AddressesOfTheSameNamesShareAnIdentity) {
    const std::vector<IpAddress> both{address("192.0.2.1"), address("192.0.2.2")};
    ids_.set_addresses("a.example", both);
    ids_.add_address("*.example", address("192.0.2.2"));
    EXPECT_THAT(lines(), ElementsAre("192.0.2.1/32 fqdn:a.example;reserved:world;",
                                     "192.0.2.2/32 fqdn:*.example;fqdn:a.example;reserved:world;"));
    ids_.add_address("*.example", address("192.0.2.1"));
    EXPECT_THAT(lines(), ElementsAre("192.0.2.1/32 fqdn:*.example;fqdn:a.example;reserved:world;",
                                     "192.0.2.2/32 fqdn:*.example;fqdn:a.example;reserved:world;"));
    EXPECT_EQ(id("192.0.2.1/32"), id("192.0.2.2/32"));
    EXPECT_EQ(node_.identities.size(), 1U);
    ids_.set_addresses("a.example", {});
    ids_.set_addresses("*.example", {});
    EXPECT_THAT(lines(), IsEmpty());
}

TEST_F(LocalIdentitiesTest, AnAddressOfANameIsInTheNarrowestBlock) {
    ids_.add_address("a.example", address("10.1.2.3"));
    ids_.acquire(prefix("10.0.0.0/8"));
    ids_.acquire(prefix("10.1.0.0/16"));
    EXPECT_EQ(lines().back(),
              "10.1.2.3/32 cidr:10.1.0.0/16;fqdn:a.example;reserved:world; in 10.1.0.0/16");
    ids_.release(prefix("10.1.0.0/16"));
    EXPECT_EQ(lines().back(),
              "10.1.2.3/32 cidr:10.0.0.0/8;fqdn:a.example;reserved:world; in 10.0.0.0/8");
    ids_.acquire(prefix("10.1.2.3/32"));
    EXPECT_EQ(lines().back(),
              "10.1.2.3/32 cidr:10.1.2.3/32;fqdn:a.example;reserved:world; in 10.1.2.3/32");
    ids_.remove_address("a.example", address("10.1.2.3"));
    EXPECT_EQ(lines().back(), "10.1.2.3/32 cidr:10.1.2.3/32;reserved:world; in 10.1.2.3/32");
}

TEST_F(LocalIdentitiesTest, AWideIpv6BlockHoldsIpv6AddressesOnly) {
    ids_.add_address("a.example", address("10.1.2.3"));
    ids_.add_address("a.example", address("3000::1"));
    ids_.acquire(prefix("::/1"));
    EXPECT_THAT(lines(), ElementsAre("::/1 cidr:0--0/1;reserved:world; in ::/1",
                                     "10.1.2.3/32 fqdn:a.example;reserved:world;",
                                     "3000::1/128 cidr:0--0/1;fqdn:a.example;reserved:world; in "
                                     "::/1"));
}

TEST_F(LocalIdentitiesTest, ANumberIsNotGivenToAnotherSoon) {
    std::set<std::uint32_t> seen;
    for (int round = 0; round < 50; ++round) {
        const std::string where = "10.0." + std::to_string(round) + ".0/24";
        ids_.acquire(prefix(where));
        lines();
        EXPECT_TRUE(seen.insert(id(where)).second) << where;
        ids_.release(prefix(where));
        lines();
    }
}

TEST_F(LocalIdentitiesTest, WithoutAFreeNumberABlockWaits) {
    LocalIdentities few({.dual_stack = false, .first = 0x01000001, .last = 0x01000002}, Rng(7));
    Node node;
    for (const auto* where : {"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"}) {
        few.acquire(prefix(where));
    }
    node.take(few.flush());
    EXPECT_EQ(node.rows.size(), 2U);
    EXPECT_EQ(few.refused(), 1U);
    few.release(prefix("10.1.0.0/16"));
    while (few.pending()) node.take(few.flush());
    EXPECT_EQ(few.refused(), 0U);
    EXPECT_TRUE(node.rows.contains(prefix("10.3.0.0/16")));
    few.release(prefix("10.3.0.0/16"));
    while (few.pending()) node.take(few.flush());
    EXPECT_EQ(node.rows.size(), 1U);
}

TEST(LocalIdentitiesAdoption, NumbersOfAnEarlierRunStay) {
    LocalIdentities ids({}, Rng(3));
    EXPECT_TRUE(ids.adopt(prefix("10.0.0.0/8"), 0x01000005));
    EXPECT_TRUE(ids.adopt(prefix("192.0.2.1/32"), 0x01000007));
    EXPECT_TRUE(ids.adopt(prefix("192.0.2.2/32"), 0x01000007));
    EXPECT_FALSE(ids.adopt(prefix("10.9.0.0/16"), 70000)) << "a pod's";
    EXPECT_FALSE(ids.adopt(prefix("10.9.0.1/32"), 0x02000001)) << "another scope";
    ids.acquire(prefix("10.0.0.0/8"));
    const std::vector<IpAddress> both{address("192.0.2.1"), address("192.0.2.2")};
    ids.set_addresses("a.example", both);
    Node node;
    node.take(ids.flush());
    EXPECT_EQ(node.rows.at(prefix("10.0.0.0/8")), 0x01000005U);
    EXPECT_EQ(node.rows.at(prefix("192.0.2.1/32")), 0x01000007U);
    EXPECT_EQ(node.rows.at(prefix("192.0.2.2/32")), 0x01000007U);
}

TEST(LocalIdentitiesAdoption, ANumberWhoseAddressesPartedIsNobodys) {
    LocalIdentities ids({.dual_stack = false, .first = 0x01000001, .last = 0x01000004}, Rng(3));
    ids.adopt(prefix("192.0.2.1/32"), 0x01000001);
    ids.adopt(prefix("192.0.2.2/32"), 0x01000001);
    ids.adopt(prefix("192.0.2.3/32"), 0x01000002);
    ids.adopt(prefix("192.0.2.4/32"), 0x01000002);
    ids.add_address("a.example", address("192.0.2.1"));
    ids.add_address("b.example", address("192.0.2.2"));
    ids.add_address("a.example", address("192.0.2.3"));  // .4 has no name any more
    Node node;
    node.take(ids.flush());
    ASSERT_EQ(node.rows.size(), 3U);
    for (const auto& [where, id] : node.rows) {
        EXPECT_TRUE(id == 0x01000003 || id == 0x01000004) << where.to_string() << " " << id;
    }
    EXPECT_EQ(node.rows.at(prefix("192.0.2.1/32")), node.rows.at(prefix("192.0.2.3/32")));
}

TEST(LocalIdentitiesLabels, AreWhatSelectorsMatch) {
    LocalIdentities ids({.dual_stack = true}, Rng(3));
    for (const auto* where : {"10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"}) {
        ids.acquire(prefix(where));
    }
    ids.add_address("a.example", address("10.1.2.3"));
    ids.add_address("a.example", address("192.0.2.1"));
    Node node;
    node.take(ids.flush());
    EXPECT_THAT(
        node.lines(),
        ElementsAre(
            "10.0.0.0/8 cidr:10.0.0.0/8;reserved:world-ipv4; in 10.0.0.0/8",
            "10.1.0.0/16 cidr:10.1.0.0/16;reserved:world-ipv4; in 10.1.0.0/16",
            "10.1.2.3/32 cidr:10.1.0.0/16;fqdn:a.example;reserved:world-ipv4; in 10.1.0.0/16",
            "192.0.2.1/32 fqdn:a.example;reserved:world-ipv4;",
            "2001:db8::/32 cidr:2001-db8--0/32;reserved:world-ipv6; in 2001:db8::/32"));

    const PolicyOptions options;
    SelectorCache cache(options);
    std::vector<SelectorId> matched;
    const auto add = [&](const LocalIdentity& one) {
        ASSERT_TRUE(cache.add({one.id, one.labels, one.cidr}, matched));
    };
    for (const LocalIdentity& one : reserved_identities(true)) add(one);
    for (const auto& [id, one] : node.identities) add(one);
    const auto selected = [&](const SelectorSpec& spec) {
        std::set<std::uint32_t> found;
        for (const IdentitySlot slot : cache.members(cache.acquire(spec))) {
            found.insert(cache.identity(slot).id);
        }
        return found;
    };
    const auto rows = [&](std::initializer_list<std::string_view> of) {
        std::set<std::uint32_t> found;
        for (const auto& where : of) found.insert(node.rows.at(prefix(where)));
        return found;
    };
    SelectorSpec cidr{.kind = SelectorSpec::Kind::kCidr};
    cidr.cidr = {prefix("10.0.0.0/8"), {}};
    EXPECT_EQ(selected(cidr), rows({"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"}));
    cidr.cidr = {prefix("10.0.0.0/8"), {prefix("10.1.0.0/16")}};
    EXPECT_EQ(selected(cidr), rows({"10.0.0.0/8"}));
    cidr.cidr = {prefix("0.0.0.0/0"), {prefix("10.1.0.0/16")}};
    auto expected = rows({"10.0.0.0/8", "192.0.2.1/32"});
    expected.insert({2, 9});
    EXPECT_EQ(selected(cidr), expected);
    SelectorSpec name{.kind = SelectorSpec::Kind::kLabels};
    name.requirements = {{"fqdn", "a.example", model::policy::SelectorOperator::kExists, {}}};
    EXPECT_EQ(selected(name), rows({"10.1.2.3/32", "192.0.2.1/32"}));
    name.requirements = {{"reserved", "world-ipv6", model::policy::SelectorOperator::kExists, {}}};
    expected = rows({"2001:db8::/32"});
    expected.insert(10);
    EXPECT_EQ(selected(name), expected);
}

TEST(LocalIdentitiesLabels, BlocksAsCiliumWritesThem) {
    EXPECT_EQ(cidr_label(prefix("10.0.0.0/8")).key.str(), "10.0.0.0/8");
    EXPECT_EQ(cidr_label(prefix("2001:db8::/32")).key.str(), "2001-db8--0/32");
    EXPECT_EQ(cidr_label(prefix("::1/128")).key.str(), "0--1/128");
    EXPECT_EQ(cidr_label(prefix("::/0")).key.str(), "0--0/0");
}

/// After any changes, what the flushes add up to is what the claims say, and no number changed its
/// meaning while it was in use. MESH_TEST_SEED=<n> runs one seed.
class Random {
  public:
    explicit Random(std::uint64_t seed) : rng_(seed) {}

    void run(int steps) {
        for (int step = 0; step < steps; ++step) {
            change();
            if (rng_.below(3) != 0) continue;
            const auto before = node_.identities;
            node_.take(ids_.flush());
            for (const auto& [id, one] : before) {
                const auto now = node_.identities.find(id);
                if (now != node_.identities.end()) {
                    ASSERT_EQ(text(one), text(now->second)) << id;
                }
            }
            compare();
            if (::testing::Test::HasFailure()) {
                FAIL() << "step " << step;
            }
        }
    }

  private:
    std::string address_text() {
        if (rng_.below(3) == 0) return "2001:db8::" + std::to_string(rng_.below(4));
        return "10.0." + std::to_string(rng_.below(2)) + "." + std::to_string(rng_.below(6));
    }
    IpPrefix block() {
        const IpPrefix host = prefix(address_text());
        return {host.address(),
                static_cast<std::uint8_t>(
                    host.length() -
                    std::min<std::uint64_t>(rng_.below(host.length() + 6U), host.length()))};
    }
    void change() {
        static constexpr const char* kSelectors[] = {"a.example", "*.example", "b.test"};
        const std::string selector = kSelectors[rng_.below(3)];
        switch (rng_.below(6)) {
            case 0:
            case 1: {
                const IpPrefix one = block();
                ++users_[one];
                ids_.acquire(one);
                break;
            }
            case 2: {
                if (users_.empty()) break;
                auto at = users_.begin();
                std::advance(at, static_cast<long>(rng_.below(users_.size())));
                ids_.release(at->first);
                if (--at->second == 0) users_.erase(at);
                break;
            }
            case 3: {
                const IpAddress one = address(address_text());
                EXPECT_EQ(ids_.add_address(selector, one), names_[one].insert(selector).second);
                break;
            }
            case 4: {
                const IpAddress one = address(address_text());
                EXPECT_EQ(ids_.remove_address(selector, one), names_[one].erase(selector) != 0);
                break;
            }
            default: {
                std::vector<IpAddress> all;
                for (auto left = rng_.below(4); left > 0; --left) {
                    all.push_back(address(address_text()));
                }
                for (auto& [one, its] : names_) its.erase(selector);
                for (const IpAddress& one : all) names_[one].insert(selector);
                ids_.set_addresses(selector, all);
            }
        }
    }
    void compare() {
        std::set<IpPrefix> all;
        for (const auto& [one, count] : users_) {
            if (one.length() != 0) all.insert(one);
        }
        for (const auto& [one, its] : names_) {
            if (!its.empty()) all.insert(IpPrefix(one, 128));
        }
        std::vector<std::string> expected;
        for (const IpPrefix& where : all) {
            std::optional<IpPrefix> narrowest;
            for (const auto& [one, count] : users_) {
                if (one.length() == 0 || !one.contains(where)) continue;
                if (!narrowest || narrowest->length() < one.length()) narrowest = one;
            }
            LocalIdentity identity;
            identity.cidr = narrowest;
            if (narrowest) identity.labels.push_back(cidr_label(*narrowest));
            if (where.is_host()) {
                for (const auto& name : names_[where.address()]) {
                    identity.labels.push_back({"fqdn", name, ""});
                }
            }
            identity.labels.push_back({"reserved", "world", ""});
            expected.push_back(where.to_string() + " " + text(identity));
        }
        ASSERT_EQ(node_.lines(), expected);
        std::set<std::string> meanings;
        for (const auto& [id, one] : node_.identities) {
            ASSERT_TRUE(is_local_identity(id));
            // Without a block the text does not tell the family.
            std::string where;
            for (const auto& [p, its] : node_.rows) {
                if (its == id) where = p.is_v4() ? " v4" : " v6";
            }
            ASSERT_TRUE(meanings.insert(text(one) + where).second) << text(one) << " has two";
            ASSERT_FALSE(where.empty()) << id << " has no row";
        }
        ASSERT_EQ(ids_.size(), node_.identities.size());
    }

    Rng rng_;
    LocalIdentities ids_{{}, Rng(5)};
    std::map<IpPrefix, int> users_;
    std::map<IpAddress, std::set<std::string>> names_;
    Node node_;
};

TEST(LocalIdentitiesRandom, AddUpToWhatTheClaimsSay) {
    const char* only = std::getenv("MESH_TEST_SEED");
    const std::uint64_t first = only != nullptr ? std::strtoull(only, nullptr, 10) : 1;
    const std::uint64_t last = only != nullptr ? first : 20;
    for (std::uint64_t seed = first; seed <= last; ++seed) {
        SCOPED_TRACE(::testing::Message() << "MESH_TEST_SEED=" << seed);
        Random(seed).run(500);
        if (::testing::Test::HasFailure()) return;
    }
}

}  // namespace
}  // namespace mesh::compile
