// Client and server over real sockets on loopback, with certificates of a real CA.
#include "loopback.hpp"

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>

namespace mesh::rpc {
namespace {

TEST_F(LoopbackTest, PlainUnaryAndLargeStream) {
    serve({});
    run([&]() -> asio::awaitable<void> {
        auto c = channel();
        auto connected = co_await c->async_connect();
        EXPECT_TRUE(connected) << connected.error().message();
        auto who = co_await c->async_unary("/t/Who", make_frame(""), {});
        EXPECT_TRUE(who.status.ok());
        auto none = co_await c->async_unary("/t/None", make_frame(""), {});
        EXPECT_EQ(none.status.code, StatusCode::kUnimplemented);

        // 40 MB through every buffer on the way, and back.
        std::size_t got = 0;
        std::size_t sent = 0;
        std::optional<Status> end;
        const Frame frame = make_frame(std::string(100'000, 'm'));
        ClientCallPtr call;
        std::function<void()> pump = [&] {
            while (sent < 400 && call->write(frame) == Write::kQueued) ++sent;
            if (sent == 400) call->half_close();
        };
        CallEvents events;
        events.on_message = [&](std::string_view m) { got += m.size(); };
        events.on_writable = [&] { pump(); };
        events.on_end = [&](const Status& s, const Metadata&) { end = s; };
        call = c->call("/t/Echo", {}, events);
        pump();
        while (!end) co_await sleep(5ms);
        EXPECT_TRUE(end->ok()) << end->message;
        EXPECT_EQ(got, 40'000'000U);
    });
    EXPECT_EQ(log_, "");
}

TEST_F(LoopbackTest, WritesOfOneTurnLeaveInOneSocketWrite) {
    serve({});
    std::vector<ServerCallPtr> watchers;
    server_->handle("/t/Watch", [&](const ServerCallPtr& call) { watchers.push_back(call); });
    run([&]() -> asio::awaitable<void> {
        auto c = channel();
        EXPECT_TRUE(co_await c->async_connect());
        std::size_t got = 0;
        for (int i = 0; i < 100; ++i) {
            CallEvents events;
            events.on_message = [&](std::string_view) { ++got; };
            c->call("/t/Watch", {}, events);
        }
        while (watchers.size() < 100) co_await sleep(1ms);
        const auto before = server_->stats().socket_writes;
        const Frame frame = make_frame(std::string(300, 'e'));
        for (auto& w : watchers) EXPECT_EQ(w->write(frame), Write::kQueued);
        while (got < 100) co_await sleep(1ms);
        // One, and a few more where the socket takes a part only or answers are due meanwhile;
        // each on its own would be a hundred.
        EXPECT_LE(server_->stats().socket_writes - before, 20U);
        watchers.clear();
    });
}

TEST_F(LoopbackTest, CertificateNamesReachTheHandler) {
    make_ca();
    serve_tls(pki::server_request());
    run([&]() -> asio::awaitable<void> {
        auto c = channel(issue("client", pki::client_request("remote-two")));
        auto connected = co_await c->async_connect();
        EXPECT_TRUE(connected) << connected.error().message();
        auto who = co_await c->async_unary("/t/Who", make_frame(""), {});
        EXPECT_EQ(who.message, "remote-two");
        EXPECT_EQ(c->peer().common_name, pki::kServerCommonName);
        EXPECT_TRUE(c->peer().verified);
    });
}

TEST_F(LoopbackTest, NameOfTheServerIsChecked) {
    make_ca();
    serve_tls(pki::server_request());
    run([&]() -> asio::awaitable<void> {
        const TlsOptions tls = issue("client", pki::client_request("remote"));
        auto good = channel(tls, "two.mesh.cilium.io");
        EXPECT_TRUE(co_await good->async_connect());
        auto bad = channel(tls, "other.example.com");
        auto told = co_await refusal(*bad);
        EXPECT_EQ(told.code(), Errc::kPermission);
        EXPECT_NE(told.detail().find(
                      "expected other.example.com, it carries clustermesh-apiserver.cilium.io"),
                  std::string::npos)
            << told.detail();
        auto bad_ip = channel(tls, "10.1.2.3");
        told = co_await refusal(*bad_ip);
        EXPECT_EQ(told.code(), Errc::kPermission) << told.detail();
        TlsOptions careless = tls;
        careless.skip_verify = true;
        auto any = channel(careless, "other.example.com");
        EXPECT_TRUE(co_await any->async_connect());
        EXPECT_FALSE(any->peer().verified);
        EXPECT_EQ(any->peer().common_name, "");
    });
}

TEST_F(LoopbackTest, ClientsWithoutAGoodCertificateAreRefused) {
    make_ca();
    serve_tls(pki::server_request());
    run([&]() -> asio::awaitable<void> {
        TlsOptions none;
        none.ca_file = ca_file_;
        auto c = channel(none);
        auto told = co_await refusal(*c);
        EXPECT_EQ(told.code(), Errc::kPermission) << told.detail();
        EXPECT_NE(told.detail().find("requires a certificate"), std::string::npos) << told.detail();

        const auto other = pki::Authority::make("other ca", 24h, now_);
        auto d = channel(issue("stranger", pki::client_request("remote"), &*other));
        told = co_await refusal(*d);
        EXPECT_EQ(told.code(), Errc::kPermission) << told.detail();

        const auto real_now = now_;
        now_ -= 12h;
        const auto old = pki::Authority::make("test ca", 24h, now_);
        auto request = pki::client_request("remote");
        request.validity = 1h;
        auto expired = issue("expired", request);
        now_ = real_now;
        auto e = channel(expired);
        told = co_await refusal(*e);
        EXPECT_EQ(told.code(), Errc::kPermission) << told.detail();
        EXPECT_NE(told.detail().find("expired"), std::string::npos) << told.detail();

        auto plain = channel();
        told = co_await refusal(*plain);
        EXPECT_NE(log_.find("does not speak TLS"), std::string::npos) << log_;
        EXPECT_EQ(server_->stats().calls_started, 0U);
    });
}

TEST_F(LoopbackTest, ServersWithoutAGoodCertificateAreRefused) {
    make_ca();
    const auto other = pki::Authority::make("other ca", 24h, now_);
    ServerOptions options;
    options.tls = issue("server", pki::server_request(), &*other);
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        auto c = channel(issue("client", pki::client_request("remote")));
        auto told = co_await refusal(*c);
        EXPECT_EQ(told.code(), Errc::kPermission);
        EXPECT_NE(told.detail().find("unable to get local issuer certificate"), std::string::npos)
            << told.detail();
        EXPECT_NE(told.detail().find("127.0.0.1:" + std::to_string(port_)), std::string::npos)
            << told.detail();
    });
}

TEST_F(LoopbackTest, ChangedFilesServeNewConnectionsWhileOldStreamsLive) {
    make_ca();
    serve_tls(pki::server_request({"first.example.com"}));
    run([&]() -> asio::awaitable<void> {
        const TlsOptions tls = issue("client", pki::client_request("remote"));
        auto c = channel(tls);
        EXPECT_TRUE(co_await c->async_connect());
        std::vector<std::string> echoed;
        CallEvents events;
        events.on_message = [&](std::string_view m) { echoed.emplace_back(m); };
        auto stream = c->call("/t/Echo", {}, events);
        EXPECT_EQ(stream->write(make_frame("before")), Write::kQueued);
        while (echoed.size() < 1) co_await sleep(1ms);

        // Half of a change: the certificate without its key. The old pair stays in use.
        const auto next = ca_->issue(pki::server_request({"second.example.com"}), now_);
        write("server.crt", next->certificate);
        auto half = channel(tls, "first.example.com");
        auto ok = co_await half->async_connect();
        EXPECT_TRUE(ok) << ok.error().message();
        EXPECT_NE(log_.find("unusable"), std::string::npos) << log_;
        EXPECT_EQ(log_.find("PRIVATE KEY"), std::string::npos);

        write("server.key", next->private_key);
        auto fresh = channel(tls, "second.example.com");
        ok = co_await fresh->async_connect();
        EXPECT_TRUE(ok) << ok.error().message();
        EXPECT_EQ(server_->stats().tls_reloads, 1U);
        auto stale = channel(tls, "first.example.com");
        EXPECT_FALSE(co_await stale->async_connect());

        EXPECT_EQ(stream->write(make_frame("after")), Write::kQueued);
        while (echoed.size() < 2) co_await sleep(1ms);
        EXPECT_EQ(echoed.back(), "after");
        stream->abandon();
    });
}

TEST_F(LoopbackTest, FilesThatAreNoneAreNamed) {
    make_ca();
    TlsOptions good = issue("client", pki::client_request("remote"));
    const auto error_of = [&](TlsOptions o) {
        auto r = TlsCredentials::load(TlsRole::kClient, std::move(o), {});
        return r ? std::string("no error") : r.error().message();
    };
    TlsOptions o = good;
    o.ca_file = (dir_ / "absent.crt").string();
    EXPECT_NE(error_of(o).find("ca-file " + o.ca_file +
                               ": expected PEM certificates of CAs: No such file"),
              std::string::npos)
        << error_of(o);
    o = good;
    o.cert_file = write("garbage.crt", "garbage");
    EXPECT_NE(error_of(o).find("cert-file " + o.cert_file), std::string::npos) << error_of(o);
    o = good;
    o.key_file = write("other.key", ca_->issue(pki::client_request("x"), now_)->private_key);
    EXPECT_NE(error_of(o).find("key-file " + o.key_file), std::string::npos) << error_of(o);
    EXPECT_EQ(error_of(o).find("PRIVATE KEY"), std::string::npos);
    o = good;
    o.key_file.clear();
    EXPECT_NE(error_of(o).find("together"), std::string::npos);
}

TEST_F(LoopbackTest, SilentAndForeignPeersAreClosedInTime) {
    ServerOptions options;
    options.handshake_timeout = 50ms;
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        asio::ip::tcp::socket silent(loop_);
        co_await silent.async_connect({asio::ip::make_address("127.0.0.1"), port_},
                                      asio::use_awaitable);
        char byte = 0;
        boost::system::error_code ec;
        // SETTINGS of the server come, then the end.
        do {
            co_await asio::async_read(silent, asio::buffer(&byte, 1),
                                      asio::redirect_error(asio::use_awaitable, ec));
        } while (!ec);
        EXPECT_NE(log_.find("no HTTP/2 settings in time"), std::string::npos) << log_;
        EXPECT_EQ(server_->stats().handshake_failures, 1U);

        asio::ip::tcp::socket http(loop_);
        co_await http.async_connect({asio::ip::make_address("127.0.0.1"), port_},
                                    asio::use_awaitable);
        co_await asio::async_write(http, asio::buffer("GET / HTTP/1.1\r\n\r\n", 18),
                                   asio::use_awaitable);
        ec = {};
        do {
            co_await asio::async_read(http, asio::buffer(&byte, 1),
                                      asio::redirect_error(asio::use_awaitable, ec));
        } while (!ec);
        EXPECT_EQ(server_->stats().handshake_failures, 2U);
        EXPECT_EQ(server_->stats().connections, 0U);
    });
}

