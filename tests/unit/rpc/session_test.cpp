// A client's and a server's session joined in memory, under a clock that the test moves.
#include "sessions.hpp"

namespace mesh::rpc {
namespace {

TEST_F(SessionTest, UnaryCallCarriesMetadataPeerAndTrailers) {
    routes_["/t.T/Hello"].unary = [](const ServerCallPtr& call, std::string_view request) {
        EXPECT_EQ(request, "hi");
        EXPECT_EQ(call->method(), "/t.T/Hello");
        EXPECT_EQ(call->peer().common_name, "remote-two");
        EXPECT_EQ(find_metadata(call->metadata(), "hasleader"), "true");
        EXPECT_FALSE(call->deadline());
        call->reply(make_frame("ho"));
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Hello", got, {{{"hasleader", "true"}}, {}});
    EXPECT_EQ(c->write(make_frame("hi")), Write::kQueued);
    c->half_close();
    ASSERT_TRUE(run());
    EXPECT_EQ(got.messages, std::vector<std::string>{"ho"});
    ASSERT_TRUE(got.status);
    EXPECT_TRUE(got.status->ok());
    EXPECT_TRUE(c->ended());
    EXPECT_EQ(core_->stats.calls, 0U);
}

TEST_F(SessionTest, StatusWithoutMessageIsTrailersOnlyAndKeepsItsText) {
    routes_["/t.T/No"].unary = [](const ServerCallPtr& call, std::string_view) {
        call->finish({StatusCode::kPermissionDenied, "not for you: 100% \xc3\xa9"},
                     {{"why", "role"}});
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/No", got);
    EXPECT_EQ(c->write(make_frame("")), Write::kQueued);
    c->half_close();
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->code, StatusCode::kPermissionDenied);
    EXPECT_EQ(got.status->message, "not for you: 100% \xc3\xa9");
    EXPECT_EQ(find_metadata(got.trailers, "why"), "role");
}

TEST_F(SessionTest, BidiStreamKeepsOrderOverManyWindows) {
    add_echo();
    server_options_.stream_window = 65535;
    channel_options_.stream_window = 65535;
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Echo", got);
    std::vector<std::string> sent;
    for (int i = 0; i < 300; ++i) {
        sent.push_back(std::to_string(i) + std::string(static_cast<std::size_t>(i) * 7, 'x'));
        ASSERT_EQ(c->write(make_frame(sent.back())), Write::kQueued);
    }
    c->half_close();
    ASSERT_TRUE(run());
    EXPECT_EQ(got.messages, sent);
    ASSERT_TRUE(got.status);
    EXPECT_TRUE(got.status->ok());
    EXPECT_EQ(find_metadata(got.trailers, "seen"), "all");
}

TEST_F(SessionTest, OneFrameGoesToManyStreams) {
    std::vector<ServerCallPtr> watchers;
    routes_["/t.T/Watch"].stream = [&](const ServerCallPtr& call) { watchers.push_back(call); };
    open();
    std::vector<Outcome> got(50);
    std::vector<ClientCallPtr> calls;
    for (auto& one : got) calls.push_back(call("/t.T/Watch", one));
    ASSERT_TRUE(run());
    ASSERT_EQ(watchers.size(), 50U);
    const Frame frame = make_frame("event");
    for (auto& w : watchers) EXPECT_EQ(w->write(frame), Write::kQueued);
    ASSERT_TRUE(run());
    for (auto& one : got) EXPECT_EQ(one.messages, std::vector<std::string>{"event"});
    for (auto& c : calls) c->cancel();
    ASSERT_TRUE(run());
    for (auto& w : watchers) EXPECT_TRUE(w->ended());
    for (auto& one : got) {
        ASSERT_TRUE(one.status);
        EXPECT_EQ(one.status->code, StatusCode::kCancelled);
    }
}

TEST_F(SessionTest, FullQueueRefusesThenTellsWhenWritable) {
    server_options_.max_send_queue_bytes = 100'000;
    ServerCallPtr source;
    int writable = 0;
    routes_["/t.T/Watch"].stream = [&](const ServerCallPtr& call) {
        source = call;
        call->on_writable([&] { ++writable; });
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Watch", got);
    ASSERT_TRUE(run());
    c->pause();
    const Frame frame = make_frame(std::string(10'000, 'e'));
    int taken = 0;
    // The client does not read: its window (4 MiB) fills, then the queue, then writes are refused.
    for (int i = 0; i < 1000; ++i) {
        if (source->write(frame) == Write::kQueued) ++taken;
        ASSERT_TRUE(run(100'000));
    }
    EXPECT_LT(taken, 500);
    EXPECT_GT(source->queued_bytes(), 50'000U);
    EXPECT_LE(source->queued_bytes(), 100'000U);
    EXPECT_EQ(writable, 0);
    EXPECT_TRUE(got.messages.empty());
    c->resume();
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(writable, 1);
    EXPECT_EQ(source->queued_bytes(), 0U);
    EXPECT_EQ(got.messages.size(), static_cast<std::size_t>(taken));
}

TEST_F(SessionTest, EmptyQueueTakesAMessageLargerThanItsBound) {
    server_options_.max_send_queue_bytes = 1000;
    routes_["/t.T/Big"].unary = [](const ServerCallPtr& call, std::string_view) {
        call->reply(make_frame(std::string(3'000'000, 'b')));
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Big", got);
    EXPECT_EQ(c->write(make_frame("")), Write::kQueued);
    c->half_close();
    ASSERT_TRUE(run(100'000));
    ASSERT_EQ(got.messages.size(), 1U);
    EXPECT_EQ(got.messages[0].size(), 3'000'000U);
}

TEST_F(SessionTest, ServerPauseHoldsTheClientBack) {
    server_options_.stream_window = 65535;
    ServerCallPtr sink;
    std::size_t seen = 0;
    routes_["/t.T/Put"].stream = [&](const ServerCallPtr& call) {
        sink = call;
        call->pause();
        call->on_message([&](std::string_view m) { seen += m.size(); });
        call->on_half_close([call] { call->finish({}); });
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Put", got);
    for (int i = 0; i < 50; ++i)
        ASSERT_EQ(c->write(make_frame(std::string(10'000, 'p'))), Write::kQueued);
    c->half_close();
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(seen, 0U);
    EXPECT_GT(c->queued_bytes(), 400'000U);
    sink->resume();
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(seen, 500'000U);
    ASSERT_TRUE(got.status);
    EXPECT_TRUE(got.status->ok());
}

TEST_F(SessionTest, PausedClientGetsMessagesBeforeTheEnd) {
    routes_["/t.T/Two"].stream = [](const ServerCallPtr& call) {
        EXPECT_EQ(call->write(make_frame("a")), Write::kQueued);
        EXPECT_EQ(call->write(make_frame("b")), Write::kQueued);
        call->finish({StatusCode::kAborted, "later"});
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Two", got);
    c->pause();
    ASSERT_TRUE(run());
    EXPECT_TRUE(got.messages.empty());
    EXPECT_FALSE(got.status);
    c->resume();
    ASSERT_TRUE(run());
    EXPECT_EQ(got.messages, (std::vector<std::string>{"a", "b"}));
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->code, StatusCode::kAborted);
}

TEST_F(SessionTest, DeadlineEndsBothSides) {
    ServerCallPtr served;
    std::optional<Status> server_end;
    routes_["/t.T/Slow"].stream = [&](const ServerCallPtr& call) {
        served = call;
        call->on_end([&](const Status& s) { server_end = s; });
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Slow", got, {{}, 5s});
    ASSERT_TRUE(run());
    ASSERT_TRUE(served->deadline());
    EXPECT_EQ(*served->deadline(), clock_.now() + 5s);
    EXPECT_EQ(client_->next_timeout(), clock_.now() + 5s);
    clock_.advance(5s);
    server_->on_timeout(clock_.now());
    EXPECT_FALSE(got.status);
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->code, StatusCode::kDeadlineExceeded);
    ASSERT_TRUE(server_end);
    EXPECT_EQ(server_end->code, StatusCode::kDeadlineExceeded);
    EXPECT_EQ(client_->next_timeout(), TimePoint::max());

    Outcome& again = outcome();
    auto d = call("/t.T/Slow", again, {{}, 5s});
    ASSERT_TRUE(run());
    clock_.advance(5s);
    client_->on_timeout(clock_.now());
    ASSERT_TRUE(run());
    ASSERT_TRUE(again.status);
    EXPECT_EQ(again.status->code, StatusCode::kDeadlineExceeded);
    EXPECT_EQ(server_end->code, StatusCode::kCancelled);
}

TEST_F(SessionTest, KeepalivePingsAndNoticesSilence) {
    channel_options_.keepalive_interval = 15s;
    channel_options_.keepalive_timeout = 25s;
    routes_["/t.T/Watch"].stream = [](const ServerCallPtr&) {};
    open();
    ASSERT_TRUE(run());
    EXPECT_EQ(client_->next_timeout(), TimePoint::max()) << "pings without calls";
    Outcome& got = outcome();
    auto c = call("/t.T/Watch", got);
    ASSERT_TRUE(run());
    for (int i = 0; i < 3; ++i) {
        clock_.advance(15s);
        client_->on_timeout(clock_.now());
        ASSERT_TRUE(run());
        EXPECT_FALSE(client_->finished());
    }
    clock_.advance(15s);
    client_->on_timeout(clock_.now());
    std::string lost;
    client_->produce(lost, 1000);
    EXPECT_FALSE(lost.empty());
    clock_.advance(24s);
    client_->on_timeout(clock_.now());
    EXPECT_FALSE(client_->finished());
    clock_.advance(1s);
    client_->on_timeout(clock_.now());
    EXPECT_TRUE(client_->finished());
    EXPECT_NE(client_->failure().find("keepalive"), std::string::npos);
}

TEST_F(SessionTest, GoAwayLetsRunningCallsEnd) {
    ServerCallPtr served;
    routes_["/t.T/Slow"].stream = [&](const ServerCallPtr& call) { served = call; };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Slow", got);
    ASSERT_TRUE(run());
    server_->go_away_now();
    ASSERT_TRUE(run());
    EXPECT_TRUE(client_->going_away());
    EXPECT_FALSE(server_->finished());
    EXPECT_FALSE(got.status);
    served->finish({StatusCode::kOk, ""});
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_TRUE(server_->finished());
    EXPECT_TRUE(client_->finished());
}

TEST_F(SessionTest, LostTransportEndsEveryCallOnce) {
    ServerCallPtr served;
    std::optional<Status> server_end;
    routes_["/t.T/Watch"].stream = [&](const ServerCallPtr& call) {
        served = call;
        call->on_end([&, call](const Status& s) { server_end = s; });
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Watch", got);
    ASSERT_TRUE(run());
    client_->end_all({StatusCode::kUnavailable, "cable cut"});
    server_->end_all({StatusCode::kUnavailable, "cable cut"});
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->message, "cable cut");
    ASSERT_TRUE(server_end);
    EXPECT_EQ(server_end->code, StatusCode::kUnavailable);
    EXPECT_EQ(served->write(make_frame("x")), Write::kEnded);
    EXPECT_EQ(c->write(make_frame("x")), Write::kEnded);
    // The callbacks, which hold the pointer, were dropped: only ours is left.
    EXPECT_EQ(served.use_count(), 1);
}

TEST_F(SessionTest, HandlerMayEndTheSessionFromInside) {
    routes_["/t.T/Bye"].stream = [this](const ServerCallPtr& call) {
        call->on_message([this](std::string_view) {
            server_->end_all({StatusCode::kUnavailable, "stop"});
        });
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Bye", got);
    EXPECT_EQ(c->write(make_frame("1")), Write::kQueued);
    EXPECT_EQ(c->write(make_frame("2")), Write::kQueued);
    run();
    EXPECT_TRUE(server_->finished());
    EXPECT_EQ(core_->stats.calls, 0U);
}

TEST_F(SessionTest, AbandonedCallReportsNothing) {
    add_echo();
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Echo", got);
    EXPECT_EQ(c->write(make_frame("x")), Write::kQueued);
    c->abandon();
    ASSERT_TRUE(run());
    EXPECT_FALSE(got.status);
    EXPECT_TRUE(got.messages.empty());
    EXPECT_TRUE(c->ended());
}

TEST_F(SessionTest, TooLargeAMessageEndsTheCallOnly) {
    add_echo();
    server_options_.max_message_bytes = 1000;
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Echo", got);
    EXPECT_EQ(c->write(make_frame(std::string(1001, 'x'))), Write::kQueued);
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->code, StatusCode::kResourceExhausted);
    Outcome& next = outcome();
    auto d = call("/t.T/Echo", next);
    EXPECT_EQ(d->write(make_frame(std::string(1000, 'x'))), Write::kQueued);
    d->half_close();
    ASSERT_TRUE(run());
    ASSERT_TRUE(next.status);
    EXPECT_TRUE(next.status->ok());
}

TEST_F(SessionTest, MoreCallsThanTheServerAllowsWaitTheirTurn) {
    add_echo();
    server_options_.max_concurrent_streams = 3;
    open();
    ASSERT_TRUE(run());
    std::vector<Outcome> got(10);
    for (auto& one : got) {
        auto c = call("/t.T/Echo", one);
        EXPECT_EQ(c->write(make_frame("x")), Write::kQueued);
        c->half_close();
    }
    ASSERT_TRUE(run());
    for (auto& one : got) {
        ASSERT_TRUE(one.status);
        EXPECT_TRUE(one.status->ok()) << one.status->message;
    }
}

TEST_F(SessionTest, LargeHeadersAreRefused) {
    add_echo();
    server_options_.max_header_bytes = 2000;
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Echo", got, {{{"big", std::string(3000, 'h')}}, {}});
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->code, StatusCode::kResourceExhausted);
}

TEST_F(SessionTest, UnknownPathIsUnimplementedUnlessCaught) {
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Nothing", got);
    ASSERT_TRUE(run());
    ASSERT_TRUE(got.status);
    EXPECT_EQ(got.status->code, StatusCode::kUnimplemented);
    core_->unknown = [](const ServerCallPtr& one) {
        one->finish({StatusCode::kPermissionDenied, "no"});
    };
    Outcome& caught = outcome();
    auto d = call("/t.T/Nothing", caught);
    ASSERT_TRUE(run());
    ASSERT_TRUE(caught.status);
    EXPECT_EQ(caught.status->code, StatusCode::kPermissionDenied);
}

// ---- what a peer may make us keep ----

TEST_F(SessionTest, RequestsThatDoNotEndAreCounted) {
    server_options_.max_message_bytes = 100'000;
    server_options_.max_buffered_bytes = 400'000;
    int handled = 0;
    routes_["/t.T/One"].unary = [&](const ServerCallPtr& call, std::string_view m) {
        ++handled;
        call->reply(make_frame(std::to_string(m.size())));
    };
    open();
    const auto begin = [&] {
        auto c = call("/t.T/One", outcome());
        EXPECT_EQ(c->write(make_frame(std::string(100'000, 'r'))), Write::kQueued);
        EXPECT_TRUE(run(100'000));
        return c;
    };
    std::vector<ClientCallPtr> calls;
    for (int i = 0; i < 12; ++i) calls.push_back(begin());
    EXPECT_EQ(handled, 0);
    std::size_t refused = 0;
    for (const Outcome& one : outcomes_) {
        if (!one.status) continue;
        EXPECT_EQ(one.status->code, StatusCode::kResourceExhausted) << one.status->message;
        ++refused;
    }
    EXPECT_GE(refused, 8U) << "12 messages of 100 kB are kept where 400 kB may be";
    EXPECT_LE(refused, 10U);
    // What was kept is a request like any other when its end comes, and makes room.
    for (std::size_t i = 0; i < calls.size(); ++i)
        if (!outcomes_[i].status) calls[i]->half_close();
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(handled, static_cast<int>(12 - refused));
    Outcome& after = outcomes_.emplace_back();
    auto c = call("/t.T/One", after);
    EXPECT_EQ(c->write(make_frame(std::string(100'000, 'r'))), Write::kQueued);
    c->half_close();
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(after.messages, std::vector<std::string>{"100000"});
}

TEST_F(SessionTest, WhatPausedCallsHoldIsCounted) {
    server_options_.max_message_bytes = 10'000;
    server_options_.max_buffered_bytes = 100'000;
    server_options_.stream_window = 65535;
    routes_["/t.T/Put"].stream = [](const ServerCallPtr& call) { call->pause(); };
    open();
    for (int i = 0; i < 10; ++i) {
        auto c = call("/t.T/Put", outcome());
        for (int m = 0; m < 6; ++m)
            ASSERT_EQ(c->write(make_frame(std::string(10'000, 'p'))), Write::kQueued);
        ASSERT_TRUE(run(100'000));
    }
    std::size_t refused = 0;
    for (const Outcome& one : outcomes_)
        if (one.status && one.status->code == StatusCode::kResourceExhausted) ++refused;
    EXPECT_EQ(refused, 9U) << "600 kB are held where 100 kB may be";
}

TEST_F(SessionTest, AdmissionIsAskedBeforeThereIsABody) {
    add_echo();
    routes_["/t.T/One"].unary = [](const ServerCallPtr& call, std::string_view) {
        call->reply(make_frame("never"));
    };
    open();
    std::vector<std::string> asked;
    core_->admit = [&](const ServerCall& one) {
        asked.emplace_back(one.method());
        EXPECT_EQ(one.peer().common_name, "remote-two");
        return Status{StatusCode::kPermissionDenied, "no role"};
    };
    for (const char* path : {"/t.T/One", "/t.T/Echo", "/t.T/Nothing"}) {
        Outcome& got = outcome();
        auto c = call(path, got);
        ASSERT_TRUE(run());
        ASSERT_TRUE(got.status) << path;
        EXPECT_EQ(got.status->code, StatusCode::kPermissionDenied);
        EXPECT_EQ(c->write(make_frame("x")), Write::kEnded);
    }
    EXPECT_EQ(asked, (std::vector<std::string>{"/t.T/One", "/t.T/Echo", "/t.T/Nothing"}));
    EXPECT_EQ(core_->stats.calls_started, 0U);
    core_->admit = [](const ServerCall&) { return Status{}; };
    Outcome& got = outcome();
    auto c = call("/t.T/Echo", got);
    EXPECT_EQ(c->write(make_frame("x")), Write::kQueued);
    ASSERT_TRUE(run());
    EXPECT_EQ(got.messages, std::vector<std::string>{"x"});
    c->cancel();
    ASSERT_TRUE(run());
}

TEST_F(SessionTest, ARequestHasItsTimeAndAnAnswerItsOwn) {
    server_options_.request_timeout = 10s;
    ServerCallPtr served;
    routes_["/t.T/Slow"].unary = [&](const ServerCallPtr& call, std::string_view) {
        EXPECT_FALSE(call->deadline()) << "the client gave none";
        served = call;
    };
    open();
    Outcome& never = outcome();
    auto c = call("/t.T/Slow", never);
    EXPECT_EQ(c->write(make_frame("x")), Write::kQueued);
    Outcome& whole = outcome();
    auto d = call("/t.T/Slow", whole);
    EXPECT_EQ(d->write(make_frame("x")), Write::kQueued);
    d->half_close();
    ASSERT_TRUE(run());
    ASSERT_TRUE(served);
    EXPECT_EQ(server_->next_timeout(), clock_.now() + 10s);
    clock_.advance(10s);
    server_->on_timeout(clock_.now());
    ASSERT_TRUE(run());
    ASSERT_TRUE(never.status) << "a request that does not end is kept for ever";
    EXPECT_EQ(never.status->code, StatusCode::kDeadlineExceeded);
    EXPECT_EQ(server_->next_timeout(), TimePoint::max());
    EXPECT_FALSE(whole.status);
    served->reply(make_frame("late"));
    ASSERT_TRUE(run());
    EXPECT_EQ(whole.messages, std::vector<std::string>{"late"});
}

class CongestionTest : public SessionTest {
  protected:
    CongestionTest() {
        server_options_.max_connection_queue_bytes = 100'000;
        channel_options_.stream_window = 65535;
        routes_["/t.T/Get"].unary = [this](const ServerCallPtr& call, std::string_view size) {
            congested_ = call->congested();
            call->reply(make_frame(std::string(std::stoul(std::string(size)), 'a')));
        };
    }
    ClientCallPtr get(Outcome& got, const std::string& size, bool paused = false) {
        auto c = call("/t.T/Get", got);
        if (paused) c->pause();
        EXPECT_EQ(c->write(make_frame(size)), Write::kQueued);
        c->half_close();
        EXPECT_TRUE(run(100'000));
        return c;
    }
    bool congested_ = false;
};

TEST_F(CongestionTest, AnswersThatNobodyTakesAreBoundedForAConnection) {
    open();
    // Larger than the bound, and takes nothing at first: its way is free on an idle connection.
    Outcome& first = outcome();
    auto c = get(first, "3000000", true);
    EXPECT_FALSE(congested_);
    EXPECT_GT(server_->queued_bytes(), 2'000'000U);
    Outcome& second = outcome();
    get(second, "50000");
    EXPECT_TRUE(congested_);
    ASSERT_TRUE(second.status);
    EXPECT_EQ(second.status->code, StatusCode::kResourceExhausted) << second.status->message;
    // What was done must be told.
    Outcome& small = outcome();
    get(small, "100");
    ASSERT_TRUE(small.status);
    EXPECT_TRUE(small.status->ok()) << small.status->message;
    c->resume();
    ASSERT_TRUE(run(100'000));
    ASSERT_EQ(first.messages.size(), 1U);
    EXPECT_EQ(first.messages[0].size(), 3'000'000U);
    EXPECT_EQ(server_->queued_bytes(), 0U);
    Outcome& after = outcome();
    get(after, "50000");
    ASSERT_TRUE(after.status);
    EXPECT_TRUE(after.status->ok()) << after.status->message;
    EXPECT_FALSE(congested_);
}

TEST_F(CongestionTest, CancelledAnswersMakeRoomAndWritersAreTold) {
    ServerCallPtr watcher;
    int writable = 0;
    routes_["/t.T/Watch"].stream = [&](const ServerCallPtr& call) {
        watcher = call;
        call->on_writable([&] { ++writable; });
    };
    open();
    Outcome& big = outcome();
    auto c = get(big, "3000000", true);
    Outcome& watch = outcome();
    auto w = call("/t.T/Watch", watch);
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(watcher->queued_bytes(), 0U);
    EXPECT_EQ(watcher->write(make_frame("event")), Write::kFull);
    EXPECT_EQ(writable, 0);
    c->cancel();
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(writable, 1);
    EXPECT_EQ(server_->queued_bytes(), 0U);
    EXPECT_EQ(watcher->write(make_frame("event")), Write::kQueued);
    ASSERT_TRUE(run(100'000));
    EXPECT_EQ(watch.messages, std::vector<std::string>{"event"});
    w->cancel();
    ASSERT_TRUE(run());
}

TEST_F(SessionTest, MessagesBetweenResumeAndTheNextTurnAreNotLost) {
    ServerCallPtr served;
    routes_["/t.T/Two"].stream = [&](const ServerCallPtr& call) {
        served = call;
        EXPECT_EQ(call->write(make_frame("a")), Write::kQueued);
        EXPECT_EQ(call->write(make_frame("b")), Write::kQueued);
    };
    open();
    Outcome& got = outcome();
    auto c = call("/t.T/Two", got);
    c->pause();
    ASSERT_TRUE(run());
    served->finish({});
    std::string end;
    server_->produce(end, 100'000);
    // The end of the stream comes before the turn that was to read on.
    c->resume();
    ASSERT_TRUE(client_->receive(end, clock_.now()));
    ASSERT_TRUE(run());
    EXPECT_EQ(got.messages, (std::vector<std::string>{"a", "b"}));
    ASSERT_TRUE(got.status);
    EXPECT_TRUE(got.status->ok()) << got.status->message;
}

TEST_F(SessionTest, SilenceOfTheServerEndsACallThatAskedForIt) {
    ServerCallPtr served;
    routes_["/t.T/Slow"].stream = [&](const ServerCallPtr& call) { served = call; };
    open();
    CallOptions options;
    options.deadline = 10s;
    options.silence = 3s;
    Outcome& slow = outcome();
    auto c = call("/t.T/Slow", slow, options);
    ASSERT_TRUE(run());
    // Slow to send much: each time something came.
    for (int i = 0; i < 3; ++i) {
        clock_.advance(2s);
        EXPECT_EQ(served->write(make_frame("part")), Write::kQueued);
        ASSERT_TRUE(run());
        client_->on_timeout(clock_.now());
    }
    ASSERT_TRUE(run());
    EXPECT_FALSE(slow.status);
    EXPECT_LE(client_->next_timeout(), clock_.now() + 3s);
    clock_.advance(3s);
    client_->on_timeout(clock_.now());
    ASSERT_TRUE(run());
    ASSERT_TRUE(slow.status);
    EXPECT_EQ(slow.status->code, StatusCode::kUnavailable);
    EXPECT_NE(slow.status->message.find("3000 ms"), std::string::npos) << slow.status->message;
    // The deadline stays what it was.
    options.silence = 30s;
    Outcome& late = outcome();
    auto d = call("/t.T/Slow", late, options);
    ASSERT_TRUE(run());
    clock_.advance(10s);
    client_->on_timeout(clock_.now());
    ASSERT_TRUE(run());
    ASSERT_TRUE(late.status);
    EXPECT_EQ(late.status->code, StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace mesh::rpc
