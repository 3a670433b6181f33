// What a remote may publish: each validator, each bound, and what becomes of the last good value.
#include "session_fixture.hpp"

namespace mesh::state {
namespace {

using std::chrono::seconds;

class IntakeTest : public SessionTest {
  protected:
    /// Puts one entry and says what came of it: "taken", or the reason of the refusal.
    std::string take(Slot slot, const std::string& key, const std::string& value) {
        const auto before = status().refused;
        put(slot, {{key, value}});
        static_cast<void>(told());
        const auto after = status().refused;
        for (std::size_t i = 0; i < kRefusals; ++i) {
            if (after[i].count == before[i].count) continue;
            EXPECT_EQ(after[i].last_key, key);
            EXPECT_NE(after[i].last_detail.find(
                          i == static_cast<std::size_t>(Refusal::kNotShared) ? "shared" : key),
                      std::string::npos)
                << after[i].last_detail;
            return std::string(to_string(static_cast<Refusal>(i)));
        }
        return "taken";
    }
};

TEST_F(IntakeTest, ARemotePublishesItsOwnOnly) {
    make();
    ready();
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1")), "taken");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1", 8)), "foreign");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1", 0)), "foreign");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1", 255)), "foreign")
        << "our own id";
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1", 7, "c2")), "foreign");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n2")), "foreign");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), "{"), "value");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1/x"), node_value("n1")), "key");
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service_value("s1")), "taken");
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service_value("s1", 1, true, 8)),
              "foreign");
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service_value("s1", 1, true, 7, "c2")),
              "foreign");
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service_value("s2")), "foreign");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.1"), ip_value("10.7.0.1")), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.1"), ip_value("10.7.0.1", 6)), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.1"), ip_value("10.7.0.1", 8 * 65536)), "foreign");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.1"), ip_value("10.7.0.1", 1U << 24)), "foreign");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.1"), ip_value("10.7.0.2")), "foreign");
    EXPECT_EQ(take(Slot::kIdentities, identities_key(7 * 65536), identity_value()), "taken");
    EXPECT_EQ(take(Slot::kIdentities, identities_key(8 * 65536), identity_value()), "foreign");
    EXPECT_EQ(take(Slot::kIdentities, identities_key(7 * 65536), identity_value("c2")), "foreign");
    EXPECT_EQ(take(Slot::kIdentities, identities_key(7 * 65536), "k8s:app=a;"), "foreign");
    EXPECT_EQ(session_->state(), SessionState::kReady) << "the stream goes on";
}

TEST_F(IntakeTest, TheLastGoodValueStays) {
    make();
    ready(one_of_each());
    put(Slot::kServices, {{services_key("s1"), "not json"}});
    EXPECT_TRUE(told().empty());
    EXPECT_TRUE(tables_.find_service("c1", {"ns", "s1"}));
    clock_.advance(seconds(10));
    configure("# anew\n");
    begin();
    auto entries = one_of_each();
    entries[Slot::kServices] = {{services_key("s1"), "not json"}};
    list_all(entries);
    EXPECT_EQ(session_->state(), SessionState::kReady);
    static_cast<void>(told());
    EXPECT_TRUE(tables_.find_service("c1", {"ns", "s1"})) << "its key is still there";
    erase(Slot::kServices, services_key("s1"));
    EXPECT_EQ(told(), Strings{"-service ns/s1"});
}

TEST_F(IntakeTest, AServiceThatIsNoLongerSharedGoes) {
    make();
    ready(one_of_each());
    put(Slot::kServices, {{services_key("s1"), service_value("s1", 1, false)}});
    EXPECT_EQ(told(), Strings{"-service ns/s1"});
    EXPECT_EQ(refused(Refusal::kNotShared), 1U);
    erase(Slot::kServices, services_key("s1"));
    EXPECT_TRUE(told().empty());
}

