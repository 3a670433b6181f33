// Explanations: that they say what the entries and the reference evaluator say, that they name all
// rules that match and no other, and what they say of single cases.
#include "compile/policy/explain.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>

#include "sources/config/policy_documents.hpp"
#include "support/policy/compiled.hpp"
#include "support/policy/random_world.hpp"

namespace mesh::test {
namespace {

using compile::Explanation;
using compile::PolicyAnswer;
using compile::PolicyQuestion;
using model::policy::Direction;
using model::policy::L7Rules;
using model::policy::Policy;

// --- random sets ------------------------------------------------------------------------------

constexpr std::array<std::uint8_t, 4> kProtocols{6, 17, 132, 1};
constexpr std::array<std::uint16_t, 10> kPorts{0, 3, 8, 80, 81, 83, 443, 5353, 8081, 8082};

RefVerdict to_verdict(PolicyAnswer answer) {
    switch (answer) {
        case PolicyAnswer::kAllowed:
        case PolicyAnswer::kNotEnforced:
            return RefVerdict::kAllow;
        case PolicyAnswer::kRedirected:
            return RefVerdict::kRedirect;
        case PolicyAnswer::kDenied:
            return RefVerdict::kDeny;
        case PolicyAnswer::kDefaultDenied:
            break;
    }
    return RefVerdict::kDrop;
}

bool is_subject(const RefIdentity& identity) {
    return identity.id == 1 || (identity.id >> 16 == 1 && identity.id % 65536 <= 2);
}

RefPacket random_packet(RandomWorld& random, const RefWorld& world) {
    return {random.one_in(2) ? Direction::kIngress : Direction::kEgress,
            kProtocols.at(random.below(random.one_in(3) ? 4 : 1)),
            kPorts.at(random.below(kPorts.size())),
            &world.identities[random.below(world.identities.size())]};
}

std::string text_of(const RefIdentity& subject, const RefPacket& packet) {
    return fmt::format("subject {} {} protocol {} port {} peer {}", subject.id,
                       packet.direction == Direction::kIngress ? "ingress" : "egress",
                       packet.protocol, packet.port, packet.peer->id);
}

Explanation explain(compile::PolicyCompiler& compiler, const RefWorld& world,
                    const RefIdentity& subject, const RefPacket& packet) {
    PolicyQuestion question;
    question.peer = packet.peer->id;
    question.direction = packet.direction;
    question.protocol = packet.protocol;
    question.port = packet.port;
    return compile::explain(compiler, {subject.labels, world.subject_ports}, question);
}

/// Of some subjects there are endpoints, of others not: both are explained.
void fill_with_endpoints(compile::PolicyCompiler& compiler, const RefWorld& world) {
    fill(compiler, world);
    for (const RefIdentity& one : world.identities) {
        if (is_subject(one) && one.id % 2 == 1) {
            compiler.upsert_endpoint(one.id, {one.labels, world.subject_ports});
        }
    }
    static_cast<void>(compiler.flush());
}

/// What is wrong with an explanation, beside the matches.
std::string check_answer(const compile::PolicyCompiler& compiler, const RefWorld& world,
                         const RefIdentity& subject, const RefPacket& packet,
                         const Explanation& out) {
    const Reference reference(world);
    const RefVerdict theirs = reference.verdict(subject, packet);
    if (to_verdict(out.answer) != theirs) {
        return fmt::format("{}, reference says {}", to_string(out.answer),
                           static_cast<char>(theirs));
    }
    if (out.enforced != reference.enforced(subject, packet.direction)) return "enforced";
    if (compiler.find(subject.id) != nullptr) {
        const auto entries = entries_of(compiler, subject.id);
        const auto value = MapLookup(entries).find(packet.direction, packet.peer->id,
                                                   packet.protocol, packet.port);
        if (out.entry.has_value() != value.has_value() || (value && out.entry->second != *value)) {
            return "another entry than the map's";
        }
        if (!out.installed) return "not installed";
    }
    if (out.answer == PolicyAnswer::kDenied || out.answer == PolicyAnswer::kRedirected) {
        if (out.decided.empty()) return "nothing decided";
    }
    if (out.answer == PolicyAnswer::kNotEnforced && out.enforced) return "enforced";
    for (const auto& match : out.decided) {
        if (match.deny != (out.answer == PolicyAnswer::kDenied)) return "decided by the wrong side";
    }
    return {};
}

/// The elements of the rules in the world that the matches name.
std::set<const void*> elements_of(const RefWorld& world, const Explanation& out,
                                  Direction direction) {
    std::set<const void*> elements;
    for (const auto* list : {&out.decided, &out.lost}) {
        for (const auto& match : *list) {
            const auto policy = std::ranges::find_if(
                world.policies, [&](const auto& one) { return one->key == match.place.policy; });
            unsigned rule = 0, element = 0;
            const std::string format = fmt::format(
                "rules[%u].{}{}[%u]", direction == Direction::kIngress ? "ingress" : "egress",
                match.deny ? "Deny" : "");
            // NOLINTNEXTLINE(clang-diagnostic-format-nonliteral)
            if (std::sscanf(match.place.path.c_str(), format.c_str(), &rule, &element) != 2) {
                ADD_FAILURE() << match.place.path;
                continue;
            }
            const auto& from = (*policy)->rules.at(rule);
            const std::size_t at = index_of(direction);
            elements.insert(&(match.deny ? from.deny[at] : from.allow[at]).at(element));
        }
    }
    return elements;
}

/// The world with those elements, or without them. All of their direction is enforced.
RefWorld filtered(const RefWorld& world, const std::set<const void*>& elements, bool keep) {
    RefWorld out = world;
    for (std::size_t i = 0; i < world.policies.size(); ++i) {
        auto copy = std::make_shared<Policy>(*world.policies[i]);
        for (std::size_t r = 0; r < copy->rules.size(); ++r) {
            const auto& from = world.policies[i]->rules[r];
            auto& to = copy->rules[r];
            for (const std::size_t at : {0U, 1U}) {
                for (auto lists : {std::pair(&from.allow[at], &to.allow[at]),
                                   std::pair(&from.deny[at], &to.deny[at])}) {
                    lists.second->clear();
                    for (const auto& element : *lists.first) {
                        if (elements.contains(&element) == keep) lists.second->push_back(element);
                    }
                }
                to.enable_default_deny[at] = true;
            }
        }
        out.policies[i] = std::move(copy);
    }
    return out;
}

bool has_requirements(const RefWorld& world) {
    for (const auto& policy : world.policies) {
        for (const auto& rule : policy->rules) {
            for (const std::size_t at : {0U, 1U}) {
                for (const auto* list : {&rule.allow[at], &rule.deny[at]}) {
                    for (const auto& element : *list) {
                        if (!element.peers.requires_.empty()) return true;
                    }
                }
            }
        }
    }
    return false;
}

/// That exactly the elements match that are named: without them nothing is left, and each of them
/// alone is about the packet.
std::string check_matches(const RefWorld& world, const RefIdentity& subject,
                          const RefPacket& packet, const Explanation& out) {
    const auto elements = elements_of(world, out, packet.direction);
    const RefWorld rest = filtered(world, elements, false);
    const RefVerdict without = Reference(rest).verdict(subject, packet);
    const bool exempt = out.answer == PolicyAnswer::kNotEnforced && elements.empty();
    const bool by_nobody = without == RefVerdict::kDrop || exempt || packet.peer->id == 1 ||
                           out.answer == PolicyAnswer::kNotEnforced;
    if (!by_nobody) return fmt::format("without its rules: {}", static_cast<char>(without));
    if (packet.peer->id == 1) return {};
    for (const void* element : elements) {
        const RefWorld alone = filtered(world, {element}, true);
        if (Reference(alone).verdict(subject, packet) == RefVerdict::kDrop) {
            return "a rule is named that is not about the packet";
        }
    }
    return {};
}

TEST(Explain, SaysWhatTheEntriesAndTheReferenceSay) {
    for (std::uint64_t seed = 1; seed <= 4'000; ++seed) {
        RandomWorld random(seed);
        const RefWorld world = random.make();
        compile::PolicyCompiler compiler(world.options);
        fill_with_endpoints(compiler, world);
        const bool plain = !has_requirements(world);
        for (int i = 0; i < 40; ++i) {
            const RefIdentity* subject = nullptr;
            while (subject == nullptr || !is_subject(*subject)) {
                subject = &world.identities[random.below(world.identities.size())];
            }
            const RefPacket packet = random_packet(random, world);
            const Explanation out = explain(compiler, world, *subject, packet);
            ASSERT_EQ(check_answer(compiler, world, *subject, packet, out), "")
                << "seed " << seed << ": " << text_of(*subject, packet) << "\n"
                << describe(world);
            if (!plain || i % 8 != 0) continue;
            ASSERT_EQ(check_matches(world, *subject, packet, out), "")
                << "seed " << seed << ": " << text_of(*subject, packet) << "\n"
                << describe(world);
        }
    }
}

TEST(Explain, HasTheL7RulesThatTheProxyHas) {
    std::size_t redirected = 0;
    for (std::uint64_t seed = 1; seed <= 1'000; ++seed) {
        RandomWorld random(seed);
        const RefWorld world = random.make();
        compile::PolicyCompiler compiler(world.options);
        fill_with_endpoints(compiler, world);
        for (const RefIdentity& subject : world.identities) {
            const auto* policy = compiler.find(subject.id);
            if (policy == nullptr) continue;
            for (const RefIdentity& peer : world.identities) {
                const RefPacket packet{Direction::kIngress, 6, 80, &peer};
                const Explanation out = explain(compiler, world, subject, packet);
                if (out.answer != PolicyAnswer::kRedirected) continue;
                ++redirected;
                const auto& redirect = policy->redirects().at(out.entry->second.redirect - 1U);
                std::multiset<std::string> ours, theirs;
                for (const auto& one : out.l7) ours.insert(one.text);
                for (const L7Rules* rules : compiler.l7_rules(redirect, peer.id)) {
                    theirs.insert(rules == nullptr ? "everything"
                                                   : compile::to_string(rules->http.front()));
                }
                // Of several items of an element that select the peer the proxy has one each.
                ASSERT_EQ(std::set(ours.begin(), ours.end()),
                          std::set(theirs.begin(), theirs.end()))
                    << "seed " << seed << ": " << text_of(subject, packet) << "\n"
                    << describe(world);
            }
        }
    }
    EXPECT_GT(redirected, 100U);
}

// --- single cases -----------------------------------------------------------------------------

constexpr std::uint32_t kClient = 0x10002, kOther = 0x10003, kRemote = 0x20004;

/// One endpoint, shop/web of cluster east, under the policies of a text.
class Shop {
  public:
    explicit Shop(std::string_view text) : compiler_(options()) {
        const auto parsed = sources::config::parse_policies(text, "shop.yaml");
        EXPECT_TRUE(parsed.errors.empty()) << parsed.errors.front();
        for (const auto& policy : parsed.policies) compiler_.upsert_policy(policy);
        compiler_.upsert_identity({1, {{"reserved", "host", ""}}, {}});
        compiler_.upsert_identity({kClient, pod("client", "east"), {}});
        compiler_.upsert_identity({kOther, pod("other", "east"), {}});
        compiler_.upsert_identity({kRemote, pod("client", "west"), {}});
        compiler_.upsert_endpoint(1, {pod("web", "east"), {{{"http", 6}, 8080}}});
        static_cast<void>(compiler_.flush());
    }
    static compile::PolicyOptions options() {
        compile::PolicyOptions options;
        options.cluster = "east";
        return options;
    }
    static std::vector<model::Label> pod(const char* app, const char* cluster) {
        return {{"k8s", "app", app},
                {"k8s", "io.cilium.k8s.policy.cluster", cluster},
                {"k8s", "io.kubernetes.pod.namespace", "shop"}};
    }
    [[nodiscard]] Explanation ask(std::uint32_t peer, std::uint16_t port,
                                  std::optional<compile::HttpRequest> http = {},
                                  Direction direction = Direction::kIngress) {
        PolicyQuestion question;
        question.peer = peer;
        question.direction = direction;
        question.port = port;
        question.http = std::move(http);
        return compile::explain(compiler_, {pod("web", "east"), {{{"http", 6}, 8080}}}, question);
    }

