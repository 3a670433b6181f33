#include "attach/cni_config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::attach {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> environment(std::string_view command) {
    return {"CNI_COMMAND=" + std::string(command),
            "CNI_CONTAINERID=c0ffee",
            "CNI_NETNS=/run/netns/x",
            "CNI_IFNAME=eth0",
            "CNI_PATH=/opt/cni/bin:/usr/lib/cni",
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=echo-1"};
}

std::vector<std::string> with(std::vector<std::string> all, std::string_view entry) {
    const std::string name(entry.substr(0, entry.find('=') + 1));
    for (std::string& held : all) {
        if (held.starts_with(name)) held = entry;
    }
    return all;
}

TEST(CniEnvironment, IsRead) {
    const auto call = parse_cni_environment(environment("ADD"));
    ASSERT_TRUE(call);
    EXPECT_EQ(call->command, CniCommand::kAdd);
    EXPECT_EQ(call->container_id, "c0ffee");
    EXPECT_EQ(call->netns, "/run/netns/x");
    EXPECT_EQ(call->ifname, "eth0");
    EXPECT_EQ(call->path, "/opt/cni/bin:/usr/lib/cni");
    EXPECT_EQ(call->pod_namespace, "shop");
    EXPECT_EQ(call->pod_name, "echo-1");
}

TEST(CniEnvironment, ErrorsNameTheVariable) {
    const auto why = [](std::string_view command, std::string_view entry) {
        const auto call = parse_cni_environment(with(environment(command), entry));
        if (call) return std::string("accepted");
        EXPECT_EQ(call.error().code, 4U);
        return call.error().message;
    };
    EXPECT_THAT(why("ADD", "CNI_COMMAND=GO"), HasSubstr("CNI_COMMAND \"GO\": expected ADD"));
    EXPECT_THAT(why("ADD", "CNI_CONTAINERID="), HasSubstr("CNI_CONTAINERID"));
    EXPECT_THAT(why("ADD", "CNI_CONTAINERID=../x"), HasSubstr("CNI_CONTAINERID \"../x\""));
    EXPECT_THAT(why("ADD", "CNI_IFNAME=longer-than-fifteen"), HasSubstr("CNI_IFNAME"));
    EXPECT_THAT(why("ADD", "CNI_IFNAME=a/b"), HasSubstr("CNI_IFNAME"));
    EXPECT_THAT(why("ADD", "CNI_NETNS="), HasSubstr("CNI_NETNS"));
    EXPECT_THAT(why("CHECK", "CNI_NETNS="), HasSubstr("CNI_NETNS"));
    EXPECT_THAT(why("ADD", "CNI_ARGS=K8S"), HasSubstr("CNI_ARGS \"K8S\""));
    EXPECT_THAT(why("ADD", "CNI_ARGS=K8S_POD_NAMESPACE=a;K8S_POD_NAME=b/c"),
                HasSubstr("K8S_POD_NAME \"b/c\""));
    EXPECT_EQ(why("DEL", "CNI_NETNS="), "accepted");
    EXPECT_EQ(why("DEL", "CNI_ARGS=K8S"), "accepted");
    EXPECT_THAT(why("DEL", "CNI_CONTAINERID="), HasSubstr("CNI_CONTAINERID"));
    EXPECT_EQ(why("VERSION", "CNI_CONTAINERID="), "accepted");
}

TEST(CniEnvironment, TheEndpointIsNamedAfterThePodOrTheContainer) {
    const auto id = [](std::string_view entry) {
        return parse_cni_environment(with(environment("ADD"), entry))->endpoint_id();
    };
    EXPECT_EQ(id("CNI_IFNAME=eth0"), "shop.echo-1");
    EXPECT_EQ(id("CNI_IFNAME=net1"), "shop.echo-1_net1");
    EXPECT_EQ(id("CNI_ARGS="), "c0ffee.eth0");
    EXPECT_EQ(id("CNI_ARGS=K8S_POD_NAME=echo-1"), "c0ffee.eth0");
    EXPECT_EQ(id("CNI_ARGS=K8S_POD_NAMESPACE=n;K8S_POD_NAME=" + std::string(230, 'p')),
              "c0ffee.eth0");
}

TEST(NetworkConfig, TheExampleIsOne) {
    const auto config = parse_network_config(example_network_config());
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->version, "1.0.0");
    EXPECT_EQ(config->name, "mesh");
    EXPECT_EQ(config->mtu, 1450U);
    EXPECT_EQ(config->endpoints_dir, "/run/libmesh/endpoints");
    EXPECT_EQ(config->agent_socket, "/run/libmesh/agent.sock");
    EXPECT_EQ(config->agent_timeout, std::chrono::seconds(10));
    EXPECT_EQ(config->ipam.type, kLocalIpam);
    EXPECT_THAT(config->ipam.subnets, ElementsAre(*model::IpPrefix::parse("10.10.1.0/24"),
                                                  *model::IpPrefix::parse("fd00:10:0:1::/64")));
    EXPECT_EQ(config->text, example_network_config());
}

