// Probes and the merger: what is to be probed, what a verdict does to selection, and what it costs.
#include "compile/services/health_state.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using namespace std::chrono_literals;
using mesh::TimePoint;
using mesh::model::Affinity;
using mesh::model::BackendState;
using mesh::model::ClusterId;
using mesh::model::IpAddress;
using mesh::model::IpIdentityPair;
using mesh::model::IpPrefix;
using mesh::model::LocalService;
using mesh::model::Node;
using mesh::model::Service;
using mesh::model::ServicePort;
using mesh::model::SharedList;
using mesh::model::StringMap;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const ClusterKey kOwn{"ape", ClusterId{1}};
const ClusterKey kBee{"bee", ClusterId{2}};
const ClusterKey kCat{"cat", ClusterId{3}};
const ObjectName kName{"shop", "cart"};
const SharedList<ServicePort> kHttp{{"http", "TCP", 8080}};
const TimePoint kNow{1h};

IpAddress pod(const ClusterKey& cluster, std::uint8_t node, std::uint8_t n) {
    return IpAddress::v4(10, static_cast<std::uint8_t>(number(cluster.id)), node, n);
}
IpAddress node_ip(const ClusterKey& cluster, std::uint8_t n) {
    return IpAddress::v4(172, 18, static_cast<std::uint8_t>(number(cluster.id)), n);
}
HostProbe host(const ClusterKey& cluster, std::uint8_t n) {
    return {cluster.name, node_ip(cluster, n)};
}

/// Two nodes per cluster; the own one is ape's node 1.
class Health : public testing::Test {
  protected:
    Health() {
        service_.namespace_ = kName.namespace_;
        service_.name = kName.name;
        service_.type = "ClusterIP";
        service_.cluster_ips = {IpAddress::v4(10, 96, 0, 1)};
        service_.ports = {{"http", "TCP", 80}};
        service_.global = service_.shared = true;
        for (const auto& cluster : {kOwn, kBee}) {
            for (const std::uint8_t n : std::initializer_list<std::uint8_t>{1, 2})
                put_node(cluster, n);
        }
        merger_.advance(kNow);
    }
    EffectSink sink() {
        return [this](const Effect& effect) { merger_.note(effect); };
    }
    Node node(const ClusterKey& cluster, std::uint8_t n, IpAddress address) {
        Node made;
        made.name = "node" + std::to_string(n);
        made.cluster = cluster.name;
        made.cluster_id = cluster.id;
        made.addresses = {{"InternalIP", address.to_string()}, {"Hostname", ""}};
        return made;
    }
    void put_node(const ClusterKey& cluster, std::uint8_t n) {
        tables_.apply({cluster, {NodeUpsert{node(cluster, n, node_ip(cluster, n))}}}, sink());
    }
    void remove_node(const ClusterKey& cluster, std::uint8_t n) {
        tables_.apply({cluster, {NodeDelete{"node" + std::to_string(n)}}}, sink());
    }
    void put_ip(const ClusterKey& cluster, IpAddress address, IpAddress host_ip) {
        IpIdentityPair pair;
        pair.ip = address;
        pair.host_ip = host_ip;
        tables_.apply({cluster, {IpUpsert{pair}}}, sink());
    }
    /// One backend on each of the nodes.
    void put_own(std::vector<std::uint8_t> nodes) {
        service_.backends.clear();
        for (const std::uint8_t n : nodes) {
            put_ip(kOwn, pod(kOwn, n, 1), node_ip(kOwn, n));
            service_.backends.push_back({.address = pod(kOwn, n, 1), .ports = kHttp});
        }
        put(service_);
    }
    void put(const LocalService& service) {
        tables_.apply({kOwn, {LocalServiceUpsert{service}}}, sink());
    }
    void put_remote(const ClusterKey& cluster, const std::vector<IpAddress>& backends) {
        Service s;
        s.cluster = cluster.name;
        s.cluster_id = cluster.id;
        s.namespace_ = kName.namespace_;
        s.name = kName.name;
        s.include_external = s.shared = true;
        for (const auto& address : backends) s.backends.push_back({address, kHttp, ""});
        tables_.apply({cluster, {ServiceUpsert{s}}}, sink());
    }
    void put_bee(std::vector<std::uint8_t> nodes) {
        std::vector<IpAddress> backends;
        for (const std::uint8_t n : nodes) {
            put_ip(kBee, pod(kBee, n, 1), node_ip(kBee, n));
            backends.push_back(pod(kBee, n, 1));
        }
        put_remote(kBee, backends);
    }
    /// Takes changes of rows and of probes.
    void flush() {
        for (const FrontendRow& row : merger_.flush().upserts) rows_[row.key] = row;
        const ProbeChanges changes = merger_.take_probe_changes();
        for (const auto& probe : changes.hosts_removed) EXPECT_EQ(hosts_.erase(probe), 1U);
        for (const auto& probe : changes.hosts_added) EXPECT_TRUE(hosts_.insert(probe).second);
        for (const auto& probe : changes.backends_removed) {
            EXPECT_EQ(backends_.erase(probe), 1U);
        }
        for (const auto& probe : changes.backends_added) {
            EXPECT_TRUE(backends_.insert(probe).second);
        }
    }
    std::vector<IpAddress> used() {
        flush();
        std::vector<IpAddress> found;
        for (const BackendRow& backend : row().backends) {
            if (backend.selected) found.push_back(backend.address);
        }
        return found;
    }
    FrontendRow row() { return rows_.at({IpAddress::v4(10, 96, 0, 1), 80, Protocol::kTcp}); }
    Reason reason(const IpAddress& address) {
        for (const BackendRow& backend : row().backends) {
            if (backend.address == address) return backend.reason;
        }
        ADD_FAILURE() << address.to_string() << " is no backend";
        return Reason::kActive;
    }
    std::vector<std::string> notes() { return merger_.explain(kName).notes; }
    void find(const HostProbe& probe, bool healthy) {
        merger_.note_host(probe, {healthy, healthy ? "" : "no answer in time"});
    }
    void find(const BackendProbe& probe, bool healthy) {
        merger_.note_backend(probe, {healthy, healthy ? "" : "HTTP status 503"});
    }

