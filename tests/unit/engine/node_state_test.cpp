#include "engine/node_state.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "datapath/memory_datapath.hpp"
#include "datapath/no_datapath.hpp"
#include "datapath/memory_pods.hpp"
#include "runtime/clock.hpp"

namespace {

using namespace mesh;
using namespace std::chrono_literals;

const state::ClusterKey kOwn{"cluster1", model::ClusterId{1}};
const state::ClusterKey kRemote{"cluster2", model::ClusterId{2}};
const datapath::ServiceFrontend kFrontend{model::IpAddress::v4(10, 11, 0, 10), 80,
                                          datapath::Protocol::kTcp};

model::ServicePort http(std::uint16_t port) {
    model::ServicePort p;
    p.name = "http";
    p.protocol = "TCP";
    p.port = port;
    return p;
}

state::LocalServiceUpsert local(std::vector<model::IpAddress> addresses, bool global = true) {
    model::LocalService service;
    service.namespace_ = "shop";
    service.name = "echo";
    service.type = "ClusterIP";
    service.cluster_ips = {kFrontend.address};
    service.ports = {http(80)};
    service.global = global;
    service.shared = global;
    for (const auto& address : addresses) {
        model::LocalBackend backend;
        backend.address = address;
        backend.ports = {http(8080)};
        service.backends.push_back(backend);
    }
    return {service};
}

state::ServiceUpsert remote(std::vector<model::IpAddress> addresses) {
    model::Service service;
    service.cluster = "cluster2";
    service.namespace_ = "shop";
    service.name = "echo";
    service.cluster_id = kRemote.id;
    service.include_external = true;
    service.shared = true;
    for (const auto& address : addresses) {
        model::ServiceAddress backend;
        backend.address = address;
        backend.ports = {http(8080)};
        service.backends.push_back(backend);
    }
    return {service};
}

class NodeState : public testing::Test {
  protected:
    /// The clusters whose backends get new connections.
    std::vector<std::uint32_t> clusters_used(const datapath::Datapath& datapath) {
        std::vector<std::uint32_t> ids;
        if (const auto row = datapath.find(kFrontend)) {
            for (const auto& backend : row->backends) {
                if (backend.selectable) ids.push_back(backend.backend.cluster_id);
            }
        }
        std::ranges::sort(ids);
        return ids;
    }
    /// Cluster id → sum of the weights of its backends that get new connections.
    std::map<std::uint32_t, double> weights(const datapath::Datapath& datapath) {
        std::map<std::uint32_t, double> sums;
        if (const auto row = datapath.find(kFrontend)) {
            for (const auto& backend : row->backends) {
                if (backend.selectable) {
                    sums[backend.backend.cluster_id] += backend.backend.weight;
                }
            }
        }
        return sums;
    }
    void flush_at(TimePoint now) {
        node_.advance(now);
        flush(node_);
    }
    void flush(engine::NodeState& node) {
        const auto result = node.flush();
        ASSERT_TRUE(result) << result.error().message();
    }

    datapath::MemoryDatapath datapath_;
    engine::NodeState node_{kOwn, "node1", 7, datapath_, Logger()};
};

TEST_F(NodeState, AGlobalServiceUsesTheBackendsOfBothClustersAndOutlivesEither) {
    node_.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    EXPECT_TRUE(node_.dirty());
    flush(node_);
    EXPECT_FALSE(node_.dirty());
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{1, 2}));

    node_.apply({kRemote, {remote({})}});
    flush(node_);
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{1}));

    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 2)})}});
    node_.apply({kOwn, {local({})}});
    flush(node_);
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{2}));

    node_.drain("cluster2");
    flush(node_);
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{}));

    node_.apply({kOwn, {state::LocalServiceDelete{{"shop", "echo"}}}});
    flush(node_);
    EXPECT_EQ(datapath_.find(kFrontend), std::nullopt);
}

