// The traffic annotations: what each does to selection and weights, alone and together, and with
// time.
#include "compile/services/traffic.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "compile/services/service_merger.hpp"
#include "runtime/clock.hpp"
#include "state/tables/cluster_tables.hpp"

namespace {

using namespace mesh::compile;
using namespace mesh::state;
using namespace std::chrono_literals;
using mesh::Duration;
using mesh::TimePoint;
using mesh::model::Affinity;
using mesh::model::BackendState;
using mesh::model::ClusterId;
using mesh::model::IpAddress;
using mesh::model::LocalBackend;
using mesh::model::LocalService;
using mesh::model::Service;
using mesh::model::ServicePort;
using mesh::model::SharedList;
using mesh::model::StringMap;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

const ClusterKey kOwn{"ape", ClusterId{1}};
const ClusterKey kBee{"bee", ClusterId{2}};
const ClusterKey kCat{"cat", ClusterId{3}};
const ObjectName kName{"shop", "cart"};
const SharedList<ServicePort> kHttp{{"http", "TCP", 8080}};

IpAddress address(std::size_t cluster, std::size_t n) {
    return IpAddress::v4(10, static_cast<std::uint8_t>(cluster), static_cast<std::uint8_t>(n / 256),
                         static_cast<std::uint8_t>(n % 256));
}

class Traffic : public testing::Test {
  protected:
    Traffic() {
        service_.namespace_ = "shop";
        service_.name = "cart";
        service_.type = "ClusterIP";
        service_.cluster_ips = {IpAddress::v4(10, 96, 0, 1)};
        service_.ports = {{"http", "TCP", 80}};
        service_.global = service_.shared = true;
        merger_.note_all_synced();
        merger_.advance(now_);
    }
    EffectSink sink() {
        return [this](const Effect& effect) { merger_.note(effect); };
    }
    void annotate(StringMap annotations, Affinity affinity = Affinity::kNone) {
        service_.annotations = std::move(annotations);
        service_.affinity = affinity;
    }
    /// The own cluster's backends: 'a' active, 't' terminating, 'q' quarantined.
    void put_own(std::string_view states) {
        service_.backends.clear();
        for (std::size_t i = 0; i < states.size(); ++i) {
            LocalBackend b;
            b.address = address(1, i);
            b.ports = kHttp;
            b.state = states[i] == 'a'   ? BackendState::kActive
                      : states[i] == 't' ? BackendState::kTerminating
                                         : BackendState::kQuarantined;
            service_.backends.push_back(b);
        }
        tables_.apply({kOwn, {LocalServiceUpsert{service_}}}, sink());
        flush();
    }
    void put(const ClusterKey& cluster, std::size_t count) {
        Service s;
        s.cluster = cluster.name;
        s.cluster_id = cluster.id;
        s.namespace_ = "shop";
        s.name = "cart";
        s.include_external = s.shared = true;
        for (std::size_t i = 0; i < count; ++i) {
            s.backends.push_back({address(number(cluster.id), i), kHttp, ""});
        }
        tables_.apply({cluster, {ServiceUpsert{s}}}, sink());
        flush();
    }
    /// Writes are counted; the row is checked against explain().
    void flush() {
        const FrontendChanges changes = merger_.flush();
        writes_ += changes.upserts.size();
        for (const FrontendRow& row : changes.upserts) {
            if (row.service == kName) row_ = row;
        }
        const auto explanation = merger_.explain(kName);
        if (!explanation.frontends.empty()) {
            EXPECT_EQ(explanation.frontends.at(0), row_);
        }
    }
    void pass(Duration time) {
        now_ += time;
        merger_.advance(now_);
        flush();
    }

