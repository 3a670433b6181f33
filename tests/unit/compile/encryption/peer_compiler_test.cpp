#include "compile/encryption/peer_compiler.hpp"

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
using mesh::model::WireguardPublicKey;
using testing::ElementsAre;
using testing::IsEmpty;

const ClusterKey kOwn{"ape", ClusterId{9}};  // preferred, though its id is the highest
const ClusterKey kBee{"bee", ClusterId{2}};
const ClusterKey kCat{"cat", ClusterId{3}};

WireguardPublicKey key(int last) {
    WireguardPublicKey::Bytes bytes{};
    bytes[31] = static_cast<std::uint8_t>(last);
    return WireguardPublicKey(bytes);
}

/// @param number of its key; 0 = none
Node node(const ClusterKey& cluster, std::string name, int number,
          std::vector<NodeAddress> addresses, std::vector<std::string> cidrs) {
    Node n;
    n.name = std::move(name);
    n.cluster = cluster.name;
    n.cluster_id = cluster.id;
    n.addresses = std::move(addresses);
    if (number != 0) n.wireguard_public_key = key(number).to_string();
    for (const auto& text : cidrs) {
        const IpPrefix p = *IpPrefix::parse(text);
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
Node node(const ClusterKey& cluster, std::string name, int number, std::string address,
          std::vector<std::string> cidrs) {
    return node(cluster, std::move(name), number,
                std::vector<NodeAddress>{{"InternalIP", std::move(address)}}, std::move(cidrs));
}

std::string text(const EncryptionPeer& peer) {
    std::string line = std::to_string(peer.public_key.bytes()[31]) + " " + peer.node.cluster.name +
                       "/" + peer.node.name + " at " + peer.endpoint.to_string() + ":";
    for (const IpPrefix& p : peer.allowed_ips) line += " " + p.to_string();
    return line;
}
/// "+ peer" and "- key".
std::vector<std::string> text(const EncryptionChanges& changes) {
    std::vector<std::string> lines;
    for (const auto& peer : changes.upserts) lines.push_back("+ " + text(peer));
    for (const auto& k : changes.removed) lines.push_back("- " + std::to_string(k.bytes()[31]));
    return lines;
}

class Encryption : public testing::Test {
  protected:
    EffectSink sink() {
        return [this](const Effect& effect) { compiler_.note(effect); };
    }
    void note(const ClusterKey& cluster, const Node& n) {
        tables_.apply({cluster, {NodeUpsert{n}}}, sink());
    }
    std::vector<std::string> put(const ClusterKey& cluster, const Node& n) {
        note(cluster, n);
        return text(compiler_.flush());
    }
    std::vector<std::string> erase(const ClusterKey& cluster, const std::string& name) {
        tables_.apply({cluster, {NodeDelete{name}}}, sink());
        return text(compiler_.flush());
    }

    ClusterTables tables_{"ape", 1};
    EncryptionCompiler compiler_{{.own_cluster = "ape", .own_node = "n1"}};
};

TEST_F(Encryption, OnePeerForEachNodeWithAKeyButThisOne) {
    EXPECT_THAT(put(kOwn, node(kOwn, "n1", 1, "192.0.2.1", {"10.10.1.0/24"})), IsEmpty());
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", 2, "192.0.2.2", {"10.10.2.0/24"})),
                ElementsAre("+ 2 ape/n2 at 192.0.2.2: 10.10.2.0/24 192.0.2.2/32"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3, "192.0.2.11", {"10.20.1.0/24"})),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 10.20.1.0/24 192.0.2.11/32"));
    EXPECT_THAT(put(kBee, node(kBee, "n2", 0, "192.0.2.12", {"10.20.2.0/24"})), IsEmpty());
    EXPECT_THAT(compiler_.without_key(), ElementsAre(EncryptionNode{kBee, "n2"}));
    EXPECT_THAT(erase(kBee, "n1"), ElementsAre("- 3"));
    EXPECT_THAT(compiler_.conflicts(), IsEmpty());
    EXPECT_THAT(compiler_.skipped(), IsEmpty());
}

TEST_F(Encryption, ThePeerIsAtTheFirstInternalAddressIPv4First) {
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3,
                               std::vector<NodeAddress>{{"Hostname", "n1"},
                                                        {"CiliumInternalIP", "10.20.1.9"},
                                                        {"ExternalIP", "198.51.100.1"},
                                                        {"InternalIP", "127.0.0.1"},
                                                        {"InternalIP", "fd00:1::1"},
                                                        {"InternalIP", "192.0.2.11"},
                                                        {"InternalIP", "192.0.2.12"}},
                               {"10.20.1.0/24", "fd00:20::/64", "10.20.9.0/24"})),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 10.20.1.0/24 10.20.1.9/32 10.20.9.0/24 "
                            "192.0.2.11/32 192.0.2.12/32 fd00:1::1/128 fd00:20::/64"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3, "fd00:1::1", {})),
                ElementsAre("+ 3 bee/n1 at fd00:1::1: fd00:1::1/128"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3,
                               std::vector<NodeAddress>{{"ExternalIP", "198.51.100.1"}}, {})),
                ElementsAre("+ 3 bee/n1 at 198.51.100.1: 198.51.100.1/32"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3, std::vector<NodeAddress>{}, {"10.20.1.0/24"})),
                ElementsAre("- 3"));
    EXPECT_THAT(compiler_.skipped(), ElementsAre("bee/n1 gets no peer: it has no usable address"));
}

