// What `meshctl policy` reads and prints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "compile/policy/policy_diff.hpp"
#include "compile/policy/policy_json.hpp"
#include "meshctl/agents.hpp"
#include "meshctl/policy_files.hpp"
#include "meshctl/policy_text.hpp"
#include "meshctl/policy_world.hpp"
#include "meshctl/yaml_text.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kPods = R"(apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node1}
status: {phase: Running, podIP: 10.10.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: node1}
status: {phase: Running, podIP: 10.10.1.3}
)";

constexpr std::string_view kPolicy = R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]
  egressDeny:
  - toCIDR: [192.0.2.0/24]
)";

InputFile file(const char* name, std::string_view text) {
    return {name, std::string(text)};
}

// --- files ------------------------------------------------------------------------------------

TEST(PolicyFiles, TellWhatIsGoodAndWhatIsNot) {
    const PolicyFiles files = parse_policy_files(
        {file("a.yaml", kPolicy), file("b.yaml", kPods), file("c.yaml", kPolicy),
         file("d.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n")});
    ASSERT_EQ(files.policies.size(), 1U);
    ASSERT_EQ(files.records.size(), 1U);
    EXPECT_EQ(files.records[0]->file, "a.yaml");
    EXPECT_THAT(files.errors,
                ElementsAre("c.yaml: document 1: CiliumNetworkPolicy shop/web is in "
                            "a.yaml: document 1, too",
                            HasSubstr("d.yaml: document 1: line 1: metadata.name: expected")));
    EXPECT_THAT(files.skipped, ElementsAre("v1 Pod"));
    const json::object document = validation_document(files);
    EXPECT_EQ(document.at("valid"), false);
    EXPECT_EQ(document.at("policies").at(0).at("source"), "a.yaml: document 1");
    EXPECT_EQ(document.at("errors").as_array().size(), 2U);
    EXPECT_EQ(validation_document(parse_policy_files({file("a", kPolicy)})).at("valid"), true);
    // Nothing found is not good either.
    EXPECT_EQ(validation_document(parse_policy_files({file("b", kPods)})).at("valid"), false);
}

TEST(PolicyFiles, AreReadByPath) {
    EXPECT_EQ(read_inputs({"/no/such/file.yaml"}).error().code(), Errc::kNotFound);
    const auto sample = std::string(MESH_SOURCE_DIR) + "/tests/integration/policy_cli/samples";
    const auto read = read_inputs({sample});
    ASSERT_TRUE(read);
    ASSERT_GE(read->size(), 4U);
    EXPECT_THAT((*read)[0].name, HasSubstr("samples/app.yaml"));
}

// --- worlds -----------------------------------------------------------------------------------

class WorldTest : public testing::Test {
  protected:
    WorldTest() : world_(options()) {
        const std::vector<InputFile> files{file("a.yaml", kPods), file("b.yaml", kPolicy)};
        EXPECT_TRUE(world_.add_manifests(files));
        world_.add_policies(parse_policy_files(files).policies);
    }
    static compile::PolicyOptions options() {
        compile::PolicyOptions options;
        options.cluster = "east";
        return options;
    }
    [[nodiscard]] Result<compile::TraceSide> find(std::string_view text) {
        return world_.find(*compile::parse_trace_target(text));
    }
    [[nodiscard]] json::object trace(std::string_view from, std::string_view to,
                                     std::string_view dport, std::string_view http = "") {
        return compile::to_json(
            compile::trace(world_.compiler(), *find(from), *find(to),
                           *compile::parse_trace_question(dport, http, {}, "")));
    }
    PolicyWorld world_;
};

TEST_F(WorldTest, FindsPodsLabelsAddressesAndEntities) {
    const auto web = find("shop/web");
    ASSERT_TRUE(web);
    EXPECT_EQ(web->cluster, "east");
    EXPECT_EQ(web->address, "10.10.1.2");
    EXPECT_EQ(find("10.10.1.2")->pod, "shop/web");
    EXPECT_EQ(find("app=web")->identity.id, web->identity.id);
    EXPECT_EQ(find("host")->identity.id, 1U);
    EXPECT_EQ(find("192.0.2.1")->identity.cidr->to_string(), "192.0.2.1/32");
    // Labels that nobody has make an identity of their own.
    const auto made = find("app=new");
    ASSERT_TRUE(made);
    EXPECT_EQ(made->cluster, "east");
    EXPECT_EQ(find("app=new")->identity.id, made->identity.id);
    EXPECT_EQ(find("shop/nobody").error().code(), Errc::kNotFound);
    EXPECT_EQ(find("west/shop/web").error().code(), Errc::kNotFound);
    EXPECT_EQ(find("77").error().code(), Errc::kNotFound);
    EXPECT_EQ(find("io.kubernetes.pod.namespace=shop").error().code(), Errc::kInvalidArgument);
}

