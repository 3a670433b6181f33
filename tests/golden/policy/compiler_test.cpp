// The policy maps that we compile of the recorded cases decide as Cilium's do: for every peer,
// every port that either map knows and its neighbours, and every protocol. The maps themselves
// differ, since ours are for the lookup of later versions and leave out what a broader entry
// decides.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "support/policy/cases.hpp"
#include "support/policy/compiled.hpp"

namespace mesh::test {
namespace {

namespace json = boost::json;
using model::policy::Direction;

/// A recorded map with 1.15's lookup: the first entry found decides.
class RecordedMap {
  public:
    struct Entry {
        char action = '-';
        std::string parser;
        int auth = 0;
    };
    using Key = std::tuple<Direction, int, int, std::uint32_t>;

    explicit RecordedMap(const json::object& expect) {
        for (const auto& item : expect.at("map_state").as_array()) {
            const auto& row = item.as_array();
            const auto direction =
                row[0].as_string() == "in" ? Direction::kIngress : Direction::kEgress;
            const auto protocol = static_cast<int>(row[1].as_int64());
            const auto port = static_cast<int>(row[2].as_int64());
            Entry entry;
            entry.action = row[4].as_string() == "deny"       ? 'D'
                           : row[4].as_string() == "redirect" ? 'R'
                                                              : 'A';
            if (row.size() > 5) {
                const auto& extra = row[5].as_object();
                if (extra.contains("parser")) entry.parser = extra.at("parser").as_string();
                if (extra.contains("auth"))
                    entry.auth = extra.at("auth").as_string() == "spire" ? 1 : 2;
            }
            entries_[{direction, protocol, port, static_cast<std::uint32_t>(row[3].as_int64())}] =
                entry;
            ports_.insert({protocol, port});
        }
    }
    [[nodiscard]] Entry find(Direction direction, std::uint32_t peer, int protocol,
                             int port) const {
        for (const auto& [p, q] : {std::pair{protocol, port}, {protocol, 0}, {0, 0}}) {
            for (const std::uint32_t id : {peer, 0U}) {
                const auto found = entries_.find({direction, p, q, id});
                if (found != entries_.end()) return found->second;
            }
        }
        return {};
    }
    [[nodiscard]] const std::set<std::pair<int, int>>& ports() const { return ports_; }

