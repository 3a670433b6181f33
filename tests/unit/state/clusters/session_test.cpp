// The life of a session, row by row of spec protocol.md §3, §4, §5 and §8.
#include "state/clusters/session.hpp"

#include "session_fixture.hpp"

namespace mesh::state {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

TEST_F(SessionTest, LivesFromDisabledToReady) {
    make();
    EXPECT_EQ(session_->state(), SessionState::kDisabled);
    configure();
    EXPECT_EQ(session_->state(), SessionState::kConnecting);
    EXPECT_EQ(did(), Strings{"connect"});
    connect();
    EXPECT_EQ(session_->state(), SessionState::kSyncing);
    EXPECT_EQ(did(), Strings{"watch cilium/.heartbeat"});
    list(Slot::kHeartbeat);
    EXPECT_EQ(did(), Strings{"get cilium/cluster-config/c1"});
    answer(kPlainConfig);
    EXPECT_EQ(did(),
              (Strings{"watch cilium/state/nodes/v1/c1/", "watch cilium/state/ip/v1/default/",
                       "watch cilium/state/identities/v1/id/"}));
    list_all(one_of_each());
    EXPECT_EQ(did(), Strings{"watch cilium/state/services/v1/c1/"})
        << "no backend before the way to its node";
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_EQ(told(), (Strings{"+node n1", "+service ns/s1", "+ip 10.7.0.1", "+identity 458757"}));
    const auto shown = status();
    EXPECT_TRUE(shown.config_retrieved);
    EXPECT_EQ(model::number(shown.config.id), 7U);
    EXPECT_EQ(shown.slots[index(Slot::kIps)].count, 1U);
    EXPECT_TRUE(shown.slots[index(Slot::kIps)].synced);
}

TEST_F(SessionTest, ACanaryOpensItsResource) {
    make();
    configure();
    begin(kConfig);
    const auto after_config = did();
    EXPECT_EQ(after_config.back(), "watch cilium/synced/c1/");
    canary("ip");
    EXPECT_EQ(did(), Strings{"watch cilium/state/ip/v1/default/"});
    put(Slot::kCanaries, {{"cilium/synced/c2/cilium/state/nodes/v1", "t"},
                          {"cilium/synced/c1/cilium/cache/nodes/v1", "t"}});
    EXPECT_TRUE(did().empty()) << "another cluster's canary, or another layout's";
    canary("nodes");
    canary("services");
    EXPECT_EQ(session_->state(), SessionState::kSyncing);
    canary("identities");
    const auto last = did();
    EXPECT_EQ(last.back(), "unwatch canaries");
    list_all();
    EXPECT_EQ(session_->state(), SessionState::kReady);
}

TEST_F(SessionTest, CachedDataIsReadBelowTheCache) {
    make();
    configure();
    begin(R"({"id":7,"capabilities":{"syncedCanaries":true,"cached":true}})");
    static_cast<void>(did());
    canary("ip", "cache");
    canary("identities", "cache");
    EXPECT_EQ(did(),
              (Strings{"watch cilium/cache/ip/v1/c1/", "watch cilium/cache/identities/v1/c1/id/"}));
    put(Slot::kIps, {{"cilium/cache/ip/v1/c1/10.7.0.1", ip_value("10.7.0.1")}}, true);
    EXPECT_EQ(told(), Strings{"+ip 10.7.0.1"});
}

TEST_F(SessionTest, ExportsAreWatchedWhereTheyAreAnnounced) {
    make({.slots = kRemoteSlots});
    configure();
    begin(R"({"id":7,"capabilities":{"serviceExportsEnabled":false}})");
    EXPECT_EQ(did().back(), "watch cilium/state/serviceexports/v1/c1/");
    make({.slots = kRemoteSlots});
    configure();
    begin();
    EXPECT_EQ(did().back(), "watch cilium/state/identities/v1/id/");
    list_all();
    EXPECT_EQ(session_->state(), SessionState::kReady);
}

// --- protocol.md §4 ---------------------------------------------------------------------------

TEST_F(SessionTest, ConfigsThatAreRefused) {
    const std::pair<const char*, const char*> cases[] = {
        {R"({"id":0})", "id"},
        {R"({"id":256})", "id"},
        {R"({"id":255})", "id"},
        {R"({"id":7,"capabilities":{"maxConnectedClusters":255}})", "maxConnectedClusters"},
    };
    for (const auto& [config, field] : cases) {
        const bool max = std::string_view(field) == "maxConnectedClusters";
        make({.max_clusters = max ? 511U : 255U});
        configure();
        begin(config);
        EXPECT_EQ(did().back(), "close") << config;
        EXPECT_NE(status().last_failure.find(field), std::string::npos) << status().last_failure;
        EXPECT_NE(status().last_failure.find("cilium/cluster-config/c1"), std::string::npos);
        EXPECT_EQ(session_->state(), SessionState::kConnecting);
        session_->stop(now());
    }
}

TEST_F(SessionTest, AMissingOrBrokenConfigIsAskedForAgainForThreeMinutes) {
    make();
    configure();
    connect();
    list(Slot::kHeartbeat);
    static_cast<void>(did());
    int asked = 0;
    const auto began = now();
    bool closed = false;
    while (!closed && now() - began < minutes(5)) {
        ++asked;
        put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}});
        if (asked % 2 != 0)
            answer_absent(false);
        else
            answer("{\"id\":");
        pass(std::min<Duration>(seconds(30), *session_->deadline() - now()));
        while (did_.empty()) pass(*session_->deadline() - now());
        for (const auto& line : did()) closed = closed || line == "close";
    }
    EXPECT_TRUE(closed);
    EXPECT_GE(now() - began, minutes(3));
    EXPECT_LT(now() - began, minutes(4));
    EXPECT_GT(asked, 8);
    EXPECT_LT(asked, 40);
}

