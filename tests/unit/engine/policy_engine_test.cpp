// Policies and identities in, rows of MemoryPolicy out; and what holds when something is missing.
#include "engine/policy_engine.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/memory_policy.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::engine {
namespace {

using datapath::EndpointEnforcement;
using datapath::EndpointId;
using datapath::PolicyRow;
using model::IpAddress;

const state::ClusterKey kOwn{"c1", model::ClusterId{1}};
const state::ClusterKey kRemote{"c2", model::ClusterId{2}};
constexpr std::uint32_t kWeb = (1U << 16U) + 10, kApi = (1U << 16U) + 11;
constexpr std::uint32_t kFarApi = (2U << 16U) + 11;

/// Counts what is asked of it, and refuses when told to.
class WatchedPolicy final : public datapath::MemoryPolicy {
  public:
    using MemoryPolicy::MemoryPolicy;
    Result<void> replace(EndpointId id, EndpointEnforcement mode,
                         std::span<const PolicyRow> rows) override {
        if (refuse) return *refuse;
        ++replaces[id];
        return MemoryPolicy::replace(id, mode, rows);
    }
    Result<void> change(EndpointId id,
                        std::span<const datapath::PolicyRowChange> changes) override {
        if (refuse) return *refuse;
        changed[id] += changes.size();
        return MemoryPolicy::change(id, changes);
    }
    std::map<EndpointId, int> replaces;
    std::map<EndpointId, std::size_t> changed;
    std::optional<Error> refuse;
};

class PolicyEngineTest : public testing::Test {
  protected:
    PolicyEngineTest() { make(); }

    /// Another agent, on the same datapath.
    void make(PolicyEngineOptions options = {}) {
        options.compile.cluster = "c1";
        engine_.emplace(
            options, kOwn, datapath_, clock_, Rng(7),
            Logger("policy", [this](LogLevel level, std::string_view, std::string_view text) {
                if (level == LogLevel::kError) errors_.emplace_back(text);
            }));
        tables_ = state::ClusterTables("c1", 3);
        ASSERT_TRUE(engine_->start(false));
    }
    void apply(const state::ClusterKey& cluster, std::vector<state::ClusterChange> changes) {
        (void)tables_.apply({cluster, std::move(changes)},
                            [this](const state::Effect& effect) { engine_->note(effect); });
    }
    [[nodiscard]] Result<void> try_flush() {
        MESH_CHECK(engine_->flush(tables_));
        return engine_->flush_removed();
    }
    void flush() {
        const auto done = try_flush();
        ASSERT_TRUE(done) << done.error().message();
    }
    static state::IdentityUpsert identity(std::uint32_t id, std::string_view app) {
        return {{model::IdentityId{id},
                 {{"k8s", "app", std::string(app)},
                  {"k8s", "io.cilium.k8s.policy.cluster", id >> 16U == 1 ? "c1" : "c2"},
                  {"k8s", "io.kubernetes.pod.namespace", "shop"}}}};
    }
    static state::IpUpsert ip(std::uint8_t n, std::uint32_t id,
                              std::vector<model::NamedPort> ports = {}) {
        model::IpIdentityPair pair;
        pair.ip = IpAddress::v4(10, 1, 0, n);
        pair.id = model::IdentityId{id};
        pair.named_ports = model::SharedList<model::NamedPort>(ports);
        return {pair};
    }
    static PolicyPod pod(std::uint8_t n, bool adopted = false) {
        return {.id = n,
                .adopted = adopted,
                .name = fmt::format("pod{}", n),
                .namespace_ = "shop",
                .pod = fmt::format("pod{}", n),
                .ips = {IpAddress::v4(10, 1, 0, n)}};
    }
    static state::PolicyUpsert policy(std::string_view name, std::string_view spec) {
        const auto parsed = sources::config::parse_policy_records(
            fmt::format("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
                        "metadata: {{name: {}, namespace: shop}}\nspec:\n  {}\n",
                        name, spec),
            "f.yaml", sources::config::PolicyFeatures::enforced());
        EXPECT_TRUE(parsed.errors.empty()) << parsed.errors.front();
        return {*parsed.records.at(0)};
    }
    static state::PolicyDelete no_policy(std::string_view name) {
        return {{model::policy::PolicyKind::kCiliumNetworkPolicy, "shop", std::string(name)}};
    }
    /// Two pods of app web, both known; the remote has an api.
    void set_up() {
        apply(kOwn, {identity(kWeb, "web"), identity(kApi, "api"), ip(1, kWeb), ip(2, kWeb)});
        apply(kRemote, {identity(kFarApi, "api")});
        engine_->set_pods({pod(1), pod(2)}, true);
        engine_->note_synced(kOwn);
        engine_->note_synced(kRemote);
        flush();
    }
    [[nodiscard]] EndpointEnforcement mode(EndpointId id) const {
        for (const auto& one : datapath_.endpoints()) {
            if (one.endpoint == id) return one.enforcement;
        }
        ADD_FAILURE() << "endpoint " << id << " has no policy";
        return EndpointEnforcement::kLocked;
    }
    /// "in 65547 6/80 allow" for each row.
    [[nodiscard]] std::vector<std::string> rows(EndpointId id) const {
        std::vector<std::string> lines;
        for (const PolicyRow& row : *datapath_.rows(id)) {
            const std::string what = row.verdict.deny ? "deny"
                                     : row.verdict.proxy_port != 0
                                         ? fmt::format("to {}", row.verdict.proxy_port)
                                         : "allow";
            lines.push_back(fmt::format("{} {} {}/{} {}", row.key.egress ? "out" : "in",
                                        row.key.identity, row.key.protocol, row.key.port, what));
        }
        std::ranges::sort(lines);
        return lines;
    }
    [[nodiscard]] PolicyEndpointStatus status(EndpointId id) const {
        return *engine_->endpoint(id);
    }