    /// Share of new connections in percent, of each cluster that gets some.
    std::map<std::string, double> shares() const {
        std::map<std::string, double> result;
        double total = 0;
        for (const BackendRow& b : row_.backends) {
            if (!b.selected) continue;
            EXPECT_TRUE(b.programmed);
            EXPECT_GT(b.weight, 0);
            result[b.cluster.name] += b.weight;
            total += b.weight;
        }
        for (auto& [cluster, share] : result) share *= 100 / total;
        return result;
    }
    /// "ape 80.0 bee 20.0"
    std::string shares_text() const {
        std::string text;
        for (const auto& [cluster, share] : shares()) {
            text += fmt::format("{}{} {:.1f}", text.empty() ? "" : " ", cluster, share);
        }
        return text;
    }
    std::set<Reason> reasons(const ClusterKey& cluster) const {
        std::set<Reason> found;
        for (const BackendRow& b : row_.backends) {
            if (b.cluster.name == cluster.name) found.insert(b.reason);
        }
        return found;
    }
    std::vector<std::string> notes() const { return merger_.explain(kName).notes; }

    ClusterTables tables_{"ape", 1};
    ServiceMerger merger_{tables_, {.own = kOwn, .node = "n1", .zone = "", .zone_hints = false}};
    LocalService service_;
    FrontendRow row_;
    TimePoint now_{1h};
    std::size_t writes_ = 0;
};

// ---- cluster-weights ----

TEST_F(Traffic, WithoutAnnotationsEachBackendCountsTheSame) {
    put_own("aaa");
    put(kBee, 1);
    EXPECT_EQ(shares_text(), "ape 75.0 bee 25.0");
    for (const BackendRow& b : row_.backends) EXPECT_EQ(b.weight, 1);
    EXPECT_THAT(notes(), IsEmpty());
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    EXPECT_FALSE(merger_.wants_freshness());
    // Others' annotations change nothing.
    annotate({{"app", "x"}, {"libmesh.io/unknown", "y"}});
    const auto before = row_;
    put_own("aaa");
    EXPECT_EQ(row_, before);
}

TEST_F(Traffic, WeightsShareByClusterWhateverTheNumberOfBackends) {
    annotate({{"libmesh.io/cluster-weights", "ape=80,bee=20"}});
    struct Case {
        std::size_t own, bee;
    };
    for (const Case c : {Case{1, 1}, {3, 500}, {500, 3}, {1, 1}, {7, 13}, {1, 1000}, {999, 1000}}) {
        put_own(std::string(c.own, 'a'));
        put(kBee, c.bee);
        const auto got = shares();
        EXPECT_NEAR(got.at("ape"), 80, 0.05) << c.own << " " << c.bee;
        EXPECT_NEAR(got.at("bee"), 20, 0.05) << c.own << " " << c.bee;
        EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kActive));
        // Within a cluster, all get the same but for rounding.
        std::map<std::string, std::set<std::uint16_t>> weights;
        for (const BackendRow& b : row_.backends) weights[b.cluster.name].insert(b.weight);
        for (const auto& [cluster, set] : weights) EXPECT_LE(*set.rbegin() - *set.begin(), 1);
    }
    EXPECT_THAT(notes(),
                ElementsAre("10.96.0.1 port 80/TCP: new connections: ape 80.0%, bee 20.0%"));
}

TEST_F(Traffic, AShareTooSmallForEachBackendGoesToSomeAndStaysRight) {
    annotate({{"libmesh.io/cluster-weights", "ape=1000,bee=1"}});
    put_own("a");
    put(kBee, 5000);
    EXPECT_NEAR(shares().at("bee"), 0.1, 0.01);
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kActive, Reason::kShareTooSmall));
}

TEST_F(Traffic, ClustersThatAreNotNamedGet100) {
    annotate({{"libmesh.io/cluster-weights", "ape=300"}});
    put_own("a");
    put(kBee, 4);
    put(kCat, 2);
    EXPECT_EQ(shares_text(), "ape 60.0 bee 20.0 cat 20.0");
}

TEST_F(Traffic, WeightsOfBackendsCountWithinTheirCluster) {
    annotate({{"libmesh.io/cluster-weights", "bee=100"}});
    put_own("aa");
    service_.backends[0].weight = 3;
    tables_.apply({kOwn, {LocalServiceUpsert{service_}}}, sink());
    flush();
    put(kBee, 1);
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
    EXPECT_EQ(row_.backends[0].weight, 3 * row_.backends[1].weight);
}

