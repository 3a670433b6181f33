// The property of the compiler: after any sequence of changes, what its flushes add up to is what
// the rules say of the tables as they are. The rules are written down here a second time, slowly
// and without an index. MESH_TEST_SEED=<n> runs one seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compile/ipcache/ipcache_compiler.hpp"
#include "objects.hpp"
#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace mesh::compile::testing {
namespace {

using namespace mesh::state;
using mesh::Rng;
using mesh::model::ClusterId;
using mesh::model::IdentityId;
using mesh::model::IpAddress;
using mesh::model::IpIdentityPair;
using mesh::model::IpPrefix;
using mesh::model::Node;

const IpcacheOptions kOptions{.own_cluster = "ape", .own_node = "n1"};

// ---- the rules, from scratch ----

bool usable(const IpAddress& a) {
    for (const auto* text : {"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127",
                             "fe80::/10", "ff00::/8"}) {
        if (prefix(text).contains(a)) return false;
    }
    return true;
}
bool usable(const IpPrefix& p) {
    for (const auto* text : {"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127",
                             "fe80::/10", "ff00::/8"}) {
        if (prefix(text).contains(p) || p.contains(prefix(text))) return false;
    }
    return true;
}

std::string conflict_text(const IpPrefix& p, const IpcacheClaim* winner,
                          const std::vector<IpcacheClaim>& losers) {
    const auto claim = [](const IpcacheClaim& c) {
        static constexpr const char* kSources[] = {" node ", " ip ", " cidr "};
        return c.cluster.name + std::to_string(model::number(c.cluster.id)) +
               kSources[static_cast<std::size_t>(c.source)] + c.node;
    };
    std::string line = p.to_string() + " to " + (winner != nullptr ? claim(*winner) : "nobody");
    for (const IpcacheClaim& loser : losers) line += " not to " + claim(loser);
    return line;
}

struct Reference {
    struct Row {
        IpcacheRow row;
        bool peer = false;
        bool suppressed = false;
        IpcacheClaim claim;
    };
    struct Cidr {
        IpPrefix prefix;
        std::size_t rank = 0;
    };
    struct Underlay {
        IpAddress address;
        std::size_t rank = 0;
    };

    std::vector<Cidr> cidrs;  ///< that take part
    std::vector<Underlay> underlay;
    std::set<IpAddress> own;           ///< of this node
    std::vector<IpAddress> own_nodes;  ///< of the nodes of the own cluster, usable or not
    std::map<IpPrefix, std::vector<Row>> claims;  ///< best first

    std::map<IpPrefix, IpcacheRow> rows;
    std::map<IpAddress, ClusterId> peers;
    std::vector<std::string> conflicts;

    Reference(const ClusterTables& tables, const std::map<IpPrefix, IdentityId>& locals) {
        const auto clusters = tables.clusters();
        for (std::size_t rank = 0; rank < clusters.size(); ++rank) {
            tables.for_each_node(clusters[rank].name, [&](const Node& n) { addresses(n, rank); });
        }
        for (std::size_t rank = 0; rank < clusters.size(); ++rank) {
            tables.for_each_node(clusters[rank].name, [&](const Node& n) { take_part(n, rank); });
        }
        RouteTable routes({.own_cluster = "ape", .own_node = "n1"});
        for (const ClusterKey& cluster : clusters) {
            tables.for_each_node(cluster.name, [&](const Node& n) {
                routes.note({cluster, Changed<Node>{nullptr, &n}});
            });
        }
        const RouteChanges all_routes = routes.flush();
        for (std::size_t rank = 0; rank < clusters.size(); ++rank) {
            claim(tables, clusters[rank], rank, all_routes);
        }
        settle();
        add_locals(locals);
    }

