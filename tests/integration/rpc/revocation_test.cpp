// Certificates that are revoked, or whose CA is trusted no more, while their sessions run; and the
// files that say so when they are no good.
#include <cstdlib>
#include <fstream>

#include "loopback.hpp"

namespace mesh::rpc {
namespace {

class RevocationTest : public LoopbackTest {
  protected:
    /// A client with an echo stream that lives until it is told its end.
    struct Client {
        std::unique_ptr<Channel> channel;
        ClientCallPtr stream;
        std::vector<std::string> echoed;
        std::optional<Status> ended;
        bool lost = false;
    };

    RevocationTest() {
        make_ca();
        list({});
    }

    /// Writes the CA's list. @param at since when it holds, for two hours
    void list(const std::vector<TlsOptions>& revoked, std::optional<WallTime> at = {}) {
        std::vector<std::string> serials;
        for (const TlsOptions& one : revoked)
            serials.push_back(pki::inspect(read(one.cert_file))->serial);
        crl_file_ = write("crl.pem", *ca_->revocation_list(serials, at.value_or(now_), 2h));
    }

    static std::string read(const std::string& path) {
        std::ifstream file(path);
        return {std::istreambuf_iterator<char>(file), {}};
    }

    void serve_with_list() {
        ServerOptions options;
        options.tls = issue("server", pki::server_request());
        options.tls->crl_file = crl_file_;
        options.tls_check_interval = 20ms;
        serve(std::move(options));
    }

    asio::awaitable<void> start(Client& client, const TlsOptions& tls) {
        client.channel = channel(tls);
        client.channel->on_closed([&client](const Error&) { client.lost = true; });
        const auto connected = co_await client.channel->async_connect();
        EXPECT_TRUE(connected) << connected.error().message();
        CallEvents events;
        events.on_message = [&client](std::string_view m) { client.echoed.emplace_back(m); };
        events.on_end = [&client](const Status& s, const Metadata&) { client.ended = s; };
        client.stream = client.channel->call("/t/Echo", {}, events);
        co_await echo(client);
    }

    asio::awaitable<void> echo(Client& client) {
        const std::size_t before = client.echoed.size();
        EXPECT_EQ(client.stream->write(make_frame("x")), Write::kQueued);
        while (client.echoed.size() == before && !client.ended) co_await sleep(1ms);
        EXPECT_FALSE(client.ended);
    }

    asio::awaitable<void> ends(const Client& client, std::string why) {
        while (!client.ended || !client.lost) co_await sleep(1ms);
        EXPECT_EQ(client.ended->code, StatusCode::kUnauthenticated);
        EXPECT_NE(client.ended->message.find(why), std::string::npos) << client.ended->message;
    }

    asio::awaitable<void> is_refused(const TlsOptions& tls, std::string why) {
        auto c = channel(tls);
        const auto told = co_await refusal(*c);
        EXPECT_EQ(told.code(), Errc::kPermission) << told.detail();
        EXPECT_NE(told.detail().find(why), std::string::npos) << told.detail();
    }

    std::size_t logged(std::string_view text) const {
        std::size_t count = 0;
        for (std::size_t at = 0; (at = log_.find(text, at)) != std::string::npos; ++at) ++count;
        return count;
    }

    asio::awaitable<void> until_logged(std::string text) {
        while (logged(text) == 0) co_await sleep(1ms);
    }

    /// A CA that `root` has certified, by the openssl program: pki makes none.
    pki::Authority make_intermediate(pki::Authority& root) {
        const std::string at = dir_.string() + "/";
        write("v3.cnf",
              "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n"
              "subjectKeyIdentifier=hash\n");
        const auto run = [](const std::string& command) {
            EXPECT_EQ(std::system((command + " >/dev/null 2>&1").c_str()), 0) << command;
        };
        run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=root "
            "-keyout " +
            at + "root.key -out " + at + "root.crt");
        run("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=between "
            "-keyout " +
            at + "between.key -out " + at + "between.csr");
        run("openssl x509 -req -in " + at + "between.csr -CA " + at + "root.crt -CAkey " + at +
            "root.key -set_serial 0x1234 -extfile " + at + "v3.cnf -out " + at + "between.crt");
        now_ = clock_.wall_now() + 1s;
        root = *pki::Authority::load({read(at + "root.crt"), read(at + "root.key")}, now_);
        return *pki::Authority::load({read(at + "between.crt"), read(at + "between.key")}, now_);
    }

