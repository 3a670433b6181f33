#include "sources/config/manifests.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace mesh::sources::config {
namespace {

namespace fs = std::filesystem;
namespace k8s = model::k8s;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// --- golden: objects as a Kubernetes 1.24 API server gave them --------------------------------

std::string dump(const model::StringMap& map) {
    std::string out;
    for (const auto& [key, value] : map) out += fmt::format(" {}={}", key, value);
    return out;
}
template <class Ports>
std::string dump_ports(const Ports& ports) {
    std::string out;
    for (const auto& p : ports) out += fmt::format(" {}:{}/{}", p.name, p.port, p.protocol);
    return out;
}
template <class Values>
std::string dump_values(const Values& values) {
    std::string out;
    for (const auto& v : values) out += " " + v.to_string();
    return out;
}

std::string dump(const k8s::Object& object) {
    const auto& meta = k8s::metadata_of(object);
    std::string out =
        fmt::format("{} at {}\n labels{}\n annotations{}\n", k8s::key_of(object).to_string(),
                    meta.creation_timestamp, dump(meta.labels), dump(meta.annotations));
    if (const auto* node = std::get_if<k8s::Node>(&object)) {
        out += fmt::format(" cidrs{} boot \"{}\"\n", dump_values(node->pod_cidrs), node->boot_id);
        for (const auto& a : node->addresses) out += fmt::format(" {} {}\n", a.type, a.address);
    } else if (const auto* pod = std::get_if<k8s::Pod>(&object)) {
        out += fmt::format(" node {} account {} phase {} host_network {} host {} ips{}\n",
                           pod->node, pod->service_account, pod->phase, pod->host_network,
                           pod->host_ip ? pod->host_ip->to_string() : "-", dump_values(pod->ips));
    } else if (const auto* service = std::get_if<k8s::Service>(&object)) {
        out += fmt::format(" {}{} ips{}\n ports{}\n selector{}\n affinity {} internal_local {}\n",
                           service->type, service->headless ? " headless" : "",
                           dump_values(service->cluster_ips), dump_ports(service->ports),
                           service->selector ? dump(*service->selector) : " none",
                           service->client_ip_affinity_seconds, service->internal_traffic_local);
    } else if (const auto* slice = std::get_if<k8s::EndpointSlice>(&object)) {
        out += fmt::format(" of \"{}\" {} ports{}\n", slice->service(), slice->address_type,
                           dump_ports(slice->ports));
        for (const auto& e : slice->endpoints) {
            out += fmt::format(" endpoint{}{}{}{} host \"{}\" node {} zone {} hints [{}]\n",
                               dump_values(e.addresses), e.ready ? " ready" : "",
                               e.serving ? " serving" : "", e.terminating ? " terminating" : "",
                               e.hostname, e.node, e.zone, fmt::join(e.for_zones, " "));
        }
    }
    return out;
}

std::string read(const fs::path& path) {
    std::ostringstream out;
    out << std::ifstream(path).rdbuf();
    return out.str();
}

class ManifestGolden : public testing::TestWithParam<const char*> {};

TEST_P(ManifestGolden, ObjectsOfAnApiServer) {
    const fs::path directory = fs::path(MESH_SOURCE_DIR) / "tests/unit/sources/config/golden";
    const ParsedManifests parsed =
        parse_manifests(read(directory / (std::string(GetParam()) + ".json")), GetParam());
    EXPECT_THAT(parsed.errors, IsEmpty());
    EXPECT_THAT(parsed.skipped, IsEmpty());
    std::string text;
    for (const auto& object : parsed.objects) text += dump(*object);
    const fs::path expected = directory / (std::string(GetParam()) + ".expected");
    if (std::getenv("MESH_UPDATE_GOLDEN") != nullptr) std::ofstream(expected) << text;
    EXPECT_EQ(text, read(expected));
}

INSTANTIATE_TEST_SUITE_P(Kubernetes124, ManifestGolden,
                         testing::Values("services", "endpointslices", "endpointslices-empty",
                                         "nodes", "pods", "namespaces", "dual-stack",
                                         "terminating"));

// --- rules ------------------------------------------------------------------------------------

std::string mistake(std::string_view text) {
    const ParsedManifests parsed = parse_manifests(text, "f.yaml");
    EXPECT_EQ(parsed.errors.size(), 1U) << text;
    return parsed.errors.empty() ? "" : parsed.errors[0];
}

std::string service(std::string_view spec, std::string_view name = "cart") {
    return fmt::format(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {}, namespace: shop}}\nspec: {}\n", name,
        spec);
}

