#include "compile/services/service_merger.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using mesh::model::Affinity;
using mesh::model::BackendState;
using mesh::model::ClusterId;
using mesh::model::IpAddress;
using mesh::model::LocalBackend;
using mesh::model::LocalService;
using mesh::model::Service;
using mesh::model::ServicePort;
using mesh::model::SharedList;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const ClusterKey kOwn{"ape", ClusterId{9}};  // preferred, though its id is the highest
const ClusterKey kBee{"bee", ClusterId{2}};
const ClusterKey kCat{"cat", ClusterId{3}};

IpAddress ip(std::string_view text) {
    return *IpAddress::parse(text);
}
const SharedList<ServicePort> kHttp{{"http", "TCP", 8080}};

LocalBackend backend(std::string_view address, BackendState state = BackendState::kActive) {
    LocalBackend b;
    b.address = ip(address);
    b.ports = kHttp;
    b.state = state;
    return b;
}

/// shop/cart with cluster IP 10.96.0.1 and port http 80/TCP; global and shared.
LocalService local(std::vector<LocalBackend> backends) {
    LocalService s;
    s.namespace_ = "shop";
    s.name = "cart";
    s.type = "ClusterIP";
    s.cluster_ips = {ip("10.96.0.1")};
    s.ports = {{"http", "TCP", 80}};
    s.backends = std::move(backends);
    s.global = s.shared = true;
    return s;
}

Service remote(const ClusterKey& cluster, std::vector<std::string_view> backends) {
    Service s;
    s.cluster = cluster.name;
    s.cluster_id = cluster.id;
    s.namespace_ = "shop";
    s.name = "cart";
    s.frontends = {{ip("10.97.0.1"), {{"http", "TCP", 80}}, ""}};
    for (const auto address : backends) s.backends.push_back({ip(address), kHttp, ""});
    s.include_external = s.shared = true;
    return s;
}

std::string text(const FrontendKey& key) {
    return key.address.to_string() + ":" + std::to_string(key.port) + "/" +
           std::string(to_string(key.protocol));
}
/// "+" new connections, "~" programmed only, "-" not programmed; then cluster, address, port.
std::string text(const BackendRow& b) {
    return std::string(b.selected     ? "+"
                       : b.programmed ? "~"
                                      : "-") +
           b.cluster.name + " " + b.address.to_string() + ":" + std::to_string(b.port);
}
std::vector<std::string> backends_of(const FrontendRow& row) {
    std::vector<std::string> lines;
    for (const BackendRow& b : row.backends) lines.push_back(text(b));
    return lines;
}

/// Tables and a merger, as engine has them.
class Merger : public testing::Test {
  protected:
    Merger() { reset({.own = kOwn, .node = "n1", .zone = "z1", .zone_hints = false}); }

    void reset(MergerOptions options) {
        merger_ = std::make_unique<ServiceMerger>(tables_, std::move(options));
    }
    EffectSink sink() {
        return [this](const Effect& effect) { merger_->note(effect); };
    }
    FrontendChanges apply(const ClusterKey& cluster, std::vector<ClusterChange> changes) {
        tables_.apply({cluster, std::move(changes)}, sink());
        return merger_->flush();
    }
    FrontendChanges put(const LocalService& s) { return apply(kOwn, {LocalServiceUpsert{s}}); }
    FrontendChanges put(const ClusterKey& c, const Service& s) {
        return apply(c, {ServiceUpsert{s}});
    }

    /// The backends of shop/cart's only frontend, as explain() and the last flush agree on them.
    std::vector<std::string> now() {
        const auto explanation = merger_->explain({"shop", "cart"});
        EXPECT_EQ(explanation.frontends.size(), 1U);
        EXPECT_TRUE(merger_->flush().empty()) << "a change was not flushed";
        return explanation.frontends.empty() ? std::vector<std::string>()
                                             : backends_of(explanation.frontends[0]);
    }
    std::vector<Reason> reasons() {
        std::vector<Reason> all;
        const auto explanation = merger_->explain({"shop", "cart"});
        for (const auto& b : explanation.frontends.at(0).backends) all.push_back(b.reason);
        return all;
    }
    std::vector<std::string> notes() { return merger_->explain({"shop", "cart"}).notes; }

    ClusterTables tables_{"ape", 1};
    std::unique_ptr<ServiceMerger> merger_;
};

// ---- §1 annotations; kinds of frontends ----

std::vector<std::string> keys_of(const std::vector<FrontendRow>& rows) {
    std::vector<std::string> keys;
    for (const FrontendRow& row : rows) keys.push_back(text(row.key));
    return keys;
}
std::vector<std::string> keys_of(const std::vector<FrontendKey>& removed) {
    std::vector<std::string> keys;
    for (const FrontendKey& key : removed) keys.push_back(text(key));
    return keys;
}