TEST_F(Encryption, ANewKeyIsARemovalAndAnUpsertOfOneFlush) {
    Node n = node(kBee, "n1", 3, "192.0.2.11", {"10.20.1.0/24"});
    put(kBee, n);
    n.boot_id = "another";
    EXPECT_THAT(put(kBee, n), IsEmpty());
    n.wireguard_public_key = key(4).to_string();
    EXPECT_THAT(put(kBee, n),
                ElementsAre("+ 4 bee/n1 at 192.0.2.11: 10.20.1.0/24 192.0.2.11/32", "- 3"));
    n.wireguard_public_key = "no key";
    EXPECT_THAT(put(kBee, n), ElementsAre("- 4"));
    EXPECT_THAT(compiler_.skipped(),
                ElementsAre("bee/n1 gets no peer: WireGuard public key \"no key\": expected 44 "
                            "characters of base64"));
}

TEST_F(Encryption, WhatTwoClaimIsThePreferredOnesWhateverCameFirst) {
    EXPECT_THAT(put(kCat, node(kCat, "n1", 5, "192.0.2.31", {"10.20.1.0/24"})),
                ElementsAre("+ 5 cat/n1 at 192.0.2.31: 10.20.1.0/24 192.0.2.31/32"));
    EXPECT_THAT(put(kBee, node(kBee, "n2", 4, "192.0.2.12", {"10.20.1.0/24"})),
                ElementsAre("+ 4 bee/n2 at 192.0.2.12: 10.20.1.0/24 192.0.2.12/32",
                            "+ 5 cat/n1 at 192.0.2.31: 192.0.2.31/32"));
    // Without a key of its own, too.
    EXPECT_THAT(put(kBee, node(kBee, "n1", 0, "192.0.2.11", {"10.20.0.0/23"})), IsEmpty());
    EXPECT_THAT(compiler_.conflicts(),
                ElementsAre("10.20.1.0/24 of cat/n1 is not allowed: bee/n2 has it and goes first"));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 0, "192.0.2.11", {"10.20.1.0/24"})),
                ElementsAre("+ 4 bee/n2 at 192.0.2.12: 192.0.2.12/32"));
    erase(kBee, "n1");
    EXPECT_THAT(erase(kBee, "n2"),
                ElementsAre("+ 5 cat/n1 at 192.0.2.31: 10.20.1.0/24 192.0.2.31/32", "- 4"));
}

