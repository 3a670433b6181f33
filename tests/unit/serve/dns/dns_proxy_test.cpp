#include "serve/dns/dns_proxy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/udp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>

#include "messages.hpp"
#include "serve/dns/dns_rules.hpp"

namespace mesh::serve::dns {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using asio::ip::udp;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kAnswerFlags;
using testing::Message;
using ::testing::SizeIs;

using Messages = std::vector<Bytes>;
constexpr auto kPatience = std::chrono::seconds(30);

/// A DNS server, by UDP and TCP on one port, that does what the test says.
class ScriptedServer {
  public:
    /// Messages to send back.
    using Script = std::function<Messages(const Bytes& query)>;

    explicit ScriptedServer(asio::io_context& context)
        : udp_(context, udp::endpoint(asio::ip::address_v4::loopback(), 0)), acceptor_(context) {
        acceptor_.open(tcp::v4());
        acceptor_.bind({asio::ip::address_v4::loopback(), udp_.local_endpoint().port()});
        acceptor_.listen();
        read();
        accept();
    }
    [[nodiscard]] PeerAddress address() const {
        return {model::IpAddress::v4(127, 0, 0, 1), udp_.local_endpoint().port()};
    }
    [[nodiscard]] const udp::endpoint& last_client() const { return client_; }
    void send(const Bytes& bytes) { udp_.send_to(asio::buffer(bytes), client_); }
    void close_connections() {
        for (auto& one : connections_) one->socket.close();
        connections_.clear();
    }

    Script script;
    std::vector<Bytes> seen;
    std::size_t accepted = 0;

  private:
    struct Connection {
        explicit Connection(tcp::socket its) : socket(std::move(its)) {}
        tcp::socket socket;
        Bytes length = Bytes(2), message;
    };
    void read() {
        udp_.async_receive_from(
            asio::buffer(buffer_), client_, [this](boost::system::error_code ec, std::size_t size) {
                if (ec) return;
                const Bytes query(buffer_.begin(), buffer_.begin() + static_cast<long>(size));
                seen.push_back(query);
                for (const auto& one : script(query)) send(one);
                read();
            });
    }
    void accept() {
        acceptor_.async_accept([this](boost::system::error_code ec, tcp::socket socket) {
            if (ec) return;
            ++accepted;
            connections_.push_back(std::make_shared<Connection>(std::move(socket)));
            read(connections_.back());
            accept();
        });
    }
    void read(const std::shared_ptr<Connection>& one) {
        asio::async_read(one->socket, asio::buffer(one->length),
                         [this, one](boost::system::error_code ec, std::size_t) {
                             if (ec) return;
                             one->message.resize(id_of(one->length));
                             read_message(one);
                         });
    }
    void read_message(const std::shared_ptr<Connection>& one) {
        asio::async_read(one->socket, asio::buffer(one->message),
                         [this, one](boost::system::error_code ec, std::size_t) {
                             if (ec) return;
                             seen.push_back(one->message);
                             for (Bytes answer : script(one->message)) {
                                 const Bytes length{static_cast<std::uint8_t>(answer.size() >> 8),
                                                    static_cast<std::uint8_t>(answer.size())};
                                 answer.insert(answer.begin(), length.begin(), length.end());
                                 asio::write(one->socket, asio::buffer(answer));
                             }
                             read(one);
                         });
    }

