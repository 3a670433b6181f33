#include "compile/ipcache/ipcache_compiler.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "objects.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using namespace mesh::state;
using mesh::model::ClusterId;
using mesh::model::IdentityId;
using mesh::model::IpAddress;
using mesh::model::IpIdentityPair;
using mesh::model::Node;

class Ipcache : public ::testing::Test {
  protected:
    using Lines = std::vector<std::string>;

    EffectSink sink() {
        return [this](const Effect& effect) {
            routes_.note(effect);
            ipcache_.note(effect);
        };
    }
    void apply(const ClusterKey& cluster, std::vector<ClusterChange> changes) {
        tables_.apply({cluster, std::move(changes)}, sink());
        ipcache_.note_routes(routes_.flush());
    }
    Lines flush() { return text(ipcache_.flush()); }
    Lines put(const ClusterKey& cluster, const Node& n) {
        apply(cluster, {NodeUpsert{n}});
        return flush();
    }
    Lines put(const ClusterKey& cluster, const IpIdentityPair& p) {
        apply(cluster, {IpUpsert{p}});
        return flush();
    }
    Lines erase_node(const ClusterKey& cluster, const std::string& name) {
        apply(cluster, {NodeDelete{name}});
        return flush();
    }
    Lines erase_ip(const ClusterKey& cluster, std::string_view where) {
        apply(cluster, {IpDelete{prefix(where)}});
        return flush();
    }
    Lines conflicts(std::size_t most = 100) {
        Lines lines;
        for (const IpcacheConflict& c : ipcache_.conflicts(most)) lines.push_back(c.text);
        return lines;
    }

    ClusterTables tables_{"ape", 1};
    RouteTable routes_{{.own_cluster = "ape", .own_node = "n1"}};
    IpcacheCompiler ipcache_{tables_, routes_, {.own_cluster = "ape", .own_node = "n1"}};
};

// ---- rows ----

TEST_F(Ipcache, AnIpHasItsIdentityAndLeadsToItsHost) {
    IpIdentityPair p = pair("10.20.1.7", "192.0.2.11", 131073);
    p.key = 3;
    EXPECT_THAT(put(kBee, p), ElementsAre("+ 10.20.1.7/32 id 131073 of 2 via 192.0.2.11 key 3"));
    EXPECT_THAT(put(kBee, pair("fd00::7", "192.0.2.11", 131074)),
                ElementsAre("+ fd00::7/128 id 131074 of 2 via 192.0.2.11"));
    EXPECT_THAT(put(kBee, pair("10.20.2.0/24", "", 131075)),
                ElementsAre("+ 10.20.2.0/24 id 131075 of 2"));
    p.id = model::IdentityId{131080};
    EXPECT_THAT(put(kBee, p), ElementsAre("+ 10.20.1.7/32 id 131080 of 2 via 192.0.2.11 key 3"));
    EXPECT_THAT(erase_ip(kBee, "10.20.1.7"), ElementsAre("- 10.20.1.7/32"));
    EXPECT_THAT(erase_ip(kBee, "10.20.2.0/24"), ElementsAre("- 10.20.2.0/24"));
    EXPECT_FALSE(ipcache_.pending());
}

TEST_F(Ipcache, AChangeThatNoRowShowsGivesNone) {
    IpIdentityPair p = pair("10.20.1.7", "192.0.2.11", 131073);
    put(kBee, p);
    p.k8s_pod_name = "another";
    EXPECT_THAT(put(kBee, p), IsEmpty());
    Node n = node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"});
    put(kBee, n);
    n.boot_id = "another";
    EXPECT_THAT(put(kBee, n), IsEmpty());
}

