// Network policy on the real kernel: what passes to and from pods, by the rows of their policies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <algorithm>
#include <vector>

#include "fabric.hpp"
#include "policy_probe.hpp"
#include "traffic.hpp"

namespace mesh::test {
namespace {

using datapath::DropReason;
using datapath::EndpointEnforcement;
using datapath::PodEvent;
using datapath::PolicyDatapath;
using datapath::PolicyRow;
using datapath::PolicyRowChange;

class PolicyTest : public ::testing::TestWithParam<bool> {
  protected:
    [[nodiscard]] static bool tunnel() { return GetParam(); }
    PolicyDatapath& policy(int n) { return fabric.node(n).pods().policy(); }
    /// The policy of pod k of node n.
    void set(int n, int k, const std::vector<PolicyRow>& rows,
             EndpointEnforcement enforcement = EndpointEnforcement::kRules) {
        const auto done = policy(n).replace(fabric.pod(n, k).id, enforcement, rows);
        ASSERT_TRUE(done) << done.error().message();
    }
    void require(bool enabled) {
        for (const int n : {1, 2}) {
            datapath::PolicySettings settings;
            settings.enabled = enabled;
            settings.verdict_events = true;
            ASSERT_TRUE(policy(n).configure(settings));
        }
    }
    [[nodiscard]] std::uint32_t identity(int n, int k) { return fabric.pod(n, k).identity; }

    /// Of all four kinds of attempts, IPv4 and IPv6, TCP and UDP; they must agree.
    Fate fate(const FabricPod& from, const FabricPod& to, std::uint16_t port = 7000) {
        std::optional<Fate> common;
        for (const int family : {AF_INET, AF_INET6}) {
            for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
                const Fate one = attempt(fabric, from, to, family, type, port);
                EXPECT_TRUE(!common || *common == one)
                    << "family " << family << " type " << type << ": " << one;
                common = one;
            }
        }
        return *common;
    }

    Fabric fabric{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Modes, PolicyTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "Tunnel" : "Native"; });

TEST_P(PolicyTest, IngressIsByIdentityAndRepliesPass) {
    set(2, 0, {allow(identity(1, 0), kIngress)});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    EXPECT_EQ(fate(fabric.pod(1, 1), fabric.pod(2, 0)), Fate::kDenied);
    EXPECT_EQ(fate(fabric.pod(2, 1), fabric.pod(2, 0)), Fate::kDenied) << "a pod of the same node";
    // Without a row for egress the pod may answer, and no more.
    EXPECT_EQ(fate(fabric.pod(2, 0), fabric.pod(1, 0)), Fate::kDenied);
    EXPECT_EQ(fate(fabric.pod(1, 1), fabric.pod(2, 1)), Fate::kAnswered) << "it has no policy";
    EXPECT_GT(fabric.node(2).dropped(DropReason::kPolicyDenied), 0U);
    EXPECT_EQ(fabric.node(1).dropped(DropReason::kPolicyDenied), 0U);
}

TEST_P(PolicyTest, EgressIsByTheDestinationsIdentity) {
    set(1, 0, {allow(identity(2, 0), kEgress), allow(identity(1, 1), kEgress)});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(1, 1)), Fate::kAnswered);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 1)), Fate::kDenied);
    EXPECT_EQ(fate(fabric.pod(2, 0), fabric.pod(1, 0)), Fate::kDenied);
    EXPECT_GT(fabric.node(1).dropped(DropReason::kPolicyDenied), 0U);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kPolicyDenied), 0U);
}

TEST_P(PolicyTest, BothEndsOfALocalConnectionAreJudged) {
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(1, 1);
    set(1, 0, {allow(identity(1, 1), kEgress)});
    set(1, 1, {allow(identity(2, 0), kIngress)});
    EXPECT_EQ(fate(from, to), Fate::kDenied) << "by the target's ingress";
    set(1, 1, {allow(identity(1, 0), kIngress)});
    EXPECT_EQ(fate(from, to), Fate::kAnswered);
    set(1, 0, {allow(identity(2, 1), kEgress)});
    EXPECT_EQ(fate(from, to), Fate::kDenied) << "by the source's egress";
}

