#include "model/validate.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

namespace mesh::model {
namespace {

Connection ape(Generation generation = Generation::k119) {
    Connection connection;
    connection.cluster = "ape";
    connection.id = ClusterId{7};
    connection.local_id = ClusterId{1};
    connection.generation = generation;
    return connection;
}

std::string said(const Result<void>& result) {
    return result ? "valid" : result.error().detail();
}

TEST(ValidateConfig, IdAndMaximum) {
    ClusterConfig config{.id = ClusterId{7}, .max_connected_clusters = 255};
    EXPECT_EQ(said(validate_cluster_config(ape(), config)), "valid");
    config.max_connected_clusters = 511;
    EXPECT_EQ(said(validate_cluster_config(ape(), config)), "valid")
        << "a local 255 does not compare";
    Connection large = ape();
    large.max_clusters = 511;
    EXPECT_EQ(said(validate_cluster_config(large, config)), "valid");
    config.max_connected_clusters = 255;
    EXPECT_EQ(said(validate_cluster_config(large, config)),
              "cilium/cluster-config/ape: field capabilities.maxConnectedClusters: expected 511 as "
              "here, got 255");
    config.max_connected_clusters = 0;
    EXPECT_NE(said(validate_cluster_config(large, config)), "valid");
    config = {.id = ClusterId{256}};
    EXPECT_EQ(said(validate_cluster_config(ape(), config)),
              "cilium/cluster-config/ape: field id: expected a cluster id 1..255, got 256");
    for (const std::uint32_t id : {0U, 1U}) {
        config.id = ClusterId{id};
        EXPECT_NE(said(validate_cluster_config(ape(), config)), "valid") << id;
        EXPECT_EQ(said(validate_cluster_config(ape(Generation::k115), config)), "valid") << id;
    }
}

TEST(ValidateNode, ClusterNameAndId) {
    const ParsedKey key = parse_key("cilium/state/nodes/v1/ape/n1");
    Node node;
    node.name = "n1";
    node.cluster = "ape";
    node.cluster_id = ClusterId{7};
    EXPECT_EQ(said(validate_node(ape(), key, node)), "valid");
    node.name = "n2";
    EXPECT_EQ(
        said(validate_node(ape(), key, node)),
        "cilium/state/nodes/v1/ape/n1: field Name: expected \"n1\" as in the key, got \"n2\"");
    EXPECT_EQ(said(validate_node(ape(Generation::k115), key, node)), "valid");
    node.name = "n1";
    node.cluster = "bee";
    EXPECT_EQ(said(validate_node(ape(), key, node)),
              "cilium/state/nodes/v1/ape/n1: field Cluster: expected \"ape\", got \"bee\"");
    node.cluster = "ape";
    node.cluster_id = ClusterId{8};
    EXPECT_EQ(
        said(validate_node(ape(), key, node)),
        "cilium/state/nodes/v1/ape/n1: field ClusterID: expected 7, the id of cluster ape, got 8");
    EXPECT_EQ(said(validate_node(ape(Generation::k115), key, node)), "valid");
    for (const std::uint32_t id : {0U, 256U}) {
        node.cluster_id = ClusterId{id};
        EXPECT_NE(said(validate_node(ape(), key, node)), "valid") << id;
        EXPECT_NE(said(validate_node(ape(Generation::k115), key, node)), "valid") << id;
    }
    Connection legacy = ape();
    legacy.legacy = true;
    node.cluster_id = ClusterId{0};
    EXPECT_EQ(said(validate_node(legacy, key, node)), "valid");
    node.cluster_id = ClusterId{256};
    EXPECT_NE(said(validate_node(legacy, key, node)), "valid");
}

TEST(ValidateService, ClusterNamespaceNameAndId) {
    const ParsedKey key = parse_key("cilium/state/services/v1/ape/s/n");
    Service good;
    good.cluster = "ape";
    good.namespace_ = "s";
    good.name = "n";
    good.cluster_id = ClusterId{7};
    EXPECT_EQ(said(validate_service(ape(), key, good)), "valid");
    Service bad = good;
    bad.cluster = "";
    EXPECT_NE(said(validate_service(ape(), key, bad)).find("field cluster"), std::string::npos);
    bad = good;
    bad.namespace_ = "t";
    EXPECT_NE(said(validate_service(ape(), key, bad)).find("field namespace"), std::string::npos);
    bad = good;
    bad.name = "";
    EXPECT_NE(said(validate_service(ape(), key, bad)).find("field name"), std::string::npos);
    bad = good;
    bad.cluster_id = ClusterId{1};  // ours
    EXPECT_NE(said(validate_service(ape(), key, bad)).find("field clusterID"), std::string::npos);
    EXPECT_EQ(said(validate_service(ape(Generation::k115), key, bad)), "valid");
}

TEST(ValidateIp, KeyRangeAndHost) {
    const auto check = [](std::string_view key, std::uint32_t id, const Connection& connection) {
        IpIdentityPair pair{.ip = IpAddress::v4(10, 0, 0, 1), .id = IdentityId{id}};
        const std::string result = said(validate_ip(connection, parse_key(key), pair));
        return fmt::format("{} {}", result, number(pair.id));
    };
    const char* key = "cilium/state/ip/v1/default/10.0.0.1";
    EXPECT_EQ(check(key, 7 * 65536, ape()), "valid 458752");
    EXPECT_EQ(check(key, 8 * 65536 - 1, ape()), "valid 524287");
    EXPECT_EQ(check(key, 0, ape()), "valid 0");
    EXPECT_EQ(check(key, 255, ape()), "valid 255");
    EXPECT_EQ(check(key, 1, ape()), "valid 6") << "a remote's host is a remote node";
    EXPECT_EQ(check(key, 1, ape(Generation::k115)), "valid 6");
    for (const std::uint32_t id : {256U, 458751U, 524288U, 0x01000001U, 0xffffffffU}) {
        EXPECT_EQ(
            check(key, id, ape()),
            fmt::format("{}: field ID: expected an identity 0..255 or 458752..524287, got {} {}",
                        key, id, id));
        EXPECT_EQ(check(key, id, ape(Generation::k115)), fmt::format("valid {}", id));
    }
    EXPECT_EQ(
        check("cilium/state/ip/v1/default/10.0.0.2", 0, ape()),
        "cilium/state/ip/v1/default/10.0.0.2: field IP: expected \"10.0.0.2\" as in the key, got "
        "\"10.0.0.1\" 0");
    EXPECT_NE(check("cilium/state/ip/v1/default/10.0.0.1/32", 0, ape()), "valid 0");
    EXPECT_EQ(check("cilium/cache/ip/v1/ape/10.0.0.1", 0, ape()), "valid 0");

    IpIdentityPair block{.ip = IpAddress::v4(10, 0, 0, 1)};
    block.prefix_length = 24;
    EXPECT_EQ(said(validate_ip(ape(), parse_key("cilium/state/ip/v1/default/10.0.0.1/24"), block)),
              "valid");
    block.prefix_length = 120;
    EXPECT_NE(said(validate_ip(ape(), parse_key("cilium/state/ip/v1/default/10.0.0.1/120"), block)),
              "valid");
}

TEST(ValidateIdentity, RangeAndClusterLabel) {
    const ParsedKey key = parse_key("cilium/state/identities/v1/id/458752");
    Identity identity{IdentityId{458752},
                      {{"k8s", "a", "b"}, {"k8s", std::string(kClusterLabel), "ape"}}};
    EXPECT_EQ(said(validate_identity(ape(), key, identity)), "valid");
    identity.id = IdentityId{524288};
    EXPECT_NE(said(validate_identity(ape(), key, identity)).find("458752..524287"),
              std::string::npos);
    EXPECT_NE(said(check_identity_id(ape(), key, identity.id)), "valid");
    EXPECT_EQ(said(validate_identity(ape(Generation::k115), key, identity)), "valid");
    identity = {IdentityId{458752}, {{"k8s", "a", "b"}}};
    EXPECT_NE(said(validate_identity(ape(), key, identity)).find("no such label"),
              std::string::npos);
    identity.labels = {{"any", std::string(kClusterLabel), "ape"}};
    EXPECT_NE(said(validate_identity(ape(), key, identity)).find("the source k8s"),
              std::string::npos);
    identity.labels = {{"k8s", std::string(kClusterLabel), "ape"},
                       {"k8s", std::string(kClusterLabel), "bee"}};
    EXPECT_NE(said(validate_identity(ape(), key, identity)).find("got \"bee\""), std::string::npos);
}

TEST(ValidateExport, ClusterNamespaceName) {
    const ParsedKey key = parse_key("cilium/state/serviceexports/v1/ape/s/n");
    ServiceExport good;
    good.cluster = "ape";
    good.namespace_ = "s";
    good.name = "n";
    EXPECT_EQ(said(validate_service_export(ape(), key, good)), "valid");
    good.name = "m";
    EXPECT_NE(said(validate_service_export(ape(), key, good)), "valid");
    good.name = "n";
    good.cluster = "bee";
    EXPECT_NE(said(validate_service_export(ape(), key, good)), "valid");
}

TEST(IdentityRanges, ForBothMaximums) {
    EXPECT_EQ(identity_range(ClusterId{0}, 255), (IdentityRange{256, 65535}));
    EXPECT_EQ(identity_range(ClusterId{0}, 511), (IdentityRange{256, 32767}));
    EXPECT_EQ(identity_range(ClusterId{1}, 255), (IdentityRange{65536, 131071}));
    EXPECT_EQ(identity_range(ClusterId{255}, 255), (IdentityRange{255 * 65536, 0xffffff}));
    EXPECT_EQ(identity_range(ClusterId{300}, 511),
              (IdentityRange{300 * 32768, 300 * 32768 + 32767}));
    EXPECT_EQ(identity_range(ClusterId{511}, 511), (IdentityRange{511 * 32768, 0xffffff}));
    EXPECT_EQ(cluster_of(IdentityId{0x70001}, 255), ClusterId{7});
    EXPECT_EQ(cluster_of(IdentityId{300 * 32768 + 5}, 511), ClusterId{300});
}

TEST(ClusterNames, Rules) {
    for (const char* name : {"a", "cluster1", "1", "a-b", "abcdefghijklmnopqrstuvwxyz012345"}) {
        EXPECT_TRUE(check_cluster_name(name)) << name;
    }
    for (const char* name :
         {"", "-a", "a-", "A", "a.b", "a_b", "a/b", "ü", "abcdefghijklmnopqrstuvwxyz0123456"}) {
        EXPECT_FALSE(check_cluster_name(name)) << name;
    }
    EXPECT_TRUE(check_local_cluster("default", ClusterId{0}, 255));
    EXPECT_FALSE(check_local_cluster("default", ClusterId{1}, 255));
    EXPECT_FALSE(check_local_cluster("a", ClusterId{256}, 255));
    EXPECT_TRUE(check_local_cluster("a", ClusterId{256}, 511));
    EXPECT_FALSE(check_local_cluster("a", ClusterId{1}, 1000));
}

TEST(NamedPorts, UsableOnes) {
    IpIdentityPair pair;
    pair.named_ports = {{"HTTP", "tcp", 80}, {"dns", "UDP", 53}, {"http", "", 81},
                        {"", "TCP", 1},      {"zero", "TCP", 0}, {"bad", "foo", 2}};
    EXPECT_EQ(usable_named_ports(pair),
              (std::vector<NamedPort>{{"dns", "UDP", 53}, {"http", "TCP", 81}}));
}

}  // namespace
}  // namespace mesh::model
