// Each value of encoding-json.txt becomes with us what it became with Go's encoding/json.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "model/base64.hpp"
#include "model/codec.hpp"

namespace mesh::model {
namespace {

template <class T>
std::string encoded(const Result<T>& parsed) {
    return parsed ? encode(*parsed) : "refused";
}

std::string ours(std::string_view kind, std::string_view value) {
    if (kind == "node") return encoded(parse_node("k", value));
    if (kind == "service") return encoded(parse_service("k", value));
    if (kind == "ip") return encoded(parse_ip("k", value));
    if (kind == "config") return encoded(parse_cluster_config("k", value));
    return "unknown kind";
}

TEST(EncodingJson, TakesAndRefusesTheSame) {
    std::ifstream in(MESH_SOURCE_DIR "/tests/golden/model/encoding-json.txt");
    std::size_t taken = 0;
    std::size_t refused = 0;
    std::string line;
    std::string expected;
    while (std::getline(in, line)) {
        if (line.starts_with('#')) continue;
        ASSERT_TRUE(std::getline(in, expected));
        const auto space = line.find(' ');
        ASSERT_NE(space, std::string::npos) << line;
        std::string value;
        ASSERT_TRUE(decode_base64(std::string_view(line).substr(space + 1), value)) << line;
        EXPECT_EQ(ours(std::string_view(line).substr(0, space), value), expected) << value;
        ++(expected == "refused" ? refused : taken);
    }
    EXPECT_EQ(taken, 240U);
    EXPECT_EQ(refused, 120U);
}

}  // namespace
}  // namespace mesh::model