TEST_P(PolicyTest, ProtocolsPortsAndTheirRanges) {
    auto range = allow(identity(1, 0), kIngress, IPPROTO_UDP, 7008);
    range.key.length = 8 + 13;  // 7008 to 7015
    set(2, 0,
        {allow(identity(1, 0), kIngress, IPPROTO_TCP, 7000), range,
         allow(0, kIngress, IPPROTO_TCP, 7100)});
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    for (const int family : {AF_INET, AF_INET6}) {
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_STREAM, 7000), Fate::kAnswered);
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_STREAM, 7001), Fate::kDenied);
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_DGRAM, 7000), Fate::kDenied);
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_DGRAM, 7007), Fate::kDenied);
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_DGRAM, 7008), Fate::kAnswered);
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_DGRAM, 7015), Fate::kAnswered);
        EXPECT_EQ(attempt(fabric, from, to, family, SOCK_DGRAM, 7016), Fate::kDenied);
        EXPECT_EQ(attempt(fabric, fabric.pod(1, 1), to, family, SOCK_STREAM, 7100), Fate::kAnswered)
            << "of any identity";
        EXPECT_EQ(attempt(fabric, fabric.pod(1, 1), to, family, SOCK_STREAM, 7000), Fate::kDenied);
    }
    set(2, 0, {allow(identity(1, 0), kIngress, IPPROTO_UDP)});
    EXPECT_EQ(attempt(fabric, from, to, AF_INET, SOCK_DGRAM, 9), Fate::kAnswered);
    EXPECT_EQ(attempt(fabric, from, to, AF_INET, SOCK_STREAM, 9), Fate::kDenied);
}

TEST_P(PolicyTest, IcmpIsByItsType) {
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    set(2, 0, {allow(0, kIngress, IPPROTO_ICMP, 8), allow(0, kIngress, IPPROTO_ICMPV6, 128)});
    EXPECT_EQ(ping(from.netns, to.ip4), 0);
    EXPECT_EQ(ping(from.netns, to.ip6), 0);
    set(2, 0, {allow(0, kIngress, IPPROTO_ICMP, 13), allow(0, kIngress, IPPROTO_ICMPV6, 129)});
    EXPECT_NE(ping(from.netns, to.ip4), 0);
    EXPECT_NE(ping(from.netns, to.ip6), 0);
    EXPECT_EQ(fabric.node(2).dropped(DropReason::kPolicyDenied), 2U);
}

TEST_P(PolicyTest, HigherPrecedenceThenLengthThenIdentityDecides) {
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    const auto with = [](PolicyRow row, std::uint32_t precedence) {
        row.verdict.precedence = precedence;
        return row;
    };
    const std::uint32_t peer = identity(1, 0);
    const auto fate_of = [&](const std::vector<PolicyRow>& rows) {
        set(2, 0, rows);
        return attempt(fabric, from, to, AF_INET, SOCK_STREAM, 7000);
    };
    const auto own_port = [&](bool yes, std::uint32_t precedence) {
        return with(yes ? allow(peer, kIngress, IPPROTO_TCP, 7000)
                        : deny(peer, kIngress, IPPROTO_TCP, 7000),
                    precedence);
    };
    const auto any_port = [&](bool yes, std::uint32_t precedence) {
        return with(
            yes ? allow(0, kIngress, IPPROTO_TCP, 7000) : deny(0, kIngress, IPPROTO_TCP, 7000),
            precedence);
    };
    const auto own_all = [&](bool yes, std::uint32_t precedence) {
        return with(yes ? allow(peer, kIngress) : deny(peer, kIngress), precedence);
    };
    EXPECT_EQ(fate_of({own_port(true, 10), any_port(false, 11)}), Fate::kDenied);
    EXPECT_EQ(fate_of({own_port(true, 12), any_port(false, 11)}), Fate::kAnswered);
    EXPECT_EQ(fate_of({own_port(true, 11), any_port(false, 11)}), Fate::kAnswered) << "identity";
    EXPECT_EQ(fate_of({own_port(false, 11), any_port(true, 11)}), Fate::kDenied) << "identity";
    EXPECT_EQ(fate_of({own_all(true, 11), any_port(false, 11)}), Fate::kDenied) << "length";
    EXPECT_EQ(fate_of({own_all(false, 11), any_port(true, 11)}), Fate::kAnswered) << "length";
    EXPECT_EQ(fate_of({own_all(false, 12), any_port(true, 11)}), Fate::kDenied);
    // Of one identity only the longest counts.
    EXPECT_EQ(fate_of({own_all(false, 12), own_port(true, 11)}), Fate::kAnswered);
    EXPECT_EQ(fate_of({}), Fate::kDenied) << "no row at all";
}

