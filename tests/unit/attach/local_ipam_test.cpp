#include "attach/local_ipam.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace mesh::attach {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LocalIpam : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "ipam.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        root = name;
        directory = root + "/made/by/need";
    }
    void TearDown() override { std::filesystem::remove_all(root); }

    static std::vector<model::IpPrefix> blocks(std::initializer_list<const char*> texts) {
        std::vector<model::IpPrefix> all;
        for (const char* text : texts) all.push_back(*model::IpPrefix::parse(text));
        return all;
    }

    // The addresses' texts, or the error.
    std::vector<std::string> give(std::initializer_list<const char*> from,
                                  const std::string& container) {
        const auto given = allocate_addresses(directory, blocks(from), {container, "eth0"});
        if (!given) return {given.error().message()};
        std::vector<std::string> texts;
        for (const auto& address : *given) texts.push_back(address.to_string());
        return texts;
    }

    void take_back(const std::string& container) {
        const auto done = release_addresses(directory, {container, "eth0"});
        EXPECT_TRUE(done) << done.error().message();
    }

    // Names of addresses that are given.
    std::set<std::string> held() {
        std::set<std::string> names;
        for (const auto& entry : std::filesystem::directory_iterator(directory)) {
            const std::string name = entry.path().filename().string();
            if (!name.starts_with("last-")) names.insert(name);
        }
        return names;
    }

    std::string root, directory;
};

TEST_F(LocalIpam, GivesOneOfEachFamilyFromTheThird) {
    EXPECT_THAT(give({"fd00:1::/64", "10.1.1.0/24"}, "a"), ElementsAre("10.1.1.2", "fd00:1::2"));
    EXPECT_THAT(give({"fd00:1::/64", "10.1.1.0/24"}, "b"), ElementsAre("10.1.1.3", "fd00:1::3"));
    EXPECT_THAT(give({"fd00:2::/48"}, "b"), ElementsAre("fd00:2::2"));
}

TEST_F(LocalIpam, AnAddressComesBackAsLateAsPossible) {
    EXPECT_THAT(give({"10.1.1.0/29"}, "a"), ElementsAre("10.1.1.2"));
    take_back("a");
    EXPECT_THAT(give({"10.1.1.0/29"}, "b"), ElementsAre("10.1.1.3"));
    for (const char* next : {"10.1.1.4", "10.1.1.5", "10.1.1.6", "10.1.1.2"}) {
        EXPECT_THAT(give({"10.1.1.0/29"}, next), ElementsAre(next));
    }
    EXPECT_THAT(
        give({"10.1.1.0/29"}, "c"),
        ElementsAre("capacity: no address of 10.1.1.0/29 is free; who holds them: " + directory));
    take_back("10.1.1.4");
    EXPECT_THAT(give({"10.1.1.0/29"}, "c"), ElementsAre("10.1.1.4"));
}

TEST_F(LocalIpam, TheFirstTwoAndTheBroadcastAreNeverGiven) {
    EXPECT_THAT(give({"10.1.1.4/30"}, "a"), ElementsAre("10.1.1.6"));
    EXPECT_THAT(give({"10.1.1.4/30"}, "b").front(), HasSubstr("capacity"));
    EXPECT_THAT(give({"fd00::4/126"}, "a"), ElementsAre("fd00::6"));
    EXPECT_THAT(give({"fd00::4/126"}, "b"), ElementsAre("fd00::7"));
    EXPECT_THAT(give({"fd00::4/126"}, "c").front(), HasSubstr("capacity"));
}

TEST_F(LocalIpam, BlocksOfAFamilyAreUsedInTheirOrder) {
    EXPECT_THAT(give({"10.1.1.0/30", "10.1.2.0/24"}, "a"), ElementsAre("10.1.1.2"));
    EXPECT_THAT(give({"10.1.1.0/30", "10.1.2.0/24"}, "b"), ElementsAre("10.1.2.2"));
}

