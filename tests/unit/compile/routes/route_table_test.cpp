#include "compile/routes/route_table.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using mesh::Rng;
using mesh::model::ClusterId;
using mesh::model::IpPrefix;
using mesh::model::Node;
using mesh::model::NodeAddress;
using testing::ElementsAre;
using testing::IsEmpty;

const ClusterKey kOwn{"ape", ClusterId{9}};  // preferred, though its id is the highest
const ClusterKey kBee{"bee", ClusterId{2}};
const ClusterKey kCat{"cat", ClusterId{3}};

IpPrefix prefix(std::string_view text) {
    return *IpPrefix::parse(text);
}

/// The first CIDR of each family is the main one, others are secondary.
Node node(const ClusterKey& cluster, std::string name, std::vector<NodeAddress> addresses,
          std::vector<std::string_view> cidrs) {
    Node n;
    n.name = std::move(name);
    n.cluster = cluster.name;
    n.cluster_id = cluster.id;
    n.addresses = std::move(addresses);
    for (const auto text : cidrs) {
        const IpPrefix p = prefix(text);
        auto& first = p.is_v4() ? n.ipv4_alloc_cidr : n.ipv6_alloc_cidr;
        auto& more = p.is_v4() ? n.ipv4_secondary_alloc_cidrs : n.ipv6_secondary_alloc_cidrs;
        if (!first) {
            first = p;
        } else if (!more) {
            more = {p};
        } else {
            more->push_back(p);
        }
    }
    return n;
}
Node node(const ClusterKey& cluster, std::string name, std::string address,
          std::vector<std::string_view> cidrs) {
    return node(cluster, std::move(name), {{"InternalIP", std::move(address)}}, std::move(cidrs));
}

std::string text(const Route& route) {
    return route.prefix.to_string() + " via " + route.gateway.to_string() + " " +
           route.node.cluster.name + "/" + route.node.name;
}
/// "+ route" and "- prefix".
std::vector<std::string> text(const RouteChanges& changes) {
    std::vector<std::string> lines;
    for (const Route& route : changes.upserts) lines.push_back("+ " + text(route));
    for (const IpPrefix& p : changes.removed) lines.push_back("- " + p.to_string());
    return lines;
}

class Routes : public testing::Test {
  protected:
    EffectSink sink() {
        return [this](const Effect& effect) { routes_.note(effect); };
    }
    std::vector<std::string> put(const ClusterKey& cluster, const Node& n) {
        tables_.apply({cluster, {NodeUpsert{n}}}, sink());
        return text(routes_.flush());
    }
    std::vector<std::string> erase(const ClusterKey& cluster, const std::string& name) {
        tables_.apply({cluster, {NodeDelete{name}}}, sink());
        return text(routes_.flush());
    }
    std::vector<std::string> conflicts() {
        std::vector<std::string> lines;
        for (const RouteConflict& c : routes_.conflicts()) lines.push_back(c.text);
        return lines;
    }

    ClusterTables tables_{"ape", 1};
    RouteTable routes_{{.own_cluster = "ape", .own_node = "n1"}};
};