TEST_P(PolicyTest, AnotherPolicyHoldsForAnEstablishedFlow) {
    const FabricPod& from = fabric.pod(1, 0);
    const FabricPod& to = fabric.pod(2, 0);
    for (const int family : {AF_INET, AF_INET6}) {
        for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
            set(2, 0, {open_way(kIngress)});
            Conversation flow(
                fabric, {&from.netns, &to.netns, family == AF_INET ? to.ip4 : to.ip6, 7000, type});
            ASSERT_EQ(flow.open(), Fate::kAnswered);
            ASSERT_EQ(flow.exchange(), Fate::kAnswered);
            set(2, 0, {allow(identity(1, 1), kIngress)});
            EXPECT_EQ(flow.exchange(), Fate::kDenied);
        }
    }
}

TEST_P(PolicyTest, APodWithoutAPolicyIsLockedWhereOneIsRequired) {
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    require(true);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    EXPECT_GT(fabric.node(1).dropped(DropReason::kPolicyUnknown), 0U);
    set(1, 0, {}, EndpointEnforcement::kNone);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    EXPECT_GT(fabric.node(2).dropped(DropReason::kPolicyUnknown), 0U);
    set(2, 0, {}, EndpointEnforcement::kNone);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    ASSERT_TRUE(policy(2).enforce(fabric.pod(2, 0).id, EndpointEnforcement::kLocked));
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    ASSERT_TRUE(policy(2).remove(fabric.pod(2, 0).id));
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    require(false);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
}

TEST_P(PolicyTest, RowsStayEnforcedWithoutAWriterAndAreAdopted) {
    std::vector<PolicyRow> rows{allow(identity(1, 0), kIngress), deny(0, kIngress, IPPROTO_TCP, 9),
                                redirect(identity(1, 1), kEgress, IPPROTO_TCP, 80, 10001)};
    set(2, 0, rows);
    set(2, 1, {open_way(kIngress)}, EndpointEnforcement::kAudit);
    fabric.node(2).close();
    EXPECT_EQ(ping(fabric.pod(1, 0).netns, fabric.pod(2, 0).ip4), 0);
    EXPECT_NE(ping(fabric.pod(1, 1).netns, fabric.pod(2, 0).ip4), 0);
    fabric.node(2).open();
    EXPECT_THAT(
        policy(2).endpoints(),
        ::testing::ElementsAre(datapath::PolicyOccupancy{1, EndpointEnforcement::kRules, 3},
                               datapath::PolicyOccupancy{2, EndpointEnforcement::kAudit, 1}));
    std::ranges::sort(rows);
    EXPECT_EQ(policy(2).rows(1).value(), rows);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    EXPECT_EQ(fate(fabric.pod(1, 1), fabric.pod(2, 0)), Fate::kDenied);
    // A change finds the rows that an earlier process wrote.
    ASSERT_TRUE(policy(2).change(
        1, std::vector<PolicyRowChange>{
               {rows.front().key, {}},
               {allow(identity(1, 1), kIngress).key, allow(identity(1, 1), kIngress).verdict}}));
    EXPECT_EQ(policy(2).endpoints().front().rows, 3U);
    EXPECT_EQ(fate(fabric.pod(1, 1), fabric.pod(2, 0)), Fate::kAnswered);
}