TEST_F(Ipcache, WhatIsOnThisNodeHasNoTunnelAndNoUnusableAddressIsOne) {
    put(kOwn, node(kOwn, "n1",
                   {{"InternalIP", "192.0.2.1"},
                    {"ExternalIP", "198.51.100.1"},
                    {"CiliumInternalIP", "10.10.1.1"}},
                   {"10.10.1.0/24"}));
    EXPECT_THAT(put(kOwn, pair("10.10.1.7", "192.0.2.1", 600)),
                ElementsAre("+ 10.10.1.7/32 id 600 of 9"));
    EXPECT_THAT(put(kOwn, pair("10.10.1.8", "198.51.100.1", 600)),
                ElementsAre("+ 10.10.1.8/32 id 600 of 9"));
    EXPECT_THAT(put(kBee, pair("10.20.1.7", "192.0.2.1", 131073)),
                ElementsAre("+ 10.20.1.7/32 id 131073 of 2"));
    for (const auto* host :
         {"127.0.0.1", "224.0.0.5", "0.0.0.0", "169.254.1.1", "::", "::1", "fe80::1", "ff02::1"}) {
        put(kBee, pair("10.20.1.8", "192.0.2.11", 131073));
        EXPECT_THAT(put(kBee, pair("10.20.1.8", host, 131073)),
                    ElementsAre("+ 10.20.1.8/32 id 131073 of 2"))
            << host;
    }
    // The node moves: the same pairs are elsewhere now, and another is here.
    put(kOwn, pair("10.10.2.7", "192.0.2.2", 601));
    EXPECT_THAT(
        put(kOwn, node(kOwn, "n1", "192.0.2.2", {"10.10.1.0/24"})),
        ElementsAre("+ 10.10.1.7/32 id 600 of 9 via 192.0.2.1",
                    "+ 10.10.1.8/32 id 600 of 9 via 198.51.100.1", "+ 10.10.2.7/32 id 601 of 9",
                    "+ 10.20.1.7/32 id 131073 of 2 via 192.0.2.1", "+ 192.0.2.2/32 id 1 of 9 node",
                    "- 10.10.1.1/32", "- 192.0.2.1/32", "- 198.51.100.1/32",
                    "+ peer 192.0.2.2 of 9", "- peer 192.0.2.1", "- peer 198.51.100.1"));
}

TEST_F(Ipcache, OnlyThisNodeIsTheHost) {
    put(kOwn, node(kOwn, "n1", "192.0.2.1", {}));
    EXPECT_THAT(put(kOwn, pair("10.10.1.1", "192.0.2.1", 1)),
                ElementsAre("+ 10.10.1.1/32 id 1 of 9"));
    EXPECT_THAT(put(kOwn, pair("10.10.2.1", "192.0.2.2", 1)),
                ElementsAre("+ 10.10.2.1/32 id 6 of 9 via 192.0.2.2"));
    EXPECT_THAT(put(kBee, pair("10.20.1.1", "192.0.2.11", 1)),
                ElementsAre("+ 10.20.1.1/32 id 6 of 2 via 192.0.2.11"));
    EXPECT_THAT(put(kBee, pair("10.20.2.1", "192.0.2.1", 1)),
                ElementsAre("+ 10.20.2.1/32 id 6 of 2"));
}

TEST_F(Ipcache, ANodeHasItsAddressesAndItsPodCidr) {
    Node n = node(kBee, "n1",
                  {{"Hostname", "n1"},
                   {"CiliumInternalIP", "10.20.1.9"},
                   {"InternalIP", "192.0.2.11"},
                   {"ExternalIP", "198.51.100.11"},
                   {"ExternalIP", "127.0.0.1"},
                   {"InternalIP", "fe80::11"},
                   {"CiliumInternalIP", "fd00:20::9"}},
                  {"10.20.1.0/24", "fd00:20::/64"});
    n.ipv4_health_ip = *IpAddress::parse("10.20.1.77");
    n.ipv4_ingress_ip = *IpAddress::parse("10.20.1.88");
    n.ipv6_health_ip = *IpAddress::parse("fd00:20::77");
    n.encryption_key = 5;
    EXPECT_THAT(put(kBee, n), ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 key 5 cidr",
                                          "+ 10.20.1.9/32 id 6 of 2 via 192.0.2.11 key 5 node",
                                          "+ 10.20.1.77/32 id 4 of 2 via 192.0.2.11 key 5",
                                          "+ 10.20.1.88/32 id 8 of 2 via 192.0.2.11 key 5",
                                          "+ 192.0.2.11/32 id 6 of 2 key 5 node",
                                          "+ 198.51.100.11/32 id 6 of 2 key 5 node",
                                          "+ fd00:20::9/128 id 6 of 2 via 192.0.2.11 key 5 node",
                                          "+ fd00:20::77/128 id 4 of 2 via 192.0.2.11 key 5",
                                          "+ peer 192.0.2.11 of 2", "+ peer 198.51.100.11 of 2"));
    // Its IPv6 CIDR has no route as the node has no IPv6 address (RouteTable's rule).
    n.encryption_key = 6;
    EXPECT_THAT(put(kBee, n), Contains("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 key 6 cidr"));
    n.addresses = {{{"InternalIP", "192.0.2.12"}}};
    n.ipv4_health_ip = n.ipv4_ingress_ip = n.ipv6_health_ip = std::nullopt;
    EXPECT_THAT(put(kBee, n),
                ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.12 key 6 cidr",
                            "+ 192.0.2.12/32 id 6 of 2 key 6 node", "- 10.20.1.9/32",
                            "- 10.20.1.77/32", "- 10.20.1.88/32", "- 192.0.2.11/32",
                            "- 198.51.100.11/32", "- fd00:20::9/128", "- fd00:20::77/128",
                            "+ peer 192.0.2.12 of 2", "- peer 192.0.2.11", "- peer 198.51.100.11"));
    EXPECT_THAT(erase_node(kBee, "n1"),
                ElementsAre("- 10.20.1.0/24", "- 192.0.2.12/32", "- peer 192.0.2.12"));
}