    std::string crl_file_;
};

TEST_F(RevocationTest, RevokedSessionsEndAndTheOthersGoOn) {
    const TlsOptions a = issue("a", pki::client_request("remote-a"));
    const TlsOptions b = issue("b", pki::client_request("remote-b"));
    serve_with_list();
    EXPECT_TRUE(server_->tls_expiry().crl);
    run([&]() -> asio::awaitable<void> {
        Client first;
        Client second;
        Client other;
        co_await start(first, a);
        co_await start(second, a);
        co_await start(other, b);
        list({a});
        co_await ends(first, "certificate of \"remote-a\": it is revoked");
        co_await ends(second, "it is revoked");
        EXPECT_EQ(server_->stats().closed_revoked, 2U);
        EXPECT_EQ(logged("its connections end"), 1U) << log_;
        co_await echo(other);
        co_await is_refused(a, "certificate is revoked");
        // Taken off the list again.
        list({});
        co_await until_logged("remote-a");
        Client again;
        while (server_->stats().tls_reloads < 2) co_await sleep(1ms);
        co_await start(again, a);
        co_await echo(other);
        for (Client* one : {&again, &other}) one->stream->abandon();
    });
}

TEST_F(RevocationTest, ListsThatAreNoGoodLeaveTheLastGoodOne) {
    const TlsOptions a = issue("a", pki::client_request("remote-a"));
    const TlsOptions b = issue("b", pki::client_request("remote-b"));
    list({a});
    serve_with_list();
    run([&]() -> asio::awaitable<void> {
        Client other;
        co_await start(other, b);
        write("crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
        co_await until_logged("unusable, the old one stays in use: crl-file " + crl_file_ +
                              ": expected PEM lists");
        co_await is_refused(a, "revoked");

        const auto stranger = pki::Authority::make("test ca", 24h, now_);
        write("crl.pem", *stranger->revocation_list({}, now_, 2h) + "cut off");
        // The same name and another key: it counts for nobody, and says so.
        co_await until_logged("no CA of ca-file is \"CN = test ca\"");
        list({a}, now_ - 10h);
        co_await until_logged("is out of date (nextUpdate has passed), the list from before stays");
        EXPECT_EQ(server_->stats().tls_reloads, 1U);
        co_await echo(other);
        std::filesystem::remove(crl_file_);
        co_await until_logged("crl-file " + crl_file_ +
                              ": expected PEM lists of revoked certificates (X509 CRL): No such");
        co_await sleep(100ms);
        EXPECT_EQ(logged("No such file"), 1U) << log_;
        co_await echo(other);
        EXPECT_EQ(server_->stats().closed_revoked, 0U);
        other.stream->abandon();
    });
}

TEST_F(RevocationTest, AListThatRanOutStillCountsAndLocksNobodyOut) {
    const TlsOptions a = issue("a", pki::client_request("remote-a"));
    const TlsOptions b = issue("b", pki::client_request("remote-b"));
    list({a}, now_ - 10h);
    serve_with_list();
    EXPECT_EQ(logged("is out of date (nextUpdate has passed): what it revokes stays revoked"), 1U);
    run([&]() -> asio::awaitable<void> {
        co_await is_refused(a, "revoked");
        Client other;
        co_await start(other, b);
        // The next one is late as well, but newer.
        list({a, b}, now_ - 5h);
        co_await ends(other, "revoked");
    });
}

TEST_F(RevocationTest, AListBeginsWithTheServerOrItDoesNotStart) {
    ServerOptions options;
    options.tls = issue("server", pki::server_request());
    for (const std::string& text : {std::string("garbage"), ca_->certificate()}) {
        options.tls->crl_file = write("bad.pem", text);
        Server server(loop_.get_executor(), options, clock_, logger());
        const auto port = server.listen("127.0.0.1", 0);
        ASSERT_FALSE(port);
        EXPECT_EQ(port.error().code(), Errc::kInvalidArgument);
        EXPECT_NE(port.error().detail().find("crl-file " + options.tls->crl_file + ": expected"),
                  std::string::npos)
            << port.error().detail();
    }
}

TEST_F(RevocationTest, SessionsOfACaThatWasRemovedEnd) {
    const auto other_ca = pki::Authority::make("other ca", 24h, now_);
    const TlsOptions a = issue("a", pki::client_request("remote-a"));
    const TlsOptions b = issue("b", pki::client_request("remote-b"), &*other_ca);
    // Only one of the two has a list: nothing of the other is revoked.
    write("ca.crt", ca_->certificate() + other_ca->certificate());
    serve_with_list();
    run([&]() -> asio::awaitable<void> {
        Client mine;
        Client other;
        co_await start(mine, a);
        co_await start(other, b);
        // Of use to nobody, so nobody is let go.
        write("ca.crt", "");
        co_await until_logged("ca-file " + ca_file_ + ": expected PEM certificates of CAs");
        co_await echo(mine);
        co_await echo(other);
        write("ca.crt", ca_->certificate());
        co_await ends(other, "it is trusted no more (");
        co_await echo(mine);
        co_await is_refused(b, "does not know the CA");
        mine.stream->abandon();
    });
}

TEST_F(RevocationTest, ACaBetweenNeedsNoListAndCanBeRevokedItself) {
    auto root = *ca_;
    const pki::Authority between = make_intermediate(root);
    ca_ = root;
    write("ca.crt", root.certificate());
    TlsOptions a = issue("a", pki::client_request("remote-a"), &between);
    a.cert_file = write("chain.crt", read(a.cert_file) + between.certificate());
    list({});
    serve_with_list();
    run([&]() -> asio::awaitable<void> {
        Client client;
        co_await start(client, a);
        write("crl.pem", *root.revocation_list({"1234"}, now_, 2h));
        co_await ends(client, "it is revoked");
        co_await is_refused(a, "revoked");
    });
}

}  // namespace
}  // namespace mesh::rpc
