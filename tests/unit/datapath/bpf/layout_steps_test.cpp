// Steps between layouts of maps: entries through several of them, and the tables that are shipped.
#include "datapath/bpf/layout_steps.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "bpf/layout.h"
#include "datapath/bpf/map_copy.hpp"

namespace mesh::datapath {
namespace {

struct First {
    std::uint16_t port;
};
struct Second {
    std::uint32_t identity;
    std::uint16_t port;
    std::uint16_t pad;
};
struct Third {
    std::uint64_t both;
};

bool to_second(const std::uint32_t& old_key, const First& old, std::uint64_t& key, Second& entry) {
    key = old_key + 100U;
    entry = {7, old.port, 0};
    return old.port != 13;
}
bool to_third(const std::uint64_t& old_key, const Second& old, std::uint64_t& key, Third& entry) {
    key = old_key;
    entry.both = (std::uint64_t{old.identity} << 32) | old.port;
    return true;
}

constexpr MapChange kToSecond = map_change<&to_second>("table");
constexpr MapChange kToThird = map_change<&to_third>("table");

template <class T>
ConstEntryBytes bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}
template <class T>
T value_in(const std::vector<std::byte>& bytes) {
    T value{};
    EXPECT_GE(bytes.size(), sizeof value);
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

TEST(LayoutStepsTest, AChangeKnowsItsSizes) {
    EXPECT_EQ(kToSecond.old_key_size, 4U);
    EXPECT_EQ(kToSecond.old_value_size, 2U);
    EXPECT_EQ(kToSecond.key_size, 8U);
    EXPECT_EQ(kToSecond.value_size, 8U);
}

TEST(LayoutStepsTest, AnEntryGoesThroughAllSteps) {
    const auto entry =
        convert_entry(bytes_of(std::uint32_t{5}), bytes_of(First{80}), {&kToSecond, &kToThird}, 1);
    ASSERT_TRUE(entry);
    EXPECT_EQ(value_in<std::uint64_t>(entry->key), 105U);
    EXPECT_EQ(value_in<Third>(entry->value).both, (std::uint64_t{7} << 32) | 80);
}

TEST(LayoutStepsTest, WithoutAChangeTheBytesStay) {
    const auto entry = convert_entry(bytes_of(std::uint32_t{5}), bytes_of(First{80}), {}, 1);
    ASSERT_TRUE(entry);
    EXPECT_EQ(value_in<std::uint32_t>(entry->key), 5U);
    EXPECT_EQ(value_in<First>(entry->value).port, 80);
}

TEST(LayoutStepsTest, AnEntryWithoutACounterpartIsLeftOut) {
    EXPECT_FALSE(
        convert_entry(bytes_of(std::uint32_t{5}), bytes_of(First{13}), {&kToSecond, &kToThird}, 1));
}

TEST(LayoutStepsTest, EveryRowOfAMapPerCpuIsConverted) {
    // Rows are 8-byte aligned whatever their value's size is.
    const std::array<std::uint64_t, 3> rows{80, 443, 53};
    const auto entry = convert_entry(bytes_of(std::uint32_t{5}), bytes_of(rows), {&kToSecond}, 3);
    ASSERT_TRUE(entry);
    const auto converted = value_in<std::array<Second, 3>>(entry->value);
    EXPECT_THAT((std::vector<int>{converted[0].port, converted[1].port, converted[2].port}),
                ::testing::ElementsAre(80, 443, 53));
}

/// Endpoints and settings before there were policies.
TEST(LayoutStepsTest, WhatIsOlderThanPoliciesHasNone) {
    const auto step_of = [](std::string_view map) {
        MapChanges changes;
        for (const LayoutStep& step : pods_layout().steps) {
            for (const MapChange& change : step.changes) {
                if (step.from == 2 && change.map == map) changes.push_back(&change);
            }
        }
        return changes;
    };
    std::array<std::uint8_t, 20> endpoint{};
    endpoint[0] = 7;
    endpoint[19] = 0x42;
    const auto pod = convert_entry(bytes_of(mesh_address{{0, 0, 0xffff, 1}}), bytes_of(endpoint),
                                   step_of("endpoints"), 1);
    ASSERT_TRUE(pod);
    EXPECT_EQ(value_in<mesh_address>(pod->key).word[3], 1U);
    const auto made = value_in<mesh_endpoint>(pod->value);
    EXPECT_EQ(made.ifindex, 7U);
    EXPECT_EQ(made.node_mac[5], 0x42);
    EXPECT_EQ(made.id, 0U);
    std::array<std::uint32_t, 22> settings{};
    settings[0] = 2;
    settings[20] = 15;
    const auto set =
        convert_entry(bytes_of(std::uint32_t{0}), bytes_of(settings), step_of("settings"), 1);
    ASSERT_TRUE(set);
    EXPECT_EQ(value_in<mesh_pods_settings>(set->value).identity_shift, 15U);
    EXPECT_EQ(value_in<mesh_pods_settings>(set->value).policy_flags, 0U);
}

/// What anybody who changes a layout may get wrong without a compiler's word.
TEST(LayoutStepsTest, TheStepsOfThisBuildLeadToItsLayouts) {
    for (const Layout& layout : {services_layout(), pods_layout()}) {
        std::map<std::string, std::pair<std::uint32_t, std::uint32_t>, std::less<>> sizes;
        std::uint32_t next = layout.steps.empty() ? layout.version : layout.steps.front().from;
        for (const LayoutStep& step : layout.steps) {
            EXPECT_EQ(step.from, next) << layout.version_map << ": a step is missing";
            ++next;
            for (const MapChange& change : step.changes) {
                const std::pair old(change.old_key_size, change.old_value_size);
                const auto known = sizes.find(change.map);
                EXPECT_TRUE(known == sizes.end() || known->second == old) << change.map;
                sizes.insert_or_assign(std::string(change.map),
                                       std::pair(change.key_size, change.value_size));
            }
        }
        EXPECT_EQ(next, layout.version) << layout.version_map << ": the version was raised alone";
    }
}

}  // namespace
}  // namespace mesh::datapath