TEST_F(Traffic, WeightZeroIsForWhenNothingElseIsLeft) {
    annotate({{"libmesh.io/cluster-weights", "bee=0,cat=0"}});
    put_own("a");
    put(kBee, 2);
    put(kCat, 1);
    EXPECT_EQ(shares_text(), "ape 100.0");
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kWeightZero));
    EXPECT_TRUE(row_.backends.back().programmed);
    EXPECT_EQ(row_.backends.front().weight, 1);
    put_own("q");
    EXPECT_EQ(shares_text(), "bee 50.0 cat 50.0");
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kActive));
    // An active one elsewhere goes before a terminating one of weight.
    put_own("t");
    EXPECT_EQ(shares_text(), "bee 50.0 cat 50.0");
    put(kBee, 0);
    put(kCat, 0);
    EXPECT_EQ(shares_text(), "ape 100.0");
    EXPECT_THAT(reasons(kOwn), ElementsAre(Reason::kLastTerminating));
}

TEST_F(Traffic, AffinityGoesBeforeWeights) {
    annotate({{"libmesh.io/cluster-weights", "ape=0,bee=10,cat=30"}}, Affinity::kLocal);
    put_own("a");
    put(kBee, 1);
    put(kCat, 1);
    EXPECT_EQ(shares_text(), "ape 100.0");
    put_own("");
    EXPECT_EQ(shares_text(), "bee 25.0 cat 75.0");
    annotate({{"libmesh.io/cluster-weights", "bee=10,cat=30"}}, Affinity::kRemote);
    put_own("a");
    EXPECT_EQ(shares_text(), "bee 25.0 cat 75.0");
}

TEST_F(Traffic, NothingCountsOnAServiceThatIsNotGlobal) {
    annotate({{"libmesh.io/cluster-order", "bee"}, {"libmesh.io/stale-policy", "close:10s"}});
    service_.global = service_.shared = false;
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 100.0");
    EXPECT_FALSE(merger_.wants_freshness());
    EXPECT_THAT(notes(), ElementsAre("annotations below libmesh.io/ are ignored, as the service "
                                     "has not service.cilium.io/global=true"));
}

TEST_F(Traffic, AWrongValueShowsAndIsAsIfItWereNotThere) {
    annotate({{"libmesh.io/cluster-weights", "ape:80"}});
    put_own("a");
    put(kBee, 1);
    EXPECT_EQ(row_.backends[0].weight, 1);
    EXPECT_THAT(notes(), ElementsAre(StartsWith("annotation libmesh.io/cluster-weights: \"ape:80\" "
                                                "is ignored, expected cluster=weight pairs")));
}

TEST_F(Traffic, NamesThatNoClusterHasShow) {
    annotate(
        {{"libmesh.io/cluster-weights", "ape=1,bea=2"}, {"libmesh.io/cluster-order", "dog,*"}});
    put_own("a");
    EXPECT_THAT(notes(), ElementsAre("libmesh.io/cluster-weights names bea, which has no service "
                                     "of this name",
                                     "libmesh.io/cluster-order names dog, which has no service "
                                     "of this name"));
}

// ---- cluster-order ----

TEST_F(Traffic, OrderSendsAllToTheFirstClusterThatHasActiveBackends) {
    annotate({{"libmesh.io/cluster-order", "cat,ape,*"}});
    put_own("aa");
    put(kBee, 2);
    put(kCat, 1);
    EXPECT_EQ(shares_text(), "cat 100.0");
    EXPECT_THAT(reasons(kOwn), ElementsAre(Reason::kLaterInOrder));
    for (const BackendRow& b : row_.backends) EXPECT_TRUE(b.programmed);  // their flows go on
    put(kCat, 0);
    EXPECT_EQ(shares_text(), "ape 100.0");
    put_own("tq");
    EXPECT_EQ(shares_text(), "bee 100.0");
    put(kBee, 0);
    EXPECT_EQ(shares_text(), "ape 100.0");  // terminating, and the last
    put(kCat, 3);
    EXPECT_EQ(shares_text(), "cat 100.0");
}

TEST_F(Traffic, OrderWithoutAStarUsesOnlyThoseItNames) {
    annotate({{"libmesh.io/cluster-order", "bee,cat"}});
    put_own("aa");
    EXPECT_EQ(shares_text(), "");
    EXPECT_THAT(reasons(kOwn), ElementsAre(Reason::kNotInOrder));
    put(kCat, 1);
    EXPECT_EQ(shares_text(), "cat 100.0");
}