TEST_F(Routes, LeadToTheNodesOfAllClustersButNotToThisOne) {
    EXPECT_THAT(put(kOwn, node(kOwn, "n1", "192.0.2.1", {"10.10.1.0/24"})), IsEmpty());
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", "192.0.2.2", {"10.10.2.0/24"})),
                ElementsAre("+ 10.10.2.0/24 via 192.0.2.2 ape/n2"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 via 192.0.2.11 bee/n1"));
    EXPECT_THAT(erase(kBee, "n1"), ElementsAre("- 10.20.1.0/24"));
    EXPECT_THAT(conflicts(), IsEmpty());
    EXPECT_THAT(routes_.skipped(), IsEmpty());
}

TEST_F(Routes, UseTheAddressOfTheFamily) {
    EXPECT_THAT(
        put(kBee, node(kBee, "n1",
                       {{"Hostname", "n1"},
                        {"CiliumInternalIP", "10.20.1.9"},
                        {"ExternalIP", "198.51.100.1"},
                        {"InternalIP", ""},
                        {"InternalIP", "fd00:1::1"},
                        {"InternalIP", "192.0.2.11"},
                        {"InternalIP", "192.0.2.12"}},
                       {"10.20.1.0/24", "fd00:20::/64", "10.20.9.0/24", "fd00:29::/64"})),
        ElementsAre("+ 10.20.1.0/24 via 192.0.2.11 bee/n1", "+ 10.20.9.0/24 via 192.0.2.11 bee/n1",
                    "+ fd00:20::/64 via fd00:1::1 bee/n1", "+ fd00:29::/64 via fd00:1::1 bee/n1"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", {{"ExternalIP", "198.51.100.1"}}, {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 via 198.51.100.1 bee/n1", "- 10.20.9.0/24",
                            "- fd00:20::/64", "- fd00:29::/64"));
}

TEST_F(Routes, AnUpdateThatMovesNothingGivesNothing) {
    Node n = node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"});
    put(kBee, n);
    n.boot_id = "another";
    EXPECT_THAT(put(kBee, n), IsEmpty());
    n.addresses = {{{"InternalIP", "192.0.2.99"}}};
    EXPECT_THAT(put(kBee, n), ElementsAre("+ 10.20.1.0/24 via 192.0.2.99 bee/n1"));
}

TEST_F(Routes, EqualPrefixesGoToThePreferredNodeWhateverCameFirst) {
    EXPECT_THAT(put(kCat, node(kCat, "n1", "192.0.2.31", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 via 192.0.2.31 cat/n1"));
    EXPECT_THAT(put(kBee, node(kBee, "n2", "192.0.2.12", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 via 192.0.2.12 bee/n2"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 via 192.0.2.11 bee/n1"));
    // Repetition by a loser does not move it.
    erase(kCat, "n1");
    EXPECT_THAT(put(kCat, node(kCat, "n1", "192.0.2.31", {"10.20.1.0/24"})), IsEmpty());
    EXPECT_THAT(
        conflicts(),
        ElementsAre(
            "10.20.1.0/24 of bee/n2 gets no route: bee/n1 announces the same and goes first",
            "10.20.1.0/24 of cat/n1 gets no route: bee/n1 announces the same and goes first"));
    EXPECT_THAT(erase(kBee, "n1"), ElementsAre("+ 10.20.1.0/24 via 192.0.2.12 bee/n2"));
    EXPECT_THAT(erase(kBee, "n2"), ElementsAre("+ 10.20.1.0/24 via 192.0.2.31 cat/n1"));
    EXPECT_THAT(conflicts(), IsEmpty());
}

TEST_F(Routes, NoRemoteTakesAnythingOfTheOwnCluster) {
    put(kOwn, node(kOwn, "n1", "192.0.2.1", {"10.10.1.0/24"}));
    put(kOwn, node(kOwn, "n2", "192.0.2.2", {"10.10.2.0/24"}));
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11",
                               {"10.10.1.0/24", "10.10.1.7/32", "10.10.2.128/25", "10.10.0.0/16"})),
                ElementsAre("+ 10.10.0.0/16 via 192.0.2.11 bee/n1"));
    EXPECT_THAT(
        conflicts(),
        ElementsAre(
            "10.10.0.0/16 of bee/n1 does not get the traffic to 10.10.1.0/24 of ape/n1, which it "
            "holds",
            "10.10.0.0/16 of bee/n1 does not get the traffic to 10.10.2.0/24 of ape/n2, which it "
            "holds",
            "10.10.1.0/24 of bee/n1 gets no route: ape/n1 announces the same and goes first",
            "10.10.1.7/32 of bee/n1 gets no route: it lies within 10.10.1.0/24 of ape/n1, which "
            "goes "
            "first",
            "10.10.2.128/25 of bee/n1 gets no route: it lies within 10.10.2.0/24 of ape/n2, which "
            "goes "
            "first"));
    // What the own cluster gives up is free, and taken back when it is announced again.
    EXPECT_THAT(erase(kOwn, "n2"),
                ElementsAre("+ 10.10.2.128/25 via 192.0.2.11 bee/n1", "- 10.10.2.0/24"));
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", "192.0.2.2", {"10.10.2.0/24"})),
                ElementsAre("+ 10.10.2.0/24 via 192.0.2.2 ape/n2", "- 10.10.2.128/25"));
}

TEST_F(Routes, TheOwnClustersPrefixIsKeptEvenIfItsNodeHasNoAddress) {
    put(kOwn, node(kOwn, "n2", std::vector<NodeAddress>{}, {"10.10.2.0/24"}));
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11", {"10.10.2.0/24", "10.10.2.128/25"})),
                IsEmpty());
    EXPECT_THAT(
        routes_.skipped(),
        ElementsAre("10.10.2.0/24 of ape/n2 gets no route: the node has no usable IPv4 address"));
}