TEST_F(WorldTest, TakesIdentitiesAsTheyAreListed) {
    const auto read = [&](std::string_view text) {
        return world_.add_identities(file("ids.json", text));
    };
    ASSERT_TRUE(read(R"([{"id": 131082, "labels": ["k8s:app=web",
        "k8s:io.cilium.k8s.policy.cluster=west", "k8s:io.kubernetes.pod.namespace=shop"],
        "kind": "cluster", "cluster": "west", "prefix": "", "fresh_seconds": 0.1},
      {"id": 16777300, "labels": ["cidr:203.0.113.0/24", "reserved:world"],
        "prefix": "203.0.113.0/24", "fresh_seconds": null}])"));
    EXPECT_EQ(find("131082")->cluster, "west");
    EXPECT_EQ(find("16777300")->identity.cidr->to_string(), "203.0.113.0/24");
    const auto wrong = read("[{id: 0, labels: []}]");
    ASSERT_FALSE(wrong);
    EXPECT_THAT(wrong.error().detail(), HasSubstr("ids.json: line 1: document[0].id: expected"));
    EXPECT_FALSE(read("[{id: 7, labels: ['=x']}]"));
    EXPECT_FALSE(read("[{id: 7, labels: [], prefix: here}]"));
}

// --- text -------------------------------------------------------------------------------------

TEST_F(WorldTest, ATraceReadsFromTheVerdictToTheLines) {
    const std::string text = trace_text(trace("shop/client", "shop/web", "80/TCP", "PUT /a"));
    EXPECT_THAT(text, testing::StartsWith("denied: shop/client -> shop/web 80/TCP PUT /a\n"));
    EXPECT_THAT(text, HasSubstr("\negress of shop/client: not-enforced (no policy with default "
                                "deny selects the endpoint for egress)\n"));
    EXPECT_THAT(text, HasSubstr("\ningress of shop/web: redirected to the http proxy, which "
                                "refuses the request\n"));
    EXPECT_THAT(text,
                HasSubstr("decides  CiliumNetworkPolicy shop/web  spec.ingress[0].toPorts[0]  "
                          "fromEndpoints[0]  b.yaml: document 1: line 7  sends it to a proxy\n"));
    EXPECT_THAT(text, HasSubstr("no match  method GET  CiliumNetworkPolicy shop/web"));
    EXPECT_THAT(trace_text(trace("shop/client", "shop/web", "81/TCP")),
                HasSubstr("enforces  CiliumNetworkPolicy shop/web  spec  b.yaml: document 1: line "
                          "5  denies what no rule allows\n"));
    EXPECT_THAT(trace_text(trace("shop/web", "192.0.2.1", "81/TCP")),
                HasSubstr("spec.egressDeny[0]  toCIDR[0]"));
}

TEST(TraceText, TellsWhoToldAndWhatTheEndpointIsUpTo) {
    const json::object trace = json::parse(R"({"verdict": "allowed",
        "source": {"asked": "c2/shop/x", "pod": "shop/x", "identity": 131083, "cluster": "c2",
                   "labels": ["k8s:app=x", "reserved:y"],
                   "facts": [{"what": "identity 131083", "cluster": "c2", "state": "stale",
                              "age_seconds": 120.04},
                             {"what": "identity 2", "cluster": ""}]},
        "destination": {"asked": "world"}, "protocol": "TCP", "port": 80,
        "egress": {"evaluated": false, "remark": "it is up to the policies of cluster c2"},
        "ingress": {"evaluated": true, "verdict": "default-denied",
                    "endpoint": {"state": "overflow", "enforcement": "locked", "error": "full"}}
        })")
                                   .as_object();
    const std::string text = trace_text(trace);
    EXPECT_THAT(text, HasSubstr("identity 131083  c2         stale  120.0s ago\n"));
    EXPECT_THAT(text, HasSubstr("identity 2       this node  -      -\n"));
    EXPECT_THAT(text, HasSubstr("app=x,reserved:y"));
    EXPECT_THAT(text, HasSubstr("egress of shop/x: not decided here: it is up to the policies"));
    EXPECT_THAT(text, HasSubstr("ingress of world: default-denied\nthe endpoint is locked: nothing "
                                "passes but replies\nits policy is not in force as it stands here: "
                                "overflow, full\n"));
    // What an agent may leave out, or send otherwise, breaks nothing.
    EXPECT_NE(trace_text({}), "");
    EXPECT_NE(trace_text({{"source", 1}, {"egress", "x"}, {"ingress", json::array{1}}}), "");
}

