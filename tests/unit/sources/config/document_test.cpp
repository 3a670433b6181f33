#include "sources/config/document.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mesh::sources::config {
namespace {

using Kind = DocumentValue::Kind;
using testing::HasSubstr;

std::vector<Document> good(std::string_view text) {
    auto parsed = parse_documents(text, "f");
    EXPECT_TRUE(parsed) << parsed.error().message();
    return parsed ? *parsed : std::vector<Document>{};
}
std::string bad(std::string_view text) {
    const auto parsed = parse_documents(text, "f");
    EXPECT_FALSE(parsed) << text;
    return parsed ? "" : parsed.error().detail();
}

TEST(DocumentTest, YamlDocumentsHaveNumbersAndLines) {
    const auto documents = good("# only a comment\n---\na: 1\n---\n---\nb:\n  - x\n  - y: z\n");
    ASSERT_EQ(documents.size(), 2U);
    EXPECT_EQ(documents[0].root.find("a")->line, 3U);
    const auto& list = *documents[1].root.find("b");
    ASSERT_EQ(list.items.size(), 2U);
    EXPECT_EQ(list.items[1].find("y")->line, 8U);
    EXPECT_GT(documents[1].number, documents[0].number);
}

TEST(DocumentTest, PlainScalarsAreTypedAsKubectlReadsThem) {
    const auto kind = [](std::string_view scalar) {
        const auto documents = good(fmt::format("v: {}\n", scalar));
        return documents.at(0).root.find("v")->kind;
    };
    for (const char* text : {"true", "True", "FALSE", "yes", "No", "on", "OFF"}) {
        EXPECT_EQ(kind(text), Kind::kBool) << text;
    }
    for (const char* text : {"1", "-1", "+1.5", "1e3", "0x1f", "1_000", ".5", "1.10", ".inf"}) {
        EXPECT_EQ(kind(text), Kind::kNumber) << text;
    }
    for (const char* text : {"10.0.0.1", "tRuE", "y", "1a", "2026-11-23T11:39:28Z", "\"true\"",
                             "'1'", "v1", "e3", "fd00::1", "."}) {
        EXPECT_EQ(kind(text), Kind::kString) << text;
    }
    for (const char* text : {"", "~", "null", "Null"}) EXPECT_EQ(kind(text), Kind::kNull) << text;
}

TEST(DocumentTest, JsonValuesFollowEachOther) {
    const auto documents =
        good("{\"a\": [1, \"x\\u003c\\ud83d\\ude00\", true, null],\n \"b\": {}}\n{\"c\":-1.5e3}");
    ASSERT_EQ(documents.size(), 2U);
    const auto& list = *documents[0].root.find("a");
    EXPECT_EQ(list.items[0].kind, Kind::kNumber);
    EXPECT_EQ(list.items[1].text, "x<\xf0\x9f\x98\x80");
    EXPECT_EQ(list.items[2].text, "true");
    EXPECT_EQ(list.items[3].kind, Kind::kNull);
    EXPECT_EQ(documents[0].root.find("b")->line, 2U);
    EXPECT_EQ(documents[1].number, 2U);
    EXPECT_EQ(documents[1].root.find("c")->text, "-1.5e3");
}

TEST(DocumentTest, AliasesAreCopies) {
    const auto documents = good("a: &x {k: v}\nb: *x\n");
    EXPECT_EQ(documents.at(0).root.find("b")->find("k")->text, "v");
}

TEST(DocumentTest, MistakesNameDocumentAndLine) {
    EXPECT_THAT(bad("a: 1\n---\nb: 1\nb: 2\n"), HasSubstr("f: document 2: line 4: \"b\""));
    EXPECT_THAT(bad("a:\n\t- x\n"), HasSubstr("f: document 1: line 2:"));
    EXPECT_THAT(bad("a: [1, 2\nb: 3\n"), HasSubstr("document 1: line"));
    EXPECT_THAT(bad("<<: {a: b}\n"), HasSubstr("merge keys"));
    EXPECT_THAT(bad("? [a]\n: b\n"), HasSubstr("name as key"));
    EXPECT_THAT(bad("{\"a\": 1,\n\"b\": }"), HasSubstr("f: document 1: line 2:"));
    EXPECT_THAT(bad("{\"a\": 1}\n{\"a\": 1, \"a\": 2}"), HasSubstr("f: document 2: line 2:"));
    EXPECT_THAT(bad("{\"a\": 1"), HasSubstr("ends inside"));
    EXPECT_THAT(bad("{\"a\": 1} x"), HasSubstr("document 2"));
}

TEST(DocumentTest, ABracketTooManyIsNamedByItsLine) {
    for (const char* text : {"---\n}\n", "---\n]\n", "# x\n}}\n", "a: {b: c}\n}\n"}) {
        EXPECT_THAT(bad(text), HasSubstr("line 2: ")) << text;
    }
    EXPECT_EQ(good("---\n---\n...\n---\na: 1\n...\n...\n---\n").size(), 1U);
}

TEST(DocumentTest, BombsAreRefused) {
    const std::string deep(200, '[');
    EXPECT_THAT(bad("a: " + deep + std::string(200, ']')), HasSubstr("deep"));
    EXPECT_FALSE(parse_documents("{\"a\":" + deep, "f"));
    std::string laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
    for (int i = 1; i < 10; ++i) {
        laughs += fmt::format("a{0}: &a{0} [*a{1},*a{1},*a{1},*a{1},*a{1},*a{1},*a{1},*a{1}]\n", i,
                              i - 1);
    }
    EXPECT_THAT(bad(laughs), HasSubstr("values"));
    EXPECT_FALSE(parse_documents("a: &a [*a]\n", "f"));
}

}  // namespace
}  // namespace mesh::sources::config
