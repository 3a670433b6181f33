#include "sandbox/objects.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "sandbox/yaml.hpp"

namespace mesh::sandbox {
namespace {

namespace json = boost::json;
using model::IpAddress;
using model::IpPrefix;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kApp = R"(
apiVersion: v1
kind: Service
metadata:
  name: echo
  namespace: shop
  annotations: {service.cilium.io/global: "true"}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 3
  containers:
  - name: c
    command: [mesh-echo]
    args: ["--port", "8080"]
    env:
    - {name: X, value: "1"}
    - {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /healthz, port: web}}
    lifecycle: {preStop: {sleep: {seconds: 2}}}
)";

json::value document(const std::map<std::string, std::string>& files, const std::string& name) {
    const auto found = files.find(name);
    EXPECT_NE(found, files.end()) << name;
    return found == files.end() ? json::value() : parse_yaml(found->second, name).value().at(0);
}

std::string error_of(const std::string& yaml) {
    const auto objects = parse_objects(yaml, "app.yaml", "default");
    return objects ? "" : objects.error().detail();
}

TEST(Yaml, QuotedScalarsStayText) {
    const auto documents = parse_yaml(
        "a: \"true\"\nb: true\nc: '1'\nd: 1\ne: 1.5\nf: ~\ng: \"\"\nh:\ni: 1.2.3\nj: "
        "-7\n---\n---\n[]\n",
        "x");
    ASSERT_TRUE(documents) << documents.error().message();
    ASSERT_EQ(documents->size(), 2U);
    const json::object& map = documents->at(0).as_object();
    EXPECT_EQ(map.at("a"), "true");
    EXPECT_EQ(map.at("b"), true);
    EXPECT_EQ(map.at("c"), "1");
    EXPECT_EQ(map.at("d"), 1);
    EXPECT_EQ(map.at("e"), 1.5);
    EXPECT_TRUE(map.at("f").is_null());
    EXPECT_EQ(map.at("g"), "");
    EXPECT_TRUE(map.at("h").is_null());
    EXPECT_EQ(map.at("i"), "1.2.3");
    EXPECT_EQ(map.at("j"), -7);
    const auto again = parse_yaml(to_yaml(documents->at(0)), "y");
    ASSERT_TRUE(again);
    EXPECT_EQ(again->at(0), documents->at(0));
}

TEST(Yaml, ErrorsNameFileAndLine) {
    EXPECT_THAT(parse_yaml("a: [1\nb", "f.yaml").error().detail(), HasSubstr("f.yaml:"));
    EXPECT_THAT(parse_yaml("x: 1\nx: 2\n", "f.yaml").error().detail(),
                testing::AllOf(HasSubstr("f.yaml:2"), HasSubstr("twice")));
    EXPECT_FALSE(parse_yaml("a: &x [*x]", "f.yaml"));
    EXPECT_FALSE(parse_yaml(std::string(100, '['), "f.yaml"));
    EXPECT_FALSE(parse_yaml("? [a]\n: 1\n", "f.yaml"));
}

TEST(Objects, PodIsRead) {
    const auto objects = parse_objects(kApp, "app.yaml", "default");
    ASSERT_TRUE(objects) << objects.error().message();
    ASSERT_EQ(objects->size(), 2U);
    EXPECT_EQ(objects->at(1).ref, (ObjectRef{"Pod", "shop", "a"}));
    const PodSpec spec = parse_pod_spec(objects->at(1).manifest).value();
    EXPECT_THAT(spec.command, ElementsAre("mesh-echo", "--port", "8080"));
    EXPECT_EQ(spec.environment.at(0).value, "1");
    EXPECT_EQ(spec.environment.at(1).field, "metadata.name");
    EXPECT_EQ(spec.grace_seconds, 3);
    EXPECT_EQ(spec.pre_stop_seconds, 2);
    ASSERT_TRUE(spec.readiness);
    EXPECT_TRUE(spec.readiness->http);
    EXPECT_EQ(spec.readiness->port, 8080);
    EXPECT_EQ(spec.readiness->path, "/healthz");
}

