#include "datapath/memory_datapath.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace {

using namespace mesh::datapath;  // NOLINT: a test of this namespace
using mesh::Errc;
using mesh::Rng;
using mesh::model::IpAddress;

ServiceRow web(std::vector<std::uint16_t> weights) {
    ServiceRow row{{*IpAddress::parse("fd00::80"), 80, Protocol::kUdp}, "default/web", 0, {}};
    for (std::size_t i = 0; i < weights.size(); ++i) {
        Backend backend;
        backend.address = *IpAddress::parse("fd01::" + std::to_string(i + 1));
        backend.port = 8080;
        backend.proto = Protocol::kUdp;
        backend.cluster_id = static_cast<std::uint32_t>(i % 2 + 1);
        backend.weight = weights[i];
        row.backends.push_back(backend);
    }
    return row;
}

TEST(MemoryDatapath, ConnectsByWeightAndCounts) {
    MemoryDatapath datapath;
    const ServiceRow row = web({1, 2, 5});
    const std::vector<ServiceChange> changes{ServiceChange::upsert(row)};
    ASSERT_TRUE(datapath.apply(changes));
    Rng rng(1);
    for (int i = 0; i < 8000; ++i) {
        const auto backend = datapath.connect(row.frontend, rng);
        ASSERT_TRUE(backend);
        EXPECT_TRUE(std::ranges::count(row.backends, *backend) == 1);
    }
    const auto status = datapath.find(row.frontend);
    ASSERT_TRUE(status);
    EXPECT_NEAR(static_cast<double>(status->backends[0].connects), 1000, 200);
    EXPECT_NEAR(static_cast<double>(status->backends[1].connects), 2000, 250);
    EXPECT_NEAR(static_cast<double>(status->backends[2].connects), 5000, 300);
    const auto by_cluster = datapath.counters().connects_by_cluster;
    EXPECT_EQ(by_cluster.at(1) + by_cluster.at(2), 8000U);
    EXPECT_EQ(by_cluster.at(2), status->backends[1].connects);
}

TEST(MemoryDatapath, SaysWhatIsMissing) {
    MemoryDatapath datapath;
    Rng rng(1);
    const ServiceRow row = web({});
    EXPECT_EQ(datapath.connect(row.frontend, rng).error().code(), Errc::kNotFound);
    const std::vector<ServiceChange> changes{ServiceChange::upsert(row)};
    ASSERT_TRUE(datapath.apply(changes));
    EXPECT_EQ(datapath.connect(row.frontend, rng).error().code(), Errc::kUnavailable);
    EXPECT_EQ(datapath.counters().no_backend, 1U);
}

TEST(MemoryDatapath, ARestartAdopts) {
    MemoryDatapath first;
    const ServiceRow row = web({1, 1});
    const std::vector<ServiceChange> changes{ServiceChange::upsert(row)};
    ASSERT_TRUE(first.apply(changes));
    const auto second = first.restart();
    EXPECT_EQ(second->adopted().services, 1U);
    EXPECT_EQ(second->adopted().backends, 2U);
    Rng rng(1);
    EXPECT_TRUE(second->connect(row.frontend, rng));
    ASSERT_TRUE(second->finish_adopt());
    EXPECT_TRUE(second->dump().empty());
}

}  // namespace
