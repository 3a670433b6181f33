// Manifests in, keys out: each rule of what a cluster publishes.
#include "publish/object_compiler.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "sources/config/manifests.hpp"

namespace mesh::publish {
namespace {

namespace k8s = model::k8s;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;
using testing::StartsWith;

constexpr const char* kSlice = R"(
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {}, namespace: shop, labels: {{kubernetes.io/service-name: {}{}}}}}
addressType: IPv4
ports: [{{name: {}, port: {}}}]
endpoints: [{}]
)";

class ObjectCompilerTest : public testing::Test {
  protected:
    /// Applies a file's new text and keeps what it changes.
    std::vector<KeyChange> apply(const std::string& file, const std::string& text) {
        const auto update = set.apply(file, text);
        EXPECT_THAT(update.errors, IsEmpty());
        return take(compiler.apply(update.changes));
    }
    std::vector<KeyChange> remove(const std::string& file) {
        return take(compiler.apply(set.remove(file).changes));
    }
    /// As EtcdPublisher: label sets get their numbers before anything is written.
    std::vector<KeyChange> take(Compiled compiled) {
        for (const auto& labels : compiled.identities_unwanted) {
            EXPECT_EQ(identities.erase(labels), 1U) << labels;
        }
        for (const auto& labels : compiled.identities_wanted) {
            const model::IdentityId id{7 * 65536 + ++last_number};
            EXPECT_TRUE(identities.emplace(labels, id).second) << labels;
            Compiled numbered = compiler.number_identity(labels, id);
            for (auto& change : numbered.changes) compiled.changes.push_back(std::move(change));
        }
        std::map<std::string, std::optional<std::string>> newest;
        for (auto& change : compiled.changes) newest[change.key] = std::move(change.value);
        compiled.changes.clear();
        for (auto& [key, value] : newest) compiled.changes.push_back({key, std::move(value)});
        std::vector<KeyChange> real;
        for (auto& change : compiled.changes) {
            const auto before = keys.find(change.key);
            const bool same = before == keys.end() ? !change.value : before->second == change.value;
            if (same) continue;
            if (change.value) {
                keys[change.key] = *change.value;
            } else {
                keys.erase(change.key);
            }
            real.push_back(std::move(change));
        }
        warnings = std::move(compiled.warnings);
        return real;
    }
    static std::vector<std::string> names(const std::vector<KeyChange>& changes) {
        std::vector<std::string> out;
        for (const auto& c : changes) out.push_back((c.value ? "+" : "-") + c.key);
        return out;
    }
    std::string at(const std::string& key) const {
        const auto found = keys.find(key);
        return found == keys.end() ? "absent" : found->second;
    }
    model::LocalService local(const std::string& name) const {
        const std::string key = model::local_service_key("shop", name);
        auto parsed = model::parse_local_service(key, at(key));
        EXPECT_TRUE(parsed) << parsed.error().message();
        return parsed ? *parsed : model::LocalService{};
    }
    static std::string service(const std::string& annotations, const std::string& spec,
                               const std::string& name = "cart") {
        return fmt::format(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, namespace: shop, annotations: "
            "{{{}}}}}\nspec: {}\n",
            name, annotations, spec);
    }
    static std::string pod(const std::string& name, const std::string& ip,
                           const std::string& labels = "app: cart",
                           const std::string& created = "2026-01-01T00:00:00Z") {
        return fmt::format(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: shop, creationTimestamp: "
            "'{}', labels: {{{}}}}}\nspec: {{nodeName: n1, serviceAccountName: cart}}\n"
            "status: {{podIP: '{}', phase: Running}}\n",
            name, created, labels, ip);
    }

    sources::config::ManifestSet set;
    ManualClock clock;
    ObjectCompiler compiler{ClusterInfo{"c1", model::ClusterId{7}, 255}};
    std::map<std::string, model::IdentityId> identities;  ///< wanted, with the numbers they got
    std::uint32_t last_number = 0;
    std::map<std::string, std::string> keys;
    std::vector<std::string> warnings;
};

TEST_F(ObjectCompilerTest, ClusterConfig) {
    take(compiler.start());
    EXPECT_EQ(at("cilium/cluster-config/c1"),
              R"({"id":7,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,)"
              R"("serviceExportsEnabled":false}})");
}