TEST(NetworkConfig, WhatIsLeftOutHasDefaults) {
    const auto config = parse_network_config(
        R"({"cniVersion":"0.4.0","name":"m","type":"mesh-cni","ipam":{"type":"host-local"}})");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->mtu, 1450U);
    EXPECT_EQ(config->endpoints_dir, "/run/libmesh/endpoints");
    EXPECT_EQ(config->agent_socket, "");
    EXPECT_EQ(config->agent_timeout, std::chrono::seconds(10));
    EXPECT_EQ(config->ipam.data_dir, "/var/lib/libmesh/ipam");
    EXPECT_FALSE(config->prev_result);
}

// A good config with one thing changed → "<code> <message>".
std::string refusal(std::string_view from, std::string_view to) {
    std::string text(example_network_config());
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const auto config = parse_network_config(text);
    return config ? "accepted" : std::to_string(config.error().code) + " " + config.error().message;
}

TEST(NetworkConfig, ErrorsNameTheField) {
    EXPECT_THAT(refusal("{", "["), HasSubstr("6 network config on standard input"));
    EXPECT_THAT(refusal("\"1.0.0\"", "\"2.0.0\""),
                HasSubstr("1 cniVersion \"2.0.0\": expected one of 0.3.1, 0.4.0, 1.0.0"));
    EXPECT_THAT(refusal("cniVersion", "version"), HasSubstr("1 cniVersion \"\""));
    EXPECT_THAT(refusal("\"mesh\"", "\"me/sh\""), HasSubstr("7 name \"me/sh\""));
    EXPECT_THAT(refusal("1450", "1000"), HasSubstr("7 mtu: expected a number from 1280"));
    EXPECT_THAT(refusal("1450", "\"1450\""), HasSubstr("7 mtu: "));
    EXPECT_THAT(refusal("\"/run/libmesh/endpoints\"", "\"run\""), HasSubstr("7 endpointsDir: "));
    EXPECT_THAT(refusal("\"/run/libmesh/agent.sock\"", "1"), HasSubstr("7 agentSocket: "));
    EXPECT_THAT(refusal("10,", "-1,"), HasSubstr("7 agentTimeoutSeconds: "));
    EXPECT_THAT(refusal("\"ipam\"", "\"other\""), HasSubstr("7 ipam: expected an object"));
    EXPECT_THAT(refusal("\"mesh-local\"", "\"../x\""), HasSubstr("7 ipam.type: "));
    EXPECT_THAT(refusal("subnets", "blocks"), HasSubstr("7 ipam.subnets: expected a list"));
    EXPECT_THAT(refusal("10.10.1.0/24", "10.10.1.0/33"), HasSubstr("7 ipam.subnets: "));
    EXPECT_THAT(refusal("10.10.1.0/24", "10.10.1.0/31"), HasSubstr("at most /30"));
    EXPECT_THAT(refusal("1::/64", "1::/127"), HasSubstr("at most /126"));
    EXPECT_THAT(refusal("fd00:10:0:1::/64", "10.10.1.128/25"), HasSubstr("expected blocks apart"));
    EXPECT_THAT(refusal("\"/var/lib/libmesh/ipam\"", "\"x\""), HasSubstr("7 ipam.dataDir: "));
    EXPECT_THAT(refusal("\"mtu\"", "\"ipMasq\":true,\"mtu\""), HasSubstr("2 ipMasq: "));
    EXPECT_EQ(refusal("\"mtu\"", "\"ipMasq\":false,\"mtu\""), "accepted");
    EXPECT_THAT(refusal("\"mtu\"", "\"dns\":1,\"mtu\""), HasSubstr("7 dns: "));
    EXPECT_THAT(refusal("\"mtu\"", R"("prevResult":{"ips":[{"address":"10.0.0.1"}]},"mtu")"),
                HasSubstr("7 prevResult: ips: address \"10.0.0.1\": expected"));
}

TEST(NetworkConfig, AnswersAreOfItsVersionOrOurNewest) {
    EXPECT_EQ(answer_version(R"({"cniVersion":"0.3.1"})"), "0.3.1");
    EXPECT_EQ(answer_version(R"({"cniVersion":"9"})"), "1.0.0");
    EXPECT_EQ(answer_version("nonsense"), "1.0.0");
}

}  // namespace
}  // namespace mesh::attach
