#include "serve/l7/http2_filter.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "filter_harness.hpp"
#include "http2_frames.hpp"

namespace mesh::serve::l7::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Http2Fixture {
    FakeHost host;
    std::unique_ptr<Http2Filter> filter;
    FrameReader server, client;  // what they got

    explicit Http2Fixture(const std::function<void(FakeHost&)>& prepare = {}) {
        if (prepare) prepare(host);
        filter = std::make_unique<Http2Filter>(host);
        from_client(std::string(kPreface) + frame(kSettings, 0, 0, ""));
    }
    void collect() {
        for (int i = 0; i < 100; ++i) {
            std::string up, down;
            filter->to_server.take_all(up);
            filter->to_client.take_all(down);
            if (up.empty() && down.empty()) break;
            server.add(up);
            client.add(down);
            if (filter->wants_advance()) filter->advance();
        }
    }
    void from_client(const std::string& bytes) {
        filter->from_client(bytes);
        collect();
    }
    void from_server(const std::string& bytes) {
        filter->from_server(bytes);
        collect();
    }
    void server_settings() { from_server(frame(kSettings, 0, 0, "")); }
    [[nodiscard]] std::string status(std::uint32_t id) const {
        const Frame* head = client.find(kHeaders, id);
        return head == nullptr ? "" : head->field(":status");
    }
};

class Http2FilterTest : public ::testing::Test, public Http2Fixture {};

TEST_F(Http2FilterTest, RequestAndResponseWithBodiesAndTrailers) {
    from_client(headers(1, request("POST", "/x", {{"content-type", "application/grpc"}}), false));
    server_settings();
    from_client(data(1, "abc"));
    from_client(data(1, "def") + headers(1, {{"x-sum", "1"}}));
    const auto got = server.of(1);
    ASSERT_GE(got.size(), 3U);
    EXPECT_EQ(got.front().field(":path"), "/x");
    EXPECT_EQ(got.front().field(":authority"), "a");
    EXPECT_EQ(server.body(1), "abcdef");
    EXPECT_EQ(got.back().field("x-sum"), "1");
    EXPECT_TRUE(got.back().ends());

    from_server(headers(1, {{":status", "103"}, {"link", "x"}}, false) +
                headers(1, {{":status", "200"}}, false) + data(1, "reply") +
                headers(1, {{"grpc-status", "0"}}));
    const auto answer = client.of(1);
    ASSERT_EQ(answer.size(), 4U);
    EXPECT_EQ(answer[0].field(":status"), "103");
    EXPECT_EQ(answer[1].field(":status"), "200");
    EXPECT_EQ(client.body(1), "reply");
    EXPECT_EQ(answer[3].field("grpc-status"), "0");
    EXPECT_TRUE(answer[3].ends());
    EXPECT_EQ(filter->streams(), 0U);
    ASSERT_EQ(host.logged.size(), 1U);
    EXPECT_THAT(host.logged[0].line, HasSubstr("\"protocol\":\"HTTP/2\",\"method\":\"POST\""));
}

TEST_F(Http2FilterTest, PolicyDecidesForEachStream) {
    host.answer.policy = policy_of({{"GET", "/public/.*", "a", {}, {}}});
    from_client(headers(1, request("GET", "/private")) + headers(3, request("GET", "/public/x")) +
                headers(5, request("GET", "/public/../private")));
    EXPECT_EQ(status(1), "403");
    EXPECT_EQ(client.find(kHeaders, 1)->field("x-mesh-reason"), "policy");
    EXPECT_EQ(client.body(1), "Access denied\r\n");
    EXPECT_EQ(status(5), "403");
    ASSERT_NE(server.find(kHeaders, 1), nullptr);
    EXPECT_EQ(server.find(kHeaders, 1)->field(":path"), "/public/x");
    EXPECT_EQ(server.find(kHeaders, 3), nullptr);
    host.answer.policy = nullptr;
    from_client(headers(7, request("GET", "/public/x")));
    EXPECT_EQ(status(7), "403");
    host.throws = true;
    from_client(headers(9, request("GET", "/public/x")));
    EXPECT_EQ(status(9), "403");
    EXPECT_EQ(server.find(kHeaders, 3), nullptr);
}