    udp::socket udp_;
    tcp::acceptor acceptor_;
    Bytes buffer_ = Bytes(65535);
    udp::endpoint client_;
    std::vector<std::shared_ptr<Connection>> connections_;
};

/// The answer to a query with one address; the question as it was asked.
Bytes answer_to(const Bytes& query, std::uint32_t address = 0x0a000001, std::uint32_t ttl = 60) {
    Bytes out = query;
    out[2] = 0x81;
    out[3] = 0x80;
    out[7] = 1;
    Message record(0, 0, {});
    record.pointer(12).fixed(1, ttl, 4).number(address);
    out.insert(out.end(), record.bytes().begin() + 12, record.bytes().end());
    return out;
}

class DnsProxyTest : public ::testing::Test {
  protected:
    DnsProxyTest() : server_(context_), client_(context_, udp::endpoint(udp::v4(), 0)) {
        server_.script = [](const Bytes& query) { return Messages{answer_to(query)}; };
        client_.non_blocking(true);
        options_.listen = {{model::IpAddress::v4(127, 0, 0, 1), 0}};
        options_.transparent = false;
        options_.fixed_server = server_.address();
    }
    void TearDown() override {
        if (!proxy_) return;
        bool stopped = false;
        asio::co_spawn(context_, proxy_->async_stop(),
                       [&](const std::exception_ptr& e) { stopped = e == nullptr; });
        run_until([&] { return stopped; });
        EXPECT_EQ(proxy_->counters().tcp_connections_now, 0U);
    }
    void start() {
        DnsProxyCallbacks callbacks;
        callbacks.decide = [this](const DnsQuestion& question) {
            questions_.push_back(question);
            return Decision{rules_.allows(question.name), 7};
        };
        callbacks.on_event = [this](const DnsEvent& event) { events_.push_back(event); };
        callbacks.on_learnt = on_learnt_;
        proxy_ = std::make_unique<DnsProxy>(context_.get_executor(), clock_, Logger(), options_,
                                            callbacks);
        const auto started = proxy_->start();
        ASSERT_TRUE(started) << started.error().message();
        ASSERT_NE(proxy_->port(), 0);
    }
    void run_until(const std::function<bool()>& done) {
        const auto deadline = std::chrono::steady_clock::now() + kPatience;
        while (!done()) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "nothing came of it";
            context_.restart();
            context_.run_one_for(std::chrono::milliseconds(100));
        }
    }
    /// Runs what is there to run.
    void settle() {
        context_.restart();
        while (context_.poll_one() > 0) {
        }
    }
    void send(const Bytes& query) {
        client_.send_to(asio::buffer(query),
                        udp::endpoint(asio::ip::address_v4::loopback(), proxy_->port()));
    }
    bool receive(Bytes& out) {
        Bytes buffer(65535);
        boost::system::error_code ec;
        udp::endpoint from;
        const auto size = client_.receive_from(asio::buffer(buffer), from, 0, ec);
        if (ec) return false;
        EXPECT_EQ(from.port(), proxy_->port());
        buffer.resize(size);
        out = std::move(buffer);
        return true;
    }
    Bytes ask(const Bytes& query) {
        send(query);
        Bytes answer;
        run_until([&] { return receive(answer); });
        return answer;
    }
    static ResponseCode code_of(const Bytes& answer) {
        return static_cast<ResponseCode>(answer.at(3) & 0xf);
    }

    SystemClock clock_;
    asio::io_context context_{1};
    ScriptedServer server_;
    udp::socket client_;
    DnsProxyOptions options_;
    DnsRules rules_{std::vector<model::policy::FqdnSelector>{{{}, "*.example.com"}}};
    OnLearnt on_learnt_;
    std::unique_ptr<DnsProxy> proxy_;
    std::vector<DnsQuestion> questions_;
    std::vector<DnsEvent> events_;
};

TEST_F(DnsProxyTest, AnAllowedQueryIsAnsweredAsTheServerDoes) {
    start();
    const Bytes query = testing::query("ApI.Example.com", 1, 0x1234);
    EXPECT_EQ(ask(query), answer_to(query));
    ASSERT_THAT(questions_, SizeIs(1));
    EXPECT_EQ(questions_[0].name, "api.example.com");
    EXPECT_EQ(questions_[0].server, server_.address());
    EXPECT_EQ(questions_[0].client.port, client_.local_endpoint().port());
    ASSERT_THAT(events_, SizeIs(1));
    EXPECT_EQ(events_[0].verdict, DnsVerdict::kAnswered);
    EXPECT_EQ(events_[0].endpoint, 7);
    EXPECT_THAT(events_[0].addresses, ElementsAre(model::IpAddress::v4(10, 0, 0, 1)));
    EXPECT_EQ(events_[0].ttl, 60U);
    // The letters' case went on; the id did not, nor the port.
    ASSERT_THAT(server_.seen, SizeIs(1));
    EXPECT_TRUE(
        std::ranges::equal(std::span(server_.seen[0]).subspan(2), std::span(query).subspan(2)));
    EXPECT_NE(server_.last_client().port(), client_.local_endpoint().port());
}