    static std::vector<IpAddress> of_type(const Node& n, std::string_view type) {
        std::vector<IpAddress> found;
        for (const auto& a : *n.addresses) {
            const auto parsed = IpAddress::parse(a.ip);
            if (a.type == type && parsed && usable(*parsed)) found.push_back(*parsed);
        }
        return found;
    }
    void addresses(const Node& n, std::size_t rank) {
        for (const auto& a : *n.addresses) {
            const auto parsed = IpAddress::parse(a.ip);
            const bool counts = a.type == "InternalIP" || a.type == "ExternalIP";
            if (n.cluster == "ape" && counts && parsed) own_nodes.push_back(*parsed);
        }
        for (const auto* type : {"InternalIP", "ExternalIP", "CiliumInternalIP"}) {
            for (const IpAddress& a : of_type(n, type)) {
                if (n.cluster == "ape" && n.name == "n1") own.insert(a);
                if (std::string_view(type) != "CiliumInternalIP") underlay.push_back({a, rank});
            }
        }
    }
    static std::vector<IpPrefix> cidrs_of(const Node& n) {
        std::vector<IpPrefix> found;
        if (n.ipv4_alloc_cidr) found.push_back(*n.ipv4_alloc_cidr);
        if (n.ipv6_alloc_cidr) found.push_back(*n.ipv6_alloc_cidr);
        for (const auto* more : {&n.ipv4_secondary_alloc_cidrs, &n.ipv6_secondary_alloc_cidrs}) {
            if (*more) found.insert(found.end(), (*more)->begin(), (*more)->end());
        }
        return found;
    }
    static std::optional<IpAddress> gateway(const Node& n, bool v4) {
        for (const auto* type : {"InternalIP", "ExternalIP"}) {
            for (const IpAddress& a : of_type(n, type)) {
                if (a.is_v4() == v4) return a;
            }
        }
        return std::nullopt;
    }
    void take_part(const Node& n, std::size_t rank) {
        for (const IpPrefix& cidr : cidrs_of(n)) {
            bool takes_part = true;
            if (n.cluster != "ape") {
                const auto via = gateway(n, cidr.is_v4());
                takes_part = usable(cidr) && via && !cidr.contains(*via);
                // Own nodes' addresses, whether a pod could have them or not.
                for (const auto& u : own_nodes) takes_part = takes_part && !cidr.contains(u);
            }
            if (takes_part) cidrs.push_back({cidr, rank});
        }
    }

    bool suppressed(const IpPrefix& p, std::size_t rank) const {
        for (const Cidr& c : cidrs) {
            if (c.rank < rank && c.prefix.contains(p)) return true;
        }
        for (const Underlay& u : underlay) {
            if (!p.is_host() && u.rank < rank && p.contains(u.address)) return true;
        }
        return false;
    }
    std::optional<IpAddress> tunnel(const std::optional<IpAddress>& to) const {
        if (!to || !usable(*to) || own.contains(*to)) return std::nullopt;
        return to;
    }