  private:
    compile::PolicyCompiler compiler_;
};

std::string places(const std::vector<compile::RuleMatch>& matches) {
    std::string out;
    for (const auto& one : matches) {
        out += fmt::format("{} line {} {} {}: {}\n", one.place.policy.to_string(), one.place.line,
                           one.place.path, one.peer, one.why);
    }
    return out;
}

constexpr std::string_view kShop = R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: nobody}
    - matchLabels: {app: client}
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: "/a.*"}
        - {method: PUT}
    - ports: [{port: http, protocol: TCP}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: walls, namespace: shop}
specs:
- endpointSelector: {}
  ingress:
  - fromEntities: [cluster]
    toPorts:
    - ports: [{port: "80", endPort: 81, protocol: TCP}]
- endpointSelector: {}
  description: nothing of others
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {app: other}
)";

TEST(Explain, NamesTheRuleThatDecidedAndWhereItIsWritten) {
    Shop shop(kShop);
    const Explanation out = shop.ask(kClient, 8080);
    EXPECT_EQ(out.answer, PolicyAnswer::kAllowed);
    EXPECT_TRUE(out.allowed());
    EXPECT_TRUE(out.installed);
    EXPECT_EQ(places(out.decided),
              "CiliumNetworkPolicy shop/web line 7 spec.ingress[0].toPorts[1] fromEndpoints[1]: "
              "allows\n");
    EXPECT_EQ(out.decided.front().place.source, "shop.yaml: document 1");
    EXPECT_TRUE(out.lost.empty());
    ASSERT_EQ(out.enforcing.size(), 3U);
    EXPECT_EQ(out.enforcing[0].path, "specs[0]");
    EXPECT_EQ(out.enforcing[1].path, "specs[1]");
    EXPECT_EQ(out.enforcing[2].path, "spec");
    EXPECT_EQ(out.entry->first.identity, kClient);
}

