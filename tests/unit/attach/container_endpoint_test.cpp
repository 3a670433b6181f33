#include "attach/container_endpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace mesh::attach {
namespace {

using ::testing::HasSubstr;

class ContainerEndpoint : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "container.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        root = name;
        directory = root + "/endpoints";
    }
    void TearDown() override { std::filesystem::remove_all(root); }

    void write(const std::string& id, const std::string& container,
               const std::string& device = "eth0") {
        sources::config::EndpointFile file;
        file.namespace_ = "shop";
        file.pod = "echo-1";
        file.container_id = container;
        file.device = "lxc1";
        file.pod_device = device;
        file.ips = {*model::IpAddress::parse("10.1.1.2")};
        const auto written = write_container_endpoint(directory, id, file);
        ASSERT_TRUE(written) << written.error().message();
    }
    void remove(const std::string& id, const std::string& container,
                const std::string& device = "eth0") {
        const auto removed = remove_container_endpoint(directory, id, container, device);
        ASSERT_TRUE(removed) << removed.error().message();
    }
    bool exists(const std::string& id) {
        return std::filesystem::exists(directory + "/" + id + ".json");
    }

    std::string root, directory;
};

TEST_F(ContainerEndpoint, GoesByItsNameOrByItsContainer) {
    write("shop.echo-1", "c1");
    write("shop.echo-2", "c2");
    remove("shop.echo-1", "c1");
    EXPECT_FALSE(exists("shop.echo-1"));
    // The runtime did not say which pod it was.
    remove("c2.eth0", "c2");
    EXPECT_FALSE(exists("shop.echo-2"));
    remove("c2.eth0", "c2");
}

TEST_F(ContainerEndpoint, ThatOfThePodsNextContainerStays) {
    write("shop.echo-1", "old");
    write("shop.echo-1", "new");
    remove("shop.echo-1", "old");
    EXPECT_TRUE(exists("shop.echo-1"));
    remove("shop.echo-1", "new", "net1");
    EXPECT_TRUE(exists("shop.echo-1"));
}

TEST_F(ContainerEndpoint, WhatKilledWritersLeftGoes) {
    write("shop.echo-1", "c1");
    std::ofstream(directory + "/.shop.echo-2.json.Ab3dEf") << "{";
    std::ofstream(directory + "/broken.json") << "{";
    remove("shop.echo-2", "c2");
    EXPECT_FALSE(std::filesystem::exists(directory + "/.shop.echo-2.json.Ab3dEf"));
    EXPECT_TRUE(exists("shop.echo-1"));
    EXPECT_TRUE(exists("broken"));
}

TEST_F(ContainerEndpoint, RemovingMakesNoDirectory) {
    remove("shop.echo-1", "c1");
    EXPECT_FALSE(std::filesystem::exists(directory));
}

TEST_F(ContainerEndpoint, ReadingTellsWhoseItIs) {
    write("shop.echo-1", "c1");
    EXPECT_TRUE(read_container_endpoint(directory, "shop.echo-1", "c1", "eth0"));
    const auto other = read_container_endpoint(directory, "shop.echo-1", "c2", "eth0");
    ASSERT_FALSE(other);
    EXPECT_THAT(other.error().message(), HasSubstr("is of container c1"));
}

}  // namespace
}  // namespace mesh::attach