    void claim(const ClusterTables& tables, const ClusterKey& cluster, std::size_t rank,
               const RouteChanges& routes) {
        const bool is_own = cluster.name == "ape";
        std::map<IpPrefix, std::vector<Row>> nodes;
        struct Kind {
            const char* type;
            std::uint32_t identity;
            bool node, peer, inside;
        };
        static constexpr Kind kKinds[] = {{"InternalIP", 6, true, true, false},
                                          {"ExternalIP", 6, true, true, false},
                                          {"CiliumInternalIP", 6, true, false, true},
                                          {"health", 4, false, false, true},
                                          {"ingress", 8, false, false, true}};
        for (const Kind& kind : kKinds) {
            tables.for_each_node(cluster.name, [&](const Node& n) {
                std::vector<IpAddress> found = of_type(n, kind.type);
                const auto add = [&](const char* which, const std::optional<IpAddress>& a) {
                    if (std::string_view(kind.type) == which && a && usable(*a))
                        found.push_back(*a);
                };
                add("health", n.ipv4_health_ip);
                add("health", n.ipv6_health_ip);
                add("ingress", n.ipv4_ingress_ip);
                add("ingress", n.ipv6_ingress_ip);
                const bool here = is_own && n.name == "n1";
                for (const IpAddress& a : found) {
                    const IpPrefix p(a, 128);
                    if (nodes.contains(p)) continue;  // an earlier kind, or node
                    Row r;
                    r.row = {.prefix = p,
                             .identity = IdentityId{here && kind.node ? 1 : kind.identity},
                             .cluster = cluster.id,
                             .encryption_key = n.encryption_key,
                             .is_node = kind.node};
                    if (kind.inside && !here) {
                        auto via = gateway(n, true);
                        if (!via) via = gateway(n, false);
                        r.row.tunnel = tunnel(via);
                    }
                    r.peer = kind.peer;
                    r.suppressed = suppressed(p, rank);
                    r.claim = {cluster, IpcacheSource::kNode, n.name};
                    nodes[p].push_back(r);
                }
            });
        }
        for (auto& [p, list] : nodes) claims[p].push_back(list.front());
        tables.for_each_ip(cluster.name, [&](const IpIdentityPair& pair) {
            const IpPrefix p(pair.ip, pair.prefix_length.value_or(128));
            if (!usable(p)) return;
            const bool here = is_own && pair.host_ip && own.contains(*pair.host_ip);
            Row r;
            r.row = {.prefix = p,
                     .identity = pair.id == IdentityId{1} && !here ? IdentityId{6} : pair.id,
                     .cluster = cluster.id,
                     .tunnel = tunnel(pair.host_ip),
                     .encryption_key = pair.key};
            r.suppressed = suppressed(p, rank);
            r.claim = {cluster, IpcacheSource::kIp, ""};
            claims[p].push_back(r);
        });
        for (const Route& route : routes.upserts) {
            if (route.node.cluster != cluster) continue;
            Row r;
            r.row = {
                .prefix = route.prefix,
                .identity = IdentityId{2},
                .cluster = cluster.id,
                .tunnel = tunnel(route.gateway),
                .encryption_key = tables.find_node(cluster.name, route.node.name)->encryption_key,
                .is_cidr = true};
            r.claim = {cluster, IpcacheSource::kCidr, route.node.name};
            claims[route.prefix].push_back(r);
        }
    }

    void settle() {
        for (const auto& [p, list] : claims) {
            const Row* winner = nullptr;
            for (const Row& r : list) {
                if (winner == nullptr && !r.suppressed) winner = &r;
            }
            if (winner != nullptr) {
                rows.emplace(p, winner->row);
                if (winner->peer) peers.emplace(p.address(), winner->row.cluster);
            }
            std::vector<IpcacheClaim> lost;
            for (const Row& r : list) {
                const bool other = winner != nullptr && r.claim.cluster != winner->claim.cluster;
                if (r.suppressed || other) lost.push_back(r.claim);
            }
            if (lost.empty()) continue;
            conflicts.push_back(
                conflict_text(p, winner != nullptr ? &winner->claim : nullptr, lost));
        }
        std::ranges::sort(conflicts);
    }

    void add_locals(const std::map<IpPrefix, IdentityId>& locals) {
        const std::map<IpPrefix, IpcacheRow> mesh = rows;
        for (const auto& [p, identity] : locals) {
            if (mesh.contains(p)) continue;
            IpcacheRow row;
            int narrowest = -1;
            for (const auto& [around, its] : mesh) {
                if (!around.contains(p) || around.length() <= narrowest) continue;
                narrowest = around.length();
                row = its;
            }
            row.prefix = p;
            row.identity = identity;
            rows.emplace(p, row);
        }
    }
};

// ---- random changes ----

class Changes {
  public:
    explicit Changes(std::uint64_t seed) : rng_(seed) {}

    bool chance(std::uint64_t one_in) { return rng_.below(one_in) == 0; }
    std::uint64_t below(std::uint64_t bound) { return rng_.below(bound); }