TEST_F(Traffic, WithinAStarTheWeightsShare) {
    annotate(
        {{"libmesh.io/cluster-order", "cat,*"}, {"libmesh.io/cluster-weights", "ape=30,bee=10"}});
    put_own("a");
    put(kBee, 5);
    EXPECT_EQ(shares_text(), "ape 75.0 bee 25.0");
    put(kCat, 1);
    EXPECT_EQ(shares_text(), "cat 100.0");
}

TEST_F(Traffic, WeightZeroGoesLastInAnyOrder) {
    annotate(
        {{"libmesh.io/cluster-order", "ape,bee,cat"}, {"libmesh.io/cluster-weights", "ape=0"}});
    put_own("a");
    put(kCat, 1);
    EXPECT_EQ(shares_text(), "cat 100.0");
    EXPECT_THAT(reasons(kOwn), ElementsAre(Reason::kWeightZero));
    put(kCat, 0);
    EXPECT_EQ(shares_text(), "ape 100.0");
}

TEST_F(Traffic, OrderIsIgnoredWhereAffinityIsSet) {
    annotate({{"libmesh.io/cluster-order", "bee,ape"}}, Affinity::kLocal);
    put_own("a");
    put(kBee, 1);
    EXPECT_EQ(shares_text(), "ape 100.0");
    EXPECT_THAT(notes(), ElementsAre("libmesh.io/cluster-order is ignored: the service has "
                                     "service.cilium.io/affinity=local, which goes first"));
}

// ---- min-local-backends ----

TEST_F(Traffic, TooFewLocalBackendsSpillOverInProportion) {
    annotate({{"libmesh.io/min-local-backends", "4"}}, Affinity::kLocal);
    put(kBee, 2);
    put(kCat, 3);
    put_own("aaaaa");
    EXPECT_EQ(shares_text(), "ape 100.0");
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kPrefersLocal));
    EXPECT_FALSE(row_.backends.back().programmed);
    put_own("aaaa");
    EXPECT_EQ(shares_text(), "ape 100.0");
    put_own("aaaq");
    EXPECT_EQ(shares_text(), "ape 75.0 bee 10.0 cat 15.0");
    EXPECT_THAT(reasons(kCat), ElementsAre(Reason::kSpillover));
    EXPECT_THAT(notes(),
                ElementsAre("10.96.0.1 port 80/TCP: new connections: ape 75.0%, bee 10.0%, cat "
                            "15.0% (libmesh.io/min-local-backends: 3 of 4 local backends are "
                            "active, the rest spills over)"));
    put_own("attt");
    EXPECT_EQ(shares_text(), "ape 25.0 bee 30.0 cat 45.0");
    put_own("t");
    EXPECT_EQ(shares_text(), "bee 40.0 cat 60.0");
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kRemoteFallback));
    put(kBee, 0);
    put(kCat, 0);
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 100.0");  // nobody to spill over to
}

TEST_F(Traffic, WhatSpillsOverIsSharedByClusterWeights) {
    annotate({{"libmesh.io/min-local-backends", "2"},
              {"libmesh.io/cluster-weights", "ape=1,bee=10,cat=30"}},
             Affinity::kLocal);
    put(kBee, 9);
    put(kCat, 1);
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 50.0 bee 12.5 cat 37.5");
    annotate({{"libmesh.io/min-local-backends", "2"},
              {"libmesh.io/cluster-weights", "ape=0,bee=0,cat=30"}},
             Affinity::kLocal);
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 50.0 cat 50.0");
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kWeightZero));
}

TEST_F(Traffic, MinLocalBackendsNeedsAffinityLocal) {
    annotate({{"libmesh.io/min-local-backends", "9"}});
    put_own("a");
    put(kBee, 1);
    EXPECT_EQ(row_.backends[0].weight, 1);
    EXPECT_THAT(notes(), Contains("libmesh.io/min-local-backends is ignored: it is for services "
                                  "with service.cilium.io/affinity=local, and this one has none"));
}

// ---- slow-start ----