TEST_F(DnsProxyTest, EachQueryHasItsOwnIdAndPort) {
    start();
    std::set<std::uint16_t> ids, ports;
    for (int i = 0; i < 32; ++i) {
        ask(testing::query("a.example.com", 1, 7));
        ids.insert(id_of(server_.seen.back()));
        ports.insert(server_.last_client().port());
    }
    EXPECT_GT(ids.size(), 16U);
    EXPECT_GT(ports.size(), 8U);
}

TEST_F(DnsProxyTest, ADeniedQueryIsRefusedAndNotSentOn) {
    start();
    const Bytes query = testing::query("Evil.com", 1, 0x1234);
    const Bytes answer = ask(query);
    EXPECT_EQ(answer, Message(0x1234, 0x8185, {1}).question("Evil.com").bytes());
    EXPECT_THAT(server_.seen, IsEmpty());
    ASSERT_THAT(events_, SizeIs(1));
    EXPECT_EQ(events_[0].verdict, DnsVerdict::kDenied);
    EXPECT_EQ(events_[0].code, ResponseCode::kRefused);
    EXPECT_EQ(proxy_->counters().denied, 1U);
}

TEST_F(DnsProxyTest, TheRejectCodeIsConfigurable) {
    options_.reject_code = ResponseCode::kNameError;
    start();
    EXPECT_EQ(code_of(ask(testing::query("evil.com"))), ResponseCode::kNameError);
}

TEST_F(DnsProxyTest, WhatCannotBeReadIsNotSentOn) {
    start();
    const Bytes two = Message(5, 0x100, {2}).question("a.example.com").question("evil.com").bytes();
    EXPECT_EQ(code_of(ask(two)), ResponseCode::kFormatError);
    Bytes behind = testing::query("a.example.com");
    behind.push_back(0);
    EXPECT_EQ(code_of(ask(behind)), ResponseCode::kFormatError);
    Bytes large = testing::query("a.example.com");
    large.resize(options_.max_query_bytes + 1);
    EXPECT_EQ(code_of(ask(large)), ResponseCode::kFormatError);
    // Answers and fragments are not even answered.
    send(Message(5, 0x8100, {1}).question("a.example.com").bytes());
    send(Bytes(3, 1));
    run_until([&] { return proxy_->counters().malformed == 5; });
    EXPECT_THAT(server_.seen, IsEmpty());
    Bytes none;
    EXPECT_FALSE(receive(none));
}

TEST_F(DnsProxyTest, ZoneTransfersDoNotPass) {
    start();
    EXPECT_EQ(code_of(ask(testing::query("a.example.com", 252))), ResponseCode::kRefused);
    EXPECT_EQ(code_of(ask(testing::query("a.example.com", 251))), ResponseCode::kRefused);
    EXPECT_THAT(server_.seen, IsEmpty());
}

TEST_F(DnsProxyTest, WrongAnswersAreWaitedOver) {
    server_.script = [](const Bytes& query) {
        Bytes other_id = answer_to(query, 0x66666666);
        other_id[0] ^= 1;
        Bytes other_name = answer_to(query, 0x66666666);
        other_name[13] = 'x';
        Bytes no_answer = query;
        Bytes malformed = answer_to(query, 0x66666666);
        malformed.pop_back();
        return Messages{other_id, other_name, no_answer, malformed, Bytes{}, answer_to(query)};
    };
    start();
    const Bytes query = testing::query("api.example.com");
    EXPECT_EQ(ask(query), answer_to(query));
    EXPECT_EQ(proxy_->counters().wrong_answers, 5U);
    EXPECT_THAT(events_.at(0).addresses, ElementsAre(model::IpAddress::v4(10, 0, 0, 1)));
}