TEST(Explain, TellsWhichL7RuleLetsARequestPassAndWhoLost) {
    Shop shop(kShop);
    const Explanation get = shop.ask(kClient, 80, compile::HttpRequest{"GET", "/about"});
    EXPECT_EQ(get.answer, PolicyAnswer::kRedirected);
    EXPECT_EQ(get.parser, "http");
    ASSERT_EQ(get.l7.size(), 2U);
    EXPECT_EQ(get.l7[0].place.path, "spec.ingress[0].toPorts[0].rules.http[0]");
    EXPECT_EQ(get.l7[0].text, "method GET, path /a.*");
    EXPECT_EQ(get.l7[0].passes, true);
    EXPECT_EQ(get.l7[1].passes, false);
    EXPECT_EQ(get.passes, true);
    EXPECT_EQ(places(get.lost),
              "CiliumNetworkPolicy shop/walls line 24 specs[0].ingress[0].toPorts[0] "
              "fromEntities[0]: an L7 rule goes over rules that allow without looking\n");

    const Explanation other = shop.ask(kClient, 80, compile::HttpRequest{"GET", "/b"});
    EXPECT_EQ(other.passes, false);
    EXPECT_FALSE(other.allowed());
    // Nothing asked: the proxy will decide.
    EXPECT_EQ(shop.ask(kClient, 80).passes, std::nullopt);
    EXPECT_TRUE(shop.ask(kClient, 80).allowed());
}

