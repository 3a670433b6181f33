// The table of services.md §4 and the filters before it.
#include "compile/services/selection.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using namespace mesh::compile;
using mesh::model::Affinity;
using mesh::model::BackendState;
using mesh::model::ClusterId;
using mesh::model::IpAddress;
using testing::ElementsAre;

/// Local: 'a' active, 't' terminating, 'q' quarantined, 'm' maintenance, '0' active of weight 0,
/// 'z' terminating of weight 0.
/// Remote: 'A', 'T', 'Q' likewise. Each has its place in the text as its address.
std::vector<Candidate> candidates(const std::string& text) {
    std::vector<Candidate> all;
    for (std::size_t i = 0; i < text.size(); ++i) {
        Candidate c;
        const bool remote = text[i] >= 'A' && text[i] <= 'Z';
        const char kind = remote ? static_cast<char>(text[i] - 'A' + 'a') : text[i];
        c.rank = remote ? 1 : 0;
        c.row.address = IpAddress::v4(10, 0, 0, static_cast<std::uint8_t>(i));
        c.row.port = 80;
        c.row.state = kind == 't' || kind == 'z' ? BackendState::kTerminating
                      : kind == 'q'              ? BackendState::kQuarantined
                      : kind == 'm'              ? BackendState::kMaintenance
                                                 : BackendState::kActive;
        if (kind == '0' || kind == 'z') c.row.weight = 0;
        all.push_back(c);
    }
    return all;
}

/// For each place of the text: '+' new connections, '~' programmed, '.' not.
std::string chosen(const std::string& text, const SelectionPolicy& policy) {
    std::vector<Candidate> all = candidates(text);
    select_backends(all, policy);
    std::string result(text.size(), '?');
    for (const Candidate& c : all) {
        result[c.row.address.bytes()[15]] = c.row.selected ? '+' : c.row.programmed ? '~' : '.';
        EXPECT_TRUE(c.row.programmed || !c.row.selected);
    }
    return result;
}

struct Case {
    const char* backends;
    const char* none;
    const char* local;
    const char* remote;
};

TEST(Selection, FollowsTheTable) {
    const Case cases[] = {
        // backends, affinity none, local, remote
        {"", "", "", ""},
        {"aa", "++", "++", "++"},          // no remote: local whatever the setting
        {"AA", "++", "++", "++"},          // no local: remote whatever the setting
        {"aaAA", "++++", "++..", "..++"},  // the preference
        {"qaA", "~++", "~+.", "..+"},      // local: unhealthy local ones stay programmed
        {"qA", "~+", "~+", ".+"},          // LA = 0: remote joins, unhealthy local stays
        {"mA", "~+", "~+", ".+"},
        {"0A", "~+", "~+", ".+"},  // weight 0 is not active
        {"tA", "~+", "~+", ".+"},  // terminating does not count for LA
        {"taA", "~++", "~+.", "..+"},
        {"ttT", "+++", "+++", "..+"},  // nothing active: terminating ones serve; RH counts T
        {"tQ", "+~", "+.", "+~"},      // RH = 0, LH = 1 (terminating counts)
        {"qQ", "~~", "~.", ".~"},      // nothing is healthy: nobody is chosen
        {"aQ", "+~", "+.", "+~"},      // RH = 0: fall back to local
        {"q", "~", "~", "."},          // remote, RH = 0 and LH = 0: local stays out
        {"zA", "~+", "~+", ".+"},
        {"z", "~", "~", "."},  // not even as the last one
        {"tt", "++", "++", "++"},
        {"tq", "+~", "+~", "+~"},
        {"mqt0", "~~+~", "~~+~", "~~+~"},
    };
    for (const Case& c : cases) {
        EXPECT_EQ(chosen(c.backends, {.affinity = Affinity::kNone}), c.none) << c.backends;
        EXPECT_EQ(chosen(c.backends, {.affinity = Affinity::kLocal}), c.local) << c.backends;
        EXPECT_EQ(chosen(c.backends, {.affinity = Affinity::kRemote}), c.remote) << c.backends;
    }
}

std::vector<Reason> reasons(const std::string& text, Affinity affinity) {
    std::vector<Candidate> all = candidates(text);
    select_backends(all, {.affinity = affinity});
    std::vector<Reason> result;
    for (const Candidate& c : all) result.push_back(c.row.reason);
    return result;
}