TEST_F(Encryption, AKeyOfTwoNodesIsThePreferredOnes) {
    put(kCat, node(kCat, "n1", 5, "192.0.2.31", {}));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 5, "192.0.2.11", {})),
                ElementsAre("+ 5 bee/n1 at 192.0.2.11: 192.0.2.11/32"));
    EXPECT_THAT(compiler_.conflicts(),
                ElementsAre("cat/n1 gets no peer: bee/n1 has its key and goes first"));
    EXPECT_THAT(erase(kBee, "n1"), ElementsAre("+ 5 cat/n1 at 192.0.2.31: 192.0.2.31/32"));
    // This node's own key is nobody else's, not even of a node that sorts before it.
    put(kOwn, node(kOwn, "n1", 1, "192.0.2.1", {}));
    EXPECT_THAT(put(kOwn, node(kOwn, "a", 1, "192.0.2.7", {})), IsEmpty());
    EXPECT_THAT(put(kCat, node(kCat, "n1", 1, "192.0.2.31", {})), ElementsAre("- 5"));
}

TEST_F(Encryption, NoRemoteTakesAnythingOfTheOwnCluster) {
    put(kOwn, node(kOwn, "n1", 1, "192.0.2.1", {"10.10.1.0/24"}));
    put(kOwn, node(kOwn, "n2", 0, "192.0.2.2", {"10.10.2.0/24"}));
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3,
                               std::vector<NodeAddress>{{"InternalIP", "192.0.2.11"},
                                                        {"InternalIP", "192.0.2.2"},
                                                        {"CiliumInternalIP", "10.10.1.4"}},
                               {"10.20.1.0/24", "10.10.1.0/24", "10.10.2.128/25", "10.10.0.0/16"})),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 10.20.1.0/24 192.0.2.11/32"));
    EXPECT_THAT(
        compiler_.conflicts(),
        ElementsAre("10.10.0.0/16 of bee/n1 is not allowed: it holds 10.10.1.0/24 of ape/n1",
                    "10.10.1.0/24 of bee/n1 is not allowed: ape/n1 has it and goes first",
                    "10.10.1.4/32 of bee/n1 is not allowed: it lies within 10.10.1.0/24 of "
                    "ape/n1, which goes first",
                    "10.10.2.128/25 of bee/n1 is not allowed: it lies within 10.10.2.0/24 of "
                    "ape/n2, which goes first",
                    "192.0.2.2/32 of bee/n1 is not allowed: ape/n2 has it and goes first"));
    // What the own cluster gives up is free, and taken back when it is announced again.
    EXPECT_THAT(erase(kOwn, "n2"),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 10.10.2.128/25 10.20.1.0/24 192.0.2.2/32 "
                            "192.0.2.11/32"));
    EXPECT_THAT(erase(kOwn, "n1"),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 10.10.0.0/16 10.10.1.0/24 10.10.1.4/32 "
                            "10.10.2.128/25 10.20.1.0/24 192.0.2.2/32 192.0.2.11/32"));
    EXPECT_THAT(put(kOwn, node(kOwn, "n2", 2, "192.0.2.2", {"10.10.2.0/24"})),
                ElementsAre("+ 2 ape/n2 at 192.0.2.2: 10.10.2.0/24 192.0.2.2/32",
                            "+ 3 bee/n1 at 192.0.2.11: 10.10.1.0/24 10.10.1.4/32 10.20.1.0/24 "
                            "192.0.2.11/32"));
    // A remote at the address of a node of ours.
    EXPECT_THAT(put(kCat, node(kCat, "n1", 5, "192.0.2.2", {"10.30.1.0/24"})), IsEmpty());
    EXPECT_THAT(compiler_.conflicts().back(),
                "cat/n1 gets no peer: its address 192.0.2.2 is not allowed: ape/n2 has it and "
                "goes first");
}