    ClusterTables tables_{kOwn.name, 7};
    ServiceMerger merger_{
        tables_, {.own = kOwn, .node = "node1", .zone = {}, .zone_hints = false, .health = true}};
    LocalService service_;
    std::map<FrontendKey, FrontendRow> rows_;
    std::set<HostProbe> hosts_;
    std::set<BackendProbe> backends_;
};

TEST_F(Health, NodesWithBackendsAreProbedAndOnlyThey) {
    put_own({1, 2});
    put_bee({2});
    flush();
    EXPECT_THAT(hosts_, ElementsAre(host(kOwn, 2), host(kBee, 2))) << "the own node is not";
    EXPECT_THAT(backends_, IsEmpty()) << "without the annotation";
    put_bee({1});
    flush();
    EXPECT_THAT(hosts_, ElementsAre(host(kOwn, 2), host(kBee, 1)));
    tables_.drain(kBee.name, sink());
    flush();
    EXPECT_THAT(hosts_, ElementsAre(host(kOwn, 2)));
    tables_.apply({kOwn, {LocalServiceDelete{kName}}}, sink());
    flush();
    EXPECT_THAT(hosts_, IsEmpty());
}

TEST_F(Health, BackendsOfAnUnreachableNodeGetNoNewConnectionsAndKeepWhatTheyHave) {
    put_own({1});
    put_bee({1, 2});
    EXPECT_EQ(used().size(), 3U);
    find(host(kBee, 1), false);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 1, 1), pod(kBee, 2, 1)));
    EXPECT_EQ(reason(pod(kBee, 1, 1)), Reason::kNodeUnreachable);
    EXPECT_TRUE(row().backends[1].programmed);
    EXPECT_THAT(notes(), Contains(HasSubstr("bee: the node at 172.18.2.1 does not answer probes")));
    find(host(kBee, 1), true);
    EXPECT_EQ(used().size(), 3U);
}

TEST_F(Health, ANodeWhoseRecordGoesTakesItsBackendsOutUntilItIsBack) {
    put_own({1});
    put_bee({1, 2});
    flush();
    remove_node(kBee, 2);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 1, 1), pod(kBee, 1, 1)));
    EXPECT_EQ(reason(pod(kBee, 2, 1)), Reason::kNodeGone);
    EXPECT_THAT(hosts_, ElementsAre(host(kBee, 1)));
    EXPECT_THAT(notes(), Contains("bee: the record of the node at 172.18.2.2 is gone"));
    put_node(kBee, 2);
    EXPECT_EQ(used().size(), 3U);
    EXPECT_THAT(hosts_, ElementsAre(host(kBee, 1), host(kBee, 2)));
    // A cluster that publishes no nodes at all is not one whose nodes went.
    put_remote(kCat, {pod(kCat, 1, 1)});
    put_ip(kCat, pod(kCat, 1, 1), node_ip(kCat, 1));
    EXPECT_EQ(used().size(), 4U);
}

TEST_F(Health, IfAllAreUnhealthyAllAreUsed) {
    put_own({2});
    put_bee({1});
    flush();
    find(host(kBee, 1), false);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 2, 1)));
    find(host(kOwn, 2), false);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 2, 1), pod(kBee, 1, 1)));
    EXPECT_EQ(reason(pod(kOwn, 2, 1)), Reason::kAllUnhealthy);
    EXPECT_EQ(reason(pod(kBee, 1, 1)), Reason::kAllUnhealthy);
    EXPECT_THAT(notes(), Contains("10.96.0.1:80/TCP: all backends are unhealthy, so that all are "
                                  "used"));
    find(host(kBee, 1), true);
    EXPECT_THAT(used(), ElementsAre(pod(kBee, 1, 1)));
}