TEST_F(SessionTest, AConfigThatComesLateIsTaken) {
    make();
    configure();
    connect();
    list(Slot::kHeartbeat);
    answer_absent(false);
    static_cast<void>(did());
    pass(seconds(1));
    const auto asked = did_;
    EXPECT_EQ(asked.front(), "get cilium/cluster-config/c1");
    answer(kPlainConfig);
    list_all();
    EXPECT_EQ(session_->state(), SessionState::kReady);
}

TEST_F(SessionTest, OldClustersWithoutConfigAreTakenOnlyBy115) {
    make({.generation = model::Generation::k115});
    configure();
    connect();
    list(Slot::kHeartbeat);
    answer_absent(false);
    list_all(one_of_each());
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_FALSE(status().config_retrieved);
    EXPECT_EQ(told().size(), 4U);
}

TEST_F(SessionTest, AnIdIsTakenOnce) {
    ASSERT_TRUE(ids_.reserve(model::ClusterId{7}, "c0"));
    make();
    configure();
    begin();
    EXPECT_NE(status().last_failure.find("already used by remote cluster c0"), std::string::npos);
    EXPECT_EQ(session_->state(), SessionState::kConnecting);
    ids_.release("c0");
    pass(seconds(1));
    begin();
    list_all();
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_FALSE(ids_.reserve(model::ClusterId{7}, "c2"));
}

TEST_F(SessionTest, AnIdOtherThanTheFilesIsRefused) {
    make();
    ready(one_of_each(), "mesh: {id: 7}");
    session_->lost(now(), epoch(), unavailable("cut"));
    connect();
    answer(R"({"id":8,"capabilities":{}})");
    EXPECT_EQ(session_->state(), SessionState::kStale);
    EXPECT_EQ(status().last_failure,
              "cilium/cluster-config/c1: field id: expected 7, as the configuration file says "
              "(mesh: id), found 8");
    EXPECT_TRUE(told().empty()) << "what it said under its own id stays";
    EXPECT_TRUE(ids_.reserve(model::ClusterId{8}, "c2"));
}