TEST_P(PolicyTest, ChangesAddRemoveAndReplaceRows) {
    set(2, 0, {});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    const auto change = [&](const std::vector<PolicyRowChange>& changes) {
        const auto done = policy(2).change(fabric.pod(2, 0).id, changes);
        ASSERT_TRUE(done) << done.error().message();
    };
    const PolicyRow one = allow(identity(1, 0), kIngress), other = deny(0, kIngress);
    change({{one.key, one.verdict}});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    change({{other.key, other.verdict}});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    change({{other.key, {}}});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    change({{one.key, deny(identity(1, 0), kIngress).verdict}});
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kDenied);
    EXPECT_EQ(policy(2).endpoints().front().rows, 1U);
    change({{one.key, {}}, {other.key, {}}});
    EXPECT_TRUE(policy(2).rows(fabric.pod(2, 0).id)->empty());
    const auto unknown = policy(2).change(77, std::vector<PolicyRowChange>{{one.key, {}}});
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code(), Errc::kNotFound);
    auto bad = one;
    bad.key.length = 5;
    EXPECT_EQ(policy(2).replace(1, EndpointEnforcement::kRules, std::vector{bad}).error().code(),
              Errc::kInvalidArgument);
}

TEST_P(PolicyTest, ManyPoliciesAreReplacedTogether) {
    const std::vector<PolicyRow> none, from_other{allow(identity(1, 0), kIngress)};
    auto bad = from_other;
    bad.front().key.length = 3;
    std::vector<datapath::PolicyReplacement> all{
        {fabric.pod(2, 0).id, EndpointEnforcement::kRules, from_other},
        {77, EndpointEnforcement::kRules, bad},
        {fabric.pod(2, 1).id, EndpointEnforcement::kRules, none}};
    for (datapath::EndpointId id = 1000; id < 1300; ++id) {
        all.push_back({id, EndpointEnforcement::kRules, from_other});
    }
    const auto refused = policy(2).replace_all(all);
    ASSERT_EQ(refused.size(), 1U);
    EXPECT_EQ(refused.front().index, 1U);
    EXPECT_EQ(refused.front().error.code(), Errc::kInvalidArgument);
    EXPECT_EQ(policy(2).endpoints().size(), 302U);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 1)), Fate::kDenied);
    fabric.node(2).close();
    fabric.node(2).open();
    EXPECT_EQ(policy(2).endpoints().size(), 302U);
}

TEST_P(PolicyTest, MoreRowsThanFindRoomLeaveTheOldOnes) {
    const auto many = [&](std::uint32_t count) {
        std::vector<PolicyRow> rows{allow(identity(1, 0), kIngress)};
        for (std::uint32_t i = 1; i < count; ++i) rows.push_back(allow(0x20000 + i, kIngress));
        return rows;
    };
    const auto max = static_cast<std::uint32_t>(policy(2).max_rows());
    const auto id = fabric.pod(2, 0).id;
    set(2, 0, many(max));
    const auto refused = policy(2).replace(id, EndpointEnforcement::kRules, many(max + 1));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kCapacity);
    EXPECT_EQ(policy(2).endpoints().front().rows, max);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
    const PolicyRow more = allow(identity(1, 1), kIngress);
    const auto full = policy(2).change(id, std::vector<PolicyRowChange>{{more.key, more.verdict}});
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code(), Errc::kCapacity);
    EXPECT_EQ(fate(fabric.pod(1, 1), fabric.pod(2, 0)), Fate::kDenied);
    // One by one a map of few rows becomes as large.
    set(2, 0, many(10));
    std::vector<PolicyRowChange> changes;
    for (const PolicyRow& row : many(max)) changes.push_back({row.key, row.verdict});
    const auto grown = policy(2).change(id, changes);
    ASSERT_TRUE(grown) << grown.error().message();
    EXPECT_EQ(policy(2).rows(id)->size(), max);
    EXPECT_EQ(fate(fabric.pod(1, 0), fabric.pod(2, 0)), Fate::kAnswered);
}

}  // namespace
}  // namespace mesh::test
