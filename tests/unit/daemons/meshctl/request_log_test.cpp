#include "meshctl/request_log.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mesh::ctl {
namespace {

namespace json = boost::json;

json::value answer(const std::vector<std::string>& lines) {
    return json::object{{"lines", json::array(lines.begin(), lines.end())}};
}

TEST(RequestLog, TellsWhatIsNewSinceTheFirstAnswer) {
    RequestLog log;
    EXPECT_TRUE(log.take(answer({R"({"n":1})"})).empty());
    const auto fresh = log.take(answer({R"({"n":1})", R"({"n":2})", "no JSON", "[]"}));
    ASSERT_EQ(fresh.size(), 1U);
    EXPECT_EQ(fresh[0].at("n").as_int64(), 2);
    EXPECT_TRUE(log.take(answer({R"({"n":2})"})).empty());
    EXPECT_TRUE(log.take(json::value("nothing of ours")).empty());
}

TEST(RequestLog, RequestsAreReadAsText) {
    const auto http =
        json::parse(
            R"({"time":"T","direction":"ingress","source":{"ip":"fd00::1","port":4000,"identity":70000},)"
            R"("destination":{"ip":"10.0.0.2","port":80},"protocol":"HTTP/1.1","method":"PUT","path":"/a",)"
            R"("host":"web","status":403,"verdict":"denied","reason":"no rule"})")
            .as_object();
    EXPECT_EQ(request_text("node1", http),
              "T node1 ingress http denied: [fd00::1]:4000 (identity 70000) -> 10.0.0.2:80 "
              "HTTP/1.1 PUT web/a 403 (no rule)");
    EXPECT_TRUE(is_refused(http));
    const auto dns =
        json::parse(
            R"({"time":"T","type":"dns","verdict":"answered","protocol":"UDP","client":"10.0.0.1:5000",)"
            R"("server":"10.0.0.9:53","name":"a.example","query_type":"A","rcode":"NOERROR",)"
            R"("addresses":["192.0.2.1"],"ttl":5})")
            .as_object();
    EXPECT_EQ(request_text("node1", dns),
              "T node1 egress dns answered: 10.0.0.1:5000 -> 10.0.0.9:53 UDP A a.example NOERROR "
              "192.0.2.1");
    EXPECT_FALSE(is_refused(dns));
}

}  // namespace
}  // namespace mesh::ctl