    using Lines = std::vector<std::string>;
    const std::string kFromApi =
        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: "
        "{app: api, 'k8s:io.cilium.k8s.policy.cluster': c2}}], toPorts: [{ports: [{port: '80', "
        "protocol: TCP}]}]}]}";
    const Lines kApiOnly{"in 1 0/0 allow", "in 131083 6/80 allow", "out 0 0/0 allow"};

    ManualClock clock_;
    WatchedPolicy datapath_{8};
    std::vector<std::string> errors_;
    std::optional<PolicyEngine> engine_;
    state::ClusterTables tables_{"c1", 3};
};

TEST_F(PolicyEngineTest, APolicyBecomesRowsOfThoseThatItSelectsAndGoesAgain) {
    set_up();
    EXPECT_TRUE(datapath_.settings().enabled);
    EXPECT_EQ(mode(1), EndpointEnforcement::kNone);
    EXPECT_EQ(rows(1), Lines{});
    apply(kOwn, {policy("p", kFromApi)});
    flush();
    for (const EndpointId id : {EndpointId{1}, EndpointId{2}}) {
        EXPECT_EQ(mode(id), EndpointEnforcement::kRules);
        EXPECT_EQ(rows(id), kApiOnly);
        EXPECT_TRUE(status(id).ingress);
        EXPECT_FALSE(status(id).egress);
        EXPECT_EQ(status(id).rows, 3U);
    }
    EXPECT_EQ(engine_->policies().begin()->second.file, "f.yaml");
    apply(kOwn, {no_policy("p")});
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kNone);
    EXPECT_EQ(engine_->counts().policies, 0U);
}