    /// Few addresses, so that pods, nodes and clusters meet all the time.
    std::string address() {
        if (chance(12)) {
            static constexpr const char* kUnusable[] = {"127.0.0.1", "0.0.0.0", "::1",
                                                        "fe80::1",   "ff02::1", "169.254.1.1"};
            return kUnusable[below(6)];
        }
        if (chance(4)) return "fd00::" + std::to_string(below(2)) + ":" + std::to_string(below(6));
        return "10.0." + std::to_string(below(2)) + "." + std::to_string(below(8) * 16 % 120);
    }
    std::string outer_address() {
        if (chance(3)) return address();
        if (chance(5)) return "2001:db8::" + std::to_string(below(4));
        return "192.0.2." + std::to_string(below(6));
    }
    std::string wide() {
        const std::string a = chance(5) ? outer_address() : address();
        const IpPrefix host = prefix(a);
        const auto bits = chance(3) ? below(host.length() + 1U)
                                    : host.length() - std::min<std::uint64_t>(below(10), 9);
        return IpPrefix(host.address(), static_cast<std::uint8_t>(bits)).to_string();
    }
    std::string name() { return "n" + std::to_string(1 + below(3)); }

    Node random_node(const ClusterKey& cluster, std::string name) {
        static constexpr const char* kTypes[] = {"InternalIP", "ExternalIP", "CiliumInternalIP",
                                                 "Hostname"};
        std::vector<model::NodeAddress> addresses;
        for (auto left = below(4); left > 0; --left) {
            const char* type = kTypes[chance(2) ? 0 : below(4)];
            addresses.push_back({type, chance(15) ? "" : outer_address()});
        }
        std::vector<std::string> cidrs;
        static constexpr const char* kCidrs[] = {"10.0.0.0/25", "10.0.1.0/25", "10.0.0.0/16",
                                                 "fd00::/100"};
        for (auto left = below(3); left > 0; --left) {
            cidrs.push_back(chance(2) ? wide() : kCidrs[below(4)]);
        }
        Node n = node(cluster, std::move(name), addresses, cidrs);
        if (chance(3)) n.ipv4_health_ip = *IpAddress::parse("10.0.0." + std::to_string(below(99)));
        if (chance(3)) n.ipv6_ingress_ip = *IpAddress::parse(address());
        n.encryption_key = static_cast<std::uint8_t>(below(2));
        return n;
    }
    IpIdentityPair random_pair() {
        IpIdentityPair p = pair(chance(4) ? wide() : address(), chance(8) ? "" : outer_address(),
                                chance(4) ? 1 : 1000 + static_cast<std::uint32_t>(below(3)));
        p.key = static_cast<std::uint8_t>(below(2));
        if (chance(3)) p.k8s_pod_name = "pod-" + std::to_string(below(3));
        return p;
    }

  private:
    Rng rng_;
};

class Incremental {
  public:
    explicit Incremental(std::uint64_t seed) : changes_(seed), tables_("ape", seed) {}

    void run(int steps) {
        for (int step = 0; step < steps; ++step) {
            change();
            if (!changes_.chance(3)) continue;
            // A part now, more changes, the rest later.
            ipcache_.note_routes(routes_.flush());
            if (changes_.chance(2)) {
                add_up(ipcache_.flush(changes_.below(6)));
                continue;
            }
            do {
                add_up(ipcache_.flush(1 + changes_.below(50)));
            } while (ipcache_.pending());
            compare();
            if (::testing::Test::HasFatalFailure()) {
                FAIL() << "step " << step;
            }
        }
    }