TEST_F(IntakeTest, EachBoundHoldsAlone) {
    make();
    ready({},
          "mesh: {limits: {nodes: 1, cidrs-per-node: 1, services: 2, backends-per-service: 3, "
          "backends: 4, ips: 2, identities: 1, value-bytes: 2000}}");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1", 7, "c1", "10.7.0.0/24")),
              "taken");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2")), "limit");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1")), "taken")
        << "an update is no more";
    EXPECT_EQ(take(Slot::kServices, services_key("a"), service_value("a", 4)), "limit");
    EXPECT_EQ(take(Slot::kServices, services_key("a"), service_value("a", 3)), "taken");
    EXPECT_EQ(take(Slot::kServices, services_key("b"), service_value("b", 2)), "limit");
    EXPECT_EQ(take(Slot::kServices, services_key("b"), service_value("b", 1)), "taken");
    EXPECT_EQ(take(Slot::kServices, services_key("c"), service_value("c", 0)), "limit");
    EXPECT_EQ(status().backends, 4U);
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.1"), ip_value("10.7.0.1")), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.2"), ip_value("10.7.0.2")), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.3"), ip_value("10.7.0.3")), "limit");
    EXPECT_EQ(take(Slot::kIdentities, identities_key(7 * 65536), identity_value()), "taken");
    EXPECT_EQ(take(Slot::kIdentities, identities_key(7 * 65536 + 1), identity_value()), "limit");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), std::string(2001, 'x')), "too-large");
}

TEST_F(IntakeTest, RoomThatIsMadeIsUsedByAnotherList) {
    make();
    ready({}, "mesh: {limits: {ips: 1}}");
    put(Slot::kIps,
        {{ips_key("10.7.0.1"), ip_value("10.7.0.1")}, {ips_key("10.7.0.2"), ip_value("10.7.0.2")}});
    EXPECT_EQ(told(), Strings{"+ip 10.7.0.1"});
    erase(Slot::kIps, ips_key("10.7.0.1"));
    static_cast<void>(did());
    put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}});
    pass(seconds(10));
    EXPECT_EQ(did_, Strings{"watch cilium/state/ip/v1/default/"});
    EXPECT_EQ(session_->state(), SessionState::kReady);
    list(Slot::kIps, {{ips_key("10.7.0.2"), ip_value("10.7.0.2")}});
    EXPECT_EQ(told(), (Strings{"-ip 10.7.0.1/32", "+ip 10.7.0.2"}));
}

TEST_F(IntakeTest, CidrsOfNodesAndIpsAreOneBound) {
    make();
    ready({}, "mesh: {limits: {cidrs: 2}}");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node_value("n1", 7, "c1", "10.7.0.0/24")),
              "taken");
    model::IpIdentityPair pair;
    pair.ip = *model::IpAddress::parse("10.8.0.0");
    pair.prefix_length = 16;
    pair.id = model::IdentityId{7 * 65536};
    EXPECT_EQ(take(Slot::kIps, ips_key("10.8.0.0/16"), model::encode(pair)), "taken");
    EXPECT_EQ(status().slots[index(Slot::kIps)].count, 1U);
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2", 7, "c1", "10.9.0.0/24")),
              "limit");
    erase(Slot::kIps, ips_key("10.8.0.1/16"));
    EXPECT_TRUE(told().empty()) << "another spelling is another key";
    erase(Slot::kIps, ips_key("10.8.0.0/16"));
    EXPECT_EQ(told(), Strings{"-ip 10.8.0.0/16"});
}

/// An ip's value with a mask; the key index tells the entries of one row apart.
std::string prefix_value(const std::string& ip, std::uint8_t length, std::uint8_t key = 0) {
    model::IpIdentityPair pair;
    pair.ip = *model::IpAddress::parse(ip);
    pair.prefix_length = length;
    pair.key = key;
    pair.id = model::IdentityId{7 * 65536 + 5};
    return model::encode(pair);
}

class IpRowsTest : public IntakeTest {
  protected:
    /// The key index of the row's entry, or -1.
    int row(const char* prefix) {
        pump();
        const auto pair = tables_.find_ip("c1", *model::IpPrefix::parse(prefix));
        return pair ? pair->key : -1;
    }
};

