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
    EXPECT_EQ(did(), Strings{"watch cilium/state/ip/v1/default/"});
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