TEST_F(Http2FilterTest, DeniedGrpcCallsGetAStatus) {
    host.answer.policy = policy_of({{"GET", "", "", {}, {}}});
    from_client(
        headers(1, request("POST", "/t.T/M", {{"content-type", "application/grpc+proto"}}), false));
    const Frame* answer = client.find(kHeaders, 1);
    ASSERT_NE(answer, nullptr);
    EXPECT_TRUE(answer->ends());
    EXPECT_EQ(answer->field(":status"), "200");
    EXPECT_EQ(answer->field("grpc-status"), "7");
    EXPECT_EQ(answer->field("grpc-message"), "Access denied");
    // The rest of the call is not wanted.
    ASSERT_NE(client.find(kRst, 1), nullptr);
    EXPECT_EQ(client.find(kRst, 1)->code(), 0U);
    EXPECT_THAT(server.frames, IsEmpty());
    ASSERT_EQ(host.logged.size(), 1U);
    EXPECT_EQ(host.logged[0].verdict, Verdict::kDenied);
}

TEST_F(Http2FilterTest, MalformedRequestsReachNobody) {
    const std::vector<std::pair<std::string, Fields>> cases{
        {"method twice", request("GET", "/", {{":method", "GET"}})},
        {"path twice",
         {{":method", "GET"},
          {":scheme", "http"},
          {":authority", "a"},
          {":path", "/"},
          {":path", "/x"}}},
        {"pseudo behind field",
         {{":method", "GET"},
          {":scheme", "http"},
          {"x", "y"},
          {":authority", "a"},
          {":path", "/"}}},
        {"unknown pseudo", request("GET", "/", {{":x", "y"}})},
        {"status in request", request("GET", "/", {{":status", "200"}})},
        {"protocol", request("GET", "/", {{":protocol", "websocket"}})},
        {"no path", {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}}},
        {"no method", {{":scheme", "http"}, {":authority", "a"}, {":path", "/"}}},
        {"no scheme", {{":method", "GET"}, {":authority", "a"}, {":path", "/"}}},
        {"no authority", {{":method", "GET"}, {":scheme", "http"}, {":path", "/"}}},
        {"empty path", request("GET", "")},
        {"relative path", request("GET", "a")},
        {"absolute path", request("GET", "http://a/")},
        {"star", request("GET", "*")},
        {"fragment", request("GET", "/#a")},
        {"space in path", request("GET", "/a HTTP/1.1")},
        {"line end in path", request("GET", "/ HTTP/1.1\r\nHost: b\r\n\r\nGET /")},
        {"nul in path", request("GET", std::string("/\0", 2))},
        {"latin1 in path", request("GET", "/\xe4")},
        {"space in method", request("GET /x HTTP/1.1", "/")},
        {"line end in method", request("GET\r\n", "/")},
        {"scheme", {{":method", "GET"}, {":scheme", "file"}, {":authority", "a"}, {":path", "/"}}},
        {"user in authority",
         {{":method", "GET"}, {":scheme", "http"}, {":authority", "u@a"}, {":path", "/"}}},
        {"path in authority",
         {{":method", "GET"}, {":scheme", "http"}, {":authority", "a/b"}, {":path", "/"}}},
        {"line end in authority",
         {{":method", "GET"}, {":scheme", "http"}, {":authority", "a\r\nX: y"}, {":path", "/"}}},
        {"other host", request("GET", "/", {{"host", "b"}})},
        {"two hosts", request("GET", "/", {{"host", "a"}, {"host", "a"}})},
        {"upper case", request("GET", "/", {{"X-Upper", "y"}})},
        {"empty name", request("GET", "/", {{"", "y"}})},
        {"space in name", request("GET", "/", {{"x y", "z"}})},
        {"colon in name", request("GET", "/", {{"x:", "z"}})},
        {"line end in name", request("GET", "/", {{"x: y\r\nz", "z"}})},
        {"cr lf in value", request("GET", "/", {{"x", "y\r\ntransfer-encoding: chunked"}})},
        {"lf in value", request("GET", "/", {{"x", "y\nz"}})},
        {"cr in value", request("GET", "/", {{"x", "y\rz"}})},
        {"nul in value", request("GET", "/", {{"x", std::string("y\0z", 3)}})},
        {"connection", request("GET", "/", {{"connection", "close"}})},
        {"keep-alive", request("GET", "/", {{"keep-alive", "1"}})},
        {"proxy-connection", request("GET", "/", {{"proxy-connection", "close"}})},
        {"transfer-encoding", request("POST", "/", {{"transfer-encoding", "chunked"}})},
        {"upgrade", request("GET", "/", {{"upgrade", "h2c"}})},
        {"te", request("GET", "/", {{"te", "gzip"}})},
        {"content-length without body", request("POST", "/", {{"content-length", "5"}})},
        {"content-length twice",
         request("POST", "/", {{"content-length", "0"}, {"content-length", "0"}})},
        {"content-length no number", request("POST", "/", {{"content-length", "+0"}})},
    };
    for (const auto& [name, fields] : cases) {
        SCOPED_TRACE(name);
        Http2Fixture f;
        f.from_client(headers(1, fields));
        EXPECT_EQ(f.server.find(kHeaders, 1), nullptr);
        const Frame* reset = f.client.find(kRst, 1);
        ASSERT_NE(reset, nullptr);
        EXPECT_EQ(reset->code(), NGHTTP2_PROTOCOL_ERROR);
        EXPECT_EQ(f.client.find(kHeaders, 1), nullptr);
        // The connection goes on.
        f.from_client(headers(3, request("GET", "/good")));
        ASSERT_NE(f.server.find(kHeaders, 1), nullptr);
        EXPECT_EQ(f.server.find(kHeaders, 1)->field(":path"), "/good");
        EXPECT_EQ(f.filter->waiting().head_since, TimePoint::max());
    }
}