TEST_F(WorldTest, ADifferenceIsAFewLines) {
    world_.add_endpoints();
    std::string text(kPolicy);
    text.replace(text.find(", rules: {http: [{method: GET}]}"), 32, "");
    const auto files = parse_policy_files({file("new.yaml", text)});
    ASSERT_TRUE(files.errors.empty()) << files.errors.front();
    json::object diff = compile::to_json(compile::diff(world_.compiler(), {files.policies, {}}),
                                         world_.compiler().selectors());
    diff["differences"].at(0).at("endpoints").at(0).as_object()["pods"] = json::array{"shop/web"};
    EXPECT_THAT(diff_text(diff), HasSubstr("PROTOCOL  PORTS  BEFORE                   AFTER\n"
                                           "TCP       80     http proxy [method GET]  allowed\n"));
    EXPECT_THAT(diff_text(diff), testing::StartsWith("ingress of shop/web from identity "));
    EXPECT_EQ(diff_text({}), "no packet has another verdict\n");
}

json::object difference(std::string_view pod, int port) {
    return {{"direction", "ingress"},
            {"endpoints", json::array{json::object{{"labels", json::array{"k8s:app=web"}},
                                                   {"pods", json::array{pod}}}}},
            {"peers", json::object{{"count", 3}, {"unknown", true}}},
            {"changes", json::array{json::object{{"protocol", "TCP"}, {"ports", port}}}}};
}

TEST(DiffText, NodesThatAgreeAreToldOnce) {
    const json::object one{{"differences", json::array{difference("shop/a", 80)}},
                           {"conflicts", json::array{"bad"}}};
    const json::object two{
        {"differences", json::array{difference("shop/b", 80), difference("shop/b", 81)}},
        {"conflicts", json::array{"bad"}}};
    const json::object merged = merge_diffs({{"node1", one}, {"node2", two}});
    ASSERT_EQ(merged.at("differences").as_array().size(), 2U);
    const auto& both = merged.at("differences").at(0).at("endpoints").as_array();
    ASSERT_EQ(both.size(), 2U);
    EXPECT_EQ(both.at(0).at("node"), "node1");
    EXPECT_EQ(both.at(1).at("node"), "node2");
    EXPECT_EQ(merged.at("conflicts").as_array().size(), 1U);
    EXPECT_THAT(diff_text(merged),
                HasSubstr("ingress of shop/a, shop/b from 3 identities and all others\n"));
}

TEST(YamlText, QuotesWhatWouldBeReadOtherwise) {
    const json::value value = json::parse(
        R"({"kind": "X", "a": {"port": "80", "on": "yes", "path": "/a.*", "n": 80, "none": {},
            "list": [{"x": "y", "z": [1, 2]}, "w: v", null]}})");
    EXPECT_EQ(yaml_text(value),
              "kind: X\n"
              "a:\n"
              "  port: \"80\"\n"
              "  \"on\": \"yes\"\n"
              "  path: \"/a.*\"\n"
              "  \"n\": 80\n"
              "  none: {}\n"
              "  list:\n"
              "  - x: \"y\"\n"
              "    z:\n"
              "    - 1\n"
              "    - 2\n"
              "  - \"w: v\"\n"
              "  - null\n");
}

TEST(QueryText, EscapesWhatAQueryCannotHold) {
    EXPECT_EQ(query_text("GET /a?b=c&d %"), "GET%20/a%3Fb%3Dc%26d%20%25");
}

}  // namespace
}  // namespace mesh::ctl
