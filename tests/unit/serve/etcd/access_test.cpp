// Who may do what: the read-only policy by action and range.
#include "serve/etcd/access.hpp"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace mesh::serve
