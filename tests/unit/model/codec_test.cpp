#include "model/codec.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace mesh::model {
namespace {

template <class T>
std::string error_of(const Result<T>& result) {
    return result ? "accepted" : result.error().detail();
}

TEST(CodecService, BackendsWithEqualPortsShareThem) {
    const auto service =
        parse_service("k", R"({"backends":{"10.0.0.1":{"http":{"Protocol":"TCP","Port":80}},
                "10.0.0.2":{"http":{"Protocol":"TCP","Port":80}},
                "10.0.0.3":{"http":{"Protocol":"TCP","Port":81}}}})");
    ASSERT_TRUE(service);
    EXPECT_TRUE(service->backends[0].ports.shares_with(service->backends[1].ports));
    EXPECT_FALSE(service->backends[0].ports == service->backends[2].ports);
}

TEST(CodecService, AbsentMapsAreEmptyAndNullOnesNull) {
    const auto absent = parse_service("k", "{}");
    ASSERT_TRUE(absent);
    EXPECT_FALSE(absent->frontends_null || absent->backends_null);
    EXPECT_EQ(absent->labels, StringMap());
    const auto nulls = parse_service("k", R"({"frontends":null,"labels":null})");
    ASSERT_TRUE(nulls);
    EXPECT_TRUE(nulls->frontends_null);
    EXPECT_FALSE(nulls->labels);
}

TEST(CodecService, RefusesWhatIsNoAddressOrPort) {
    const auto backend = [](std::string_view text) {
        return error_of(
            parse_service("k", std::string(R"({"backends":{)").append(text).append("}}")));
    };
    EXPECT_EQ(backend(R"("host":{})"),
              "k: field backends.host: expected an IPv4 or IPv6 address as name, got host");
    for (const char* text : {R"("":{})", R"("10.0.0.1:80":{})", R"("10.0.0.0/8":{})",
                             R"("010.0.0.1":{})", R"("[::1]":{})", R"("fe80::1%":{})",
                             R"("10.0.0.1%eth0":{})", R"("10.0.0":{})", R"("10.0.0.1.":{})"}) {
        EXPECT_NE(backend(text).find("expected an IPv4 or IPv6 address"), std::string::npos)
            << text;
    }
    EXPECT_EQ(backend(R"("fe80::1%eth0":{})"), "accepted");
    EXPECT_EQ(backend(R"("10.0.0.1":{"p":{"Port":65536}})"),
              "k: field backends.10.0.0.1.p.Port: expected an integer 0..65535, got 65536");
    EXPECT_EQ(backend(R"("10.0.0.1":{"p":null})"),
              "k: field backends.10.0.0.1.p: expected an object, got null");
    EXPECT_EQ(backend(R"("10.0.0.1":[])"),
              "k: field backends.10.0.0.1: expected an object, got []");
}

TEST(CodecService, WritesMapsSortedWhateverTheOrderGiven) {
    Service service;
    service.cluster = "c";
    service.labels = StringMap{{"b", "2"}, {"a", "1"}};
    // Bytewise by text: "10.0.0.10" stands before "10.0.0.2"; of equal addresses the last stays.
    for (const std::uint8_t last : std::initializer_list<std::uint8_t>{2, 10, 2}) {
        service.backends.push_back(
            {IpAddress::v4(10, 0, 0, last), {{"z", "TCP", 1}, {"a", "UDP", last}}, {}});
    }
    EXPECT_EQ(
        encode(service),
        R"({"cluster":"c","namespace":"","name":"","frontends":{},"backends":{)"
        R"("10.0.0.10":{"a":{"Protocol":"UDP","Port":10},"z":{"Protocol":"TCP","Port":1}},)"
        R"("10.0.0.2":{"a":{"Protocol":"UDP","Port":2},"z":{"Protocol":"TCP","Port":1}}},)"
        R"("labels":{"a":"1","b":"2"},"selector":null,"includeExternal":false,"shared":false,)"
        R"("clusterID":0})");
}

TEST(CodecNode, CidrsAreUsableOnlyWithACanonicalMask) {
    const auto node = parse_node(
        "k", R"({"IPv4AllocCIDR":{"IP":"10.7.0.9","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":[
                {"IP":"10.8.0.0","Mask":"//8AAA=="},{"IP":"10.9.0.0","Mask":"/wD/AA=="},{},null,
                {"IP":"10.10.0.0","Mask":"AAAAAAAAAAAAAAAA/////w=="}],"IPv6AllocCIDR":{"IP":"fd00::"}})");
    ASSERT_TRUE(node);
    EXPECT_EQ(node->ipv4_alloc_cidr, *IpPrefix::parse("10.7.0.0/24"));
    ASSERT_TRUE(node->ipv4_secondary_alloc_cidrs);
    EXPECT_EQ(*node->ipv4_secondary_alloc_cidrs,
              (std::vector{*IpPrefix::parse("10.8.0.0/16"), *IpPrefix::parse("10.10.0.0/32")}));
    EXPECT_FALSE(node->ipv6_alloc_cidr);
}

