#include "state/tables/cluster_tables.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/clock.hpp"

namespace {

using namespace mesh::state;
using mesh::Rng;
using mesh::model::ClusterId;
using mesh::model::IdentityId;
using mesh::model::IpAddress;
using mesh::model::IpIdentityPair;
using mesh::model::IpPrefix;
using mesh::model::Node;
using mesh::model::Service;
using mesh::model::StringMap;
namespace model = mesh::model;
using testing::ElementsAre;
using testing::IsEmpty;

const ClusterKey kOwn{"ape", ClusterId{1}};
const ClusterKey kBee{"bee", ClusterId{2}};
const ClusterKey kCat{"cat", ClusterId{3}};

IpAddress ip(const char* text) {
    return *IpAddress::parse(text);
}
IpPrefix prefix(const char* text) {
    return *IpPrefix::parse(text);
}

/// An effect as text, e.g. "bee +service shop/cart"; "*" for a change, "-" for a delete.
struct Recorder {
    std::vector<std::string> lines;
    EffectSink sink() {
        return [this](const Effect& effect) { lines.push_back(text(effect)); };
    }
    static std::string name(const Node& v) { return "node " + v.name; }
    static std::string name(const Service& v) {
        return "service " + v.namespace_.str() + "/" + v.name.str();
    }
    static std::string name(const IpIdentityPair& v) { return "ip " + v.ip.to_string(); }
    static std::string name(const model::Identity& v) {
        return "identity " + std::to_string(model::number(v.id));
    }
    static std::string name(const model::ServiceExport& v) {
        return "export " + v.namespace_.str() + "/" + v.name.str();
    }
    static std::string name(const model::LocalService& v) {
        return "local " + v.namespace_.str() + "/" + v.name.str();
    }
    static std::string name(const model::LocalIp& v) { return "local " + name(v.pair); }
    static std::string name(const model::PolicyRecord& v) { return "policy " + v.key.name; }
    static std::string text(const Effect& effect) {
        return effect.cluster.name + " " +
               std::visit(
                   [](const auto& c) {
                       const auto& object = c.after != nullptr ? *c.after : *c.before;
                       return (c.before == nullptr  ? "+"
                               : c.after == nullptr ? "-"
                                                    : "*") +
                              name(object);
                   },
                   effect.change);
    }
};

Node full_node() {
    Node node;
    node.name = "n1";
    node.cluster = "bee";
    node.addresses = {
        {{"InternalIP", "192.0.2.1"}, {"Hostname", "n1.example"}, {"ExternalIP", ""}}};
    node.ipv4_alloc_cidr = prefix("10.20.1.0/24");
    node.ipv4_secondary_alloc_cidrs = {{prefix("10.21.0.0/24"), prefix("10.22.0.0/24")}};
    node.ipv6_alloc_cidr = prefix("fd00:20::/64");
    node.ipv6_secondary_alloc_cidrs.emplace();
    node.ipv4_health_ip = ip("10.20.1.7");
    node.ipv6_ingress_ip = ip("fd00:20::7");
    node.cluster_id = ClusterId{511};
    node.source = "custom-resource";
    node.encryption_key = 255;
    node.labels = StringMap{{"zone", "z1"}, {"empty", ""}};
    node.annotations.emplace();
    node.node_identity = IdentityId{0xffffffff};
    node.wireguard_public_key = "key=";
    node.boot_id = "boot";
    node.unusual_cidrs = {{.field = model::NodeCidrField::kIpv6Secondary,
                           .index = 3,
                           .usable = true,
                           .is_null = true,
                           .is_empty = true,
                           .ip = ip("10.0.0.1"),
                           .mask = std::string("\xff\0\xff", 3)}};
    return node;
}

Service full_service() {
    Service service;
    service.cluster = "bee";
    service.namespace_ = "shop";
    service.name = "cart";
    service.frontends = {{ip("10.96.0.1"), {{"http", "TCP", 80}, {"", "weird", 65535}}, ""},
                         {ip("fd00::1"), model::SharedList<model::ServicePort>::null(), ""}};
    service.backends = {{ip("10.20.1.1"), {{"http", "TCP", 8080}}, ""},
                        {ip("10.20.1.2"), {{"http", "TCP", 8080}}, ""},
                        {ip("fe80::1"), {{"http", "TCP", 8081}}, "fe80::1%eth0"},
                        {ip("10.20.1.3"), {}, ""}};
    service.hostnames = StringMap{{"10.20.1.1", "cart-0"}};
    service.zones["10.20.1.1"] = {"z1", {"z1", "z2"}};
    service.zones["10.20.1.2"] = {"", model::SharedList<model::Text>::null()};
    service.labels = StringMap{{"app", "cart"}, {"a-long-label-key", "a long label value"}};
    service.include_external = true;
    service.frontends_null = true;
    service.backends_null = true;
    service.cluster_id = ClusterId{2};
    return service;
}

IpIdentityPair full_pair() {
    IpIdentityPair pair;
    pair.ip = ip("10.20.1.77");
    pair.prefix_length = std::uint8_t{24};
    pair.host_ip = ip("192.0.2.1");
    pair.key = 3;
    pair.id = IdentityId{131073};
    pair.metadata = "cilium-global:default:n1:17";
    pair.k8s_namespace = "shop";
    pair.k8s_pod_name = "cart-76cf5d8b4d-abcde";
    pair.k8s_service_account = "cart";
    pair.named_ports = {{"http", "TCP", 8080}};
    return pair;
}

model::ServiceExport full_export() {
    model::ServiceExport e;
    e.cluster = "bee";
    e.namespace_ = "shop";
    e.name = "cart";
    e.annotations = StringMap{{"a", "b"}};
    e.labels = StringMap{{"c", "d"}};
    e.creation_timestamp = "2025-03-04T05:06:07Z";
    e.ports = {{"http", "TCP", "h2c", -1}, {"", "", "", 80}};
    e.type = "ClusterSetIP";
    e.session_affinity = "ClientIP";
    e.session_affinity_timeout = 10800;
    e.ip_families = {"IPv4", "IPv6"};
    e.internal_traffic_policy = "Local";
    e.traffic_distribution = "PreferClose";
    return e;
}

model::LocalService full_local() {
    model::LocalService s;
    s.namespace_ = "shop";
    s.name = "cart";
    s.type = "LoadBalancer";
    s.headless = true;
    s.cluster_ips = {ip("10.96.0.1"), ip("fd00::1")};
    s.external_ips = {ip("192.0.2.1"), ip("fd00::2")};
    s.load_balancer_ips = {ip("192.0.2.2")};
    s.ports = {{"http", "TCP", 80, 30080}, {"https", "TCP", 443}};
    model::LocalBackend b;
    b.address = ip("10.10.1.1");
    b.ports = {{"http", "TCP", 8080}};
    b.node = "n1";
    b.zone = "z1";
    b.hostname = "cart-0";
    b.state = model::BackendState::kMaintenance;
    b.for_zones = {"z1", "z2"};
    b.weight = 65535;
    s.backends = {b, b};
    s.global = s.shared = true;
    s.affinity = model::Affinity::kRemote;
    s.client_ip_affinity_seconds = 10800;
    s.internal_traffic_local = true;
    s.labels = StringMap{{"app", "cart"}};
    s.selector.emplace();
    s.annotations = StringMap{{"note", "x"}};
    return s;
}

TEST(ClusterTables, GivesBackEveryFieldOfEveryKind) {
    ClusterTables tables("bee", 1);
    Recorder recorder;
    model::Identity identity{IdentityId{131073}, {{"k8s", "app", "cart"}, {"reserved", "x", ""}}};
    const auto counts = tables.apply(
        {kBee,
         {NodeUpsert{full_node()}, ServiceUpsert{full_service()}, IpUpsert{full_pair()},
          IdentityUpsert{identity}, ExportUpsert{full_export()}, LocalServiceUpsert{full_local()}}},
        recorder.sink());
    EXPECT_EQ(counts, (ApplyCounts{.effective = 6, .unchanged = 0, .refused = 0}));
    EXPECT_EQ(tables.find_node("bee", "n1"), full_node());
    EXPECT_EQ(tables.find_service("bee", {"shop", "cart"}), full_service());
    EXPECT_EQ(tables.find_ip("bee", prefix("10.20.1.0/24")), full_pair());
    EXPECT_EQ(tables.find_identity("bee", identity.id), identity);
    EXPECT_EQ(tables.find_export("bee", {"shop", "cart"}), full_export());
    EXPECT_EQ(tables.find_local_service({"shop", "cart"}), full_local());
    EXPECT_THAT(recorder.lines, ElementsAre("bee +node n1", "bee +service shop/cart",
                                            "bee +ip 10.20.1.77", "bee +identity 131073",
                                            "bee +export shop/cart", "bee +local shop/cart"));

    // The same again has no effect, and leaves no strings behind.
    const std::size_t strings = tables.shared_strings();
    const auto again = tables.apply(
        {kBee,
         {NodeUpsert{full_node()}, ServiceUpsert{full_service()}, IpUpsert{full_pair()},
          IdentityUpsert{identity}, ExportUpsert{full_export()}, LocalServiceUpsert{full_local()}}},
        recorder.sink());
    EXPECT_EQ(again, (ApplyCounts{.effective = 0, .unchanged = 6, .refused = 0}));
    EXPECT_EQ(recorder.lines.size(), 6U);
    EXPECT_EQ(tables.shared_strings(), strings);

    const auto deleted =
        tables.apply({kBee,
                      {NodeDelete{"n1"}, ServiceDelete{{"shop", "cart"}},
                       IpDelete{prefix("10.20.1.0/24")}, IdentityDelete{identity.id},
                       ExportDelete{{"shop", "cart"}}, LocalServiceDelete{{"shop", "cart"}}}},
                     recorder.sink());
    EXPECT_EQ(deleted.effective, 6U);
    EXPECT_EQ(recorder.lines.back(), "bee -local shop/cart");
    EXPECT_EQ(tables.shared_strings(), 0U);
    for (const KindStats& stats : tables.stats("bee")) EXPECT_EQ(stats.count, 0U);
}

// One field at a time: each must make a difference, or an update would be lost as "no change".
TEST(ClusterTables, NoticesAChangeOfAnyField) {
    std::vector<Service> variants(15, full_service());
    variants[0].frontends[0].ports = {{"http", "TCP", 81}};
    variants[1].frontends[1].ports = {};
    variants[2].backends[2].spelling = "";
    variants[3].backends.pop_back();
    variants[4].hostnames.clear();
    variants[5].zones["10.20.1.1"].zone = "z2";
    variants[6].zones["10.20.1.2"].for_zones = {};
    variants[7].labels.reset();
    variants[8].selector.emplace();
    variants[9].include_external = false;
    variants[10].shared = true;
    variants[11].frontends_null = false;
    variants[12].backends_null = false;
    variants[13].cluster_id = ClusterId{3};
    variants[14].cluster = "cat";
    for (std::size_t i = 0; i < variants.size(); ++i) {
        ClusterTables tables("ape", 1);
        std::vector<std::pair<Service, Service>> seen;
        const EffectSink sink = [&](const Effect& effect) {
            const auto& change = std::get<Changed<Service>>(effect.change);
            if (change.before != nullptr) seen.emplace_back(*change.before, *change.after);
        };
        tables.apply({kBee, {ServiceUpsert{full_service()}, ServiceUpsert{variants[i]}}}, sink);
        EXPECT_THAT(seen, ElementsAre(std::pair(full_service(), variants[i]))) << i;
    }
}

TEST(ClusterTables, KeepsClustersApart) {
    ClusterTables tables("ape", 1);
    Recorder recorder;
    IpIdentityPair pair = full_pair();
    tables.apply({kBee, {IpUpsert{pair}, ServiceUpsert{full_service()}}}, recorder.sink());
    pair.id = IdentityId{7};
    tables.apply({kCat, {IpUpsert{pair}}}, recorder.sink());
    tables.apply({kCat, {ServiceDelete{{"shop", "cart"}}, IpDelete{prefix("10.20.1.0/24")}}},
                 recorder.sink());
    EXPECT_THAT(recorder.lines, ElementsAre("bee +ip 10.20.1.77", "bee +service shop/cart",
                                            "cat +ip 10.20.1.77", "cat -ip 10.20.1.77"));
    EXPECT_EQ(tables.find_ip("bee", prefix("10.20.1.0/24")), full_pair());
    EXPECT_TRUE(tables.find_service("bee", {"shop", "cart"}));
    EXPECT_FALSE(tables.find_service("dog", {"shop", "cart"}));
}

TEST(ClusterTables, RefusesLocalServicesOfARemote) {
    ClusterTables tables("ape", 1);
    Recorder recorder;
    const auto counts = tables.apply(
        {kBee, {LocalServiceUpsert{full_local()}, LocalServiceDelete{{"shop", "cart"}}}},
        recorder.sink());
    EXPECT_EQ(counts, (ApplyCounts{.effective = 0, .unchanged = 0, .refused = 2}));
    EXPECT_THAT(recorder.lines, IsEmpty());
    EXPECT_FALSE(tables.find_local_service({"shop", "cart"}));
}

TEST(ClusterTables, DrainsInOrderAndForgetsTheCluster) {
    ClusterTables tables("ape", 1);
    Recorder recorder;
    Service other = full_service();
    other.name = "basket";
    tables.apply({kBee,
                  {IpUpsert{full_pair()}, ServiceUpsert{full_service()}, ServiceUpsert{other},
                   NodeUpsert{full_node()}, ExportUpsert{full_export()}}},
                 recorder.sink());
    tables.apply({kCat, {NodeUpsert{full_node()}}}, recorder.sink());
    recorder.lines.clear();
    // What a remote lost for too long gives up: services and exports (protocol.md §8).
    EXPECT_EQ(tables.drain("bee", recorder.sink(), {Kind::kService, Kind::kExport}), 3U);
    EXPECT_THAT(recorder.lines, ElementsAre("bee -service shop/basket", "bee -service shop/cart",
                                            "bee -export shop/cart"));
    EXPECT_EQ(tables.clusters(), (std::vector{kBee, kCat}));
    recorder.lines.clear();
    EXPECT_EQ(tables.drain("bee", recorder.sink()), 2U);
    EXPECT_THAT(recorder.lines, ElementsAre("bee -node n1", "bee -ip 10.20.1.77"));
    EXPECT_EQ(tables.clusters(), std::vector{kCat});
    EXPECT_EQ(tables.drain("bee", recorder.sink()), 0U);
    EXPECT_FALSE(tables.lookup(ip("10.20.1.1")));
}

TEST(ClusterTables, AChangedIdDrainsFirstUnderTheOldOne) {
    ClusterTables tables("ape", 1);
    std::vector<std::pair<ClusterId, bool>> seen;
    const EffectSink sink = [&](const Effect& effect) {
        seen.emplace_back(effect.cluster.id,
                          std::get<Changed<Node>>(effect.change).after != nullptr);
    };
    tables.apply({kBee, {NodeUpsert{full_node()}}}, sink);
    tables.apply({{"bee", ClusterId{9}}, {NodeUpsert{full_node()}}}, sink);
    EXPECT_THAT(seen, ElementsAre(std::pair(ClusterId{2}, true), std::pair(ClusterId{2}, false),
                                  std::pair(ClusterId{9}, true)));
    EXPECT_THAT(tables.clusters(), ElementsAre(ClusterKey{"bee", ClusterId{9}}));
}

TEST(ClusterTables, ListsClustersByPreference) {
    ClusterTables tables("zebra", 1);
    const auto sink = [](const Effect&) {};
    tables.apply({kCat, {}}, sink);
    tables.apply({{"b2", ClusterId{2}}, {}}, sink);
    tables.apply({{"zebra", ClusterId{200}}, {}}, sink);
    tables.apply({{"b1", ClusterId{2}}, {}}, sink);
    std::vector<std::string> names;
    for (const ClusterKey& key : tables.clusters()) names.push_back(key.name);
    EXPECT_THAT(names, ElementsAre("zebra", "b1", "b2", "cat"));
}

TEST(ClusterTables, LooksUpTheLongestPrefixThenThePreferredCluster) {
    ClusterTables tables("ape", 1);
    const auto sink = [](const Effect&) {};
    const auto entry = [](const char* text, std::uint32_t id) {
        const IpPrefix p = prefix(text);
        IpIdentityPair pair;
        pair.ip = p.address();
        if (!p.is_host()) pair.prefix_length = p.length();
        pair.id = IdentityId{id};
        return IpUpsert{pair};
    };
    tables.apply({kCat,
                  {entry("10.0.0.0/8", 31), entry("10.1.1.1", 32), entry("10.1.2.0/24", 33),
                   entry("::/0", 34)}},
                 sink);
    tables.apply({kBee, {entry("10.1.0.0/16", 21), entry("10.1.1.1", 22), entry("fd00::1", 23)}},
                 sink);
    const auto found = [&](const char* text) {
        const auto match = tables.lookup(ip(text));
        return match ? static_cast<int>(model::number(match->pair.id)) : -1;
    };
    EXPECT_EQ(found("10.1.1.1"), 22);
    EXPECT_EQ(found("10.1.2.9"), 33);
    EXPECT_EQ(found("10.1.3.1"), 21);
    EXPECT_EQ(found("10.2.0.1"), 31);
    EXPECT_EQ(found("11.0.0.1"), -1);
    EXPECT_EQ(found("fd00::1"), 23);
    EXPECT_EQ(found("fd00::2"), 34);
    tables.apply({kOwn, {entry("10.1.1.1", 11)}}, sink);
    EXPECT_EQ(found("10.1.1.1"), 11);
    EXPECT_EQ(tables.lookup(ip("10.1.2.9"))->prefix, prefix("10.1.2.0/24"));
    EXPECT_EQ(tables.lookup(ip("10.1.2.9"))->cluster, kCat);
    tables.apply({kOwn, {IpDelete{prefix("10.1.1.1")}}}, sink);
    EXPECT_EQ(found("10.1.1.1"), 22);
    tables.drain("bee", sink);
    EXPECT_EQ(found("10.1.1.1"), 32);
}

TEST(ClusterTables, NamesWithNulsDoNotMeet) {
    ClusterTables tables("ape", 1);
    Service a = full_service();
    Service b = full_service();
    a.namespace_ = std::string("x\0y", 3);
    a.name = "z";
    b.namespace_ = "x";
    b.name = std::string("y\0z", 3);
    EXPECT_EQ(
        tables.apply({kBee, {ServiceUpsert{a}, ServiceUpsert{b}}}, [](const Effect&) {}).effective,
        2U);
    EXPECT_EQ(tables.find_service("bee", {a.namespace_, a.name}), a);
    EXPECT_EQ(tables.find_service("bee", {b.namespace_, b.name}), b);
}

// Random batches against plain maps: same effects with the same objects, same content, nothing
// left.
TEST(ClusterTables, AgreesWithPlainMaps) {
    using Key = std::pair<std::string, std::string>;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        Rng rng(seed);
        ClusterTables tables("ape", rng.next());
        std::map<Key, Service> services;
        std::map<Key, IpIdentityPair> pairs;
        const std::vector<ClusterKey> clusters{kOwn, kBee, kCat};
        for (int step = 0; step < 2000; ++step) {
            const ClusterKey& cluster = clusters[rng.below(3)];
            const std::string n = std::to_string(rng.below(12));
            const EffectSink sink = [&](const Effect& effect) {
                std::visit(
                    [&](const auto& c) {
                        using T = std::remove_cvref_t<decltype(*c.after)>;
                        const auto check = [&](const auto& held, const Key& key) {
                            const auto at = held.find(key);
                            ASSERT_EQ(c.before != nullptr, at != held.end());
                            if (c.before != nullptr) {
                                EXPECT_EQ(*c.before, at->second);
                            }
                        };
                        if constexpr (std::is_same_v<T, Service>) {
                            check(services,
                                  {effect.cluster.name,
                                   (c.after != nullptr ? c.after : c.before)->name.str()});
                        } else if constexpr (std::is_same_v<T, IpIdentityPair>) {
                            check(pairs,
                                  {effect.cluster.name,
                                   (c.after != nullptr ? c.after : c.before)->ip.to_string()});
                        }
                    },
                    effect.change);
            };
            switch (rng.below(20)) {
                case 0: {
                    const auto here = [&](const auto& entry) {
                        return entry.first.first == cluster.name;
                    };
                    const std::size_t had =
                        std::erase_if(services, here) + std::erase_if(pairs, here);
                    EXPECT_EQ(tables.drain(cluster.name, [](const Effect&) {}), had);
                    break;
                }
                case 1:
                case 2:
                case 3:
                case 4:
                    tables.apply({cluster, {ServiceDelete{{"shop", n}}}}, sink);
                    services.erase({cluster.name, n});
                    break;
                case 5:
                case 6:
                case 7: {
                    const IpAddress address = ip(("10.0.0." + n).c_str());
                    tables.apply({cluster, {IpDelete{IpPrefix(address, 32)}}}, sink);
                    pairs.erase({cluster.name, address.to_string()});
                    break;
                }
                case 8:
                case 9:
                case 10:
                case 11:
                case 12:
                case 13: {
                    Service service = full_service();
                    service.name = n;
                    if (rng.below(2) == 0) service.backends.pop_back();
                    if (rng.below(2) == 0)
                        service.labels->insert_or_assign("r", std::to_string(rng.below(3)));
                    const bool same = services.contains({cluster.name, n}) &&
                                      services.at({cluster.name, n}) == service;
                    EXPECT_EQ(tables.apply({cluster, {ServiceUpsert{service}}}, sink).unchanged,
                              same ? 1U : 0U);
                    services[{cluster.name, n}] = service;
                    break;
                }
                default: {
                    IpIdentityPair pair = full_pair();
                    pair.ip = ip(("10.0.0." + n).c_str());
                    pair.prefix_length.reset();
                    pair.k8s_pod_name = "pod-" + std::to_string(rng.below(3));
                    const Key key{cluster.name, pair.ip.to_string()};
                    const bool same = pairs.contains(key) && pairs.at(key) == pair;
                    EXPECT_EQ(tables.apply({cluster, {IpUpsert{pair}}}, sink).unchanged,
                              same ? 1U : 0U);
                    pairs[key] = pair;
                }
            }
        }
        for (const ClusterKey& cluster : clusters) {
            std::map<Key, Service> held_services;
            std::map<Key, IpIdentityPair> held_pairs;
            tables.for_each_service(cluster.name, [&](const Service& service) {
                held_services.emplace(Key{cluster.name, service.name.str()}, service);
            });
            tables.for_each_ip(cluster.name, [&](const IpIdentityPair& pair) {
                held_pairs.emplace(Key{cluster.name, pair.ip.to_string()}, pair);
            });
            const auto other = [&](const auto& entry) { return entry.first.first != cluster.name; };
            auto expected_services = services;
            auto expected_pairs = pairs;
            std::erase_if(expected_services, other);
            std::erase_if(expected_pairs, other);
            EXPECT_EQ(held_services, expected_services);
            EXPECT_EQ(held_pairs, expected_pairs);
            EXPECT_EQ(tables.stats(cluster.name)[static_cast<std::size_t>(Kind::kIp)].count,
                      expected_pairs.size());
            tables.drain(cluster.name, [](const Effect&) {});
        }
        EXPECT_EQ(tables.shared_strings(), 0U);
    }
}

