// How the ends of a packet and its requests are named, and what the verdict of both ends is.
#include "compile/policy/trace.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

#include "compile/policy/policy_json.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh::compile {
namespace {

using testing::HasSubstr;
using Kind = TraceTarget::Kind;

TraceTarget target(std::string_view text) {
    const auto parsed = parse_trace_target(text);
    EXPECT_TRUE(parsed) << text;
    return parsed ? *parsed : TraceTarget{};
}

TEST(TraceTarget, IsTakenForWhatItLooksLike) {
    EXPECT_EQ(target("65538").kind, Kind::kIdentity);
    EXPECT_EQ(target("65538").identity, 65'538U);
    EXPECT_EQ(target("10.1.2.3").kind, Kind::kAddress);
    EXPECT_EQ(target("fd00::1").kind, Kind::kAddress);

    const TraceTarget pod = target("shop/web-0");
    EXPECT_EQ(pod.kind, Kind::kPod);
    EXPECT_EQ(pod.namespace_, "shop");
    EXPECT_EQ(pod.name, "web-0");
    EXPECT_EQ(pod.cluster, "");
    EXPECT_EQ(target("web").namespace_, "default");
    EXPECT_EQ(target("west/shop/web").cluster, "west");

    const TraceTarget labels = target("io.kubernetes.pod.namespace=shop,k8s:app=web,any:x=");
    EXPECT_EQ(labels.kind, Kind::kLabels);
    EXPECT_EQ(labels.labels,
              (std::vector<model::Label>{{"any", "x", ""},
                                         {"k8s", "app", "web"},
                                         {"k8s", "io.kubernetes.pod.namespace", "shop"}}));
    const TraceTarget world = target("world");
    EXPECT_EQ(world.kind, Kind::kLabels);
    EXPECT_EQ(world.labels, (std::vector<model::Label>{{"reserved", "world", ""}}));
    EXPECT_EQ(target("reserved:host").labels,
              (std::vector<model::Label>{{"reserved", "host", ""}}));
    // These are many.
    EXPECT_EQ(target("all").kind, Kind::kPod);
    EXPECT_EQ(target("cluster").kind, Kind::kPod);

    for (const char* bad : {"", "a/b/c/d", "/x", "x/", "=web"}) {
        EXPECT_FALSE(parse_trace_target(bad)) << bad;
    }
}

TEST(TraceQuestion, HasPortRequestAndName) {
    auto question = parse_trace_question("53/udp", "", {}, "a.example.org");
    ASSERT_TRUE(question);
    EXPECT_EQ(question->protocol, 17);
    EXPECT_EQ(question->port, 53);
    EXPECT_EQ(question->dns, "a.example.org");
    EXPECT_FALSE(question->http);

    question = parse_trace_question("80", "GET http://shop.example/a?b", {"X-Token:  one"}, "");
    ASSERT_TRUE(question);
    EXPECT_EQ(question->protocol, 6);
    EXPECT_EQ(question->http->method, "GET");
    EXPECT_EQ(question->http->host, "shop.example");
    EXPECT_EQ(question->http->path, "/a?b");
    ASSERT_EQ(question->http->headers.size(), 1U);
    EXPECT_EQ(question->http->headers[0], std::pair(std::string("X-Token"), std::string("one")));
    EXPECT_EQ(parse_trace_question("80/TCP", "GET http://shop.example", {}, "")->http->path, "/");
    EXPECT_EQ(parse_trace_question("8/ICMP", "", {}, "")->protocol, 1);

    for (const char* bad : {"", "http/TCP", "80/", "80/ANY", "65536/TCP", "-1"}) {
        const auto refused = parse_trace_question(bad, "", {}, "");
        ASSERT_FALSE(refused) << bad;
        EXPECT_THAT(refused.error().detail(), HasSubstr("PORT/PROTOCOL"));
    }
    for (const char* bad : {"GET", "GET a", " /a"}) {
        EXPECT_FALSE(parse_trace_question("80/TCP", bad, {}, "")) << bad;
    }
    EXPECT_FALSE(parse_trace_question("80/TCP", "GET /", {"no colon"}, ""));
    EXPECT_FALSE(parse_trace_question("80/TCP", "", {"X: y"}, ""));
}

// --- both ends --------------------------------------------------------------------------------

class TraceTest : public testing::Test {
  protected:
    TraceTest() : compiler_(options()) {
        const auto parsed = sources::config::parse_policies(R"(apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: "80", endPort: 90}]}]
)",
                                                            "shop.yaml");
        EXPECT_TRUE(parsed.errors.empty());
        for (const auto& policy : parsed.policies) compiler_.upsert_policy(policy);
        for (const auto& side : {client(), web(), far()}) compiler_.upsert_identity(side.identity);
        static_cast<void>(compiler_.flush());
    }
    static PolicyOptions options() {
        PolicyOptions options;
        options.cluster = "east";
        return options;
    }
    static TraceSide side(std::uint32_t id, const char* app, const char* cluster) {
        TraceSide out;
        out.asked = app;
        out.cluster = cluster;
        out.identity = {id,
                        {{"k8s", "app", app},
                         {"k8s", "io.cilium.k8s.policy.cluster", cluster},
                         {"k8s", "io.kubernetes.pod.namespace", "shop"}},
                        {}};
        return out;
    }
    static TraceSide client() { return side(0x10002, "client", "east"); }
    static TraceSide web() { return side(0x10003, "web", "east"); }
    static TraceSide far() { return side(0x20004, "web", "west"); }
    [[nodiscard]] Trace ask(TraceSide from, TraceSide to, std::string_view dport,
                            std::string_view http = "") {
        return trace(compiler_, std::move(from), std::move(to),
                     *parse_trace_question(dport, http, {}, ""));
    }
    PolicyCompiler compiler_;
};

TEST_F(TraceTest, BothEndsHaveASay) {
    const Trace get = ask(client(), web(), "80/TCP", "GET /");
    EXPECT_EQ(get.verdict(), Trace::Verdict::kAllowed);
    EXPECT_EQ(get.egress->answer, PolicyAnswer::kAllowed);
    EXPECT_EQ(get.ingress->answer, PolicyAnswer::kRedirected);
    EXPECT_EQ(ask(client(), web(), "80/TCP", "PUT /").verdict(), Trace::Verdict::kDenied);
    // The one lets it out, the other not in.
    const Trace other = ask(client(), web(), "81/TCP");
    EXPECT_EQ(other.egress->answer, PolicyAnswer::kAllowed);
    EXPECT_EQ(other.ingress->answer, PolicyAnswer::kDefaultDenied);
    EXPECT_EQ(other.verdict(), Trace::Verdict::kDenied);
}

TEST_F(TraceTest, AnotherClustersPoliciesAreNotOurs) {
    const Trace out = ask(far(), web(), "80/TCP");
    EXPECT_FALSE(out.egress);
    EXPECT_EQ(out.no_egress, "it is up to the policies of cluster west");
    EXPECT_EQ(out.ingress->answer, PolicyAnswer::kDefaultDenied);
    TraceSide world;
    world.identity = {2, {{"reserved", "world", ""}}, {}};
    EXPECT_EQ(ask(far(), world, "80/TCP").verdict(), Trace::Verdict::kUnknown);
}

TEST_F(TraceTest, IsADocument) {
    TraceSide from = client();
    from.pod = "shop/client";
    from.facts.push_back({"identity 65538", "east", "ready", 0.5});
    const auto document = to_json(ask(from, web(), "80/TCP", "GET /a"));
    EXPECT_EQ(document.at("verdict"), "allowed");
    EXPECT_EQ(document.at("source").at("pod"), "shop/client");
    EXPECT_EQ(document.at("source").at("labels").at(0), "k8s:app=client");
    EXPECT_EQ(document.at("source").at("facts").at(0).at("age_seconds"), 0.5);
    EXPECT_EQ(document.at("http").at("path"), "/a");
    const auto& ingress = document.at("ingress").as_object();
    EXPECT_EQ(ingress.at("verdict"), "redirected");
    EXPECT_EQ(ingress.at("parser"), "http");
    EXPECT_EQ(ingress.at("passes"), true);
    EXPECT_EQ(ingress.at("installed"), false);
    const auto& decided = ingress.at("decided").at(0).as_object();
    EXPECT_EQ(boost::json::serialize(decided),
              R"({"kind":"CiliumNetworkPolicy","namespace":"shop","name":"web",)"
              R"("path":"spec.ingress[0].toPorts[0]","source":"shop.yaml: document 1","line":7,)"
              R"("peer":"fromEndpoints[0]","action":"redirect","why":"sends it to a proxy"})");
    EXPECT_EQ(boost::json::serialize(ingress.at("entry")),
              R"({"identity":65538,"direction":"ingress","protocol":"TCP","ports":"80",)"
              R"("deny":false,"redirect":true,"precedence":154})");
    EXPECT_EQ(ingress.at("l7").at(0).at("rule"), "method GET");
    const auto& egress = document.at("egress").as_object();
    EXPECT_EQ(egress.at("entry").at("ports"), "80-87");
}

}  // namespace
}  // namespace mesh::compile