TEST_F(Http2FilterTest, NothingOfOneRequestIsLoggedForAnother) {
    from_client(headers(1, request("GET", "/a/path/that/is/long/enough/for/the/heap")));
    from_client(headers(3, request("GET", "relative")));
    from_client(headers(
        5, {{":method", "GET"}, {":scheme", "http"}, {":authority", "u@a"}, {":path", "/x"}}));
    ASSERT_EQ(host.logged.size(), 2U);
    for (const auto& one : host.logged) {
        EXPECT_EQ(one.path, "");
        EXPECT_EQ(one.verdict, Verdict::kRefused);
    }
}

TEST_F(Http2FilterTest, ConnectIsDenied) {
    from_client(headers(1, {{":method", "CONNECT"}, {":authority", "b:443"}}, false));
    EXPECT_EQ(status(1), "403");
    EXPECT_THAT(server.frames, IsEmpty());
}

TEST_F(Http2FilterTest, BodyThatIsNotAsLongAsItsLengthIsReset) {
    from_client(headers(1, request("POST", "/", {{"content-length", "3"}}), false));
    server_settings();
    from_client(data(1, "abcd"));
    ASSERT_NE(client.find(kRst, 1), nullptr);
    ASSERT_NE(server.find(kRst, 1), nullptr);
    EXPECT_EQ(server.body(1), "");
}

TEST_F(Http2FilterTest, HeadersAreChangedAsRulesSay) {
    using enum model::policy::HeaderMismatch;
    host.answer.policy =
        policy_of({{"",
                    "",
                    "",
                    {},
                    {{"X-Team", "a", kAdd}, {"X-Old", "b", kDelete}, {"X-Env", "p", kReplace}}}});
    from_client(headers(1, request("GET", "/", {{"x-old", "c"}, {"x-env", "q"}, {"other", "1"}})));
    const Frame* got = server.find(kHeaders, 1);
    ASSERT_NE(got, nullptr);
    EXPECT_EQ(got->fields, request("GET", "/", {{"other", "1"}, {"x-team", "a"}, {"x-env", "p"}}));
}

TEST_F(Http2FilterTest, LargeHeaders) {
    from_client(headers(1, request("GET", "/", {{"x", std::string(9000, 'y')}})));
    EXPECT_NE(server.find(kHeaders, 1), nullptr);
    Http2Fixture small([](FakeHost& h) { h.bounds.head.max_bytes = 1000; });
    small.from_client(headers(1, request("GET", "/", {{"x", std::string(9000, 'y')}})));
    EXPECT_EQ(small.status(1), "431");
    Http2Fixture few([](FakeHost& h) { h.bounds.head.max_fields = 10; });
    few.from_client(headers(1, request("GET", "/", Fields(7, {"x", "y"}))));
    EXPECT_EQ(few.status(1), "431");
    EXPECT_THAT(few.server.frames, IsEmpty());
}