TEST_F(IpRowsTest, APrefixWithHostBitsGoesWithItsKey) {
    make();
    ready();
    put(Slot::kIps, {{ips_key("10.7.3.5/24"), prefix_value("10.7.3.5", 24)}});
    EXPECT_EQ(told(), Strings{"+ip 10.7.3.5"});
    erase(Slot::kIps, ips_key("10.7.3.0/24"));
    EXPECT_TRUE(told().empty()) << "another key, that was never put";
    erase(Slot::kIps, ips_key("10.7.3.5/24"));
    EXPECT_EQ(told(), Strings{"-ip 10.7.3.0/24"});
    EXPECT_EQ(status().slots[index(Slot::kIps)].count, 0U);
    put(Slot::kIps, {{ips_key("fd00::5/64"), prefix_value("fd00::5", 64)}});
    erase(Slot::kIps, ips_key("fd00:0::5/64"));
    EXPECT_EQ(told(), Strings{"+ip fd00::5"});
    erase(Slot::kIps, ips_key("fd00::5/64"));
    EXPECT_EQ(told(), Strings{"-ip fd00::/64"});
}

TEST_F(IpRowsTest, ARowGoesWithTheLastOfItsKeys) {
    make();
    ready();
    model::IpIdentityPair host;
    host.ip = *model::IpAddress::parse("10.7.2.1");
    host.key = 1;
    host.id = model::IdentityId{7 * 65536 + 5};
    const auto put_host = [&] { put(Slot::kIps, {{ips_key("10.7.2.1"), model::encode(host)}}); };
    const auto put_prefix = [&] {
        put(Slot::kIps, {{ips_key("10.7.2.1/32"), prefix_value("10.7.2.1", 32, 2)}});
    };
    put_host();
    put_prefix();
    EXPECT_EQ(row("10.7.2.1"), 1) << "the plain key's entry is the row";
    EXPECT_EQ(status().slots[index(Slot::kIps)].count, 2U);
    erase(Slot::kIps, ips_key("10.7.2.1/32"));
    EXPECT_EQ(row("10.7.2.1"), 1);
    put_prefix();
    erase(Slot::kIps, ips_key("10.7.2.1"));
    EXPECT_EQ(row("10.7.2.1"), 2) << "the other entry is there yet";
    put_host();
    EXPECT_EQ(row("10.7.2.1"), 1) << "whatever the order";
    erase(Slot::kIps, ips_key("10.7.2.1"));
    erase(Slot::kIps, ips_key("10.7.2.1/32"));
    EXPECT_EQ(row("10.7.2.1"), -1);
    EXPECT_EQ(status().slots[index(Slot::kIps)].count, 0U);
}

TEST_F(IpRowsTest, OfUnusualKeysTheFirstIsTheRow) {
    make();
    ready();
    put(Slot::kIps, {{ips_key("10.7.3.9/24"), prefix_value("10.7.3.9", 24, 9)}});
    EXPECT_EQ(row("10.7.3.0/24"), 9);
    put(Slot::kIps, {{ips_key("10.7.3.5/24"), prefix_value("10.7.3.5", 24, 5)},
                     {ips_key("10.7.3.7/24"), prefix_value("10.7.3.7", 24, 7)}});
    EXPECT_EQ(row("10.7.3.0/24"), 5);
    put(Slot::kIps, {{ips_key("10.7.3.7/24"), prefix_value("10.7.3.7", 24, 8)}});
    EXPECT_EQ(row("10.7.3.0/24"), 5);
    erase(Slot::kIps, ips_key("10.7.3.9/24"));
    EXPECT_EQ(row("10.7.3.0/24"), 5);
    erase(Slot::kIps, ips_key("10.7.3.5/24"));
    EXPECT_EQ(row("10.7.3.0/24"), 8) << "as it was put last";
    put(Slot::kIps, {{ips_key("10.7.3.7/24"), "{"}});
    EXPECT_EQ(row("10.7.3.0/24"), 8) << "the last good value";
    erase(Slot::kIps, ips_key("10.7.3.7/24"));
    EXPECT_EQ(row("10.7.3.0/24"), -1);
}

