// The server and its client over real sockets: the server's loop runs on a thread of its own, the
// tests are blocking clients.
#include "serve/status/status_server.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <cstring>
#include <fstream>
#include <future>
#include <optional>
#include <stdexcept>
#include <thread>

#include "serve/status/http_get.hpp"

namespace mesh::serve {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

class StatusServerTest : public testing::Test {
  protected:
    StatusServerTest() {
        std::string pattern = (fs::temp_directory_path() / "mesh-status-XXXXXX").string();
        directory = ::mkdtemp(pattern.data());
        options.unix_socket = directory / "s.sock";
    }
    ~StatusServerTest() override {
        stop();
        fs::remove_all(directory);
    }

    Result<void> start() {
        server = std::make_unique<StatusServer>(context.get_executor(), Logger{}, options);
        server->route("/hello", [](const StatusRequest& r) {
            return StatusResponse{200, "text/plain", "hello " + r.parameter("name").value_or("?")};
        });
        server->route("/below/*", [](const StatusRequest& r) {
            return StatusResponse{200, "text/plain", r.path};
        });
        server->route("/large", [](const StatusRequest&) {
            return StatusResponse{200, "text/plain", std::string(16 << 20, 'x')};
        });
        server->route("/body", [](const StatusRequest& r) {
            return StatusResponse{200, "text/plain", std::to_string(r.body.size()) + r.body.back()};
        });
        server->route("/throws", [](const StatusRequest&) -> StatusResponse {
            throw std::runtime_error("boom");
        });
        auto started = server->start();
        if (started) thread = std::thread([this] { context.run(); });
        return started;
    }
    void stop() {
        if (!thread.joinable()) return;
        asio::co_spawn(context, server->async_stop(), asio::use_future).get();
        guard.reset();
        thread.join();
    }

    [[nodiscard]] int connect_unix() const {
        const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, options.unix_socket.c_str());
        EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
        return fd;
    }
    [[nodiscard]] int connect_tcp() const {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(server->tcp_port());
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
        return fd;
    }
    static void send(int fd, std::string_view text) {
        while (!text.empty()) {
            const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
            if (sent <= 0) return;  // the server closed: what it said is still to be read
            text.remove_prefix(static_cast<std::size_t>(sent));
        }
    }
    static std::string receive_all(int fd) {
        std::string all;
        char buffer[65536];
        for (;;) {
            const ssize_t got = ::recv(fd, buffer, sizeof(buffer), 0);
            if (got <= 0) break;
            all.append(buffer, static_cast<std::size_t>(got));
        }
        ::close(fd);
        return all;
    }
    /// Sends raw bytes on one connection and returns all that comes until the server closes it.
    std::string exchange(std::string_view bytes) const {
        const int fd = connect_unix();
        send(fd, bytes);
        return receive_all(fd);
    }

    fs::path directory;
    StatusServerOptions options;
    asio::io_context context{1};
    std::optional<asio::executor_work_guard<asio::io_context::executor_type>> guard{
        context.get_executor()};
    std::unique_ptr<StatusServer> server;
    std::thread thread;
};

TEST_F(StatusServerTest, AnswersRoutesOverTheUnixSocket) {
    ASSERT_TRUE(start());
    auto reply = http_get(options.unix_socket, "/hello?x=1&name=a%20b", 10s);
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_EQ(reply->status, 200U);
    EXPECT_EQ(reply->content_type, "text/plain");
    EXPECT_EQ(reply->body, "hello a b");
    EXPECT_EQ(http_get(options.unix_socket, "/below/a/b%2Fc", 10s)->body, "/below/a/b/c");
    EXPECT_EQ(http_get(options.unix_socket, "/below", 10s)->status, 404U);
    EXPECT_EQ(http_get(options.unix_socket, "/large", 10s)->body.size(), std::size_t{16} << 20);
    EXPECT_EQ(http_get(options.unix_socket, "/throws", 10s)->status, 500U);
    reply = http_get(options.unix_socket, "/nothing", 10s);
    EXPECT_EQ(reply->status, 404U);
    EXPECT_THAT(reply->body, HasSubstr("\"/hello\""));
}

TEST_F(StatusServerTest, HealthAndMetrics) {
    ASSERT_TRUE(start());
    EXPECT_EQ(http_get(options.unix_socket, "/healthz", 10s)->status, 200U);
    stop();
    context.restart();
    guard.emplace(context.get_executor());

    auto registry = std::make_shared<prometheus::Registry>();
    prometheus::BuildCounter().Name("mesh_test_total").Register(*registry).Add({}).Increment(3);
    server = std::make_unique<StatusServer>(context.get_executor(), Logger{}, options);
    server->serve_metrics(registry);
    server->set_health([]() -> Result<void> { return unavailable("etcd is away"); });
    ASSERT_TRUE(server->start());
    thread = std::thread([this] { context.run(); });
    const auto health = http_get(options.unix_socket, "/healthz", 10s);
    EXPECT_EQ(health->status, 503U);
    EXPECT_THAT(health->body, HasSubstr("etcd is away"));
    const auto metrics = http_get(options.unix_socket, "/metrics", 10s);
    EXPECT_THAT(metrics->content_type, StartsWith("text/plain; version=0.0.4"));
    EXPECT_THAT(metrics->body, HasSubstr("mesh_test_total 3"));
}