TEST_F(Routes, PrefixesWithinEachOtherInOneClusterAreItsOwnMatter) {
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.0.0/16"})).size(), 1U);
    EXPECT_THAT(put(kBee, node(kBee, "n2", "192.0.2.12", {"10.20.2.0/24"})),
                ElementsAre("+ 10.20.2.0/24 via 192.0.2.12 bee/n2"));
    EXPECT_THAT(conflicts(), IsEmpty());
}

TEST_F(Routes, ADrainedClusterLeavesNothing) {
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"}));
    put(kCat, node(kCat, "n1", "192.0.2.31", {"10.20.1.0/25", "10.30.1.0/24"}));
    tables_.drain("bee", sink());
    EXPECT_THAT(text(routes_.flush()),
                ElementsAre("+ 10.20.1.0/25 via 192.0.2.31 cat/n1", "- 10.20.1.0/24"));
}

TEST_F(Routes, WhatCannotHaveARouteIsSkippedWithAReasonAndStopsNobody) {
    put(kOwn, node(kOwn, "n1", "192.0.2.1", {"10.10.1.0/24"}));
    EXPECT_THAT(put(kBee, node(kBee, "n1", "203.0.113.1",
                               {"0.0.0.0/0", "::/0", "127.0.0.0/16", "128.0.0.0/1", "fe80::/64",
                                "203.0.113.0/24", "192.0.2.0/24", "fd00:20::/64"})),
                IsEmpty());
    EXPECT_THAT(
        routes_.skipped(),
        testing::UnorderedElementsAre(
            "0.0.0.0/0 of bee/n1 gets no route: it overlaps 0.0.0.0/8, which is never routed",
            "::/0 of bee/n1 gets no route: it overlaps ::/127, which is never routed",
            "127.0.0.0/16 of bee/n1 gets no route: it overlaps 127.0.0.0/8, which is never routed",
            "128.0.0.0/1 of bee/n1 gets no route: it overlaps 169.254.0.0/16, which is never "
            "routed",
            "fe80::/64 of bee/n1 gets no route: it overlaps fe80::/10, which is never routed",
            "203.0.113.0/24 of bee/n1 gets no route: it holds the node's own address 203.0.113.1",
            "192.0.2.0/24 of bee/n1 gets no route: it holds 192.0.2.1, the address of a node of "
            "ape",
            "fd00:20::/64 of bee/n1 gets no route: the node has no usable IPv6 address"));
    EXPECT_THAT(put(kCat, node(kCat, "n1", "203.0.113.9", {"10.30.1.0/24", "192.0.2.128/25"})),
                ElementsAre("+ 10.30.1.0/24 via 203.0.113.9 cat/n1",
                            "+ 192.0.2.128/25 via 203.0.113.9 cat/n1"));
    EXPECT_THAT(conflicts(), IsEmpty());
    // A node of the own cluster that appears inside a routed prefix ends that route.
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", "192.0.2.200", {})), ElementsAre("- 192.0.2.128/25"));
    EXPECT_THAT(erase(kOwn, "n2"), ElementsAre("+ 192.0.2.128/25 via 203.0.113.9 cat/n1"));
    // So does one whose address is the prefix.
    put(kBee, node(kBee, "n1", "203.0.113.1", {"198.51.100.7/32"}));
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", "198.51.100.7", {})), ElementsAre("- 198.51.100.7/32"));
    EXPECT_THAT(erase(kOwn, "n2"), ElementsAre("+ 198.51.100.7/32 via 203.0.113.1 bee/n1"));
}

