// Prober and HealthServer against each other and against servers that misbehave, on loopback.
#include "sources/health/prober.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "sources/health/health_server.hpp"

namespace {

namespace asio = boost::asio;
using namespace mesh;
using namespace mesh::sources::health;
using namespace std::chrono_literals;
using asio::ip::tcp;
using model::HealthCheck;
using model::IpAddress;

const IpAddress kLoopback = IpAddress::v4(127, 0, 0, 1);

/// Accepts, reads what comes, and answers with a fixed text; an empty one is silence.
class Fixed {
  public:
    Fixed(asio::io_context& io, std::string answer)
        : answer_(std::move(answer)), acceptor_(io, {asio::ip::address_v4::loopback(), 0}) {
        accept();
    }
    [[nodiscard]] std::uint16_t port() const { return acceptor_.local_endpoint().port(); }
    std::string request;

  private:
    void accept() {
        acceptor_.async_accept([this](boost::system::error_code ec, tcp::socket socket) {
            if (ec) return;
            auto held = std::make_shared<tcp::socket>(std::move(socket));
            auto buffer = std::make_shared<std::array<char, 1024>>();
            held->async_read_some(
                asio::buffer(*buffer),
                [this, held, buffer](boost::system::error_code failed, std::size_t size) {
                    if (failed) return;
                    request.assign(buffer->data(), size);
                    boost::system::error_code ignored;
                    if (!answer_.empty()) asio::write(*held, asio::buffer(answer_), ignored);
                    if (answer_.empty()) silent_.push_back(held);
                });
            accept();
        });
    }
    std::string answer_;
    tcp::acceptor acceptor_;
    std::vector<std::shared_ptr<tcp::socket>> silent_;
};

class Probes : public testing::Test {
  protected:
    Target target(std::uint16_t port, std::string_view check, std::string group = {}) {
        HealthCheck parsed = model::parse_health_check(check).value();
        parsed.interval = 50ms;
        return {.address = kLoopback, .port = port, .check = parsed, .group = std::move(group)};
    }
    /// Runs until the target is in that state.
    testing::AssertionResult becomes(const Target& wanted, State state) {
        const auto end = std::chrono::steady_clock::now() + 20s;
        while (std::chrono::steady_clock::now() < end) {
            if (const auto status = prober_.schedule().find(wanted);
                status && status->state == state) {
                return testing::AssertionSuccess();
            }
            io_.run_one_for(100ms);
        }
        return testing::AssertionFailure()
               << "is " << to_string(prober_.schedule().find(wanted)->state) << ", "
               << prober_.schedule().find(wanted)->last_error;
    }
    std::string error_of(const Target& wanted) {
        return prober_.schedule().find(wanted)->last_error;
    }
    std::uint16_t free_port() {
        return tcp::acceptor(io_, {asio::ip::address_v4::loopback(), 0}).local_endpoint().port();
    }

    asio::io_context io_{1};
    SystemClock clock_;
    std::map<Target, State> verdicts_;
    Prober prober_{io_.get_executor(), clock_, Rng(1), {}, [this](const Verdict& verdict) {
                       verdicts_[verdict.target] = verdict.status.state;
                   }};
};

TEST_F(Probes, TheHealthServerAnswersHostsAndGets) {
    HealthServer server(io_.get_executor(), Logger());
    ASSERT_TRUE(server.listen(kLoopback, 0));
    const Target host = target(server.port(), "tcp", "bee");
    const Target get = target(server.port(), "http:/hello");
    prober_.add(host);
    prober_.add(get);
    EXPECT_TRUE(becomes(host, State::kHealthy));
    EXPECT_TRUE(becomes(get, State::kHealthy));
    EXPECT_EQ(verdicts_.at(host), State::kHealthy);
    bool stopped = false;
    asio::co_spawn(io_, server.async_stop(), [&](std::exception_ptr) { stopped = true; });
    while (!stopped) io_.run_one_for(100ms);
    // The agent is gone, its node refuses: it lives. A backend that refuses does not.
    EXPECT_TRUE(becomes(get, State::kUnhealthy));
    EXPECT_EQ(error_of(get), "Connection refused");
    EXPECT_TRUE(becomes(host, State::kHealthy));
}

TEST_F(Probes, ABackendThatRefusesIsUnhealthyAndAHostThatRefusesIsNot) {
    const std::uint16_t port = free_port();
    const Target backend = target(port, "tcp");
    const Target host = target(port, "tcp", "bee");
    prober_.add(backend);
    prober_.add(host);
    EXPECT_TRUE(becomes(backend, State::kUnhealthy));
    EXPECT_TRUE(becomes(host, State::kHealthy));
}

TEST_F(Probes, AGetIsJudgedByItsStatusLine) {
    Fixed good(io_, "HTTP/1.1 204 No Content\r\n\r\n");
    Fixed moved(io_, "HTTP/1.0 302 Found\r\n\r\n");
    Fixed ill(io_, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    Fixed other(io_, "220 smtp\r\n");
    Fixed silent(io_, "");
    const std::map<Target, std::pair<State, std::string>> expected{
        {target(good.port(), "http:/ok"), {State::kHealthy, ""}},
        {target(moved.port(), "http:/"), {State::kHealthy, ""}},
        {target(ill.port(), "http:/"), {State::kUnhealthy, "HTTP status 503"}},
        {target(other.port(), "http:/"), {State::kUnhealthy, "not an HTTP answer"}},
        {target(silent.port(), "http:/"), {State::kUnhealthy, "no answer in time"}},
    };
    for (const auto& [wanted, outcome] : expected) prober_.add(wanted);
    for (const auto& [wanted, outcome] : expected) {
        EXPECT_TRUE(becomes(wanted, outcome.first));
        EXPECT_EQ(error_of(wanted), outcome.second);
    }
    EXPECT_EQ(good.request.substr(0, good.request.find("User")),
              "GET /ok HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    // A connect is all that is asked of these.
    const Target connects = target(silent.port(), "tcp");
    prober_.add(connects);
    EXPECT_TRUE(becomes(connects, State::kHealthy));
}

TEST_F(Probes, APortOfSomebodyElseIsNamed) {
    tcp::acceptor taken(io_, {asio::ip::address_v4::loopback(), 0});
    HealthServer server(io_.get_executor(), Logger());
    const auto listening = server.listen(kLoopback, taken.local_endpoint().port());
    ASSERT_FALSE(listening);
    EXPECT_EQ(listening.error().code(), Errc::kUnavailable);
    EXPECT_NE(listening.error().detail().find("127.0.0.1:"), std::string::npos);
}

TEST_F(Probes, StoppedItTellsNothing) {
    prober_.add(target(free_port(), "tcp"));
    prober_.stop();
    io_.run_for(200ms);
    EXPECT_TRUE(verdicts_.empty());
}

}  // namespace