TEST_F(StatusServerTest, SocketFileHasItsModeAndGoesAtStop) {
    options.unix_socket_mode = 0660;
    const mode_t before = ::umask(077);
    ASSERT_TRUE(start());
    ::umask(before);
    struct stat status {};
    ASSERT_EQ(::stat(options.unix_socket.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0660U);
    stop();
    EXPECT_NE(::lstat(options.unix_socket.c_str(), &status), 0);
}

TEST_F(StatusServerTest, ReplacesAStaleSocketButNotALiveOneNorAFile) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, options.unix_socket.c_str());
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(fd, 1), 0);
    EXPECT_EQ(start().error().code(), Errc::kConflict);
    ::close(fd);
    EXPECT_TRUE(start());
    EXPECT_EQ(http_get(options.unix_socket, "/healthz", 10s)->status, 200U);
    stop();
    std::ofstream(options.unix_socket) << "precious";
    EXPECT_EQ(start().error().code(), Errc::kInvalidArgument);
    EXPECT_EQ(fs::file_size(options.unix_socket), 8U);
}

TEST_F(StatusServerTest, LeavesTheSocketOfASuccessorAlone) {
    ASSERT_TRUE(start());
    fs::remove(options.unix_socket);
    std::ofstream(options.unix_socket) << "the successor's";
    stop();
    EXPECT_TRUE(fs::exists(options.unix_socket));
}