TEST_F(PolicyEngineTest, EndpointsWithCertainLabelsHaveAnotherMode) {
    PolicyEngineOptions options;
    for (const char* text :
         {"audit:app=web,io.kubernetes.pod.namespace=shop", "always:app=api", "never:app=web"}) {
        options.compile.endpoint_modes.push_back(*compile::parse_endpoint_mode(text));
    }
    make(options);
    apply(kOwn, {identity(kWeb, "web"), identity(kApi, "api"), identity(kApi + 1, "db"),
                 ip(1, kWeb), ip(2, kApi), ip(3, kApi + 1)});
    engine_->set_pods({pod(1), pod(2), pod(3)}, true);
    engine_->note_synced(kOwn);
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kNone);
    EXPECT_EQ(mode(2), EndpointEnforcement::kRules);
    EXPECT_EQ(rows(2), Lines{"in 1 0/0 allow"});
    EXPECT_EQ(mode(3), EndpointEnforcement::kNone);
    apply(kOwn, {policy("p", "{endpointSelector: {}, ingress: []}"),
                 policy("q", "{endpointSelector: {}, ingressDeny: [{fromEntities: [world]}]}")});
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kAudit);
    EXPECT_EQ(mode(3), EndpointEnforcement::kRules);

    options.compile.endpoint_modes = {*compile::parse_endpoint_mode("default:app=web")};
    options.compile.enforcement = compile::Enforcement::kNever;
    EXPECT_TRUE(options.enabled());
    options.compile.endpoint_modes = {*compile::parse_endpoint_mode("never:app=web")};
    EXPECT_FALSE(options.enabled());
    for (const char* bad : {"", "web", "open:app=web", "audit", "audit:"}) {
        EXPECT_FALSE(compile::parse_endpoint_mode(bad)) << bad;
    }
}

TEST_F(PolicyEngineTest, AnIdentityChangesItsRowsOnly) {
    set_up();
    apply(kOwn, {policy("p", kFromApi)});
    flush();
    const auto replaces = datapath_.replaces;
    const std::uint32_t more = kFarApi + 1;
    apply(kRemote, {identity(more, "api"), identity(more + 1, "other")});
    flush();
    EXPECT_EQ(rows(1).size(), 4U);
    EXPECT_EQ(datapath_.changed[1], 1U);
    apply(kRemote, {state::IdentityDelete{model::IdentityId{more}}});
    flush();
    EXPECT_EQ(rows(1), kApiOnly);
    EXPECT_EQ(datapath_.changed[1], 2U);
    EXPECT_EQ(datapath_.replaces, replaces);
}

TEST_F(PolicyEngineTest, ANewEndpointIsLockedUntilTheOwnClusterIsKnown) {
    apply(kOwn, {identity(kWeb, "web"), ip(1, kWeb)});
    engine_->set_pods({pod(1)}, true);
    flush();
    EXPECT_TRUE(datapath_.endpoints().empty()) << "whose policy was never set is locked";
    EXPECT_EQ(status(1).state, PolicyState::kWaiting);
    engine_->note_synced(kRemote);
    flush();
    EXPECT_EQ(status(1).state, PolicyState::kWaiting);
    engine_->note_synced(kOwn);
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kNone);
    EXPECT_EQ(status(1).state, PolicyState::kReady);

    engine_->set_pods({pod(1), pod(3)}, true);
    flush();
    EXPECT_EQ(mode(3), EndpointEnforcement::kNone) << "no policy could hold for it";
    apply(kOwn, {policy("q", "{endpointSelector: {matchLabels: {app: nobody}}, ingress: []}")});
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kNone);
    EXPECT_EQ(mode(3), EndpointEnforcement::kRules) << "without a record it is reserved:init";
    EXPECT_EQ(rows(3), (Lines{"in 1 0/0 allow"}));
    apply(kOwn, {ip(3, kApi)});
    flush();
    EXPECT_EQ(status(3).state, PolicyState::kReady);
    EXPECT_NE(status(3).why, "");
    apply(kOwn, {identity(kApi, "api")});
    flush();
    EXPECT_EQ(mode(3), EndpointEnforcement::kNone);
    EXPECT_EQ(status(3).why, "");
}

TEST_F(PolicyEngineTest, APodThatTakesNoPartInTheMeshHasPoliciesOfItsCluster) {
    apply(kOwn,
          {identity(kWeb, "web"), policy("p", kFromApi), state::LocalIpUpsert{{ip(1, kWeb).pair}}});
    apply(kRemote, {identity(kFarApi, "api")});
    engine_->set_pods({pod(1)}, true);
    engine_->note_synced(kOwn);
    flush();
    EXPECT_EQ(rows(1), kApiOnly);
}

TEST_F(PolicyEngineTest, AnEndpointKeepsItsLabelsWhenItsRecordGoes) {
    set_up();
    apply(kOwn, {policy("p", kFromApi)});
    apply(kOwn, {state::IpDelete{{IpAddress::v4(10, 1, 0, 1), 32}},
                 state::IdentityDelete{model::IdentityId{kWeb}}});
    flush();
    EXPECT_EQ(rows(1), kApiOnly);
}