  private:
    std::map<Key, Entry> entries_;
    std::set<std::pair<int, int>> ports_;
};

struct Compiled {
    compile::PolicyCompiler compiler;
    MapLookup::Entries entries;
    explicit Compiled(const PolicyCase& one) : compiler(one.world.options) {
        fill(compiler, one.world);
        compiler.upsert_endpoint(1, {one.subject->labels, one.world.subject_ports});
        static_cast<void>(compiler.flush());
        entries = entries_of(compiler, 1);
    }
};

TEST(PolicyCompilerGolden, AgreesWithEveryRecordedVerdict) {
    std::size_t compared = 0;
    for (const PolicyCase& one : policy_cases()) {
        const Compiled compiled(one);
        const auto* policy = compiled.compiler.find(1);
        ASSERT_NE(policy, nullptr);
        EXPECT_FALSE(policy->conflict()) << one.name;
        EXPECT_EQ(policy->direction(Direction::kIngress).enforced(),
                  one.expect.at("ingress_enforced").as_bool());
        EXPECT_EQ(policy->direction(Direction::kEgress).enforced(),
                  one.expect.at("egress_enforced").as_bool());
        const MapLookup lookup(compiled.entries);
        for (const PolicyCase::Row& row : one.rows()) {
            std::string verdicts;
            for (const RefIdentity* peer : one.peers) {
                const auto verdict =
                    to_verdict(lookup.find(row.direction, peer->id, row.protocol, row.port));
                const bool redirect = verdict == RefVerdict::kRedirect && row.rule_level;
                verdicts += redirect ? 'A' : static_cast<char>(verdict);
                // A denied packet that nothing allows: 1.15 leaves out some deny entries then.
                const char recorded = row.verdicts.at(verdicts.size() - 1);
                if (verdicts.back() == 'D' && recorded == '-') verdicts.back() = '-';
                ++compared;
            }
            EXPECT_EQ(verdicts, row.verdicts)
                << one.name << ": direction " << int(row.direction) << " protocol "
                << int{row.protocol} << " port " << row.port;
        }
    }
    EXPECT_GT(compared, 100'000U);
}

TEST(PolicyCompilerGolden, MapsDecideAsTheRecordedOnes) {
    std::size_t compared = 0;
    for (const PolicyCase& one : policy_cases()) {
        // There the recorded map is wrong, or depends on the order of a hash map.
        if (one.expect.contains("rule_level_verdicts") ||
            one.expect.contains("map_state_unstable")) {
            continue;
        }
        const Compiled compiled(one);
        const MapLookup lookup(compiled.entries);
        const RecordedMap recorded(one.expect);
        std::set<std::pair<int, int>> ports{{47, 1}, {6, 1}, {17, 1}, {132, 1}, {1, 1}, {58, 1}};
        for (const auto& [protocol, port] : recorded.ports()) {
            for (const int near : {port - 1, port, port + 1}) {
                if (protocol != 0 && near > 0) ports.insert({protocol, near});
            }
        }
        for (const auto& [key, value] : compiled.entries) {
            if (key.length > 8) ports.insert({key.protocol, key.port});
        }
        const auto* policy = compiled.compiler.find(1);
        for (const Direction direction : model::policy::kDirections) {
            for (const RefIdentity& peer : one.world.identities) {
                for (const auto& [protocol, port] : ports) {
                    const auto expected = recorded.find(direction, peer.id, protocol, port);
                    const auto found =
                        lookup.find(direction, peer.id, static_cast<std::uint8_t>(protocol),
                                    static_cast<std::uint16_t>(port));
                    const char action = static_cast<char>(to_verdict(found));
                    const bool both_drop = expected.action == '-' && action == 'D';
                    const auto where = [&] {
                        return one.name + ": direction " + std::to_string(int(direction)) +
                               " peer " + std::to_string(peer.id) + " protocol " +
                               std::to_string(protocol) + " port " + std::to_string(port);
                    };
                    if (!both_drop) {
                        ASSERT_EQ(action, expected.action) << where();
                    }
                    if (action == 'R') {
                        EXPECT_EQ(policy->redirects().at(found->redirect - 1U).parser,
                                  expected.parser)
                            << where();
                    }
                    if (action == 'A' || action == 'R') {
                        EXPECT_EQ(int{found->auth}, expected.auth) << where();
                    }
                    ++compared;
                }
            }
        }
    }
    EXPECT_GT(compared, 100'000U);
}

using Texts = std::set<std::string>;

/// The L7 rules of a recorded selector, each as text; "everything" where there are none.
void add_recorded(const json::object& selector, Texts& out) {
    const auto text = [](const json::object& rule, const char* field) {
        const auto* value = rule.if_contains(field);
        return value == nullptr ? std::string() : std::string(value->as_string());
    };
    bool any = false;
    if (const auto* list = selector.if_contains("http")) {
        for (const auto& item : list->as_array()) {
            const auto& rule = item.as_object();
            any = true;
            const auto* headers = rule.if_contains("headers");
            out.insert(rule.empty() ? "everything"
                                    : text(rule, "method") + " " + text(rule, "path") + " " +
                                          text(rule, "host") + " " +
                                          (headers ? json::serialize(*headers) : "[]"));
        }
    }
    if (const auto* list = selector.if_contains("dns")) {
        for (const auto& item : list->as_array()) {
            any = true;
            out.insert(text(item.as_object(), "matchName") +
                       text(item.as_object(), "matchPattern"));
        }
    }
    if (const auto* list = selector.if_contains("server_names")) {
        for (const auto& name : list->as_array()) out.insert(std::string(name.as_string()));
        any = true;
    }
    if (const auto* proto = selector.if_contains("l7proto")) {
        out.insert(std::string(proto->as_string()));
        any = true;
    }
    if (!any) out.insert("everything");
}

void add_compiled(const model::policy::L7Rules* rules, Texts& out) {
    if (rules == nullptr) {
        out.insert("everything");
        return;
    }
    for (const auto& rule : rules->http) {
        json::array headers;
        for (const auto& header : rule.headers) headers.emplace_back(header);
        out.insert(rule == model::policy::HttpRule{}
                       ? "everything"
                       : rule.method + " " + rule.path + " " + rule.host + " " +
                             json::serialize(headers));
    }
    for (const auto& rule : rules->dns) out.insert(rule.text());
    for (const auto& name : rules->server_names) out.insert(name);
    if (!rules->l7proto.empty()) out.insert(rules->l7proto);
}

TEST(PolicyCompilerGolden, RedirectsHaveTheRecordedL7Rules) {
    std::size_t compared = 0;
    for (const PolicyCase& one : policy_cases()) {
        const auto* filters = one.expect.if_contains("l7");
        if (filters == nullptr || !filters->is_array()) continue;
        const Compiled compiled(one);
        const MapLookup lookup(compiled.entries);
        const auto* policy = compiled.compiler.find(1);
        for (const auto& item : filters->as_array()) {
            const auto& filter = item.as_object();
            const auto direction =
                filter.at("dir").as_string() == "in" ? Direction::kIngress : Direction::kEgress;
            const auto found = std::ranges::find_if(policy->redirects(), [&](const auto& redirect) {
                return redirect.direction == direction &&
                       redirect.protocol == filter.at("proto").as_int64() &&
                       redirect.port == filter.at("port").as_int64();
            });
            ASSERT_NE(found, policy->redirects().end()) << one.name << json::serialize(item);
            EXPECT_EQ(found->parser, filter.at("parser").as_string()) << one.name;
            for (const RefIdentity& peer : one.world.identities) {
                // Only of packets that come to the proxy; a denied selector loses its rules
                // in 1.15.
                if (to_verdict(lookup.find(direction, peer.id, found->protocol, found->port)) !=
                    RefVerdict::kRedirect) {
                    continue;
                }
                Texts recorded;
                for (const auto& entry : filter.at("per_selector").as_array()) {
                    const auto& selector = entry.as_object();
                    if (selector.contains("deny")) continue;
                    const auto& peers = selector.at("peers");
                    const bool selected =
                        peers.is_string() || std::ranges::any_of(peers.as_array(), [&](auto& id) {
                            return id.as_int64() == peer.id;
                        });
                    if (selected) add_recorded(selector, recorded);
                }
                Texts ours;
                for (const auto* rules : compiled.compiler.l7_rules(*found, peer.id)) {
                    add_compiled(rules, ours);
                }
                EXPECT_EQ(ours, recorded)
                    << one.name << " peer " << peer.id << json::serialize(item);
                ++compared;
            }
        }
    }
    EXPECT_GT(compared, 300U);
}

TEST(PolicyCompilerGolden, OrderOfArrivalDoesNotMatter) {
    for (const PolicyCase& one : policy_cases()) {
        const Compiled compiled(one);
        // The endpoint first, then policies backwards, then identities one by one.
        compile::PolicyCompiler other(one.world.options);
        other.upsert_endpoint(1, {one.subject->labels, one.world.subject_ports});
        for (auto at = one.world.policies.rbegin(); at != one.world.policies.rend(); ++at) {
            other.upsert_policy(*at);
        }
        static_cast<void>(other.flush());
        other.set_peer_ports(one.world.peer_ports);
        for (const auto& service : one.world.services) {
            other.upsert_service(to_policy_service(service));
        }
        for (auto at = one.world.identities.rbegin(); at != one.world.identities.rend(); ++at) {
            other.upsert_identity(to_policy_identity(*at));
            static_cast<void>(other.flush());
        }
        ASSERT_EQ(entries_of(other, 1), compiled.entries) << one.name;
    }
}

}  // namespace
}  // namespace mesh::test
