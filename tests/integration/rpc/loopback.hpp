// A server and clients over real sockets on loopback, with certificates of a real CA.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "rpc/client.hpp"
#include "rpc/server.hpp"

namespace mesh::rpc {

using namespace std::chrono_literals;
namespace asio = boost::asio;

class LoopbackTest : public ::testing::Test {
  protected:
    LoopbackTest() {
        std::string pattern = (std::filesystem::temp_directory_path() / "mesh-rpc-XXXXXX").string();
        dir_ = ::mkdtemp(pattern.data());
    }
    ~LoopbackTest() override { std::filesystem::remove_all(dir_); }

    /// Runs a coroutine to its end, at most for a minute.
    void run(std::function<asio::awaitable<void>()> test) {
        bool done = false;
        asio::co_spawn(
            loop_,
            [&]() -> asio::awaitable<void> {
                co_await test();
                done = true;
                server_.reset();
            },
            [](std::exception_ptr e) {
                if (e) std::rethrow_exception(e);
            });
        loop_.run_for(60s);
        EXPECT_TRUE(done) << "the test did not end";
    }

    std::string write(const std::string& name, const std::string& text) {
        const std::string path = (dir_ / name).string();
        EXPECT_TRUE(pki::write_file(path, text, pki::FileMode::kPrivate));
        return path;
    }

    void make_ca() {
        now_ = SystemClock().wall_now();
        ca_ = *pki::Authority::make("test ca", 24h, now_);
        ca_file_ = write("ca.crt", ca_->certificate());
    }

    /// Files <name>.crt and <name>.key.
    TlsOptions issue(const std::string& name, const pki::CertificateRequest& request,
                     const pki::Authority* by = nullptr) {
        const auto pair = (by != nullptr ? *by : *ca_).issue(request, now_);
        EXPECT_TRUE(pair);
        TlsOptions o;
        o.ca_file = ca_file_;
        o.cert_file = write(name + ".crt", pair->certificate);
        o.key_file = write(name + ".key", pair->private_key);
        return o;
    }

    void serve(ServerOptions options) {
        server_ =
            std::make_unique<Server>(loop_.get_executor(), std::move(options), clock_, logger());
        server_->handle_unary("/t/Who", [](const ServerCallPtr& call, std::string_view) {
            call->reply(make_frame(call->peer().common_name));
        });
        server_->handle("/t/Echo", [](const ServerCallPtr& call) {
            call->on_message(
                [call](std::string_view m) { static_cast<void>(call->write(make_frame(m))); });
            call->on_half_close([call] { call->finish({}); });
        });
        const auto port = server_->listen("127.0.0.1", 0);
        ASSERT_TRUE(port) << port.error().message();
        port_ = *port;
    }

    void serve_tls(const pki::CertificateRequest& request,
                   ClientCertificate need = ClientCertificate::kRequired) {
        ServerOptions options;
        options.tls = issue("server", request);
        options.tls->client_certificate = need;
        serve(std::move(options));
    }

    std::unique_ptr<Channel> channel(std::optional<TlsOptions> tls = {}, std::string name = {}) {
        ChannelOptions options;
        options.host = "127.0.0.1";
        options.port = port_;
        options.server_name = std::move(name);
        if (tls) {
            auto loaded = TlsCredentials::load(TlsRole::kClient, *tls, logger());
            EXPECT_TRUE(loaded) << loaded.error().message();
            options.tls = *loaded;
        }
        return std::make_unique<Channel>(loop_.get_executor(), options, clock_, logger());
    }

    /// What a client that should be refused is told, at connect or at its first call.
    asio::awaitable<Error> refusal(Channel& c) {
        auto connected = co_await c.async_connect();
        if (!connected) co_return connected.error();
        auto answer = co_await c.async_unary("/t/Who", make_frame(""), {});
        EXPECT_FALSE(answer.status.ok()) << "not refused";
        co_return to_error(answer.status);
    }

    Logger logger() {
        return {"rpc", [this](LogLevel, std::string_view, std::string_view text) {
                    log_.append(text).append("\n");
                }};
    }

    asio::awaitable<void> sleep(Duration d) {
        asio::steady_timer timer(loop_, std::chrono::ceil<std::chrono::microseconds>(d));
        co_await timer.async_wait(asio::use_awaitable);
    }

    asio::io_context loop_{1};
    SystemClock clock_;
    std::filesystem::path dir_;
    WallTime now_{};
    std::optional<pki::Authority> ca_;
    std::string ca_file_;
    std::string log_;
    std::unique_ptr<Server> server_;
    std::uint16_t port_ = 0;
};

}  // namespace mesh::rpc
