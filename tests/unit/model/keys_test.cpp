#include "model/keys.hpp"
#include "model/policy_record.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mesh::model {
namespace {

TEST(Keys, PrefixesOfBothLayouts) {
    using enum Resource;
    const auto prefix = [](Resource r, Layout l) { return resource_prefix(r, "ape", l); };
    EXPECT_EQ(prefix(kNodes, Layout::kState), "cilium/state/nodes/v1/ape/");
    EXPECT_EQ(prefix(kServices, Layout::kState), "cilium/state/services/v1/ape/");
    EXPECT_EQ(prefix(kServiceExports, Layout::kState), "cilium/state/serviceexports/v1/ape/");
    EXPECT_EQ(prefix(kIps, Layout::kState), "cilium/state/ip/v1/default/");
    EXPECT_EQ(prefix(kIdentities, Layout::kState), "cilium/state/identities/v1/id/");
    EXPECT_EQ(prefix(kNodes, Layout::kCache), "cilium/cache/nodes/v1/ape/");
    EXPECT_EQ(prefix(kIps, Layout::kCache), "cilium/cache/ip/v1/ape/");
    EXPECT_EQ(prefix(kIdentities, Layout::kCache), "cilium/cache/identities/v1/ape/id/");
}

TEST(Keys, BuildersAndParserAgree) {
    const IpIdentityPair host{.ip = IpAddress::v4(10, 7, 1, 20)};
    IpIdentityPair block{.ip = IpAddress::v4(10, 7, 0, 0)};
    block.prefix_length = 16;
    struct Case {
        std::string key, built;
        KeyKind kind;
    };
    const Layout cache = Layout::kCache;
    const Case cases[] = {
        {"cilium/cluster-config/ape", cluster_config_key("ape"), KeyKind::kClusterConfig},
        {"cilium/state/nodes/v1/ape/n1", node_key("ape", "n1"), KeyKind::kNode},
        {"cilium/cache/nodes/v1/ape/n1", node_key("ape", "n1", cache), KeyKind::kNode},
        {"cilium/state/services/v1/ape/s/n", service_key("ape", "s", "n"), KeyKind::kService},
        {"cilium/cache/services/v1/ape/s/n", service_key("ape", "s", "n", cache),
         KeyKind::kService},
        {"cilium/state/serviceexports/v1/ape/s/n", service_export_key("ape", "s", "n"),
         KeyKind::kServiceExport},
        {"cilium/state/ip/v1/default/10.7.1.20", ip_key(host), KeyKind::kIp},
        {"cilium/cache/ip/v1/ape/10.7.0.0/16", ip_key(block, "ape", cache), KeyKind::kIp},
        {"cilium/state/ip/v1/default/fd00::1", ip_key(*IpPrefix::parse("fd00::1/128")),
         KeyKind::kIp},
        {"cilium/state/ip/v1/default/fd00::/64", ip_key(*IpPrefix::parse("fd00::/64")),
         KeyKind::kIp},
        {"cilium/state/identities/v1/id/5", identity_key(IdentityId{5}), KeyKind::kIdentity},
        {"cilium/cache/identities/v1/ape/id/5", identity_key(IdentityId{5}, "ape", cache),
         KeyKind::kIdentity},
        {"cilium/state/identities/v1/value/k8s:a/b=c;/192.0.2.1",
         identity_value_key({{"k8s", "a/b", "c"}}, "192.0.2.1"), KeyKind::kIdentityValue},
        {"cilium/synced/ape/cilium/state/ip/v1", synced_key("ape", Resource::kIps),
         KeyKind::kSynced},
        {"cilium/synced/ape/cilium/cache/identities/v1",
         synced_key("ape", Resource::kIdentities, cache), KeyKind::kSynced},
        {"cilium/.heartbeat", std::string(kHeartbeatKey), KeyKind::kHeartbeat},
        {"cilium/.has-cluster-config", std::string(kHasClusterConfigKey),
         KeyKind::kHasClusterConfig},
        {"mesh/local/services/v1/s/n", local_service_key("s", "n"), KeyKind::kLocalService},
        {"mesh/local/ips/v1/10.1.0.9", local_ip_key(IpAddress::v4(10, 1, 0, 9)), KeyKind::kLocalIp},
        {"mesh/local/policies/v1/NetworkPolicy/s/n",
         local_policy_key({policy::PolicyKind::kNetworkPolicy, "s", "n"}), KeyKind::kLocalPolicy},
        {"mesh/local/policies/v1/CiliumClusterwideNetworkPolicy/-/n",
         local_policy_key({policy::PolicyKind::kCiliumClusterwideNetworkPolicy, "", "n"}),
         KeyKind::kLocalPolicy},
    };
    for (const Case& c : cases) {
        EXPECT_EQ(c.built, c.key);
        const ParsedKey parsed = parse_key(c.key);
        EXPECT_EQ(parsed.kind, c.kind) << c.key;
        EXPECT_EQ(parsed.full, c.key);
        EXPECT_EQ(parsed.layout, c.key.find("cache") == std::string::npos ? Layout::kState : cache)
            << c.key;
    }
    EXPECT_EQ(parse_key("cilium/state/services/v1/ape/s/n").cluster, "ape");
    EXPECT_EQ(parse_key("cilium/state/services/v1/ape/s/n").namespace_name, "s");
    EXPECT_EQ(parse_key("cilium/state/services/v1/ape/s/n").name, "n");
    EXPECT_EQ(parse_key("cilium/cache/ip/v1/ape/10.7.0.0/16").tail, "10.7.0.0/16");
    EXPECT_EQ(parse_key("cilium/cache/ip/v1/ape/10.7.0.0/16").cluster, "ape");
    EXPECT_EQ(parse_key("cilium/state/ip/v1/default/10.7.0.0").cluster, "");
    EXPECT_EQ(parse_key("cilium/synced/ape/cilium/cache/identities/v1").resource,
              Resource::kIdentities);
}

TEST(Keys, OtherKeysAreUnknown) {
    for (const char* key : {"",
                            "cilium",
                            "cilium/",
                            "cilium/state/",
                            "cilium/state/nodes/v1/",
                            "cilium/state/nodes/v1/ape",
                            "cilium/state/nodes/v1/ape/",
                            "cilium/state/nodes/v1//n1",
                            "cilium/state/nodes/v1/ape/n1/x",
                            "cilium/state/nodes/v2/ape/n1",
                            "cilium/state/services/v1/ape/n",
                            "cilium/state/services/v1/ape/s/n/x",
                            "cilium/state/services/v1/ape//n",
                            "cilium/state/ip/v1/other/10.0.0.1",
                            "cilium/state/ip/v1/default/",
                            "cilium/state/identities/v1/ids/5",
                            "cilium/cache/identities/v1/id/5",
                            "cilium/synced/ape/cilium/state/nodes/v1/",
                            "cilium/synced/ape/nodes/v1",
                            "cilium/synced//cilium/state/nodes/v1",
                            "cilium/cluster-config/",
                            "cilium/cluster-config/a/b",
                            "cilium/state/noderegister/v1/vm",
                            "cilium/.initlock/ab/cd",
                            "cilium/.heartbeatx",
                            "mesh/local/services/v1/s",
                            "mesh/local/x",
                            "Cilium/state/nodes/v1/ape/n1"}) {
        const ParsedKey parsed = parse_key(key);
        EXPECT_EQ(parsed.kind, KeyKind::kUnknown) << key;
        EXPECT_EQ(parsed.full, key);
        EXPECT_TRUE(parsed.cluster.empty() && parsed.name.empty() && parsed.tail.empty()) << key;
    }
}

TEST(Keys, ReflectedAsKvStoreMeshWouldWriteThem) {
    const auto reflected = [](std::string_view key) {
        const auto out = reflected_key(key, "ape");
        return out ? *out : out.error().message();
    };
    EXPECT_EQ(reflected("cilium/state/nodes/v1/ape/n1"), "cilium/cache/nodes/v1/ape/n1");
    EXPECT_EQ(reflected("cilium/state/services/v1/ape/s/n"), "cilium/cache/services/v1/ape/s/n");
    EXPECT_EQ(reflected("cilium/state/ip/v1/default/10.0.0.0/8"),
              "cilium/cache/ip/v1/ape/10.0.0.0/8");
    EXPECT_EQ(reflected("cilium/state/identities/v1/id/5"), "cilium/cache/identities/v1/ape/id/5");
    EXPECT_EQ(reflected("cilium/cache/ip/v1/bee/10.0.0.1"), "cilium/cache/ip/v1/bee/10.0.0.1");
    EXPECT_EQ(reflected("cilium/cluster-config/ape"), "cilium/cluster-config/ape");
    EXPECT_EQ(reflected("cilium/synced/ape/cilium/state/ip/v1"),
              "cilium/synced/ape/cilium/cache/ip/v1");
    EXPECT_FALSE(reflected_key("mesh/local/services/v1/s/n", "ape"));
    EXPECT_FALSE(reflected_key("cilium/.heartbeat", "ape"));
}

TEST(Keys, PartsThatWouldChangeThePathAreRefused) {
    EXPECT_TRUE(check_key_part("node", "n1"));
    for (const std::string& name : {std::string(), std::string("."), std::string(".."),
                                    std::string("a/b"), std::string("a\0b", 3)}) {
        EXPECT_FALSE(check_key_part("node", name)) << name;
    }
}

}  // namespace
}  // namespace mesh::model