TEST_F(NodeState, WithoutADatapathServicesAreMergedAndShownAllTheSame) {
    datapath::NoDatapath none;
    engine::NodeState node(kOwn, "node1", 7, none, Logger());
    node.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    node.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush(node);
    EXPECT_FALSE(node.dirty());
    const auto view = node.service({"shop", "echo"});
    ASSERT_TRUE(view);
    ASSERT_EQ(view->frontends.size(), 1U);
    EXPECT_EQ(view->frontends[0].backends.size(), 2U);
    EXPECT_TRUE(node.rejected().empty() && node.truncated().empty());
    EXPECT_TRUE(node.finish_adopt());
}

TEST_F(NodeState, ARemotesServiceWithoutALocalOneHasNoEffect) {
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush(node_);
    EXPECT_TRUE(datapath_.dump().empty());
    node_.apply({kOwn, {local({}, false)}});
    flush(node_);
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{}));
}

TEST_F(NodeState, TheWayToABackendIsThereBeforeTheBackendIsUsed) {
    datapath::MemoryPods pods;
    engine::NodeState node{kOwn, "node1", 7, datapath_, Logger(), {.pods = &pods, .tunnel = true}};
    node.apply({kOwn, {local({})}});
    flush(node);
    model::Node peer;
    peer.name = "n1";
    peer.cluster = "cluster2";
    peer.cluster_id = kRemote.id;
    peer.ipv4_alloc_cidr = *model::IpPrefix::parse("10.20.0.0/24");
    peer.addresses.emplace({model::NodeAddress{"InternalIP", "172.18.0.2"}});
    const auto cidr = *model::IpPrefix::parse("10.20.0.0/24");
    int calls = 0;
    const auto look = [&] {
        ++calls;
        EXPECT_TRUE(node.desired_routes().contains(cidr));
        EXPECT_TRUE(pods.find(cidr));
        EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{}));
    };
    // In the order that would be wrong to follow.
    node.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    node.apply({kRemote, {state::NodeUpsert{peer}}});
    auto done = node.flush(look);
    ASSERT_TRUE(done);
    EXPECT_FALSE(done->routes_changed) << "they are set";
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{2}));

    node.drain("cluster2");
    done = node.flush(look);
    ASSERT_TRUE(done);
    EXPECT_TRUE(done->routes_changed);
    EXPECT_EQ(calls, 1);
    EXPECT_FALSE(node.desired_routes().contains(cidr));
    EXPECT_FALSE(pods.find(cidr));
    EXPECT_EQ(pods.occupancy().nodes, 0U);
}

TEST_F(NodeState, ZoneHintsAreFollowedIfToldSoByTheOwnNodesLabel) {
    const auto node = [](const char* name, const char* zone) {
        model::Node record;
        record.name = name;
        record.cluster = "cluster1";
        record.labels = model::StringMap{{"topology.kubernetes.io/zone", zone}};
        return state::NodeUpsert{record};
    };
    auto service = local({model::IpAddress::v4(10, 10, 0, 1)});
    service.service.backends[0].for_zones = {"z1"};
    auto other = remote({model::IpAddress::v4(10, 20, 0, 1)});
    other.service.zones["10.20.0.1"] = {"z2", {"z2"}};
    datapath::MemoryDatapath with, without;
    engine::NodeState follows{
        kOwn, "node1",  7,
        with, Logger(), {.pods = nullptr, .tunnel = false, .service_topology = true}};
    engine::NodeState does_not{kOwn, "node1", 7, without, Logger()};
    const auto take = [&](const state::ClusterBatch& batch) {
        for (engine::NodeState* each : {&follows, &does_not}) {
            each->apply(batch);
            flush(*each);
        }
        EXPECT_EQ(clusters_used(without), (std::vector<std::uint32_t>{1, 2}));
        return clusters_used(with);
    };
    for (engine::NodeState* each : {&follows, &does_not}) each->apply({kOwn, {service}});
    EXPECT_EQ(take({kRemote, {other}}), (std::vector<std::uint32_t>{1, 2})) << "no zone is known";
    EXPECT_EQ(take({kOwn, {node("node2", "z2")}}), (std::vector<std::uint32_t>{1, 2}));
    EXPECT_EQ(take({kOwn, {node("node1", "z1")}}), (std::vector<std::uint32_t>{1}));
    EXPECT_EQ(take({kOwn, {node("node1", "z2")}}), (std::vector<std::uint32_t>{2}));
    EXPECT_EQ(take({kRemote, {node("node1", "z1")}}), (std::vector<std::uint32_t>{2}))
        << "a remote's node of the same name is another";
    EXPECT_EQ(take({kOwn, {node("node1", "z3")}}), (std::vector<std::uint32_t>{1, 2}));
    EXPECT_EQ(take({kOwn, {node("node1", "z1")}}), (std::vector<std::uint32_t>{1}));
    EXPECT_EQ(take({kOwn, {state::NodeDelete{"node1"}}}), (std::vector<std::uint32_t>{1, 2}));
}