TEST_F(PolicyEngineTest, AfterARestartTheFormerRowsHoldUntilTheirClustersAreKnown) {
    set_up();
    apply(kOwn, {policy("p", kFromApi)});
    flush();
    datapath_.replaces.clear();

    make();
    engine_->set_pods({pod(1, true)}, true);
    flush();
    EXPECT_EQ(rows(1), kApiOnly);
    EXPECT_EQ(datapath_.replaces.size(), 0U);
    EXPECT_EQ(datapath_.endpoints().size(), 1U) << "pod2 is gone";
    apply(kOwn, {identity(kWeb, "web"), ip(1, kWeb), policy("p", kFromApi)});
    engine_->note_synced(kOwn);
    flush();
    EXPECT_EQ(datapath_.replaces[1], 1);
    EXPECT_EQ(rows(1), kApiOnly) << "what the remote's api had stays";
    EXPECT_EQ(status(1).held_rows, 1U);
    // It is not there any more.
    apply(kRemote, {identity(kFarApi + 5, "api")});
    engine_->note_synced(kRemote);
    flush();
    EXPECT_EQ(rows(1), (Lines{"in 1 0/0 allow", "in 131088 6/80 allow", "out 0 0/0 allow"}));
    EXPECT_EQ(status(1).held_rows, 0U);
    EXPECT_EQ(status(1).rows, 3U);
}

TEST_F(PolicyEngineTest, ARemoteThatIsWaitedForNoLongerLosesItsRows) {
    set_up();
    apply(kOwn, {policy("p", kFromApi)});
    flush();
    make();
    engine_->set_pods({pod(1, true)}, true);
    apply(kOwn, {identity(kWeb, "web"), ip(1, kWeb), policy("p", kFromApi)});
    engine_->note_synced(kOwn);
    flush();
    EXPECT_EQ(rows(1).size(), 3U);
    engine_->finish_adoption();
    flush();
    EXPECT_EQ(rows(1).size(), 2U);
}

TEST_F(PolicyEngineTest, AnEndpointWhoseRowsFindNoRoomIsLockedAloneUntilTheyDo) {
    set_up();
    apply(kOwn, {identity(kApi + 10, "db"), ip(2, kApi + 10)});
    const std::string open =
        "{endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEntities: [world]}]}";
    apply(kOwn, {policy("p", kFromApi), policy("q", open)});
    flush();
    for (std::uint32_t i = 0; i < 6; ++i) {
        apply(kRemote, {identity(kFarApi + 1 + i, "api")});
        flush();
    }
    EXPECT_EQ(mode(1), EndpointEnforcement::kLocked);
    EXPECT_EQ(rows(1), Lines{});
    EXPECT_EQ(status(1).state, PolicyState::kOverflow);
    EXPECT_EQ(status(1).why, "its policy has 9 rows, and there is room for 8");
    EXPECT_EQ(engine_->counts().overflows, 1U);
    EXPECT_EQ(errors_.size(), 1U);
    EXPECT_EQ(mode(2), EndpointEnforcement::kRules);
    apply(kRemote, {identity(kFarApi + 7, "api")});
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kLocked);
    apply(kRemote, {state::IdentityDelete{model::IdentityId{kFarApi + 7}},
                    state::IdentityDelete{model::IdentityId{kFarApi + 6}}});
    flush();
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kRules);
    EXPECT_EQ(rows(1).size(), 8U);
    EXPECT_EQ(status(1).why, "");
}