TEST_F(Http2FilterTest, FlowControlHoldsBackWhoSendsMoreThanIsTaken) {
    host.bounds.stream_window = 65'535;
    from_client(headers(1, request("POST", "/"), false));
    // A server that gives no window beyond the first 65,535 bytes.
    server_settings();
    for (int i = 0; i < 8; ++i) from_client(data(1, std::string(8'000, 'x')));
    EXPECT_EQ(server.body(1).size(), 64'000U);
    for (int i = 0; i < 5; ++i) from_client(data(1, std::string(8'000, 'x')));
    EXPECT_EQ(server.body(1).size(), 65'535U);
    // What the server took was given back to the client, and no more.
    std::uint32_t given = 0;
    for (const Frame& one : client.frames) {
        if (one.type == kWindowUpdate && one.id == 1) given += one.code();
    }
    EXPECT_GT(given, 0U);
    EXPECT_LE(given, 65'535U);
    from_server(frame(kWindowUpdate, 0, 1, number(100'000)) +
                frame(kWindowUpdate, 0, 0, number(100'000)));
    EXPECT_EQ(server.body(1).size(), 104'000U);
}

TEST_F(Http2FilterTest, ResetsGoBothWays) {
    from_client(headers(1, request("POST", "/1"), false) + headers(3, request("GET", "/3")));
    server_settings();
    from_client(frame(kRst, 0, 1, number(NGHTTP2_CANCEL)));
    ASSERT_NE(server.find(kRst, 1), nullptr);
    EXPECT_EQ(server.find(kRst, 1)->code(), NGHTTP2_CANCEL);
    from_server(frame(kRst, 0, 3, number(NGHTTP2_REFUSED_STREAM)));
    ASSERT_NE(client.find(kRst, 3), nullptr);
    EXPECT_EQ(client.find(kRst, 3)->code(), NGHTTP2_REFUSED_STREAM);
    EXPECT_EQ(filter->streams(), 0U);
    EXPECT_EQ(host.logged.size(), 2U);
}

TEST_F(Http2FilterTest, HalfSentResponsesAreReset) {
    from_client(headers(1, request("GET", "/1")) + headers(3, request("GET", "/3")));
    server_settings();
    from_server(headers(1, {{":status", "200"}}, false) + data(1, "abc"));
    filter->server_failed(ServerFailure::kReset);
    collect();
    ASSERT_NE(client.find(kRst, 1), nullptr);
    EXPECT_EQ(client.find(kRst, 1)->code(), NGHTTP2_INTERNAL_ERROR);
    EXPECT_EQ(status(3), "503");
    EXPECT_NE(client.find(kGoaway, 0), nullptr);
    EXPECT_EQ(filter->ending(), Ending::kClose);
}

TEST_F(Http2FilterTest, ServersGoawayIsPassedOn) {
    from_client(headers(1, request("GET", "/1")));
    server_settings();
    from_server(frame(kGoaway, 0, 0, number(1) + number(NGHTTP2_NO_ERROR)));
    ASSERT_NE(client.find(kGoaway, 0), nullptr);
    EXPECT_EQ(client.find(kGoaway, 0)->code(4), NGHTTP2_NO_ERROR);
    from_server(headers(1, {{":status", "204"}}));
    EXPECT_EQ(status(1), "204");
    EXPECT_EQ(filter->ending(), Ending::kClose);
}

TEST_F(Http2FilterTest, RapidResetsEndTheConnection) {
    host.bounds.reset_burst = 200;
    std::uint32_t id = 1;
    for (; id < 2000 && filter->ending() == Ending::kNone; id += 2) {
        from_client(headers(id, request("GET", "/")) + frame(kRst, 0, id, number(NGHTTP2_CANCEL)));
    }
    EXPECT_LT(id, 600U);
    ASSERT_NE(client.find(kGoaway, 0), nullptr);
    EXPECT_EQ(client.find(kGoaway, 0)->code(4), NGHTTP2_ENHANCE_YOUR_CALM);

    // The same by requests that are malformed, which we reset.
    Http2Fixture other;
    for (id = 1; id < 2000 && other.filter->ending() == Ending::kNone; id += 2)
        other.from_client(headers(id, request("GET", "a")));
    EXPECT_LT(id, 600U);

    // Slowly it is fine.
    Http2Fixture slow;
    for (id = 1; id < 2000; id += 2) {
        slow.host.time += std::chrono::milliseconds(100);
        slow.from_client(headers(id, request("GET", "/")) +
                         frame(kRst, 0, id, number(NGHTTP2_CANCEL)));
    }
    EXPECT_EQ(slow.filter->ending(), Ending::kNone);
}

TEST_F(Http2FilterTest, StreamsAreLimited) {
    Http2Fixture f([](FakeHost& h) { h.bounds.max_streams = 2; });
    // A client that may not know of the limit yet, and one that does.
    f.from_client(headers(1, request("GET", "/1")) + headers(3, request("GET", "/3")) +
                  headers(5, request("GET", "/5")));
    EXPECT_EQ(f.filter->streams(), 2U);
    ASSERT_NE(f.client.find(kRst, 5), nullptr);
    EXPECT_EQ(f.client.find(kRst, 5)->code(), NGHTTP2_REFUSED_STREAM);
    f.from_client(frame(kSettings, kAck, 0, "") + headers(7, request("GET", "/7")));
    ASSERT_NE(f.client.find(kGoaway, 0), nullptr);
    EXPECT_EQ(f.client.find(kGoaway, 0)->code(4), NGHTTP2_PROTOCOL_ERROR);
    EXPECT_EQ(f.server.find(kHeaders, 5), nullptr);
}

TEST_F(Http2FilterTest, HeaderBlocksThatDoNotEnd) {
    EXPECT_EQ(filter->waiting().head_since, TimePoint::max());
    from_client(frame(kHeaders, kEndStream, 1, hpack(request("GET", "/"))));
    EXPECT_EQ(filter->waiting().head_since, host.time);
    filter->request_timeout();
    collect();
    ASSERT_NE(client.find(kGoaway, 0), nullptr);
    EXPECT_EQ(filter->ending(), Ending::kClose);
    EXPECT_THAT(server.frames, IsEmpty());
}

TEST_F(Http2FilterTest, DrainsWhatIsInFlight) {
    from_client(headers(1, request("GET", "/1")));
    server_settings();
    filter->drain();
    filter->advance();
    collect();
    ASSERT_NE(client.find(kGoaway, 0), nullptr);
    EXPECT_EQ(client.find(kGoaway, 0)->code(0), 1U);
    from_client(headers(3, request("GET", "/3")));
    EXPECT_EQ(server.find(kHeaders, 3), nullptr);
    from_server(headers(1, {{":status", "200"}}, false) + data(1, "ok", true));
    EXPECT_EQ(client.body(1), "ok");
    EXPECT_EQ(filter->ending(), Ending::kClose);
}

TEST_F(Http2FilterTest, AnswersBeforeTheBodyEndsKeepTheRest) {
    from_client(headers(1, request("POST", "/"), false));
    server_settings();
    from_server(headers(1, {{":status", "413"}}) + frame(kRst, 0, 1, number(NGHTTP2_NO_ERROR)));
    EXPECT_EQ(status(1), "413");
    ASSERT_NE(client.find(kRst, 1), nullptr);
    EXPECT_EQ(client.find(kRst, 1)->code(), NGHTTP2_NO_ERROR);
    EXPECT_EQ(filter->streams(), 0U);
    EXPECT_EQ(host.logged.at(0).verdict, Verdict::kForwarded);
}

TEST_F(Http2FilterTest, NonsenseEndsTheConnection) {
    from_client(frame(kData, 0, 1, "x"));
    EXPECT_NE(filter->ending(), Ending::kNone);
    Http2Fixture garbage;
    garbage.from_client(std::string(100, '\xff'));
    EXPECT_NE(garbage.filter->ending(), Ending::kNone);
    Http2Fixture server_garbage;
    server_garbage.from_client(headers(1, request("GET", "/")));
    server_garbage.from_server("HTTP/1.1 400 Bad Request\r\n\r\n");
    EXPECT_EQ(server_garbage.status(1), "503");
    EXPECT_TRUE(server_garbage.filter->server_done());
}

}  // namespace
}  // namespace mesh::serve::l7::test