TEST_F(DnsProxyTest, AnAnswerFromElsewhereDoesNotArrive) {
    udp::socket stranger(context_, udp::endpoint(asio::ip::address_v4::loopback(), 0));
    server_.script = [&](const Bytes& query) {
        stranger.send_to(asio::buffer(answer_to(query, 0x66666666)), server_.last_client());
        return Messages{answer_to(query)};
    };
    start();
    const Bytes query = testing::query("api.example.com");
    EXPECT_EQ(ask(query), answer_to(query));
    EXPECT_EQ(proxy_->counters().wrong_answers, 0U);
}

TEST_F(DnsProxyTest, TheAnswerWaitsUntilItIsInForce) {
    std::function<void()> done;
    std::vector<Learnt> learnt;
    on_learnt_ = [&](const Learnt& what, std::function<void()> then) {
        learnt.push_back(what);
        done = std::move(then);
    };
    options_.max_answer_delay = kPatience;
    start();
    const Bytes query = testing::query("api.example.com");
    send(query);
    run_until([&] { return done != nullptr; });
    settle();
    Bytes answer;
    EXPECT_FALSE(receive(answer));
    EXPECT_GT(proxy_->counters().held_bytes_now, 0U);
    ASSERT_THAT(learnt, SizeIs(1));
    EXPECT_EQ(learnt[0].name, "api.example.com");
    EXPECT_EQ(learnt[0].endpoint, 7);
    EXPECT_EQ(learnt[0].ttl, std::chrono::seconds(60));
    done();
    run_until([&] { return receive(answer); });
    EXPECT_EQ(answer, answer_to(query));
    done();  // twice is no harm
    done = nullptr;
    run_until([&] { return proxy_->counters().outstanding_now == 0; });
    EXPECT_EQ(proxy_->counters().held_bytes_now, 0U);
    EXPECT_EQ(proxy_->counters().late_learnt, 0U);
}

TEST_F(DnsProxyTest, ButNotForEver) {
    on_learnt_ = [](const Learnt&, const std::function<void()>&) {};
    options_.max_answer_delay = std::chrono::milliseconds(1);
    start();
    const Bytes query = testing::query("api.example.com");
    EXPECT_EQ(ask(query), answer_to(query));
    EXPECT_EQ(proxy_->counters().late_learnt, 1U);
}

TEST_F(DnsProxyTest, AnswersWithoutAddressesAreNotLearnt) {
    on_learnt_ = [](const Learnt&, const std::function<void()>&) { FAIL(); };
    server_.script = [](const Bytes& query) {
        return Messages{make_answer(query, *parse_query(query), ResponseCode::kNameError)};
    };
    start();
    EXPECT_EQ(code_of(ask(testing::query("api.example.com"))), ResponseCode::kNameError);
    EXPECT_EQ(events_.at(0).verdict, DnsVerdict::kAnswered);
    EXPECT_EQ(events_.at(0).code, ResponseCode::kNameError);
}

TEST_F(DnsProxyTest, AServerThatIsNotThereIsAFailure) {
    {
        udp::socket gone(context_, udp::endpoint(asio::ip::address_v4::loopback(), 0));
        options_.fixed_server->port = gone.local_endpoint().port();
    }
    start();
    EXPECT_EQ(code_of(ask(testing::query("api.example.com", 1, 9))), ResponseCode::kServerFailure);
    EXPECT_EQ(events_.at(0).verdict, DnsVerdict::kFailed);
}

