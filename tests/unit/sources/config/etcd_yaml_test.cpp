#include "sources/config/etcd_yaml.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>

namespace {

using mesh::sources::config::parse_etcd_yaml;
using mesh::sources::config::parse_remote_yaml;
using mesh::sources::config::StaleScope;

TEST(EtcdYaml, ReadsWhatTheChartWrites) {
    const auto config = parse_etcd_yaml(
        "endpoints:\n"
        "- https://ape.mesh.cilium.io:2379\n"
        "- https://[fd00::1]:32379/\n"
        "trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt\n"
        "cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt\n"
        "key-file: common-etcd-client.key\n"
        "dial-timeout: 5000000000\n"
        "dial-keep-alive-time: 1m30s\n"
        "some-later-field: [1, 2]\n",
        "/var/lib/cilium/clustermesh/ape");
    ASSERT_TRUE(config) << config.error().message();
    EXPECT_EQ(config->endpoints, (std::vector<std::string>{"https://ape.mesh.cilium.io:2379",
                                                           "https://[fd00::1]:32379"}));
    EXPECT_EQ(config->trusted_ca_file, "/var/lib/cilium/clustermesh/common-etcd-client-ca.crt");
    EXPECT_EQ(config->key_file, "/var/lib/cilium/clustermesh/common-etcd-client.key");
    EXPECT_TRUE(config->tls());
    EXPECT_EQ(config->dial_timeout, std::chrono::seconds(5));
    EXPECT_EQ(config->keepalive_time, std::chrono::seconds(90));
    EXPECT_FALSE(config->keepalive_timeout);
}

TEST(EtcdYaml, TlsIsDecidedByTheEndpointThenByTheSwitch) {
    const auto tls = [](const char* text) { return parse_etcd_yaml(text, "f")->tls(); };
    EXPECT_FALSE(tls("endpoints: [http://127.0.0.1:2379]"));
    EXPECT_FALSE(tls("{endpoints: [127.0.0.1:2379], insecure-transport: true}"));
    EXPECT_TRUE(tls("endpoints: [127.0.0.1:2379]"));
}

TEST(EtcdYaml, NamesFileLineAndField) {
    const std::pair<const char*, const char*> cases[] = {
        {"", "dir/c1:1: expected YAML fields"},
        {"endpoints: [", "dir/c1:1: not YAML: "},
        {"a: b\nendpoints: {x: y}", "dir/c1:2: endpoints: expected a list"},
        {"trusted-ca-file: /x\n", "dir/c1: endpoints: expected at least one"},
        {"endpoints:\n- https://a:1\n- tcp://b:2\n", "dir/c1:3: endpoints[1]: expected https://"},
        {"endpoints: [https://a]", "dir/c1:1: endpoints[0]: expected https://"},
        {"endpoints: [https://a:70000]", "endpoints[0]: expected https://"},
        {"endpoints: [https://a:1, http://b:1]", "endpoints[1]: expected all endpoints with TLS"},
        {"endpoints: [https://a:1]\ninsecure-transport: true", "contradicts insecure-transport"},
        {"endpoints: [https://a:1]\ninsecure-transport: maybe",
         "dir/c1:2: insecure-transport: expected true or false"},
        {"endpoints: [https://a:1]\ncert-file: x", "dir/c1: key-file: expected together"},
        {"endpoints: [https://a:1]\ndial-timeout: soon",
         "dir/c1:2: dial-timeout: expected a duration"},
        {"endpoints: [https://a:1]\ndial-timeout: 99999999999h",
         "dial-timeout: expected a duration"},
        {"endpoints: [https://a:1]\nmesh: 7", "dir/c1:2: mesh: expected a section"},
        {"endpoints: [https://a:1]\nmesh:\n  limits:\n    servces: 1",
         "dir/c1:4: mesh.limits.servces: is no field"},
        {"endpoints: [https://a:1]\nmesh:\n  limits:\n    ips: -1",
         "dir/c1:4: mesh.limits.ips: expected a whole number"},
        {"endpoints: [https://a:1]\nmesh: {stale-scope: most}",
         "mesh.stale-scope: expected services or all"},
        {"endpoints: [https://a:1]\nmesh:\n  id: 0", "dir/c1:3: mesh.id: expected a cluster id"},
        {"endpoints: [https://a:1]\nmesh: {id: 512}", "mesh.id: expected a cluster id from 1 to"},
        {"endpoints: [https://a:1]\nmesh: {id: seven}", "mesh.id: expected a whole number"},
        {"endpoints: [https://a:1]\nmesh: {pod-cidrs: 10.1.0.0/16}",
         "mesh.pod-cidrs: expected a list"},
        {"endpoints: [https://a:1]\nmesh:\n  pod-cidrs:\n  - 10.1.0.0/16\n  - 10.1.0.0/33",
         "dir/c1:5: mesh.pod-cidrs[1]: expected a CIDR"},
        {"endpoints: [https://a:1]\nusername: root\npassword: x",
         "dir/c1:2: username: etcd's users with a password are not supported"},
        {"endpoints: [https://a:1]\npassword: x", "dir/c1:2: password: etcd's users"},
    };
    for (const auto& [text, expected] : cases) {
        const auto config = parse_remote_yaml(text, "dir/c1", "c1");
        ASSERT_FALSE(config) << text;
        EXPECT_NE(config.error().detail().find(expected), std::string::npos)
            << text << "\n"
            << config.error().detail();
    }
}

TEST(EtcdYaml, ReadsOurSection) {
    const auto config = parse_remote_yaml(
        "endpoints: [https://a:1]\n"
        "mesh:\n"
        "  max-stale-age: 10m\n"
        "  stale-scope: all\n"
        "  refuse-foreign-ips: true\n"
        "  id: 7\n"
        "  pod-cidrs: [10.1.0.0/16, \"fd00:1::/48\"]\n"
        "  limits: {services: 5, ips: 7, key-bytes: 99, total-bytes: 1000, answer-bytes: 500}\n",
        "dir/c1", "c1");
    ASSERT_TRUE(config) << config.error().message();
    EXPECT_EQ(config->cluster, "c1");
    EXPECT_EQ(config->policy.max_stale_age, std::chrono::minutes(10));
    EXPECT_EQ(config->policy.stale_scope, StaleScope::kAll);
    EXPECT_TRUE(config->policy.refuse_foreign_ips);
    EXPECT_EQ(config->policy.limits.services, 5U);
    EXPECT_EQ(config->policy.limits.ips, 7U);
    EXPECT_EQ(config->policy.limits.key_bytes, 99U);
    EXPECT_EQ(config->policy.limits.total_bytes, 1000U);
    EXPECT_EQ(config->policy.limits.answer_bytes, 500U);
    EXPECT_EQ(config->policy.id, mesh::model::ClusterId{7});
    ASSERT_EQ(config->policy.pod_cidrs.size(), 2U);
    EXPECT_EQ(config->policy.pod_cidrs[1].to_string(), "fd00:1::/48");
    EXPECT_TRUE(parse_remote_yaml("{endpoints: [a:1], username: \"\"}", "f", "c1"));
    EXPECT_EQ(config->content_hash.size(), 64U);
    const auto never =
        parse_remote_yaml("{endpoints: [a:1], mesh: {max-stale-age: 0s}}", "f", "c1");
    ASSERT_TRUE(never) << never.error().message();
    EXPECT_FALSE(never->policy.max_stale_age);
}

TEST(EtcdYaml, ChecksClusterNames) {
    using mesh::sources::config::check_cluster_name;
    EXPECT_TRUE(check_cluster_name("a"));
    EXPECT_TRUE(check_cluster_name("cluster-1"));
    for (const char* bad :
         {"", "-a", "a-", "A", "a.b", "a_b", "default", "a23456789012345678901234567890123"}) {
        EXPECT_FALSE(check_cluster_name(bad)) << bad;
    }
}

TEST(EtcdYaml, HashIsSha256) {
    EXPECT_EQ(mesh::sources::config::sha256_hex("abc"),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