TEST_F(SessionTest, AnIdThatAnothersFileClaimsIsNotTaken) {
    ids_.claim("victim", model::ClusterId{7});
    make();
    configure();
    begin();
    EXPECT_NE(status().last_failure.find("belongs to remote cluster victim"), std::string::npos)
        << status().last_failure;
    EXPECT_EQ(session_->state(), SessionState::kConnecting);
    EXPECT_TRUE(ids_.reserve(model::ClusterId{7}, "victim"));
}

TEST_F(SessionTest, AnIdIsGivenUpWhenAnothersFileClaimsIt) {
    make();
    ready(one_of_each());
    int asked = 0;
    ids_.on_claimed("c1", [&] { ++asked; });
    ids_.claim("other", model::ClusterId{9});
    EXPECT_EQ(asked, 0);
    ids_.claim("victim", model::ClusterId{7});
    EXPECT_EQ(asked, 1);
    EXPECT_FALSE(ids_.reserve(model::ClusterId{7}, "victim")) << "its entries still use it";
    session_->tick(now());
    EXPECT_EQ(told(), all_drained());
    EXPECT_EQ(did(), Strings{"close"});
    EXPECT_TRUE(ids_.reserve(model::ClusterId{7}, "victim"));
    pass(seconds(1));
    begin();
    EXPECT_TRUE(told().empty());
    EXPECT_NE(session_->state(), SessionState::kReady);
}

TEST_F(SessionTest, WithoutAFilesWordTheHolderKeepsTheId) {
    make();
    ready(one_of_each());
    EXPECT_FALSE(ids_.reserve(model::ClusterId{7}, "late"));
    session_->tick(now());
    EXPECT_TRUE(told().empty());
    // Two files that claim the same: still the holder.
    ids_.claim("c1", model::ClusterId{7});
    ids_.claim("late", model::ClusterId{7});
    EXPECT_FALSE(ids_.reserve(model::ClusterId{7}, "late"));
    session_->tick(now());
    EXPECT_TRUE(told().empty());
}

TEST_F(SessionTest, ARemovedFileClaimsNothing) {
    make();
    ready({}, "mesh: {id: 7}");
    session_->remove(now());
    EXPECT_TRUE(ids_.reserve(model::ClusterId{7}, "c2"));
}

// --- protocol.md §3, §5 -----------------------------------------------------------------------

TEST_F(SessionTest, RetriesLaterAndLater) {
    make();
    configure();
    for (int failures = 1; failures <= 5; ++failures) {
        begin(R"({"id":0})");
        static_cast<void>(did());
        clock_.advance(seconds(failures) - std::chrono::milliseconds(1));
        session_->tick(now());
        EXPECT_TRUE(did().empty());
        clock_.advance(std::chrono::milliseconds(1));
        session_->tick(now());
        EXPECT_EQ(did(), Strings{"connect"}) << failures;
    }
}

TEST_F(SessionTest, WithoutHeartbeatsTheConnectionEnds) {
    make();
    ready(one_of_each());
    pass(seconds(149));
    EXPECT_EQ(session_->state(), SessionState::kReady) << "2 minutes, then a check each 30 s";
    pass(seconds(15));
    EXPECT_EQ(session_->state(), SessionState::kStale);
    EXPECT_NE(status().last_failure.find("no heartbeat"), std::string::npos);
    EXPECT_TRUE(told().empty()) << "what is known stays";
}

TEST_F(SessionTest, HeartbeatsKeepItAlive) {
    make();
    ready();
    for (int i = 0; i < 20; ++i) {
        put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}});
        pass(seconds(60));
        EXPECT_EQ(session_->state(), SessionState::kReady);
    }
    EXPECT_LE(*status().last_heartbeat, seconds(60));
    put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}}, true);
    EXPECT_EQ(*status().last_heartbeat, seconds(60)) << "a listed one proves nothing";
}