TEST_F(DnsProxyTest, AServerThatDoesNotAnswerIsATimeout) {
    server_.script = [](const Bytes&) { return Messages{}; };
    options_.upstream_timeout = std::chrono::milliseconds(10);
    start();
    const Bytes query = testing::query("ApI.example.com", 1, 9);
    EXPECT_EQ(ask(query), Message(9, 0x8182, {1}).question("ApI.example.com").bytes());
    EXPECT_EQ(events_.at(0).verdict, DnsVerdict::kTimeout);
    // Again: the watch goes on.
    EXPECT_EQ(code_of(ask(query)), ResponseCode::kServerFailure);
    EXPECT_EQ(proxy_->counters().timeouts, 2U);
    run_until([&] { return proxy_->counters().outstanding_now == 0; });
}

TEST_F(DnsProxyTest, AnEndpointsQueriesAreBounded) {
    server_.script = [](const Bytes&) { return Messages{}; };
    options_.max_outstanding_per_endpoint = 2;
    start();
    send(testing::query("a.example.com", 1, 1));
    send(testing::query("a.example.com", 1, 2));
    run_until([&] { return server_.seen.size() == 2; });
    const Bytes third = ask(testing::query("a.example.com", 1, 3));
    EXPECT_EQ(id_of(third), 3);
    EXPECT_EQ(code_of(third), ResponseCode::kServerFailure);
    EXPECT_EQ(events_.at(0).verdict, DnsVerdict::kOverload);
    EXPECT_EQ(proxy_->counters().outstanding_now, 2U);
}

TEST_F(DnsProxyTest, HeldAnswersAreBounded) {
    on_learnt_ = [](const Learnt&, const std::function<void()>&) {};
    options_.max_answer_delay = kPatience;
    options_.max_held_bytes = 60;
    start();
    send(testing::query("a.example.com", 1, 1));
    run_until([&] { return proxy_->counters().held_bytes_now > 0; });
    EXPECT_EQ(code_of(ask(testing::query("a.example.com", 1, 2))), ResponseCode::kServerFailure);
    EXPECT_EQ(events_.at(0).verdict, DnsVerdict::kOverload);
}

TEST_F(DnsProxyTest, WithoutADecisionEverythingIsDenied) {
    proxy_ = std::make_unique<DnsProxy>(context_.get_executor(), clock_, Logger(), options_,
                                        DnsProxyCallbacks{});
    ASSERT_TRUE(proxy_->start());
    EXPECT_EQ(code_of(ask(testing::query("api.example.com"))), ResponseCode::kRefused);
}

TEST_F(DnsProxyTest, OptionsThatContradictAreRefused) {
    const auto why = [&](const DnsProxyOptions& options) {
        DnsProxy proxy(context_.get_executor(), clock_, Logger(), options, {});
        const auto started = proxy.start();
        return started ? std::string() : started.error().detail();
    };
    DnsProxyOptions options = options_;
    options.fixed_server.reset();
    EXPECT_THAT(why(options), HasSubstr("a server is needed"));
    options = options_;
    options.reject_code = ResponseCode::kServerFailure;
    EXPECT_THAT(why(options), HasSubstr("REFUSED or NXDOMAIN"));
    options = options_;
    options.listen.push_back({model::IpAddress(), 1});
    EXPECT_THAT(why(options), HasSubstr("one port"));
    options = options_;
    options.listen.clear();
    EXPECT_THAT(why(options), HasSubstr("no address"));
}

// --- TCP
// ------------------------------------------------------------------------------------------

