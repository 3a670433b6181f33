// L7Policy's answers as the HTTP proxy takes them.
#include "engine/http_rules.hpp"

#include <gtest/gtest.h>

#include "compile/policy/policy_compiler.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::engine {
namespace {

using model::IpAddress;
using model::policy::Direction;

TEST(HttpRules, AreTheConnectionsOwnCompiledOnce) {
    compile::PolicyCompiler compiler({.cluster = "c1"});
    compiler.upsert_identity({70'000, {{"k8s", "app", "api"}}, std::nullopt});
    const auto parsed = sources::config::parse_policies(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: p}\n"
        "spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n"
        "  - fromEntities: [all]\n    toPorts: [{ports: [{port: '80', protocol: TCP}], rules: "
        "{http: [{method: GET}]}}]\n",
        "f");
    ASSERT_EQ(parsed.policies.size(), 1U) << parsed.errors.front();
    compiler.upsert_policy(parsed.policies[0]);
    compiler.upsert_endpoint(
        1, {{{"k8s", "app", "web"}, {"k8s", "io.kubernetes.pod.namespace", "shop"}}, {}});
    const auto changes = compiler.flush();
    ASSERT_EQ(changes.size(), 1U);
    const IpAddress pod = IpAddress::v4(10, 1, 0, 1);
    L7Policy policy([](const IpAddress&) { return 70'000U; });
    policy.set(1, {pod}, changes[0].policy);
    policy.flush(compiler.selectors());

    const HttpRules rules(policy, 0x4000, Logger());
    const serve::l7::Flow flow{Direction::kIngress, {IpAddress::v4(10, 2, 0, 1), 5555}, {pod, 80}};
    const auto found = rules.find(flow);
    ASSERT_TRUE(found.policy);
    EXPECT_EQ(found.source_identity, 70'000U);
    EXPECT_EQ(found.mark,
              0x4000U + static_cast<std::uint32_t>(datapath::ProxySocket::kToServerOfIngress));
    serve::l7::Decision decision;
    found.policy->decide({.method = "GET", .path = "/", .host = "h", .fields = {}}, decision);
    EXPECT_TRUE(decision.allowed);
    found.policy->decide({.method = "PUT", .path = "/", .host = "h", .fields = {}}, decision);
    EXPECT_FALSE(decision.allowed);
    EXPECT_EQ(rules.find(flow).policy, found.policy) << "compiled once";
    auto other = flow;
    other.destination.port = 81;
    EXPECT_FALSE(rules.find(other).policy) << "no redirect is for it";
    other = flow;
    other.direction = Direction::kEgress;
    EXPECT_FALSE(rules.find(other).policy);
}

}  // namespace
}  // namespace mesh::engine
