// What a peer must not do to a server: each is bounded, told, counted, and no other connection
// notices.
#include "raw_frames.hpp"

namespace mesh::rpc::raw {
namespace {

constexpr std::int64_t kCalm = NGHTTP2_ENHANCE_YOUR_CALM;

class AbuseTest : public ServerTest {
  protected:
    void tick(Duration by) {
        clock_.advance(by);
        if (server_->next_timeout() <= clock_.now()) server_->on_timeout(clock_.now());
        take();
    }

    /// Gives the same bytes until the connection has ended. @return how often
    int until_ended(const std::function<std::string(int)>& bytes, int most = 100'000) {
        int i = 0;
        while (i < most && !server_->finished()) static_cast<void>(give(bytes(i++)));
        return i;
    }

    /// It has ended with that, all calls were told, and a connection beside it works.
    void expect_calm(std::string_view text) {
        EXPECT_TRUE(server_->finished());
        EXPECT_EQ(goaway(), kCalm);
        EXPECT_EQ(goaway_text(), text);
        EXPECT_NE(server_->failure().find(text), std::string::npos) << server_->failure();
        // What still comes is not looked at.
        EXPECT_TRUE(server_->receive(request(1001, "/t.T/One"), clock_.now()));
        server_.reset();
        EXPECT_EQ(core_->stats.calls, 0U);
        server_ = std::make_unique<detail::ServerSession>(core_, std::make_shared<Peer>());
        client_ = std::make_unique<detail::ClientSession>(channel_options_, clock_);
        Outcome& got = outcome();
        auto c = call("/t.T/One", got);
        EXPECT_EQ(c->write(make_frame("x")), Write::kQueued);
        c->half_close();
        EXPECT_TRUE(run());
        EXPECT_EQ(got.messages, std::vector<std::string>{"x"});
    }
};

TEST_F(AbuseTest, RapidResets) {
    open_raw();
    const int n = until_ended([](int i) {
        const auto id = static_cast<std::uint32_t>(2 * i + 1);
        return request(id, "/t.T/Hold") + reset(id);
    });
    EXPECT_GE(n, 2'000);
    EXPECT_LE(n, 2'100);
    EXPECT_EQ(core_->counters.too_many_resets, 1U);
    expect_calm("too many streams were reset");
}

TEST_F(AbuseTest, ResetsThatTheServerIsMadeToSend) {
    open_raw();
    const int n = until_ended([](int i) {
        const auto id = static_cast<std::uint32_t>(2 * i + 1);
        return frame(kHeaders, kEndHeaders, id, fields("/t.T/Hold", {{"connection", "close"}}));
    });
    EXPECT_LE(n, 2'100);
    expect_calm("too many streams were reset");
}

TEST_F(AbuseTest, CancellingAllCallsOfAConnectionNowAndThenIsNone) {
    open_raw();
    std::uint32_t id = 1;
    for (int round = 0; round < 20; ++round) {
        const std::uint32_t first = id;
        std::string bytes;
        for (int i = 0; i < 1'000; ++i, id += 2) bytes += request(id, "/t.T/Hold");
        for (std::uint32_t i = first; i < id; i += 2) bytes += reset(i);
        EXPECT_TRUE(give(bytes));
        tick(10s);
    }
    EXPECT_FALSE(server_->finished()) << server_->failure();
}

TEST_F(AbuseTest, PingsThatComeTooFast) {
    server_options_.min_ping_interval = 5s;
    open_raw();
    for (int i = 0; i < 100; ++i) {
        EXPECT_TRUE(give(ping()));
        tick(5s);
    }
    EXPECT_FALSE(server_->finished());
    const int n = until_ended([](int) { return ping(); });
    EXPECT_LE(n, 4);
    EXPECT_EQ(core_->counters.too_many_pings, 1U);
    expect_calm("too_many_pings");
}

TEST_F(AbuseTest, PingsAfterDataMeasureTheBandwidth) {
    server_options_.min_ping_interval = 5s;
    open_raw();
    give(request(1, "/t.T/Hold"));
    ASSERT_EQ(held_.size(), 1U);
    // grpc-go pings on each read of data, and by the clock as well.
    for (int i = 0; i < 1'000; ++i) {
        EXPECT_EQ(held_[0]->write(make_frame("event")), Write::kQueued);
        take();
        EXPECT_TRUE(give(ping() + ping()));
        tick(1ms);
    }
    EXPECT_FALSE(server_->finished()) << server_->failure();
    EXPECT_EQ(core_->counters.too_many_pings, 0U);
}

TEST_F(AbuseTest, SettingsWithoutEnd) {
    open_raw();
    const int n = until_ended([](int) { return settings(); });
    EXPECT_LE(n, 5'100);
    expect_calm("too many frames that carry nothing");
}

TEST_F(AbuseTest, EmptyDataWithoutEnd) {
    open_raw();
    give(request(1, "/t.T/Echo"));
    const int n = until_ended([](int) { return frame(kData, kNone, 1); });
    EXPECT_LE(n, 5'100);
    expect_calm("too many frames that carry nothing");
}

TEST_F(AbuseTest, DataOfPaddingOnlyIsEmpty) {
    open_raw();
    give(request(1, "/t.T/Echo"));
    const std::string padded =
        frame(kData, kPadded, 1, std::string("\x09", 1) + std::string(9, '\0'));
    const int n = until_ended([&](int) { return padded; });
    EXPECT_LE(n, 5'100);
    expect_calm("too many frames that carry nothing");
}

TEST_F(AbuseTest, WindowUpdatesWithoutEnd) {
    open_raw();
    give(request(1, "/t.T/Hold"));
    const int n = until_ended([](int) { return window_update(0, 1) + window_update(1, 1); });
    EXPECT_LE(n, 2'600);
    expect_calm("too many frames that carry nothing");
}

TEST_F(AbuseTest, WindowUpdatesForDataAreNone) {
    open_raw();
    give(request(1, "/t.T/Hold"));
    for (int i = 0; i < 20'000; ++i) {
        EXPECT_EQ(held_[0]->write(make_frame("event")), Write::kQueued);
        take();
        EXPECT_TRUE(give(window_update(0, 10) + window_update(1, 10)));
    }
    EXPECT_FALSE(server_->finished()) << server_->failure();
}

TEST_F(AbuseTest, PrioritiesWithoutEnd) {
    open_raw();
    const int n =
        until_ended([](int) { return frame(kPriority, kNone, 3, number(0, 4) + '\x10'); });
    EXPECT_LE(n, 5'100);
    expect_calm("too many frames that carry nothing");
}

TEST_F(AbuseTest, HeaderBlocksWithoutEnd) {
    open_raw();
    std::string bytes = request(1, "/t.T/One", kNone);
    for (int i = 0; i < 50; ++i) bytes += frame(kContinuation, kNone, 1, literal("x", "y"));
    EXPECT_FALSE(give(bytes) && !server_->finished());
    EXPECT_EQ(answer(1).http, "");
    server_.reset();
    EXPECT_EQ(core_->stats.calls, 0U);
}

TEST_F(AbuseTest, AHeaderBlockHasItsTime) {
    open_raw();
    give(request(1, "/t.T/One", kNone));
    tick(9s);
    EXPECT_FALSE(server_->finished());
    EXPECT_LE(server_->next_timeout(), clock_.now() + 1s);
    // A byte now and then does not make it longer.
    give(frame(kContinuation, kNone, 1, literal("x", "y")));
    tick(1s);
    EXPECT_TRUE(server_->finished());
    EXPECT_NE(server_->failure().find("header block"), std::string::npos);
    // And one that ends in time leaves no deadline behind.
    server_ = std::make_unique<detail::ServerSession>(core_, std::make_shared<Peer>());
    give(kPreface + settings() + request(1, "/t.T/One", kNone));
    give(frame(kContinuation, kEndHeaders, 1, literal("x", "y")) + message(1, "a"));
    tick(60s);
    EXPECT_FALSE(server_->finished());
}

TEST_F(AbuseTest, StreamsBeyondTheBoundAreRefused) {
    server_options_.max_concurrent_streams = 10;
    open_raw();
    std::string bytes;
    for (std::uint32_t i = 0; i < 15; ++i) bytes += request(2 * i + 1, "/t.T/Hold");
    EXPECT_TRUE(give(bytes));
    EXPECT_EQ(held_.size(), 10U);
    EXPECT_EQ(count(kReset), 5U);
    ASSERT_NE(last(kReset, 29), nullptr);
    EXPECT_EQ(last(kReset, 29)->code(), static_cast<std::uint32_t>(NGHTTP2_REFUSED_STREAM));
    // Those that were let in go on.
    held_[9]->finish({});
    take();
    EXPECT_EQ(answer(19).grpc, "0");
}

TEST_F(AbuseTest, AWindowThatStaysClosedHoldsNoMoreThanItsBound) {
    server_options_.max_send_queue_bytes = 10'000;
    open_raw();
    // SETTINGS_INITIAL_WINDOW_SIZE 0
    give(frame(kSettings, kNone, 0, number(4, 2) + number(0, 4)) + request(1, "/t.T/Hold"));
    int taken = 0;
    while (held_[0]->write(make_frame(std::string(1'000, 'e'))) == Write::kQueued) ++taken;
    take();
    EXPECT_LE(taken, 10);
    EXPECT_EQ(server_->data_sent(), 0U);  // by which a Connection knows that nothing is taken
    EXPECT_GT(server_->queued_bytes(), 0U);
    give(window_update(1, 20'000));
    EXPECT_EQ(server_->queued_bytes(), 0U);
}

// ---- the end of a connection, in order ----

class GoAwayTest : public AbuseTest {
  protected:
    [[nodiscard]] std::uint32_t last_stream() const {
        const Received* one = last(kGoAway, 0);
        return one != nullptr ? one->code() & 0x7fff'ffffU : 0;
    }
    [[nodiscard]] std::string ping_ack() const {
        const Received* one = last(kPing, 0);
        return one != nullptr ? frame(kPing, kAck, 0, one->payload) : "";
    }
};

TEST_F(GoAwayTest, ComesInTwoStepsSoThatCallsOnTheirWayAreTaken) {
    open_raw();
    give(request(1, "/t.T/Hold"));
    server_->go_away(clock_.now());
    take();
    EXPECT_EQ(last_stream(), 0x7fff'ffffU);
    EXPECT_EQ(goaway(), NGHTTP2_NO_ERROR);
    ASSERT_NE(ping_ack(), "");
    // Sent before the client had read it.
    give(request(3, "/t.T/One") + message(3, "late"));
    EXPECT_EQ(answer(3).grpc, "0");
    give(ping_ack());
    tick(0s);
    EXPECT_EQ(last_stream(), 3U);
    EXPECT_FALSE(server_->finished());
    held_[0]->finish({});
    take();
    EXPECT_EQ(answer(1).grpc, "0");
    EXPECT_TRUE(server_->finished());
}

TEST_F(GoAwayTest, DoesNotWaitForAPeerThatDoesNotAnswerPings) {
    open_raw();
    server_->go_away(clock_.now());
    take();
    EXPECT_EQ(last_stream(), 0x7fff'ffffU);
    EXPECT_FALSE(server_->finished());
    tick(1s);
    EXPECT_EQ(last_stream(), 0U);
    EXPECT_TRUE(server_->finished());
}

TEST_F(GoAwayTest, OurClientsCallEndsWellAndItTakesNoNewOnes) {
    ServerCallPtr held;
    routes_["/t.T/Wait"].stream = [&](const ServerCallPtr& call) { held = call; };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Wait", got);
    ASSERT_TRUE(run());
    server_->go_away(clock_.now());
    ASSERT_TRUE(run());
    server_->on_timeout(clock_.now());
    ASSERT_TRUE(run());
    EXPECT_TRUE(client_->going_away());
    EXPECT_FALSE(client_->finished());
    EXPECT_FALSE(got.status);
    held->finish({});
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_TRUE(got.status->ok());
    EXPECT_TRUE(client_->finished());
    held.reset();
}

TEST_F(GoAwayTest, AnOldConnectionIsToldToGoAndItsCallsEndAfterTheGrace) {
    server_options_.max_connection_age = 100s;
    server_options_.max_connection_age_grace = 20s;
    open_raw();
    give(request(1, "/t.T/Hold"));
    tick(89s);
    EXPECT_EQ(goaway(), -1);
    tick(22s);  // a tenth earlier or later
    EXPECT_EQ(goaway(), NGHTTP2_NO_ERROR);
    EXPECT_EQ(core_->counters.aged, 1U);
    give(ping_ack());
    tick(0s);
    EXPECT_FALSE(server_->finished());
    EXPECT_EQ(answer(1).grpc, "");
    tick(20s);
    EXPECT_EQ(answer(1).grpc, "14");
    EXPECT_TRUE(server_->finished());
}

TEST_F(GoAwayTest, WithoutAGraceCallsRunToTheirEnd) {
    server_options_.max_connection_age = 100s;
    open_raw();
    give(request(1, "/t.T/Hold"));
    tick(111s);
    give(ping_ack());
    for (int i = 0; i < 100; ++i) tick(1h);
    EXPECT_FALSE(server_->finished());
    EXPECT_EQ(held_[0]->write(make_frame("still")), Write::kQueued);
    held_[0]->finish({});
    take();
    EXPECT_EQ(answer(1).body, make_frame("still").wire());
    EXPECT_TRUE(server_->finished());
}

TEST_F(GoAwayTest, OurClientUnderstandsTooManyPings) {
    server_options_.min_ping_interval = 5s;
    channel_options_.keepalive_interval = 1s;
    channel_options_.keepalive_timeout = 1s;
    channel_options_.keepalive_without_calls = true;
    open();
    ASSERT_TRUE(run());
    for (int i = 0; i < 20 && !server_->finished(); ++i) {
        clock_.advance(1s);
        client_->on_timeout(clock_.now());
        ASSERT_TRUE(run());
    }
    EXPECT_TRUE(server_->finished());
    EXPECT_TRUE(client_->too_many_pings());
}

}  // namespace
}  // namespace mesh::rpc::raw