TEST_F(Traffic, AClusterThatReturnsGetsItsShareInTenSteps) {
    annotate({{"libmesh.io/slow-start", "90s"}});
    put_own("aa");
    put(kBee, 2);
    pass(10min);
    put(kBee, 0);
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    writes_ = 0;
    put(kBee, 2);
    const TimePoint began = now_;
    EXPECT_NEAR(shares().at("bee"), 100.0 * 10 / 110, 0.01);
    EXPECT_THAT(notes(),
                Contains("bee: slow start: at 10% of its share (libmesh.io/slow-start 90 s)"));
    for (unsigned percent = 20; percent <= 100; percent += 10) {
        ASSERT_EQ(merger_.next_due(), began + 10s * (percent / 10 - 1));
        const auto before = row_;
        pass(*merger_.next_due() - now_ - 1ns);
        EXPECT_EQ(row_, before);
        pass(1ns);
        EXPECT_NEAR(shares().at("bee"), 100.0 * percent / (100 + percent), 0.01);
    }
    EXPECT_EQ(writes_, 10U);
    EXPECT_EQ(now_, began + 90s);
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    EXPECT_EQ(row_.backends[0].weight, 1);  // as it was
    EXPECT_THAT(notes(), Each(Not(HasSubstr("slow start"))));
}

TEST_F(Traffic, StepsThatWerePassedOverAreOneWrite) {
    annotate({{"libmesh.io/slow-start", "90s"}});
    put_own("a");
    put(kBee, 1);
    put(kBee, 0);
    put(kBee, 1);
    writes_ = 0;
    pass(45s);
    EXPECT_EQ(writes_, 1U);
    EXPECT_NEAR(shares().at("bee"), 100.0 * 50 / 150, 0.01);
    // A change meanwhile keeps the level.
    put(kBee, 3);
    EXPECT_NEAR(shares().at("bee"), 100.0 * 150 / 250, 0.01);
    pass(1h);
    EXPECT_EQ(shares_text(), "ape 25.0 bee 75.0");
}

TEST_F(Traffic, SlowStartLowersClusterWeightsAndSpilledShares) {
    annotate({{"libmesh.io/slow-start", "9s"}, {"libmesh.io/cluster-weights", "ape=50,bee=50"}});
    put_own("a");
    put(kBee, 7);
    put(kBee, 0);
    put(kBee, 7);
    EXPECT_NEAR(shares().at("bee"), 100.0 * 10 / 110, 0.01);
    annotate({{"libmesh.io/slow-start", "9s"}, {"libmesh.io/min-local-backends", "2"}},
             Affinity::kLocal);
    put_own("a");
    EXPECT_NEAR(shares().at("bee"), 100.0 * 10 / 110, 0.01);
    pass(9s);
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
}

TEST_F(Traffic, TheFirstSyncIsNotSlow) {
    ServiceMerger starting(tables_, {.own = kOwn, .node = "", .zone = "", .zone_hints = false});
    std::swap(starting, merger_);
    merger_.advance(now_);
    annotate({{"libmesh.io/slow-start", "30s"}});
    put_own("a");
    merger_.note_synced(kOwn);
    put(kBee, 1);
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
    merger_.note_synced(kBee);
    put(kCat, 2);  // another one that was not read yet
    EXPECT_EQ(shares_text(), "ape 25.0 bee 25.0 cat 50.0");
    put(kBee, 0);
    put(kBee, 1);
    EXPECT_NEAR(shares().at("bee"), 100.0 * 10 / 310, 0.01);
    put(kCat, 0);
    put(kCat, 2);  // not synced: these may be deletions of an unfinished list
    EXPECT_NEAR(shares().at("cat"), 100.0 * 200 / 310, 0.01);
    merger_.note_all_synced();
    put(kCat, 0);
    put(kCat, 2);
    EXPECT_NEAR(shares().at("cat"), 100.0 * 20 / 130, 0.01);
}

TEST_F(Traffic, ANewServiceOrANewAnnotationIsNotSlow) {
    put(kBee, 1);
    annotate({{"libmesh.io/slow-start", "30s"}});
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
    annotate({});
    put_own("a");
    put(kBee, 0);
    annotate({{"libmesh.io/slow-start", "30s"}});
    put(kBee, 1);
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
    // Forgotten with the service.
    tables_.apply({kOwn, {LocalServiceDelete{kName}}}, sink());
    (void)merger_.flush();
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
    EXPECT_EQ(merger_.next_due(), std::nullopt);
}