TEST_F(NodeState, ARestartKeepsWhatNobodyHasConfirmedUntilThatClusterHasSynced) {
    node_.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush(node_);

    auto adopted = datapath_.restart();
    engine::NodeState next{kOwn, "node1", 8, *adopted, Logger()};
    EXPECT_EQ(clusters_used(*adopted), (std::vector<std::uint32_t>{1, 2}));
    // The remote has synced first, and lost its backend while we were away: the own cluster's
    // services are not known yet, so nothing may be pruned.
    next.apply({kRemote, {remote({})}});
    flush(next);
    ASSERT_TRUE(next.cluster_synced(kRemote));
    EXPECT_EQ(clusters_used(*adopted), (std::vector<std::uint32_t>{1, 2}));
    next.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    flush(next);
    ASSERT_TRUE(next.cluster_synced(kOwn));
    EXPECT_EQ(clusters_used(*adopted), (std::vector<std::uint32_t>{1}));
}

TEST_F(NodeState, BackendsThatWentWhileNobodyWasHereAreToldLikeOthers) {
    node_.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush(node_);
    EXPECT_FALSE(node_.take_backends_removed());
    node_.apply({kRemote, {remote({})}});
    flush(node_);
    EXPECT_TRUE(node_.take_backends_removed());
    EXPECT_FALSE(node_.take_backends_removed());
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush(node_);

    // By the end of the waiting for one cluster ...
    auto adopted = datapath_.restart();
    engine::NodeState next{kOwn, "node1", 8, *adopted, Logger()};
    next.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    flush(next);
    ASSERT_TRUE(next.cluster_synced(kOwn));
    EXPECT_FALSE(next.take_backends_removed());
    ASSERT_TRUE(next.cluster_synced(kRemote));
    EXPECT_TRUE(next.take_backends_removed());
    ASSERT_TRUE(next.finish_adopt());
    EXPECT_FALSE(next.take_backends_removed());

    // ... and by that for all.
    auto again = adopted->restart();
    engine::NodeState last{kOwn, "node1", 9, *again, Logger()};
    flush(last);
    ASSERT_TRUE(last.finish_adopt());
    EXPECT_TRUE(last.take_backends_removed());
}

TEST_F(NodeState, ARowThatTheDatapathRefusesIsKeptAndTriedAgainWhenThereIsRoom) {
    // Id 0 is never given, so there is room for one.
    datapath::MemoryDatapath small({.services = 2, .backends = 16, .slots = 32});
    engine::NodeState node{kOwn, "node1", 7, small, Logger()};
    auto second = local({model::IpAddress::v4(10, 10, 0, 2)});
    second.service.name = "late";
    second.service.cluster_ips = {model::IpAddress::v4(10, 11, 0, 11)};
    node.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    flush(node);
    node.apply({kOwn, {second}});
    flush(node);
    ASSERT_EQ(node.rejected().size(), 1U) << node.rejected().begin()->second.error.message();
    EXPECT_EQ(node.rejected().begin()->second.name, "shop/late");
    EXPECT_EQ(clusters_used(small), (std::vector<std::uint32_t>{1}));

    node.apply({kOwn, {state::LocalServiceDelete{{"shop", "echo"}}}});
    flush(node);
    EXPECT_TRUE(node.rejected().empty());
    ASSERT_EQ(small.dump().size(), 1U);
    EXPECT_EQ(small.dump().front().name, "shop/late");
}