// What is refused to one remote keeps nobody else from what lies within it.
TEST_F(Encryption, ARefusedPrefixBlocksNobody) {
    put(kOwn, node(kOwn, "n1", 1, "192.0.2.1", {"10.10.1.0/24"}));
    put(kBee, node(kBee, "n1", 3, "192.0.2.11", {"10.0.0.0/8"}));
    EXPECT_THAT(put(kCat, node(kCat, "n1", 5, "192.0.2.31", {"10.30.1.0/24"})),
                ElementsAre("+ 5 cat/n1 at 192.0.2.31: 10.30.1.0/24 192.0.2.31/32"));
    EXPECT_THAT(erase(kOwn, "n1"), ElementsAre("+ 3 bee/n1 at 192.0.2.11: 10.0.0.0/8 192.0.2.11/32",
                                               "+ 5 cat/n1 at 192.0.2.31: 192.0.2.31/32"));
    EXPECT_THAT(put(kOwn, node(kOwn, "n1", 1, "192.0.2.1", {"10.10.1.0/24"})),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 192.0.2.11/32",
                            "+ 5 cat/n1 at 192.0.2.31: 10.30.1.0/24 192.0.2.31/32"));
}

TEST_F(Encryption, PrefixesWithinEachOtherInOneClusterAreItsOwnMatter) {
    put(kBee, node(kBee, "n1", 3, "192.0.2.11", {"10.20.0.0/16"}));
    EXPECT_THAT(put(kBee, node(kBee, "n2", 4, "192.0.2.12", {"10.20.2.0/24"})),
                ElementsAre("+ 4 bee/n2 at 192.0.2.12: 10.20.2.0/24 192.0.2.12/32"));
    EXPECT_THAT(compiler_.conflicts(), IsEmpty());
}

TEST_F(Encryption, NoPrefixOverlapsSpecialOnes) {
    EXPECT_THAT(put(kBee, node(kBee, "n1", 3, "192.0.2.11",
                               {"0.0.0.0/0", "::/0", "127.0.0.0/16", "224.0.0.0/4"})),
                ElementsAre("+ 3 bee/n1 at 192.0.2.11: 192.0.2.11/32"));
    EXPECT_THAT(compiler_.skipped(),
                ElementsAre("0.0.0.0/0 of bee/n1 is not allowed: it overlaps 0.0.0.0/8",
                            "::/0 of bee/n1 is not allowed: it overlaps ::/127",
                            "127.0.0.0/16 of bee/n1 is not allowed: it overlaps 127.0.0.0/8",
                            "224.0.0.0/4 of bee/n1 is not allowed: it overlaps 224.0.0.0/3"));
}

TEST_F(Encryption, ADrainedClusterLeavesNothing) {
    put(kBee, node(kBee, "n1", 3, "192.0.2.11", {"10.20.1.0/24"}));
    put(kCat, node(kCat, "n1", 5, "192.0.2.31", {"10.20.1.0/25"}));
    tables_.drain("bee", sink());
    EXPECT_THAT(text(compiler_.flush()),
                ElementsAre("+ 5 cat/n1 at 192.0.2.31: 10.20.1.0/25 192.0.2.31/32", "- 3"));
}

std::vector<NodeAddress> random_addresses(Rng& rng) {
    std::vector<NodeAddress> addresses;
    if (rng.below(6) != 0) {
        addresses.push_back({"InternalIP", rng.below(4) == 0
                                               ? "10.0.0." + std::to_string(rng.below(256))
                                               : "192.0.2." + std::to_string(rng.below(12))});
    }
    if (rng.below(3) == 0) addresses.push_back({"InternalIP", "2001:db8::1"});
    if (rng.below(3) == 0) addresses.push_back({"ExternalIP", "198.51.100.1"});
    return addresses;
}
std::vector<std::string> random_cidrs(Rng& rng) {
    std::vector<std::string> texts;
    for (auto left = rng.below(4); left > 0; --left) {
        const auto length = std::to_string(rng.below(2) == 0 ? 24 + rng.below(3) : rng.below(25));
        texts.push_back("10.0." + std::to_string(rng.below(2)) + "." +
                        std::to_string(rng.below(4) * 64) + "/" + length);
        if (rng.below(4) == 0) {
            texts.push_back("fd00::" + std::to_string(rng.below(2)) + "/" +
                            std::to_string(126 + rng.below(3)));
        }
    }
    return texts;
}

