// Every document of the recorded policy sets (tests/golden/samples/policy-README) is taken, and
// every one of the invalid ones refused with its line.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "sources/config/policy_documents.hpp"

namespace mesh::sources::config {
namespace {

namespace json = boost::json;

std::vector<json::object> read_lines(const char* name) {
    std::ifstream in(std::string(MESH_SOURCE_DIR "/tests/golden/samples/") + name);
    std::vector<json::object> all;
    for (std::string line; std::getline(in, line);) all.push_back(json::parse(line).as_object());
    return all;
}

TEST(PolicyDocuments, TakesWhatCiliumTook) {
    std::size_t documents = 0;
    for (const json::object& set : read_lines("policy-cases.jsonl")) {
        for (const json::value& text : set.at("policies").as_array()) {
            const auto parsed =
                parse_policies(std::string_view(text.as_string()), "case", PolicyFeatures::all());
            ++documents;
            EXPECT_TRUE(parsed.errors.empty())
                << set.at("name").as_string() << ": " << parsed.errors.front() << "\n"
                << text.as_string();
            EXPECT_EQ(parsed.policies.size(), 1U) << set.at("name").as_string();
        }
    }
    EXPECT_GT(documents, 400U);
}

TEST(PolicyDocuments, RefusesWhatIsInvalid) {
    std::size_t documents = 0;
    for (const json::object& one : read_lines("policy-invalid.jsonl")) {
        const auto parsed = parse_policies(std::string_view(one.at("policy").as_string()), "bad",
                                           PolicyFeatures::all());
        ++documents;
        EXPECT_TRUE(parsed.policies.empty()) << one.at("name").as_string();
        ASSERT_EQ(parsed.errors.size(), 1U) << one.at("name").as_string();
        EXPECT_TRUE(parsed.errors[0].starts_with("bad: document 1: line ")) << parsed.errors[0];
        EXPECT_NE(parsed.errors[0].find(": expected "), std::string::npos) << parsed.errors[0];
    }
    EXPECT_EQ(documents, 44U);
}

}  // namespace
}  // namespace mesh::sources::config