TEST_F(SessionTest, TheProbeTellsTheLag) {
    make();
    ready();
    pass(seconds(5));
    in_step();
    const auto reached = status().position.revision;
    session_->probe_answer(now(), epoch(), {etcd_id_, member_id_, reached + 50, 1});
    EXPECT_EQ(status().lag_revisions, 50);
    EXPECT_EQ(status().newest_revision, reached + 50);
    clock_.advance(seconds(3));
    EXPECT_EQ(status().lag, seconds(3));
    revision_ = reached + 60;
    put(Slot::kNodes, {{nodes_key("n1"), node_value("n1")}});
    EXPECT_EQ(status().lag_revisions, 50) << "the other watches may be stuck";
    in_step();
    EXPECT_EQ(status().lag_revisions, 0);
    EXPECT_EQ(status().lag, Duration(0));
    session_->lost(now(), epoch(), unavailable("cut"));
    clock_.advance(seconds(9));
    EXPECT_EQ(status().lag, seconds(9));
    EXPECT_EQ(status().last_proof_of_life, seconds(9));
}

TEST_F(SessionTest, AStuckWatchIsNotHiddenByOthers) {
    make();
    ready();
    for (int i = 0; i < 10; ++i) {
        put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}});
        session_->probe_answer(now(), epoch(), header());
        for (const Slot slot : {Slot::kNodes, Slot::kIps, Slot::kIdentities, Slot::kHeartbeat})
            session_->in_step(now(), epoch(), slot, header());
        clock_.advance(seconds(5));
    }
    EXPECT_GT(status().lag_revisions, 0);
    EXPECT_EQ(status().lag, seconds(50)) << "services have not moved";
    session_->in_step(now(), epoch(), Slot::kServices, header());
    EXPECT_EQ(status().lag_revisions, 0);
    EXPECT_EQ(status().lag, Duration(0));
}

TEST_F(SessionTest, AnIdleOwnClusterIsNotBehind) {
    make({.own = true, .local_id = model::ClusterId{7}, .slots = kOwnSlots});
    configure();
    connect();
    list_all();
    list(Slot::kLocalServices);
    list(Slot::kLocalPolicies);
    list(Slot::kLocalIps);
    for (int i = 0; i < 20; ++i) {
        ++revision_;  // a heartbeat, which nobody here watches
        pass(seconds(5));
        session_->probe_answer(now(), epoch(), {etcd_id_, member_id_, revision_, 1});
        in_step();
        clock_.advance(seconds(1));
        EXPECT_EQ(status().lag, Duration(0));
        EXPECT_EQ(status().lag_revisions, 0);
    }
}

TEST_F(SessionTest, AfterALongOutageTheNextTryIsSoon) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    // Two endpoints, tried in turn as the client does: both, then a pause of up to ten seconds.
    const TimePoint end = now() + std::chrono::hours(24);
    std::optional<TimePoint> attempt = now();
    std::optional<TimePoint> closed;
    Duration longest{};
    while (now() < end) {
        TimePoint next = end;
        if (attempt) next = std::min(next, *attempt);
        if (const auto at = session_->deadline()) next = std::min(next, *at);
        clock_.advance(std::max(next - now(), Duration(0)));
        if (attempt && *attempt <= now()) {
            for (int i = 0; i < 2; ++i)
                session_->connect_failed(now(), epoch(), unavailable("refused"));
            attempt = now() + seconds(10);
        }
        session_->tick(now());
        for (const auto& what : did()) {
            if (what == "close") {
                attempt.reset();
                closed = now();
            } else if (what == "connect") {
                attempt = now();
                if (closed) longest = std::max(longest, now() - *closed);
            }
        }
    }
    EXPECT_LE(longest, seconds(60));
    EXPECT_GT(longest, Duration(0)) << "lives of a client ended meanwhile";
    EXPECT_GT(status().attempts_in_a_row, 1000U);
    EXPECT_LT(status().failures_in_a_row, 100U);
    EXPECT_TRUE(told().empty());
    if (!attempt) pass(seconds(60));
    connect();
    EXPECT_EQ(status().attempts_in_a_row, 0U);
}

