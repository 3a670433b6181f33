#include "engine/endpoint_numbers.hpp"

#include <gtest/gtest.h>

namespace mesh::engine {
namespace {

using sources::config::EndpointFile;

EndpointFile file(std::uint8_t n, std::uint8_t mac) {
    EndpointFile file;
    file.pod_mac = {2, 0, 0, 0, 0, mac};
    file.ips = {model::IpAddress::v4(10, 1, 0, n)};
    return file;
}

datapath::Endpoint former(std::uint8_t n, std::uint8_t mac, std::uint16_t id) {
    return {model::IpAddress::v4(10, 1, 0, n), 7, 0, {2, 0, 0, 0, 0, mac}, {}, id};
}

TEST(EndpointNumbers, APodKeepsItsNumberOverARestartAndAnotherAtItsAddressDoesNotGetIt) {
    const std::vector endpoints{former(1, 1, 5), former(2, 2, 6), former(3, 3, 0)};
    const std::vector policies{datapath::PolicyOccupancy{9, {}, 3}};
    EndpointNumbers numbers(endpoints, policies);
    EXPECT_EQ(numbers.acquire("a", file(1, 1)), (EndpointNumbers::Number{5, true}));
    EXPECT_EQ(numbers.acquire("a", file(1, 1)), (EndpointNumbers::Number{5, true}));
    EXPECT_EQ(numbers.acquire("b", file(2, 77)), (EndpointNumbers::Number{10, false}));
    EXPECT_EQ(numbers.acquire("c", file(3, 3)), (EndpointNumbers::Number{11, false}));
    numbers.release("b");
    EXPECT_EQ(numbers.acquire("d", file(4, 4)).id, 12) << "others come first";
}

TEST(EndpointNumbers, NumbersInUseAreNotGivenTwice) {
    EndpointNumbers numbers({}, std::vector{datapath::PolicyOccupancy{65535, {}, 0}});
    EXPECT_EQ(numbers.acquire("a", file(1, 1)).id, 1);
    for (unsigned i = 2; i < 65535; ++i) {
        ASSERT_EQ(numbers.acquire(std::to_string(i), file(2, 2)).id, i);
    }
    EXPECT_EQ(numbers.acquire("none", file(3, 3)).id, 0);
    numbers.finish_adoption();
    EXPECT_EQ(numbers.acquire("none", file(3, 3)).id, 65535);
    numbers.release("a");
    EXPECT_EQ(numbers.acquire("b", file(4, 4)).id, 1);
}

}  // namespace
}  // namespace mesh::engine
