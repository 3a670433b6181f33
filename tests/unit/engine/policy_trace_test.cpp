// Who the ends of a traced packet are, by what clusters told, and what an agent answers.
#include "engine/policy_trace.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

#include "datapath/memory_policy.hpp"
#include "model/policy_record.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::engine {
namespace {

namespace json = boost::json;
using testing::HasSubstr;

const state::ClusterKey kOwn{"c1", model::ClusterId{1}};
const state::ClusterKey kRemote{"c2", model::ClusterId{2}};
constexpr std::uint32_t kWeb = (1U << 16U) + 10, kClient = (1U << 16U) + 11;
constexpr std::uint32_t kFar = (2U << 16U) + 11;

constexpr std::string_view kPolicy = R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: client}
      matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  egress:
  - toCIDR: [192.0.2.0/24]
)";

/// A web pod on this node, a client on another one, and one of another cluster.
class PolicyTraceTest : public testing::Test {
  protected:
    PolicyTraceTest() : engine_(options(), kOwn, datapath_, clock_, Rng(7), Logger()) {
        EXPECT_TRUE(engine_.start(false));
        apply(kOwn, {identity(kWeb, "web", "c1"), identity(kClient, "client", "c1"),
                     ip("10.1.0.1", kWeb, "web"), ip("10.1.0.2", kClient, "client"),
                     node("node2", "10.0.0.2"), policy(kPolicy)});
        apply(kRemote, {identity(kFar, "client", "c2"), ip("10.2.0.1", kFar, "visitor")});
        engine_.set_pods({{.id = 1,
                           .name = "web",
                           .namespace_ = "shop",
                           .pod = "web",
                           .ips = {model::IpAddress::v4(10, 1, 0, 1)}}},
                         true);
        engine_.note_synced(kOwn);
        engine_.note_synced(kRemote);
        EXPECT_TRUE(engine_.flush(tables_));
        EXPECT_TRUE(engine_.flush_removed());
        state::SessionStatus own, remote;
        own.cluster = "c1";
        own.state = state::SessionState::kReady;
        own.last_proof_of_life = std::chrono::milliseconds(500);
        remote.cluster = "c2";
        remote.state = state::SessionState::kStale;
        remote.last_proof_of_life = std::chrono::minutes(2);
        clusters_ = {own, remote};
    }
    static PolicyEngineOptions options() {
        PolicyEngineOptions options;
        options.compile.cluster = "c1";
        return options;
    }
    void apply(const state::ClusterKey& cluster, std::vector<state::ClusterChange> changes) {
        (void)tables_.apply({cluster, std::move(changes)},
                            [this](const state::Effect& effect) { engine_.note(effect); });
    }
    static state::IdentityUpsert identity(std::uint32_t id, std::string_view app,
                                          std::string_view cluster) {
        return {{model::IdentityId{id},
                 {{"k8s", "app", app},
                  {"k8s", "io.cilium.k8s.policy.cluster", cluster},
                  {"k8s", "io.kubernetes.pod.namespace", "shop"}}}};
    }
    static state::IpUpsert ip(const char* address, std::uint32_t id, std::string_view pod) {
        model::IpIdentityPair pair;
        pair.ip = *model::IpAddress::parse(address);
        pair.id = model::IdentityId{id};
        pair.k8s_namespace = "shop";
        pair.k8s_pod_name = pod;
        return {pair};
    }
    static state::NodeUpsert node(const char* name, const char* address) {
        model::Node one;
        one.name = name;
        one.cluster = "c1";
        one.cluster_id = model::ClusterId{1};
        one.addresses = std::vector<model::NodeAddress>{{"InternalIP", address}};
        return {one};
    }
    static state::PolicyUpsert policy(std::string_view text) {
        const auto parsed = sources::config::parse_policy_records(
            text, "shop.yaml", sources::config::PolicyFeatures::enforced());
        EXPECT_TRUE(parsed.errors.empty()) << parsed.errors.front();
        return {*parsed.records.at(0)};
    }
    Result<json::object> ask(std::string source, std::string destination,
                             std::string dport = "80/TCP") {
        PolicyTraceQuery query;
        query.source = std::move(source);
        query.destination = std::move(destination);
        query.dport = std::move(dport);
        return trace_document({engine_, tables_, clusters_, "node1"}, query);
    }

    datapath::MemoryPolicy datapath_;
    SystemClock clock_;
    state::ClusterTables tables_{"c1", 3};
    PolicyEngine engine_;
    std::vector<state::SessionStatus> clusters_;
};

TEST_F(PolicyTraceTest, SaysWhoToldOfTheEndsAndHowFreshThatIs) {
    const auto document = ask("visitor.", "shop/web");
    EXPECT_FALSE(document);
    const auto trace = ask("c2/shop/visitor", "shop/web");
    ASSERT_TRUE(trace) << trace.error().detail();
    EXPECT_EQ(trace->at("verdict"), "allowed");
    const auto& source = trace->at("source").as_object();
    EXPECT_EQ(source.at("pod"), "shop/visitor");
    EXPECT_EQ(source.at("cluster"), "c2");
    EXPECT_EQ(source.at("identity"), kFar);
    EXPECT_EQ(json::serialize(source.at("facts")),
              R"([{"what":"identity 131083","cluster":"c2","state":"stale","age_seconds":1.2E2},)"
              R"({"what":"address 10.2.0.1","cluster":"c2","state":"stale","age_seconds":1.2E2}])");
    EXPECT_EQ(trace->at("egress").at("evaluated"), false);
    const auto& ingress = trace->at("ingress").as_object();
    EXPECT_EQ(ingress.at("installed"), true);
    EXPECT_EQ(ingress.at("decided").at(0).at("line"), 7);
    EXPECT_EQ(ingress.at("decided").at(0).at("source"), "shop.yaml: document 1");
    EXPECT_EQ(ingress.at("endpoint").at("state"), "ready");
    EXPECT_EQ(ingress.at("endpoint").at("enforcement"), "rules");
}