  private:
    void change() {
        if (changes_.chance(6)) {
            const IpPrefix where =
                prefix(changes_.chance(2) ? changes_.wide() : changes_.address());
            if (changes_.chance(3)) {
                locals_.erase(where);
                ipcache_.note_local(where, std::nullopt);
            } else {
                const IdentityId id{0x01000001U + static_cast<std::uint32_t>(changes_.below(3))};
                locals_.insert_or_assign(where, id);
                ipcache_.note_local(where, id);
            }
            return;
        }
        ClusterKey cluster = clusters_[changes_.below(3)];
        const auto kind = changes_.below(200);
        if (kind == 0) {
            tables_.drain(cluster.name, sink());
        } else if (kind == 1) {
            tables_.drain(cluster.name, sink(), {Kind::kIp});
        } else if (kind == 2) {
            // Another id, and with it another place in the order.
            auto& moved = clusters_[1 + changes_.below(2)];
            moved.id = ClusterId{(moved.name == "bee" ? 2U : 3U) +
                                 3U * static_cast<std::uint32_t>(changes_.below(2))};
            tables_.apply({moved, {IpUpsert{changes_.random_pair()}}}, sink());
        } else if (kind < 10) {
            if (auto n = tables_.find_node(cluster.name, changes_.name())) {
                n->encryption_key ^= 1U;
                tables_.apply({cluster, {NodeUpsert{*n}}}, sink());
            }
        } else if (kind < 40) {
            const std::string name = changes_.name();
            tables_.apply({cluster, {NodeUpsert{changes_.random_node(cluster, name)}}}, sink());
        } else if (kind < 60) {
            tables_.apply({cluster, {NodeDelete{changes_.name()}}}, sink());
        } else if (kind < 130) {
            tables_.apply({cluster, {IpUpsert{changes_.random_pair()}}}, sink());
        } else {
            const std::string where = changes_.chance(4) ? changes_.wide() : changes_.address();
            tables_.apply({cluster, {IpDelete{prefix(where)}}}, sink());
        }
    }
    EffectSink sink() {
        return [this](const Effect& effect) {
            routes_.note(effect);
            ipcache_.note(effect);
        };
    }
    void add_up(const IpcacheChanges& changes) {
        for (const IpPrefix& p : changes.removed) ASSERT_EQ(rows_.erase(p), 1U) << p.to_string();
        for (const IpcacheRow& row : changes.upserts) rows_.insert_or_assign(row.prefix, row);
        for (const IpAddress& a : changes.nodes_removed) ASSERT_EQ(peers_.erase(a), 1U);
        for (const TunnelPeer& peer : changes.nodes_upserts) {
            const auto held = peers_.find(peer.address);
            ASSERT_TRUE(held == peers_.end() || held->second != peer.cluster);
            peers_.insert_or_assign(peer.address, peer.cluster);
        }
    }
    void compare() {
        const Reference expected(tables_, locals_);
        std::string got, wanted;
        for (const auto& [p, row] : rows_) got += text(row) + "\n";
        for (const auto& [p, row] : expected.rows) wanted += text(row) + "\n";
        ASSERT_EQ(got, wanted);
        ASSERT_EQ(peers_, expected.peers);
        std::vector<std::string> conflicts;
        for (const IpcacheConflict& c : ipcache_.conflicts(100'000)) {
            conflicts.push_back(conflict_text(c.prefix, c.winner ? &*c.winner : nullptr, c.losers));
        }
        std::ranges::sort(conflicts);
        ASSERT_EQ(conflicts.size(), ipcache_.conflict_count());
        ASSERT_EQ(conflicts, expected.conflicts);
    }

    Changes changes_;
    std::vector<ClusterKey> clusters_{kOwn, kBee, kCat};
    ClusterTables tables_;
    RouteTable routes_{{.own_cluster = "ape", .own_node = "n1"}};
    IpcacheCompiler ipcache_{tables_, routes_, kOptions};
    std::map<IpPrefix, IdentityId> locals_;
    std::map<IpPrefix, IpcacheRow> rows_;
    std::map<IpAddress, ClusterId> peers_;
};

TEST(IpcacheIncremental, AddsUpToTheRulesFromScratch) {
    const char* only = std::getenv("MESH_TEST_SEED");
    const std::uint64_t first = only != nullptr ? std::strtoull(only, nullptr, 10) : 1;
    const std::uint64_t last = only != nullptr ? first : 12;
    for (std::uint64_t seed = first; seed <= last; ++seed) {
        SCOPED_TRACE(::testing::Message() << "MESH_TEST_SEED=" << seed);
        Incremental(seed).run(600);
        if (::testing::Test::HasFatalFailure()) return;
    }
}

}  // namespace
}  // namespace mesh::compile::testing
