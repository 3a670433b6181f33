// What other policies would change: against the reference evaluator on random sets, and in few
// lines whatever the number of identities.
#include "compile/policy/policy_diff.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "sources/config/policy_documents.hpp"
#include "support/policy/compiled.hpp"
#include "support/policy/random_world.hpp"

namespace mesh::test {
namespace {

using compile::PolicyAnswer;
using compile::PolicyDiff;
using compile::PortChange;
using model::policy::Direction;

constexpr std::array<std::uint8_t, 4> kProtocols{6, 17, 132, 1};
constexpr std::array<std::uint16_t, 8> kPorts{0, 8, 80, 81, 83, 443, 8081, 65535};

bool is_subject(const RefIdentity& identity) {
    return identity.id == 1 || (identity.id >> 16 == 1 && identity.id % 65536 <= 2);
}

void add_endpoints(compile::PolicyCompiler& compiler, const RefWorld& world) {
    for (const RefIdentity& one : world.identities) {
        if (is_subject(one)) {
            compiler.upsert_endpoint(one.id, {one.labels, world.subject_ports});
        }
    }
}

/// Whether, and to what, the difference says that a packet's outcome changes.
const PortChange* find(const PolicyDiff& diff, std::uint32_t endpoint, const RefPacket& packet) {
    for (const auto& one : diff.differences) {
        if (one.direction != packet.direction) continue;
        const bool ours = std::ranges::any_of(one.subjects, [&](const auto& subject) {
            return std::ranges::binary_search(subject.endpoints, endpoint);
        });
        if (!ours || !std::ranges::binary_search(one.peers, packet.peer->id)) continue;
        for (const PortChange& change : one.ports) {
            if (change.protocol == PortChange::kAll) return &change;
            if (change.protocol == packet.protocol && packet.port >= change.first &&
                packet.port <= change.last) {
                return &change;
            }
        }
    }
    return nullptr;
}

char letter(PolicyAnswer answer) {
    return answer == PolicyAnswer::kAllowed ? 'A' : answer == PolicyAnswer::kRedirected ? 'R' : 'D';
}

char letter(RefVerdict verdict) {
    return verdict == RefVerdict::kDrop ? 'D' : static_cast<char>(verdict);
}

/// What a difference says otherwise than the reference.
std::string check(const RefWorld& before, const RefWorld& after, const PolicyDiff& diff) {
    for (const RefIdentity& subject : before.identities) {
        if (!is_subject(subject)) continue;
        for (const RefIdentity& peer : before.identities) {
            for (const Direction direction : model::policy::kDirections) {
                for (const std::uint8_t protocol : kProtocols) {
                    for (const std::uint16_t port : kPorts) {
                        const RefPacket packet{direction, protocol, port, &peer};
                        const char old = letter(Reference(before).verdict(subject, packet));
                        const char now = letter(Reference(after).verdict(subject, packet));
                        const PortChange* const told = find(diff, subject.id, packet);
                        // Redirects of both may differ in their L7 rules.
                        if (told == nullptr && old == now) continue;
                        if (told != nullptr && letter(told->before.answer) == old &&
                            letter(told->after.answer) == now && (old != now || old == 'R')) {
                            continue;
                        }
                        return fmt::format("subject {} peer {} {} {}/{}: {} to {}, told {}",
                                           subject.id, peer.id,
                                           direction == Direction::kIngress ? "in" : "out",
                                           protocol, port, old, now, told != nullptr);
                    }
                }
            }
        }
    }
    return {};
}

TEST(PolicyDiff, SaysWhatTheReferenceSaysChanges) {
    std::size_t changes = 0;
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        RandomWorld random(seed);
        const RefWorld before = random.make();
        RefWorld after = before;
        compile::PolicyUpdate update;
        for (int i = 0; i < 2; ++i) {
            const auto policy = random.policy(random.below(4));
            std::erase_if(after.policies, [&](const auto& p) { return p->key == policy->key; });
            std::erase_if(update.upserts, [&](const auto& p) { return p->key == policy->key; });
            after.policies.push_back(policy);
            update.upserts.push_back(policy);
        }
        if (random.one_in(2)) {
            const auto key = after.policies.front()->key;
            std::erase_if(update.upserts, [&](const auto& p) { return p->key == key; });
            after.policies.erase(after.policies.begin());
            update.removals.push_back(key);
        }
        compile::PolicyCompiler compiler(before.options);
        fill(compiler, before);
        add_endpoints(compiler, before);
        static_cast<void>(compiler.flush());
        const PolicyDiff diff = compile::diff(compiler, update);
        changes += diff.differences.size();
        ASSERT_EQ(check(before, after, diff), "") << "seed " << seed << "\n"
                                                  << describe(before) << "--- after\n"
                                                  << describe(after);
    }
    EXPECT_GT(changes, 100U);
}

// --- single cases -----------------------------------------------------------------------------

std::vector<model::policy::PolicyPtr> parse(std::string_view text) {
    auto parsed = sources::config::parse_policies(text, "new.yaml");
    EXPECT_TRUE(parsed.errors.empty()) << parsed.errors.front();
    return std::move(parsed.policies);
}

std::vector<model::Label> pod(const std::string& app) {
    return {{"k8s", "app", app},
            {"k8s", "io.cilium.k8s.policy.cluster", "east"},
            {"k8s", "io.kubernetes.pod.namespace", "shop"}};
}

/// Ten thousand clients, two sorts of servers.
class Crowd : public testing::Test {
  protected:
    Crowd() : compiler_(options()) {
        for (std::uint32_t i = 0; i < 10'000; ++i) {
            compiler_.upsert_identity(
                {0x10000 + 256 + i, pod(i % 2 == 0 ? "client" : "guest"), {}});
        }
        compiler_.upsert_endpoint(1, {pod("web"), {}});
        compiler_.upsert_endpoint(2, {pod("web"), {}});
        compiler_.upsert_endpoint(3, {pod("api"), {}});
        static_cast<void>(compiler_.flush());
    }
    static compile::PolicyOptions options() {
        compile::PolicyOptions options;
        options.cluster = "east";
        return options;
    }
    compile::PolicyCompiler compiler_;
};

constexpr std::string_view kClientsOnly = R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: clients, namespace: shop}
spec:
  endpointSelector: {}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}]}]
)";