TEST_F(PolicyEngineTest, RulesThatContradictEachOtherKeepTheFormerRows) {
    set_up();
    apply(kOwn, {policy("p", kFromApi)});
    flush();
    const auto port = [](std::string_view rules) {
        return fmt::format(
            "{{endpointSelector: {{matchLabels: {{app: web}}}}, egress: [{{toPorts: [{{ports: "
            "[{{port: '53', protocol: TCP}}], rules: {}}}]}}]}}",
            rules);
    };
    apply(kOwn, {policy("dns", port("{dns: [{matchPattern: '*'}]}")),
                 policy("http", port("{http: [{method: GET}]}"))});
    flush();
    EXPECT_EQ(rows(1), kApiOnly);
    EXPECT_EQ(status(1).state, PolicyState::kConflict);
    EXPECT_NE(status(1).why, "");
    apply(kOwn, {ip(3, kWeb)});
    engine_->set_pods({pod(1), pod(2), pod(3)}, true);
    flush();
    EXPECT_EQ(mode(3), EndpointEnforcement::kLocked);
    apply(kOwn, {no_policy("http")});
    flush();
    for (const EndpointId id : {EndpointId{1}, EndpointId{3}}) {
        EXPECT_EQ(status(id).state, PolicyState::kReady);
        EXPECT_EQ(mode(id), EndpointEnforcement::kRules);
    }
}

TEST_F(PolicyEngineTest, WithoutAProxyARedirectLeadsNowhere) {
    set_up();
    apply(kOwn, {policy("p",
                        "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEntities: "
                        "[all], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: "
                        "[{method: GET}]}}]}]}")});
    flush();
    const Lines before = rows(1);
    EXPECT_NE(std::ranges::find(before, "in 0 6/80 to 1"), before.end());
    engine_->set_proxy("http", model::policy::Direction::kIngress, 4001);
    flush();
    const Lines after = rows(1);
    EXPECT_NE(std::ranges::find(after, "in 0 6/80 to 4001"), after.end());
}

TEST_F(PolicyEngineTest, AProxyIsToldTheRulesForThePeersOfAConnection) {
    std::map<IpAddress, std::uint32_t> addresses;
    PolicyEngineOptions options;
    options.identity_of = [&](const IpAddress& address) { return addresses[address]; };
    make(options);
    set_up();
    const auto rule = [](std::string_view peers, std::string_view method) {
        return fmt::format(
            "{{fromEndpoints: [{}], toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: "
            "{{http: [{{method: {}}}]}}}}]}}",
            peers, method);
    };
    const std::string api = "{matchLabels: {app: api, 'k8s:io.cilium.k8s.policy.cluster': c2}}";
    apply(kOwn, {policy("p", fmt::format("{{endpointSelector: {{matchLabels: {{app: web}}}}, "
                                         "ingress: [{}, {}]}}",
                                         rule(api, "GET"), rule("{}", "HEAD")))});
    flush();
    const L7Policy& l7 = engine_->l7();
    L7Flow flow{model::policy::Direction::kIngress, 6, IpAddress::v4(10, 2, 0, 1),
                IpAddress::v4(10, 1, 0, 1), 80};
    const auto methods = [&] {
        std::vector<std::string> all;
        for (const auto& rules : l7.find("http", flow).any_of) {
            all.push_back(rules ? rules->http.at(0).method : "all");
        }
        std::ranges::sort(all);
        return all;
    };
    addresses[flow.client] = kFarApi;
    EXPECT_EQ(methods(), Lines{"GET"});
    EXPECT_EQ(l7.find("http", flow).client_identity, kFarApi);
    EXPECT_EQ(l7.find("http", flow).endpoint, 1);
    EXPECT_FALSE(l7.find("dns", flow).found);
    addresses[flow.client] = kApi;
    EXPECT_EQ(methods(), Lines{"HEAD"});
    addresses[flow.client] = 0;
    EXPECT_FALSE(l7.find("http", flow).found);
    EXPECT_EQ(l7.find("http", flow).client_identity, 9U) << "the world";
    flow.server_port = 81;
    EXPECT_FALSE(l7.find("http", flow).found);
    flow.server_port = 80;

    const std::uint64_t before = l7.generation();
    addresses[flow.client] = kFarApi + 1;
    EXPECT_EQ(methods(), Lines{});
    apply(kRemote, {identity(kFarApi + 1, "api"), identity(kFarApi + 2, "other")});
    flush();
    EXPECT_EQ(methods(), Lines{"GET"});
    EXPECT_NE(l7.generation(), before);
    apply(kRemote, {state::IdentityDelete{model::IdentityId{kFarApi + 1}}});
    flush();
    EXPECT_EQ(methods(), Lines{});
    addresses[flow.client] = kFarApi;
    apply(kOwn, {no_policy("p")});
    flush();
    EXPECT_FALSE(l7.find("http", flow).found);
}