TEST_F(Ipcache, ANodeThatIsBackWithAnotherKeyChangesItsCidr) {
    Node n = node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"});
    put(kBee, n);
    n.encryption_key = 5;
    apply(kBee, {NodeDelete{"n1"}, NodeUpsert{n}});
    EXPECT_THAT(flush(), ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 key 5 cidr",
                                     "+ 192.0.2.11/32 id 6 of 2 key 5 node"));
}

TEST_F(Ipcache, ThisNodeIsTheHostAndItsEndpointsAreHere) {
    Node n = node(kOwn, "n1", {{"InternalIP", "192.0.2.1"}, {"CiliumInternalIP", "10.10.1.9"}},
                  {"10.10.1.0/24"});
    n.ipv4_health_ip = *IpAddress::parse("10.10.1.77");
    n.ipv4_ingress_ip = *IpAddress::parse("10.10.1.88");
    EXPECT_THAT(put(kOwn, n),
                ElementsAre("+ 10.10.1.9/32 id 1 of 9 node", "+ 10.10.1.77/32 id 4 of 9",
                            "+ 10.10.1.88/32 id 8 of 9", "+ 192.0.2.1/32 id 1 of 9 node",
                            "+ peer 192.0.2.1 of 9"));
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", "192.0.2.2", {"10.10.2.0/24"})),
                ElementsAre("+ 10.10.2.0/24 id 2 of 9 via 192.0.2.2 cidr",
                            "+ 192.0.2.2/32 id 6 of 9 node", "+ peer 192.0.2.2 of 9"));
}

TEST_F(Ipcache, WhatNobodyCanHaveIsNoClaim) {
    for (const auto* where : {"0.0.0.0/0", "127.0.0.1", "169.254.1.0/24", "224.0.0.1",
                              "128.0.0.0/1", "::/0", "::1", "fe80::1", "ff02::1"}) {
        EXPECT_THAT(put(kBee, pair(where, "192.0.2.11", 131073)), IsEmpty()) << where;
        EXPECT_THAT(erase_ip(kBee, where), IsEmpty()) << where;
    }
    EXPECT_THAT(conflicts(), IsEmpty());
}

// ---- precedence ----

TEST_F(Ipcache, EqualPrefixesGoToThePreferredClusterWhateverCameFirst) {
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    EXPECT_THAT(conflicts(), IsEmpty());
    EXPECT_THAT(put(kBee, pair("10.20.1.7", "192.0.2.11", 2)),
                ElementsAre("+ 10.20.1.7/32 id 2 of 2 via 192.0.2.11"));
    EXPECT_THAT(put(kOwn, pair("10.20.1.7", "192.0.2.2", 9)),
                ElementsAre("+ 10.20.1.7/32 id 9 of 9 via 192.0.2.2"));
    EXPECT_THAT(conflicts(), ElementsAre("10.20.1.7/32: the ip of ape has the row; the ip of bee "
                                         "gets none, as ape goes first; the ip of cat gets none, "
                                         "as ape goes first"));
    // A loser's changes and repetitions move nothing.
    EXPECT_THAT(put(kCat, pair("10.20.1.7", "192.0.2.32", 4)), IsEmpty());
    EXPECT_THAT(erase_ip(kBee, "10.20.1.7"), IsEmpty());
    EXPECT_THAT(put(kBee, pair("10.20.1.7", "192.0.2.11", 2)), IsEmpty());
    EXPECT_THAT(erase_ip(kOwn, "10.20.1.7"),
                ElementsAre("+ 10.20.1.7/32 id 2 of 2 via 192.0.2.11"));
    EXPECT_THAT(erase_ip(kBee, "10.20.1.7"),
                ElementsAre("+ 10.20.1.7/32 id 4 of 3 via 192.0.2.32"));
    EXPECT_THAT(conflicts(), IsEmpty());
    EXPECT_EQ(ipcache_.conflict_count(), 0U);
}