TEST_F(SessionTest, TlsFilesThatAreMissingAreTriedEachFiveSeconds) {
    make();
    configure();
    static_cast<void>(did());
    for (int i = 0; i < 3; ++i) {
        session_->client_refused(now(), epoch(), invalid_argument("c1.crt: no such file"));
        EXPECT_EQ(status().last_failure, "c1.crt: no such file");
        static_cast<void>(did());
        pass(seconds(4));
        EXPECT_TRUE(did().empty());
        pass(seconds(1));
        EXPECT_EQ(did(), Strings{"connect"});
    }
}

TEST_F(SessionTest, EventsOfAnEarlierEpochAreIgnored) {
    make();
    ready();
    const auto old = epoch();
    configure("# anew\n");
    EXPECT_NE(epoch(), old);
    const std::string key = nodes_key("n9"), value = node_value("n9");
    const Incoming in{key, value, false};
    session_->changes(now(), old, Slot::kNodes, header(), false, std::span(&in, 1));
    session_->connected(now(), old, header());
    EXPECT_TRUE(told().empty());
    EXPECT_FALSE(status().connected);
}

// --- protocol.md §8 ---------------------------------------------------------------------------

TEST_F(SessionTest, LossKeepsAllForEver) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    EXPECT_EQ(session_->state(), SessionState::kStale);
    for (int i = 0; i < 100; ++i) {
        session_->connect_failed(now(), epoch(), unavailable("refused"));
        pass(minutes(30));
    }
    EXPECT_TRUE(told().empty());
    EXPECT_EQ(tables_.stats("c1")[0].count, 1U);
}

TEST_F(SessionTest, AShortCutResumesWithoutListing) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    connect();
    EXPECT_EQ(did(), Strings{"get cilium/cluster-config/c1"});
    EXPECT_EQ(session_->state(), SessionState::kStale) << "the config is asked for again";
    answer(kPlainConfig);
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_TRUE(told().empty());
}

TEST_F(SessionTest, TheAgeOfAllRemotesCountsWhereAFileSaysNone) {
    make({.max_stale_age = seconds(30)});
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    pass(seconds(29));
    EXPECT_TRUE(told().empty());
    pass(seconds(1));
    EXPECT_EQ(told(), Strings{"-service ns/s1"});
}

TEST_F(SessionTest, AFileMayKeepItsRemoteFromTheAgeOfAll) {
    make({.max_stale_age = seconds(30)});
    ready(one_of_each(), "mesh: {max-stale-age: 0s}");
    session_->lost(now(), epoch(), unavailable("cut"));
    pass(seconds(3600));
    EXPECT_TRUE(told().empty());
}

TEST_F(SessionTest, LossBeyondTheAgeDrainsServices) {
    make();
    ready(one_of_each(), "mesh: {max-stale-age: 10m}");
    session_->lost(now(), epoch(), unavailable("cut"));
    pass(seconds(599));
    EXPECT_TRUE(told().empty());
    pass(seconds(1));
    EXPECT_EQ(told(), Strings{"-service ns/s1"});
    EXPECT_TRUE(status().drained_as_stale);
    begin();
    list_all(one_of_each());
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_FALSE(status().drained_as_stale);
    EXPECT_EQ(told().size(), 4U);
    EXPECT_EQ(tables_.stats("c1")[static_cast<std::size_t>(Kind::kService)].count, 1U);
}

TEST_F(SessionTest, LossBeyondTheAgeDrainsAllIfToldSo) {
    make();
    ready(one_of_each(), "mesh: {max-stale-age: 10m, stale-scope: all}");
    session_->lost(now(), epoch(), unavailable("cut"));
    pass(minutes(11));
    EXPECT_EQ(told(), all_drained());
}

TEST_F(SessionTest, StopKeepsAll) {
    make();
    ready(one_of_each());
    session_->stop(now());
    EXPECT_EQ(did(), Strings{"close"});
    EXPECT_TRUE(told().empty());
    EXPECT_FALSE(session_->deadline());
}

