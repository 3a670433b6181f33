#include "sources/config/policy_documents.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

namespace mesh::sources::config {
namespace {

using namespace model::policy;

constexpr std::string_view kHead =
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
    "spec:\n  endpointSelector: {matchLabels: {app: api}}\n";

std::string error_of(std::string_view text, const PolicyFeatures& features = {}) {
    const auto parsed = parse_policies(text, "f", features);
    EXPECT_TRUE(parsed.policies.empty());
    return parsed.errors.size() == 1 ? parsed.errors[0]
                                     : fmt::format("{} errors", parsed.errors.size());
}
std::string error_of_spec(std::string_view rest, const PolicyFeatures& features = {}) {
    return error_of(fmt::format("{}{}", kHead, rest), features);
}
Rule rule_of(std::string_view text) {
    const auto parsed = parse_policies(text, "f", PolicyFeatures::all());
    EXPECT_TRUE(parsed.errors.empty()) << parsed.errors.front();
    if (parsed.policies.size() != 1) return {};
    return parsed.policies[0]->rules.at(0);
}
Rule rule_of_spec(std::string_view rest) {
    return rule_of(fmt::format("{}{}", kHead, rest));
}

TEST(PolicyDocuments, NamesDocumentLineAndPath) {
    EXPECT_EQ(error_of(fmt::format("apiVersion: v1\nkind: Pod\n---\n{}  ingress:\n"
                                   "  - toPorts:\n    - ports:\n      - port: '70000'\n",
                                   kHead)),
              "f: document 2: line 12: spec.ingress[0].toPorts[0].ports[0].port: expected a port "
              "0..65535 or its name (at most 15 letters, digits and '-'), got \"70000\"");
    EXPECT_EQ(error_of_spec("  ingres: []\n"),
              "f: document 1: line 6: spec.ingres: expected no such field, but one of "
              "endpointSelector, nodeSelector, ingress, ingressDeny, egress, egressDeny, "
              "enableDefaultDeny, labels, description, got a list");
}

TEST(PolicyDocuments, ReadsEachKindOfPeer) {
    const Rule rule = rule_of_spec(
        "  ingress:\n  - fromEndpoints:\n    - matchLabels: {k8s:app: web, any:tier: x}\n"
        "      matchExpressions: [{key: env, operator: In, values: [b, a, b]}]\n"
        "    fromRequires: [{matchLabels: {zone: z1}}]\n"
        "  - fromEntities: [cluster, world]\n  - fromCIDR: [10.1.2.3, '2001:db8::/32']\n"
        "  egress:\n  - toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.2.0.0/16, 10.1.0.0/16]}]\n"
        "  - toFQDNs: [{matchName: WWW.example.org.}, {matchPattern: '*.Example.org'}]\n"
        "  - toServices: [{k8sService: {serviceName: s, namespace: n}},"
        " {k8sServiceSelector: {selector: {matchLabels: {kind: ext}}}}]\n");
    const auto& ingress = rule.allow[0];
    ASSERT_EQ(ingress.size(), 3U);
    ASSERT_TRUE(ingress[0].peers.endpoints);
    const auto& labels = ingress[0].peers.endpoints->at(0).requirements;
    ASSERT_EQ(labels.size(), 3U);
    EXPECT_EQ(labels[0], (LabelRequirement{"", "env", SelectorOperator::kIn, {"a", "b"}}));
    EXPECT_EQ(labels[1], (LabelRequirement{"", "tier", SelectorOperator::kIn, {"x"}}));
    EXPECT_EQ(labels[2], (LabelRequirement{"k8s", "app", SelectorOperator::kIn, {"web"}}));
    EXPECT_EQ(ingress[0].peers.requires_.size(), 1U);
    EXPECT_EQ(*ingress[1].peers.entities, (std::vector{Entity::kCluster, Entity::kWorld}));
    EXPECT_EQ(ingress[2].peers.cidrs->at(0).cidr.to_string(), "10.1.2.3/32");
    const auto& egress = rule.allow[1];
    ASSERT_EQ(egress.size(), 3U);
    EXPECT_EQ(egress[0].peers.cidrs->at(0).except.at(0).to_string(), "10.1.0.0/16");
    EXPECT_EQ(egress[1].peers.fqdns->at(0).match_name, "www.example.org");
    EXPECT_EQ(egress[1].peers.fqdns->at(1).text(), "*.example.org");
    EXPECT_EQ(egress[2].peers.services->at(0).name, "s");
    EXPECT_EQ(egress[2].peers.services->at(1).selector.at(0).key, "kind");
}

TEST(PolicyDocuments, ReadsPortsIcmpAndL7) {
    const Rule rule = rule_of_spec(
        "  enableDefaultDeny: {ingress: false}\n"
        "  ingress:\n  - toPorts:\n    - ports: [{port: '80', endPort: 90, protocol: tcp}, "
        "{port: HTTP-api, protocol: TCP}]\n"
        "      rules: {http: [{method: GET, path: '/a.*', headers: ['X: y'], headerMatches: "
        "[{name: n, value: v, mismatch: ADD}]}]}\n"
        "  - icmps: [{fields: [{type: 8}, {type: EchoRequest, family: IPv6}]}]\n"
        "  egressDeny:\n  - toPorts: [{ports: [{port: '0120'}]}]\n");
    const auto& port_rule = rule.allow[0].at(0).ports.at(0);
    EXPECT_EQ(port_rule.ports.at(0), (PortProtocol{Protocol::kTcp, 80, 90, ""}));
    EXPECT_EQ(port_rule.ports.at(1), (PortProtocol{Protocol::kTcp, 0, 0, "http-api"}));
    ASSERT_TRUE(port_rule.rules);
    EXPECT_EQ(port_rule.rules->parser(), "http");
    EXPECT_EQ(port_rule.rules->http.at(0).header_matches.at(0).mismatch, HeaderMismatch::kAdd);
    const auto& icmp = rule.allow[0].at(1).ports.at(0).ports;
    EXPECT_EQ(icmp.at(0), (PortProtocol{Protocol::kIcmp, 8, 0, ""}));
    EXPECT_EQ(icmp.at(1), (PortProtocol{Protocol::kIcmpv6, 128, 0, ""}));
    EXPECT_EQ(rule.deny[1].at(0).ports.at(0).ports.at(0),
              (PortProtocol{Protocol::kAny, 80, 0, ""}));
    EXPECT_EQ(rule.enable_default_deny[0], false);
    EXPECT_EQ(rule.enable_default_deny[1], std::nullopt);
}

TEST(PolicyDocuments, ReadsNetworkPolicies) {
    const std::string head =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: "
        "shop}\nspec:\n  podSelector: {matchLabels: {app: api}}\n";
    const Rule rule =
        rule_of(head +
                "  ingress:\n  - from:\n    - podSelector: {}\n"
                "    - namespaceSelector: {matchLabels: {team: sre}}\n"
                "      podSelector: {matchLabels: {app: web}}\n"
                "    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n"
                "    ports: [{port: 80, endPort: 90}, {port: dns, protocol: UDP}, {}]\n"
                "  - {}\n");
    EXPECT_EQ(rule.subject.requirements.at(0).source, "k8s");
    const RuleElement& element = rule.allow[0].at(0);
    ASSERT_EQ(element.peers.endpoints->size(), 2U);
    EXPECT_EQ(
        element.peers.endpoints->at(0).requirements.at(0),
        (LabelRequirement{"k8s", std::string(kNamespaceKey), SelectorOperator::kIn, {"shop"}}));
    EXPECT_EQ(element.peers.endpoints->at(1).requirements.at(1).key,
              "io.cilium.k8s.namespace.labels.team");
    EXPECT_EQ(element.peers.cidrs->size(), 1U);
    EXPECT_FALSE(element.any_peer);
    EXPECT_EQ(element.ports.at(0).ports.at(0), (PortProtocol{Protocol::kTcp, 80, 90, ""}));
    EXPECT_EQ(element.ports.at(0).ports.at(2), (PortProtocol{Protocol::kTcp, 0, 0, ""}));
    EXPECT_TRUE(rule.allow[0].at(1).any_peer);
    EXPECT_EQ(rule.enable_default_deny[0], true);
    EXPECT_EQ(rule.enable_default_deny[1], std::nullopt);
    const Rule egress = rule_of(head + "  policyTypes: [Egress]\n");
    EXPECT_EQ(egress.enable_default_deny[0], std::nullopt);
    EXPECT_EQ(egress.enable_default_deny[1], true);
}

TEST(PolicyDocuments, RefusesWhatNobodyEnforces) {
    for (const std::string_view rest : {
             "  ingress: [{authentication: {mode: required}}]\n",
             "  ingress: [{fromNodes: [{}]}]\n",
             "  ingress: [{fromGroups: [{aws: {}}]}]\n",
             "  egress: [{toCIDRSet: [{cidrGroupRef: g}]}]\n",
             "  egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a]}]}]\n",
             "  egress: [{toPorts: [{ports: [{port: '443', protocol: TCP}], terminatingTLS: "
             "{}}]}]\n",
             "  egress: [{toPorts: [{ports: [{port: '9092', protocol: TCP}], rules: {kafka: "
             "[{topic: t}]}}]}]\n",
             "  ingress: [{toPorts: [{ports: [{port: '1', protocol: TCP}], rules: {l7proto: "
             "x}}]}]\n",
             "  ingress: [{toPorts: [{ports: [{port: '1', protocol: VRRP}]}]}]\n",
             "  ingress: [{toPorts: [{ports: [{port: '1', protocol: TCP}], rules: {http: "
             "[{headerMatches: [{name: a, secret: {name: s}}]}]}}]}]\n",
             "  egressDeny: [{toFQDNs: [{matchName: a}]}]\n",
             "  ingress: [{}]\n  ingres: []\n",
         }) {
        EXPECT_NE(error_of_spec(rest).find("expected"), std::string::npos) << rest;
    }
    EXPECT_NE(error_of("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n")
                  .find("expected CiliumNetworkPolicy"),
              std::string::npos);
}

TEST(PolicyDocuments, OneMistakeDoesNotHideOtherDocuments) {
    const auto parsed = parse_policies(
        fmt::format("{}  ingress: [{{}}]\n---\n{}  ingress: 7\n---\napiVersion: v1\nkind: List\n"
                    "items:\n- {{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy}}\n"
                    "- {{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: "
                    "{{name: c}}, spec: {{nodeSelector: {{}}, egress: [{{}}]}}}}\n",
                    kHead, kHead),
        "f");
    EXPECT_EQ(parsed.policies.size(), 2U);
    EXPECT_EQ(parsed.errors.size(), 2U);
}

TEST(PolicyDocuments, TakesJson) {
    EXPECT_EQ(rule_of(R"({"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":)"
                      R"({"name":"p"},"specs":[{"endpointSelector":{},"egress":[{}]}]})")
                  .allow[1]
                  .size(),
              1U);
}

TEST(PolicyDocuments, BoundsWhatAFileCanCost) {
    const std::string deep = std::string(70, '[') + std::string(70, ']');
    EXPECT_NE(error_of_spec("  ingress: " + deep + "\n").find("nested deeper"), std::string::npos);
    EXPECT_FALSE(error_of_spec("  ingress: " + std::string(4'000, '[') + "\n").empty());
    std::string ports = "  ingress: [{toPorts: [{ports: [";
    for (int i = 1; i <= 41; ++i) ports += fmt::format("{{port: '{}'}},", i);
    EXPECT_NE(error_of_spec(ports + "]}]}]\n").find("at most 40 elements"), std::string::npos);
    // Nine lists of nine aliases each, nine deep: 9^9 values.
    std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
    for (int i = 1; i < 9; ++i) {
        bomb += fmt::format("a{0}: &a{0} [", i);
        for (int k = 0; k < 9; ++k) bomb += fmt::format("{}*a{}", k == 0 ? "" : ", ", i - 1);
        bomb += "]\n";
    }
    EXPECT_NE(error_of(bomb).find("more than 1000000 values"), std::string::npos);
}

}  // namespace
}  // namespace mesh::sources::config