TEST_F(Merger, ExternalAndLoadBalancerIpsAreServedByAllClusters) {
    LocalService s = local({backend("10.10.1.1")});
    s.type = "LoadBalancer";
    s.external_ips = {ip("192.0.2.1"), ip("10.96.0.1")};
    s.load_balancer_ips = {ip("192.0.2.2"), ip("fd00::2")};
    s.ports[0].node_port = 30080;
    put(s);
    const auto changes = put(kBee, remote(kBee, {"10.20.1.1"}));
    EXPECT_THAT(keys_of(changes.upserts),
                ElementsAre("10.96.0.1:80/TCP", "192.0.2.1:80/TCP", "192.0.2.2:80/TCP"))
        << "fd00::2 has no backends of its family";
    for (const FrontendRow& row : changes.upserts) {
        EXPECT_THAT(backends_of(row), ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
    }
    EXPECT_THAT(notes(), ElementsAre("node ports not served: this node has no InternalIP"));
    s.external_ips.clear();
    s.load_balancer_ips = {ip("192.0.2.3")};
    const auto next = put(s);
    EXPECT_THAT(keys_of(next.upserts), ElementsAre("10.96.0.1:80/TCP", "192.0.2.3:80/TCP"))
        << "the cluster IP is no external one any longer";
    EXPECT_THAT(keys_of(next.removed),
                ElementsAre("192.0.2.1:80/TCP", "192.0.2.2:80/TCP", "fd00::2:80/TCP"));
}

TEST_F(Merger, AServiceWithoutAClusterIpHasItsOtherFrontends) {
    LocalService s = local({backend("10.10.1.1")});
    s.cluster_ips.clear();
    s.external_ips = {ip("192.0.2.1")};
    EXPECT_THAT(keys_of(put(s).upserts), ElementsAre("192.0.2.1:80/TCP"));
    EXPECT_THAT(notes(), IsEmpty());
    s.headless = true;
    EXPECT_THAT(keys_of(put(s).removed), ElementsAre("192.0.2.1:80/TCP"));
}

TEST_F(Merger, InternalTrafficPolicyIsOfTheClusterIp) {
    LocalService s = local({backend("10.10.1.1"), backend("10.10.1.2")});
    s.backends[0].node = "n1";
    s.backends[1].node = "n2";
    s.internal_traffic_local = true;
    s.external_ips = {ip("192.0.2.1")};
    const auto changes = put(s);
    ASSERT_EQ(changes.upserts.size(), 2U);
    EXPECT_THAT(backends_of(changes.upserts[0]),
                ElementsAre("+ape 10.10.1.1:8080", "-ape 10.10.1.2:8080"));
    EXPECT_THAT(backends_of(changes.upserts[1]),
                ElementsAre("+ape 10.10.1.1:8080", "+ape 10.10.1.2:8080"));
}

TEST_F(Merger, NodePortsAreServedAtTheNodesOwnAddresses) {
    const auto node = [](std::vector<const char*> addresses) {
        mesh::model::Node record;
        record.name = "n1";
        record.addresses.emplace();
        record.addresses->push_back({"ExternalIP", "198.51.100.1"});
        for (const char* address : addresses) {
            record.addresses->push_back({"InternalIP", address});
        }
        return NodeUpsert{record};
    };
    LocalService s = local({backend("10.10.1.1"), backend("10.10.1.2")});
    s.type = "NodePort";
    s.ports[0].node_port = 30080;
    s.backends[0].node = "n1";
    s.backends[1].node = "n2";
    EXPECT_THAT(keys_of(put(s).upserts), ElementsAre("10.96.0.1:80/TCP"));
    const auto changes = apply(kOwn, {node({"192.0.2.9", "fd00::9"})});
    EXPECT_THAT(keys_of(changes.upserts), ElementsAre("192.0.2.9:30080/TCP", "fd00::9:30080/TCP"));
    const FrontendRow& row = changes.upserts[0];
    EXPECT_TRUE(row.outside);
    EXPECT_TRUE(row.node_port);
    EXPECT_FALSE(row.outside_local);
    ASSERT_EQ(row.backends.size(), 2U);
    EXPECT_TRUE(row.backends[0].here);
    EXPECT_FALSE(row.backends[1].here);
    EXPECT_THAT(backends_of(row), ElementsAre("+ape 10.10.1.1:8080", "+ape 10.10.1.2:8080"));
    EXPECT_THAT(notes(), IsEmpty());
    // A policy of outside clients alone: all backends stay, for clients inside.
    s.external_traffic_local = true;
    const auto local_only = put(s);
    ASSERT_EQ(local_only.upserts.size(), 2U) << "the cluster IP is not concerned";
    EXPECT_TRUE(local_only.upserts[0].outside_local);
    EXPECT_EQ(local_only.upserts[0].backends.size(), 2U);
    EXPECT_THAT(notes(), ElementsAre("externalTrafficPolicy Local: clients outside of the cluster "
                                     "get backends of this node only"));
    const auto moved = apply(kOwn, {node({"192.0.2.10"})});
    EXPECT_THAT(keys_of(moved.upserts), ElementsAre("192.0.2.10:30080/TCP"));
    EXPECT_THAT(keys_of(moved.removed), ElementsAre("192.0.2.9:30080/TCP", "fd00::9:30080/TCP"));
    s.type = "ClusterIP";
    EXPECT_THAT(keys_of(put(s).removed), ElementsAre("192.0.2.10:30080/TCP"));
}

TEST_F(Merger, TheTypeAnnotationLeavesOutFrontends) {
    LocalService s = local({backend("10.10.1.1")});
    s.external_ips = {ip("192.0.2.1")};
    s.load_balancer_ips = {ip("192.0.2.2")};
    s.ports[0].node_port = 30080;
    put(s);
    s.annotations = mesh::model::StringMap{{"service.cilium.io/type", "ClusterIP,LoadBalancer"}};
    EXPECT_THAT(keys_of(put(s).removed), ElementsAre("192.0.2.1:80/TCP"));
    EXPECT_THAT(notes(), ElementsAre("external IPs not installed, as annotation "
                                     "service.cilium.io/type does not list them"));
    s.annotations->insert_or_assign("service.cilium.io/type", "LoadBalancer");
    EXPECT_THAT(keys_of(put(s).removed), ElementsAre("10.96.0.1:80/TCP"));
    s.annotations.reset();
    EXPECT_THAT(keys_of(put(s).upserts), ElementsAre("10.96.0.1:80/TCP", "192.0.2.1:80/TCP"));
}

TEST_F(Merger, AServiceIsInstalledOnTheNodesThatItsAnnotationsChoose) {
    const auto node = [](const char* name, const char* kind) {
        mesh::model::Node record;
        record.name = name;
        record.labels = mesh::model::StringMap{{"service.cilium.io/node", kind}};
        return NodeUpsert{record};
    };
    LocalService s = local({backend("10.10.1.1")});
    s.annotations = mesh::model::StringMap{{"service.cilium.io/node", "big"}};
    LocalService everywhere = local({backend("10.10.1.1")});
    everywhere.name = "other";
    everywhere.cluster_ips = {ip("10.96.0.2")};
    EXPECT_EQ(put(everywhere).upserts.size(), 1U);
    EXPECT_TRUE(put(s).empty()) << "the node's labels are not known yet";
    EXPECT_THAT(notes(), ElementsAre("not installed on this node: its labels are not those of "
                                     "annotation service.cilium.io/node: \"big\""));
    EXPECT_TRUE(apply(kOwn, {node("n2", "big")}).empty());
    EXPECT_TRUE(apply(kBee, {node("n1", "big")}).empty());
    EXPECT_TRUE(apply(kOwn, {node("n1", "small")}).empty());
    const auto work = merger_->work().services_compiled;
    EXPECT_THAT(keys_of(apply(kOwn, {node("n1", "big")}).upserts), ElementsAre("10.96.0.1:80/TCP"));
    EXPECT_EQ(merger_->work().services_compiled, work + 1) << "others are not looked at";
    EXPECT_THAT(notes(), IsEmpty());
    EXPECT_THAT(keys_of(apply(kOwn, {NodeDelete{"n1"}}).removed), ElementsAre("10.96.0.1:80/TCP"));
    s.annotations->insert_or_assign("service.cilium.io/node-selector",
                                    "service.cilium.io/node in (small)");
    EXPECT_TRUE(put(s).empty());
    EXPECT_EQ(apply(kOwn, {node("n1", "small")}).upserts.size(), 1U);
    EXPECT_EQ(apply(kOwn, {node("n1", "big")}).removed.size(), 1U);
    EXPECT_THAT(notes(), ElementsAre(HasSubstr("annotation service.cilium.io/node-selector: ")));
    reset({.own = kOwn, .node = "", .zone = "", .zone_hints = false});
    EXPECT_EQ(merger_->flush().upserts.size(), 2U) << "not on a node: all are seen";
}

TEST_F(Merger, TheZoneIsThatOfTheOwnNodesLabel) {
    reset({.own = kOwn, .node = "n1", .zone = "", .zone_hints = true});
    LocalService s = local({backend("10.10.1.1"), backend("10.10.1.2")});
    s.backends[0].for_zones = {"z1"};
    s.backends[1].for_zones = {"z2"};
    put(s);
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080", "+ape 10.10.1.2:8080"));
    mesh::model::Node node;
    node.name = "n1";
    node.labels = mesh::model::StringMap{{"topology.kubernetes.io/zone", "z2"}};
    EXPECT_EQ(apply(kOwn, {NodeUpsert{node}}).upserts.size(), 1U);
    EXPECT_THAT(now(), ElementsAre("-ape 10.10.1.1:8080", "+ape 10.10.1.2:8080"));
    node.labels->insert_or_assign("other", "x");
    const auto work = merger_->work().services_compiled;
    EXPECT_TRUE(apply(kOwn, {NodeUpsert{node}}).empty());
    EXPECT_EQ(merger_->work().services_compiled, work) << "the zone is the same";
    // A merger that sees the tables for the first time knows it, too.
    reset({.own = kOwn, .node = "n1", .zone = "", .zone_hints = true});
    static_cast<void>(merger_->flush());
    EXPECT_THAT(now(), ElementsAre("-ape 10.10.1.1:8080", "+ape 10.10.1.2:8080"));
}

// ---- §2 merge ----

TEST_F(Merger, ARemoteServiceWithoutALocalOneHasNoEffect) {
    EXPECT_TRUE(put(kBee, remote(kBee, {"10.20.1.1"})).empty());
    EXPECT_EQ(merger_->work().services_compiled, 0U);
    const auto explanation = merger_->explain({"shop", "cart"});
    EXPECT_FALSE(explanation.local);
    EXPECT_THAT(explanation.frontends, IsEmpty());
    EXPECT_THAT(
        explanation.notes,
        ElementsAre("bee: has a service of this name, without effect: this cluster has none"));
    // It counts as soon as there is a local one, and no more when that goes.
    const auto changes = put(local({}));
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_THAT(backends_of(changes.upserts[0]), ElementsAre("+bee 10.20.1.1:8080"));
    const auto gone = apply(kOwn, {LocalServiceDelete{{"shop", "cart"}}});
    EXPECT_THAT(gone.upserts, IsEmpty());
    ASSERT_EQ(gone.removed.size(), 1U);
    EXPECT_EQ(text(gone.removed[0]), "10.96.0.1:80/TCP");
    EXPECT_TRUE(put(kBee, remote(kBee, {"10.20.1.2"})).empty());
}

TEST_F(Merger, MatchesByNamespaceAndName) {
    put(local({backend("10.10.1.1")}));
    Service other_name = remote(kBee, {"10.20.1.1"});
    other_name.name = "basket";
    Service other_namespace = remote(kBee, {"10.20.1.2"});
    other_namespace.namespace_ = "depot";
    EXPECT_TRUE(put(kBee, other_name).empty());
    EXPECT_TRUE(put(kBee, other_namespace).empty());
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
}

TEST_F(Merger, NotGlobalMeansLocalOnly) {
    LocalService s = local({backend("10.10.1.1")});
    s.global = s.shared = false;
    s.affinity = Affinity::kRemote;  // without meaning then
    put(s);
    EXPECT_TRUE(put(kBee, remote(kBee, {"10.20.1.1"})).empty());
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
    EXPECT_THAT(reasons(), ElementsAre(Reason::kActive));
    EXPECT_THAT(notes(),
                ElementsAre("bee: its backends are not used, as this cluster's service has "
                            "not service.cilium.io/global=true"));
    s.global = true;
    put(s);
    EXPECT_THAT(now(), ElementsAre("-ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
}

TEST_F(Merger, ALocalServiceThatIsNotSharedStillUsesRemotes) {
    LocalService s = local({backend("10.10.1.1")});
    s.shared = false;
    put(s);
    put(kBee, remote(kBee, {"10.20.1.1"}));
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
    EXPECT_FALSE(merger_->explain({"shop", "cart"}).shared);
}

TEST_F(Merger, UnsharedOrNotGlobalRemoteIsADeletion) {
    put(local({backend("10.10.1.1")}));
    put(kBee, remote(kBee, {"10.20.1.1"}));
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
    Service s = remote(kBee, {"10.20.1.1"});
    s.shared = false;
    EXPECT_EQ(put(kBee, s).upserts.size(), 1U);
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
    EXPECT_THAT(notes(), ElementsAre("bee: its service is not shared"));
    s.shared = true;
    s.include_external = false;  // as a writer of 1.12 publishes a service that is not global
    EXPECT_TRUE(put(kBee, s).empty());
    EXPECT_THAT(notes(), ElementsAre("bee: its service is not global"));
}

TEST_F(Merger, JoinsByPortNameWhateverTheNumbers) {
    LocalService s = local({});
    s.ports = {{"admin", "TCP", 81}, {"http", "TCP", 80}};
    LocalBackend b = backend("10.10.1.1");
    b.ports = {{"admin", "TCP", 9000}, {"http", "TCP", 8080}};
    s.backends = {b};
    put(s);
    Service r = remote(kBee, {});
    r.backends = {{ip("10.20.1.1"), {{"admin", "TCP", 9999}, {"http", "TCP", 3000}}, ""},
                  {ip("10.20.1.2"), {{"web", "TCP", 80}}, ""}};
    const auto changes = put(kBee, r);
    ASSERT_EQ(changes.upserts.size(), 2U);
    EXPECT_EQ(text(changes.upserts[0].key), "10.96.0.1:80/TCP");
    EXPECT_EQ(changes.upserts[0].port_name, "http");
    EXPECT_THAT(backends_of(changes.upserts[0]),
                ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:3000"));
    EXPECT_EQ(text(changes.upserts[1].key), "10.96.0.1:81/TCP");
    EXPECT_THAT(backends_of(changes.upserts[1]),
                ElementsAre("+ape 10.10.1.1:9000", "+bee 10.20.1.1:9999"));
    EXPECT_THAT(notes(),
                ElementsAre("bee 10.20.1.2: no frontend takes this backend; it offers web "
                            "80/TCP, and name, protocol and address family must be those of a "
                            "frontend"));
}

TEST_F(Merger, AnUnnamedPortJoinsAnUnnamedPortOnly) {
    LocalService s = local({});
    s.ports = {{"", "TCP", 80}};
    put(s);
    Service r = remote(kBee, {"10.20.1.1"});
    r.backends.push_back({ip("10.20.1.2"), {{"", "TCP", 8080}}, ""});
    put(kBee, r);
    EXPECT_THAT(now(), ElementsAre("+bee 10.20.1.2:8080"));
}

TEST_F(Merger, JoinsPerProtocol) {
    LocalService s = local({});
    s.ports = {{"dns", "UDP", 53}, {"dns-tcp", "TCP", 53}, {"odd", "ANY", 1}, {"sig", "SCTP", 99}};
    put(s);
    Service r = remote(kBee, {});
    r.backends = {
        {ip("10.20.1.1"),
         {{"dns", "UDP", 5353}, {"dns-tcp", "TCP", 5354}, {"odd", "ANY", 1}, {"sig", "SCTP", 99}},
         ""},
        {ip("10.20.1.2"), {{"dns", "TCP", 1}, {"dns-tcp", "UDP", 1}, {"sig", "sctp", 1}}, ""}};
    const auto changes = put(kBee, r);
    ASSERT_EQ(changes.upserts.size(), 3U);
    EXPECT_EQ(text(changes.upserts[0].key), "10.96.0.1:53/TCP");
    EXPECT_THAT(backends_of(changes.upserts[0]), ElementsAre("+bee 10.20.1.1:5354"));
    EXPECT_EQ(text(changes.upserts[1].key), "10.96.0.1:53/UDP");
    EXPECT_THAT(backends_of(changes.upserts[1]), ElementsAre("+bee 10.20.1.1:5353"));
    EXPECT_EQ(text(changes.upserts[2].key), "10.96.0.1:99/SCTP");
    EXPECT_THAT(notes(),
                testing::Contains("port odd 1: protocol \"ANY\" has no frontend, expected TCP, "
                                  "UDP or SCTP"));
}

TEST_F(Merger, JoinsPerFamily) {
    LocalService s = local({backend("10.10.1.1"), backend("fd00:10::1")});
    s.cluster_ips = {ip("10.96.0.1"), ip("fd00:96::1")};
    put(s);
    const auto changes = put(kBee, remote(kBee, {"10.20.1.1", "fd00:20::1"}));
    ASSERT_EQ(changes.upserts.size(), 2U);
    EXPECT_EQ(text(changes.upserts[0].key), "10.96.0.1:80/TCP");
    EXPECT_THAT(backends_of(changes.upserts[0]),
                ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
    EXPECT_THAT(backends_of(changes.upserts[1]),
                ElementsAre("+ape fd00:10::1:8080", "+bee fd00:20::1:8080"));
    s.cluster_ips.pop_back();
    const auto single = put(s);
    ASSERT_EQ(single.removed.size(), 1U);
    EXPECT_EQ(text(single.removed[0]), "fd00:96::1:80/TCP");
    EXPECT_THAT(single.upserts, IsEmpty());
}

TEST_F(Merger, OneBackendUnderSeveralPortNamesServesEach) {
    LocalService s = local({});
    s.ports = {{"a", "TCP", 1}, {"b", "TCP", 2}};
    put(s);
    Service r = remote(kBee, {});
    r.backends = {{ip("10.20.1.1"), {{"a", "TCP", 8080}, {"b", "TCP", 8080}}, ""}};
    const auto changes = put(kBee, r);
    ASSERT_EQ(changes.upserts.size(), 2U);
    for (const auto& row : changes.upserts) {
        EXPECT_THAT(backends_of(row), ElementsAre("+bee 10.20.1.1:8080"));
    }
}

TEST_F(Merger, ABackendThatIsListedTwiceByOneClusterCountsOnceInItsBestState) {
    put(local({backend("10.10.1.1", BackendState::kQuarantined), backend("10.10.1.1"),
               backend("10.10.1.1", BackendState::kTerminating)}));
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
    Service r = remote(kBee, {"10.20.1.1", "10.20.1.1"});
    put(kBee, r);
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
}

TEST_F(Merger, LocalBeatsMeshForTheSameBackend) {
    put(kBee, remote(kBee, {"10.10.1.1", "10.20.1.1"}));
    put(local({backend("10.10.1.1", BackendState::kQuarantined), backend("10.10.1.2")}));
    EXPECT_THAT(now(), ElementsAre("~ape 10.10.1.1:8080", "+ape 10.10.1.2:8080",
                                   "-bee 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
    EXPECT_THAT(reasons(), ElementsAre(Reason::kQuarantined, Reason::kActive, Reason::kShadowed,
                                       Reason::kActive));
    // The loser's claim is back as soon as the winner's goes.
    put(local({backend("10.10.1.2")}));
    EXPECT_THAT(now(),
                ElementsAre("+ape 10.10.1.2:8080", "+bee 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
}

TEST_F(Merger, AmongMeshTheLowestIdWinsWhateverCameFirst) {
    put(local({}));
    put(kCat, remote(kCat, {"10.99.1.1"}));
    put(kBee, remote(kBee, {"10.99.1.1"}));
    EXPECT_THAT(now(), ElementsAre("+bee 10.99.1.1:8080", "-cat 10.99.1.1:8080"));
    apply(kCat, {ServiceDelete{{"shop", "cart"}}});
    EXPECT_TRUE(put(kCat, remote(kCat, {"10.99.1.1"})).upserts.size() == 1U);
    EXPECT_THAT(now(), ElementsAre("+bee 10.99.1.1:8080", "-cat 10.99.1.1:8080"));
    apply(kBee, {ServiceDelete{{"shop", "cart"}}});
    EXPECT_THAT(now(), ElementsAre("+cat 10.99.1.1:8080"));
}

TEST_F(Merger, TheSameAddressOnAnotherPortIsAnotherBackend) {
    put(local({backend("10.10.1.1")}));
    Service r = remote(kBee, {});
    r.backends = {{ip("10.10.1.1"), {{"http", "TCP", 8081}}, ""}};
    put(kBee, r);
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080", "+bee 10.10.1.1:8081"));
}

TEST_F(Merger, ListsClustersInOrderAndBackendsByAddress) {
    put(local({backend("10.10.1.2"), backend("10.10.1.1")}));
    put(kCat, remote(kCat, {"10.3.0.9", "10.3.0.1"}));
    put(kBee, remote(kBee, {"10.250.0.1"}));
    EXPECT_THAT(now(),
                ElementsAre("+ape 10.10.1.1:8080", "+ape 10.10.1.2:8080", "+bee 10.250.0.1:8080",
                            "+cat 10.3.0.1:8080", "+cat 10.3.0.9:8080"));
}

TEST_F(Merger, TheOwnClustersRecordIsNotARemote) {
    put(local({backend("10.10.1.1")}));
    EXPECT_TRUE(put(kOwn, remote(kOwn, {"10.10.1.1", "10.10.1.9"})).empty());
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
}

TEST_F(Merger, AddressesWithAZoneAreOfNoUse) {
    put(local({}));
    Service r = remote(kBee, {});
    r.backends = {{ip("10.20.1.1"), kHttp, "10.20.1.1%eth0"}};
    put(kBee, r);
    EXPECT_THAT(now(), IsEmpty());
    EXPECT_THAT(
        notes(),
        ElementsAre("bee 10.20.1.1%eth0: an address with a zone is of no use in another cluster"));
}

TEST_F(Merger, PortZeroNeverServes) {
    LocalService s = local({backend("10.10.1.1")});
    s.ports = {{"http", "TCP", 0}};
    EXPECT_TRUE(put(s).empty());
    s.ports = {{"http", "TCP", 80}};
    s.backends[0].ports = {{"http", "TCP", 0}};
    EXPECT_EQ(put(s).upserts.size(), 1U);
    EXPECT_THAT(now(), IsEmpty());
}

TEST_F(Merger, OfTwoPortsWithOneNumberTheFirstNameServes) {
    // Kubernetes refuses such a Service; whatever the order, the choice must be the same.
    LocalService s = local({backend("10.10.1.1")});
    s.ports = {{"http", "TCP", 80}, {"web", "TCP", 80}};
    put(s);
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
    s.ports = {{"web", "TCP", 80}, {"http", "TCP", 80}};
    EXPECT_TRUE(put(s).empty());
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
}

TEST_F(Merger, ExternalNameHasNoFrontends) {
    LocalService s = local({backend("10.10.1.1")});
    put(s);
    s.type = "ExternalName";
    const auto changes = put(s);
    EXPECT_EQ(changes.removed.size(), 1U);
    EXPECT_THAT(changes.upserts, IsEmpty());
    EXPECT_THAT(notes(), ElementsAre("of type ExternalName: it has no frontends"));
    for (const char* type : {"ClusterIP", "NodePort", "LoadBalancer"}) {
        s.type = type;
        put(s);
        EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080")) << type;
    }
}

TEST_F(Merger, AFrontendWithoutBackendsIsThereNevertheless) {
    const auto changes = put(local({}));
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_THAT(changes.upserts[0].backends, IsEmpty());
}

TEST_F(Merger, RowsCarryServiceAffinityAndState) {
    LocalService s = local({backend("10.10.1.1")});
    s.backends[0].weight = 7;
    s.client_ip_affinity_seconds = 10800;
    const auto changes = put(s);
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_EQ(changes.upserts[0], (FrontendRow{.key = {ip("10.96.0.1"), 80, Protocol::kTcp},
                                               .service = {"shop", "cart"},
                                               .port_name = "http",
                                               .affinity_seconds = 10800,
                                               .backends = {{.address = ip("10.10.1.1"),
                                                             .port = 8080,
                                                             .cluster = kOwn,
                                                             .weight = 7,
                                                             .state = BackendState::kActive,
                                                             .programmed = true,
                                                             .selected = true,
                                                             .reason = Reason::kActive}}}));
}

// ---- §3 headless ----

TEST_F(Merger, HeadlessHasNoFrontends) {
    LocalService s = local({backend("10.10.1.1")});
    s.headless = true;
    s.cluster_ips.clear();
    EXPECT_TRUE(put(s).empty());
    EXPECT_TRUE(put(kBee, remote(kBee, {"10.20.1.1"})).empty());
    EXPECT_THAT(notes(), ElementsAre(HasSubstr("headless: it has no frontends")));
    // By label, with a cluster IP.
    s.cluster_ips = {ip("10.96.0.1")};
    EXPECT_TRUE(put(s).empty());
    s.headless = false;
    EXPECT_EQ(put(s).upserts.size(), 1U);
    s.headless = true;
    EXPECT_EQ(put(s).removed.size(), 1U);
}

TEST_F(Merger, AHeadlessRemoteRecordStillOffersBackends) {
    put(local({}));
    Service r = remote(kBee, {"10.20.1.1"});
    r.frontends.clear();
    put(kBee, r);
    EXPECT_THAT(now(), ElementsAre("+bee 10.20.1.1:8080"));
}

// ---- §5 loss of a remote ----

TEST_F(Merger, ADrainedClusterTakesItsBackendsWithIt) {
    put(local({backend("10.10.1.1")}));
    put(kBee, remote(kBee, {"10.20.1.1"}));
    put(kCat, remote(kCat, {"10.30.1.1"}));
    tables_.drain("bee", sink(), {Kind::kService, Kind::kExport});
    const auto changes = merger_->flush();
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_THAT(backends_of(changes.upserts[0]),
                ElementsAre("+ape 10.10.1.1:8080", "+cat 10.30.1.1:8080"));
    tables_.drain("cat", sink());
    EXPECT_EQ(merger_->flush().upserts.size(), 1U);
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
}

TEST_F(Merger, AnEmptyRecordOfARemoteIsNotARemoval) {
    // The key stays with "backends":{} when a service loses all its endpoints (services.md §7).
    put(local({backend("10.10.1.1")}));
    put(kBee, remote(kBee, {"10.20.1.1"}));
    put(kBee, remote(kBee, {}));
    EXPECT_THAT(now(), ElementsAre("+ape 10.10.1.1:8080"));
    EXPECT_THAT(notes(), IsEmpty());
}

// ---- incremental ----

TEST_F(Merger, AnUpdateThatChangesNoRowGivesNothing) {
    put(local({backend("10.10.1.1")}));
    put(kBee, remote(kBee, {"10.20.1.1"}));
    Service relabelled = remote(kBee, {"10.20.1.1"});
    relabelled.labels = mesh::model::StringMap{{"a", "b"}};
    EXPECT_TRUE(put(kBee, relabelled).empty());
    EXPECT_TRUE(apply(kBee, {ServiceDelete{{"shop", "cart"}}, ServiceUpsert{relabelled}}).empty());
}

// One field at a time: a row that differs in any of them must be returned.
TEST_F(Merger, AChangeOfAnyFieldOfARowIsReturned) {
    const LocalService base = local({backend("10.10.1.1"), backend("10.10.1.2")});
    std::vector<LocalService> variants(7, base);
    variants[0].client_ip_affinity_seconds = 1;
    variants[1].backends[1].weight = 2;
    variants[2].backends[1].state = BackendState::kTerminating;
    variants[3].backends[1].state = BackendState::kQuarantined;
    variants[4].backends[1].ports = {{"http", "TCP", 8081}};
    variants[5].backends[1].address = ip("10.10.1.3");
    variants[6].ports = {{"web", "TCP", 80}};
    for (std::size_t i = 0; i < variants.size(); ++i) {
        put(base);
        EXPECT_EQ(put(variants[i]).upserts.size(), 1U) << i;
    }
    put(base);
    EXPECT_EQ(put(kBee, remote(kBee, {"10.20.1.1"})).upserts.size(), 1U);
    EXPECT_EQ(
        put({"bee", ClusterId{9}}, remote({"bee", ClusterId{9}}, {"10.20.1.1"})).upserts.size(),
        1U);
}

TEST_F(Merger, OnlyTheFrontendThatDiffersIsReturned) {
    LocalService s = local({backend("10.10.1.1")});
    s.ports = {{"admin", "TCP", 81}, {"http", "TCP", 80}};
    EXPECT_EQ(put(s).upserts.size(), 2U);
    s.backends.push_back(backend("10.10.1.2"));
    const auto changes = put(s);
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_EQ(changes.upserts[0].port_name, "http");
}

TEST_F(Merger, AMovedClusterIpIsOneRemovalAndOneUpsert) {
    LocalService s = local({backend("10.10.1.1")});
    put(s);
    s.cluster_ips = {ip("10.96.0.2")};
    const auto changes = put(s);
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_EQ(text(changes.upserts[0].key), "10.96.0.2:80/TCP");
    ASSERT_EQ(changes.removed.size(), 1U);
    EXPECT_EQ(text(changes.removed[0]), "10.96.0.1:80/TCP");
}

TEST_F(Merger, AFrontendThatTwoServicesHaveIsServedForTheFirstByName) {
    LocalService a = local({backend("10.10.1.1")});
    LocalService b = local({backend("10.10.1.2")});
    b.name = "basket";
    put(a);
    const auto taken = put(b);
    ASSERT_EQ(taken.upserts.size(), 1U);
    EXPECT_EQ(taken.upserts[0].service.name, "basket");
    EXPECT_THAT(notes(),
                ElementsAre("10.96.0.1:80/TCP is served for shop/basket, which has the same "
                            "frontend"));
    EXPECT_THAT(merger_->explain({"shop", "basket"}).notes, IsEmpty());
    // Changes of the one that is not served are silent; it comes back when the other goes.
    a.backends.push_back(backend("10.10.1.3"));
    EXPECT_TRUE(put(a).empty());
    const auto back = apply(kOwn, {LocalServiceDelete{{"shop", "basket"}}});
    EXPECT_THAT(back.removed, IsEmpty());
    ASSERT_EQ(back.upserts.size(), 1U);
    EXPECT_THAT(backends_of(back.upserts[0]),
                ElementsAre("+ape 10.10.1.1:8080", "+ape 10.10.1.3:8080"));
    // Handed over within one batch.
    const auto handed = apply(kOwn, {LocalServiceDelete{{"shop", "cart"}}, LocalServiceUpsert{b}});
    EXPECT_THAT(handed.removed, IsEmpty());
    ASSERT_EQ(handed.upserts.size(), 1U);
    EXPECT_EQ(handed.upserts[0].service.name, "basket");
    EXPECT_THAT(merger_->services(), ElementsAre(ObjectName{"shop", "basket"}));
}

TEST_F(Merger, ANewMergerStartsFromWhatTheTablesHold) {
    put(local({backend("10.10.1.1")}));
    put(kBee, remote(kBee, {"10.20.1.1"}));
    reset({.own = kOwn, .node = "n1", .zone = "", .zone_hints = false});
    const auto changes = merger_->flush();
    ASSERT_EQ(changes.upserts.size(), 1U);
    EXPECT_THAT(backends_of(changes.upserts[0]),
                ElementsAre("+ape 10.10.1.1:8080", "+bee 10.20.1.1:8080"));
    EXPECT_TRUE(merger_->flush().empty());
}

TEST_F(Merger, FlushesInParts) {
    for (int i = 0; i < 5; ++i) {
        LocalService s = local({backend("10.10.1.1")});
        s.name = "s" + std::to_string(i);
        s.cluster_ips = {IpAddress::v4(10, 96, 0, static_cast<std::uint8_t>(i))};
        tables_.apply({kOwn, {LocalServiceUpsert{s}}}, sink());
    }
    EXPECT_TRUE(merger_->pending());
    EXPECT_EQ(merger_->flush(2).upserts.size(), 2U);
    EXPECT_TRUE(merger_->pending());
    // A service that goes while it waits is never returned; the removal of one that was comes
    // first.
    tables_.apply({kOwn, {LocalServiceDelete{{"shop", "s0"}}, LocalServiceDelete{{"shop", "s4"}}}},
                  sink());
    const auto first = merger_->flush(1);
    EXPECT_THAT(first.removed, ElementsAre(FrontendKey{ip("10.96.0.0"), 80, Protocol::kTcp}));
    const auto rest = merger_->flush();
    EXPECT_THAT(rest.removed, IsEmpty());
    ASSERT_EQ(rest.upserts.size(), 2U);
    EXPECT_EQ(rest.upserts[0].service.name, "s2");
    EXPECT_EQ(rest.upserts[1].service.name, "s3");
    EXPECT_FALSE(merger_->pending());
    EXPECT_TRUE(merger_->flush().empty());
}

// The cost of one backend's change is that of its service, however many others there are.
TEST_F(Merger, AChangeCostsItsServiceOnly) {
    const auto cost_among = [](int services) {
        ClusterTables tables("ape", 1);
        ServiceMerger merger(tables, {.own = kOwn, .node = "n1", .zone = "", .zone_hints = false});
        const EffectSink sink = [&](const Effect& effect) { merger.note(effect); };
        for (int i = 0; i < services; ++i) {
            LocalService s = local({});
            s.name = "service-" + std::to_string(i);
            s.cluster_ips = {IpAddress::v4(0x0a600000U + static_cast<std::uint32_t>(i))};
            for (int b = 0; b < 10; ++b)
                s.backends.push_back(backend("10.10.1." + std::to_string(b)));
            tables.apply({kOwn, {LocalServiceUpsert{s}}}, sink);
            for (const ClusterKey& cluster : {kBee, kCat}) {
                Service r = remote(cluster, {"10.20.1.1", "10.20.1.2", "10.20.1.3"});
                r.name = s.name;
                tables.apply({cluster, {ServiceUpsert{r}}}, sink);
            }
        }
        EXPECT_EQ(merger.flush().upserts.size(), static_cast<std::size_t>(services));
        const MergerWork before = merger.work();
        Service r = remote(kBee, {"10.20.1.1", "10.20.1.2"});
        r.name = "service-3";
        tables.apply({kBee, {ServiceUpsert{r}}}, sink);
        EXPECT_EQ(merger.flush().upserts.size(), 1U);
        const MergerWork after = merger.work();
        return std::pair(after.services_compiled - before.services_compiled,
                         after.backends_seen - before.backends_seen);
    };
    EXPECT_EQ(cost_among(10), std::pair(std::uint64_t{1}, std::uint64_t{10 + 2 + 3}));
    EXPECT_EQ(cost_among(500), cost_among(10));
}

}  // namespace