TEST_F(NodeState, ARemoteThatFillsTheTablesIsTruncatedAndTheOwnClusterServes) {
    datapath::MemoryDatapath small({.services = 16, .backends = 41, .slots = 128});
    engine::NodeState node{kOwn, "node1", 7, small, Logger()};
    std::vector<model::IpAddress> many;
    for (std::uint8_t i = 1; i <= 60; ++i) many.push_back(model::IpAddress::v4(10, 20, 0, i));
    node.apply({kRemote, {remote(many)}});
    node.apply({kOwn, {local({model::IpAddress::v4(10, 10, 0, 1)})}});
    flush(node);
    EXPECT_TRUE(node.rejected().empty());
    ASSERT_EQ(node.truncated().size(), 1U);
    EXPECT_EQ(node.truncated().begin()->second.left_out, 40U);
    EXPECT_EQ(std::ranges::count(clusters_used(small), 1U), 1);
    EXPECT_EQ(std::ranges::count(clusters_used(small), 2U), 20);

    // Room becomes free: the row is tried again, without a change of its own.
    many.resize(20);
    node.apply({kRemote, {remote(many)}});
    flush(node);
    EXPECT_TRUE(node.truncated().empty());
    EXPECT_EQ(std::ranges::count(clusters_used(small), 2U), 20);
    auto other = local({});
    other.service.name = "other";
    other.service.cluster_ips = {model::IpAddress::v4(10, 11, 0, 11)};
    auto others = remote({model::IpAddress::v4(10, 20, 1, 1)});
    others.service.name = "other";
    node.apply({kOwn, {other}});
    node.apply({kRemote, {others}});
    flush(node);
    ASSERT_EQ(node.truncated().size(), 1U);
    EXPECT_EQ(node.truncated().begin()->second.name, "shop/other");
    many.resize(19);
    node.apply({kRemote, {remote(many)}});
    flush(node);
    EXPECT_TRUE(node.truncated().empty());
    const auto row = small.find({model::IpAddress::v4(10, 11, 0, 11), 80, kFrontend.proto});
    ASSERT_TRUE(row);
    EXPECT_EQ(row->backends.size(), 1U);
}

TEST_F(NodeState, ClusterWeightsArriveInTheRows) {
    auto service = local({model::IpAddress::v4(10, 10, 0, 1), model::IpAddress::v4(10, 10, 0, 2)});
    service.service.annotations = {{"libmesh.io/cluster-weights", "cluster1=80,cluster2=20"}};
    node_.apply({kOwn, {service}});
    std::vector<model::IpAddress> many;
    for (std::uint8_t i = 1; i <= 200; ++i) many.push_back(model::IpAddress::v4(10, 20, 0, i));
    node_.apply({kRemote, {remote(many)}});
    flush(node_);
    const auto sums = weights(datapath_);
    EXPECT_NEAR(sums.at(1) / (sums.at(1) + sums.at(2)), 0.8, 0.001);
    const auto view = node_.service({"shop", "echo"});
    ASSERT_TRUE(view);
    ASSERT_EQ(view->notes.size(), 1U);
    EXPECT_EQ(view->notes[0],
              "10.11.0.10 port 80/TCP: new connections: cluster1 80.0%, cluster2 20.0%");
    EXPECT_GT(view->frontends.at(0).backends.at(0).weight,
              view->frontends.at(0).backends.at(2).weight);
}