TEST_F(ObjectCompilerTest, Node) {
    apply("n", R"(
apiVersion: v1
kind: Node
metadata:
  name: n1
  labels: {topology.kubernetes.io/zone: z1}
  annotations: {network.cilium.io/wg-pub-key: PUB, network.cilium.io/ipv4-cilium-host: 10.7.1.9}
spec: {podCIDR: 10.7.1.0/24, podCIDRs: [10.7.1.0/24, "fd00:7::/64", 10.7.9.0/24]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.11}
  - {type: Hostname, address: n1}
  - {type: ExternalIP, address: "2001:DB8::1"}
  nodeInfo: {bootID: b-1}
)");
    EXPECT_EQ(
        at("cilium/state/nodes/v1/c1/n1"),
        R"({"Name":"n1","Cluster":"c1","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.11"},)"
        R"({"Type":"ExternalIP","IP":"2001:db8::1"},{"Type":"CiliumInternalIP","IP":"10.7.1.9"}],)"
        R"("IPv4AllocCIDR":{"IP":"10.7.1.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":)"
        R"([{"IP":"10.7.9.0","Mask":"////AA=="}],"IPv6AllocCIDR":{"IP":"fd00:7::","Mask":)"
        R"("//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"",)"
        R"("IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":7,"Source":)"
        R"("custom-resource","EncryptionKey":0,"Labels":{"topology.kubernetes.io/zone":"z1"},)"
        R"("Annotations":{"network.cilium.io/ipv4-cilium-host":"10.7.1.9",)"
        R"("network.cilium.io/wg-pub-key":"PUB"},"NodeIdentity":0,"WireguardPubKey":"PUB",)"
        R"("BootID":"b-1"})");
    EXPECT_THAT(names(remove("n")), ElementsAre("-cilium/state/nodes/v1/c1/n1"));
}

TEST_F(ObjectCompilerTest, GlobalServiceIsPublishedToTheMeshAndLocally) {
    apply(
        "s",
        service("service.cilium.io/global: 'true'",
                "{clusterIP: 10.96.4.4, ports: [{name: http, port: 80}], selector: {app: cart}}") +
            "---" +
            fmt::format(kSlice, "cart-1", "cart", "", "http", 8080,
                        "{addresses: [10.7.1.20], hostname: cart-0, zone: z1, nodeName: n1}"));
    EXPECT_EQ(
        at("cilium/state/services/v1/c1/shop/cart"),
        R"({"cluster":"c1","namespace":"shop","name":"cart","frontends":{"10.96.4.4":)"
        R"({"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.7.1.20":{"http":)"
        R"({"Protocol":"TCP","Port":8080}}},"hostnames":{"10.7.1.20":"cart-0"},"zones":)"
        R"({"10.7.1.20":{"zone":"z1","forZones":[]}},"labels":null,"selector":{"app":"cart"},)"
        R"("includeExternal":true,"shared":true,"clusterID":7})");
    const auto s = local("cart");
    EXPECT_TRUE(s.global && s.shared);
    ASSERT_THAT(s.backends, SizeIs(1));
    EXPECT_EQ(s.backends[0].node, "n1");
    EXPECT_EQ(s.type, "ClusterIP");
}

TEST_F(ObjectCompilerTest, OnlyGlobalAndSharedServicesLeaveTheCluster) {
    const std::string key = "cilium/state/services/v1/c1/shop/cart";
    apply("s", service("", "{clusterIP: 10.0.0.1}"));
    EXPECT_EQ(at(key), "absent");
    EXPECT_FALSE(local("cart").global);
    apply("s", service("io.cilium/global-service: 'true'", "{clusterIP: 10.0.0.1}"));
    EXPECT_THAT(at(key), StartsWith("{"));
    // Without endpoints the record exists all the same.
    EXPECT_THAT(at(key), HasSubstr(R"("backends":{})"));
    apply("s",
          service("service.cilium.io/global: 'true', service.cilium.io/shared: 'false'", "{}"));
    EXPECT_EQ(at(key), "absent");
    EXPECT_TRUE(local("cart").global);
    EXPECT_FALSE(local("cart").shared);
    apply("s", service("service.cilium.io/global: 'true'", "{type: ExternalName}"));
    EXPECT_EQ(at(key), "absent");
    apply("s", service("service.cilium.io/global: 'maybe'", "{}"));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("Service shop/cart: annotation")));
}