TEST_F(IpRowsTest, AListAnewTakesTheKeysThatItDoesNotName) {
    make();
    const KeyValues plain{{ips_key("10.7.3.0/24"), prefix_value("10.7.3.0", 24, 1)}};
    const KeyValues unusual{{ips_key("10.7.3.5/24"), prefix_value("10.7.3.5", 24, 5)}};
    ready({{Slot::kIps, {plain[0], unusual[0]}}});
    EXPECT_EQ(row("10.7.3.0/24"), 1);
    const auto relist = [&](const KeyValues& entries) {
        clock_.advance(seconds(10));
        configure("# anew " + std::to_string(revision_) + "\n");
        begin();
        list_all({{Slot::kIps, entries}});
    };
    relist(unusual);
    EXPECT_EQ(row("10.7.3.0/24"), 5);
    relist(plain);
    EXPECT_EQ(row("10.7.3.0/24"), 1);
    EXPECT_EQ(status().slots[index(Slot::kIps)].count, 1U);
    relist({plain[0], unusual[0]});
    session_->remove(now());
    EXPECT_EQ(row("10.7.3.0/24"), -1);
}

TEST_F(IntakeTest, TooManyEventsAreRefusedAndListedAgain) {
    make();
    ready({}, "mesh: {limits: {events-per-second: 3}}");
    for (int i = 1; i <= 5; ++i) {
        const std::string ip = "10.7.0." + std::to_string(i);
        put(Slot::kIps, {{ips_key(ip), ip_value(ip)}});
    }
    EXPECT_EQ(told(), (Strings{"+ip 10.7.0.1", "+ip 10.7.0.2", "+ip 10.7.0.3"}));
    EXPECT_EQ(refused(Refusal::kRate), 2U);
    erase(Slot::kIps, ips_key("10.7.0.1"));
    EXPECT_EQ(told(), Strings{"-ip 10.7.0.1/32"}) << "deletes are never held back";
    static_cast<void>(did());
    pass(seconds(1));
    EXPECT_EQ(did_, Strings{"watch cilium/state/ip/v1/default/"});
    KeyValues all;
    for (int i = 2; i <= 5; ++i) {
        const std::string ip = "10.7.0." + std::to_string(i);
        all.push_back({ips_key(ip), ip_value(ip)});
    }
    list(Slot::kIps, all);
    EXPECT_EQ(told().size(), 4U);
    EXPECT_EQ(tables_.stats("c1")[static_cast<std::size_t>(Kind::kIp)].count, 4U);
}

TEST_F(IntakeTest, ForeignIpsAreRefusedWithTheSwitchOnly) {
    make();
    ready();
    EXPECT_EQ(take(Slot::kIps, ips_key("192.0.2.1"), ip_value("192.0.2.1")), "taken");
    session_->remove(now());
    static_cast<void>(told());
    make();
    configure("mesh: {refuse-foreign-ips: true}");
    begin();
    const auto opened = did();
    EXPECT_EQ(std::count(opened.begin(), opened.end(), "watch cilium/state/ip/v1/default/"), 0)
        << "ips wait for the nodes";
    model::Node node;
    node.name = "n1";
    node.cluster = "c1";
    node.cluster_id = model::ClusterId{7};
    node.ipv4_alloc_cidr = *model::IpPrefix::parse("10.7.0.0/24");
    node.ipv6_secondary_alloc_cidrs.emplace({*model::IpPrefix::parse("fd00:7::/64")});
    node.addresses.emplace({model::NodeAddress{"InternalIP", "172.18.0.2"}});
    list(Slot::kNodes, {{nodes_key("n1"), model::encode(node)}});
    EXPECT_EQ(did(),
              (Strings{"watch cilium/state/services/v1/c1/", "watch cilium/state/ip/v1/default/"}));
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.9"), ip_value("10.7.0.9")), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("fd00:7::9"), ip_value("fd00:7::9")), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("172.18.0.2"), ip_value("172.18.0.2", 6)), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.1.9"), ip_value("10.7.1.9")), "foreign-ip");
    model::IpIdentityPair wide;
    wide.ip = *model::IpAddress::parse("10.7.0.0");
    wide.prefix_length = 16;
    wide.id = model::IdentityId{7 * 65536};
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.0.0/16"), model::encode(wide)), "foreign-ip");
    list(Slot::kServices);
    list(Slot::kIps);
    list(Slot::kIdentities);
    static_cast<void>(did());
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2", 7, "c1", "10.7.1.0/24")),
              "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.1.9"), ip_value("10.7.1.9")), "taken");
    pass(seconds(10));
    EXPECT_EQ(did_, Strings{"watch cilium/state/ip/v1/default/"})
        << "what was refused gets its chance";
}