TEST_F(SessionTest, RemovalDrainsAllAndFreesTheId) {
    make();
    ready(one_of_each());
    session_->remove(now());
    EXPECT_EQ(told(), all_drained());
    EXPECT_EQ(did(), (Strings{"close", "finished"}));
    EXPECT_TRUE(ids_.reserve(model::ClusterId{7}, "c2"));
    EXPECT_EQ(session_->state(), SessionState::kDisabled);
    EXPECT_FALSE(session_->deadline());
}

TEST_F(SessionTest, AChangedIdDrainsFirst) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    connect();
    answer(R"({"id":8,"capabilities":{}})");
    EXPECT_EQ(told(), all_drained());
    EXPECT_TRUE(ids_.reserve(model::ClusterId{7}, "c2"));
    EXPECT_FALSE(ids_.reserve(model::ClusterId{8}, "c2"));
    pass(seconds(1));
    begin(R"({"id":8,"capabilities":{}})");
    list(Slot::kNodes, {{nodes_key("n1"), node_value("n1", 8)}});
    EXPECT_EQ(told(), Strings{"+node n1"});
}

TEST_F(SessionTest, AnIdThatIsRefusedAfterwardsKeepsAll) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    connect();
    answer(R"({"id":256})");
    EXPECT_TRUE(told().empty());
    EXPECT_EQ(session_->state(), SessionState::kStale);
    EXPECT_FALSE(ids_.reserve(model::ClusterId{7}, "c2")) << "its entries still use the id";
}

TEST_F(SessionTest, AnotherEtcdIsListedAnewAndSweptBehindTheFence) {
    for (const bool by_watch : {false, true}) {
        ids_.release("c1");
        make();
        auto entries = one_of_each();
        entries[Slot::kServices].push_back({services_key("s2"), service_value("s2")});
        ready(entries);
        clock_.advance(seconds(10));
        ++etcd_id_;
        if (by_watch)
            put(Slot::kNodes, {{nodes_key("n9"), node_value("n9")}});
        else {
            session_->lost(now(), epoch(), unavailable("cut"));
            connect();
        }
        EXPECT_EQ(did(), (Strings{"close", "connect"}));
        begin(kConfig);
        canary("services");
        list(Slot::kServices, {{services_key("s2"), service_value("s2", 2)}});
        EXPECT_EQ(told(), Strings{"+service ns/s2"})
            << "s1 stays: the other prefixes are not synced";
        EXPECT_EQ(session_->state(), SessionState::kStale);
        canary("nodes");
        canary("ip");
        canary("identities");
        list(Slot::kNodes, one_of_each().at(Slot::kNodes));
        list(Slot::kIps);
        EXPECT_EQ(told(), Strings{"+node n1"});
        list(Slot::kIdentities, one_of_each().at(Slot::kIdentities));
        EXPECT_EQ(told(), (Strings{"+identity 458757", "-service ns/s1", "-ip 10.7.0.1/32"}));
        EXPECT_EQ(session_->state(), SessionState::kReady);
    }
}

TEST_F(SessionTest, ARevisionThatGoesBackIsAnotherEtcd) {
    make();
    ready(one_of_each());
    clock_.advance(seconds(10));
    session_->lost(now(), epoch(), unavailable("cut"));
    revision_ = 2;
    connect();
    EXPECT_EQ(did(), (Strings{"close", "connect"}));
    EXPECT_TRUE(told().empty());
}

TEST_F(SessionTest, ANewClientIsToldWhatWasReachedSoThatNoServerBehindItIsUsed) {
    make();
    configure();
    pump();
    EXPECT_EQ(reached_.cluster_id, 0U) << "nothing is held yet";
    begin();
    list_all(one_of_each());
    put(Slot::kNodes, {{nodes_key("n2"), node_value("n2")}});
    const std::int64_t last = revision_;
    // What was only told of, and not delivered, a server need not have.
    session_->probe_answer(now(), epoch(), header());
    configure("# other bytes\n");
    pump();
    EXPECT_EQ(reached_.cluster_id, etcd_id_);
    EXPECT_EQ(reached_.revision, last);
    // A connection that broke before it showed anything changes nothing.
    configure("# again\n");
    pump();
    EXPECT_EQ(reached_.revision, last);
    // The client waited in vain for a server that is not behind: the etcd lost its data.
    revision_ = 2;
    begin();
    list_all(one_of_each());
    configure("# and again\n");
    pump();
    EXPECT_EQ(reached_.cluster_id, etcd_id_);
    EXPECT_LE(reached_.revision, revision_);
    EXPECT_GT(reached_.revision, 2);
    begin();
    clock_.advance(seconds(10));
    session_->history_changed(now(), epoch(), "the last change seen is not there");
    pump();
    EXPECT_EQ(reached_.cluster_id, 0U) << "no position of that history is of use";
}