TEST_F(LoopbackTest, ConnectionsBeyondTheBoundAreClosed) {
    ServerOptions options;
    options.max_connections = 2;
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        auto a = channel();
        auto b = channel();
        auto c = channel();
        EXPECT_TRUE(co_await a->async_connect());
        EXPECT_TRUE(co_await b->async_connect());
        auto third = co_await c->async_connect();
        EXPECT_FALSE(third);
        EXPECT_EQ(server_->stats().refused_limit, 1U);
    });
}

TEST_F(LoopbackTest, ConnectionsOfOneNameAreBounded) {
    make_ca();
    ServerOptions options;
    options.tls = issue("server", pki::server_request());
    options.max_connections_per_name = 2;
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        const TlsOptions two = issue("two", pki::client_request("remote-two"));
        auto a = channel(two);
        auto b = channel(two);
        auto c = channel(two);
        EXPECT_TRUE(co_await a->async_connect());
        EXPECT_TRUE(co_await b->async_connect());
        const Result<void> third = co_await c->async_connect();
        EXPECT_FALSE(third);
        EXPECT_NE(log_.find("\"remote-two\" has as many connections"), std::string::npos) << log_;
        auto other = channel(issue("three", pki::client_request("remote-three")));
        EXPECT_TRUE(co_await other->async_connect());
        // One that has gone leaves its place.
        a->close();
        Result<void> again = Error(Errc::kUnavailable, "not tried");
        std::unique_ptr<Channel> d;
        for (int i = 0; !again && i < 100; ++i) {
            co_await sleep(5ms);
            d = channel(two);
            again = co_await d->async_connect();
        }
        EXPECT_TRUE(again);
    });
}