TEST(Objects, ErrorsNameFileObjectAndField) {
    const std::string pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [";
    EXPECT_THAT(error_of("kind: Pod\nmetadata: {name: p}\n"),
                HasSubstr("app.yaml: Pod p: apiVersion"));
    EXPECT_THAT(error_of("apiVersion: v1\nkind: Secret\nmetadata: {name: p}\n"),
                HasSubstr("Secret"));
    EXPECT_THAT(error_of("apiVersion: v1\nkind: Pod\nmetadata: {name: P_}\n"),
                HasSubstr("metadata.name"));
    EXPECT_THAT(error_of(pod + "]}"), HasSubstr("spec.containers"));
    EXPECT_THAT(error_of(pod + "{name: c}]}"), HasSubstr("command"));
    EXPECT_THAT(error_of(pod + "{command: [a, 8080]}]}"), HasSubstr("numbers in quotes"));
    EXPECT_THAT(error_of(pod + "{command: [a], ports: [{containerPort: 70000}]}]}"),
                HasSubstr("containerPort"));
    EXPECT_THAT(error_of(pod + "{command: [a], readinessProbe: {}}]}"),
                HasSubstr("readinessProbe"));
    EXPECT_THAT(error_of(pod + "{command: [a], env: [{name: A=B}]}]}"), HasSubstr("env[0].name"));
    const std::string service = "apiVersion: v1\nkind: Service\nmetadata: {name: s";
    EXPECT_THAT(error_of(service + "}\nspec: {}\n"), HasSubstr("spec.ports"));
    EXPECT_THAT(error_of(service + ", annotations: {a: true}}\nspec: {ports: [{port: 1}]}\n"),
                testing::AllOf(HasSubstr("metadata.annotations.a"), HasSubstr("quotes")));
    EXPECT_THAT(error_of(service + "}\nspec: {ports: [{port: 1}, {port: 2}]}\n"),
                HasSubstr("spec.ports[0].name"));
    EXPECT_THAT(error_of(service + "}\nspec: {clusterIP: x, ports: [{port: 1}]}\n"),
                HasSubstr("spec.clusterIP"));
    EXPECT_THAT(error_of("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: "
                         "{selector: {matchLabels: {a: b}}, template: {spec: {containers: "
                         "[{command: [x]}]}}}\n"),
                HasSubstr("spec.selector.matchLabels"));
    EXPECT_THAT(error_of(""), HasSubstr("no object"));
    EXPECT_THAT(error_of("apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n---\napiVersion: "
                         "v1\nkind: Namespace\nmetadata: {name: n}\n"),
                HasSubstr("twice"));
}

TEST(Objects, PoliciesAreKeptAsWritten) {
    const std::string text = R"(
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web.all}
spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "80"}]}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec: {endpointSelector: {}, egress: [{}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}}
)";
    const auto objects = parse_objects(text, "app.yaml", "shop").value();
    ClusterObjects cluster;
    for (const Object& object : objects) cluster.policies[object.ref] = object.manifest;
    const auto files = render_manifests(cluster);
    const json::value cnp = document(files, "CiliumNetworkPolicy.shop.web.all.yaml");
    EXPECT_EQ(cnp.at_pointer("/metadata/namespace"), "shop");
    EXPECT_EQ(cnp.at_pointer("/spec/ingress/0/toPorts/0/ports/0/port"), "80");
    EXPECT_EQ(document(files, "CiliumClusterwideNetworkPolicy.web.yaml").at("kind"),
              "CiliumClusterwideNetworkPolicy");
    EXPECT_TRUE(files.contains("NetworkPolicy.shop.web.yaml"));
}

TEST(Objects, PolicyThatWouldBeRefusedIsRefusedHere) {
    EXPECT_THAT(error_of("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
                         "metadata: {name: web}\nspec:\n  endpointSelector: {}\n"
                         "  ingress: [{fromEntity: [all]}]\n"),
                testing::AllOf(HasSubstr("app.yaml: document 1: line 6"), HasSubstr("fromEntity")));
}

class Manifests : public testing::Test {
  protected:
    Manifests() {
        cluster_.nodes.push_back(
            {"node1",
             {IpAddress::v4(172, 18, 1, 1), IpAddress::parse("fd00::1").value()},
             {IpPrefix::parse("10.10.0.0/24").value()}});
        const auto objects = parse_objects(kApp, "app.yaml", "default").value();
        json::object service = objects[0].manifest;
        set_cluster_ips(service, {IpAddress::v4(10, 11, 0, 2)});
        cluster_.services[{"shop", "echo"}] = service;
        Pod pod;
        pod.namespace_ = "shop";
        pod.name = "a";
        pod.node = "node1";
        pod.ips = {IpAddress::v4(10, 10, 0, 2), IpAddress::parse("fd00:10::2").value()};
        pod.manifest = objects[1].manifest;
        pod.uid = "u-1";
        pod.phase = PodPhase::kRunning;
        pod.ready = true;
        cluster_.pods[{"shop", "a"}] = pod;
    }
    Pod& pod() { return cluster_.pods.begin()->second; }
    json::value slice() {
        return document(render_manifests(cluster_), "EndpointSlice.shop.echo-ipv4-1.yaml");
    }
    ClusterObjects cluster_;
};