TEST_F(ObjectCompilerTest, TrafficAnnotationsReachTheAgentsAndNoOtherCluster) {
    apply("s", service("service.cilium.io/global: 'true', libmesh.io/cluster-weights: 'a=1,b=2', "
                       "libmesh.io/slow-start: 'soon'",
                       "{clusterIP: 10.0.0.1}"));
    EXPECT_THAT(warnings, ElementsAre("Service shop/cart: annotation libmesh.io/slow-start: "
                                      "\"soon\" is ignored, expected a time from 1s to 1h, such "
                                      "as 30s or 1m30s"));
    const auto annotations = local("cart").annotations;
    ASSERT_TRUE(annotations);
    EXPECT_EQ(annotations->get("libmesh.io/cluster-weights"), "a=1,b=2");
    EXPECT_THAT(at(model::service_key("c1", "shop", "cart")), Not(HasSubstr("libmesh.io")));
}

TEST_F(ObjectCompilerTest, LocalServiceHasFlagsAffinityAndStates) {
    apply("s",
          service("service.cilium.io/global: 'true', service.cilium.io/affinity: local",
                  "{clusterIPs: [10.0.0.1, 'fd00::1'], sessionAffinity: ClientIP, "
                  "internalTrafficPolicy: Local, ports: [{port: 53, protocol: UDP}]}") +
              "---" +
              fmt::format(kSlice, "cart-1", "cart", "", "''", 53,
                          "{addresses: [10.7.1.1], hints: {forZones: [{name: z1}]}}, "
                          "{addresses: [10.7.1.2], conditions: {ready: false, serving: true, "
                          "terminating: true}}, {addresses: [10.7.1.3], conditions: {ready: false, "
                          "serving: true}}, {addresses: [10.7.1.4], conditions: {ready: false, "
                          "serving: false, terminating: true}}"));
    const auto s = local("cart");
    EXPECT_EQ(s.affinity, model::Affinity::kLocal);
    EXPECT_EQ(s.client_ip_affinity_seconds, 10800U);
    EXPECT_TRUE(s.internal_traffic_local);
    EXPECT_THAT(s.cluster_ips, SizeIs(2));
    ASSERT_THAT(s.backends, SizeIs(2));
    EXPECT_EQ(s.backends[0].state, model::BackendState::kActive);
    EXPECT_THAT(s.backends[0].for_zones, ElementsAre("z1"));
    EXPECT_EQ(s.backends[1].state, model::BackendState::kTerminating);
    // Remotes get the serving one as well, without its state.
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/cart"), HasSubstr("10.7.1.2"));
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/cart"), Not(HasSubstr("10.7.1.3")));
}

TEST_F(ObjectCompilerTest, HeadlessServiceHasNoFrontends) {
    apply("s", service("service.cilium.io/global: 'true'",
                       "{clusterIP: None, ports: [{name: a, port: 1}]}") +
                   "---" + fmt::format(kSlice, "x", "cart", "", "a", 1, "{addresses: [10.7.1.1]}"));
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/cart"), HasSubstr(R"("frontends":{})"));
    EXPECT_TRUE(local("cart").headless);
}

TEST_F(ObjectCompilerTest, SlicesOfAServiceAreMerged) {
    apply("s", service("", "{}") + "---" +
                   fmt::format(kSlice, "a", "cart", "", "http", 80,
                               "{addresses: [10.7.1.1], conditions: {ready: false, serving: true, "
                               "terminating: true}}") +
                   "---" +
                   fmt::format(kSlice, "b", "cart", "", "metrics", 90,
                               "{addresses: [10.7.1.1], zone: z1}, {addresses: [10.7.1.0]}"));
    auto s = local("cart");
    ASSERT_THAT(s.backends, SizeIs(2));
    EXPECT_EQ(s.backends[0].address.to_string(), "10.7.1.0");
    EXPECT_THAT(s.backends[1].ports, SizeIs(2));
    EXPECT_EQ(s.backends[1].state, model::BackendState::kActive);
    EXPECT_EQ(s.backends[1].zone, "z1");
    // A slice that moves to another Service leaves this one.
    apply("s", service("", "{}") + "---" +
                   fmt::format(kSlice, "a", "other", "", "http", 80, "{addresses: [10.7.1.1]}"));
    EXPECT_THAT(local("cart").backends, IsEmpty());
}