TEST_F(IntakeTest, ALowerLimitActsOnWhatIsHeld) {
    make();
    const auto three = [](int backends) {
        KeyValues all;
        for (const char* name : {"a", "b", "c"})
            all.emplace_back(services_key(name), service_value(name, backends));
        return std::map<Slot, KeyValues>{{Slot::kServices, all}};
    };
    ready(three(1));
    configure("mesh: {limits: {services: 1}}");
    begin();
    list_all(three(2));
    EXPECT_EQ(told(), (Strings{"+service ns/a", "-service ns/b", "-service ns/c"}));
    EXPECT_EQ(status().slots[index(Slot::kServices)].count, 1U);
    EXPECT_EQ(refused(Refusal::kLimit), 2U);
    EXPECT_EQ(take(Slot::kServices, services_key("a"), service_value("a", 3)), "taken")
        << "what is within the bound goes on";
    EXPECT_EQ(take(Slot::kServices, services_key("b"), service_value("b")), "limit");
}

TEST_F(IntakeTest, AServiceGrownBeyondTheLimitGoesWithTheNextList) {
    make();
    ready({{Slot::kServices, {{services_key("a"), service_value("a", 3)}}}});
    configure("mesh: {limits: {backends-per-service: 2}}");
    begin();
    list_all({{Slot::kServices, {{services_key("a"), service_value("a", 3)}}}});
    EXPECT_EQ(told(), Strings{"-service ns/a"});
    EXPECT_EQ(status().backends, 0U);
}

TEST_F(IntakeTest, ABrokenValueKeepsNothingBeyondALowerLimit) {
    make();
    ready({{Slot::kNodes, {{nodes_key("a"), node_value("a")}, {nodes_key("b"), node_value("b")}}}});
    configure("mesh: {limits: {nodes: 1}}");
    begin();
    list_all({{Slot::kNodes, {{nodes_key("a"), node_value("a")}, {nodes_key("b"), "{"}}}});
    EXPECT_EQ(told(), (Strings{"+node a", "-node b"}));
}

TEST_F(IntakeTest, TheSwitchActsOnForeignIpsThatAreHeld) {
    make();
    const std::map<Slot, KeyValues> entries{
        {Slot::kNodes, {{nodes_key("n1"), node_value("n1", 7, "c1", "10.7.0.0/24")}}},
        {Slot::kIps,
         {{ips_key("10.7.0.1"), ip_value("10.7.0.1")},
          {ips_key("192.0.2.1"), ip_value("192.0.2.1")}}}};
    ready(entries);
    configure("mesh: {refuse-foreign-ips: true}");
    begin();
    list_all(entries);
    EXPECT_EQ(told(), (Strings{"+node n1", "+ip 10.7.0.1", "-ip 192.0.2.1/32"}));
    EXPECT_EQ(session_->state(), SessionState::kReady);
}

