#include <gtest/gtest.h>

#include <mesh/error.hpp>
#include <string>

namespace {

mesh::Result<int> parse_even(int value) {
    if (value % 2 != 0) return mesh::invalid_argument("value: expected an even number");
    return value;
}

mesh::Result<std::string> doubled(int value) {
    MESH_TRY(const int even, parse_even(value));
    return std::to_string(even * 2);
}

mesh::Result<void> check(int value) {
    MESH_CHECK(parse_even(value));
    return {};
}

TEST(Error, TryPassesValuesAndErrorsOn) {
    EXPECT_EQ(*doubled(4), "8");
    const auto failed = doubled(3);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code(), mesh::Errc::kInvalidArgument);
    EXPECT_EQ(failed.error().message(), "invalid_argument: value: expected an even number");
    EXPECT_TRUE(check(2));
    EXPECT_FALSE(check(1));
}

TEST(Error, PrefixNamesTheOrigin) {
    EXPECT_EQ(mesh::not_found("key k").with_prefix("cluster c1").message(),
              "not_found: cluster c1: key k");
}

TEST(Error, UncheckedValueThrows) {
    EXPECT_THROW((void)parse_even(1).value(), std::logic_error);
}

}  // namespace