TEST_F(ObjectCompilerTest, WhatWasLearnedFromTheMeshIsNeverExported) {
    const std::string global = service("service.cilium.io/global: 'true'", "{}");
    for (const char* label :
         {", endpointslice.kubernetes.io/managed-by: endpointslice-mesh-controller.cilium.io",
          ", multicluster.kubernetes.io/source-cluster: c2"}) {
        apply("s",
              global + "---" +
                  fmt::format(kSlice, "m", "cart", label, "http", 80, "{addresses: [10.9.1.1]}"));
        EXPECT_THAT(local("cart").backends, IsEmpty()) << label;
        EXPECT_THAT(at("cilium/state/services/v1/c1/shop/cart"), HasSubstr(R"("backends":{})"));
    }
}

TEST_F(ObjectCompilerTest, AChangeTouchesOnlyItsOwnKeys) {
    apply("a", service("service.cilium.io/global: 'true'", "{}", "one"));
    apply("b", service("service.cilium.io/global: 'true'", "{}", "two"));
    const std::string backend =
        fmt::format(kSlice, "x", "one", "", "http", 80, "{addresses: [10.7.1.1]}");
    const auto changed = [&](const std::string& file, const std::string& text) {
        return compiler.apply(set.apply(file, text).changes).changes;
    };
    EXPECT_THAT(names(changed("c", backend)), ElementsAre("+cilium/state/services/v1/c1/shop/one",
                                                          "+mesh/local/services/v1/shop/one"));
    EXPECT_THAT(names(remove("a")), ElementsAre("-cilium/state/services/v1/c1/shop/one",
                                                "-mesh/local/services/v1/shop/one"));
}

TEST_F(ObjectCompilerTest, PodBecomesAnIpAndAnIdentity) {
    apply("n",
          "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}\n---\n"
          "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: "
          "InternalIP, address: 192.0.2.11}]}\n");
    apply("p",
          pod("cart-0", "10.7.1.20", "app: cart, pod-template-hash: x1, kubernetes.io/arch: y"));
    ASSERT_THAT(identities, SizeIs(1));
    EXPECT_EQ(identities.begin()->first,
              "k8s:app=cart;k8s:io.cilium.k8s.namespace.labels.team=a;"
              "k8s:io.cilium.k8s.policy.cluster=c1;k8s:io.cilium.k8s.policy.serviceaccount=cart;"
              "k8s:io.kubernetes.pod.namespace=shop;");
    const model::IdentityId id = identities.begin()->second;
    EXPECT_EQ(at("cilium/state/ip/v1/default/10.7.1.20"),
              fmt::format(R"({{"IP":"10.7.1.20","Mask":null,"HostIP":"192.0.2.11","ID":{},"Key":0,)"
                          R"("Metadata":"","K8sNamespace":"shop","K8sPodName":"cart-0",)"
                          R"("K8sServiceAccount":"cart"}})",
                          number(id)));
    // Another pod of the same labels shares it.
    EXPECT_THAT(names(apply("q", pod("cart-1", "10.7.1.21"))),
                ElementsAre("+cilium/state/ip/v1/default/10.7.1.21"));
    EXPECT_EQ(compiler.identities(), 1U);
}

TEST_F(ObjectCompilerTest, NamedPortsOfContainersGoWithThePodsAddress) {
    apply("p",
          "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec:\n"
          "  containers:\n"
          "  - ports: [{name: http, containerPort: 8080}, {containerPort: 1}]\n"
          "  - ports: [{name: dns, containerPort: 53, protocol: UDP},\n"
          "            {name: http, containerPort: 9090}]\n"
          "status: {phase: Running, podIP: 10.7.1.20}\n");
    EXPECT_THAT(at("cilium/state/ip/v1/default/10.7.1.20"),
                HasSubstr(R"("NamedPorts":[{"Name":"dns","Port":53,"Protocol":"UDP"},)"
                          R"({"Name":"http","Port":8080,"Protocol":"TCP"}])"));
}