TEST_F(IntakeTest, ListsThatAreNotFinishedDoNotAddUp) {
    make();
    configure("mesh: {limits: {nodes: 10}}");
    for (int round = 0; round < 20; ++round) {
        begin();
        KeyValues nodes;
        for (int i = 0; i < 10; ++i) {
            const std::string name = "n" + std::to_string(round) + "-" + std::to_string(i);
            nodes.emplace_back(nodes_key(name), node_value(name));
        }
        list(Slot::kNodes, nodes);  // and never the others
        EXPECT_LE(status().slots[index(Slot::kNodes)].count, 21U);
        clock_.advance(seconds(10));
        ++etcd_id_;
        session_->history_changed(now(), epoch(), "another etcd");
    }
    begin();
    const KeyValues last{{nodes_key("l1"), node_value("l1")}, {nodes_key("l2"), node_value("l2")}};
    list_all({{Slot::kNodes, last}});
    put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}});
    static_cast<void>(told());
    did_.clear();
    pass(seconds(10));
    EXPECT_EQ(did_, Strings{"watch cilium/state/nodes/v1/c1/"}) << "there is room now";
    list(Slot::kNodes, last);
    EXPECT_EQ(told(), (Strings{"+node l1", "+node l2"}));
    EXPECT_EQ(status().slots[index(Slot::kNodes)].count, 2U);
}

TEST_F(IntakeTest, AllBytesAreOneBound) {
    make();
    const std::string node = node_value("n1"), service = service_value("s1");
    const auto all =
        nodes_key("n1").size() + node.size() + services_key("s1").size() + service.size();
    ready({}, "mesh: {limits: {total-bytes: " + std::to_string(all) + "}}");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n1"), node), "taken");
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service), "taken");
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service), "taken")
        << "an update is no more";
    EXPECT_EQ(take(Slot::kServices, services_key("s1"), service_value("s1", 2)), "limit");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2")), "limit");
    erase(Slot::kNodes, nodes_key("n1"));
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2")), "taken");
}

TEST_F(IntakeTest, PodsAreWhereTheFileSays) {
    make();
    configure("mesh: {pod-cidrs: [10.7.0.0/16, \"fd00:7::/48\"]}");
    begin();
    static_cast<void>(did());
    model::Node node;
    node.name = "n1";
    node.cluster = "c1";
    node.cluster_id = model::ClusterId{7};
    node.ipv4_alloc_cidr = *model::IpPrefix::parse("10.7.0.0/24");
    node.addresses.emplace({model::NodeAddress{"InternalIP", "172.18.0.2"}});
    list(Slot::kNodes, {{nodes_key("n1"), model::encode(node)}});
    EXPECT_EQ(did(),
              (Strings{"watch cilium/state/services/v1/c1/", "watch cilium/state/ip/v1/default/"}))
        << "they wait for the nodes";
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2", 7, "c1", "10.8.0.0/24")),
              "foreign-ip");
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n2"), node_value("n2", 7, "c1", "0.0.0.0/0")),
              "foreign-ip");
    node.name = "n3";
    node.ipv4_secondary_alloc_cidrs.emplace({*model::IpPrefix::parse("10.9.0.0/24")});
    EXPECT_EQ(take(Slot::kNodes, nodes_key("n3"), model::encode(node)), "foreign-ip");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.7.200.9"), ip_value("10.7.200.9")), "taken")
        << "a pod need not be in a node's CIDR";
    EXPECT_EQ(take(Slot::kIps, ips_key("fd00:7::9"), ip_value("fd00:7::9")), "taken");
    EXPECT_EQ(take(Slot::kIps, ips_key("10.8.0.9"), ip_value("10.8.0.9")), "foreign-ip");
    EXPECT_EQ(take(Slot::kIps, ips_key("172.18.0.2"), ip_value("172.18.0.2", 6)), "taken")
        << "the node's own address";
    EXPECT_EQ(take(Slot::kIps, ips_key("172.18.0.2"), ip_value("172.18.0.2")), "foreign-ip")
        << "no workload has it";
    EXPECT_EQ(take(Slot::kIps, ips_key("172.18.0.3"), ip_value("172.18.0.3", 6)), "foreign-ip");
    EXPECT_EQ(refused(Refusal::kForeignIp), 6U);
}