TEST_F(Traffic, AServiceThatGoesTakesItsTimesAlong) {
    annotate({{"libmesh.io/slow-start", "30s"}, {"libmesh.io/stale-policy", "close:10s"}});
    put_own("a");
    put(kBee, 1);
    put(kBee, 0);
    put(kBee, 1);
    merger_.note_freshness(kBee, true, now_);
    EXPECT_TRUE(merger_.next_due());
    tables_.apply({kOwn, {LocalServiceDelete{kName}}}, sink());
    (void)merger_.flush();
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    EXPECT_FALSE(merger_.wants_freshness());
}

TEST_F(Traffic, AClusterThatLeavesAndReturnsWhileSlowStartsAnew) {
    annotate({{"libmesh.io/slow-start", "9s"}});
    put_own("a");
    put(kBee, 1);
    put(kBee, 0);
    put(kBee, 1);
    pass(5s);
    EXPECT_NEAR(shares().at("bee"), 100.0 * 60 / 160, 0.01);
    put(kBee, 0);
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    put(kBee, 1);
    EXPECT_NEAR(shares().at("bee"), 100.0 * 10 / 110, 0.01);
}

// ---- stale-policy ----

TEST_F(Traffic, AStaticServiceUsesAStaleRemote) {
    put_own("a");
    put(kBee, 1);
    merger_.note_freshness(kBee, false, now_);
    pass(24h);
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
    EXPECT_FALSE(merger_.pending());
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    EXPECT_FALSE(merger_.any_closed());
}

TEST_F(Traffic, ClosesAStaleRemoteAndReopensItWhenItLives) {
    annotate({{"libmesh.io/stale-policy", "close:30s"}});
    put_own("a");
    put(kBee, 1);
    put(kCat, 1);
    EXPECT_TRUE(merger_.wants_freshness());
    EXPECT_EQ(merger_.next_due(), std::nullopt);
    const TimePoint life = now_;
    merger_.note_freshness(kBee, true, life);
    merger_.note_freshness(kCat, true, life + 1h);
    merger_.note_freshness(kOwn, false, life - 1h);  // never the own cluster
    EXPECT_FALSE(merger_.pending());
    EXPECT_EQ(merger_.next_due(), life + 30s);
    pass(20s);
    merger_.note_freshness(kBee, false, life + 5s);
    EXPECT_EQ(merger_.next_due(), life + 35s);
    writes_ = 0;
    pass(15s - 1ns);
    EXPECT_EQ(shares().size(), 3U);
    EXPECT_FALSE(merger_.any_closed());
    pass(1ns);
    EXPECT_EQ(shares_text(), "ape 50.0 cat 50.0");
    EXPECT_TRUE(merger_.any_closed());
    EXPECT_THAT(reasons(kBee), ElementsAre(Reason::kStaleRemote));
    EXPECT_TRUE(row_.backends[1].programmed);
    EXPECT_THAT(notes(),
                Contains("bee: stale: not connected, no proof of life for 30 s or longer "
                         "(libmesh.io/stale-policy): its backends get no new connections"));
    EXPECT_EQ(merger_.next_due(), life + 1h + 30s);
    merger_.note_freshness(kBee, true, now_);
    EXPECT_TRUE(merger_.pending());
    flush();
    EXPECT_EQ(shares().size(), 3U);
    EXPECT_EQ(writes_, 2U);
    // Equal news mark nothing.
    merger_.note_freshness(kBee, true, now_ + 1s);
    EXPECT_FALSE(merger_.pending());
}

TEST_F(Traffic, CloseMeansCloseEvenIfNothingIsLeft) {
    annotate({{"libmesh.io/stale-policy", "close:10s"}});
    put_own("");
    put(kBee, 2);
    merger_.note_freshness(kBee, true, now_);
    pass(10s);
    EXPECT_EQ(shares_text(), "");
    EXPECT_EQ(row_.backends.size(), 2U);
    annotate({{"libmesh.io/stale-policy", "static"}});
    put_own("");
    EXPECT_EQ(shares_text(), "bee 100.0");
}