TEST_F(SessionTest, AServerThatHasAllThatWasAppliedIsNotAnotherHistory) {
    make();
    ready(one_of_each());
    const std::int64_t applied = revision_;
    revision_ += 5;
    session_->probe_answer(now(), epoch(), header());
    session_->lost(now(), epoch(), unavailable("cut"));
    revision_ = applied;
    connect();
    EXPECT_EQ(did(), Strings{"get cilium/cluster-config/c1"});
    EXPECT_GE(status().lag_revisions, 5) << "it has not all that was told of";
}

TEST_F(SessionTest, AnotherMemberIsListedAgain) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    ++member_id_;
    connect();
    EXPECT_EQ(did(), (Strings{"get cilium/cluster-config/c1", "relist nodes", "relist services",
                              "relist ips", "relist identities"}));
}

TEST_F(SessionTest, TwoEtcdsInTurnDoNotMakeItSpin) {
    make();
    ready();
    int connects = 0;
    for (int i = 0; i < 100; ++i) {
        ++etcd_id_;
        session_->history_changed(now(), epoch(), "another etcd");
        for (const auto& line : did()) connects += line == "connect" ? 1 : 0;
    }
    EXPECT_EQ(connects, 0);
    pass(seconds(1));
    EXPECT_EQ(did_, (Strings{"connect"}));
}

TEST_F(SessionTest, AChangedFileReconnectsAndKeeps) {
    make();
    ready(one_of_each());
    configure("# other bytes\n");
    EXPECT_EQ(did(), (Strings{"close", "connect"}));
    EXPECT_EQ(session_->state(), SessionState::kStale);
    begin();
    list_all(one_of_each());
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_EQ(told().size(), 4U) << "upserts of what is held have no effect";
    EXPECT_EQ(tables_.stats("c1")[0].count, 1U);
}

TEST_F(SessionTest, ADeleteActsAtOnce) {
    make();
    ready(one_of_each());
    erase(Slot::kServices, services_key("s1"));
    EXPECT_EQ(told(), Strings{"-service ns/s1"});
    erase(Slot::kServices, services_key("s1"));
    erase(Slot::kServices, services_key("never"));
    EXPECT_TRUE(told().empty());
}

TEST_F(SessionTest, SwitchingToTheCacheSweepsWhatIsNotThere) {
    make();
    ready(one_of_each());
    session_->lost(now(), epoch(), unavailable("cut"));
    clock_.advance(seconds(10));
    connect();
    answer(R"({"id":7,"capabilities":{"cached":true}})");
    EXPECT_EQ(did(), (Strings{"get cilium/cluster-config/c1", "close", "connect"}));
    begin(R"({"id":7,"capabilities":{"cached":true}})");
    list(Slot::kNodes, {{"cilium/cache/nodes/v1/c1/n1", node_value("n1")}});
    list(Slot::kServices);
    list(Slot::kIps);
    list(Slot::kIdentities);
    EXPECT_EQ(told(),
              (Strings{"+node n1", "-service ns/s1", "-ip 10.7.0.1/32", "-identity 458757"}));
}

// --- the own cluster --------------------------------------------------------------------------