std::string slice(std::string_view rest, std::string_view labels = "{}") {
    return fmt::format(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: "
        "{}}}\n{}\n",
        labels, rest);
}

TEST(ManifestTest, MistakesNameFileDocumentLineFieldAndExpectation) {
    EXPECT_EQ(mistake("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n"
                      "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\nspec:\n  ports:\n"
                      "  - port: 80\n    name: a\n  - port: http\n"),
              "f.yaml: document 2: line 13: spec.ports[1].port: expected an integer 1..65535, got "
              "\"http\"");
    EXPECT_EQ(mistake("apiVersion: v1\nkind: Pod\nmetadata: {}\n"),
              "f.yaml: document 1: line 3: metadata.name: expected a string that is not empty, got "
              "nothing");
}

TEST(ManifestTest, EachMistakeIsFound) {
    EXPECT_THAT(mistake("kind: Service\n"), HasSubstr("apiVersion: expected"));
    EXPECT_THAT(mistake("apiVersion: v1\n"), HasSubstr("kind: expected"));
    EXPECT_THAT(mistake("- a\n"), HasSubstr("document: expected a map, got a list"));
    EXPECT_THAT(mistake("just text\n"), HasSubstr("expected a map, got \"just text\""));
    EXPECT_THAT(mistake("a: [\n"), HasSubstr("f.yaml: document 1: line"));
    EXPECT_THAT(mistake(service("{}", "Cart")), HasSubstr("metadata.name"));
    EXPECT_THAT(mistake(service("{}", "a/b")), HasSubstr("metadata.name"));
    EXPECT_THAT(mistake(service("{}", "..")), HasSubstr("metadata.name"));
    EXPECT_THAT(mistake(service("{type: Fancy}")), HasSubstr("one of ClusterIP, NodePort"));
    EXPECT_THAT(mistake(service("{clusterIP: 10.0.0.256}")), HasSubstr("spec.clusterIP"));
    EXPECT_THAT(mistake(service("{clusterIP: None, clusterIPs: [10.0.0.1]}")),
                HasSubstr("not both"));
    EXPECT_THAT(mistake(service("{ports: [{port: 0}]}")), HasSubstr("1..65535, got \"0\""));
    EXPECT_THAT(mistake(service("{ports: [{port: 1}, {port: 2}]}")),
                HasSubstr("spec.ports[1].name"));
    EXPECT_THAT(mistake(service("{ports: [{port: 1}, {port: 2, name: b}]}")),
                HasSubstr("a name for each port"));
    EXPECT_THAT(mistake(service("{ports: [{port: 1, protocol: tcp}]}")),
                HasSubstr("TCP, UDP, SCTP"));
    EXPECT_THAT(mistake(service("{selector: {app: 'a;b'}}")), HasSubstr("spec.selector.app"));
    EXPECT_THAT(mistake(service("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: "
                                "{timeoutSeconds: 86401}}}")),
                HasSubstr("1..86400"));
    EXPECT_THAT(mistake("apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a=b: c}}\n"),
                HasSubstr("metadata.labels.a=b"));
    EXPECT_THAT(mistake("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nstatus: {podIP: x}\n"),
                HasSubstr("status.podIP"));
    EXPECT_THAT(
        mistake("apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDRs: [10.0.0.0]}\n"),
        HasSubstr("a CIDR such as"));
    EXPECT_THAT(mistake(slice("endpoints: []")), HasSubstr("addressType: expected one of IPv4"));
    EXPECT_THAT(mistake(slice("addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]")),
                HasSubstr("endpoints[0].addresses[0]: expected an IPv4 address"));
    EXPECT_THAT(mistake(slice("addressType: IPv4\nendpoints: [{conditions: {ready: 'yes'}}]")),
                HasSubstr("expected a boolean"));
}