TEST_F(Routes, RemotesAnnounceNoPartsOfTheWholeAddressSpace) {
    put(kBee, node(kBee, "n1", {{"InternalIP", "203.0.113.1"}, {"InternalIP", "2001:db8::1"}},
                   {"10.0.0.0/7", "100.0.0.0/8", "fc00::/7", "fd10::/16"}));
    EXPECT_THAT(routes_.skipped(),
                ElementsAre("10.0.0.0/7 of bee/n1 gets no route: it is shorter than /8",
                            "fc00::/7 of bee/n1 gets no route: it is shorter than /16"));
    // The own cluster's is its own matter.
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", "192.0.2.2", {"40.0.0.0/7"})),
                ElementsAre("+ 40.0.0.0/7 via 192.0.2.2 ape/n2"));
}

TEST_F(Routes, NoPrefixTakesTheNodesOfAClusterThatGoesFirst) {
    put(kBee, node(kBee, "n1", "192.0.2.1", {"10.20.1.0/24"}));
    EXPECT_THAT(put(kCat, node(kCat, "n1", "203.0.113.9", {"192.0.2.0/24", "10.30.1.0/24"})),
                ElementsAre("+ 10.30.1.0/24 via 203.0.113.9 cat/n1"));
    EXPECT_THAT(routes_.skipped(),
                ElementsAre("192.0.2.0/24 of cat/n1 gets no route: it holds 192.0.2.1, the address "
                            "of a node of bee"));
    // A second node there changes nothing, the last that goes does.
    EXPECT_THAT(put(kBee, node(kBee, "n2", "192.0.2.2", {})), IsEmpty());
    EXPECT_THAT(erase(kBee, "n1"), ElementsAre("- 10.20.1.0/24"));
    EXPECT_THAT(erase(kBee, "n2"), ElementsAre("+ 192.0.2.0/24 via 203.0.113.9 cat/n1"));
    // Who goes later cannot end a prefix by an address within it, nor can the cluster itself.
    EXPECT_THAT(put(kCat, node(kCat, "n2", "10.20.1.9", {})), IsEmpty());
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.1", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 via 192.0.2.1 bee/n1", "- 192.0.2.0/24"));
    EXPECT_THAT(put(kBee, node(kBee, "n2", "10.20.1.2", {})), IsEmpty());
}

TEST_F(Routes, LoopbackAndMulticastAreNoGateways) {
    EXPECT_THAT(put(kBee, node(kBee, "n1",
                               {{"InternalIP", "127.0.0.1"},
                                {"InternalIP", "224.0.0.1"},
                                {"InternalIP", "0.0.0.0"},
                                {"InternalIP", "::1"},
                                {"InternalIP", "fe80::1"},
                                {"ExternalIP", "198.51.100.1"}},
                               {"10.20.1.0/24", "fd00:20::/64"})),
                ElementsAre("+ 10.20.1.0/24 via 198.51.100.1 bee/n1"));
}

TEST_F(Routes, TellWhatHoldsOthersOff) {
    put(kOwn, node(kOwn, "n1", "192.0.2.1", {"10.10.1.0/24"}));
    put(kOwn, node(kOwn, "n2", std::vector<NodeAddress>{}, {"10.10.2.0/24"}));
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.0.0/16", "10.20.1.0/24", "192.0.0.0/16"}));
    const auto around = [&](const ClusterKey& cluster, std::string_view text) -> std::string {
        const auto found = routes_.find_preferred_around(cluster, prefix(text));
        if (!found) return "";
        return found->prefix.to_string() + " " + found->node->cluster.name + "/" +
               found->node->name;
    };
    EXPECT_EQ(around(kBee, "10.10.1.7/32"), "10.10.1.0/24 ape/n1");
    EXPECT_EQ(around(kCat, "10.10.1.0/24"), "10.10.1.0/24 ape/n1");
    EXPECT_EQ(around(kCat, "10.10.2.7/32"), "10.10.2.0/24 ape/n2");  // no route, but it is its own
    EXPECT_EQ(around(kCat, "10.20.1.7/32"), "10.20.0.0/16 bee/n1");
    EXPECT_EQ(around(kCat, "10.20.0.0/16"), "10.20.0.0/16 bee/n1");
    EXPECT_EQ(around(kCat, "10.20.0.0/15"), "");
    EXPECT_EQ(around(kBee, "10.20.1.7/32"), "");  // its own
    EXPECT_EQ(around(kOwn, "10.20.1.7/32"), "");  // nobody goes first
    EXPECT_EQ(around(kCat, "192.0.3.7/32"), "");  // takes no part
    EXPECT_EQ(around(kCat, "fd00::7/128"), "");
    erase(kBee, "n1");
    EXPECT_EQ(around(kCat, "10.20.1.7/32"), "");
}

