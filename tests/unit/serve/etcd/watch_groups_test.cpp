#include "serve/etcd/watch_groups.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mesh::serve {
namespace {

std::string_view group(std::string_view key, std::string_view end = {}) {
    return watch_groups()[watch_group_of({key, end})];
}
std::string_view prefix(const std::string& text) {
    return group(text, store::prefix_end(text));
}

TEST(WatchGroups, ARangeBelongsToTheNarrowestPrefixAroundIt) {
    EXPECT_EQ(prefix("cilium/state/nodes/v1/"), "cilium/state/nodes/v1/");
    EXPECT_EQ(prefix("cilium/state/nodes/v1/cluster7/"), "cilium/state/nodes/v1/");
    EXPECT_EQ(group("cilium/state/ip/v1/default/10.0.0.1"), "cilium/state/ip/v1/");
    EXPECT_EQ(prefix("cilium/state/"), "cilium/state/");
    EXPECT_EQ(prefix("cilium/state/unheard/of/"), "cilium/state/");
    EXPECT_EQ(prefix("cilium/cache/identities/v1/cluster2/id/"), "cilium/cache/identities/v1/");
    EXPECT_EQ(group("cilium/.heartbeat"), "cilium/.heartbeat");
    EXPECT_EQ(group("cilium/cluster-config/cluster1"), "cilium/cluster-config/");
    EXPECT_EQ(prefix("mesh/local/policies/v1/"), "mesh/local/");
}

TEST(WatchGroups, WhatNoPrefixHoldsIsOther) {
    EXPECT_EQ(prefix("cilium/"), "cilium/");
    EXPECT_EQ(prefix(""), "other");
    EXPECT_EQ(group("cilium/state/", std::string_view("\0", 1)), "other");
    EXPECT_EQ(prefix("other/"), "other");
    EXPECT_EQ(watch_groups().back(), "other");
}

}  // namespace
}  // namespace mesh::serve