TEST(CodecIp, AnEntryWithoutAddressIsRefused) {
    EXPECT_EQ(error_of(parse_ip("k", R"({"Mask":null})")),
              "k: expected an address in field IP, got none");
    EXPECT_NE(error_of(parse_ip("k", R"({"IP":""})")), "accepted");
    EXPECT_NE(error_of(parse_ip("k", R"({"IP":"fe80::1%eth0"})")), "accepted");
}

TEST(CodecIp, AMaskHasTheBytesOfAnAddressAtMost) {
    const auto pair = parse_ip("k", R"({"IP":"::1","Mask":"/////////////////////w=="})");
    ASSERT_TRUE(pair);
    EXPECT_EQ(pair->prefix_length, 128);
    // 20 bytes: such a length could not be written again.
    EXPECT_EQ(error_of(parse_ip("k", R"({"IP":"::1","Mask":"//////////////////////////8="})")),
              "k: field Mask: expected a mask of at most 16 bytes, got 20 bytes");
}

TEST(CodecIdentity, IdsAreDecimalAndInRange) {
    const auto id = [](std::string_view tail) {
        return error_of(
            parse_identity_id(std::string("cilium/state/identities/v1/id/").append(tail)));
    };
    EXPECT_EQ(id("458801"), "accepted");
    EXPECT_EQ(id("0458801"), "accepted");
    EXPECT_EQ(id("4294967295"), "accepted");
    for (const char* bad : {"", "0", "abc", "-5", "+5", "0x10", "5/", "5/x", " 5", "5.0",
                            "4294967296", "99999999999999999999"}) {
        EXPECT_NE(id(bad).find("expected an identity 1..4294967295"), std::string::npos) << bad;
    }
    EXPECT_EQ(*parse_identity_id("77"), IdentityId{77});
    EXPECT_EQ(*parse_identity_id("cilium/cache/identities/v1/id/id/77"), IdentityId{77});
    EXPECT_EQ(error_of(parse_identity("77", "")), "77: expected labels, got an empty value");
}

TEST(CodecIdentity, LabelsAsUpstreamReadsThem) {
    const auto one = [](std::string_view text) {
        const auto labels = parse_labels(text);
        return labels.size() == 1
                   ? fmt::format("{}|{}|{}", labels[0].source, labels[0].key, labels[0].value)
                   : std::to_string(labels.size());
    };
    EXPECT_EQ(one("k8s:app=cart;"), "k8s|app|cart");
    EXPECT_EQ(one("k8s:app=cart"), "k8s|app|cart");
    EXPECT_EQ(one("k8s:a=b:c=d/e"), "k8s|a|b:c=d/e");
    EXPECT_EQ(one("app=cart"), "unspec|app|cart");
    EXPECT_EQ(one(":app"), "unspec|app|");
    EXPECT_EQ(one("$host"), "reserved|host|");
    EXPECT_EQ(one("$=host"), "reserved|host|");
    EXPECT_EQ(one("reserved.host"), "reserved|host|");
    EXPECT_EQ(one("reserved:host"), "reserved|host|");
    EXPECT_EQ(one(";;k8s:;=x;k8s:=x;"), "0");
    std::vector<Label> labels{{"k8s", "b", "1"}, {"z", "a", "2"}, {"a", "b", "3"}};
    sort_labels(labels);
    EXPECT_EQ(encode_labels(labels), "z:a=2;k8s:b=1;a:b=3;");
}

TEST(CodecExport, DemandsWhatUpstreamDemands) {
    const auto with = [](std::string_view from, std::string_view to) {
        std::string text =
            R"({"cluster":"c","name":"n","namespace":"s","exportCreationTimestamp":)"
            R"("2025-03-04T05:06:07Z","ports":[],"type":"Headless","sessionAffinity":"None"})";
        if (const auto at = text.find(from); at != std::string::npos)
            text.replace(at, from.size(), to);
        return error_of(parse_service_export("k", text));
    };
    EXPECT_EQ(with("-", "-"), "accepted");
    EXPECT_EQ(with(R"("cluster":"c",)", ""), "k: expected a name in field cluster, got none");
    EXPECT_EQ(with(R"("n")", R"("")"), "k: expected a name in field name, got none");
    EXPECT_EQ(with(R"("s")", "null"), "k: expected a name in field namespace, got none");
    EXPECT_EQ(with("Headless", "Other"),
              "k: field type: expected ClusterSetIP or Headless, got Other");
    EXPECT_EQ(with("None", "none"),
              "k: field sessionAffinity: expected ClientIP or None, got none");
    EXPECT_EQ(
        with("2025-03-04", "2025-02-30"),
        "k: field exportCreationTimestamp: expected an RFC 3339 time, got 2025-02-30T05:06:07Z");
    EXPECT_NE(with(R"("2025-03-04T05:06:07Z")", "null"), "accepted");
    EXPECT_NE(with("2025-03-04T05:06:07Z", "0001-01-01T00:00:00Z"), "accepted");
    EXPECT_NE(with("[]", R"([],"internalTrafficPolicy":"")"), "accepted");
    EXPECT_NE(with("[]", R"([],"trafficDistribution":"Far")"), "accepted");
    EXPECT_NE(with("[]", R"([{"port":2147483648}])"), "accepted");
    EXPECT_EQ(with("[]", R"([{"port":-1}])"), "accepted");
}

TEST(CodecTimestamp, Rfc3339) {
    EXPECT_EQ(*parse_timestamp("k", "1970-01-01T00:00:00Z"), 0);
    EXPECT_EQ(*parse_timestamp("k", "2024-02-29T23:59:59.5-01:30"), 1709256599);
    EXPECT_EQ(encode_timestamp(1709256599), "2024-03-01T01:29:59Z");
    EXPECT_EQ(encode_timestamp(-1), "1969-12-31T23:59:59Z");
    for (const char* bad :
         {"", "now", "2023-02-29T00:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T24:00:00Z",
          "2024-01-01T00:00:00", "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00+1:00",
          "2024-01-01T00:00:00Zx", "0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"}) {
        EXPECT_NE(error_of(parse_timestamp("k", bad)).find("RFC 3339"), std::string::npos) << bad;
    }
}

TEST(CodecLocalService, ExternalAddressesAndNodePortsAreOptional) {
    const std::string plain =
        R"({"namespace":"s","name":"n","type":"LoadBalancer","headless":false,"clusterIPs":[],)"
        R"("ports":[{"name":"http","protocol":"TCP","port":80}],"backends":[],"global":false,)"
        R"("shared":false,"affinity":"none","clientIPAffinitySeconds":0,)"
        R"("internalTrafficLocal":false,"labels":null,"selector":null,"annotations":null})";
    auto service = parse_local_service("k", plain);
    ASSERT_TRUE(service) << service.error().message();
    EXPECT_TRUE(service->external_ips.empty());
    EXPECT_TRUE(service->load_balancer_ips.empty());
    EXPECT_EQ(service->ports[0].node_port, 0);
    EXPECT_EQ(encode(*service), plain) << "what older agents read";
    service->external_ips = {IpAddress::v4(192, 0, 2, 1), *IpAddress::parse("fd00::1")};
    service->load_balancer_ips = {IpAddress::v4(192, 0, 2, 2)};
    service->ports[0].node_port = 30080;
    service->external_traffic_local = true;
    const std::string text = encode(*service);
    EXPECT_NE(text.find(R"("clusterIPs":[],"externalIPs":["192.0.2.1","fd00::1"],)"
                        R"("loadBalancerIPs":["192.0.2.2"],"ports":[{"name":"http",)"
                        R"("protocol":"TCP","port":80,"nodePort":30080}])"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find(R"("internalTrafficLocal":false,"externalTrafficLocal":true,)"),
              std::string::npos);
    const auto again = parse_local_service("k", text);
    ASSERT_TRUE(again) << again.error().message();
    EXPECT_EQ(*again, *service);
}

TEST(CodecLocalService, RefusesWhatItDoesNotKnow) {
    const auto with = [](std::string_view fields) {
        return error_of(parse_local_service(
            "k", std::string(R"({"namespace":"s","name":"n",)").append(fields).append("}")));
    };
    EXPECT_EQ(with(R"("affinity":"near")"),
              "k: field affinity: expected one of none, local, remote, got near");
    EXPECT_EQ(with(R"("backends":[{"state":"gone"}])"),
              "k: field backends[0].state: expected one of active, terminating, quarantined, "
              "maintenance, got gone");
    EXPECT_EQ(with(R"("backends":[{"weight":1}])"),
              "k: field backends[0]: expected an object with field address, got none");
    EXPECT_EQ(with(R"("clusterIPs":[""])"),
              "k: field clusterIPs[0]: expected an IPv4 or IPv6 address, got none");
    EXPECT_EQ(error_of(parse_local_service("k", R"({"namespace":"s"})")),
              "k: expected a name in field name, got none");
}

TEST(CodecLocalService, SortsPortsAndBackends) {
    const auto service =
        parse_local_service("k", R"({"namespace":"s","name":"n","ports":[{"name":"b"},{"name":"a"}],
                "backends":[{"address":"10.0.0.10"},{"address":"10.0.0.2"}]})");
    ASSERT_TRUE(service);
    EXPECT_EQ(service->ports[0].name, "a");
    EXPECT_EQ(service->backends[0].address, IpAddress::v4(10, 0, 0, 2));
}

}  // namespace
}  // namespace mesh::model