TEST_F(IntakeTest, PodCidrsActOnWhatIsHeld) {
    make();
    const std::map<Slot, KeyValues> entries{
        {Slot::kNodes,
         {{nodes_key("bad"), node_value("bad", 7, "c1", "10.99.0.0/16")},
          {nodes_key("n1"), node_value("n1", 7, "c1", "10.7.0.0/24")}}},
        {Slot::kIps,
         {{ips_key("10.7.0.1"), ip_value("10.7.0.1")},
          {ips_key("10.99.0.1"), ip_value("10.99.0.1")}}}};
    ready(entries, "mesh: {refuse-foreign-ips: true}");
    configure("mesh: {refuse-foreign-ips: true, pod-cidrs: [10.7.0.0/16]}");
    begin();
    list_all(entries);
    EXPECT_EQ(told(), (Strings{"+node n1", "+ip 10.7.0.1", "-ip 10.99.0.1/32", "-node bad"}));
}

TEST_F(IntakeTest, WhatTheWatcherKeepsOutIsCounted) {
    make();
    ready({}, "mesh: {limits: {nodes: 10, ips: 20, key-bytes: 200}}");
    EXPECT_GE(bounds_[Slot::kNodes].keys, 10U);
    EXPECT_LE(bounds_[Slot::kNodes].keys, 2000U);
    EXPECT_EQ(bounds_[Slot::kNodes].key_bytes, 200U);
    EXPECT_LT(bounds_[Slot::kIps].key_bytes, 100U);
    using Reason = etcd::KeyRefusal;
    const auto keep_out = [this](Reason reason, std::uint64_t count, std::string_view key) {
        session_->keys_refused(now(), epoch(), Slot::kNodes, {reason, count, key});
    };
    keep_out(Reason::kOutside, 3, "x");
    EXPECT_EQ(refused(Refusal::kKey), 3U);
    keep_out(Reason::kTooLong, 2, std::string(3000, 'k'));
    EXPECT_EQ(refused(Refusal::kTooLarge), 2U);
    put(Slot::kNodes, {{nodes_key("n1"), node_value("n1")}});
    keep_out(Reason::kTooMany, 5, nodes_key("n9"));
    EXPECT_EQ(refused(Refusal::kLimit), 5U);
    EXPECT_EQ(status().refused[static_cast<std::size_t>(Refusal::kLimit)].last_key,
              nodes_key("n9"));
    erase(Slot::kNodes, nodes_key("n1"));
    put(Slot::kHeartbeat, {{"cilium/.heartbeat", "t"}});
    static_cast<void>(did());
    pass(seconds(10));
    EXPECT_EQ(did_, Strings{"watch cilium/state/nodes/v1/c1/"}) << "there is room now";
}

TEST_F(IntakeTest, TheOwnClusterHasNoBounds) {
    make({.own = true, .local_id = model::ClusterId{7}, .slots = kOwnSlots});
    configure();
    connect();
    static_cast<void>(did());
    EXPECT_EQ(bounds_[Slot::kIps].keys, KeyBounds{}.keys);
}

TEST_F(IntakeTest, RefusalsAreLoggedAtABoundedRate) {
    make();
    ready();
    log_.clear();
    for (int i = 0; i < 1000; ++i) put(Slot::kNodes, {{nodes_key("n" + std::to_string(i)), "{"}});
    EXPECT_EQ(log_.size(), 1U);
    EXPECT_EQ(refused(Refusal::kValue), 1000U);
    clock_.advance(seconds(11));
    put(Slot::kNodes, {{nodes_key("last"), "{"}});
    EXPECT_EQ(log_.size(), 2U);
    EXPECT_NE(log_.back().find("with 999 others"), std::string::npos) << log_.back();
}

TEST_F(IntakeTest, BatchesAreBounded) {
    make();
    configure();
    begin();
    KeyValues many;
    for (int i = 0; i < 2500; ++i) {
        const std::string ip = "10.7." + std::to_string(i / 250) + "." + std::to_string(i % 250);
        many.push_back({ips_key(ip), ip_value(ip)});
    }
    list(Slot::kIps, many);  // pump() checks each batch
    EXPECT_EQ(told().size(), 2500U);
    session_->remove(now());
    EXPECT_EQ(told().size(), 2500U);
}

}  // namespace
}  // namespace mesh::state