TEST_F(Traffic, AStaleRemoteIsNotHealthyForAffinity) {
    annotate({{"libmesh.io/stale-policy", "close:10s"}}, Affinity::kRemote);
    put_own("a");
    put(kBee, 1);
    EXPECT_EQ(shares_text(), "bee 100.0");
    merger_.note_freshness(kBee, true, now_);
    pass(10s);
    EXPECT_EQ(shares_text(), "ape 100.0");
    EXPECT_THAT(reasons(kOwn), ElementsAre(Reason::kLocalFallback));
    annotate({{"libmesh.io/stale-policy", "close:10s"}, {"libmesh.io/min-local-backends", "2"}},
             Affinity::kLocal);
    put_own("a");
    EXPECT_EQ(shares_text(), "ape 100.0");  // nobody to spill over to
    put_own("");
    EXPECT_EQ(shares_text(), "");
    EXPECT_TRUE(row_.backends[0].programmed);
}

TEST_F(Traffic, AStaleRemoteIsPassedOverInTheOrder) {
    annotate({{"libmesh.io/stale-policy", "close:10s"}, {"libmesh.io/cluster-order", "bee,cat,*"}});
    put_own("a");
    put(kBee, 1);
    put(kCat, 1);
    merger_.note_freshness(kBee, true, now_);
    EXPECT_EQ(shares_text(), "bee 100.0");
    pass(10s);
    EXPECT_EQ(shares_text(), "cat 100.0");
}

TEST_F(Traffic, AStaleRemoteDoesNotShadowOneThatLives) {
    annotate({{"libmesh.io/stale-policy", "close:10s"}});
    put_own("");
    put(kBee, 1);
    Service s;
    s.cluster = "cat";
    s.cluster_id = kCat.id;
    s.namespace_ = "shop";
    s.name = "cart";
    s.include_external = s.shared = true;
    s.backends = {{address(2, 0), kHttp, ""}};
    tables_.apply({kCat, {ServiceUpsert{s}}}, sink());
    flush();
    EXPECT_EQ(shares_text(), "bee 100.0");
    merger_.note_freshness(kBee, true, now_);
    pass(10s);
    EXPECT_EQ(shares_text(), "cat 100.0");
}

TEST_F(Traffic, AReopenedRemoteStartsSlowly) {
    annotate({{"libmesh.io/stale-policy", "close:10s"}, {"libmesh.io/slow-start", "9s"}});
    put_own("a");
    put(kBee, 1);
    merger_.note_freshness(kBee, true, now_);
    pass(10s);
    merger_.note_freshness(kBee, true, now_);
    flush();
    EXPECT_NEAR(shares().at("bee"), 100.0 * 10 / 110, 0.01);
    EXPECT_EQ(merger_.next_due(), now_ + 1s);
}

TEST_F(Traffic, AForgottenRemoteIsNotStale) {
    annotate({{"libmesh.io/stale-policy", "close:10s"}});
    put_own("a");
    put(kBee, 1);
    merger_.note_freshness(kBee, true, now_);
    pass(10s);
    EXPECT_TRUE(merger_.any_closed());
    merger_.forget_freshness("bee");
    flush();
    EXPECT_FALSE(merger_.any_closed());
    EXPECT_EQ(shares_text(), "ape 50.0 bee 50.0");
}

TEST_F(Traffic, FreshnessCostsOnlyTheServicesThatAskForIt) {
    for (int i = 0; i < 50; ++i) {
        LocalService other = service_;
        other.name = "other" + std::to_string(i);
        other.cluster_ips = {IpAddress::v4(10, 96, 1, static_cast<std::uint8_t>(i))};
        tables_.apply({kOwn, {LocalServiceUpsert{other}}}, sink());
    }
    annotate({{"libmesh.io/stale-policy", "close:10s"}});
    put_own("a");
    put(kBee, 1);
    const auto before = merger_.work().services_compiled;
    merger_.note_freshness(kBee, true, now_);
    pass(5s);
    EXPECT_EQ(merger_.work().services_compiled, before);
    pass(5s);
    EXPECT_EQ(merger_.work().services_compiled, before + 1);
}

}  // namespace
