// TLS sessions that are taken up again, and those that must not be.
#include "loopback.hpp"

namespace mesh::rpc {
namespace {

class ResumptionTest : public LoopbackTest {
  protected:
    ResumptionTest() { make_ca(); }

    std::shared_ptr<TlsCredentials> credentials(const TlsOptions& tls) {
        auto loaded = TlsCredentials::load(TlsRole::kClient, tls, logger());
        EXPECT_TRUE(loaded);
        return *loaded;
    }

    std::unique_ptr<Channel> with(const std::shared_ptr<TlsCredentials>& tls) {
        ChannelOptions options;
        options.host = "127.0.0.1";
        options.port = port_;
        options.tls = tls;
        return std::make_unique<Channel>(loop_.get_executor(), options, clock_, logger());
    }

    /// Connects, asks who we are, which also lets the ticket come; and leaves.
    asio::awaitable<std::string> visit(std::shared_ptr<TlsCredentials> tls) {
        auto c = with(tls);
        const auto connected = co_await c->async_connect();
        if (!connected) co_return connected.error().detail();
        EXPECT_EQ(c->peer().common_name, pki::kServerCommonName);
        EXPECT_TRUE(c->peer().verified);
        const auto who = co_await c->async_unary("/t/Who", make_frame(""), {});
        co_return who.status.ok() ? who.message : who.status.message;
    }

    std::uint64_t resumed() const { return server_->stats().tls_resumed; }
};

TEST_F(ResumptionTest, AClientThatComesBackIsTheSame) {
    serve_tls(pki::server_request());
    run([&]() -> asio::awaitable<void> {
        const auto two = credentials(issue("two", pki::client_request("remote-two")));
        const auto three = credentials(issue("three", pki::client_request("remote-three")));
        for (int i = 0; i < 3; ++i) {
            EXPECT_EQ(co_await visit(two), "remote-two");
            EXPECT_EQ(co_await visit(three), "remote-three");
        }
        EXPECT_EQ(server_->stats().tls_handshakes, 6U);
        EXPECT_EQ(resumed(), 4U);
    });
}

TEST_F(ResumptionTest, AnotherServerOfTheProcessTakesItUpIfItTrustsTheSame) {
    serve_tls(pki::server_request());
    ServerOptions options;
    options.tls = issue("second", pki::server_request());
    const auto one_more = [&] {
        auto server = std::make_unique<Server>(loop_.get_executor(), options, clock_, logger());
        server->handle_unary("/t/Who", [](const ServerCallPtr& call, std::string_view) {
            call->reply(make_frame(call->peer().common_name));
        });
        return server;
    };
    run([&]() -> asio::awaitable<void> {
        const auto two = credentials(issue("two", pki::client_request("remote-two")));
        EXPECT_EQ(co_await visit(two), "remote-two");
        server_->stop();
        auto second = one_more();
        EXPECT_EQ(second->listen("127.0.0.1", port_).value(), port_);
        EXPECT_EQ(co_await visit(two), "remote-two");
        EXPECT_EQ(second->stats().tls_resumed, 1U);
        second->stop();
        // This one knows another CA: what the first one's ticket says is nothing to it.
        const auto other = pki::Authority::make("other ca", 24h, now_);
        options.tls->ca_file = write("other.crt", other->certificate());
        auto third = one_more();
        EXPECT_EQ(third->listen("127.0.0.1", port_).value(), port_);
        const std::string told = co_await visit(two);
        EXPECT_NE(told.find("does not know the CA"), std::string::npos) << told;
        EXPECT_EQ(third->stats().tls_resumed, 0U);
    });
}

TEST_F(ResumptionTest, NotAfterTheCertificateWasRevoked) {
    ServerOptions options;
    options.tls = issue("server", pki::server_request());
    options.tls->crl_file = write("crl.pem", *ca_->revocation_list({}, now_, 2h));
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        const TlsOptions tls = issue("two", pki::client_request("remote-two"));
        const auto two = credentials(tls);
        EXPECT_EQ(co_await visit(two), "remote-two");
        EXPECT_EQ(co_await visit(two), "remote-two");
        EXPECT_EQ(resumed(), 1U);
        const auto pair = pki::read_file(tls.cert_file, 10'000);
        write("crl.pem", *ca_->revocation_list({pki::inspect(*pair)->serial}, now_, 2h));
        const std::string told = co_await visit(two);
        EXPECT_NE(told.find("revoked"), std::string::npos) << told;
        EXPECT_EQ(resumed(), 1U);
    });
}

TEST_F(ResumptionTest, NotAfterTheCaWasRemoved) {
    const auto other = pki::Authority::make("other ca", 24h, now_);
    const TlsOptions tls = issue("two", pki::client_request("remote-two"), &*other);
    write("ca.crt", ca_->certificate() + other->certificate());
    serve_tls(pki::server_request());
    run([&]() -> asio::awaitable<void> {
        TlsOptions own = tls;
        own.ca_file = write("own-ca.crt", ca_->certificate());
        const auto two = credentials(own);
        EXPECT_EQ(co_await visit(two), "remote-two");
        write("ca.crt", ca_->certificate());
        const std::string told = co_await visit(two);
        EXPECT_NE(told.find("does not know the CA"), std::string::npos) << told;
        EXPECT_EQ(resumed(), 0U);
    });
}

TEST_F(ResumptionTest, NotAfterTheCertificateHasEnded) {
    serve_tls(pki::server_request());
    run([&]() -> asio::awaitable<void> {
        // Long enough for this machine to connect twice before the end.
        for (auto left = 2s; left < 60s; left *= 2) {
            auto request = pki::client_request("remote-two");
            request.validity = 1h;
            const WallTime end = clock_.wall_now() + left;
            const auto pair = ca_->issue(request, end - 1h);
            TlsOptions tls;
            tls.ca_file = ca_file_;
            tls.cert_file = write("short.crt", pair->certificate);
            tls.key_file = write("short.key", pair->private_key);
            const auto two = credentials(tls);
            const auto before = resumed();
            const std::string first = co_await visit(two);
            const std::string second = co_await visit(two);
            if (first != "remote-two" || second != "remote-two") continue;
            EXPECT_EQ(resumed(), before + 1);
            while (clock_.wall_now() < end + 1s) co_await sleep(20ms);
            const std::string told = co_await visit(two);
            EXPECT_NE(told.find("expired"), std::string::npos) << told;
            EXPECT_EQ(resumed(), before + 1);
            co_return;
        }
        ADD_FAILURE() << "no connection before the certificate ended";
    });
}

TEST_F(ResumptionTest, NotWhereItIsSwitchedOff) {
    ServerOptions options;
    options.tls = issue("server", pki::server_request());
    options.tls->resume_sessions = false;
    serve(std::move(options));
    run([&]() -> asio::awaitable<void> {
        const auto two = credentials(issue("two", pki::client_request("remote-two")));
        for (int i = 0; i < 3; ++i) EXPECT_EQ(co_await visit(two), "remote-two");
        EXPECT_EQ(server_->stats().tls_handshakes, 3U);
        EXPECT_EQ(resumed(), 0U);
    });
}

}  // namespace
}  // namespace mesh::rpc