// Random nodes of few prefixes: what the flushes add up to is what a table that sees the nodes for
// the first time, in another order, wants; and no removal or upsert is without effect.
TEST_F(Routes, AddUpToThoseFromScratch) {
    const std::vector<ClusterKey> clusters{kOwn, kBee, kCat};
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        Rng rng(seed);
        ClusterTables tables("ape", seed);
        RouteTable routes({.own_cluster = "ape", .own_node = "n1"});
        const EffectSink note = [&](const Effect& effect) { routes.note(effect); };
        std::map<IpPrefix, Route> added_up;
        for (int step = 0; step < 400; ++step) {
            const ClusterKey& cluster = clusters[rng.below(3)];
            const std::string name = "n" + std::to_string(1 + rng.below(3));
            const auto kind = rng.below(10);
            if (kind == 0) {
                tables.drain(cluster.name, note);
            } else if (kind < 4) {
                tables.apply({cluster, {NodeDelete{name}}}, note);
            } else {
                std::vector<std::string> texts;
                for (auto left = rng.below(4); left > 0; --left) {
                    const auto length =
                        std::to_string(rng.below(2) == 0 ? 24 + rng.below(3) : rng.below(25));
                    texts.push_back("10.0." + std::to_string(rng.below(2)) + "." +
                                    std::to_string(rng.below(4) * 64) + "/" + length);
                    if (rng.below(4) == 0)
                        texts.push_back("fd00::" + std::to_string(rng.below(2)) + "/" +
                                        std::to_string(126 + rng.below(3)));
                }
                std::vector<NodeAddress> addresses;
                if (rng.below(6) != 0) {
                    addresses.push_back(
                        {"InternalIP", rng.below(4) == 0
                                           ? "10.0.0." + std::to_string(rng.below(256))
                                           : "192.0.2." + std::to_string(rng.below(256))});
                }
                if (rng.below(2) == 0) addresses.push_back({"InternalIP", "2001:db8::1"});
                tables.apply(
                    {cluster,
                     {NodeUpsert{node(cluster, name, addresses, {texts.begin(), texts.end()})}}},
                    note);
            }
            if (rng.below(3) == 0) continue;
            const RouteChanges changes = routes.flush();
            for (const IpPrefix& p : changes.removed) ASSERT_EQ(added_up.erase(p), 1U);
            for (const Route& route : changes.upserts) {
                ASSERT_TRUE(!added_up.contains(route.prefix) || added_up.at(route.prefix) != route);
                added_up.insert_or_assign(route.prefix, route);
            }
            RouteTable scratch({.own_cluster = "ape", .own_node = "n1"});
            for (std::size_t i = clusters.size(); i > 0; --i) {
                tables.for_each_node(clusters[i - 1].name, [&](const Node& n) {
                    scratch.note({clusters[i - 1], Changed<Node>{nullptr, &n}});
                });
            }
            std::map<IpPrefix, Route> expected;
            for (const Route& route : scratch.flush().upserts)
                expected.emplace(route.prefix, route);
            ASSERT_EQ(added_up, expected) << "step " << step;
            ASSERT_EQ(routes.conflicts(), scratch.conflicts());
            ASSERT_EQ(routes.skipped(), scratch.skipped());
        }
    }
}

}  // namespace