TEST_F(Ipcache, WithinAClusterANodeGoesBeforeAnIpBeforeACidr) {
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.7/32"}));
    EXPECT_THAT(put(kBee, pair("10.20.1.7", "192.0.2.12", 131073)),
                ElementsAre("+ 10.20.1.7/32 id 131073 of 2 via 192.0.2.12"));
    EXPECT_THAT(put(kBee, node(kBee, "n2", {{"ExternalIP", "10.20.1.7"}}, {})),
                ElementsAre("+ 10.20.1.7/32 id 6 of 2 node", "+ peer 10.20.1.7 of 2"));
    EXPECT_THAT(conflicts(), IsEmpty());  // its own matter
    EXPECT_THAT(erase_node(kBee, "n2"),
                ElementsAre("+ 10.20.1.7/32 id 131073 of 2 via 192.0.2.12", "- peer 10.20.1.7"));
    EXPECT_THAT(erase_ip(kBee, "10.20.1.7"),
                ElementsAre("+ 10.20.1.7/32 id 2 of 2 via 192.0.2.11 cidr"));
}

TEST_F(Ipcache, APreferredClustersIpGoesBeforeANode) {
    put(kCat, node(kCat, "n1", "192.0.2.31", {}));
    EXPECT_THAT(put(kBee, pair("192.0.2.31", "192.0.2.11", 131073)),
                ElementsAre("+ 192.0.2.31/32 id 131073 of 2 via 192.0.2.11", "- peer 192.0.2.31"));
    EXPECT_THAT(conflicts(),
                ElementsAre("192.0.2.31/32: the ip of bee has the row; the address of node cat/n1 "
                            "gets none, as bee goes first"));
    // The same address of a node of each cluster: who may send is settled alike.
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.31", {})),
                ElementsAre("+ 192.0.2.31/32 id 6 of 2 node", "+ peer 192.0.2.31 of 2"));
    put(kBee, node(kBee, "n1", "192.0.2.11", {}));
    EXPECT_THAT(erase_ip(kBee, "192.0.2.31"),
                ElementsAre("+ 192.0.2.31/32 id 6 of 3 node", "+ peer 192.0.2.31 of 3"));
}

TEST_F(Ipcache, NothingLiesWithinACidrOfAPreferredCluster) {
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    put(kCat, pair("10.20.1.0/28", "192.0.2.31", 4));
    put(kCat, pair("10.20.0.0/16", "192.0.2.31", 5));
    put(kCat, node(kCat, "n1", "10.20.1.99", {}));
    put(kBee, pair("10.20.1.8", "192.0.2.11", 2));
    // The ips of the cluster itself and wider prefixes are not touched.
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 cidr",
                            "+ 192.0.2.11/32 id 6 of 2 node", "- 10.20.1.0/28", "- 10.20.1.7/32",
                            "- 10.20.1.99/32", "+ peer 192.0.2.11 of 2", "- peer 10.20.1.99"));
    EXPECT_THAT(
        conflicts(),
        ElementsAre("10.20.1.7/32: the ip of cat gets none, as it lies within 10.20.1.0/24 of "
                    "bee/n1, which goes first",
                    "10.20.1.99/32: the address of node cat/n1 gets none, as it lies within "
                    "10.20.1.0/24 of bee/n1, which goes first",
                    "10.20.1.0/28: the ip of cat gets none, as it lies within 10.20.1.0/24 of "
                    "bee/n1, which goes first"));
    EXPECT_EQ(ipcache_.conflict_count(), 3U);
    EXPECT_EQ(conflicts(1).size(), 1U);
    EXPECT_THAT(conflicts(0), IsEmpty());
    // The gateway moves, not the CIDR: nothing but its row does.
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.12", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.12 cidr",
                            "+ 192.0.2.12/32 id 6 of 2 node", "- 192.0.2.11/32",
                            "+ peer 192.0.2.12 of 2", "- peer 192.0.2.11"));
    EXPECT_THAT(erase_node(kBee, "n1"),
                ElementsAre("+ 10.20.1.0/28 id 4 of 3 via 192.0.2.31",
                            "+ 10.20.1.7/32 id 3 of 3 via 192.0.2.31",
                            "+ 10.20.1.99/32 id 6 of 3 node", "- 10.20.1.0/24", "- 192.0.2.12/32",
                            "+ peer 10.20.1.99 of 3", "- peer 192.0.2.12"));
    EXPECT_THAT(conflicts(), IsEmpty());
}