TEST(ManifestTest, AnUnquotedAnnotationIsToldToBeQuoted) {
    EXPECT_EQ(mistake("apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  annotations:\n"
                      "    service.cilium.io/global: true\n"),
              "f.yaml: document 1: line 6: metadata.annotations.service.cilium.io/global: expected "
              "a string in quotes, got \"true\"");
}

TEST(ManifestTest, EveryBadDocumentIsReportedOnce) {
    const std::string bad =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: A}\nspec: {hostNetwork: 1}\n";
    const ParsedManifests parsed = parse_manifests(bad + "---\n" + bad, "f");
    EXPECT_EQ(parsed.errors.size(), 2U);
    EXPECT_THAT(parse_manifests(service("{}") + "---\n" + service("{}"), "f").errors,
                ElementsAre(HasSubstr("expected Service shop/cart once in a file")));
}

TEST(ManifestTest, DefaultsAreThoseOfKubernetes) {
    const auto parsed = parse_manifests(
        slice("addressType: IPv4\nports: [{port: 80}, {name: any}]\nendpoints:\n"
              "- addresses: [10.0.0.1]\n- {addresses: [10.0.0.2], conditions: {ready: false}}\n"
              "- {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: "
              "true}}"),
        "f");
    ASSERT_EQ(parsed.objects.size(), 1U);
    const auto& s = std::get<k8s::EndpointSlice>(*parsed.objects[0]);
    EXPECT_EQ(s.meta.namespace_, "default");
    ASSERT_EQ(s.ports.size(), 1U);
    EXPECT_EQ(s.ports[0].protocol, "TCP");
    EXPECT_TRUE(s.endpoints[0].ready && s.endpoints[0].serving && !s.endpoints[0].terminating);
    EXPECT_TRUE(!s.endpoints[1].ready && !s.endpoints[1].serving);
    EXPECT_TRUE(!s.endpoints[2].ready && s.endpoints[2].serving && s.endpoints[2].terminating);
}

TEST(ManifestTest, ListsAndTypedListsAndUnknownKinds) {
    const auto parsed = parse_manifests(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: "
        "a}}\n"
        "- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n---\n"
        "apiVersion: v1\nkind: NamespaceList\nitems: [{metadata: {name: b}}]\n---\n"
        "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: ConfigMap\n---\n"
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n",
        "f");
    EXPECT_THAT(parsed.errors, IsEmpty());
    EXPECT_EQ(parsed.objects.size(), 2U);
    EXPECT_THAT(parsed.skipped,
                ElementsAre("apps/v1 Deployment", "discovery.k8s.io/v1beta1 EndpointSlice",
                            "v1 ConfigMap"));
}

TEST(ManifestTest, SlicesOfTheMeshAreKnownByTheirLabels) {
    const auto from_mesh = [](std::string_view labels) {
        const auto parsed = parse_manifests(slice("addressType: IPv4", labels), "f");
        return std::get<k8s::EndpointSlice>(*parsed.objects.at(0)).from_mesh();
    };
    EXPECT_TRUE(from_mesh(
        "{endpointslice.kubernetes.io/managed-by: endpointslice-mesh-controller.cilium.io}"));
    EXPECT_TRUE(from_mesh("{multicluster.kubernetes.io/source-cluster: c2}"));
    EXPECT_FALSE(
        from_mesh("{endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}"));
}

// --- sets -------------------------------------------------------------------------------------

std::vector<std::string> names(const ManifestUpdate& update) {
    std::vector<std::string> out;
    for (const auto& change : update.changes) {
        out.push_back((change.object ? "+" : "-") + change.key.to_string());
    }
    return out;
}

TEST(ManifestSetTest, GivesWhatChanged) {
    ManifestSet set;
    EXPECT_THAT(names(set.apply("a", service("{}", "one") + "---\n" + service("{}", "two"))),
                ElementsAre("+Service shop/one", "+Service shop/two"));
    EXPECT_THAT(names(set.apply("a", "# moved\n" + service("{}", "two") + "---\n" +
                                         service("{type: NodePort}", "one"))),
                ElementsAre("+Service shop/one"));
    EXPECT_THAT(names(set.apply("a", service("{}", "two"))), ElementsAre("-Service shop/one"));
    EXPECT_THAT(names(set.remove("a")), ElementsAre("-Service shop/two"));
    EXPECT_EQ(set.size(), 0U);
}