TEST_F(ObjectCompilerTest, NodeAndNamespaceChangesReachTheirPods) {
    apply("p", pod("a", "10.7.1.20"));
    EXPECT_THAT(at("cilium/state/ip/v1/default/10.7.1.20"), HasSubstr(R"("HostIP":"")"));
    const std::string node =
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: "
        "ExternalIP, address: 198.51.100.1}]}\n";
    EXPECT_THAT(names(apply("n", node)), ElementsAre("+cilium/state/ip/v1/default/10.7.1.20",
                                                     "+cilium/state/nodes/v1/c1/n1"));
    EXPECT_THAT(at("cilium/state/ip/v1/default/10.7.1.20"), HasSubstr("198.51.100.1"));
    const auto before = at("cilium/state/ip/v1/default/10.7.1.20");
    const auto changes =
        apply("s", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {x: y}}\n");
    EXPECT_THAT(changes, SizeIs(1));  // the ip, which has a new identity
    EXPECT_NE(at("cilium/state/ip/v1/default/10.7.1.20"), before);
}

TEST_F(ObjectCompilerTest, DualStackPodHasTwoIps) {
    apply("p",
          "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.7.1.1, hostIP: "
          "192.0.2.1, podIPs: [{ip: 10.7.1.1}, {ip: 'fd00:7::1'}]}\n");
    EXPECT_THAT(at("cilium/state/ip/v1/default/fd00:7::1"), HasSubstr(R"("HostIP":"192.0.2.1")"));
    EXPECT_THAT(at("cilium/state/ip/v1/default/10.7.1.1"), HasSubstr(R"("K8sPodName":"a")"));
    EXPECT_THAT(names(remove("p")), ElementsAre("-cilium/state/ip/v1/default/10.7.1.1",
                                                "-cilium/state/ip/v1/default/fd00:7::1"));
}

TEST_F(ObjectCompilerTest, NamedPortsAreThoseOfAllContainers) {
    const auto with_port = [](int number) {
        return fmt::format(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers:\n"
            "  - ports: [{{name: web, containerPort: {}}}, {{containerPort: 9}}]\n"
            "  - ports: [{{name: dns, containerPort: 53, protocol: UDP}}]\n"
            "status: {{podIP: 10.7.1.1}}\n",
            number);
    };
    apply("p", with_port(80));
    EXPECT_THAT(at("cilium/state/ip/v1/default/10.7.1.1"),
                HasSubstr(R"("NamedPorts":[{"Name":"dns","Port":53,"Protocol":"UDP"},)"
                          R"({"Name":"web","Port":80,"Protocol":"TCP"}])"));
    EXPECT_THAT(names(apply("p", with_port(81))),
                ElementsAre("+cilium/state/ip/v1/default/10.7.1.1"));
}

TEST_F(ObjectCompilerTest, PodsWithoutAnAddressOfTheirOwnAreNotPublished) {
    for (const char* rest :
         {"spec: {hostNetwork: true}\nstatus: {podIP: 192.0.2.1}\n",
          "status: {podIP: 10.7.1.1, phase: Succeeded}\n",
          "status: {podIP: 10.7.1.1, phase: Failed}\n", "status: {phase: Pending}\n"}) {
        EXPECT_THAT(
            apply("p", fmt::format("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\n{}", rest)),
            IsEmpty())
            << rest;
    }
    apply("p", pod("a", "10.7.1.20"));
    EXPECT_EQ(keys.size(), 1U);
    EXPECT_THAT(
        names(apply("s",
                    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: "
                    "{clustermesh.cilium.io/global: 'false'}}\n")),
        ElementsAre("-cilium/state/ip/v1/default/10.7.1.20", "+mesh/local/ips/v1/10.7.1.20"));
    EXPECT_THAT(names(remove("s")), ElementsAre("+cilium/state/ip/v1/default/10.7.1.20",
                                                "-mesh/local/ips/v1/10.7.1.20"));
}

