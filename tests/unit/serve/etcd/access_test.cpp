// Who may do what: the read-only policy by action and range.
#include "serve/etcd/access.hpp"

#include <gtest/gtest.h>

#include <utility>

#include "serve/etcd/cluster_access.hpp"

namespace mesh::serve {
namespace {

using store::KeyRange;

const std::string kNoEnd(1, '\0');

TEST(Access, LiesWithin) {
    EXPECT_TRUE(lies_within({"b", ""}, "a", "c"));
    EXPECT_TRUE(lies_within({"a", "c"}, "a", "c"));
    EXPECT_FALSE(lies_within({"c", ""}, "a", "c"));
    EXPECT_FALSE(lies_within({"a", "d"}, "a", "c"));
    EXPECT_FALSE(lies_within({"A", "b"}, "a", "c"));
    EXPECT_FALSE(lies_within({"b", kNoEnd}, "a", "c"));
    EXPECT_TRUE(lies_within({"b", kNoEnd}, "a", kNoEnd));
    EXPECT_TRUE(lies_within({"b", ""}, "a", kNoEnd));
}

class ReadOnlyAccess : public ::testing::Test {
  protected:
    bool allows(EtcdAction action, std::string_view key = {}, std::string_view end = {}) const {
        const rpc::Peer peer;
        return policy.allows(
            {.action = action, .method = "", .range = {key, end}, .peer = peer, .listener = ""});
    }
    ReadOnly policy{{{.prefix = "cilium/state/", .exact = false},
                     {.prefix = "cilium/cluster-config/one", .exact = true}}};
};

TEST_F(ReadOnlyAccess, ReadsWithinItsPrefixesOnly) {
    for (const EtcdAction action : {EtcdAction::kRange, EtcdAction::kWatch}) {
        EXPECT_TRUE(allows(action, "cilium/state/", "cilium/state0"));
        EXPECT_TRUE(allows(action, "cilium/state/nodes/v1/", "cilium/state/nodes/v10"));
        EXPECT_TRUE(allows(action, "cilium/state/x"));
        EXPECT_FALSE(allows(action, "cilium/state"));
        EXPECT_FALSE(allows(action, "cilium/", "cilium0"));
        EXPECT_FALSE(allows(action, "cilium/state/", kNoEnd));
        EXPECT_FALSE(allows(action, kNoEnd, kNoEnd));
        EXPECT_FALSE(allows(action, "cilium/state/", "d"));
        EXPECT_TRUE(allows(action, "cilium/cluster-config/one"));
        EXPECT_FALSE(allows(action, "cilium/cluster-config/one", "cilium/cluster-config/onf"));
        EXPECT_FALSE(allows(action, "cilium/cluster-config/one2"));
    }
}

TEST_F(ReadOnlyAccess, NothingElse) {
    for (const EtcdAction action :
         {EtcdAction::kPut, EtcdAction::kDelete, EtcdAction::kCompact, EtcdAction::kLease,
          EtcdAction::kMaintenance, EtcdAction::kMembers, EtcdAction::kOther, EtcdAction::kStatus})
        EXPECT_FALSE(allows(action, "cilium/state/x"));
    policy = ReadOnly({{.prefix = "", .exact = false}}, true);
    EXPECT_TRUE(allows(EtcdAction::kStatus));
    EXPECT_TRUE(allows(EtcdAction::kRange, kNoEnd, kNoEnd)) << "the empty prefix is everything";
    EXPECT_FALSE(allows(EtcdAction::kPut, "a"));
}

/// By role, as mesh-proxy has it.
class ClusterAccess : public ::testing::Test {
  protected:
    static AccessRequest by(const rpc::Peer& peer, EtcdAction action, std::string_view key = {}) {
        return {.action = action, .method = "", .range = {key, {}}, .peer = peer, .listener = ""};
    }
    static rpc::Peer named(std::string name, bool verified = true) {
        rpc::Peer peer;
        peer.verified = verified;
        peer.common_name = std::move(name);
        return peer;
    }
};

TEST_F(ClusterAccess, RemotesAreAdmittedToRangeAndWatchOnly) {
    const RemoteAccess policy("one");
    for (const char* name : {"remote", "remote-two"}) {
        const rpc::Peer peer = named(name);
        for (const EtcdAction action : {EtcdAction::kRange, EtcdAction::kWatch}) {
            EXPECT_TRUE(policy.admits(by(peer, action)));
            EXPECT_TRUE(policy.allows(by(peer, action, "cilium/state/x")));
            EXPECT_FALSE(policy.allows(by(peer, action, "mesh/local/x")));
        }
        for (const EtcdAction action :
             {EtcdAction::kPut, EtcdAction::kDelete, EtcdAction::kTxn, EtcdAction::kCompact,
              EtcdAction::kLease, EtcdAction::kStatus, EtcdAction::kMaintenance,
              EtcdAction::kMembers, EtcdAction::kOther}) {
            EXPECT_FALSE(policy.admits(by(peer, action)));
            EXPECT_FALSE(policy.allows(by(peer, action, "cilium/state/x")));
        }
    }
    for (const rpc::Peer& peer : {named("remote", false), named("remotes"), named("local-one"),
                                  named("admin-one"), named("")})
        EXPECT_FALSE(policy.admits(by(peer, EtcdAction::kRange))) << peer.common_name;
}

TEST_F(ClusterAccess, LocalsNeedARoleAndTransactionsOfTheirsCountByTheirParts) {
    const LocalAccess policy("one", true);
    for (const char* name : {"local-one", "admin-one"}) {
        const rpc::Peer peer = named(name);
        EXPECT_TRUE(policy.admits(by(peer, EtcdAction::kPut))) << "allows() gives the advice";
        EXPECT_TRUE(policy.allows(by(peer, EtcdAction::kTxn)));
        EXPECT_EQ(policy.allows(by(peer, EtcdAction::kPut, "a")), peer.common_name == "admin-one");
    }
    for (const rpc::Peer& peer :
         {named("admin-one", false), named("admin-two"), named("remote"), named("")})
        EXPECT_FALSE(policy.admits(by(peer, EtcdAction::kRange))) << peer.common_name;
}

}  // namespace
}  // namespace mesh::serve