class DnsProxyTcpTest : public DnsProxyTest {
  protected:
    void connect() {
        stream_.emplace(context_);
        stream_->connect({asio::ip::address_v4::loopback(), proxy_->port()});
        stream_->non_blocking(true);
    }
    void write(const Bytes& message) {
        Bytes out{static_cast<std::uint8_t>(message.size() >> 8),
                  static_cast<std::uint8_t>(message.size())};
        out.insert(out.end(), message.begin(), message.end());
        asio::write(*stream_, asio::buffer(out));
    }
    /// All that came. @return false at the end of the stream
    bool read() {
        Bytes buffer(65536);
        boost::system::error_code ec;
        const auto got = stream_->read_some(asio::buffer(buffer), ec);
        received_.insert(received_.end(), buffer.begin(), buffer.begin() + static_cast<long>(got));
        return !ec || ec == asio::error::would_block;
    }
    std::vector<Bytes> messages() {
        read();
        std::vector<Bytes> out;
        for (std::size_t at = 0; at + 2 <= received_.size();) {
            const std::size_t size = id_of(BytesView(received_).subspan(at));
            if (at + 2 + size > received_.size()) break;
            const auto from = received_.begin() + static_cast<long>(at) + 2;
            out.emplace_back(from, from + static_cast<long>(size));
            at += 2 + size;
        }
        return out;
    }
    void wait_for_end() {
        run_until([&] { return !read(); });
    }

    std::optional<tcp::socket> stream_;
    Bytes received_;
};

TEST_F(DnsProxyTcpTest, PipelinedQueriesShareAConnection) {
    start();
    connect();
    const Bytes good = testing::query("a.example.com", 1, 1);
    const Bytes bad = testing::query("evil.com", 1, 2);
    const Bytes again = testing::query("B.example.com", 1, 1);
    write(good);
    write(bad);
    write(again);
    run_until([&] { return messages().size() == 3; });
    const auto got = messages();
    EXPECT_THAT(
        got, ::testing::UnorderedElementsAre(answer_to(good), answer_to(again),
                                             Message(2, 0x8185, {1}).question("evil.com").bytes()));
    EXPECT_EQ(server_.accepted, 1U);
    EXPECT_THAT(server_.seen, SizeIs(2));
    EXPECT_EQ(questions_.at(0).transport, Transport::kTcp);
    EXPECT_EQ(proxy_->counters().tcp_queries, 3U);
}

TEST_F(DnsProxyTcpTest, ManyMoreThanItsBoundArriveAll) {
    options_.max_tcp_pipelined = 4;
    start();
    connect();
    for (std::uint16_t i = 0; i < 300; ++i) write(testing::query("a.example.com", 1, i));
    run_until([&] { return messages().size() == 300; });
    std::set<std::uint16_t> ids;
    for (const auto& one : messages()) ids.insert(id_of(one));
    EXPECT_EQ(ids.size(), 300U);
}