TEST_F(LocalIpam, AFamilyWithoutAFreeAddressGivesNoneOfTheOther) {
    EXPECT_THAT(give({"fd00::/126"}, "a"), ElementsAre("fd00::2"));
    EXPECT_THAT(give({"fd00::/126"}, "b"), ElementsAre("fd00::3"));
    EXPECT_THAT(give({"fd00::/126", "10.1.1.0/24"}, "c").front(), HasSubstr("fd00::/126"));
    EXPECT_THAT(held(), ElementsAre("fd00::2", "fd00::3"));
}

TEST_F(LocalIpam, OnlyTheOwnersAddressesGo) {
    give({"10.1.1.0/24", "fd00::/64"}, "a");
    give({"10.1.1.0/24", "fd00::/64"}, "b");
    const auto other = allocate_addresses(directory, blocks({"10.1.1.0/24"}), {"a", "net1"});
    ASSERT_TRUE(other);
    take_back("a");
    EXPECT_THAT(held(), ElementsAre("10.1.1.3", "10.1.1.4", "fd00::3"));
    take_back("a");
    take_back("never seen");
    EXPECT_EQ(held().size(), 3U);
}

TEST_F(LocalIpam, TakingBackMakesNoDirectory) {
    take_back("a");
    EXPECT_FALSE(std::filesystem::exists(directory));
}

TEST_F(LocalIpam, ChecksWhoHoldsAnAddress) {
    give({"10.1.1.0/24"}, "a");
    const auto address = *model::IpAddress::parse("10.1.1.2");
    EXPECT_TRUE(check_address(directory, address, {"a", "eth0"}));
    EXPECT_EQ(check_address(directory, address, {"b", "eth0"}).error().code(), Errc::kNotFound);
    take_back("a");
    EXPECT_EQ(check_address(directory, address, {"a", "eth0"}).error().code(), Errc::kNotFound);
}

TEST_F(LocalIpam, WhatAKilledCallLeftHalfDoneIsUsed) {
    give({"10.1.1.0/24"}, "a");
    std::ofstream(directory + "/10.1.1.3");
    std::ofstream(directory + "/10.1.1.4") << "b\net";
    std::ofstream(directory + "/last-10.1.1.0_24") << "nonsense";
    EXPECT_THAT(give({"10.1.1.0/24"}, "c"), ElementsAre("10.1.1.3"));
    EXPECT_THAT(give({"10.1.1.0/24"}, "d"), ElementsAre("10.1.1.4"));
    std::ofstream(directory + "/10.1.1.9");
    take_back("c");
    take_back("d");
    EXPECT_THAT(held(), ElementsAre("10.1.1.2"));
}

TEST_F(LocalIpam, ProcessesAtTheSameTimeGetDifferentAddresses) {
    constexpr int kProcesses = 8;
    constexpr int kEach = 10;
    std::vector<pid_t> children;
    for (int process = 0; process < kProcesses; ++process) {
        const pid_t pid = ::fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
            bool good = true;
            for (int i = 0; i < kEach; ++i) {
                const std::string id = "p" + std::to_string(process) + "-" + std::to_string(i);
                const auto given =
                    allocate_addresses(directory, blocks({"10.1.1.0/24"}), {id, "eth0"});
                good = good && given.has_value() && given->size() == 1;
                // Every other one goes again, so that the search meets gaps.
                if (i % 2 == 1) good = good && release_addresses(directory, {id, "eth0"});
            }
            ::_exit(good ? 0 : 1);
        }
        children.push_back(pid);
    }
    for (const pid_t pid : children) {
        int status = 0;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
    }
    // One file each: had two got the same address, one of them would be missing.
    std::set<std::string> owners;
    for (const std::string& name : held()) {
        std::ifstream file(directory + "/" + name);
        std::string owner;
        std::getline(file, owner);
        EXPECT_TRUE(owners.insert(owner).second) << owner;
    }
    EXPECT_EQ(owners.size(), std::size_t{kProcesses * kEach / 2});
}

}  // namespace
}  // namespace mesh::attach
