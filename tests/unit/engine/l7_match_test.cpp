// What policy trace says of a request is what the HTTP proxy does with it.
#include "compile/policy/l7_match.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "serve/l7/http_policy.hpp"

namespace mesh {
namespace {

using model::policy::HeaderMismatch;
using model::policy::HttpRule;

class Draw {
  public:
    explicit Draw(unsigned seed) : engine_(seed) {}
    template <class T, std::size_t N>
    const T& of(const T (&all)[N]) {
        return all[engine_() % N];
    }
    bool one_in(unsigned n) { return engine_() % n == 0; }

  private:
    std::mt19937 engine_;
};

constexpr const char* kMethods[] = {"", "GET", "GET|PUT", "P.*", "(GET)?"};
constexpr const char* kPaths[] = {"",       "/a",         "/a.*",  "/a/[0-9]+", "/(a|b)/c",
                                  "/a%2fb", "/public/.*", "/.*c?", "/a\\?x=1"};
constexpr const char* kHosts[] = {"", "web", "w.*", "web:80"};
constexpr const char* kHeaders[] = {"X-A", "x-a: 1", "X-A 1", "X-B: 1,2", "X-B:", "X-A:  1 "};
constexpr const char* kAskedMethods[] = {"GET", "PUT", "POST", ""};
constexpr const char* kAskedPaths[] = {"/",         "/a",   "/a/7",         "//a",
                                       "/a/../b/c", "/b/c", "/public/../a", "/a%2fb",
                                       "/a%2Fb",    "/%61", "/a?x=1",       "/a;x/.."};
constexpr const char* kAskedHosts[] = {"web", "web:80", "other"};
constexpr const char* kNames[] = {"X-A", "x-a", "X-B"};
constexpr const char* kValues[] = {"1", "2", "1,2", ""};

TEST(L7Match, SaysWhatTheProxyDecides) {
    int passed = 0;
    for (unsigned seed = 1; seed <= 20'000; ++seed) {
        Draw draw(seed);
        auto rules = std::make_shared<model::policy::L7Rules>();
        HttpRule& rule = rules->http.emplace_back();
        rule.method = draw.of(kMethods);
        rule.path = draw.of(kPaths);
        rule.host = draw.of(kHosts);
        while (draw.one_in(3)) rule.headers.emplace_back(draw.of(kHeaders));
        if (draw.one_in(4)) {
            rule.header_matches.push_back(
                {draw.of(kNames), draw.of(kValues),
                 draw.one_in(2) ? HeaderMismatch::kDrop : HeaderMismatch::kLog});
        }
        compile::HttpRequest request;
        request.method = draw.of(kAskedMethods);
        request.path = draw.of(kAskedPaths);
        request.host = draw.of(kAskedHosts);
        while (draw.one_in(2)) request.headers.emplace_back(draw.of(kNames), draw.of(kValues));

        const serve::l7::HttpPolicy::Source sources[]{{rules, "a rule"}};
        const auto policy = serve::l7::HttpPolicy::compile(sources, {});
        ASSERT_TRUE(policy) << policy.error().message();
        std::vector<serve::l7::Field> fields;
        for (const auto& [name, value] : request.headers) fields.push_back({name, value});
        serve::l7::Decision decision;
        (*policy)->decide({.method = request.method,
                           .path = request.path,
                           .host = request.host,
                           .plain_path = false,
                           .fields = fields},
                          decision);
        ASSERT_EQ(compile::lets_pass(rule, request), decision.allowed)
            << "seed " << seed << ": " << compile::to_string(rule) << " against " << request.method
            << " " << request.host << request.path;
        passed += decision.allowed ? 1 : 0;
    }
    EXPECT_GT(passed, 1000);
}

}  // namespace
}  // namespace mesh