TEST_F(PolicyEngineTest, WhatTheDatapathRefusesIsWrittenByTheNextFlush) {
    set_up();
    datapath_.refuse = Error(Errc::kInternal, "no");
    apply(kOwn, {policy("p", kFromApi)});
    EXPECT_FALSE(try_flush());
    EXPECT_EQ(status(1).state, PolicyState::kFailed);
    EXPECT_FALSE(try_flush());
    datapath_.refuse.reset();
    flush();
    EXPECT_EQ(rows(1), kApiOnly);
    EXPECT_EQ(rows(2), kApiOnly);
    EXPECT_EQ(status(1).state, PolicyState::kReady);
}

TEST_F(PolicyEngineTest, ModesAndAudit) {
    for (const auto mode_of : {compile::Enforcement::kAlways, compile::Enforcement::kNever}) {
        PolicyEngineOptions options;
        options.compile.enforcement = mode_of;
        make(options);
        set_up();
        const bool always = mode_of == compile::Enforcement::kAlways;
        EXPECT_EQ(datapath_.settings().enabled, always);
        EXPECT_EQ(mode(1), always ? EndpointEnforcement::kRules : EndpointEnforcement::kNone);
        EXPECT_EQ(rows(1), always ? Lines{"in 1 0/0 allow"} : Lines{});
    }
    PolicyEngineOptions options;
    options.audit = true;
    make(options);
    set_up();
    apply(kOwn, {policy("p", kFromApi)});
    flush();
    EXPECT_EQ(mode(1), EndpointEnforcement::kAudit);
    EXPECT_EQ(rows(1), kApiOnly);
}

TEST_F(PolicyEngineTest, PodsThatWereThereBeforePoliciesStayOpenUntilTheClusterIsKnown) {
    ASSERT_TRUE(engine_->start(true));
    engine_->set_pods({pod(1)}, true);
    flush();
    EXPECT_FALSE(datapath_.settings().enabled);
    set_up();
    EXPECT_TRUE(datapath_.settings().enabled);
}

TEST_F(PolicyEngineTest, BlocksThatPoliciesNameGetIdentitiesOfThisNode) {
    set_up();
    apply(kOwn, {policy("p",
                        "{endpointSelector: {matchLabels: {app: web}}, egress: [{toCIDR: "
                        "[10.9.0.0/16]}]}")});
    flush();
    const auto local = engine_->take_local_rows();
    ASSERT_EQ(local.size(), 1U);
    EXPECT_EQ(local.begin()->first.to_string(), "10.9.0.0/16");
    const std::string row = fmt::format("out {} 0/0 allow", local.begin()->second.value());
    EXPECT_EQ(rows(1), (Lines{"in 0 0/0 allow", row}));
    apply(kOwn, {no_policy("p")});
    flush();
    const auto gone = engine_->take_local_rows();
    ASSERT_EQ(gone.size(), 1U);
    EXPECT_EQ(gone.begin()->second, std::nullopt);
}

TEST_F(PolicyEngineTest, NamesOfPortsAreTheSubjectsForIngressAndThePeersForEgress) {
    set_up();
    apply(kOwn, {ip(1, kWeb, {{"http", "TCP", 8080}}), ip(9, kApi, {{"db", "TCP", 5432}})});
    apply(kOwn,
          {policy("p",
                  "{endpointSelector: {matchLabels: {app: web}}, ingress: [{toPorts: [{ports: "
                  "[{port: http, protocol: TCP}]}]}], egress: [{toPorts: [{ports: [{port: "
                  "db, protocol: TCP}]}]}]}")});
    flush();
    EXPECT_EQ(rows(1), (Lines{"in 0 6/8080 allow", "in 1 0/0 allow", "out 0 6/5432 allow"}));
    EXPECT_EQ(rows(2), (Lines{"in 1 0/0 allow", "out 0 6/5432 allow"}));
}

}  // namespace
}  // namespace mesh::engine