TEST_F(DnsProxyTcpTest, AnswersOfAnyOrderAndSizeArrive) {
    std::deque<Bytes> held;
    server_.script = [&](const Bytes& query) {
        Bytes answer = answer_to(query);
        answer.resize(60'000);  // behind the answer section nothing is read
        held.push_front(answer);
        std::vector<Bytes> out;
        if (held.size() == 3) out.assign(held.begin(), held.end());
        return out;
    };
    start();
    connect();
    for (std::uint16_t i = 1; i <= 3; ++i) write(testing::query("a.example.com", 1, i));
    run_until([&] { return messages().size() == 3; });
    for (const auto& one : messages()) EXPECT_EQ(one.size(), 60'000U);
}

TEST_F(DnsProxyTcpTest, AServerThatClosesIsConnectedToAgain) {
    server_.script = [](const Bytes&) { return Messages{}; };
    start();
    connect();
    write(testing::query("a.example.com", 1, 1));
    run_until([&] { return server_.seen.size() == 1; });
    server_.close_connections();
    run_until([&] { return messages().size() == 1; });
    server_.script = [](const Bytes& query) { return Messages{answer_to(query)}; };
    write(testing::query("a.example.com", 1, 2));
    run_until([&] { return messages().size() == 2; });
    std::map<std::uint16_t, ResponseCode> codes;
    for (const auto& one : messages()) codes[id_of(one)] = code_of(one);
    EXPECT_EQ(codes[1], ResponseCode::kServerFailure);
    EXPECT_EQ(codes[2], ResponseCode::kNoError);
    EXPECT_EQ(server_.accepted, 2U);
}

TEST_F(DnsProxyTcpTest, AHalfClosedClientGetsItsAnswers) {
    start();
    connect();
    write(testing::query("a.example.com", 1, 1));
    stream_->shutdown(tcp::socket::shutdown_send);
    wait_for_end();
    EXPECT_THAT(messages(), SizeIs(1));
}

TEST_F(DnsProxyTcpTest, NonsenseEndsTheConnection) {
    start();
    connect();
    asio::write(*stream_, asio::buffer(Bytes{0xff, 0xff, 0}));
    wait_for_end();
    connect();
    asio::write(*stream_, asio::buffer(Bytes{0, 0}));
    wait_for_end();
    EXPECT_THAT(server_.seen, IsEmpty());
}

TEST_F(DnsProxyTcpTest, AnIdleConnectionEnds) {
    options_.tcp_idle_timeout = std::chrono::milliseconds(10);
    start();
    connect();
    asio::write(*stream_, asio::buffer(Bytes{0}));  // half a length
    wait_for_end();
}

TEST_F(DnsProxyTcpTest, AServerThatDoesNotAnswerIsATimeout) {
    server_.script = [](const Bytes&) { return Messages{}; };
    options_.upstream_timeout = std::chrono::milliseconds(10);
    start();
    connect();
    write(testing::query("a.example.com", 1, 5));
    run_until([&] { return messages().size() == 1; });
    EXPECT_EQ(code_of(messages()[0]), ResponseCode::kServerFailure);
    EXPECT_EQ(events_.at(0).verdict, DnsVerdict::kTimeout);
}

TEST_F(DnsProxyTcpTest, NoServerIsAFailure) {
    {
        tcp::acceptor gone(context_, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
        options_.fixed_server->port = gone.local_endpoint().port();
    }
    start();
    connect();
    write(testing::query("a.example.com", 1, 5));
    run_until([&] { return messages().size() == 1; });
    EXPECT_EQ(code_of(messages()[0]), ResponseCode::kServerFailure);
}

TEST_F(DnsProxyTcpTest, ConnectionsOfAClientAreBounded) {
    options_.max_tcp_connections_per_client = 1;
    start();
    connect();
    write(testing::query("a.example.com", 1, 5));
    run_until([&] { return messages().size() == 1; });
    tcp::socket first = *std::exchange(stream_, std::nullopt);
    connect();
    wait_for_end();
    first.close();
    run_until([&] { return proxy_->counters().tcp_connections_now == 0; });
    connect();
    received_.clear();
    write(testing::query("a.example.com", 1, 6));
    run_until([&] { return messages().size() == 1; });
}

TEST(DnsEventJson, IsOneLine) {
    DnsEvent event{.verdict = DnsVerdict::kAnswered, .endpoint = 9};
    event.question = {Transport::kTcp,
                      {model::IpAddress::v4(10, 0, 0, 2), 4000},
                      {*model::IpAddress::parse("fd00::1"), 53},
                      "api.example.com",
                      RecordType::kAaaa};
    event.code = ResponseCode::kNoError;
    event.addresses = {*model::IpAddress::parse("fd00::9")};
    event.ttl = 30;
    event.took = std::chrono::microseconds(1500);
    EXPECT_EQ(to_json(event, WallTime(std::chrono::milliseconds(1'764'000'000'123))),
              R"({"time":"2025-11-24T16:00:00.123Z","type":"dns","verdict":"answered",)"
              R"("endpoint":9,"protocol":"TCP","client":"10.0.0.2:4000",)"
              R"("server":"[fd00::1]:53","name":"api.example.com","query_type":"AAAA",)"
              R"("rcode":"NOERROR","addresses":["fd00::9"],"ttl":30,"milliseconds":1.5E0})");
}

}  // namespace
}  // namespace mesh::serve::dns