TEST(Explain, DenyGoesOverAllThatAllows) {
    Shop shop(kShop);
    const Explanation out = shop.ask(kOther, 81);
    EXPECT_EQ(out.answer, PolicyAnswer::kDenied);
    EXPECT_FALSE(out.allowed());
    EXPECT_EQ(places(out.decided),
              "CiliumNetworkPolicy shop/walls line 30 specs[1].ingressDeny[0] fromEndpoints[0]: "
              "denies\n");
    EXPECT_EQ(out.decided.front().description, "nothing of others");
    EXPECT_EQ(places(out.lost),
              "CiliumNetworkPolicy shop/walls line 24 specs[0].ingress[0].toPorts[0] "
              "fromEntities[0]: a deny rule goes over everything that allows\n");
}

TEST(Explain, TellsNoRuleFromNoEnforcement) {
    Shop shop(kShop);
    // A peer of another cluster is not meant by a selector that names none.
    const Explanation remote = shop.ask(kRemote, 8080);
    EXPECT_EQ(remote.answer, PolicyAnswer::kDefaultDenied);
    EXPECT_FALSE(remote.entry.has_value());
    EXPECT_EQ(remote.enforcing.size(), 3U);
    const Explanation egress = shop.ask(kClient, 443, {}, Direction::kEgress);
    EXPECT_EQ(egress.answer, PolicyAnswer::kNotEnforced);
    EXPECT_EQ(egress.remark, "no policy with default deny selects the endpoint for egress");
    EXPECT_TRUE(egress.allowed());
    // The node's own host, which no rule names.
    const Explanation host = shop.ask(1, 9999);
    EXPECT_EQ(host.answer, PolicyAnswer::kAllowed);
    EXPECT_EQ(host.remark, "the node's own host is let in unless it is denied");
    // An identity that nobody knows.
    EXPECT_EQ(shop.ask(0x30001, 80).answer, PolicyAnswer::kDefaultDenied);
}