TEST(Selection, SaysWhy) {
    EXPECT_THAT(reasons("atqm0A", Affinity::kNone),
                ElementsAre(Reason::kActive, Reason::kTerminating, Reason::kQuarantined,
                            Reason::kMaintenance, Reason::kMaintenance, Reason::kActive));
    EXPECT_THAT(reasons("aA", Affinity::kLocal),
                ElementsAre(Reason::kActive, Reason::kPrefersLocal));
    EXPECT_THAT(reasons("tA", Affinity::kLocal),
                ElementsAre(Reason::kTerminating, Reason::kRemoteFallback));
    EXPECT_THAT(reasons("aA", Affinity::kRemote),
                ElementsAre(Reason::kPrefersRemote, Reason::kActive));
    EXPECT_THAT(reasons("aq", Affinity::kRemote),
                ElementsAre(Reason::kLocalFallback, Reason::kQuarantined));
    EXPECT_THAT(reasons("q", Affinity::kRemote), ElementsAre(Reason::kQuarantined));
    EXPECT_THAT(reasons("tq", Affinity::kNone),
                ElementsAre(Reason::kLastTerminating, Reason::kQuarantined));
}

TEST(Selection, EveryReasonHasAText) {
    std::vector<std::string_view> texts;
    for (int i = 0; i <= static_cast<int>(Reason::kShadowed); ++i) {
        texts.push_back(to_string(static_cast<Reason>(i)));
        EXPECT_NE(texts.back(), "unknown");
        for (std::size_t j = 0; j + 1 < texts.size(); ++j) EXPECT_NE(texts.back(), texts[j]);
    }
}

TEST(Selection, ThisNodeOnlyDropsOtherNodesAndRemotes) {
    const auto run = [](std::string_view node, bool this_node_only) {
        std::vector<Candidate> all = candidates("aaaA");
        all[0].node = "n1";
        all[1].node = "n2";
        select_backends(all, {.this_node_only = this_node_only, .node = node});
        std::string result;
        for (const Candidate& c : all) result += c.row.selected ? '+' : '.';
        return result;
    };
    EXPECT_EQ(run("n1", false), "++++");
    EXPECT_EQ(run("n1", true), "+...");
    EXPECT_EQ(run("n2", true), ".+..");
    EXPECT_EQ(run("n3", true), "....") << "no fallback to other nodes, as Kubernetes says";
    EXPECT_EQ(run("", true), "++++") << "not on a node";
    std::vector<Candidate> all = candidates("aA");
    all[0].node = "n2";
    select_backends(all, {.affinity = Affinity::kLocal, .this_node_only = true, .node = "n1"});
    EXPECT_EQ(all[0].row.reason, Reason::kOtherNode);
    EXPECT_EQ(all[1].row.reason, Reason::kOtherNode);
}

TEST(Selection, ZoneHintsCountIfAllHaveThemAndOneFits) {
    using Hints = std::vector<std::vector<std::string_view>>;
    const auto run = [](const std::string& text, const Hints& hints, std::string_view zone,
                        Affinity affinity = Affinity::kNone) {
        std::vector<Candidate> all = candidates(text);
        for (std::size_t i = 0; i < hints.size(); ++i) all[i].for_zones = hints[i];
        select_backends(all, {.affinity = affinity, .zone = zone});
        std::string result;
        for (const Candidate& c : all) result += c.row.selected ? '+' : '.';
        return result;
    };
    EXPECT_EQ(run("aaA", {{"z1"}, {"z2"}, {"z1", "z2"}}, "z1"), "+.+");
    EXPECT_EQ(run("aaA", {{"z1"}, {"z2"}, {}}, "z1"), "+++") << "one without hints";
    EXPECT_EQ(run("aaA", {{"z1"}, {"z2"}, {"z2"}}, "z3"), "+++") << "none fits";
    EXPECT_EQ(run("aaA", {{"z1"}, {"z2"}, {"z2"}}, ""), "+++") << "hints not used";
    // Counts are over what the filter leaves: the local one is of another zone, so LA = 0.
    EXPECT_EQ(run("aA", {{"z2"}, {"z1"}}, "z1", Affinity::kLocal), ".+");
}

}  // namespace