TEST_F(ObjectCompilerTest, AServiceHasExternalAddressesAndNodePorts) {
    const auto with = [&](const std::string& type, const std::string& ingress) {
        apply("svc", service("'service.cilium.io/global': 'true'",
                             fmt::format("{{type: {}, clusterIP: 10.96.0.1, externalIPs: "
                                         "[192.0.2.1, 'fd00::1', 192.0.2.1], ports: [{{name: http, "
                                         "port: 80, nodePort: 30080}}], "
                                         "externalTrafficPolicy: Local}}\nstatus: {{loadBalancer: "
                                         "{{ingress: [{}]}}}}",
                                         type, ingress)));
        return local("cart");
    };
    const auto lb = with("LoadBalancer",
                         "{ip: 192.0.2.7}, {hostname: lb.example}, {ip: 192.0.2.8, ipMode: Proxy}, "
                         "{ip: 192.0.2.9, ipMode: VIP}");
    EXPECT_THAT(lb.external_ips, ElementsAre(*model::IpAddress::parse("192.0.2.1"),
                                             *model::IpAddress::parse("fd00::1")));
    EXPECT_THAT(lb.load_balancer_ips, ElementsAre(*model::IpAddress::parse("192.0.2.7"),
                                                  *model::IpAddress::parse("192.0.2.9")));
    EXPECT_EQ(lb.ports.at(0).node_port, 30080);
    EXPECT_TRUE(lb.external_traffic_local);
    EXPECT_THAT(at("cilium/state/services/v1/c1/shop/cart"),
                HasSubstr(R"("frontends":{"10.96.0.1":{"http":{"Protocol":"TCP","Port":80}}},)"))
        << "the mesh is told of cluster IPs only";
    EXPECT_THAT(with("ClusterIP", "{ip: 192.0.2.7}").load_balancer_ips, IsEmpty())
        << "left over from another type";
}

TEST_F(ObjectCompilerTest, AWarningOfAServiceIsToldOnce) {
    const std::string spec = "{clusterIP: 10.96.0.1, ports: [{port: 80}]}";
    const std::string text =
        service("service.cilium.io/lb-algorithm: maglev, service.cilium.io/type: Any", spec);
    apply("svc", text);
    EXPECT_THAT(
        warnings,
        ElementsAre("Service shop/cart: annotation service.cilium.io/lb-algorithm is not supported "
                    "and has no effect",
                    "Service shop/cart: annotation service.cilium.io/type: \"any\" is ignored, "
                    "expected a list of ClusterIP, NodePort, LoadBalancer and ExternalIPs"));
    apply("slice",
          fmt::format(kSlice, "cart-1", "cart", "", "http", 8080, "{addresses: [10.7.1.1]}"));
    EXPECT_THAT(warnings, IsEmpty());
    apply("svc", service("service.cilium.io/lb-algorithm: maglev", spec));
    EXPECT_THAT(warnings, IsEmpty()) << "one of the two stays";
    apply("svc", text);
    EXPECT_THAT(warnings, SizeIs(1)) << "the other is there again";
    remove("svc");
    apply("svc", text);
    EXPECT_THAT(warnings, SizeIs(2));
}

TEST_F(ObjectCompilerTest, ANamespaceIsGlobalIfItsAnnotationIsAbsentOrTrue) {
    apply("p", pod("a", "10.7.1.20"));
    const auto published_with = [&](const std::string& value) {
        apply("s", fmt::format("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, "
                               "annotations: {{clustermesh.cilium.io/global: '{}'}}}}\n",
                               value));
        return at("cilium/state/ip/v1/default/10.7.1.20") != "absent";
    };
    for (const char* on : {"true", "True", "TRUE"}) {
        EXPECT_TRUE(published_with(on)) << on;
        EXPECT_THAT(warnings, IsEmpty()) << on;
    }
    for (const char* off : {"false", "False", "FALSE"}) {
        EXPECT_FALSE(published_with(off)) << off;
        EXPECT_NE(at("mesh/local/ips/v1/10.7.1.20"), "absent") << "its own cluster knows it";
        EXPECT_THAT(warnings, IsEmpty()) << off;
    }
    for (const char* other : {"no", "", "0", " true"}) {
        EXPECT_FALSE(published_with(other)) << other;
        EXPECT_THAT(warnings, ElementsAre(fmt::format("Namespace shop: annotation "
                                                      "clustermesh.cilium.io/global: \"{}\" is "
                                                      "read as false, expected true or false",
                                                      other)));
    }
    EXPECT_TRUE(published_with("true"));
    EXPECT_FALSE(published_with("no"));
    remove("s");
    EXPECT_NE(at("cilium/state/ip/v1/default/10.7.1.20"), "absent");
}