TEST_F(StatusServerTest, RefusesAPathTooLongForASocket) {
    options.unix_socket = directory / std::string(120, 'x');
    const auto started = start();
    EXPECT_EQ(started.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(started.error().detail(), HasSubstr("107"));
}

TEST_F(StatusServerTest, KeepsTheConnectionAndAnswersPipelinedRequestsInOrder) {
    ASSERT_TRUE(start());
    const std::string all = exchange(
        "GET /hello?name=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /hello?name=2 HTTP/1.1\r\nHost: x\r\n"
        "Connection: close\r\n\r\n");
    const auto first = all.find("hello 1");
    ASSERT_NE(first, std::string::npos) << all;
    EXPECT_NE(all.find("hello 2", first), std::string::npos) << all;
}

TEST_F(StatusServerTest, HeadHasTheLengthAndNoBody) {
    ASSERT_TRUE(start());
    const std::string all =
        exchange("HEAD /hello?name=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_THAT(all, HasSubstr("Content-Length: 7\r\n"));
    EXPECT_TRUE(all.ends_with("\r\n\r\n")) << all;
}

TEST_F(StatusServerTest, TakesALongBodyOverTheUnixSocketOnly) {
    options.tcp_port = 0;
    ASSERT_TRUE(start());
    const std::string body = std::string(1 << 20, 'x') + "y";
    const auto reply = http_get(options.unix_socket, "/body", 30s, 1000, body);
    ASSERT_TRUE(reply) << reply.error().detail();
    EXPECT_EQ(reply->body, "1048577y");
    const int fd = connect_tcp();
    send(fd, "GET /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n");
    EXPECT_THAT(receive_all(fd), StartsWith("HTTP/1.1 413"));
}

TEST_F(StatusServerTest, RefusesMalformedAndOversizedRequests) {
    options.max_header_bytes = 1024;
    options.max_unix_body_bytes = 100;
    ASSERT_TRUE(start());
    EXPECT_THAT(exchange("\x16\x03\x01 this is not HTTP\r\n\r\n"), StartsWith("HTTP/1.1 400"));
    EXPECT_THAT(exchange("GET nowhere HTTP/1.1\r\nConnection: close\r\n\r\n"),
                StartsWith("HTTP/1.1 400"));
    EXPECT_THAT(exchange("GET /%zz HTTP/1.1\r\nConnection: close\r\n\r\n"),
                StartsWith("HTTP/1.1 400"));
    EXPECT_THAT(exchange("GET /hello HTTP/1.1\r\nX: " + std::string(2000, 'x') + "\r\n\r\n"),
                StartsWith("HTTP/1.1 431"));
    EXPECT_THAT(exchange("GET /" + std::string(2000, 'x') + " HTTP/1.1\r\n\r\n"),
                StartsWith("HTTP/1.1 431"));
    EXPECT_THAT(
        exchange("GET /hello HTTP/1.1\r\nContent-Length: 101\r\n\r\n" + std::string(101, 'x')),
        StartsWith("HTTP/1.1 413"));
    const std::string post = exchange("POST /hello HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    EXPECT_THAT(post, StartsWith("HTTP/1.1 405"));
    EXPECT_THAT(post, HasSubstr("Allow: GET, HEAD"));
    // None of these has hurt it.
    EXPECT_EQ(http_get(options.unix_socket, "/healthz", 10s)->status, 200U);
}

TEST_F(StatusServerTest, EndsSlowAndIdleClients) {
    options.request_timeout = 50ms;
    options.idle_timeout = 50ms;
    ASSERT_TRUE(start());
    EXPECT_THAT(exchange("GET /hello HTTP/1.1\r\nHo"), IsEmpty());
    EXPECT_THAT(exchange("GET /hello HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"), IsEmpty());
    EXPECT_THAT(exchange(""), IsEmpty());
    // Answered, and then ended as idle. On a busy machine the client itself may be too slow.
    std::string once;
    for (int i = 0; i < 100 && once.empty(); ++i) {
        once = exchange("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    EXPECT_THAT(once, StartsWith("HTTP/1.1 200"));
}

TEST_F(StatusServerTest, EndsAClientThatDoesNotRead) {
    options.write_timeout = 50ms;
    ASSERT_TRUE(start());
    const int fd = connect_unix();
    send(fd, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    // The server gives up: the rest of what it sent is in the socket, then the end.
    pollfd closed{fd, POLLRDHUP, 0};
    EXPECT_EQ(::poll(&closed, 1, 20'000), 1);
    EXPECT_LT(receive_all(fd).size(), std::size_t{16} << 20);
}

TEST_F(StatusServerTest, ClosesConnectionsBeyondTheLimit) {
    options.max_connections = 1;
    ASSERT_TRUE(start());
    const int first = connect_unix();
    send(first, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    char byte = 0;
    ASSERT_EQ(::recv(first, &byte, 1, 0), 1);
    EXPECT_THAT(exchange("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"), IsEmpty());
    ::close(first);
}

TEST_F(StatusServerTest, LoopbackTcpServesOnlyItsOwnNames) {
    options.tcp_port = 0;
    ASSERT_TRUE(start());
    ASSERT_NE(server->tcp_port(), 0);
    const auto ask = [&](const std::string& host) {
        const int fd = connect_tcp();
        send(fd, "GET /hello HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n");
        return receive_all(fd);
    };
    EXPECT_THAT(ask("127.0.0.1:" + std::to_string(server->tcp_port())), StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(ask("localhost"), StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(ask("[::1]"), StartsWith("HTTP/1.1 200"));
    EXPECT_THAT(ask("rebound.example:80"), StartsWith("HTTP/1.1 403"));
}

TEST_F(StatusServerTest, StopEndsOpenConnections) {
    ASSERT_TRUE(start());
    const int fd = connect_unix();
    send(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    char byte = 0;
    ASSERT_EQ(::recv(fd, &byte, 1, 0), 1);
    stop();
    EXPECT_THAT(receive_all(fd), HasSubstr("hello"));
}

TEST_F(StatusServerTest, ClientTellsWhatIsWrong) {
    EXPECT_EQ(http_get(options.unix_socket, "/x", 1s).error().code(), Errc::kNotFound);
    EXPECT_EQ(http_get(options.unix_socket, "x", 1s).error().code(), Errc::kInvalidArgument);
    EXPECT_EQ(http_get(options.unix_socket, "/a b", 1s).error().code(), Errc::kInvalidArgument);
    ASSERT_TRUE(start());
    const auto large = http_get(options.unix_socket, "/large", 10s, 1000);
    EXPECT_EQ(large.error().code(), Errc::kCapacity);
    EXPECT_THAT(large.error().detail(), HasSubstr("s.sock"));
    stop();

    const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, options.unix_socket.c_str());
    ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(http_get(options.unix_socket, "/x", 1s).error().code(), Errc::kUnavailable);
    ASSERT_EQ(::listen(listener, 4), 0);
    // Nobody accepts: the kernel does, and no answer comes.
    EXPECT_EQ(http_get(options.unix_socket, "/x", 50ms).error().code(), Errc::kTimeout);
    const auto answer = [&](std::string_view bytes) {
        ::close(::accept(listener, nullptr, nullptr));  // the one that timed out
        std::thread peer([&] {
            const int fd = ::accept(listener, nullptr, nullptr);
            char buffer[4096];
            (void)::recv(fd, buffer, sizeof(buffer), 0);
            send(fd, bytes);
            ::close(fd);
        });
        auto reply = http_get(options.unix_socket, "/x", 10s);
        peer.join();
        (void)http_get(options.unix_socket, "/x", 10ms);
        return reply;
    };
    EXPECT_EQ(answer("SSH-2.0-OpenSSH\r\n\r\n").error().code(), Errc::kCorrupt);
    EXPECT_EQ(answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").error().code(),
              Errc::kUnavailable);
    ::close(listener);
}

}  // namespace
}  // namespace mesh::serve
