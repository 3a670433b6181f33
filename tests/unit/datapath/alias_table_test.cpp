#include "datapath/alias_table.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "runtime/clock.hpp"

namespace {

using mesh::datapath::AliasRow;
using mesh::datapath::make_alias_table;

/// The share of each entry that a table gives, summed exactly.
std::vector<double> shares(const std::vector<AliasRow>& rows) {
    std::vector<double> share(rows.size(), 0.0);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const double own = rows[i].alias == i ? 1.0 : rows[i].threshold / 4294967296.0;
        share[i] += own / static_cast<double>(rows.size());
        share[rows[i].alias] += (1.0 - own) / static_cast<double>(rows.size());
    }
    return share;
}

void expect_shares(const std::vector<std::uint16_t>& weights) {
    const auto rows = make_alias_table(weights);
    ASSERT_EQ(rows.size(), weights.size());
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    const auto share = shares(rows);
    for (std::size_t i = 0; i < weights.size(); ++i) {
        EXPECT_NEAR(share[i], weights[i] / total, 1e-8)
            << "entry " << i << " of " << weights.size();
    }
}

TEST(AliasTable, GivesEachEntryItsShare) {
    expect_shares({7});
    expect_shares({1, 1, 1});
    expect_shares({1, 2, 3, 4});
    expect_shares({65535, 1});
    expect_shares({1, 65535, 1, 65535, 1});
}

TEST(AliasTable, GivesEachEntryItsShareForAnyWeights) {
    mesh::Rng rng(20261123);
    for (int round = 0; round < 300; ++round) {
        std::vector<std::uint16_t> weights(1 + rng.below(200));
        for (auto& weight : weights) {
            weight = static_cast<std::uint16_t>(1 + rng.below(rng.below(2) == 0 ? 10 : 65535));
        }
        expect_shares(weights);
    }
}

TEST(AliasTable, EqualWeightsNeedNoSecondNumber) {
    for (const AliasRow& row : make_alias_table(std::vector<std::uint16_t>(100, 5))) {
        EXPECT_EQ(row.threshold, 0xffffffffU);
    }
}

TEST(AliasTable, DependsOnlyOnTheWeights) {
    const std::vector<std::uint16_t> weights{5, 1, 9, 2, 2};
    EXPECT_EQ(make_alias_table(weights), make_alias_table(weights));
    EXPECT_TRUE(make_alias_table({}).empty());
}

}  // namespace
