// What a server tells of its connections, and how it ends chosen ones.
#include <map>

#include "loopback.hpp"

namespace mesh::rpc {
namespace {

class ConnectionsTest : public LoopbackTest {
  protected:
    struct Seen {
        std::uint64_t id = 0;
        std::size_t live_calls = 0;
        std::uint64_t received = 0;
        std::uint64_t sent = 0;
        std::size_t queued = 0;
        bool going_away = false;
    };
    /// By common name.
    std::map<std::string, Seen> seen() const {
        std::map<std::string, Seen> found;
        server_->for_each_connection([&](const ConnectionInfo& c) {
            EXPECT_LE(c.since, clock_.now());
            EXPECT_GE(c.last_received, c.since);
            found[c.peer.common_name] = {c.id,         c.live_calls,   c.bytes_received,
                                         c.bytes_sent, c.queued_bytes, c.going_away};
        });
        return found;
    }
    static auto named(std::string name) {
        return [name = std::move(name)](const ConnectionInfo& c) {
            return c.peer.common_name == name;
        };
    }
};

TEST_F(ConnectionsTest, EachIsToldWithItsPeerCallsAndBytes) {
    make_ca();
    serve_tls(pki::server_request());
    ServerCallPtr held;
    server_->handle("/t/Hold", [&](const ServerCallPtr& call) { held = call; });
    run([&]() -> asio::awaitable<void> {
        auto a = channel(issue("a", pki::client_request("remote-a")));
        auto b = channel(issue("b", pki::client_request("remote-b")));
        EXPECT_TRUE(co_await a->async_connect());
        EXPECT_TRUE(co_await b->async_connect());
        auto call = a->call("/t/Hold", {}, {});
        while (!held) co_await sleep(1ms);
        const auto before = seen();
        EXPECT_EQ(before.size(), 2U);
        EXPECT_EQ(before.at("remote-a").live_calls, 1U);
        EXPECT_EQ(before.at("remote-b").live_calls, 0U);
        EXPECT_LT(before.at("remote-a").id, before.at("remote-b").id);
        EXPECT_GT(before.at("remote-b").received, 0U);
        EXPECT_GT(before.at("remote-b").sent, 0U);
        // The peer does not read: its window fills, and the rest waits here.
        call->pause();
        const Frame large = make_frame(std::string(1'000'000, 'q'));
        Seen last;
        while (last.sent < 4'000'000 || last.queued == 0) {
            static_cast<void>(held->write(large));
            co_await sleep(1ms);
            last = seen().at("remote-a");
        }
        EXPECT_EQ(seen().at("remote-b").queued, 0U);
        call->abandon();
        while (seen().at("remote-a").live_calls != 0) co_await sleep(1ms);
        EXPECT_EQ(seen().at("remote-a").queued, 0U);
        held.reset();
    });
}

TEST_F(ConnectionsTest, ChosenOnesAreClosedAndTheirCallsTold) {
    make_ca();
    serve_tls(pki::server_request());
    std::optional<Status> ended;
    server_->handle("/t/Hold", [&](const ServerCallPtr& call) {
        call->on_end([&](const Status& s) { ended = s; });
    });
    run([&]() -> asio::awaitable<void> {
        auto a = channel(issue("a", pki::client_request("remote-a")));
        auto b = channel(issue("b", pki::client_request("remote-b")));
        bool lost = false;
        a->on_closed([&](const Error&) { lost = true; });
        EXPECT_TRUE(co_await a->async_connect());
        EXPECT_TRUE(co_await b->async_connect());
        std::optional<Status> told;
        CallEvents events;
        events.on_end = [&](const Status& s, const Metadata&) { told = s; };
        a->call("/t/Hold", {}, events);
        while (seen().at("remote-a").live_calls == 0) co_await sleep(1ms);
        const Status why{StatusCode::kUnauthenticated, "no longer welcome"};
        EXPECT_EQ(server_->close_connections(named("remote-a"), why), 1U);
        while (!told || !lost || server_->stats().connections != 1) co_await sleep(1ms);
        EXPECT_EQ(told, why);
        EXPECT_EQ(ended, why);
        EXPECT_EQ(server_->stats().closed_on_request, 1U);
        auto who = co_await b->async_unary("/t/Who", make_frame(""), {});
        EXPECT_EQ(who.message, "remote-b");
        EXPECT_EQ(server_->close_connections(named("remote-a"), why), 0U);
    });
}

TEST_F(ConnectionsTest, AHandlerMayCloseItsOwnConnection) {
    serve({});
    server_->handle_unary("/t/Bye", [&](const ServerCallPtr&, std::string_view) {
        server_->close_connections([](const ConnectionInfo&) { return true; },
                                   {StatusCode::kUnavailable, "bye"});
    });
    run([&]() -> asio::awaitable<void> {
        auto a = channel();
        EXPECT_TRUE(co_await a->async_connect());
        auto answer = co_await a->async_unary("/t/Bye", make_frame(""), {});
        EXPECT_EQ(answer.status, (Status{StatusCode::kUnavailable, "bye"}));
        while (server_->stats().connections != 0) co_await sleep(1ms);
    });
}

TEST_F(ConnectionsTest, ChosenOnesAreToldToGoAndTheirCallsEnd) {
    make_ca();
    serve_tls(pki::server_request());
    ServerCallPtr held;
    server_->handle("/t/Hold", [&](const ServerCallPtr& call) { held = call; });
    run([&]() -> asio::awaitable<void> {
        auto a = channel(issue("a", pki::client_request("remote-a")));
        auto b = channel(issue("b", pki::client_request("remote-b")));
        EXPECT_TRUE(co_await a->async_connect());
        EXPECT_TRUE(co_await b->async_connect());
        std::optional<Status> told;
        CallEvents events;
        events.on_end = [&](const Status& s, const Metadata&) { told = s; };
        a->call("/t/Hold", {}, events);
        while (!held) co_await sleep(1ms);
        EXPECT_EQ(server_->drain_connections(named("remote-a")), 1U);
        EXPECT_EQ(server_->drain_connections(named("remote-a")), 0U);
        while (!a->going_away()) co_await sleep(1ms);
        EXPECT_TRUE(seen().at("remote-a").going_away);
        EXPECT_TRUE(b->usable());
        EXPECT_FALSE(told);
        held->finish({});
        while (!told || server_->stats().connections != 1) co_await sleep(1ms);
        EXPECT_TRUE(told->ok());
        EXPECT_EQ(server_->stats().drained, 1U);
        held.reset();
    });
}

TEST_F(ConnectionsTest, TellsWhenItsCertificatesEnd) {
    make_ca();
    auto request = pki::server_request();
    request.validity = 3h;
    serve_tls(request);
    const TlsExpiry expiry = server_->tls_expiry();
    ASSERT_TRUE(expiry.certificate && expiry.ca);
    EXPECT_GT(*expiry.certificate, now_ + 2h);
    EXPECT_LT(*expiry.certificate, now_ + 4h);
    EXPECT_GT(*expiry.ca, now_ + 23h);
    EXPECT_LT(*expiry.ca, now_ + 25h);
    serve({});
    EXPECT_FALSE(server_->tls_expiry().certificate);
}

}  // namespace
}  // namespace mesh::rpc