TEST_F(PolicyTraceTest, FindsEndsByAddressLabelsIdentityAndName) {
    for (const char* client : {"10.1.0.2", "app=client,io.cilium.k8s.policy.cluster=c1", "65547",
                               "shop/client", "c1/shop/client"}) {
        const auto trace = ask(client, "10.1.0.1");
        ASSERT_TRUE(trace) << client << ": " << trace.error().detail();
        EXPECT_EQ(trace->at("source").at("identity"), kClient) << client;
        EXPECT_EQ(trace->at("destination").at("pod"), "shop/web");
        EXPECT_EQ(trace->at("verdict"), "allowed");
        // Of this cluster, though not on this node.
        EXPECT_EQ(trace->at("egress").at("evaluated"), true);
        EXPECT_EQ(trace->at("egress").at("verdict"), "not-enforced");
    }
    const auto several = ask("app=client", "shop/web");
    ASSERT_FALSE(several);
    EXPECT_EQ(several.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(several.error().detail(), HasSubstr("2 identities have the labels"));
    EXPECT_EQ(ask("shop/nobody", "shop/web").error().code(), Errc::kNotFound);
    EXPECT_EQ(ask("app=none", "shop/web").error().code(), Errc::kNotFound);
    EXPECT_EQ(ask("999999", "shop/web").error().code(), Errc::kNotFound);
    EXPECT_EQ(ask("shop/client", "shop/web", "80/XYZ").error().code(), Errc::kInvalidArgument);
}

TEST_F(PolicyTraceTest, KnowsNodesBlocksAndTheWorld) {
    const auto node = ask("shop/web", "10.0.0.2");
    ASSERT_TRUE(node) << node.error().detail();
    EXPECT_EQ(node->at("destination").at("identity"), 6U);
    EXPECT_EQ(node->at("verdict"), "denied");
    const auto block = ask("shop/web", "192.0.2.77");
    ASSERT_TRUE(block);
    EXPECT_EQ(block->at("destination").at("cidr"), "192.0.2.0/24");
    EXPECT_EQ(block->at("verdict"), "allowed");
    const auto world = ask("shop/web", "198.51.100.1");
    ASSERT_TRUE(world);
    EXPECT_EQ(world->at("destination").at("identity"), 2U);
    EXPECT_EQ(world->at("verdict"), "denied");
}

TEST_F(PolicyTraceTest, ComparesOtherPoliciesAndChangesNothing) {
    std::string text(kPolicy);
    text.replace(text.find("\"80\""), 4, "\"81\"");
    const auto policies = read_policy_text(text);
    ASSERT_TRUE(policies);
    const json::object diff = diff_document(engine_, endpoint_names(engine_), *policies, false);
    ASSERT_EQ(diff.at("differences").as_array().size(), 1U);
    const auto& one = diff.at("differences").at(0).as_object();
    EXPECT_EQ(one.at("direction"), "ingress");
    EXPECT_EQ(json::serialize(one.at("endpoints").at(0).at("pods")), R"(["shop/web"])");
    EXPECT_EQ(one.at("peers").at("count"), 2U);
    EXPECT_EQ(json::serialize(one.at("changes").at(0)),
              R"({"protocol":"TCP","ports":"80","before":{"verdict":"allowed"},)"
              R"("after":{"verdict":"denied"}})");
    EXPECT_EQ(ask("shop/client", "shop/web")->at("verdict"), "allowed");

    // The same as a request of meshctl; and all policies gone.
    const auto record = policy(text).record;
    const json::object request{
        {"policies", json::array{json::object{{"key", model::local_policy_key(record.key)},
                                              {"value", model::encode(record)}}}}};
    const auto asked = diff_document(engine_, json::serialize(request));
    ASSERT_TRUE(asked) << asked.error().detail();
    EXPECT_EQ(json::serialize(*asked), json::serialize(diff));
    const auto gone = diff_document(engine_, R"({"policies": [], "prune": true})");
    ASSERT_TRUE(gone);
    EXPECT_EQ(gone->at("differences").as_array().size(), 3U);

    for (const char* bad : {"", "{}", R"({"policies": [1]})", R"({"policies": [{"key": "x"}]})",
                            R"({"policies": [{"key": "x", "value": "y"}]})"}) {
        EXPECT_EQ(diff_document(engine_, std::string_view(bad)).error().code(),
                  Errc::kInvalidArgument)
            << bad;
    }
    EXPECT_FALSE(read_policy_text("kind: CiliumNetworkPolicy"));
}

}  // namespace
}  // namespace mesh::engine