TEST(ManifestSetTest, ABadVersionKeepsTheLastGoodOne) {
    ManifestSet set;
    ASSERT_EQ(set.apply("a", service("{}")).changes.size(), 1U);
    const auto update = set.apply("a", service("{}", "other") + "---\n" + service("{type: 1}"));
    EXPECT_THAT(update.changes, IsEmpty());
    EXPECT_THAT(update.errors, ElementsAre(HasSubstr("a: document 2:")));
    EXPECT_EQ(set.size(), 1U);
    EXPECT_EQ(set.errors(), update.errors);
    EXPECT_FALSE(set.incomplete());
    EXPECT_THAT(set.apply("a", service("{}", "other") + "---\n" + service("{type: 1}")).errors,
                IsEmpty());
    EXPECT_THAT(names(set.apply("a", service("{}"))), IsEmpty());
    EXPECT_THAT(set.errors(), IsEmpty());
}

TEST(ManifestSetTest, IsIncompleteWhileAFileWasNeverGood) {
    ManifestSet set;
    (void)set.apply("a", "a: [");
    EXPECT_TRUE(set.incomplete());
    (void)set.apply("a", service("{}"));
    EXPECT_FALSE(set.incomplete());
    (void)set.fail("b", "b: no permission");
    EXPECT_TRUE(set.incomplete());
    EXPECT_THAT(set.errors(), ElementsAre("b: no permission"));
    (void)set.remove("b");
    EXPECT_FALSE(set.incomplete());
    EXPECT_THAT(set.errors(), IsEmpty());
}

TEST(ManifestSetTest, OfTwoDefinitionsTheFirstFilesIsUsed) {
    ManifestSet set;
    EXPECT_EQ(set.apply("b", service("{type: NodePort}")).changes.size(), 1U);
    auto update = set.apply("a", service("{}"));
    EXPECT_THAT(names(update), ElementsAre("+Service shop/cart"));
    EXPECT_THAT(update.errors,
                ElementsAre("b: Service shop/cart is defined in a already, which is used"));
    EXPECT_THAT(set.apply("b", service("{type: LoadBalancer}")).changes, IsEmpty());
    update = set.remove("a");
    ASSERT_EQ(update.changes.size(), 1U);
    EXPECT_EQ(std::get<k8s::Service>(*update.changes[0].object).type, "LoadBalancer");
    EXPECT_THAT(set.errors(), IsEmpty());
}

TEST(ManifestSetTest, WarnsOncePerFileOfAnUnknownKind) {
    ManifestSet set;
    EXPECT_EQ(set.apply("a", "apiVersion: v1\nkind: Secret\n").warnings.size(), 1U);
    EXPECT_THAT(set.apply("a", "apiVersion: v1\nkind: Secret\nx: 1\n").warnings, IsEmpty());
    EXPECT_EQ(set.counts().size(), 0U);
}

TEST(ManifestDirectoryTest, ReadsManifestsByExtensionAndMovesBetweenFiles) {
    std::string pattern = (fs::temp_directory_path() / "mesh-manifests-XXXXXX").string();
    const fs::path path = ::mkdtemp(pattern.data());
    const SystemClock clock;
    ManifestDirectory directory(path, clock);
    std::ofstream(path / "b.yaml") << service("{}");
    std::ofstream(path / "c.txt") << "not: [a manifest";
    EXPECT_THAT(names(*directory.refresh()), ElementsAre("+Service shop/cart"));
    EXPECT_TRUE(directory.loaded());
    fs::rename(path / "b.yaml", path / "a.json");
    EXPECT_THAT(names(*directory.refresh()), IsEmpty());  // the same object
    EXPECT_EQ(directory.set().size(), 1U);
    fs::remove_all(path);
    EXPECT_FALSE(directory.refresh());
    EXPECT_EQ(directory.set().size(), 1U);
}

}  // namespace
}  // namespace mesh::sources::config
