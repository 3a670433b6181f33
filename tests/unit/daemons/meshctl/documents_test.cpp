#include "meshctl/documents.hpp"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace mesh::ctl {
namespace {

namespace json = boost::json;

TEST(Documents, ASandboxWithoutItsStateIsIncomplete) {
    EXPECT_EQ(sandbox_document({"c1", std::nullopt, 0}),
              json::parse(R"({"name":"c1","complete":false})"));
}

TEST(Documents, ASandboxTellsItsDaemonsAndPods) {
    sandbox::State state;
    state.name = "c1";
    state.cluster_id = 7;
    state.pod_cidrs = {model::IpPrefix::parse("10.10.0.0/16").value(),
                       model::IpPrefix::parse("fd00:10::/48").value()};
    state.service_cidrs = {model::IpPrefix::parse("10.11.0.0/16").value()};
    state.nodes = 2;
    state.routing = "native";
    state.etcd = "real";
    state.complete = true;
    sandbox::Daemon daemon;
    daemon.name = "mesh-agent";
    daemon.node = "node2";
    daemon.socket = "/s";
    daemon.log = "/l";
    state.daemons.push_back(daemon);
    auto& pod = state.objects.pods[{"shop", "echo"}];
    pod.namespace_ = "shop";
    pod.name = "echo";
    pod.node = "node1";
    pod.ips = {model::IpAddress::parse("10.10.0.2").value()};
    pod.exit_code = 3;
    EXPECT_EQ(sandbox_document({"c1", state, 0}), json::parse(R"({
        "name":"c1","complete":true,"cluster_id":7,"pod_cidrs":["10.10.0.0/16","fd00:10::/48"],
        "service_cidrs":["10.11.0.0/16"],"nodes":2,"routing":"native",
        "encryption":"none","etcd":"real",
        "daemons":[{"name":"mesh-agent","node":"node2","running":false,"pid":0,"socket":"/s",
                    "log":"/l"}],
        "pods":[{"namespace":"shop","name":"echo","node":"node1","ips":["10.10.0.2"],
                 "phase":"Pending","ready":false,"message":"","exit_code":3}]})"));
}

TEST(Documents, DeletedOrNotThere) {
    EXPECT_EQ(deleted_document("c1", true), json::parse(R"({"name":"c1","deleted":true})"));
    EXPECT_EQ(deleted_document("c1", false), json::parse(R"({"name":"c1","deleted":false})"));
}

TEST(Documents, ChangesKeepTheirOrder) {
    EXPECT_EQ(changes_document({}), json::array());
    EXPECT_EQ(
        changes_document(
            {{{"Service", "shop", "echo"}, "created"}, {{"Namespace", "", "a"}, "removed"}}),
        json::parse(R"([{"kind":"Service","namespace":"shop","name":"echo","change":"created"},
                              {"kind":"Namespace","namespace":"","name":"a","change":"removed"}])"));
}

TEST(Documents, DaemonsAreCounted) {
    EXPECT_EQ(daemons_document("mesh-proxy", 2),
              json::parse(R"({"daemon":"mesh-proxy","count":2})"));
    EXPECT_EQ(daemons_document("", 0), json::parse(R"({"daemon":"","count":0})"));
}

TEST(Documents, ConnectionsAreOnePerDirection) {
    EXPECT_EQ(connections_document({{"a", "b"}, {"b", "a"}}, true),
              json::parse(R"([{"cluster":"a","remote":"b","connected":true},
                              {"cluster":"b","remote":"a","connected":true}])"));
    EXPECT_EQ(connections_document({{"a", "b"}}, false),
              json::parse(R"([{"cluster":"a","remote":"b","connected":false}])"));
}

TEST(Documents, AnAuthorityTellsItsEndInUtcSeconds) {
    pki::CertificateInfo certificate;
    certificate.common_name = "mesh CA";
    certificate.not_after = WallTime(std::chrono::milliseconds(1'764'000'000'999));
    EXPECT_EQ(authority_document("ca", certificate),
              json::parse(R"({"folder":"ca","certificate":"ca/ca.crt","common_name":"mesh CA",
                              "not_after":"2025-11-24T16:00:00Z"})"));
}

}  // namespace
}  // namespace mesh::ctl