TEST_F(Crowd, IsAFewGroups) {
    const PolicyDiff diff = compile::diff(compiler_, {parse(kClientsOnly), {}});
    ASSERT_EQ(diff.differences.size(), 2U);
    const auto& all = diff.differences[0];
    const auto& others = diff.differences[1];
    // Clients keep ports 80 to 90.
    EXPECT_EQ(others.peers.size(), 5'000U);
    EXPECT_FALSE(others.other_peers);
    ASSERT_EQ(others.ports.size(), 7U);
    EXPECT_EQ(others.ports[0].protocol, 1);
    EXPECT_EQ(others.ports[1].protocol, 6);
    EXPECT_EQ(others.ports[1].first, 0);
    EXPECT_EQ(others.ports[1].last, 79);
    EXPECT_EQ(others.ports[2].protocol, 6);
    EXPECT_EQ(others.ports[2].first, 91);
    EXPECT_EQ(others.ports[2].last, 65'535);
    EXPECT_EQ(others.ports[6].protocol, PortChange::kOthers);
    // Guests lose all there is, and so does whoever is not known.
    EXPECT_EQ(all.peers.size(), 5'000U);
    EXPECT_TRUE(all.other_peers);
    ASSERT_EQ(all.ports.size(), 1U);
    EXPECT_EQ(all.ports[0].protocol, PortChange::kAll);
    EXPECT_EQ(all.ports[0].before.answer, PolicyAnswer::kAllowed);
    EXPECT_EQ(all.ports[0].after.answer, PolicyAnswer::kDenied);
    for (const auto& one : diff.differences) {
        ASSERT_EQ(one.subjects.size(), 2U);
        EXPECT_EQ(one.subjects[0].endpoints, std::vector<std::uint32_t>{3});
        EXPECT_EQ(one.subjects[1].endpoints, (std::vector<std::uint32_t>{1, 2}));
    }
}

TEST_F(Crowd, NothingChangesByWhatIsThereOrSelectsNobody) {
    for (const auto& policy : parse(kClientsOnly)) compiler_.upsert_policy(policy);
    static_cast<void>(compiler_.flush());
    EXPECT_TRUE(compile::diff(compiler_, {parse(kClientsOnly), {}}).differences.empty());
    std::string elsewhere(kClientsOnly);
    elsewhere.replace(elsewhere.find("namespace: shop"), 15, "namespace: else");
    EXPECT_TRUE(compile::diff(compiler_, {parse(elsewhere), {}}).differences.empty());
    // Taken away, it gives everything back.
    const PolicyDiff gone = compile::diff(compiler_, {{}, {parse(kClientsOnly).front()->key}});
    ASSERT_EQ(gone.differences.size(), 2U);
    EXPECT_EQ(gone.differences[1].ports[0].after.answer, PolicyAnswer::kAllowed);
}

TEST_F(Crowd, OtherL7RulesAreAChange) {
    std::string text(kClientsOnly);
    const std::string ports = R"("80", endPort: 90, protocol: TCP}])";
    text.replace(text.find(ports), ports.size(),
                 R"("80", protocol: TCP}], rules: {http: [{method: GET}]})");
    for (const auto& policy : parse(text)) compiler_.upsert_policy(policy);
    static_cast<void>(compiler_.flush());
    text.replace(text.find("GET"), 3, "PUT");
    const PolicyDiff diff = compile::diff(compiler_, {parse(text), {}});
    ASSERT_EQ(diff.differences.size(), 1U);
    ASSERT_EQ(diff.differences[0].ports.size(), 1U);
    const PortChange& change = diff.differences[0].ports[0];
    EXPECT_EQ(change.before.answer, PolicyAnswer::kRedirected);
    EXPECT_EQ(change.after.answer, PolicyAnswer::kRedirected);
    EXPECT_EQ(change.before.l7, std::vector<std::string>{"method GET"});
    EXPECT_EQ(change.after.l7, std::vector<std::string>{"method PUT"});
}

TEST_F(Crowd, BlocksAndNamesCountThoughNobodyHasThemYet) {
    const PolicyDiff diff = compile::diff(compiler_, {parse(R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  egress:
  - toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
  - toFQDNs: [{matchName: a.example.org}]
)"),
                                                      {}});
    ASSERT_EQ(diff.made_up.size(), 3U);
    ASSERT_EQ(diff.differences.size(), 1U);
    // All but the block without its exception, and the name: these stay allowed.
    const auto& one = diff.differences[0];
    EXPECT_TRUE(one.other_peers);
    EXPECT_EQ(one.peers.size(), 10'001U);
    ASSERT_EQ(diff.made_up[1].cidr->to_string(), "10.1.0.0/16");
    EXPECT_TRUE(std::ranges::binary_search(one.peers, diff.made_up[1].id));
    EXPECT_FALSE(std::ranges::binary_search(one.peers, diff.made_up[0].id));
    EXPECT_FALSE(std::ranges::binary_search(one.peers, diff.made_up[2].id));
}

TEST_F(Crowd, ContradictionsAreTold) {
    const PolicyDiff diff = compile::diff(compiler_, {parse(R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: both, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  egress:
  - toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*"}]}
    - ports: [{port: "53", protocol: TCP}]
      rules: {http: [{}]}
)"),
                                                      {}});
    ASSERT_EQ(diff.conflicts.size(), 1U);
    EXPECT_TRUE(diff.conflicts[0].starts_with("endpoints with k8s:app=api,")) << diff.conflicts[0];
    EXPECT_EQ(diff.differences.size(), 2U);
}

}  // namespace
}  // namespace mesh::test