TEST_F(Health, AffinityFallsBackFromUnhealthyLocalBackends) {
    service_.affinity = Affinity::kLocal;
    put_own({2});
    put_bee({1});
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 2, 1)));
    find(host(kOwn, 2), false);
    EXPECT_THAT(used(), ElementsAre(pod(kBee, 1, 1)));
    EXPECT_EQ(reason(pod(kBee, 1, 1)), Reason::kRemoteFallback);
    // Known before it was needed.
    EXPECT_THAT(hosts_, ElementsAre(host(kOwn, 2), host(kBee, 1)));
}

TEST_F(Health, BackendsAreProbedByTheAnnotationAndAvoidedByTheVerdict) {
    service_.annotations = StringMap{{"libmesh.io/health-check", "http:/up,failures=3"}};
    put_own({1});
    put_bee({1, 2});
    flush();
    const auto check = mesh::model::parse_health_check("http:/up,failures=3").value();
    const auto probe = [&](const IpAddress& address) { return BackendProbe{address, 8080, check}; };
    EXPECT_THAT(backends_, UnorderedElementsAre(probe(pod(kOwn, 1, 1)), probe(pod(kBee, 1, 1)),
                                                probe(pod(kBee, 2, 1))));
    find(probe(pod(kBee, 1, 1)), false);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 1, 1), pod(kBee, 2, 1)));
    EXPECT_EQ(reason(pod(kBee, 1, 1)), Reason::kFailsProbe);
    EXPECT_THAT(notes(), Contains("bee 10.2.1.1:8080: fails libmesh.io/health-check http:/up: "
                                  "HTTP status 503"));
    // Another check begins anew, and what the old one found is forgotten.
    service_.annotations = StringMap{{"libmesh.io/health-check", "tcp"}};
    put(service_);
    EXPECT_EQ(used().size(), 3U);
    EXPECT_EQ(backends_.size(), 3U);
    EXPECT_EQ(backends_.begin()->check.kind, mesh::model::HealthCheck::Kind::kTcp);
    service_.annotations.reset();
    put(service_);
    flush();
    EXPECT_THAT(backends_, IsEmpty());
}

TEST_F(Health, ARemoteCannotMakeUsProbeWhatIsNotItsOwn) {
    service_.annotations = StringMap{{"libmesh.io/health-check", "tcp"}};
    put_own({1});
    flush();
    const std::size_t own = backends_.size();
    // Addresses that it does not announce, that others have, or that nobody can have.
    put_ip(kBee, IpAddress::v4(127, 0, 0, 1), node_ip(kBee, 1));
    put_ip(kBee, pod(kOwn, 1, 1), node_ip(kBee, 1));
    put_remote(kBee, {IpAddress::v4(8, 8, 8, 8), IpAddress::v4(127, 0, 0, 1), node_ip(kOwn, 2)});
    flush();
    EXPECT_EQ(backends_.size(), own);
    // A node of it at an address of the own cluster's, or of nobody's.
    tables_.apply({kBee,
                   {NodeUpsert{node(kBee, 3, node_ip(kOwn, 2))},
                    NodeUpsert{node(kBee, 4, IpAddress::v4(127, 0, 0, 1))}}},
                  sink());
    put_ip(kBee, pod(kBee, 3, 1), node_ip(kOwn, 2));
    put_ip(kBee, pod(kBee, 4, 1), IpAddress::v4(127, 0, 0, 1));
    put_remote(kBee, {pod(kBee, 3, 1), pod(kBee, 4, 1)});
    flush();
    EXPECT_THAT(hosts_, IsEmpty());
    EXPECT_EQ(backends_.size(), own + 2) << "pods of it may be probed";
}

TEST_F(Health, TheNodeOfABackendMayBecomeKnownLater) {
    put_own({1});
    put_remote(kBee, {pod(kBee, 1, 1)});
    flush();
    EXPECT_THAT(hosts_, IsEmpty());
    put_ip(kBee, pod(kBee, 1, 1), node_ip(kBee, 1));
    flush();
    EXPECT_THAT(hosts_, ElementsAre(host(kBee, 1)));
    // And another.
    put_ip(kBee, pod(kBee, 1, 1), node_ip(kBee, 2));
    flush();
    EXPECT_THAT(hosts_, ElementsAre(host(kBee, 2)));
}

TEST_F(Health, AVerdictCostsTheServicesOfTheNodeOnly) {
    put_own({1});
    put_bee({1});
    for (int i = 0; i < 100; ++i) {
        LocalService other = service_;
        other.name = "other" + std::to_string(i);
        other.cluster_ips = {IpAddress::v4(10, 97, 0, static_cast<std::uint8_t>(i))};
        put(other);
    }
    flush();
    const auto before = merger_.work().services_compiled;
    find(host(kBee, 1), false);
    flush();
    EXPECT_EQ(merger_.work().services_compiled, before + 1);
    find(host(kBee, 1), false);
    flush();
    EXPECT_EQ(merger_.work().services_compiled, before + 1);
}

TEST_F(Health, TerminatingBackendsTakeOverFromUnhealthyOnes) {
    put_own({1, 2});
    service_.backends[0].state = BackendState::kTerminating;
    put(service_);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 2, 1)));
    find(host(kOwn, 2), false);
    EXPECT_THAT(used(), ElementsAre(pod(kOwn, 1, 1)));
}

}  // namespace
