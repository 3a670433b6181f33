#include "serve/l7/http_policy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <re2/re2.h>

#include "filter_harness.hpp"
#include "model/http_path.hpp"

namespace mesh::serve::l7::test {
namespace {

namespace policy = model::policy;

/// Whether a request passes, parsed as the proxy does it.
bool passes(const std::shared_ptr<const HttpPolicy>& rules, std::string_view method,
            std::string_view path, std::string_view host = "a", std::string_view fields = {}) {
    std::string head(method);
    head.append(" ").append(path).append(" HTTP/1.1\r\nHost: ").append(host).append("\r\n");
    head.append(fields).append("\r\n");
    RequestHead request;
    EXPECT_EQ(parse_request(head, {}, request), Problem::kNone) << head;
    Decision decision;
    rules->decide({request.method, request.path, request.host, request.plain_path, request.fields},
                  decision);
    return decision.allowed;
}

TEST(HttpPolicy, ExpressionsAreAnchoredAtBothEnds) {
    const auto rules = policy_of({{"GET|HEAD", "/a[0-9]", "x\\.example", {}, {}}});
    EXPECT_TRUE(passes(rules, "GET", "/a1", "x.example"));
    EXPECT_TRUE(passes(rules, "HEAD", "/a1", "x.example"));
    EXPECT_FALSE(passes(rules, "GETX", "/a1", "x.example"));
    EXPECT_FALSE(passes(rules, "XGET", "/a1", "x.example"));
    EXPECT_FALSE(passes(rules, "get", "/a1", "x.example"));
    EXPECT_FALSE(passes(rules, "GET", "/a12", "x.example"));
    EXPECT_FALSE(passes(rules, "GET", "/x/a1", "x.example"));
    EXPECT_FALSE(passes(rules, "GET", "/a1", "xyexample"));
    EXPECT_FALSE(passes(rules, "GET", "/a1", "x.example:80"));
    EXPECT_FALSE(passes(rules, "GET", "/a1", "x.example.org"));
}

TEST(HttpPolicy, PlainTextsAndBeginnings) {
    const auto exact = policy_of({{"GET", "/public", "", {}, {}}});
    EXPECT_TRUE(passes(exact, "GET", "/public"));
    EXPECT_FALSE(passes(exact, "GET", "/public/"));
    EXPECT_FALSE(passes(exact, "GET", "/publi"));
    const auto prefix = policy_of({{"", "/public/.*", "", {}, {}}});
    EXPECT_TRUE(passes(prefix, "PUT", "/public/"));
    EXPECT_TRUE(passes(prefix, "PUT", "/public/x/y?z"));
    EXPECT_FALSE(passes(prefix, "PUT", "/public"));
    // What looks like a plain text and is none.
    EXPECT_TRUE(passes(policy_of({{"", "/a.c", "", {}, {}}}), "GET", "/abc"));
    EXPECT_TRUE(passes(policy_of({{"", "/a/.*.*", "", {}, {}}}), "GET", "/a/b"));
    EXPECT_FALSE(passes(policy_of({{"", "/a\\.*", "", {}, {}}}), "GET", "/ab"));
}

TEST(HttpPolicy, ShortCutsSayWhatTheExpressionSays) {
    const std::vector<std::string> expressions{
        "/a|/b",   "/a|/b.*", "/a(b|c)", "/ab?",         "/ab*c",         "/ab{0,1}",
        "/ab+",    "/a|",     "|/a",     "(?i)/AB",      "/a[bc]|d",      "/\\Qa.b\\E",
        "/abc\\d", "/a.b",    "/a^b",    "/(a|b)c",      "/a$",           "^/a",
        ".*",      "/.*",     "",        "/a\xc3\xa4?b", "/a\xc3\xa4{0}b"};
    const std::vector<std::string> paths{"/a",    "/b", "/ab", "/ac", "/abb", "/abc",
                                         "/abbc", "/",  "/bx", "/bc", "/a.b", "/aab",
                                         "/abc1", "/d", "/AB", "/a?b"};
    for (const std::string& expression : expressions) {
        const auto rules = policy_of({{"", expression, "", {}, {}}});
        ASSERT_NE(rules, nullptr) << expression;
        for (const std::string& path : paths) {
            EXPECT_EQ(passes(rules, "GET", path),
                      expression.empty() || RE2::FullMatch(path, expression))
                << expression << " " << path;
        }
    }
}

TEST(HttpPolicy, TheQueryIsPartOfThePath) {
    const auto rules = policy_of({{"", "/a", "", {}, {}}});
    EXPECT_TRUE(passes(rules, "GET", "/a"));
    EXPECT_FALSE(passes(rules, "GET", "/a?b"));
    EXPECT_TRUE(passes(policy_of({{"", "/a(\\?.*)?", "", {}, {}}}), "GET", "/a?b=../c"));
    EXPECT_FALSE(passes(policy_of({{"", "/a\\?b", "", {}, {}}}), "GET", "/a%3Fb"));
}

TEST(HttpPolicy, PathsThatServersMayResolveToOthersDoNotGetPast) {
    const auto rules = policy_of({{"GET", "/public/.*", "", {}, {}}});
    for (const std::string_view path :
         {"/public/../private", "/public/..", "/public/%2e%2e/private", "/public/%2E./private",
          "/public/.%2e/private", "/public/x/../../private", "/public/..%2fprivate",
          "/public/..%2Fprivate", "/public/..%5cprivate", "/public/..;/private",
          "/public/..;x=y/private", "/public/.%2e;/private", "/public/./../private",
          "/public//../../private", "/public/%2e%2e%2fprivate", "/public/../private?/public/x",
          "/public/../public", "/public/x/..%3bx/../../private"}) {
        EXPECT_FALSE(passes(rules, "GET", path)) << path;
    }
    for (const std::string_view path :
         {"/public/a", "/public/a//b", "/public/./a", "/public/x/../a", "/public/%41",
          "/public/a%2fb", "/public/a%20b", "/public/...", "/public/..a", "/public/a;b=c",
          "/public/?x=../../private", "/public/a%2", "/public/a%zz", "/public/x/.."}) {
        EXPECT_TRUE(passes(rules, "GET", path)) << path;
    }
    // As sent and resolved must both pass, by one rule.
    const auto private_too = policy_of({{"", "/public/.*", "", {}, {}}, {"", "/b", "", {}, {}}});
    EXPECT_FALSE(passes(private_too, "GET", "/public/../b"));
    EXPECT_FALSE(passes(private_too, "GET", "//b"));
    EXPECT_FALSE(passes(policy_of({{"", "/[a-z]+", "", {}, {}}}), "GET", "/a%2fb"));
    // An escape that rules spell out is not decoded.
    EXPECT_TRUE(passes(policy_of({{"", "/a%20b", "", {}, {}}}), "GET", "/a%20b"));
    EXPECT_TRUE(passes(everything(), "GET", "/public/../x"));
}

TEST(HttpPolicy, Normalisation) {
    const auto normal = [](std::string_view path) {
        std::string out;
        model::normalise_path(path, out);
        return out;
    };
    EXPECT_EQ(normal("/"), "/");
    EXPECT_EQ(normal("//"), "/");
    EXPECT_EQ(normal("/a//b///c/"), "/a/b/c/");
    EXPECT_EQ(normal("/a/./b/../c"), "/a/c");
    EXPECT_EQ(normal("/.."), "/");
    EXPECT_EQ(normal("/../../a/.."), "/");
    EXPECT_EQ(normal("/a/b/.."), "/a/");
    EXPECT_EQ(normal("/a/."), "/a/");
    EXPECT_EQ(normal("/%7Ea%41%2d?%41/.."), "/~aA-?%41/..");
    EXPECT_EQ(normal("/a%2Fb%5cc\\d"), "/a/b/c/d");
    EXPECT_EQ(normal("/a%25%32e"), "/a%252e");
    EXPECT_EQ(normal("/a;x/..;y/b"), "/b");
    EXPECT_EQ(normal("/%"), "/%");
    EXPECT_EQ(normal("/%4"), "/%4");
}

TEST(HttpPolicy, Headers) {
    const auto present = policy_of({{"", "", "", {"X-Key"}, {}}});
    EXPECT_TRUE(passes(present, "GET", "/", "a", "x-key: anything\r\n"));
    EXPECT_TRUE(passes(present, "GET", "/", "a", "x-key:\r\n"));
    EXPECT_FALSE(passes(present, "GET", "/", "a", "x-key2: anything\r\n"));
    const auto value = policy_of({{"", "", "", {"X-Key: Yes", "X-Other"}, {}}});
    EXPECT_TRUE(passes(value, "GET", "/", "a", "x-key: Yes\r\nX-OTHER: 1\r\n"));
    EXPECT_FALSE(passes(value, "GET", "/", "a", "x-key: yes\r\nX-OTHER: 1\r\n"));
    EXPECT_FALSE(passes(value, "GET", "/", "a", "x-key: Yes\r\n"));
    // Several fields of a name are one list.
    EXPECT_FALSE(passes(value, "GET", "/", "a", "x-key: Yes\r\nx-key: No\r\nX-Other: 1\r\n"));
    EXPECT_TRUE(passes(policy_of({{"", "", "", {"X-Key: a,b"}, {}}}), "GET", "/", "a",
                       "x-key: a\r\nx-key: b\r\n"));
}

TEST(HttpPolicy, HeaderMatchesThatDrop) {
    const auto rules =
        policy_of({{"", "", "", {}, {{"X-Key", "v", policy::HeaderMismatch::kDrop}}}});
    EXPECT_TRUE(passes(rules, "GET", "/", "a", "x-key: v\r\n"));
    EXPECT_FALSE(passes(rules, "GET", "/", "a", "x-key: w\r\n"));
    EXPECT_FALSE(passes(rules, "GET", "/"));
    const auto present =
        policy_of({{"", "", "", {}, {{"X-Key", "", policy::HeaderMismatch::kDrop}}}});
    EXPECT_TRUE(passes(present, "GET", "/", "a", "x-key: w\r\n"));
    EXPECT_FALSE(passes(present, "GET", "/"));
}

TEST(HttpPolicy, ElementsAreAlternativesAndNoRulesIsEverything) {
    const auto rules = policy_of({{"GET", "", "", {}, {}}, {"", "/x", "", {}, {}}});
    EXPECT_TRUE(passes(rules, "GET", "/y"));
    EXPECT_TRUE(passes(rules, "PUT", "/x"));
    EXPECT_FALSE(passes(rules, "PUT", "/y"));
    EXPECT_TRUE(passes(everything(), "PUT", "/y"));
    auto none = std::make_shared<policy::L7Rules>();
    const std::vector<HttpPolicy::Source> both{{policy_of({}) ? none : none, "a"}};
    EXPECT_TRUE(passes(*HttpPolicy::compile(both), "PUT", "/y"));
    // No source at all, or rules of another kind: nothing.
    EXPECT_FALSE(passes(*HttpPolicy::compile({}), "GET", "/"));
    auto dns = std::make_shared<policy::L7Rules>();
    dns->dns.push_back({"a.example", ""});
    const std::vector<HttpPolicy::Source> other{{dns, "a"}};
    EXPECT_FALSE(passes(*HttpPolicy::compile(other), "GET", "/"));
}

TEST(HttpPolicy, WhatCannotBeCompiledIsNamed) {
    const auto failure = [](policy::HttpRule rule, const HttpPolicyLimits& limits = {}) {
        auto rules = std::make_shared<policy::L7Rules>();
        rules->http.push_back(std::move(rule));
        const std::vector<HttpPolicy::Source> sources{{rules, "CiliumNetworkPolicy a/b:3"}};
        auto made = HttpPolicy::compile(sources, limits);
        return made ? std::string() : made.error().message();
    };
    EXPECT_THAT(
        failure({"", "/a(", "", {}, {}}),
        ::testing::StartsWith("invalid_argument: CiliumNetworkPolicy a/b:3: path: \"/a(\""));
    EXPECT_THAT(failure({"", "((a{1,100}){1,100}){1,100}", "", {}, {}}), ::testing::Ne(""));
    EXPECT_THAT(failure({"", "", std::string(5000, 'a'), {}, {}}),
                ::testing::HasSubstr("at most 4096"));
    EXPECT_THAT(failure({"", "/(a|b){1,1000}", "", {}, {}}, {10, 100, 100, 1 << 20}),
                ::testing::HasSubstr("at most 100"));
    EXPECT_THAT(
        failure({"", "", "", {}, {{"Content-Length", "5", policy::HeaderMismatch::kReplace}}}),
        ::testing::HasSubstr("Content-Length"));
}

}  // namespace
}  // namespace mesh::serve::l7::test