TEST_F(ObjectCompilerTest, AnAddressWithTwoOwnersSurvivesTheEndOfOne) {
    const std::string key = "cilium/state/ip/v1/default/10.7.1.20";
    apply("old", pod("old", "10.7.1.20", "app: a", "2026-01-01T00:00:00Z"));
    apply("new", pod("new", "10.7.1.20", "app: b", "2026-01-02T00:00:00Z"));
    EXPECT_THAT(warnings, ElementsAre(HasSubstr("10.7.1.20")));
    EXPECT_THAT(at(key), HasSubstr(R"("K8sPodName":"new")"));
    // The end of the old one, which the mesh's own exporter would take for the address's end.
    EXPECT_THAT(names(remove("old")), IsEmpty());
    EXPECT_THAT(at(key), HasSubstr(R"("K8sPodName":"new")"));
    apply("old", pod("old", "10.7.1.20", "app: a", "2026-01-01T00:00:00Z"));
    remove("new");
    EXPECT_THAT(at(key), HasSubstr(R"("K8sPodName":"old")"));
    remove("old");
    EXPECT_EQ(at(key), "absent");
}

TEST_F(ObjectCompilerTest, ALabelSetIsWantedWhileAPodHasIt) {
    apply("p", pod("a", "10.7.1.20"));
    apply("q", pod("b", "10.7.1.21"));
    ASSERT_THAT(identities, SizeIs(1));
    const std::string labels = identities.begin()->first;
    remove("p");
    EXPECT_THAT(identities, SizeIs(1));
    // The last one goes and another comes at once: the number stays, nobody is asked.
    auto changes = set.remove("q").changes;
    const auto more = set.apply("r", pod("c", "10.7.1.22")).changes;
    changes.insert(changes.end(), more.begin(), more.end());
    Compiled compiled = compiler.apply(changes);
    EXPECT_THAT(compiled.identities_wanted, IsEmpty());
    EXPECT_THAT(compiled.identities_unwanted, IsEmpty());
    take(std::move(compiled));
    EXPECT_THAT(at("cilium/state/ip/v1/default/10.7.1.22"), HasSubstr("\"ID\":458753,"));
    // Another writer had it first.
    const auto moved = compiler.number_identity(labels, model::IdentityId{458799});
    ASSERT_THAT(moved.changes, SizeIs(2));  // the other: not only the own cluster's
    EXPECT_EQ(moved.changes[1].value, std::nullopt);
    EXPECT_THAT(*moved.changes[0].value, HasSubstr("\"ID\":458799,"));
    EXPECT_THAT(compiler.number_identity("k8s:a=b;", model::IdentityId{458800}).changes, IsEmpty());
    remove("r");
    EXPECT_THAT(identities, IsEmpty());
    EXPECT_EQ(compiler.identities(), 0U);
}

TEST_F(ObjectCompilerTest, LabelsThatTheFilterDropsMakeNoIdentity) {
    compiler =
        ObjectCompiler(ClusterInfo{"c1", model::ClusterId{7}, 255}, *LabelFilter::parse("k8s:app"));
    apply("p", pod("a", "10.7.1.20", "app: cart, tier: front, io.cilium.k8s.policy.cluster: bad"));
    ASSERT_THAT(identities, SizeIs(1));
    EXPECT_EQ(identities.begin()->first,
              "k8s:app=cart;k8s:io.cilium.k8s.policy.cluster=c1;"
              "k8s:io.cilium.k8s.policy.serviceaccount=cart;k8s:io.kubernetes.pod.namespace=shop;");
}

}  // namespace
}  // namespace mesh::publish