using Peers = std::map<WireguardPublicKey, EncryptionPeer>;

// Promises that hold for any set of peers.
void check(const Peers& peers, const ClusterTables& tables) {
    std::map<IpPrefix, WireguardPublicKey> owners;
    for (const auto& entry : peers) {
        const WireguardPublicKey& k = entry.first;
        const EncryptionPeer& peer = entry.second;
        ASSERT_NE(peer.node, (EncryptionNode{kOwn, "n1"}));
        for (const IpPrefix& p : peer.allowed_ips)
            ASSERT_TRUE(owners.emplace(p, k).second) << text(peer);
        if (peer.node.cluster == kOwn) continue;
        tables.for_each_node("ape", [&](const Node& own) {
            for (const IpPrefix& p : peer.allowed_ips) {
                for (const auto& cidr : {own.ipv4_alloc_cidr, own.ipv6_alloc_cidr}) {
                    // 0.0.0.0/n and the like are nobody's, not the own cluster's either.
                    if (!cidr || cidr->contains(IpPrefix(mesh::model::IpAddress::v4(0), 8)) ||
                        !(cidr->contains(p) || p.contains(*cidr))) {
                        continue;
                    }
                    ADD_FAILURE() << text(peer) << " overlaps " << cidr->to_string();
                }
            }
        });
    }
}

// Random nodes of few keys and prefixes: what the flushes add up to is what a compiler that sees
// the nodes for the first time, in another order, wants; and no change is without effect.
TEST_F(Encryption, PeersAddUpToThoseFromScratch) {
    const std::vector<ClusterKey> clusters{kOwn, kBee, kCat};
    for (std::uint64_t seed = 1; seed <= 6; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        Rng rng(seed);
        ClusterTables tables("ape", seed);
        const EncryptionOptions options{.own_cluster = "ape", .own_node = "n1"};
        EncryptionCompiler compiler(options);
        const EffectSink note = [&](const Effect& effect) { compiler.note(effect); };
        Peers added_up;
        for (int step = 0; step < 500; ++step) {
            const ClusterKey& cluster = clusters[rng.below(3)];
            const std::string name = "n" + std::to_string(1 + rng.below(3));
            const auto kind = rng.below(10);
            if (kind == 0) {
                tables.drain(cluster.name, note);
            } else if (kind < 4) {
                tables.apply({cluster, {NodeDelete{name}}}, note);
            } else {
                const Node n = node(cluster, name, static_cast<int>(rng.below(8)),
                                    random_addresses(rng), random_cidrs(rng));
                tables.apply({cluster, {NodeUpsert{n}}}, note);
            }
            if (rng.below(3) == 0) continue;
            const EncryptionChanges changes = compiler.flush();
            for (const auto& k : changes.removed) ASSERT_EQ(added_up.erase(k), 1U);
            for (const auto& peer : changes.upserts) {
                const auto held = added_up.find(peer.public_key);
                ASSERT_TRUE(held == added_up.end() || held->second != peer) << text(peer);
                added_up.insert_or_assign(peer.public_key, peer);
            }
            EncryptionCompiler scratch(options);
            for (std::size_t i = clusters.size(); i > 0; --i) {
                tables.for_each_node(clusters[i - 1].name, [&](const Node& n) {
                    scratch.note({clusters[i - 1], Changed<Node>{nullptr, &n}});
                });
            }
            Peers expected;
            for (const auto& peer : scratch.flush().upserts)
                expected.emplace(peer.public_key, peer);
            ASSERT_EQ(added_up, expected) << "step " << step;
            ASSERT_EQ(compiler.conflicts(), scratch.conflicts());
            ASSERT_EQ(compiler.skipped(), scratch.skipped());
            ASSERT_EQ(compiler.without_key(), scratch.without_key());
            ASSERT_NO_FATAL_FAILURE(check(added_up, tables)) << "step " << step;
        }
    }
}

}  // namespace
