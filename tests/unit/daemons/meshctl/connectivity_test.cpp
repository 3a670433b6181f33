#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <set>

#include "meshctl/connectivity_cases.hpp"
#include "meshctl/connectivity_checks.hpp"
#include "meshctl/connectivity_plan.hpp"
#include "meshctl/connectivity_report.hpp"
#include "sandbox/objects.hpp"

namespace mesh::ctl::connectivity {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

// Cluster a has 10.1.<node>.0/24 and fd00:1:<node>::/64, cluster b 10.2 and fd00:2.
Network network(bool tunnel) {
    const auto both = [](const std::string& v4, const std::string& v6) {
        return Addresses{model::IpAddress::parse(v4).value(), model::IpAddress::parse(v6).value()};
    };
    Network out;
    out.tunnel = tunnel;
    for (std::size_t i = 0; i < kClusters; ++i) {
        Network::Cluster& cluster = out.clusters.at(i);
        const std::string number = std::to_string(i + 1);
        cluster.name = i == 0 ? "conn-a" : "conn-b";
        cluster.global_service = both("10.1" + number + ".0.1", "fd00:1" + number + "::1");
        cluster.local_service = both("10.1" + number + ".0.2", "fd00:1" + number + "::2");
        cluster.tcp_node_port = 30001;
        cluster.udp_node_port = 30002;
        for (std::size_t n = 0; n < kNodes; ++n) {
            const std::string node = std::to_string(n + 1);
            const std::string v4 = "10." + number + "." + node + ".";
            const std::string v6 = "fd00:" + number + ":" + node + "::";
            Network::Node& made = cluster.nodes.at(n);
            made.router = both(v4 + "1", v6 + "1");
            made.client = both(v4 + "2", v6 + "2");
            made.server = both(v4 + "3", v6 + "3");
            made.node = both("172.18." + number + "." + node, "fd6d::" + number + ":" + node);
        }
    }
    out.outside = "conn-out";
    out.outside_node = both("172.18.9.1", "fd6d::9:1");
    return out;
}

Check check_of(const std::string& name) {
    const std::string routing = name.substr(0, name.find('/'));
    const auto cases = select_cases(routing, "^" + name + "$");
    EXPECT_TRUE(cases && cases->size() == 1) << name;
    return plan_check(cases->front(), network(routing == "tunnel"), std::chrono::seconds(5));
}

json::object answer(const std::string& cluster, const std::string& node, const std::string& pod,
                    const std::string& client, const std::string& peer) {
    return {{"cluster", cluster}, {"node", node}, {"pod", pod}, {"client", client}, {"peer", peer}};
}

json::object result_of(json::array answers) {
    return {{"answers", std::move(answers)}, {"milliseconds", 1.0}};
}

TEST(ConnectivityCases, NamesAreUniqueAndPairsGoBothWays) {
    std::set<std::string> names;
    for (const Case& one : all_cases()) {
        EXPECT_TRUE(names.insert(one.name("tunnel")).second) << one.name("tunnel");
    }
    for (const std::string& name : names) {
        if (name.find("pod-to-pod-other-") == std::string::npos) continue;
        const std::size_t dash = name.rfind('-');
        const std::size_t slash = name.rfind('/');
        const std::string back = name.substr(0, slash + 1) + name.substr(dash + 1) + "-" +
                                 name.substr(slash + 1, dash - slash - 1);
        EXPECT_TRUE(names.contains(back)) << back;
    }
}

TEST(ConnectivityCases, PodsAreAskedOverEveryFamilyAndProtocol) {
    for (const std::string scope : {"pod-to-pod-same-node", "pod-to-pod-other-node",
                                    "pod-to-pod-other-cluster", "node-to-pod-other-cluster"}) {
        for (const std::string family : {"ipv4", "ipv6"}) {
            for (const std::string protocol :
                 {"tcp", "tcp-large", "udp", "udp-large", "icmp", "icmp-large"}) {
                const std::string name = "native/" + scope + "/" + family + "/" + protocol + "/";
                const auto cases = select_cases("native", name);
                ASSERT_TRUE(cases);
                EXPECT_GE(cases->size(), 2U) << name;
            }
        }
    }
}

TEST(ConnectivityCases, OnlyIsARegularExpressionOnTheName) {
    EXPECT_EQ(select_cases("tunnel", "")->size(), all_cases().size());
    EXPECT_TRUE(select_cases("tunnel", "^native/")->empty());
    const auto one = select_cases("tunnel", "pod-to-pod-other-cluster/ipv6/udp/a1-b2");
    ASSERT_EQ(one->size(), 1U);
    EXPECT_EQ(one->front().name("tunnel"), "tunnel/pod-to-pod-other-cluster/ipv6/udp/a1-b2");
    const auto bad = select_cases("tunnel", "(");
    ASSERT_FALSE(bad);
    EXPECT_EQ(bad.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(bad.error().detail(), HasSubstr("--only \"(\""));
}

TEST(ConnectivityChecks, APodAnswersAndSeesTheClientsOwnAddress) {
    const Check check = check_of("tunnel/pod-to-pod-other-cluster/ipv4/tcp/a1-b2");
    EXPECT_EQ(check.origin.cluster, "conn-a");
    EXPECT_EQ(check.origin.pod, "connectivity/client-node1");
    EXPECT_EQ(check.request.to.to_string(), "10.2.2.3");
    const auto judged = [&](const json::object& one) { return judge(check, result_of({one})); };
    const json::object good =
        answer("conn-b", "node2", "server-node2", "10.1.1.2:4000", "10.2.2.3");
    EXPECT_EQ(judged(good), std::nullopt);
    json::object wrong = good;
    wrong["client"] = "172.18.1.1:4000";
    EXPECT_EQ(judged(wrong), "the server saw the client as 172.18.1.1, expected 10.1.1.2");
    wrong = good;
    wrong["cluster"] = "conn-a";
    EXPECT_EQ(judged(wrong),
              "conn-a/node2/server-node2 answered, expected conn-b/node2/server-node2");
    wrong = good;
    wrong["peer"] = "10.2.2.4";
    EXPECT_EQ(judged(wrong), "the answer came from 10.2.2.4, expected 10.2.2.3");
}

TEST(ConnectivityChecks, AnAddressOfIpv6IsReadWithoutItsPort) {
    const Check check = check_of("native/pod-to-pod-same-node/ipv6/udp/a1-a1");
    EXPECT_EQ(judge(check, result_of({answer("conn-a", "node1", "server-node1",
                                             "[fd00:1:1::2]:4000", "fd00:1:1::3")})),
              std::nullopt);
}

TEST(ConnectivityChecks, TheOutsideSeesTheNodeAndSoDoNodesBehindATunnel) {
    const auto clients = [](const std::string& name) {
        std::vector<std::string> out;
        for (const auto& one : check_of(name).clients) out.push_back(one.to_string());
        return out;
    };
    using Texts = std::vector<std::string>;
    EXPECT_EQ(clients("native/pod-to-outside/ipv4/tcp/a1"), Texts{"172.18.1.1"});
    EXPECT_EQ(clients("tunnel/pod-to-node-other-cluster/ipv6/tcp/a1-b1"), Texts{"fd6d::1:1"});
    EXPECT_EQ(clients("native/pod-to-node-other-cluster/ipv4/tcp/a1-b1"), Texts{"10.1.1.2"});
    EXPECT_EQ(clients("tunnel/node-to-pod-other-cluster/ipv4/tcp/a1-b2"),
              (Texts{"172.18.1.1", "10.1.1.1"}));
}

TEST(ConnectivityChecks, AGlobalServiceIsAnsweredByBothClusters) {
    const Check check = check_of("tunnel/pod-to-global-service/ipv4/udp/b2");
    EXPECT_EQ(check.request.to.to_string(), "10.12.0.1");
    EXPECT_EQ(check.request.port, kServiceUdpPort);
    json::array answers;
    for (std::uint32_t i = 0; i < check.request.count; ++i) {
        answers.push_back(answer("conn-b", "node1", "server-node1", "10.2.2.2:9", "10.12.0.1"));
    }
    EXPECT_EQ(judge(check, result_of(answers)), "none of 32 answers came from conn-a");
    answers.back() = answer("conn-a", "node2", "server-node2", "10.2.2.2:9", "10.12.0.1");
    EXPECT_EQ(judge(check, result_of(answers)), std::nullopt);
    answers.pop_back();
    EXPECT_EQ(judge(check, result_of(answers)), "31 answers, expected 32");
    json::object failed = result_of(answers);
    failed["error"] = "nothing";
    EXPECT_EQ(judge(check, failed), "request 32 of 32: nothing");
}

TEST(ConnectivityChecks, ANodePortIsAskedFromPodsAndFromOutside) {
    const auto clients = [](const Check& check) {
        std::set<std::string> out;
        for (const auto& one : check.clients) out.insert(one.to_string());
        return out;
    };
    using Texts = std::set<std::string>;
    const Check pod = check_of("tunnel/pod-to-node-port-other-node/ipv4/udp/a1-a2");
    EXPECT_EQ(pod.origin.pod, "connectivity/client-node1");
    EXPECT_EQ(pod.request.to.to_string(), "172.18.1.2");
    EXPECT_EQ(pod.request.port, 30002);
    EXPECT_EQ(pod.required.size(), 2U);
    EXPECT_EQ(clients(pod), (Texts{"10.1.1.2", "172.18.1.1", "172.18.1.2", "10.1.2.1"}));
    const Check outside = check_of("native/outside-to-node-port/ipv6/tcp/out-b2");
    EXPECT_EQ(outside.origin.cluster, "conn-out");
    EXPECT_EQ(outside.origin.node, "node1");
    EXPECT_EQ(outside.origin.pod, "");
    EXPECT_EQ(outside.request.to.to_string(), "fd6d::2:2");
    EXPECT_EQ(outside.request.port, 30001);
    EXPECT_EQ(clients(outside), (Texts{"fd6d::9:1", "fd6d::2:2", "fd00:2:2::1"}));
    const Check routed = check_of("tunnel/outside-to-global-service/ipv4/tcp/b1");
    EXPECT_EQ(routed.request.to.to_string(), "10.12.0.1");
    EXPECT_EQ(routed.request.port, kServiceTcpPort);
}

TEST(ConnectivityChecks, ALocalServiceIsAnsweredByItsClusterOnly) {
    const Check check = check_of("tunnel/pod-to-local-service/ipv4/tcp/a1");
    json::array answers;
    for (std::uint32_t i = 0; i < check.request.count; ++i) {
        const std::string node = i % 2 == 0 ? "node1" : "node2";
        answers.push_back(answer("conn-a", node, "server-" + node, "10.1.1.2:9", "10.11.0.2"));
    }
    EXPECT_EQ(judge(check, result_of(answers)), std::nullopt);
    answers.front() = answer("conn-b", "node1", "server-node1", "10.1.1.2:9", "10.11.0.2");
    EXPECT_THAT(judge(check, result_of(answers)).value_or(""),
                HasSubstr("conn-b/node1/server-node1 answered"));
}

TEST(ConnectivityChecks, NoAnswerIsTheProbesError) {
    const Check check = check_of("tunnel/pod-to-pod-same-node/ipv4/icmp/a1-a1");
    EXPECT_EQ(judge(check, {{"error", "answer of 10.1.1.3: nothing within 5000 ms"}}),
              "answer of 10.1.1.3: nothing within 5000 ms");
    EXPECT_EQ(judge(check, result_of({{{"peer", "10.1.1.3"}}})), std::nullopt);
    EXPECT_EQ(judge(check, json::object()), "0 answers, expected 1");
}

TEST(ConnectivityReport, ARowPerCaseAndTheFailedOnesByName) {
    const auto cases = select_cases("native", "pod-to-pod-same-node/ipv4/udp/").value();
    ASSERT_EQ(cases.size(), 2U);
    const Network addresses = network(false);
    Report report;
    EXPECT_EQ(report.begin("native", cases, addresses),
              "native routing, 2 cases\n"
              "WHAT                  FROM                 TO                   FAMILY  PROTOCOL  "
              "RESULT        TIME\n");
    EXPECT_EQ(report.add(cases[0], addresses, {"", 1.25}),
              "pod-to-pod-same-node  conn-a/client-node1  conn-a/server-node1  ipv4    udp       "
              "passed      1.2 ms\n");
    EXPECT_THAT(report.add(cases[1], addresses, {"lost", 5000}),
                HasSubstr("FAILED   5000.0 ms\n"
                          "    native/pod-to-pod-same-node/ipv4/udp/b2-b2: lost\n"));
    EXPECT_EQ(report.summary(),
              "failed: native/pod-to-pod-same-node/ipv4/udp/b2-b2\n1 passed, 1 failed\n");
    const json::object document = report.document({"conn-a"});
    EXPECT_EQ(document.at("failed"), 1);
    EXPECT_EQ(document.at("kept"), json::array{"conn-a"});
    EXPECT_EQ(document.at("cases").at(1), json::parse(R"({
        "name": "native/pod-to-pod-same-node/ipv4/udp/b2-b2", "routing": "native",
        "what": "pod-to-pod-same-node", "family": "ipv4", "protocol": "udp",
        "from": "conn-b/client-node2", "to": "conn-b/server-node2",
        "passed": false, "milliseconds": 5E3, "reason": "lost"})"));
}

TEST(ConnectivityPlan, NamesFollowThePrefixAndCidrsTheIds) {
    const auto plan = Plan::make("t", "201,202");
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->names(), (std::vector<std::string>{"t-a", "t-b", "t-out"}));
    const sandbox::CreateOptions options = plan->options(1, "native");
    EXPECT_EQ(options.name, "t-b");
    EXPECT_EQ(options.cluster_id, 202U);
    EXPECT_EQ(options.max_clusters, 255U);
    EXPECT_EQ(options.inherit_ca, "t-a");
    EXPECT_EQ(options.routing, "native");
    EXPECT_EQ(options.pod_cidr, "10.202.0.0/17,fd00:ca::/48");
    EXPECT_EQ(options.service_cidr, "10.202.128.0/17,fd00:ca:1::/112");
    EXPECT_EQ(Plan::make("t", "1,300")->options(0, "tunnel").max_clusters, 511U);
}

TEST(ConnectivityPlan, WhatIsWrongIsRefusedByName) {
    for (const std::string ids : {"201", "201,201", "1,257", "0,1", "1,512", "a,b", "1,2,3", ""}) {
        const auto plan = Plan::make("t", ids);
        ASSERT_FALSE(plan) << ids;
        EXPECT_EQ(plan.error().code(), Errc::kInvalidArgument);
        EXPECT_THAT(plan.error().detail(), HasSubstr("--cluster-ids")) << ids;
    }
    EXPECT_THAT(Plan::make("Not.a name", "1,2").error().detail(), HasSubstr("--prefix"));
}

TEST(ConnectivityPlan, TheManifestIsOneThatASandboxTakes) {
    const auto objects = sandbox::parse_objects(manifest(), "manifest", "default");
    ASSERT_TRUE(objects) << objects.error().message();
    std::vector<std::string> refs;
    for (const auto& object : *objects) refs.push_back(object.ref.to_string());
    EXPECT_THAT(refs, ::testing::ElementsAre(
                          "Namespace connectivity", "Service connectivity/global",
                          "Service connectivity/local", "Pod connectivity/server-node1",
                          "Pod connectivity/client-node1", "Pod connectivity/server-node2",
                          "Pod connectivity/client-node2"));
}

}  // namespace
}  // namespace mesh::ctl::connectivity