TEST_F(LoopbackTest, IdleHandshakesMakeRoomForNewOnes) {
    ServerOptions options;
    options.max_handshakes = 6;
    options.max_handshakes_per_address = 3;
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        std::vector<asio::ip::tcp::socket> silent;
        const auto connect_from = [&](const char* address) -> asio::awaitable<void> {
            auto& socket = silent.emplace_back(loop_);
            socket.open(asio::ip::tcp::v4());
            socket.bind({asio::ip::make_address(address), 0});
            co_await socket.async_connect({asio::ip::make_address("127.0.0.1"), port_},
                                          asio::use_awaitable);
        };
        for (int i = 0; i < 2; ++i) co_await connect_from("127.0.0.2");
        while (server_->stats().accepted < 2) co_await sleep(1ms);
        for (int i = 0; i < 8; ++i) co_await connect_from("127.0.0.1");
        // Those who come while all places are young wait.
        auto c = channel();
        const Result<void> connected = co_await c->async_connect();
        EXPECT_TRUE(connected) << connected.error().message();
        EXPECT_LE(server_->stats().connections, 7U);
        EXPECT_GE(server_->stats().handshakes_closed, 5U);
        // Connections that are up are not touched, nor those of an address with few.
        for (int i = 0; i < 4; ++i) co_await connect_from("127.0.0.1");
        while (server_->stats().accepted < 15) co_await sleep(1ms);
        auto who = co_await c->async_unary("/t/Who", make_frame(""), {});
        EXPECT_TRUE(who.status.ok()) << who.status.message;
        for (std::size_t i = 0; i < 2; ++i) {
            std::array<char, 1000> settings{};
            boost::system::error_code ec;
            silent[i].non_blocking(true);
            while (!ec) silent[i].read_some(asio::buffer(settings), ec);
            EXPECT_EQ(ec, asio::error::would_block);
        }
    });
}