TEST(Explain, SaysThatRulesContradictEachOther) {
    Shop shop(R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {}
  egress:
  - toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*"}]}
    - ports: [{port: "53", protocol: TCP}]
      rules: {http: [{}]}
)");
    const Explanation out = shop.ask(kClient, 53, {}, Direction::kEgress);
    EXPECT_EQ(out.answer, PolicyAnswer::kDefaultDenied);
    EXPECT_NE(out.remark.find("the rules contradict each other"), std::string::npos) << out.remark;
}

// --- L7 rules ---------------------------------------------------------------------------------

TEST(ExplainL7, HttpRulesAreAnchoredAndHeadersNeedNoCase) {
    const compile::HttpRequest request{
        "GET", "/a/b?c", "shop.example", {{"X-Token", "one"}, {"Accept", "text/html"}}};
    const auto passes = [&](const char* method, const char* path, const char* host,
                            std::vector<std::string> headers = {}) {
        return compile::lets_pass({method, path, host, std::move(headers), {}}, request);
    };
    EXPECT_TRUE(passes("", "", ""));
    EXPECT_TRUE(passes("GET|HEAD", "/a/.*", "shop[.]example"));
    EXPECT_FALSE(passes("GE", "", ""));
    EXPECT_FALSE(passes("", "/a", ""));
    EXPECT_FALSE(passes("", "", "example"));
    EXPECT_TRUE(passes("", "", "", {"x-token", "accept: text/html"}));
    EXPECT_FALSE(passes("", "", "", {"x-token: two"}));
    EXPECT_FALSE(passes("", "", "", {"cookie"}));
    model::policy::HttpRule rule;
    rule.header_matches = {{"X-Token", "two", model::policy::HeaderMismatch::kDrop}};
    EXPECT_FALSE(compile::lets_pass(rule, request));
    rule.header_matches.front().mismatch = model::policy::HeaderMismatch::kReplace;
    EXPECT_TRUE(compile::lets_pass(rule, request));
}

TEST(ExplainL7, NamesMatchByLabel) {
    const auto passes = [](const char* name, const char* pattern, const char* asked) {
        return compile::lets_pass(model::policy::FqdnSelector{name, pattern}, asked);
    };
    EXPECT_TRUE(passes("a.example.org", "", "A.example.org."));
    EXPECT_FALSE(passes("a.example.org", "", "b.example.org"));
    EXPECT_TRUE(passes("", "*.example.org", "a.example.org"));
    EXPECT_FALSE(passes("", "*.example.org", "a.b.example.org"));
    EXPECT_FALSE(passes("", "*.example.org", "axexample.org"));
    EXPECT_TRUE(passes("", "**.example.org", "a.b.example.org"));
    EXPECT_FALSE(passes("", "**.example.org", "example.org"));
    EXPECT_TRUE(passes("", "*", "any.thing.at.all"));
}

}  // namespace
}  // namespace mesh::test
