#include "serve/dns/fqdn_cache_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "pki/files.hpp"

namespace mesh::serve::dns {
namespace {

using model::IpAddress;
using std::chrono::hours;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

bool nobody(EndpointId, const IpAddress&) {
    return false;
}
const std::vector<IpAddress> kOne{IpAddress::v4(10, 0, 0, 1)};
const std::vector<IpAddress> kTwo{*IpAddress::parse("fd00::2")};

class FqdnCacheFile : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "/fqdn-cache-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        path_ = folder_ / "cache";
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    void write(const std::string& text) const {
        ASSERT_TRUE(pki::write_file(path_, text, pki::FileMode::kPrivate));
    }

    ManualClock clock_;
    std::filesystem::path folder_, path_;
};

TEST_F(FqdnCacheFile, ComesBackAsItWas) {
    FqdnCache before;
    static_cast<void>(before.update(7, "a.com", kOne, seconds(1000), clock_.now()));
    static_cast<void>(before.update(8, "", kTwo, seconds(5), clock_.now()));
    clock_.advance(seconds(10));
    static_cast<void>(before.expire(clock_.now(), nobody));
    EXPECT_EQ(before.zombies(), 1U);
    ASSERT_TRUE(save_cache(path_, before, clock_));

    clock_.advance(seconds(3));
    FqdnCache after;
    after.add_selector({"a.com", {}});
    const auto restored = load_cache(path_, after, clock_);
    ASSERT_TRUE(restored) << restored.error().message();
    EXPECT_EQ(restored->addresses, 2U);
    EXPECT_EQ(restored->bad_lines, 0U);
    EXPECT_EQ(after.entries(), before.entries());
    EXPECT_EQ(after.addresses("a.com"), kOne);
}

TEST_F(FqdnCacheFile, WhatExpiredMeanwhileGetsItsGraceFromNow) {
    FqdnCache before;
    static_cast<void>(before.update(7, "a.com", kOne, seconds(10), clock_.now()));
    ASSERT_TRUE(save_cache(path_, before, clock_));
    clock_.advance(hours(5));
    FqdnCache after({.grace = seconds(60)});
    ASSERT_TRUE(load_cache(path_, after, clock_));
    EXPECT_EQ(after.zombies(), 1U);
    EXPECT_EQ(after.next_due(), clock_.now() + seconds(60));
}

TEST_F(FqdnCacheFile, ATimeInAFarFutureIsCut) {
    write("libmesh-fqdn-cache 1\n7 a.com 10.0.0.1 0 8000000000000 -\n");
    FqdnCache cache;
    ASSERT_TRUE(load_cache(path_, cache, clock_));
    EXPECT_EQ(cache.next_due(), clock_.now() + hours(24 * 7));
}

TEST_F(FqdnCacheFile, BadLinesArePassedOver) {
    write(
        "libmesh-fqdn-cache 1\n"
        "7 a.com 10.0.0.1 0 9000000 -\n"
        "0 a.com 10.0.0.1 0 0 -\n"
        "7 a..com 10.0.0.1 0 0 -\n"
        "7 a.com 10.0.0 0 0 -\n"
        "7 a.com 10.0.0.1 x 0 -\n"
        "7 a.com 10.0.0.1 0 -5 -\n"
        "7 a.com 10.0.0.1 0 0\n"
        "7 a.com 10.0.0.1 0 0 - more\n"
        "\xff\xfe\n"
        "\n"
        "7 B.com fd00::2 0 9000000 -\n"
        "7 c.com 10.0.0.1 0 9000000 -");  // cut off
    FqdnCache cache;
    const auto restored = load_cache(path_, cache, clock_);
    ASSERT_TRUE(restored);
    EXPECT_EQ(restored->addresses, 2U);
    EXPECT_EQ(restored->bad_lines, 10U);
    EXPECT_THAT(restored->first_error, HasSubstr("line 3"));
    EXPECT_EQ(cache.entries(7).back().name, "b.com");
}

TEST_F(FqdnCacheFile, AnotherFileIsKeptAside) {
    write("libmesh-fqdn-cache 2\n7 a.com 10.0.0.1 0 9000000 -\n");
    FqdnCache cache;
    const auto restored = load_cache(path_, cache, clock_);
    ASSERT_FALSE(restored);
    EXPECT_EQ(restored.error().code(), Errc::kCorrupt);
    EXPECT_THAT(restored.error().detail(), HasSubstr("first line"));
    EXPECT_EQ(cache.size(), 0U);
    EXPECT_FALSE(std::filesystem::exists(path_));
    EXPECT_TRUE(std::filesystem::exists(path_.string() + ".bad"));
    EXPECT_EQ(load_cache(path_, cache, clock_).error().code(), Errc::kNotFound);
}

TEST_F(FqdnCacheFile, AFailedSaveLeavesTheLastOne) {
    FqdnCache cache;
    write("old");
    const std::string nowhere = (folder_ / "no" / "such").string();
    EXPECT_FALSE(save_cache(nowhere, cache, clock_));
    EXPECT_EQ(*pki::read_file(path_), "old");
}

}  // namespace
}  // namespace mesh::serve::dns
