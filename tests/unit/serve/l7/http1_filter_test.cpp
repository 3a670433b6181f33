#include "serve/l7/http1_filter.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "filter_harness.hpp"

namespace mesh::serve::l7::test {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

std::string get(std::string_view path, std::string_view fields = {}) {
    return std::string("GET ").append(path).append(" HTTP/1.1\r\nHost: a\r\n").append(fields) +
           "\r\n";
}

class Http1FilterTest : public ::testing::Test, public Http1Fixture {};

// --- what is refused ----------------------------------------------------------------------------

TEST(Http1Corpus, RefusedWholeAndInPieces) {
    for (const Request& request : requests_of("refused.txt")) {
        for (const std::size_t piece : {request.bytes.size(), std::size_t{1}, std::size_t{7}}) {
            SCOPED_TRACE(request.name + " in pieces of " + std::to_string(piece));
            Http1Fixture f;
            // Nothing leaves before all is there, as when it came in one read.
            for (std::size_t at = 0; at < request.bytes.size(); at += piece) {
                f.filter->from_client(std::string_view(request.bytes).substr(at, piece));
                f.filter->to_server.keep();
            }
            f.collect();
            EXPECT_EQ(f.server, "");
            EXPECT_THAT(f.client, StartsWith("HTTP/1.1 " + std::to_string(request.status) + " "));
            EXPECT_THAT(f.client, HasSubstr("\r\nconnection: close\r\n"));
            EXPECT_EQ(f.filter->ending(), Ending::kClose);
            ASSERT_EQ(f.host.logged.size(), 1U);
            EXPECT_EQ(f.host.logged[0].verdict, Verdict::kRefused);
        }
    }
}

TEST(Http1Corpus, RefusedBehindAGoodOne) {
    for (const Request& request : requests_of("refused.txt")) {
        SCOPED_TRACE(request.name);
        Http1Fixture f;
        // One empty line before a request is legal, two are not.
        const std::string good = get("/good");
        f.from_client(good + request.bytes);
        EXPECT_EQ(f.server, good);
        EXPECT_EQ(f.client, "");
        f.from_server(kOk);
        EXPECT_THAT(f.client, StartsWith(std::string(kOk) + "HTTP/1.1 " +
                                         std::to_string(request.status) + " "));
        EXPECT_EQ(f.filter->ending(), Ending::kClose);
        EXPECT_EQ(f.server, good);
    }
}

TEST(Http1Corpus, AcceptedByteForByte) {
    for (const Request& request : requests_of("accepted.txt")) {
        for (const std::size_t piece : {request.bytes.size(), std::size_t{1}, std::size_t{7}}) {
            SCOPED_TRACE(request.name + " in pieces of " + std::to_string(piece));
            Http1Fixture f;
            for (std::size_t at = 0; at < request.bytes.size(); at += piece)
                f.from_client(std::string_view(request.bytes).substr(at, piece));
            EXPECT_EQ(f.server, request.bytes);
            EXPECT_EQ(f.client, "");
            EXPECT_EQ(f.filter->ending(), Ending::kNone);
        }
    }
}

TEST_F(Http1FilterTest, BodyThatTurnsBadAfterItsHeadHasLeftEndsTheServersConnection) {
    from_client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    EXPECT_THAT(server, EndsWith("abc\r\n"));
    from_client("x\r\n");
    EXPECT_TRUE(filter->server_done());
    EXPECT_THAT(client, StartsWith("HTTP/1.1 400 "));
    EXPECT_EQ(filter->ending(), Ending::kClose);
    EXPECT_THAT(server, EndsWith("abc\r\n"));
}

TEST_F(Http1FilterTest, TooLargeHeads) {
    host.bounds.head.max_bytes = 1000;
    from_client(get("/", "X: " + std::string(2000, 'x') + "\r\n"));
    EXPECT_EQ(server, "");
    EXPECT_THAT(client, StartsWith("HTTP/1.1 431 "));

    Http1Fixture drip;
    drip.host.bounds.head.max_bytes = 1000;
    for (int i = 0; i < 1001; ++i) drip.from_client("G");
    EXPECT_THAT(drip.client, StartsWith("HTTP/1.1 431 "));

    Http1Fixture many;
    std::string fields;
    for (int i = 0; i < 128; ++i) fields.append("X: y\r\n");
    many.from_client(get("/", fields));
    EXPECT_THAT(many.client, StartsWith("HTTP/1.1 431 "));
}

TEST_F(Http1FilterTest, LateHeads) {
    from_client("GET / HTTP/1.1\r\nHo");
    EXPECT_EQ(filter->waiting().head_since, host.time);
    filter->request_timeout();
    collect();
    EXPECT_THAT(client, StartsWith("HTTP/1.1 408 "));
    EXPECT_EQ(filter->ending(), Ending::kClose);
    EXPECT_EQ(server, "");
}

// --- policy -------------------------------------------------------------------------------------

TEST_F(Http1FilterTest, DeniedRequestsAreAnsweredAndTheConnectionGoesOn) {
    host.answer.policy = policy_of({{"GET", "/public/.*", "", {}, {}}});
    from_client(get("/private"));
    EXPECT_EQ(server, "");
    EXPECT_EQ(client,
              "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n"
              "x-mesh-reason: policy\r\n\r\nAccess denied\r\n");
    EXPECT_EQ(filter->ending(), Ending::kNone);
    from_client(get("/public/x"));
    EXPECT_EQ(server, get("/public/x"));
    ASSERT_EQ(host.logged.size(), 1U);
    EXPECT_THAT(host.logged[0].line, HasSubstr("\"verdict\":\"denied\",\"reason\":\"policy\""));
    from_server(kOk);
    ASSERT_EQ(host.logged.size(), 2U);
    EXPECT_THAT(
        host.logged[1].line,
        HasSubstr("\"verdict\":\"forwarded\",\"rule\":\"CiliumNetworkPolicy test/http:1\""));
}

TEST_F(Http1FilterTest, DeniedInAPipelineKeepsItsPlace) {
    host.answer.policy = policy_of({{"GET", "/[ac]", "", {}, {}}});
    from_client(get("/a") + get("/b") + get("/c"));
    EXPECT_EQ(server, get("/a") + get("/c"));
    EXPECT_EQ(client, "");
    from_server(std::string(kOk));
    EXPECT_THAT(client, StartsWith(std::string(kOk) + "HTTP/1.1 403 Forbidden\r\n"));
    EXPECT_THAT(client, EndsWith("Access denied\r\n"));
    from_server(std::string(kOk));
    EXPECT_THAT(client, EndsWith("Access denied\r\n" + std::string(kOk)));
    EXPECT_EQ(filter->ending(), Ending::kNone);

    Http1Fixture at_once;
    at_once.host.answer.policy = host.answer.policy;
    at_once.from_client(get("/a") + get("/b") + get("/c"));
    at_once.from_server(std::string(kOk) + std::string(kOk));
    EXPECT_EQ(at_once.client, client);
}

TEST_F(Http1FilterTest, DeniedBodyEndsWhereItsLengthSays) {
    host.answer.policy = policy_of({{"GET", "", "", {}, {}}});
    const std::string body = get("/x");
    from_client("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body.substr(0, 10));
    from_client(body.substr(10) + get("/y"));
    EXPECT_EQ(server, get("/y"));
}

TEST_F(Http1FilterTest, DeniedBodiesThatAreLongOrExpectedCloseTheConnection) {
    host.answer.policy = policy_of({{"GET", "", "", {}, {}}});
    from_client("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
    EXPECT_THAT(client, HasSubstr("\r\nconnection: close\r\n"));
    EXPECT_EQ(filter->ending(), Ending::kClose);

    Http1Fixture expecting;
    expecting.host.answer.policy = host.answer.policy;
    expecting.from_client(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    EXPECT_THAT(expecting.client, HasSubstr("\r\nconnection: close\r\n"));
    EXPECT_EQ(expecting.filter->ending(), Ending::kClose);

    Http1Fixture chunked;
    chunked.host.answer.policy = host.answer.policy;
    chunked.from_client("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    EXPECT_EQ(chunked.filter->ending(), Ending::kNone);
    const std::string chunk = "8000\r\n" + std::string(0x8000, 'x') + "\r\n";
    chunked.from_client(chunk);
    EXPECT_EQ(chunked.filter->ending(), Ending::kNone);
    chunked.from_client(chunk);
    EXPECT_EQ(chunked.filter->ending(), Ending::kClose);
    EXPECT_EQ(chunked.server, "");
}

TEST_F(Http1FilterTest, PolicyIsAskedForEachRequest) {
    from_client(get("/1"));
    from_server(kOk);
    host.answer.policy = policy_of({{"GET", "/2", "", {}, {}}});
    from_client(get("/1"));
    EXPECT_EQ(server, get("/1"));
    EXPECT_THAT(client, EndsWith("Access denied\r\n"));
    host.answer.policy = everything();
    from_client(get("/1"));
    EXPECT_EQ(server, get("/1") + get("/1"));
}

TEST_F(Http1FilterTest, WithoutPolicyOrWhenItFailsNothingPasses) {
    host.answer.policy = nullptr;
    from_client(get("/"));
    host.throws = true;
    from_client(get("/"));
    EXPECT_EQ(server, "");
    ASSERT_EQ(host.logged.size(), 2U);
    EXPECT_EQ(host.logged[0].reason, "no policy for this connection");
    EXPECT_EQ(host.logged[1].reason, "policy could not be asked");
    EXPECT_EQ(host.logged[1].status, 403U);
}

TEST_F(Http1FilterTest, ConnectIsDeniedWhateverPolicySays) {
    from_client("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n");
    EXPECT_EQ(server, "");
    EXPECT_THAT(client, StartsWith("HTTP/1.1 403 "));
}

TEST_F(Http1FilterTest, HeadersAreChangedAsRulesSay) {
    using enum model::policy::HeaderMismatch;
    host.answer.policy = policy_of({{"",
                                     "",
                                     "",
                                     {},
                                     {{"X-Team", "a", kAdd},
                                      {"X-Old", "b", kDelete},
                                      {"X-Env", "prod", kReplace},
                                      {"X-Seen", "yes", kLog}}}});
    from_client(get("/", "x-old: c\r\nX-Env: test\r\nx-env: two\r\nOther: 1\r\n"));
    EXPECT_EQ(server, get("/", "Other: 1\r\nX-Team: a\r\nX-Env: prod\r\n"));
    from_server(kOk);
    ASSERT_EQ(host.logged.size(), 1U);
    EXPECT_THAT(host.logged[0].line,
                HasSubstr("\"header_mismatch\":\"X-Team,X-Old,X-Env,X-Seen\""));
    server.clear();
    const std::string right = get("/", "X-Team: a\r\nX-Old: b\r\nX-Env: prod\r\nX-Seen: yes\r\n");
    from_client(right);
    EXPECT_EQ(server, right);
}

// --- upgrades -----------------------------------------------------------------------------------

constexpr std::string_view kWebsocket = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";

TEST_F(Http1FilterTest, WebsocketBecomesATunnel) {
    from_client(get("/chat", kWebsocket));
    EXPECT_EQ(server, get("/chat", kWebsocket));
    EXPECT_FALSE(filter->reads_client());
    constexpr std::string_view kSwitched =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    from_server(std::string(kSwitched) + "\x81\x02hi");
    EXPECT_EQ(client, std::string(kSwitched) + "\x81\x02hi");
    EXPECT_TRUE(filter->reads_client());
    from_client("\x81\x83GET / HTTP/1.1\r\n\r\n");
    EXPECT_THAT(server, EndsWith("\x81\x83GET / HTTP/1.1\r\n\r\n"));
    filter->client_end();
    EXPECT_TRUE(filter->server_told_end());
    from_server("bye");
    EXPECT_THAT(client, EndsWith("bye"));
    filter->server_end();
    EXPECT_EQ(filter->ending(), Ending::kClose);
    ASSERT_EQ(host.logged.size(), 1U);
    EXPECT_EQ(host.logged[0].status, 101U);
}

TEST_F(Http1FilterTest, NothingPassesBeforeAnUpgradeIsAnswered) {
    from_client(get("/chat", kWebsocket) + get("/next"));
    EXPECT_EQ(server, get("/chat", kWebsocket));
    from_server(kOk);
    EXPECT_EQ(server, get("/chat", kWebsocket) + get("/next"));
}

TEST_F(Http1FilterTest, OtherUpgradesAreTakenOut) {
    from_client(get("/",
                    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
                    "Connection: Upgrade, HTTP2-Settings, keep-alive\r\n"));
    EXPECT_EQ(server, get("/", "Connection: keep-alive\r\n"));
    from_server(kOk);
    from_client(get("/", "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n"));
    EXPECT_THAT(server, EndsWith(get("/")));
}

TEST_F(Http1FilterTest, UpgradeThatNobodyAskedForIsRefused) {
    from_client(get("/"));
    from_server("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    EXPECT_THAT(client, StartsWith("HTTP/1.1 502 "));
    EXPECT_EQ(filter->ending(), Ending::kClose);
}

// --- responses ----------------------------------------------------------------------------------

TEST_F(Http1FilterTest, ResponsesPassByteForByteInAnyPieces) {
    const std::string responses =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"  // to HEAD
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx";
    for (const std::size_t piece : {responses.size(), std::size_t{1}, std::size_t{5}}) {
        Http1Fixture f;
        f.from_client(get("/1") + get("/2") + get("/3") + "HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n" +
                      get("/5") + get("/6"));
        for (std::size_t at = 0; at < responses.size(); at += piece)
            f.from_server(std::string_view(responses).substr(at, piece));
        EXPECT_EQ(f.client, responses);
        EXPECT_EQ(f.filter->ending(), Ending::kNone);
        ASSERT_EQ(f.host.logged.size(), 6U);
        EXPECT_EQ(f.host.logged[1].status, 204U);
        EXPECT_EQ(f.host.logged[5].path, "/6");
    }
}

TEST_F(Http1FilterTest, ResponseUntilTheEnd) {
    from_client(get("/"));
    from_server("HTTP/1.1 200 OK\r\n\r\nabc");
    from_server("def");
    EXPECT_EQ(filter->ending(), Ending::kNone);
    filter->server_end();
    EXPECT_EQ(filter->ending(), Ending::kClose);
    EXPECT_EQ(client, "HTTP/1.1 200 OK\r\n\r\nabcdef");
}

TEST_F(Http1FilterTest, BrokenResponsesAreReset) {
    from_client(get("/"));
    from_server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    filter->server_end();
    EXPECT_EQ(filter->ending(), Ending::kReset);

    Http1Fixture until_close;
    until_close.from_client(get("/"));
    until_close.from_server("HTTP/1.1 200 OK\r\n\r\nabc");
    until_close.filter->server_failed(ServerFailure::kReset);
    EXPECT_EQ(until_close.filter->ending(), Ending::kReset);

    Http1Fixture chunks;
    chunks.from_client(get("/"));
    chunks.from_server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    chunks.from_server("zz\r\n");
    EXPECT_EQ(chunks.filter->ending(), Ending::kReset);
}

TEST_F(Http1FilterTest, MalformedResponsesAreNotPassedOn) {
    for (const std::string_view response :
         {"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/2 200 OK\r\n\r\n", "nonsense\r\n\r\n",
          "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n",
          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
          "HTTP/1.1 200 O\rK\r\n\r\n"}) {
        SCOPED_TRACE(response);
        Http1Fixture f;
        f.from_client(get("/"));
        f.from_server(response);
        EXPECT_THAT(f.client, StartsWith("HTTP/1.1 502 "));
        EXPECT_TRUE(f.filter->server_done());
        EXPECT_EQ(f.filter->ending(), Ending::kClose);
    }
}

TEST_F(Http1FilterTest, ResponseThatNothingAskedForIsNotPassedOn) {
    from_client(get("/"));
    from_server(std::string(kOk) + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    EXPECT_EQ(client, kOk);
    EXPECT_EQ(filter->ending(), Ending::kClose);
}

TEST_F(Http1FilterTest, ServerThatAnswersBeforeTheBodyIsThereGetsNoFurtherRequest) {
    // It may take the rest of the body for the next request.
    from_client("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n");
    from_server("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n");
    const std::string before = server;
    from_client(get("/admin"));
    EXPECT_EQ(server, before);
    EXPECT_EQ(filter->ending(), Ending::kClose);
}

TEST_F(Http1FilterTest, ServersThatFail) {
    from_client(get("/"));
    filter->server_failed(ServerFailure::kUnreachable);
    collect();
    EXPECT_THAT(client, StartsWith("HTTP/1.1 503 "));
    EXPECT_THAT(client, HasSubstr("x-mesh-reason: the server cannot be reached\r\n"));
    EXPECT_EQ(filter->ending(), Ending::kClose);

    Http1Fixture late;
    late.from_client(get("/"));
    late.filter->server_failed(ServerFailure::kConnectTimeout);
    late.collect();
    EXPECT_THAT(late.client, StartsWith("HTTP/1.1 504 "));

    // A kept-alive connection that the server gave up: as without a proxy.
    Http1Fixture second;
    second.from_client(get("/"));
    second.from_server(kOk);
    second.from_client(get("/"));
    second.filter->server_end();
    second.collect();
    EXPECT_EQ(second.client, kOk);
    EXPECT_EQ(second.filter->ending(), Ending::kClose);

    Http1Fixture idle;
    idle.from_client(get("/"));
    idle.from_server(kOk);
    idle.filter->server_end();
    EXPECT_EQ(idle.filter->ending(), Ending::kClose);
}

// --- ends and bounds ----------------------------------------------------------------------------

TEST_F(Http1FilterTest, ClientsThatEnd) {
    from_client(get("/"));
    filter->client_end();
    EXPECT_EQ(filter->ending(), Ending::kNone);
    EXPECT_TRUE(filter->server_told_end());
    from_server(kOk);
    EXPECT_EQ(client, kOk);
    EXPECT_EQ(filter->ending(), Ending::kClose);

    Http1Fixture half;
    half.from_client("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    half.filter->client_end();
    EXPECT_EQ(half.filter->ending(), Ending::kReset);
}

TEST_F(Http1FilterTest, PipelinesAreBounded) {
    host.bounds.max_pipelined = 2;
    from_client(get("/1") + get("/2") + get("/3") + get("/4"));
    EXPECT_EQ(server, get("/1") + get("/2"));
    EXPECT_FALSE(filter->reads_client());
    from_server(kOk);
    EXPECT_EQ(server, get("/1") + get("/2") + get("/3"));
    from_server(std::string(kOk) + std::string(kOk));
    EXPECT_EQ(server, get("/1") + get("/2") + get("/3") + get("/4"));
    EXPECT_TRUE(filter->reads_client());
    from_server(kOk);
    EXPECT_EQ(client, std::string(kOk) + std::string(kOk) + std::string(kOk) + std::string(kOk));
}

TEST_F(Http1FilterTest, DrainsWhatIsInFlight) {
    from_client(get("/1") + "GET /2 HT");
    filter->drain();
    EXPECT_EQ(filter->ending(), Ending::kNone);
    from_client("TP/1.1\r\nHost: a\r\n\r\n");
    EXPECT_EQ(server, get("/1"));
    from_server(kOk);
    EXPECT_EQ(client, kOk);
    EXPECT_EQ(filter->ending(), Ending::kClose);

    Http1Fixture idle;
    idle.filter->drain();
    EXPECT_EQ(idle.filter->ending(), Ending::kClose);
}

TEST_F(Http1FilterTest, SecretsAreNotLogged) {
    from_client(
        "POST /login HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer verysecret\r\n"
        "Cookie: id=verysecret\r\nContent-Length: 10\r\n\r\nverysecret");
    from_server("HTTP/1.1 200 OK\r\nSet-Cookie: id=verysecret\r\nContent-Length: 0\r\n\r\n");
    ASSERT_EQ(host.logged.size(), 1U);
    EXPECT_THAT(host.logged[0].line, Not(HasSubstr("verysecret")));
    EXPECT_THAT(host.logged[0].line, HasSubstr("\"method\":\"POST\",\"path\":\"/login\""));
}

}  // namespace
}  // namespace mesh::serve::l7::test