TEST_F(LoopbackTest, PeerThatTakesNothingIsClosed) {
    ServerOptions options;
    options.write_timeout = 1s;
    serve(std::move(options));
    server_->handle_unary("/t/Big", [](const ServerCallPtr& call, std::string_view) {
        call->reply(make_frame(std::string(20'000'000, 'b')));
    });
    run([&]() -> asio::awaitable<void> {
        auto c = channel();
        EXPECT_TRUE(co_await c->async_connect());
        // One that reads gets all of it.
        auto whole = co_await c->async_unary("/t/Big", make_frame(""), {});
        EXPECT_EQ(whole.message.size(), 20'000'000U) << whole.status.message;
        std::optional<Status> ended;
        CallEvents events;
        events.on_end = [&](const Status& s, const Metadata&) { ended = s; };
        auto call = c->call("/t/Big", {}, events);
        call->pause();
        EXPECT_EQ(call->write(make_frame("")), Write::kQueued);
        call->half_close();
        const TimePoint late = clock_.now() + 20s;
        while (!ended && clock_.now() < late) co_await sleep(10ms);
        EXPECT_TRUE(ended) << "20 MB are kept for a client that does not read";
        EXPECT_EQ(server_->stats().connections, 0U);
    });
}

TEST_F(LoopbackTest, PeerWhoseSocketIsFullIsClosed) {
    ServerOptions options;
    options.write_timeout = 1s;
    serve(std::move(options));
    ServerCallPtr watcher;
    server_->handle("/t/Watch", [&](const ServerCallPtr& call) { watcher = call; });
    run([&]() -> asio::awaitable<void> {
        // Windows as large as they can be, and nobody who reads from the socket.
        asio::ip::tcp::socket raw(loop_);
        co_await raw.async_connect({asio::ip::make_address("127.0.0.1"), port_},
                                   asio::use_awaitable);
        const auto text = [](std::string_view s) {
            return std::string(1, '\0') + static_cast<char>(s.size()) + std::string(s);
        };
        std::string fields;
        for (const auto& [name, value] : Metadata{{":method", "POST"},
                                                  {":scheme", "http"},
                                                  {":path", "/t/Watch"},
                                                  {":authority", "a"},
                                                  {"content-type", "application/grpc"}})
            fields += text(name) + static_cast<char>(value.size()) + value;
        std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        bytes += std::string("\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff", 15);  // SETTINGS
        bytes += std::string("\0\0\4\x8\0\0\0\0\0\x7f\0\0\0", 13);           // WINDOW_UPDATE
        bytes += std::string("\0\0", 2) + static_cast<char>(fields.size());
        bytes += std::string("\1\4\0\0\0\1", 6) + fields;  // HEADERS
        co_await asio::async_write(raw, asio::buffer(bytes), asio::use_awaitable);
        while (!watcher) co_await sleep(1ms);
        const Frame frame = make_frame(std::string(500'000, 'e'));
        const TimePoint late = clock_.now() + 20s;
        while (!watcher->ended() && clock_.now() < late) {
            static_cast<void>(watcher->write(frame));
            co_await sleep(5ms);
        }
        EXPECT_TRUE(watcher->ended());
        EXPECT_EQ(server_->stats().connections, 0U);
        watcher.reset();
    });
}

TEST_F(LoopbackTest, ClosedChannelTellsWhyItWas) {
    serve({});
    server_->handle("/t/Slow", [](const ServerCallPtr&) {});
    run([&]() -> asio::awaitable<void> {
        auto c = channel();
        EXPECT_TRUE(co_await c->async_connect());
        std::optional<Status> ended;
        CallEvents events;
        events.on_end = [&](const Status& s, const Metadata&) { ended = s; };
        c->call("/t/Slow", {}, events);
        c->close({StatusCode::kUnavailable, "moving on"});
        EXPECT_EQ(ended, (Status{StatusCode::kUnavailable, "moving on"}));
    });
}

TEST_F(LoopbackTest, DrainLetsCallsEndAndStopsTheRest) {
    serve({});
    ServerCallPtr slow;
    server_->handle("/t/Slow", [&](const ServerCallPtr& call) { slow = call; });
    run([&]() -> asio::awaitable<void> {
        auto c = channel();
        std::optional<Error> closed;
        c->on_closed([&](const Error& e) { closed = e; });
        EXPECT_TRUE(co_await c->async_connect());
        std::optional<Status> ended;
        CallEvents events;
        events.on_end = [&](const Status& s, const Metadata&) { ended = s; };
        c->call("/t/Slow", {}, events);
        while (!slow) co_await sleep(1ms);
        bool drained = false;
        asio::co_spawn(loop_, server_->async_drain(30s),
                       [&](std::exception_ptr) { drained = true; });
        while (c->usable()) co_await sleep(1ms);
        EXPECT_FALSE(drained);
        auto late = co_await c->async_unary("/t/Who", make_frame(""), {});
        EXPECT_EQ(late.status.code, StatusCode::kUnavailable);
        slow->finish({});
        while (!drained || !closed) co_await sleep(1ms);
        EXPECT_TRUE(ended && ended->ok());
        auto again = channel();
        EXPECT_FALSE(co_await again->async_connect());
    });
}

TEST_F(LoopbackTest, NobodyListensIsToldWithTheEndpoint) {
    serve({});
    server_->stop();
    run([&]() -> asio::awaitable<void> {
        auto c = channel();
        auto told = co_await c->async_connect();
        EXPECT_FALSE(told);
        EXPECT_EQ(told.error().code(), Errc::kUnavailable);
        EXPECT_NE(told.error().detail().find("127.0.0.1:" + std::to_string(port_)),
                  std::string::npos);
    });
}

}  // namespace
}  // namespace mesh::rpc