// What README.md promises of the cost of a row, by the tables' own account.
TEST(ClusterTables, RowsStayCompact) {
    ClusterTables tables("ape", 1);
    const auto sink = [](const Effect&) {};
    constexpr std::uint32_t kIps = 10'000;
    constexpr std::uint32_t kServices = 1'000;
    for (std::uint32_t i = 0; i < kIps; ++i) {
        IpIdentityPair pair;
        pair.ip = IpAddress::v4(0x0a140000U + i);
        pair.host_ip = IpAddress::v4(0xc0000200U + i / 100);
        pair.id = IdentityId{131072 + i % 500};
        pair.k8s_namespace = "namespace-" + std::to_string(i % 50);
        pair.k8s_pod_name = "cart-76cf5d8b4d-" + std::to_string(10000 + i);
        tables.apply({kBee, {IpUpsert{pair}}}, sink);
    }
    for (std::uint32_t i = 0; i < kServices; ++i) {
        Service service = full_service();
        service.hostnames.clear();
        service.zones.clear();
        service.name = "service-" + std::to_string(i);
        service.labels = StringMap{{"app", "service-" + std::to_string(i)}};
        service.selector = service.labels;
        service.frontends.pop_back();
        service.backends.clear();
        for (std::uint32_t b = 0; b < 10; ++b) {
            service.backends.push_back(
                {IpAddress::v4(0x0a140000U + i * 10 + b), {{"http", "TCP", 8080}}, ""});
        }
        tables.apply({kBee, {ServiceUpsert{service}}}, sink);
    }
    const ClusterStats stats = tables.stats("bee");
    const auto per_row = [&](Kind kind) {
        const KindStats& s = stats[static_cast<std::size_t>(kind)];
        return s.bytes / s.count;
    };
    RecordProperty("bytes_per_ip", static_cast<int>(per_row(Kind::kIp)));
    RecordProperty("bytes_per_service", static_cast<int>(per_row(Kind::kService)));
    EXPECT_LE(per_row(Kind::kIp), 96U);
    EXPECT_LE(per_row(Kind::kService), 224U);
    EXPECT_LE(tables.shared_bytes() / kServices, 160U);
}

}  // namespace