TEST_F(Ipcache, TheCidrOfThisNodeHoldsOthersOffThoughItHasNoRoute) {
    put(kBee, pair("10.10.1.7", "192.0.2.11", 2));
    EXPECT_THAT(put(kOwn, node(kOwn, "n1", "192.0.2.1", {"10.10.1.0/24"})),
                Contains("- 10.10.1.7/32"));
    EXPECT_THAT(put(kBee, pair("10.10.1.8", "192.0.2.11", 2)), IsEmpty());
    EXPECT_THAT(put(kOwn, pair("10.10.1.8", "192.0.2.1", 9)),
                ElementsAre("+ 10.10.1.8/32 id 9 of 9"));
    EXPECT_THAT(put(kOwn, node(kOwn, "n1", "192.0.2.1", {})),
                ElementsAre("+ 10.10.1.7/32 id 2 of 2 via 192.0.2.11"));
}

TEST_F(Ipcache, ACidrThatTakesNoPartHoldsNobodyOff) {
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"}));
    // An address of the own cluster inside it ends the route of the CIDR, and its claim.
    EXPECT_THAT(
        put(kOwn, node(kOwn, "n2", "10.20.1.200", {})),
        ElementsAre("+ 10.20.1.7/32 id 3 of 3 via 192.0.2.31", "+ 10.20.1.200/32 id 6 of 9 node",
                    "- 10.20.1.0/24", "+ peer 10.20.1.200 of 9"));
    EXPECT_THAT(erase_node(kOwn, "n2"),
                ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 cidr", "- 10.20.1.7/32",
                            "- 10.20.1.200/32", "- peer 10.20.1.200"));
}

TEST_F(Ipcache, NoPrefixHoldsTheAddressOfAPreferredClustersNode) {
    put(kCat, pair("192.0.2.0/24", "192.0.2.31", 3));
    put(kBee, pair("192.0.2.0/25", "192.0.2.31", 2));
    EXPECT_THAT(
        put(kBee, node(kBee, "n1", "192.0.2.11", {})),
        ElementsAre("+ 192.0.2.11/32 id 6 of 2 node", "- 192.0.2.0/24", "+ peer 192.0.2.11 of 2"));
    EXPECT_THAT(conflicts(),
                ElementsAre("192.0.2.0/24: the ip of cat gets none, as it holds 192.0.2.11, the "
                            "address of a node of bee, which goes first"));
    // Addresses inside the pod network do not count; their own rows are the more specific ones.
    EXPECT_THAT(put(kBee, node(kBee, "n1", {{"CiliumInternalIP", "192.0.2.11"}}, {})),
                ElementsAre("+ 192.0.2.0/24 id 3 of 3 via 192.0.2.31", "- peer 192.0.2.11"));
}

TEST_F(Ipcache, ACidrOfAnotherClusterMovesOnlyWhatItDecides) {
    // Of the CIDRs, cat's is within nothing until bee announces the same.
    put(kCat, node(kCat, "n1", "192.0.2.31", {"10.20.1.0/24"}));
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    EXPECT_THAT(
        put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})),
        ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 cidr",
                    "+ 192.0.2.11/32 id 6 of 2 node", "- 10.20.1.7/32", "+ peer 192.0.2.11 of 2"));
    EXPECT_THAT(erase_node(kBee, "n1"), ElementsAre("+ 10.20.1.0/24 id 2 of 3 via 192.0.2.31 cidr",
                                                    "+ 10.20.1.7/32 id 3 of 3 via 192.0.2.31",
                                                    "- 192.0.2.11/32", "- peer 192.0.2.11"));
}

