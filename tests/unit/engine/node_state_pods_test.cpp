// Full tables of the pod network: what finds no room is kept, told once and written later.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "datapath/memory_datapath.hpp"
#include "datapath/memory_pods.hpp"
#include "engine/node_state.hpp"

namespace {

using namespace mesh;
using model::IpAddress;
using model::IpPrefix;

const state::ClusterKey kOwn{"cluster1", model::ClusterId{1}};
const state::ClusterKey kRemote{"cluster2", model::ClusterId{2}};
constexpr std::uint8_t kNodeRows = 2;  ///< a node's address and its pod CIDR

state::NodeUpsert node(std::uint8_t n) {
    model::Node record;
    record.name = "node" + std::to_string(n);
    record.cluster = kRemote.name;
    record.cluster_id = kRemote.id;
    record.addresses = {{"InternalIP", IpAddress::v4(172, 18, 0, n).to_string()}};
    record.ipv4_alloc_cidr = IpPrefix(IpAddress::v4(10, 20, n, 0), 24);
    return {record};
}

IpAddress pod_address(std::uint8_t n) {
    return IpAddress::v4(10, 20, 1, n);
}

state::IpUpsert pod(std::uint8_t n, std::uint32_t identity = 1000) {
    model::IpIdentityPair pair;
    pair.ip = pod_address(n);
    pair.host_ip = IpAddress::v4(172, 18, 0, 1);
    pair.id = model::IdentityId{(2U << 16) + identity};
    return {pair};
}

state::IpDelete gone(std::uint8_t n) {
    return {IpPrefix(pod_address(n), 32)};
}

class FullPods : public testing::Test {
  protected:
    void flush() {
        const auto result = node_.flush();
        ASSERT_TRUE(result) << result.error().message();
    }
    [[nodiscard]] bool holds(std::uint8_t n) const {
        return pods_.find(IpPrefix(pod_address(n), 32)).has_value();
    }

    std::vector<std::string> errors_;
    datapath::MemoryDatapath datapath_;
    datapath::MemoryPods pods_{kNodeRows + 3, 1};
    engine::NodeState node_{kOwn,
                            "node1",
                            7,
                            datapath_,
                            Logger("node",
                                   [this](LogLevel level, std::string_view, std::string_view text) {
                                       if (level == LogLevel::kError) errors_.emplace_back(text);
                                   }),
                            {.pods = &pods_, .tunnel = true}};
};

TEST_F(FullPods, RowsWithoutRoomAreKeptToldOnceAndWrittenWhenOthersGo) {
    node_.apply({kRemote, {node(1), pod(1), pod(2), pod(3)}});
    flush();
    EXPECT_TRUE(node_.ipcache_refused().empty());

    node_.apply({kRemote, {pod(4), pod(5)}});
    flush();
    EXPECT_EQ(node_.ipcache_refused().size(), 2U);
    node_.apply({kRemote, {pod(6)}});
    flush();
    EXPECT_EQ(node_.ipcache_refused().size(), 3U);
    ASSERT_EQ(errors_.size(), 1U);
    EXPECT_NE(errors_.front().find("no room for 10.20.1.4"), std::string::npos) << errors_.front();
    for (std::uint8_t n = 1; n <= 3; ++n) EXPECT_TRUE(holds(n)) << "row " << +n << " stays";

    // A row that is there changes although the table is full.
    node_.apply({kRemote, {pod(2, 2000)}});
    flush();
    EXPECT_EQ(pods_.find(IpPrefix(pod_address(2), 32))->identity, (2U << 16) + 2000);
    EXPECT_EQ(node_.ipcache_refused().size(), 3U);

    // What was refused and goes is not written later.
    node_.apply({kRemote, {gone(4)}});
    flush();
    EXPECT_EQ(node_.ipcache_refused().size(), 2U);
    node_.apply({kRemote, {gone(1), gone(2)}});
    flush();
    EXPECT_TRUE(node_.ipcache_refused().empty());
    EXPECT_TRUE(holds(3) && holds(5) && holds(6));
    EXPECT_EQ(pods_.occupancy().ipcache, kNodeRows + 3U);

    node_.apply({kRemote, {pod(7)}});
    flush();
    EXPECT_EQ(errors_.size(), 2U) << "full once more is told once more";
}

TEST_F(FullPods, NodesWithoutRoomLikewise) {
    node_.apply({kRemote, {node(1), node(2)}});
    flush();
    EXPECT_EQ(pods_.nodes().size(), 1U);
    EXPECT_EQ(node_.nodes_refused().size(), 1U);
    EXPECT_EQ(errors_.size(), 1U);

    node_.apply({kRemote, {state::NodeDelete{"node1"}}});
    flush();
    EXPECT_TRUE(node_.nodes_refused().empty());
    EXPECT_TRUE(pods_.nodes().contains(IpAddress::v4(172, 18, 0, 2)));
    EXPECT_TRUE(node_.ipcache_refused().empty());
}

}  // namespace
