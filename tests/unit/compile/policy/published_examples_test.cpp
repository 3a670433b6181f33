// The kinds of policy that Cilium's documentation shows (layers 3, 4 and 7, deny, host, clusters),
// as policies of our own, from text to verdict, with the switches of 1.19: what the text promises
// is what compiler and reference evaluator say.
#include <gtest/gtest.h>

#include <algorithm>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sources/config/policy_documents.hpp"
#include "support/policy/compiled.hpp"

namespace mesh::test {
namespace {

using model::Label;
using model::policy::Direction;

struct Expectation {
    std::string_view peer;
    Direction direction;
    std::uint8_t protocol;
    std::uint16_t port;
    char verdict;
};

constexpr auto kIn = Direction::kIngress;
constexpr auto kOut = Direction::kEgress;

RefIdentity pod(std::uint32_t id, std::string_view cluster, std::string_view space,
                std::vector<Label> labels) {
    labels.push_back({"k8s", "io.cilium.k8s.policy.cluster", cluster});
    labels.push_back({"k8s", "io.kubernetes.pod.namespace", space});
    labels.push_back({"k8s", "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", space});
    std::ranges::sort(labels);
    return {id, std::move(labels), {}};
}

RefIdentity block(std::uint32_t id, std::string_view cidr, std::vector<Label> more = {}) {
    more.push_back({"cidr", cidr, ""});
    more.push_back({"reserved", "world", ""});
    std::ranges::sort(more);
    return {(1U << 24) + id, std::move(more), *model::IpPrefix::parse(cidr)};
}

const std::map<std::string_view, RefIdentity>& everybody() {
    static const std::map<std::string_view, RefIdentity> kAll{
        {"host", {1, {{"k8s", "type", "ingress-worker"}, {"reserved", "host", ""}}, {}}},
        {"world", {2, {{"reserved", "world", ""}}, {}}},
        {"health", {4, {{"reserved", "health", ""}}, {}}},
        {"remote-node", {6, {{"reserved", "remote-node", ""}}, {}}},
        {"apiserver",
         {7, {{"reserved", "kube-apiserver", ""}, {"reserved", "remote-node", ""}}, {}}},
        {"frontend",
         pod(65'537, "east", "default", {{"k8s", "role", "frontend"}, {"k8s", "env", "prod"}})},
        {"backend",
         pod(65'538, "east", "default", {{"k8s", "role", "backend"}, {"k8s", "env", "prod"}})},
        {"tester",
         pod(65'539, "east", "default", {{"k8s", "role", "frontend"}, {"k8s", "env", "test"}})},
        {"elsewhere", pod(65'540, "east", "ns2", {{"k8s", "role", "frontend"}})},
        {"dns", pod(65'541, "east", "kube-system", {{"k8s", "k8s-app", "kube-dns"}})},
        {"west-frontend", pod(131'073, "west", "default", {{"k8s", "role", "frontend"}})},
        {"west-backend", pod(131'074, "west", "default", {{"k8s", "role", "backend"}})},
        {"20.1.1.1", block(1, "20.1.1.1/32")},
        {"10.96.0.0", block(2, "10.96.0.0/12")},
        {"10.1.0.0", block(3, "10.1.0.0/16")},
        {"named", block(4, "192.0.2.9/32", {{"fqdn", "my-remote-service.com", ""}})},
        {"pattern", block(5, "192.0.2.10/32", {{"fqdn", "*.example.org", ""}})},
        {"outside-db", block(6, "198.51.100.7/32")},
    };
    return kAll;
}

void check(std::string_view subject, std::string_view policies,
           std::initializer_list<Expectation> expectations) {
    RefWorld world;
    world.options.cluster = "east";
    world.options.host_firewall = true;
    for (const auto& [name, identity] : everybody()) world.identities.push_back(identity);
    auto parsed = sources::config::parse_policies(policies, "example");
    for (const auto& error : parsed.errors) ADD_FAILURE() << error;
    world.policies = parsed.policies;
    world.services = {{"db", "default", {}, {}, {*model::IpAddress::parse("198.51.100.7")}},
                      {"shop", "default", {}, {{"", "role", "backend"}}, {}}};
    compile::PolicyCompiler compiler(world.options);
    fill(compiler, world);
    const RefIdentity& who = everybody().at(subject);
    compiler.upsert_endpoint(1, {who.labels, {}});
    static_cast<void>(compiler.flush());
    const auto entries = entries_of(compiler, 1);
    const MapLookup lookup(entries);
    const Reference reference(world);
    for (const Expectation& one : expectations) {
        const RefIdentity& peer = everybody().at(one.peer);
        const std::string where =
            std::string(one.direction == kIn ? "from " : "to ") + std::string(one.peer) +
            " protocol " + std::to_string(one.protocol) + " port " + std::to_string(one.port);
        const auto found = lookup.find(one.direction, peer.id, one.protocol, one.port);
        EXPECT_EQ(static_cast<char>(to_verdict(found)), one.verdict) << "compiled: " << where;
        const auto verdict = reference.verdict(who, {one.direction, one.protocol, one.port, &peer});
        EXPECT_EQ(static_cast<char>(verdict), one.verdict) << "reference: " << where;
    }
}

std::string cnp(std::string_view spec) {
    return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: "
           "example}\nspec:\n" +
           std::string(spec);
}
std::string ccnp(std::string_view spec) {
    return "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: "
           "example}\nspec:\n" +
           std::string(spec);
}
std::string knp(std::string_view spec) {
    return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: "
           "example}\nspec:\n" +
           std::string(spec);
}

TEST(PublishedExamples, Layer3ByLabels) {
    check("backend",
          cnp("  endpointSelector: {matchLabels: {role: backend}}\n"
              "  ingress:\n  - fromEndpoints:\n    - matchLabels: {role: frontend}\n"),
          {{"frontend", kIn, 6, 80, 'A'},
           {"tester", kIn, 17, 53, 'A'},
           {"backend", kIn, 6, 80, '-'},
           {"elsewhere", kIn, 6, 80, '-'},
           {"west-frontend", kIn, 6, 80, '-'},
           {"world", kIn, 6, 80, '-'},
           {"host", kIn, 6, 80, 'A'},
           {"world", kOut, 6, 443, 'A'}});
}

TEST(PublishedExamples, EverybodyOfTheNamespace) {
    check("backend",
          cnp("  endpointSelector: {matchLabels: {role: backend}}\n"
              "  ingress:\n  - fromEndpoints: [{}]\n"),
          {{"tester", kIn, 6, 1, 'A'}, {"elsewhere", kIn, 6, 1, '-'}, {"dns", kIn, 6, 1, '-'}});
}

TEST(PublishedExamples, LockdownOfANamespace) {
    check(
        "frontend", cnp("  endpointSelector: {}\n  ingress: [{}]\n  egress: [{}]\n"),
        {{"backend", kIn, 6, 80, '-'}, {"backend", kOut, 6, 80, '-'}, {"dns", kOut, 17, 53, '-'}});
}

TEST(PublishedExamples, RequiredLabels) {
    check("backend",
          cnp("  endpointSelector: {matchLabels: {env: prod}}\n"
              "  ingress:\n  - fromRequires: [{matchLabels: {env: prod}}]\n"
              "  - fromEndpoints: [{matchLabels: {role: frontend}}]\n"),
          {{"frontend", kIn, 6, 80, 'A'}, {"tester", kIn, 6, 80, '-'}});
}

TEST(PublishedExamples, Entities) {
    check("frontend",
          cnp("  endpointSelector: {matchLabels: {env: prod}}\n  egress:\n"
              "  - toEntities: [kube-apiserver]\n  - toEntities: [remote-node]\n"
              "    toPorts: [{ports: [{port: '4240', protocol: TCP}]}]\n"
              "  ingress:\n  - fromEntities: [world]\n"),
          {{"apiserver", kOut, 6, 6443, 'A'},
           {"remote-node", kOut, 6, 6443, '-'},
           {"remote-node", kOut, 6, 4240, 'A'},
           {"backend", kOut, 6, 80, '-'},
           {"world", kIn, 6, 80, 'A'},
           {"20.1.1.1", kIn, 6, 80, 'A'},
           {"backend", kIn, 6, 80, '-'}});
    check("frontend", cnp("  endpointSelector: {}\n  egress:\n  - toEntities: [cluster]\n"),
          {{"backend", kOut, 6, 80, 'A'},
           {"elsewhere", kOut, 6, 80, 'A'},
           {"west-backend", kOut, 6, 80, '-'},
           {"health", kOut, 6, 80, 'A'},
           {"world", kOut, 6, 80, '-'}});
}

TEST(PublishedExamples, BlocksOfAddresses) {
    check("frontend",
          cnp("  endpointSelector: {}\n  egress:\n  - toCIDR: [20.1.1.1/32]\n"
              "  - toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.96.0.0/12]}]\n"),
          {{"20.1.1.1", kOut, 6, 80, 'A'},
           {"10.1.0.0", kOut, 6, 80, 'A'},
           {"10.96.0.0", kOut, 6, 80, '-'},
           {"backend", kOut, 6, 80, '-'},
           {"world", kOut, 6, 80, '-'}});
}

TEST(PublishedExamples, NamesAndTheirDns) {
    check(
        "frontend",
        cnp("  endpointSelector: {}\n  egress:\n"
            "  - toEndpoints:\n    - matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system, "
            "'k8s:k8s-app': kube-dns}\n"
            "    toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: "
            "'*'}]}}]\n"
            "  - toFQDNs: [{matchName: my-remote-service.com}]\n"
            "  - toFQDNs: [{matchPattern: '*.example.org'}]\n"
            "    toPorts: [{ports: [{port: '443', protocol: TCP}]}]\n"),
        {{"dns", kOut, 17, 53, 'R'},
         {"dns", kOut, 6, 53, 'R'},
         {"dns", kOut, 6, 80, '-'},
         {"named", kOut, 6, 80, 'A'},
         {"pattern", kOut, 6, 443, 'A'},
         {"pattern", kOut, 6, 80, '-'},
         {"20.1.1.1", kOut, 6, 443, '-'}});
}

TEST(PublishedExamples, Services) {
    check("frontend",
          cnp("  endpointSelector: {}\n  egress:\n"
              "  - toServices: [{k8sService: {serviceName: db, namespace: default}}]\n"
              "  - toServices: [{k8sService: {serviceName: shop, namespace: default}}]\n"
              "    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n"),
          {{"outside-db", kOut, 6, 5432, 'A'},
           {"backend", kOut, 6, 80, 'A'},
           {"backend", kOut, 6, 81, '-'},
           {"west-backend", kOut, 6, 80, '-'},
           {"frontend", kOut, 6, 80, '-'}});
}

TEST(PublishedExamples, Layer4) {
    check(
        "frontend",
        cnp("  endpointSelector: {}\n  egress:\n"
            "  - toPorts: [{ports: [{port: '80', endPort: 444, protocol: TCP}]}]\n"
            "  - icmps: [{fields: [{type: 8, family: IPv4}, {type: EchoRequest, family: IPv6}]}]\n"
            "  ingress:\n  - fromEndpoints: [{matchLabels: {role: backend}}]\n"
            "    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n"),
        {{"world", kOut, 6, 79, '-'},
         {"world", kOut, 6, 80, 'A'},
         {"west-backend", kOut, 6, 444, 'A'},
         {"world", kOut, 6, 445, '-'},
         {"world", kOut, 17, 80, '-'},
         {"world", kOut, 1, 8, 'A'},
         {"world", kOut, 1, 0, '-'},
         {"world", kOut, 58, 128, 'A'},
         {"backend", kIn, 6, 80, 'A'},
         {"backend", kIn, 6, 81, '-'},
         {"tester", kIn, 6, 80, '-'}});
}

TEST(PublishedExamples, Http) {
    check("backend",
          cnp("  endpointSelector: {matchLabels: {role: backend}}\n  ingress:\n"
              "  - fromEndpoints: [{matchLabels: {env: prod}}]\n"
              "    toPorts:\n    - ports: [{port: '80', protocol: TCP}]\n"
              "      rules: {http: [{method: GET, path: /public}, {method: PUT, path: '/path2$', "
              "headers: ['X-My-Header: true']}]}\n"),
          {{"frontend", kIn, 6, 80, 'R'},
           {"frontend", kIn, 6, 81, '-'},
           {"tester", kIn, 6, 80, '-'}});
}

TEST(PublishedExamples, Deny) {
    check("backend",
          ccnp("  endpointSelector: {}\n"
               "  ingressDeny:\n  - fromEntities: [world]\n"
               "  ingress:\n  - fromEntities: [all]\n"),
          {{"world", kIn, 6, 80, 'D'},
           {"20.1.1.1", kIn, 6, 80, 'D'},
           {"west-frontend", kIn, 6, 80, 'A'},
           {"frontend", kIn, 6, 80, 'A'}});
    check(
        "backend",
        cnp("  endpointSelector: {}\n"
            "  ingressDeny:\n  - fromEndpoints: [{matchLabels: {env: test}}]\n"
            "    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n"
            "  ingress:\n  - fromEndpoints: [{}]\n"),
        {{"tester", kIn, 6, 80, 'D'}, {"tester", kIn, 6, 81, 'A'}, {"frontend", kIn, 6, 80, 'A'}});
}

TEST(PublishedExamples, NodesOfTheCluster) {
    check("host",
          ccnp("  nodeSelector: {matchLabels: {type: ingress-worker}}\n"
               "  ingress:\n  - fromEntities: [remote-node, health]\n"
               "  - toPorts: [{ports: [{port: '22', protocol: TCP}, {port: '6443', protocol: "
               "TCP}]}]\n"),
          {{"remote-node", kIn, 6, 2379, 'A'},
           {"health", kIn, 6, 4240, 'A'},
           {"world", kIn, 6, 22, 'A'},
           {"world", kIn, 6, 80, '-'},
           {"backend", kIn, 6, 80, '-'},
           {"backend", kOut, 6, 80, 'A'}});
}

TEST(PublishedExamples, AcrossClusters) {
    check("frontend",
          cnp("  endpointSelector: {matchLabels: {role: frontend, io.cilium.k8s.policy.cluster: "
              "east}}\n  egress:\n  - toEndpoints:\n    - matchLabels: {role: backend, "
              "io.cilium.k8s.policy.cluster: west}\n"),
          {{"west-backend", kOut, 6, 80, 'A'},
           {"backend", kOut, 6, 80, '-'},
           {"west-frontend", kOut, 6, 80, '-'}});
    check("backend",
          cnp("  endpointSelector: {}\n  ingress:\n  - fromEndpoints:\n"
              "    - matchLabels: {role: frontend}\n      matchExpressions: [{key: "
              "'k8s:io.cilium.k8s.policy.cluster', operator: Exists}]\n"),
          {{"frontend", kIn, 6, 80, 'A'},
           {"west-frontend", kIn, 6, 80, 'A'},
           {"elsewhere", kIn, 6, 80, '-'}});
}

TEST(PublishedExamples, AcrossNamespaces) {
    check("backend",
          cnp("  endpointSelector: {}\n  ingress:\n  - fromEndpoints:\n    - matchLabels: "
              "{'k8s:io.kubernetes.pod.namespace': ns2}\n"),
          {{"elsewhere", kIn, 6, 80, 'A'}, {"frontend", kIn, 6, 80, '-'}});
    check("backend",
          ccnp("  endpointSelector: {matchLabels: {role: backend}}\n  ingress:\n"
               "  - fromEndpoints: [{matchLabels: {role: frontend}}]\n"),
          {{"elsewhere", kIn, 6, 80, 'A'},
           {"frontend", kIn, 6, 80, 'A'},
           {"west-frontend", kIn, 6, 80, '-'}});
}

TEST(PublishedExamples, DnsOfAllSeenWithoutDefaultDeny) {
    check("frontend",
          ccnp("  endpointSelector: {}\n  enableDefaultDeny: {egress: false, ingress: false}\n"
               "  egress:\n  - toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': "
               "kube-system, 'k8s:k8s-app': kube-dns}}]\n"
               "    toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: "
               "'*'}]}}]\n"),
          {{"dns", kOut, 17, 53, 'R'},
           {"dns", kOut, 17, 54, 'A'},
           {"world", kOut, 6, 443, 'A'},
           {"world", kIn, 6, 443, 'A'}});
}

TEST(PublishedExamples, KubernetesNetworkPolicies) {
    check("backend", knp("  podSelector: {}\n  policyTypes: [Ingress, Egress]\n"),
          {{"frontend", kIn, 6, 80, '-'}, {"frontend", kOut, 6, 80, '-'}});
    check("backend",
          knp("  podSelector: {matchLabels: {role: backend}}\n  ingress:\n  - from:\n"
              "    - ipBlock: {cidr: 10.0.0.0/8, except: [10.96.0.0/12]}\n"
              "    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ns2}}\n"
              "    - podSelector: {matchLabels: {role: frontend}}\n"
              "    ports: [{protocol: TCP, port: 6379, endPort: 6400}]\n"),
          {{"10.1.0.0", kIn, 6, 6379, 'A'},
           {"10.96.0.0", kIn, 6, 6379, '-'},
           {"elsewhere", kIn, 6, 6400, 'A'},
           {"frontend", kIn, 6, 6390, 'A'},
           {"frontend", kIn, 6, 6401, '-'},
           {"west-frontend", kIn, 6, 6379, '-'},
           {"dns", kIn, 6, 6379, '-'},
           {"world", kOut, 6, 80, 'A'}});
}

}  // namespace
}  // namespace mesh::test