TEST_F(Ipcache, ConflictsAreStructured) {
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.7/32"}));
    put(kOwn, pair("10.20.1.7", "192.0.2.2", 9));
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    const auto found = ipcache_.conflicts(10);
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].prefix, prefix("10.20.1.7/32"));
    EXPECT_EQ(found[0].winner, (IpcacheClaim{kOwn, IpcacheSource::kIp, ""}));
    EXPECT_THAT(found[0].losers, ElementsAre(IpcacheClaim{kBee, IpcacheSource::kCidr, "n1"},
                                             IpcacheClaim{kCat, IpcacheSource::kIp, ""}));
    EXPECT_EQ(found[0].text,
              "10.20.1.7/32: the ip of ape has the row; the pod CIDR of bee/n1 gets none, as ape "
              "goes first; the ip of cat gets none, as it lies within 10.20.1.7/32 of bee/n1, "
              "which goes first");
}

// ---- life ----

TEST_F(Ipcache, IsFlushedInParts) {
    std::vector<ClusterChange> changes;
    for (int i = 0; i < 10; ++i) {
        changes.push_back(IpUpsert{pair("10.20.1." + std::to_string(i), "192.0.2.11", 2)});
    }
    apply(kBee, changes);
    std::size_t rows = 0;
    for (int parts = 0; parts < 4; ++parts) {
        EXPECT_TRUE(ipcache_.pending());
        const auto part = ipcache_.flush(3);
        EXPECT_LE(part.upserts.size(), 3U);
        rows += part.upserts.size();
    }
    EXPECT_EQ(rows, 10U);
    EXPECT_FALSE(ipcache_.pending());
    EXPECT_TRUE(ipcache_.flush().empty());
}

TEST_F(Ipcache, ADrainedClusterLeavesNothing) {
    const std::size_t empty = ipcache_.bytes();
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"}));
    put(kBee, pair("10.20.1.7", "192.0.2.11", 2));
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    tables_.drain("bee", sink());
    ipcache_.note_routes(routes_.flush());
    EXPECT_THAT(flush(), ElementsAre("+ 10.20.1.7/32 id 3 of 3 via 192.0.2.31", "- 10.20.1.0/24",
                                     "- 192.0.2.11/32", "- peer 192.0.2.11"));
    tables_.drain("cat", sink());
    EXPECT_THAT(flush(), ElementsAre("- 10.20.1.7/32"));
    EXPECT_EQ(ipcache_.bytes(), empty);
}

TEST_F(Ipcache, WhatCameAndWentBetweenFlushesLeavesNothing) {
    put(kBee, pair("10.20.9.9", "192.0.2.11", 2));
    const std::size_t before = ipcache_.bytes();
    apply(kBee, {IpUpsert{pair("10.20.1.7", "192.0.2.11", 2)}, IpDelete{prefix("10.20.1.7")},
                 NodeUpsert{node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})}, NodeDelete{"n1"}});
    EXPECT_THAT(flush(), IsEmpty());
    EXPECT_EQ(ipcache_.bytes(), before);
}

TEST_F(Ipcache, ARowIsToldOnceForEachChange) {
    put(kCat, pair("10.20.1.7", "192.0.2.31", 3));
    put(kBee, pair("10.20.1.7", "192.0.2.11", 2));
    put(kCat, pair("10.20.1.7", "192.0.2.31", 4));
    EXPECT_THAT(erase_ip(kBee, "10.20.1.7"),
                ElementsAre("+ 10.20.1.7/32 id 4 of 3 via 192.0.2.31"));
    // A CIDR around it comes and goes between two flushes, and so nothing has changed.
    apply(kBee, {NodeUpsert{node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})}});
    apply(kBee, {NodeDelete{"n1"}});
    EXPECT_THAT(flush(), IsEmpty());
}

TEST_F(Ipcache, AClusterOfAnotherIdIsAnother) {
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"}));
    put(kBee, pair("10.20.1.7", "192.0.2.11", 2));
    const ClusterKey renumbered{"bee", ClusterId{4}};
    apply(renumbered, {NodeUpsert{node(renumbered, "n1", "192.0.2.11", {"10.20.1.0/24"})},
                       IpUpsert{pair("10.20.1.7", "192.0.2.11", 2)}});
    EXPECT_THAT(flush(), ElementsAre("+ 10.20.1.0/24 id 2 of 4 via 192.0.2.11 cidr",
                                     "+ 10.20.1.7/32 id 2 of 4 via 192.0.2.11",
                                     "+ 192.0.2.11/32 id 6 of 4 node", "+ peer 192.0.2.11 of 4"));
}