TEST_F(NodeState, AReturningClusterStartsSlowlyButNotAtTheFirstSync) {
    ManualClock clock;
    auto service = local({model::IpAddress::v4(10, 10, 0, 1)});
    service.service.annotations = {{"libmesh.io/slow-start", "9s"}};
    node_.apply({kOwn, {service}});
    flush_at(clock.now());
    ASSERT_TRUE(node_.cluster_synced(kOwn));
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush_at(clock.now());
    ASSERT_TRUE(node_.cluster_synced(kRemote));
    EXPECT_EQ(weights(datapath_), (std::map<std::uint32_t, double>{{1, 1}, {2, 1}}));
    EXPECT_EQ(node_.next_due(), std::nullopt);

    node_.apply({kRemote, {remote({})}});
    flush_at(clock.now());
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush_at(clock.now());
    for (int percent = 10; percent < 100; percent += 10) {
        const auto sums = weights(datapath_);
        EXPECT_NEAR(sums.at(2) / sums.at(1), percent / 100.0, 0.001);
        ASSERT_TRUE(node_.next_due());
        clock.advance(*node_.next_due() - clock.now());
        node_.advance(clock.now());
        EXPECT_TRUE(node_.dirty());
        flush(node_);
    }
    EXPECT_EQ(weights(datapath_), (std::map<std::uint32_t, double>{{1, 1}, {2, 1}}));
    EXPECT_EQ(node_.next_due(), std::nullopt);
    node_.advance(clock.now() + 1h);
    EXPECT_FALSE(node_.dirty());
}

TEST_F(NodeState, AStaleRemoteClosesAndReopens) {
    ManualClock clock;
    auto service = local({model::IpAddress::v4(10, 10, 0, 1)});
    service.service.annotations = {{"libmesh.io/stale-policy", "close:30s"}};
    node_.apply({kOwn, {service}});
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush_at(clock.now());
    EXPECT_TRUE(node_.merger().wants_freshness());
    node_.note_freshness(kRemote, false, clock.now());
    EXPECT_FALSE(node_.dirty());
    ASSERT_EQ(node_.next_due(), clock.now() + 30s);
    clock.advance(30s);
    flush_at(clock.now());
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{1}));
    // Its connections go on: it is in the table still.
    EXPECT_EQ(datapath_.find(kFrontend)->backends.size(), 2U);
    const auto view = node_.service({"shop", "echo"});
    ASSERT_TRUE(view);
    EXPECT_NE(view->frontends.at(0).backends.at(1).reason.find("stale remote"), std::string::npos);
    EXPECT_TRUE(node_.merger().any_closed());

    node_.note_freshness(kRemote, true, clock.now());
    EXPECT_TRUE(node_.dirty());
    flush_at(clock.now());
    EXPECT_EQ(clusters_used(datapath_), (std::vector<std::uint32_t>{1, 2}));
    // A cluster that is removed takes its freshness along.
    node_.drain("cluster2");
    flush_at(clock.now());
    EXPECT_EQ(node_.next_due(), std::nullopt);
}

TEST_F(NodeState, ViewsTellWhyEachBackendIsUsedOrNot) {
    auto service = local({model::IpAddress::v4(10, 10, 0, 1)});
    service.service.affinity = model::Affinity::kLocal;
    node_.apply({kOwn, {service}});
    node_.apply({kRemote, {remote({model::IpAddress::v4(10, 20, 0, 1)})}});
    flush(node_);
    const auto view = node_.service({"shop", "echo"});
    ASSERT_TRUE(view);
    EXPECT_EQ(view->affinity, "local");
    ASSERT_EQ(view->frontends.size(), 1U);
    ASSERT_EQ(view->frontends[0].backends.size(), 2U);
    EXPECT_TRUE(view->frontends[0].backends[0].selected);
    EXPECT_FALSE(view->frontends[0].backends[1].selected);
    EXPECT_EQ(view->frontends[0].backends[1].cluster, "cluster2");
    EXPECT_NE(view->frontends[0].backends[1].reason.find("local"), std::string::npos);
    EXPECT_EQ(node_.service({"shop", "absent"}), std::nullopt);
}

}  // namespace
