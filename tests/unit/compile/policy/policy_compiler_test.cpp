#include "compile/policy/policy_compiler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "compile/policy/entry_shapes.hpp"
#include "sources/config/policy_documents.hpp"
#include "support/policy/compiled.hpp"

namespace mesh::compile {
namespace {

using model::policy::Direction;
using model::policy::PolicyKind;

PolicyIdentity pod(std::uint32_t id, std::string_view app) {
    return {id,
            {{"k8s", "app", app},
             {"k8s", "io.cilium.k8s.policy.cluster", "east"},
             {"k8s", "io.kubernetes.pod.namespace", "shop"}},
            {}};
}

model::policy::PolicyPtr policy(const std::string& name, const std::string& spec) {
    const auto parsed = sources::config::parse_policies(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: " + name +
            ", namespace: shop}\nspec:\n" + spec,
        "f", sources::config::PolicyFeatures::all());
    EXPECT_TRUE(parsed.errors.empty()) << parsed.errors.front();
    return parsed.policies.at(0);
}

PolicyOptions options() {
    PolicyOptions all;
    all.cluster = "east";
    return all;
}

std::vector<EntryShape> blocks(std::uint16_t first, std::uint16_t last) {
    return port_blocks(6, first, last);
}

TEST(PortBlocks, AreTheFewestAlignedOnes) {
    EXPECT_EQ(blocks(80, 80), (std::vector<EntryShape>{{6, 24, 80, {}}}));
    EXPECT_EQ(blocks(80, 84), (std::vector<EntryShape>{{6, 22, 80, {}}, {6, 24, 84, {}}}));
    EXPECT_EQ(blocks(0, 65'535), (std::vector<EntryShape>{{6, 8, 0, {}}}));
    EXPECT_EQ(blocks(1, 65'535).size(), 16U);
    for (const auto& [first, last] : {std::pair{1, 65'535}, {77, 1'234}, {65'535, 65'535}}) {
        std::size_t ports = 0;
        const auto all =
            blocks(static_cast<std::uint16_t>(first), static_cast<std::uint16_t>(last));
        for (const EntryShape& one : all) ports += std::size_t{1} << (24U - one.length);
        EXPECT_EQ(ports, static_cast<std::size_t>(last - first + 1));
    }
}

TEST(Reduce, LeavesOutWhatABroaderEntryDecides) {
    const EntryShape deny{0, 0, 0, {.precedence = kPrecedenceDeny}};
    const EntryShape allow{6, 24, 80, {.precedence = kPrecedenceAllow}};
    const EntryShape redirect{6, 24, 80, {.precedence = 154, .redirect = 1}};
    const EntryShape all{0, 0, 0, {.precedence = kPrecedenceAllow}};
    EXPECT_EQ(reduce({allow, deny}, {}), std::vector{deny});
    EXPECT_EQ(reduce({allow, all}, {}), std::vector{all});
    EXPECT_EQ(reduce({redirect, all}, {}), (std::vector{all, redirect}));
    EXPECT_EQ(reduce({allow, redirect}, {}), std::vector{redirect});
    EXPECT_TRUE(reduce({allow}, std::vector{deny}).empty());
    EXPECT_TRUE(reduce({allow}, std::vector{all}).empty());
    EXPECT_EQ(reduce({deny}, std::vector{all}), std::vector{deny});
}

TEST(Reduce, FindsItsWayInManyWildcardEntries) {
    std::vector<EntryShape> wildcard;
    for (unsigned i = 0; i < 1'000; ++i) {
        wildcard.push_back(
            {6, 22, static_cast<std::uint16_t>(8 * i), {.precedence = kPrecedenceAllow}});
    }
    std::vector<EntryShape> shapes;
    for (unsigned port = 0; port < 8'000; ++port) {
        shapes.push_back(
            {6, 24, static_cast<std::uint16_t>(port), {.precedence = kPrecedenceAllow}});
    }
    shapes.push_back({17, 24, 80, {.precedence = kPrecedenceAllow}});
    const auto left = reduce(shapes, wildcard);
    // Four of each eight ports, and the other protocol.
    ASSERT_EQ(left.size(), 4'001U);
    EXPECT_EQ(left.front().port, 4);
    EXPECT_EQ(left.back().protocol, 17);
    wildcard.insert(wildcard.begin(), {0, 0, 0, {.precedence = kPrecedenceDeny}});
    EXPECT_TRUE(reduce(shapes, wildcard).empty());
}

TEST(PolicyCompiler, TellsOnlyWhatAnIdentityChanges) {
    PolicyCompiler compiler(options());
    compiler.upsert_identity(pod(65'537, "web"));
    compiler.upsert_endpoint(1, {pod(0, "api").labels, {}});
    compiler.upsert_endpoint(2, {pod(0, "api").labels, {}});
    compiler.upsert_endpoint(3, {pod(0, "db").labels, {}});
    compiler.upsert_policy(policy("p",
                                  "  endpointSelector: {matchLabels: {app: api}}\n"
                                  "  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}]\n"
                                  "    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n"));
    auto changes = compiler.flush();
    ASSERT_EQ(changes.size(), 2U);
    EXPECT_TRUE(changes[0].replaced);
    EXPECT_EQ(changes[0].endpoints, (std::vector<std::uint32_t>{1, 2}));
    EXPECT_EQ(changes[0].policy.get(), compiler.find(2));
    EXPECT_TRUE(compiler.flush().empty());

    compiler.upsert_identity(pod(131'073, "db"));  // nobody selects it
    EXPECT_TRUE(compiler.flush().empty());
    compiler.upsert_identity({131'074, pod(0, "web").labels, {}});
    changes = compiler.flush();
    ASSERT_EQ(changes.size(), 1U);
    EXPECT_FALSE(changes[0].replaced);
    EXPECT_EQ(changes[0].endpoints, (std::vector<std::uint32_t>{1, 2}));
    ASSERT_EQ(changes[0].entries.size(), 1U);
    const PolicyMapKey key{131'074, Direction::kIngress, 6, 24, 80};
    EXPECT_EQ(changes[0].entries[0].first, key);
    EXPECT_EQ(changes[0].entries[0].second, (PolicyMapValue{.precedence = kPrecedenceAllow}));
    compiler.upsert_identity({131'074, pod(0, "web").labels, {}});  // the same again
    EXPECT_TRUE(compiler.flush().empty());
    compiler.remove_identity(131'074);
    changes = compiler.flush();
    ASSERT_EQ(changes.size(), 1U);
    EXPECT_EQ(changes[0].entries[0].first, key);
    EXPECT_FALSE(changes[0].entries[0].second);
}

TEST(PolicyCompiler, BuildsOnlyWhatAPolicySelects) {
    PolicyCompiler compiler(options());
    compiler.upsert_endpoint(1, {pod(0, "api").labels, {}});
    compiler.upsert_endpoint(3, {pod(0, "db").labels, {}});
    static_cast<void>(compiler.flush());
    const auto one =
        policy("p", "  endpointSelector: {matchLabels: {app: api}}\n  ingress: [{}]\n");
    compiler.upsert_policy(one);
    auto changes = compiler.flush();
    ASSERT_EQ(changes.size(), 1U);
    EXPECT_EQ(changes[0].endpoints, std::vector<std::uint32_t>{1});
    EXPECT_TRUE(compiler.find(1)->direction(Direction::kIngress).enforced());
    EXPECT_FALSE(compiler.find(3)->direction(Direction::kIngress).enforced());
    compiler.upsert_policy(one);
    EXPECT_TRUE(compiler.flush().empty());
    compiler.remove_policy({PolicyKind::kCiliumNetworkPolicy, "shop", "p"});
    EXPECT_EQ(compiler.flush().size(), 1U);
    EXPECT_FALSE(compiler.find(1)->direction(Direction::kIngress).enforced());
    compiler.remove_endpoint(1);
    EXPECT_EQ(compiler.find(1), nullptr);
    EXPECT_TRUE(compiler.flush().empty());
}

TEST(PolicyCompiler, LetsNothingPassWhereRulesContradict) {
    PolicyCompiler compiler(options());
    compiler.upsert_identity(pod(65'537, "web"));
    compiler.upsert_endpoint(1, {pod(0, "api").labels, {}});
    const std::string head =
        "  endpointSelector: {}\n  ingress:\n  - toPorts:\n"
        "    - ports: [{port: '80', protocol: TCP}]\n";
    compiler.upsert_policy(policy("a", head + "      rules: {http: [{}]}\n"));
    compiler.upsert_policy(policy("b", head + "      rules: {l7proto: x}\n"));
    static_cast<void>(compiler.flush());
    const EndpointPolicy* now = compiler.find(1);
    ASSERT_TRUE(now->conflict());
    EXPECT_EQ(now->conflict()->detail(),
              "L7 rules of http and x on one port: ingress 80 of protocol 6");
    EXPECT_EQ(now->entry_count(), 0U);
    EXPECT_TRUE(now->direction(Direction::kEgress).enforced());
    compiler.remove_policy({PolicyKind::kCiliumNetworkPolicy, "shop", "b"});
    static_cast<void>(compiler.flush());
    now = compiler.find(1);
    EXPECT_FALSE(now->conflict());
    ASSERT_EQ(now->redirects().size(), 1U);
    EXPECT_EQ(now->redirects()[0].parser, "http");
    EXPECT_EQ(compiler.l7_rules(now->redirects()[0], 65'537).size(), 1U);
}

TEST(PolicyCompiler, KeepsWhatAReaderHolds) {
    PolicyCompiler compiler(options());
    compiler.upsert_endpoint(1, {pod(0, "api").labels, {}});
    const auto before = compiler.flush().at(0).policy;
    compiler.upsert_policy(policy("p", "  endpointSelector: {}\n  ingress: [{}]\n"));
    const auto after = compiler.flush().at(0).policy;
    EXPECT_NE(before, after);
    EXPECT_FALSE(before->direction(Direction::kIngress).enforced());
    EXPECT_TRUE(after->direction(Direction::kIngress).enforced());
}

}  // namespace
}  // namespace mesh::compile