TEST_F(Ipcache, StartsWithWhatTheTablesHold) {
    put(kOwn, node(kOwn, "n1", "192.0.2.1", {"10.10.1.0/24"}));
    put(kOwn, pair("10.10.1.7", "192.0.2.1", 9));
    put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"}));
    RouteTable routes({.own_cluster = "ape", .own_node = "n1"});
    for (const ClusterKey& cluster : {kBee, kOwn}) {
        tables_.for_each_node(cluster.name, [&](const Node& n) {
            routes.note({cluster, Changed<Node>{nullptr, &n}});
        });
    }
    IpcacheCompiler later(tables_, routes, {.own_cluster = "ape", .own_node = "n1"});
    later.note_routes(routes.flush());
    EXPECT_THAT(
        text(later.flush()),
        ElementsAre("+ 10.10.1.7/32 id 9 of 9", "+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 cidr",
                    "+ 192.0.2.1/32 id 1 of 9 node", "+ 192.0.2.11/32 id 6 of 2 node",
                    "+ peer 192.0.2.1 of 9", "+ peer 192.0.2.11 of 2"));
}

// ---- identities that only this node knows ----

TEST_F(Ipcache, ALocalIdentityHasARowUntilTheMeshHas) {
    const std::size_t empty = ipcache_.bytes();
    const auto local = [&](std::string_view where, std::uint32_t id) {
        ipcache_.note_local(prefix(where), IdentityId{id});
        return flush();
    };
    EXPECT_THAT(local("203.0.113.0/24", 0x01000001),
                ElementsAre("+ 203.0.113.0/24 id 16777217 of 0"));
    EXPECT_THAT(local("203.0.113.0/24", 0x01000001), IsEmpty());
    EXPECT_THAT(local("203.0.113.7/32", 0x01000002),
                ElementsAre("+ 203.0.113.7/32 id 16777218 of 0"));
    EXPECT_THAT(put(kBee, pair("203.0.113.7", "192.0.2.11", 131073)),
                ElementsAre("+ 203.0.113.7/32 id 131073 of 2 via 192.0.2.11"));
    EXPECT_THAT(put(kBee, node(kBee, "n9", "203.0.113.7", {})),
                ElementsAre("+ 203.0.113.7/32 id 6 of 2 node", "+ peer 203.0.113.7 of 2"));
    EXPECT_THAT(local("203.0.113.7/32", 0x01000003), IsEmpty());
    EXPECT_THAT(conflicts(), IsEmpty());
    erase_ip(kBee, "203.0.113.7");
    EXPECT_THAT(erase_node(kBee, "n9"),
                ElementsAre("+ 203.0.113.7/32 id 16777219 of 0", "- peer 203.0.113.7"));
    for (const auto* where : {"203.0.113.0/24", "203.0.113.7/32"}) {
        ipcache_.note_local(prefix(where), std::nullopt);
    }
    EXPECT_THAT(flush(), ElementsAre("- 203.0.113.0/24", "- 203.0.113.7/32"));
    tables_.drain("bee", sink());
    flush();
    EXPECT_EQ(ipcache_.bytes(), empty);
}

TEST_F(Ipcache, ALocalIdentityInsideAPodCidrLeadsWhereThatLeads) {
    ipcache_.note_local(prefix("10.20.1.0/28"), IdentityId{0x01000001});
    ipcache_.note_local(prefix("10.20.0.0/16"), IdentityId{0x01000002});
    EXPECT_THAT(flush(),
                ElementsAre("+ 10.20.0.0/16 id 16777218 of 0", "+ 10.20.1.0/28 id 16777217 of 0"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", "192.0.2.11", {"10.20.1.0/24"})),
                ElementsAre("+ 10.20.1.0/24 id 2 of 2 via 192.0.2.11 cidr",
                            "+ 10.20.1.0/28 id 16777217 of 2 via 192.0.2.11 cidr",
                            "+ 192.0.2.11/32 id 6 of 2 node", "+ peer 192.0.2.11 of 2"));
    EXPECT_THAT(erase_node(kBee, "n1"),
                ElementsAre("+ 10.20.1.0/28 id 16777217 of 0", "- 10.20.1.0/24", "- 192.0.2.11/32",
                            "- peer 192.0.2.11"));
}

}  // namespace
}  // namespace mesh::compile::testing
