#include "attach/pod_link.hpp"

#include <gtest/gtest.h>
#include <net/if.h>

namespace mesh::attach {
namespace {

model::IpAddress address(const char* text) {
    return *model::IpAddress::parse(text);
}

TEST(PodLink, DeviceNamesFitAndTellAddressesApart) {
    EXPECT_EQ(node_device_of(address("10.10.0.5")), "lxc0a0a0005");
    EXPECT_EQ(node_device_of(address("fd00::1:2")), "lxcx00010002");
    EXPECT_LT(node_device_of(address("ffff::ffff:ffff")).size(), std::size_t{IFNAMSIZ});
}

TEST(PodLink, DevicesOfContainersFitAndTellThemApart) {
    const std::string device = node_device_of("c0ffee", "eth0");
    EXPECT_EQ(device, node_device_of("c0ffee", "eth0"));
    EXPECT_TRUE(device.starts_with("lxc"));
    EXPECT_LT(device.size(), std::size_t{IFNAMSIZ});
    EXPECT_NE(device, node_device_of("c0ffee", "net1"));
    EXPECT_NE(device, node_device_of("c0ffee1", "eth0"));
}

TEST(PodLink, MacsAreLocallyAdministeredAndOfBothEnds) {
    const auto macs = macs_of(address("10.10.0.5"));
    EXPECT_EQ(datapath::to_string(macs.pod), "02:70:0a:0a:00:05");
    EXPECT_EQ(datapath::to_string(macs.node), "02:71:0a:0a:00:05");
}

TEST(PodLink, TheGatewayIsLinkLocal) {
    EXPECT_EQ(pod_gateway(true).to_string(), "169.254.1.1");
    EXPECT_EQ(pod_gateway(false).to_string(), "fe80::1");
}

}  // namespace
}  // namespace mesh::attach