TEST_F(Manifests, AreWhatAnApiServerWouldShow) {
    const auto files = render_manifests(cluster_);
    std::vector<std::string> names;
    for (const auto& [name, content] : files) names.push_back(name);
    EXPECT_THAT(names, ElementsAre("EndpointSlice.shop.echo-ipv4-1.yaml", "Node.node1.yaml",
                                   "Pod.shop.a.yaml", "Service.shop.echo.yaml"));
    const json::value service = document(files, "Service.shop.echo.yaml");
    EXPECT_EQ(service.at_pointer("/spec/clusterIP"), "10.11.0.2");
    EXPECT_EQ(service.at_pointer("/spec/clusterIPs/0"), "10.11.0.2");
    EXPECT_EQ(service.at_pointer("/metadata/annotations/service.cilium.io~1global"), "true");
    const json::value node = document(files, "Node.node1.yaml");
    EXPECT_FALSE(node.at("metadata").as_object().contains("annotations"));
    cluster_.nodes.front().wireguard_key = "a2V5";
    const json::value keyed = document(render_manifests(cluster_), "Node.node1.yaml");
    EXPECT_EQ(keyed.at_pointer("/metadata/annotations/network.cilium.io~1wg-pub-key"), "a2V5");
    EXPECT_EQ(node.at_pointer("/spec/podCIDR"), "10.10.0.0/24");
    EXPECT_EQ(node.at_pointer("/spec/podCIDRs/0"), "10.10.0.0/24");
    EXPECT_EQ(node.at_pointer("/status/addresses/0/address"), "172.18.1.1");
    EXPECT_EQ(node.at_pointer("/status/addresses/1/type"), "InternalIP");
    const json::value pod = document(files, "Pod.shop.a.yaml");
    EXPECT_EQ(pod.at_pointer("/status/podIP"), "10.10.0.2");
    EXPECT_EQ(pod.at_pointer("/status/podIPs/1/ip"), "fd00:10::2");
    EXPECT_EQ(pod.at_pointer("/status/hostIP"), "172.18.1.1");
    EXPECT_EQ(pod.at_pointer("/status/phase"), "Running");
    EXPECT_EQ(pod.at_pointer("/spec/nodeName"), "node1");
    const json::value slice = document(files, "EndpointSlice.shop.echo-ipv4-1.yaml");
    EXPECT_EQ(slice.at_pointer("/metadata/labels/kubernetes.io~1service-name"), "echo");
    EXPECT_EQ(slice.at_pointer("/addressType"), "IPv4");
    EXPECT_EQ(slice.at_pointer("/endpoints/0/addresses/0"), "10.10.0.2");
    EXPECT_EQ(slice.at_pointer("/endpoints/0/conditions/ready"), true);
    EXPECT_EQ(slice.at_pointer("/ports/0/port"), 8080);
    EXPECT_EQ(slice.at_pointer("/ports/1/port"), 53);
    EXPECT_EQ(slice.at_pointer("/ports/1/protocol"), "UDP");
}

TEST_F(Manifests, TerminatingPodServesNoMore) {
    pod().terminating = true;
    EXPECT_EQ(slice().at_pointer("/endpoints/0/conditions/ready"), false);
    EXPECT_EQ(slice().at_pointer("/endpoints/0/conditions/serving"), false);
    EXPECT_EQ(slice().at_pointer("/endpoints/0/conditions/terminating"), true);
}

TEST_F(Manifests, ExitedPodLeavesTheSliceAndShowsItsCode) {
    pod().phase = PodPhase::kFailed;
    pod().ready = false;
    pod().exit_code = 137;
    EXPECT_EQ(slice().at("endpoints").as_array().size(), 0U);
    const json::value shown = document(render_manifests(cluster_), "Pod.shop.a.yaml");
    EXPECT_EQ(shown.at_pointer("/status/phase"), "Failed");
    EXPECT_EQ(shown.at_pointer("/status/containerStatuses/0/state/terminated/exitCode"), 137);
}

TEST_F(Manifests, PodOfOtherLabelsOrNamespaceIsNotSelected) {
    Pod other = pod();
    other.namespace_ = "other";
    cluster_.pods[{"other", "a"}] = other;
    Pod unlabelled = pod();
    unlabelled.name = "b";
    unlabelled.manifest["metadata"].as_object()["labels"] = json::object{{"app", "no"}};
    cluster_.pods[{"shop", "b"}] = unlabelled;
    EXPECT_EQ(slice().at("endpoints").as_array().size(), 1U);
}

TEST_F(Manifests, PodsWithOtherPortNumbersGetASliceOfTheirOwn) {
    Pod other = pod();
    other.name = "b";
    other.manifest =
        parse_objects(R"({apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop,
        labels: {app: echo}}, spec: {containers: [{command: [x],
        ports: [{name: web, containerPort: 9090}]}]}})",
                      "x", "shop")
            .value()[0]
            .manifest;
    cluster_.pods[{"shop", "b"}] = other;
    const auto files = render_manifests(cluster_);
    EXPECT_EQ(document(files, "EndpointSlice.shop.echo-ipv4-1.yaml").at_pointer("/ports/0/port"),
              8080);
    EXPECT_EQ(document(files, "EndpointSlice.shop.echo-ipv4-2.yaml").at_pointer("/ports/0/port"),
              9090);
}

TEST_F(Manifests, DualStackServiceHasASlicePerFamily) {
    json::object& service = cluster_.services.begin()->second;
    service["spec"].as_object()["ipFamilyPolicy"] = "RequireDualStack";
    const auto files = render_manifests(cluster_);
    EXPECT_EQ(document(files, "EndpointSlice.shop.echo-ipv6-1.yaml")
                  .at_pointer("/endpoints/0/addresses/0"),
              "fd00:10::2");
    EXPECT_FALSE(service_families(service, false));
    service["spec"].as_object()["ipFamilyPolicy"] = "PreferDualStack";
    EXPECT_FALSE(service_families(service, false)->v6);
}

}  // namespace
}  // namespace mesh::sandbox
