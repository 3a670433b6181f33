// The status document is JSON whatever a remote says.
#include "engine/documents.hpp"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <string>
#include <vector>

#include "datapath/memory_datapath.hpp"
#include "model/codec.hpp"
#include "state/clusters/intake.hpp"

namespace {

using namespace mesh;
using state::Slot;
namespace json = boost::json;

class StatusDocument : public testing::Test {
  protected:
    StatusDocument() {
        options_.cluster_name = "local";
        options_.cluster_id = 1;
        intake_.set_remote({.cluster = "c1", .id = model::ClusterId{7}}, {});
    }

    /// The remote's part of the document, after a trip over the wire; null if it is no JSON.
    json::value remote() {
        state::SessionStatus session;
        session.cluster = "c1";
        session.last_failure = last_failure_;
        session.refused = refusals_.counts();
        const std::vector<state::SessionStatus> clusters{session};
        const std::string text =
            json::serialize(engine::status_document({.options = options_,
                                                     .clusters = clusters,
                                                     .config_errors = config_errors_,
                                                     .node = node_,
                                                     .datapath = datapath_,
                                                     .route_failures = {},
                                                     .last_error = {}}));
        boost::system::error_code error;
        const json::value document = json::parse(text, error);
        EXPECT_FALSE(error) << error.message() << ": " << text;
        if (error) return nullptr;
        return document.at("remotes").as_array().at(0);
    }
    /// The detail of the one refusal.
    std::string refuse(Slot slot, const std::string& key, const std::string& value) {
        state::Changes changes;
        intake_.put({}, slot, key, value, changes);
        EXPECT_TRUE(changes.empty());
        const json::value document = remote();
        if (!document.is_object()) return {};
        const json::array& refused = document.at("refused").as_array();
        return refused.size() == 1 ? std::string(refused[0].at("last_detail").as_string()) : "";
    }

    MeshOptions options_;
    std::map<std::string, std::string> config_errors_;
    datapath::MemoryDatapath datapath_;
    engine::NodeState node_{{"local", model::ClusterId{1}}, "node1", 7, datapath_, Logger()};
    state::Refusals refusals_{"c1", Logger(), {}};
    state::Intake intake_{1, refusals_};
    std::string last_failure_;
};

TEST_F(StatusDocument, IsJsonAfterAKeyThatIsNotUtf8) {
    EXPECT_EQ(refuse(Slot::kNodes, "cilium/state/nodes/v1/c1/\xff", "{}"),
              "cilium/state/nodes/v1/c1/\ufffd: field Cluster: expected \"c1\", got \"\"");
}

TEST_F(StatusDocument, IsJsonAfterAValueThatIsCutInsideACharacter) {
    EXPECT_EQ(refuse(Slot::kNodes, "cilium/state/nodes/v1/c1/n1",
                     "{\"ClusterID\":\"a1234567890123456789012345678901234567\u00e9\"}"),
              "cilium/state/nodes/v1/c1/n1: field ClusterID: expected an integer 0..4294967295, "
              "got \"a1234567890123456789012345678901234567...");
    const std::string cluster = std::string(62, 'x') + "\u00e9\u00e9";
    state::Refusals others("c1", Logger(), {});
    refusals_ = others;
    EXPECT_EQ(refuse(Slot::kNodes, "cilium/state/nodes/v1/c1/n1",
                     R"({"Name":"n1","ClusterID":7,"Cluster":")" + cluster + "\"}"),
              "cilium/state/nodes/v1/c1/n1: field Cluster: expected \"c1\", got \"" +
                  std::string(62, 'x') + "\u00e9...\"");
}

TEST_F(StatusDocument, IsJsonAfterALabelThatIsNotUtf8) {
    EXPECT_EQ(refuse(Slot::kIdentities, "cilium/state/identities/v1/id/458757",
                     "k8s:io.cilium.k8s.policy.cluster=\xff;"),
              "cilium/state/identities/v1/id/458757: field label io.cilium.k8s.policy.cluster: "
              "expected \"c1\", got \"\ufffd\"");
    refusals_ = state::Refusals("c1", Logger(), {});
    EXPECT_EQ(refuse(Slot::kIdentities, "cilium/state/identities/v1/id/\xff", "k8s:a=b;"),
              "cilium/state/identities/v1/id/\ufffd: expected an identity 1..4294967295 as the "
              "key's last part, got \"\ufffd\"");
}

TEST_F(StatusDocument, IsJsonAfterAKeyThatIsCutInsideACharacter) {
    for (std::size_t length = 500; length < 520; ++length) {
        refusals_ = state::Refusals("c1", Logger(), {});
        const std::string key = "cilium/state/nodes/v1/c1/a/" + std::string(length - 27, 'x');
        EXPECT_NE(refuse(Slot::kNodes, key + "\u20ac", "{}"), "");
    }
}

TEST_F(StatusDocument, IsJsonAfterAFailureThatQuotesThePeer) {
    const auto config =
        model::parse_cluster_config("cilium/cluster-config/c1", "{\"id\":\"\xff\"}");
    ASSERT_FALSE(config);
    last_failure_ = config.error().detail();
    EXPECT_EQ(remote().at("last_failure").as_string(),
              "cilium/cluster-config/c1: field id: expected an integer 0..4294967295, got "
              "\"\ufffd\"");
    last_failure_ = "connection lost: UNKNOWN: \xff\nsecond line";
    EXPECT_EQ(remote().at("last_failure").as_string(),
              "connection lost: UNKNOWN: \ufffd?second line");
    config_errors_["/etc/mesh/\xfe"] = "not YAML: \xfe";
    EXPECT_TRUE(remote().is_object());
}

TEST_F(StatusDocument, NoLineOfARemoteGetsIntoTheLog) {
    std::vector<std::string> lines;
    refusals_ = state::Refusals(
        "c1",
        Logger(
            "x", [&](LogLevel, std::string_view, std::string_view t) { lines.emplace_back(t); },
            LogLevel::kDebug),
        {});
    refuse(Slot::kNodes, "cilium/state/nodes/v1/c1/n1",
           R"({"Name":"n1","Cluster":"c1\n[error] cluster c2: gone","ClusterID":7})");
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0].find('\n'), std::string::npos) << lines[0];
}

}  // namespace