TEST_F(SessionTest, TheOwnClusterNeedsNoConfigCanaryOrHeartbeat) {
    make({.own = true, .local_id = model::ClusterId{7}, .slots = kOwnSlots});
    configure();
    connect();
    EXPECT_EQ(
        did(),
        (Strings{"connect", "watch cilium/state/nodes/v1/c1/", "watch cilium/state/ip/v1/default/",
                 "watch cilium/state/identities/v1/id/", "watch mesh/local/services/v1/",
                 "watch mesh/local/policies/v1/", "watch mesh/local/ips/v1/"}));
    list_all(one_of_each());
    EXPECT_EQ(session_->state(), SessionState::kSyncing);
    model::LocalService local;
    local.namespace_ = "ns";
    local.name = "s1";
    local.type = "ClusterIP";
    list(Slot::kLocalServices, {{"mesh/local/services/v1/ns/s1", model::encode(local)},
                                {"mesh/local/services/v1/ns/other", model::encode(local)}});
    EXPECT_EQ(session_->state(), SessionState::kSyncing);
    list(Slot::kLocalPolicies);
    model::IpIdentityPair pair;
    pair.ip = model::IpAddress::v4(10, 1, 0, 9);
    list(Slot::kLocalIps, {{"mesh/local/ips/v1/10.1.0.9", model::encode(pair)},
                           {"mesh/local/ips/v1/10.1.0.8", model::encode(pair)}});
    EXPECT_EQ(session_->state(), SessionState::kReady);
    const auto lines = told();
    EXPECT_EQ(lines.back(), "+local 10.1.0.9");
    EXPECT_EQ(lines.size(), 6U) << "those whose key and value differ are refused";
    pass(minutes(30));
    EXPECT_EQ(session_->state(), SessionState::kReady);
    erase(Slot::kLocalServices, "mesh/local/services/v1/ns/s1");
    EXPECT_EQ(told(), Strings{"-local ns/s1"});
}

TEST_F(SessionTest, APolicyThatIsWrongKeepsTheLastGoodOne) {
    make({.own = true, .local_id = model::ClusterId{7}, .slots = kOwnSlots});
    configure();
    connect();
    list_all();
    list(Slot::kLocalServices);
    list(Slot::kLocalIps);
    const std::string prefix(model::kLocalPoliciesPrefix);
    const auto value = [](std::string_view name, std::string_view spec) {
        return R"({"file":"a.yaml","document":1,"lines":[],"policy":{"apiVersion":"cilium.io/v2",)"
               R"("kind":"CiliumNetworkPolicy","metadata":{"namespace":"ns","name":")" +
               std::string(name) + R"("},"spec":)" + std::string(spec) + "}}";
    };
    const std::string good = R"({"endpointSelector":{},"ingress":[]})";
    list(Slot::kLocalPolicies, {{prefix + "CiliumNetworkPolicy/ns/a", value("a", good)},
                                {prefix + "CiliumNetworkPolicy/ns/b", value("a", good)},
                                {prefix + "CiliumNetworkPolicy/-/c", value("c", good)},
                                {prefix + "CiliumClusterwideNetworkPolicy/ns/d", value("d", good)},
                                {prefix + "Other/ns/e", value("e", good)}});
    EXPECT_EQ(session_->state(), SessionState::kReady);
    EXPECT_EQ(told().back(), "+CiliumNetworkPolicy ns/a");
    for (const std::string& bad : {value("a", R"({"endpointSelector":{},"ingres":[]})"),
                                   value("b", good), std::string("{")}) {
        put(Slot::kLocalPolicies, {{prefix + "CiliumNetworkPolicy/ns/a", bad}});
        EXPECT_EQ(told(), Strings{});
    }
    put(Slot::kLocalPolicies, {{prefix + "CiliumNetworkPolicy/ns/a",
                                value("a", R"({"endpointSelector":{},"egress":[]})")}});
    EXPECT_EQ(told(), Strings{"+CiliumNetworkPolicy ns/a"});
    erase(Slot::kLocalPolicies, prefix + "CiliumNetworkPolicy/ns/a");
    EXPECT_EQ(told(), Strings{"-CiliumNetworkPolicy ns/a"});
}

}  // namespace
}  // namespace mesh::state
