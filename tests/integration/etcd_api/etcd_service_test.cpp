// The etcd API over loopback gRPC, for what etcdctl cannot show: several watches on a stream,
// progress, fragments, slow clients, group commit, a mirror that is replaced.
#include "serve/etcd/etcd_service.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <deque>
#include <set>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"
#include "rpc/server.hpp"

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

/// Durable in name: counts commits and fails on demand.
class CountingBackend final : public store::Backend {
  public:
    struct Disk {
        int commits = 0;
        int refused = 0;
        bool full = false;
        bool only_compaction = false;
    };
    explicit CountingBackend(Disk& disk) : disk_(disk) {}
    store::Outcome<store::BackendState> load(
        const std::function<store::Outcome<void>(store::KeyValue)>&) override {
        return store::BackendState{};
    }
    store::Outcome<void> initialise(const store::Identity&) override { return {}; }
    store::Outcome<void> commit(const store::WriteBatch& batch) override {
        if (disk_.full || (disk_.only_compaction && !batch.compacts())) {
            ++disk_.refused;
            return store::StoreError(store::Fault::kNoSpace, "disk full");
        }
        ++disk_.commits;
        return {};
    }
    bool durable() const noexcept override { return true; }
    std::uint64_t size_bytes() const noexcept override { return 0; }
    std::uint64_t size_in_use_bytes() const noexcept override { return 0; }

  private:
    Disk& disk_;
};

class EtcdServiceTest : public ::testing::Test {
  protected:
    void start(std::unique_ptr<store::Backend> backend = std::make_unique<store::MemoryBackend>(),
               rpc::ServerOptions server_options = {}, EtcdServiceOptions options = {}) {
        store = *store::Store::open(std::move(backend),
                                    {.identity = {.cluster_id = 7, .member_id = 8}}, clock.now());
        server =
            std::make_unique<rpc::Server>(loop.get_executor(), server_options, system, Logger());
        service = std::make_unique<EtcdService>(
            loop.get_executor(), *store, clock, options,
            Logger("etcd", [this](LogLevel, std::string_view, std::string_view text) {
                logged.emplace_back(text);
            }));
        service->attach(*server, "test", std::make_shared<AllowAll>());
        port = *server->listen("127.0.0.1", 0);
        channel = connect();
    }
    void TearDown() override {
        channel.reset();
        extra_channels.clear();
        if (server) server->stop();
        loop.poll();
        service.reset();
        server.reset();
    }

    std::unique_ptr<rpc::Channel> connect() {
        rpc::ChannelOptions options;
        options.host = "127.0.0.1";
        options.port = port;
        options.stream_window = 64 << 10;
        auto made = std::make_unique<rpc::Channel>(loop.get_executor(), options, system, Logger());
        bool connected = false;
        made->connect([&](const Result<void>& done) {
            EXPECT_TRUE(done);
            connected = true;
        });
        run_until([&] { return connected; });
        return made;
    }

    template <class Condition>
    void run_until(Condition condition) {
        const auto deadline = std::chrono::steady_clock::now() + 20s;
        while (!condition()) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "nothing more happens";
            loop.run_one_for(100ms);
        }
    }
    /// Lets everything under way arrive.
    void settle() {
        while (loop.run_one_for(50ms) != 0 && std::chrono::steady_clock::now() < limit) {
        }
        limit = std::chrono::steady_clock::now() + 500ms;
    }

    template <class Response, class Request>
    Response call(std::string_view path, const Request& request, rpc::Status* status = nullptr) {
        std::optional<rpc::UnaryResult> result;
        channel->unary(path, rpc::encode_frame(request), {},
                       [&](rpc::UnaryResult r) { result = std::move(r); });
        run_until([&] { return result.has_value(); });
        if (status != nullptr) *status = result->status;
        if (status == nullptr) {
            EXPECT_TRUE(result->status.ok()) << result->status.message;
        }
        Response response;
        EXPECT_TRUE(response.ParseFromString(result->message));
        return response;
    }
    std::int64_t put(std::string_view key, std::string_view value) {
        etcdpb::PutRequest request;
        request.set_key(key.data(), key.size());
        request.set_value(value.data(), value.size());
        return call<etcdpb::PutResponse>(etcdpb::kPut, request).header().revision();
    }

    struct Stream {
        rpc::ClientCallPtr call;
        std::deque<etcdpb::WatchResponse> responses;
        std::optional<rpc::Status> ended;
    };
    std::shared_ptr<Stream> open_watch(rpc::Channel& on) {
        auto stream = std::make_shared<Stream>();
        stream->call =
            on.call(etcdpb::kWatch, {},
                    {.on_headers = {},
                     .on_message =
                         [stream](std::string_view bytes) {
                             etcdpb::WatchResponse response;
                             ASSERT_TRUE(response.ParseFromArray(bytes.data(),
                                                                 static_cast<int>(bytes.size())));
                             stream->responses.push_back(std::move(response));
                         },
                     .on_writable = {},
                     .on_end = [stream](const rpc::Status& status,
                                        const rpc::Metadata&) { stream->ended = status; }});
        return stream;
    }
    std::shared_ptr<Stream> open_watch() { return open_watch(*channel); }
    static void send(Stream& stream, const etcdpb::WatchRequest& request) {
        ASSERT_EQ(stream.call->write(rpc::encode_frame(request)), rpc::Write::kQueued);
    }
    static etcdpb::WatchRequest create(std::string_view key, std::string_view end = {},
                                       std::int64_t start = 0, std::int64_t id = 0) {
        etcdpb::WatchRequest request;
        auto& c = *request.mutable_create_request();
        c.set_key(key.data(), key.size());
        c.set_range_end(end.data(), end.size());
        c.set_start_revision(start);
        c.set_watch_id(id);
        return request;
    }
    etcdpb::WatchResponse next(Stream& stream) {
        run_until([&] { return !stream.responses.empty() || stream.ended; });
        if (stream.responses.empty()) {
            ADD_FAILURE() << "the stream ended";
            return {};
        }
        etcdpb::WatchResponse response = std::move(stream.responses.front());
        stream.responses.pop_front();
        return response;
    }
    /// Creates a watch and returns its id.
    std::int64_t created(Stream& stream, const etcdpb::WatchRequest& request) {
        send(stream, request);
        const auto response = next(stream);
        EXPECT_TRUE(response.created());
        EXPECT_FALSE(response.canceled()) << response.cancel_reason();
        return response.watch_id();
    }

    std::chrono::steady_clock::time_point limit = std::chrono::steady_clock::now() + 500ms;
    std::vector<std::string> logged;
    boost::asio::io_context loop{1};
    SystemClock system;
    ManualClock clock;
    std::unique_ptr<store::Store> store;
    std::unique_ptr<rpc::Server> server;
    std::unique_ptr<EtcdService> service;
    std::unique_ptr<rpc::Channel> channel;
    std::vector<std::unique_ptr<rpc::Channel>> extra_channels;
    std::uint16_t port = 0;
};

TEST_F(EtcdServiceTest, SeveralWatchesOnAStream) {
    start();
    put("a", "1");
    auto stream = open_watch();
    EXPECT_EQ(created(*stream, create("a")), 0);
    EXPECT_EQ(created(*stream, create("b")), 1);
    EXPECT_EQ(created(*stream, create("a", "c", 0, 5)), 5);
    send(*stream, create("x", "", 0, 5));
    auto refused = next(*stream);
    EXPECT_TRUE(refused.created() && refused.canceled());
    EXPECT_EQ(refused.watch_id(), -1);
    EXPECT_EQ(refused.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream");
    put("b", "1");
    std::set<std::int64_t> told{next(*stream).watch_id(), next(*stream).watch_id()};
    EXPECT_EQ(told, (std::set<std::int64_t>{1, 5}));

    etcdpb::WatchRequest cancel;
    cancel.mutable_cancel_request()->set_watch_id(5);
    send(*stream, cancel);
    auto gone = next(*stream);
    EXPECT_TRUE(gone.canceled());
    EXPECT_EQ(gone.watch_id(), 5);
    put("b", "2");
    auto last = next(*stream);
    EXPECT_EQ(last.watch_id(), 1);
    EXPECT_EQ(last.header().cluster_id(), 7U);
    EXPECT_EQ(last.header().revision(), 4);
    EXPECT_EQ(last.events(0).kv().value(), "2");
    stream->call->half_close();
    run_until([&] { return stream->ended.has_value(); });
    EXPECT_TRUE(stream->ended->ok());
    EXPECT_EQ(store->stats().watchers, 0U);
    EXPECT_EQ(service->stats().watch_streams, 0U);
}

TEST_F(EtcdServiceTest, ProgressIsToldAfterWhatItCovers) {
    start();
    for (int i = 0; i < 5000; ++i) ASSERT_TRUE(store->put({.key = "a", .value = "v"}));
    auto stream = open_watch();
    created(*stream, create("a", "", 2));
    etcdpb::WatchRequest progress;
    progress.mutable_progress_request();
    send(*stream, progress);
    std::int64_t events = 0;
    for (;;) {
        const auto response = next(*stream);
        events += response.events_size();
        if (response.events_size() != 0) continue;
        EXPECT_EQ(response.watch_id(), -1);
        EXPECT_EQ(response.header().revision(), 5001);
        break;
    }
    EXPECT_EQ(events, 5000);
}

TEST_F(EtcdServiceTest, ProgressNotifyForQuietWatches) {
    start(std::make_unique<store::MemoryBackend>(), {}, {.progress_notify_interval = 20ms});
    auto stream = open_watch();
    auto request = create("a");
    request.mutable_create_request()->set_progress_notify(true);
    created(*stream, request);
    ASSERT_TRUE(store->put({.key = "other", .value = "v"}));
    etcdpb::WatchResponse response;
    do response = next(*stream);
    while (response.header().revision() < 2 && !stream->ended);
    EXPECT_EQ(response.watch_id(), 0);
    EXPECT_EQ(response.events_size(), 0);
}

TEST_F(EtcdServiceTest, ARevisionIsCutForClientsThatTakeFragmentsOnly) {
    start();
    auto whole = open_watch();
    auto parts = open_watch();
    created(*whole, create("k", "l"));
    auto request = create("k", "l");
    request.mutable_create_request()->set_fragment(true);
    created(*parts, request);
    etcdpb::TxnRequest txn;
    for (int i = 0; i < 40; ++i) {
        auto& p = *txn.add_success()->mutable_request_put();
        p.set_key(fmt::format("k{:02}", i));
        p.set_value(std::string(30'000, 'v'));
    }
    call<etcdpb::TxnResponse>(etcdpb::kTxn, txn);
    EXPECT_EQ(next(*whole).events_size(), 40);
    int events = 0, responses = 0;
    for (bool more = true; more; ++responses) {
        const auto response = next(*parts);
        events += response.events_size();
        more = response.fragment();
    }
    EXPECT_EQ(events, 40);
    EXPECT_EQ(responses, 2);
}

TEST_F(EtcdServiceTest, CompactedStartIsAnsweredWithTheFloor) {
    start();
    for (int i = 0; i < 5; ++i) put("a", "v");
    ASSERT_TRUE(store->compact(4));
    auto stream = open_watch();
    EXPECT_EQ(created(*stream, create("a", "", 2)), 0);
    const auto response = next(*stream);
    EXPECT_TRUE(response.canceled());
    EXPECT_EQ(response.compact_revision(), 4);
    EXPECT_EQ(created(*stream, create("a", "", 4)), 1);
    EXPECT_EQ(next(*stream).events_size(), 3);
}

TEST_F(EtcdServiceTest, OneFrameServesAllStreams) {
    start();
    std::vector<std::shared_ptr<Stream>> streams;
    for (int i = 0; i < 50; ++i) {
        streams.push_back(open_watch());
        created(*streams.back(), create("a", "b"));
    }
    put("a", "1");
    for (auto& stream : streams) EXPECT_EQ(next(*stream).events_size(), 1);
    EXPECT_EQ(service->stats().frames_built, 1U);
    EXPECT_EQ(service->stats().events_sent, 50U);
}

TEST_F(EtcdServiceTest, AnswersThatNobodyReadsAreBounded) {
    CountingBackend::Disk disk;
    rpc::ServerOptions server_options;
    server_options.max_connection_queue_bytes = 1 << 20;
    start(std::make_unique<CountingBackend>(disk), server_options);
    for (int i = 0; i < 100; ++i)
        ASSERT_TRUE(store->put({.key = fmt::format("k{}", i), .value = std::string(20'000, 'v')}));
    etcdpb::RangeRequest all;
    all.set_key("k");
    all.set_range_end("l");
    std::vector<rpc::ClientCallPtr> calls;
    std::vector<rpc::StatusCode> ended;
    std::size_t answers = 0;
    const auto ask = [&](bool reads) {
        rpc::CallEvents events;
        events.on_message = [&](std::string_view) { ++answers; };
        events.on_end = [&](const rpc::Status& status, const rpc::Metadata&) {
            ended.push_back(status.code);
        };
        auto call = channel->call(etcdpb::kRange, {}, std::move(events));
        if (!reads) call->pause();
        static_cast<void>(call->write(rpc::encode_frame(all)));
        call->half_close();
        calls.push_back(std::move(call));
    };
    // With a write before them in their turn of the loop: they do not pile up behind its commit.
    etcdpb::PutRequest put;
    put.set_key("other");
    channel->unary(etcdpb::kPut, rpc::encode_frame(put), {}, [](rpc::UnaryResult) {});
    for (int i = 0; i < 20; ++i) ask(false);
    // The first is larger than the bound, and the only one that is kept.
    run_until([&] { return ended.size() == 19; });
    for (const rpc::StatusCode code : ended) EXPECT_EQ(code, rpc::StatusCode::kResourceExhausted);
    for (const auto& call : calls) call->resume();
    run_until([&] { return ended.size() == 20; });
    EXPECT_EQ(ended.back(), rpc::StatusCode::kOk);
    ask(true);
    run_until([&] { return ended.size() == 21; });
    EXPECT_EQ(ended.back(), rpc::StatusCode::kOk);
    EXPECT_EQ(answers, 2U);
}

TEST_F(EtcdServiceTest, AClientThatDoesNotReadIsCaughtUpLater) {
    rpc::ServerOptions options;
    options.max_send_queue_bytes = 64 << 10;
    start(std::make_unique<store::MemoryBackend>(), options);
    auto slow = open_watch();
    auto fast = open_watch();
    created(*slow, create("a", "z"));
    created(*fast, create("a", "z"));
    slow->call->pause();
    const std::string value(5000, 'v');
    std::int64_t seen_by_fast = 0;
    for (int i = 0; i < 400; ++i) {
        ASSERT_TRUE(store->put({.key = fmt::format("k{}", i % 7), .value = value}));
        run_until([&] { return !fast->responses.empty(); });
        while (!fast->responses.empty()) {
            seen_by_fast += fast->responses.front().events_size();
            fast->responses.pop_front();
        }
    }
    run_until([&] {
        for (const auto& response : fast->responses) seen_by_fast += response.events_size();
        fast->responses.clear();
        return seen_by_fast == 400;
    });
    EXPECT_EQ(store->stats().behind, 1U) << "2 MB do not fit in its queue and windows";
    slow->call->resume();
    std::vector<std::int64_t> revisions;
    run_until([&] {
        while (!slow->responses.empty()) {
            for (const auto& event : slow->responses.front().events())
                revisions.push_back(event.kv().mod_revision());
            slow->responses.pop_front();
        }
        return revisions.size() >= 400;
    });
    ASSERT_EQ(revisions.size(), 400U);
    for (std::size_t i = 0; i < 400; ++i) ASSERT_EQ(revisions[i], static_cast<std::int64_t>(i) + 2);
    run_until([&] { return store->stats().behind == 0; });
    EXPECT_EQ(store->stats().behind, 0U);
    settle();
    EXPECT_TRUE(slow->responses.empty());
}

TEST_F(EtcdServiceTest, WritesOfATurnShareACommit) {
    CountingBackend::Disk disk;
    start(std::make_unique<CountingBackend>(disk));
    auto stream = open_watch();
    created(*stream, create("k", "l"));
    const int commits_before = disk.commits;
    int answered = 0;
    std::set<std::int64_t> revisions;
    const auto put_many = [&](rpc::StatusCode expected) {
        answered = 0;
        for (int i = 0; i < 100; ++i) {
            etcdpb::PutRequest request;
            request.set_key(fmt::format("k{}", i));
            channel->unary(etcdpb::kPut, rpc::encode_frame(request), {}, [&](const auto& result) {
                ++answered;
                EXPECT_EQ(result.status.code, expected) << result.status.message;
                etcdpb::PutResponse response;
                if (result.status.ok() && response.ParseFromString(result.message))
                    revisions.insert(response.header().revision());
            });
        }
        run_until([&] { return answered == 100; });
    };
    put_many(rpc::StatusCode::kOk);
    EXPECT_EQ(revisions.size(), 100U);
    EXPECT_LT(disk.commits - commits_before, 100) << "not one for each, however they arrived";
    for (int i = 0; i < 100; ++i) EXPECT_EQ(next(*stream).events_size(), 1);

    disk.full = true;
    put_many(rpc::StatusCode::kResourceExhausted);
    EXPECT_EQ(store->revision(), 101);
    EXPECT_TRUE(stream->responses.empty()) << "nobody hears of what was not committed";
    EXPECT_GT(service->stats().commit_failures, 0U);
    put_many(rpc::StatusCode::kResourceExhausted);
    EXPECT_EQ(logged.size(), 1U) << "that it begins";
    disk.full = false;
    EXPECT_EQ(put("k", "after"), 102);
    EXPECT_EQ(next(*stream).header().revision(), 102);
    EXPECT_EQ(logged.size(), 2U) << "and that it ends";
}

TEST_F(EtcdServiceTest, ACompactionIsDoneBesidePutsThatFindNoRoom) {
    CountingBackend::Disk disk;
    start(std::make_unique<CountingBackend>(disk));
    for (int i = 0; i < 5; ++i) put("a", "v");
    disk.only_compaction = true;
    // All three arrive in one turn.
    std::vector<rpc::StatusCode> codes;
    const auto note = [&codes](const auto& result) { codes.push_back(result.status.code); };
    etcdpb::PutRequest request;
    request.set_key("b");
    etcdpb::CompactionRequest compaction;
    compaction.set_revision(5);
    channel->unary(etcdpb::kPut, rpc::encode_frame(request), {}, note);
    channel->unary(etcdpb::kCompact, rpc::encode_frame(compaction), {}, note);
    channel->unary(etcdpb::kPut, rpc::encode_frame(request), {}, note);
    run_until([&] { return codes.size() == 3; });
    EXPECT_EQ(codes, (std::vector{rpc::StatusCode::kResourceExhausted, rpc::StatusCode::kOk,
                                  rpc::StatusCode::kResourceExhausted}));
    EXPECT_EQ(store->compact_revision(), 5);
}

TEST_F(EtcdServiceTest, ATxnThatAsksForEverythingManyTimesIsRefused) {
    start();
    for (int i = 0; i < 3; ++i) put(fmt::format("k{}", i), std::string(1'000'000, 'v'));
    const std::string zero(1, '\0');
    etcdpb::TxnRequest txn;
    txn.add_success()->mutable_request_put()->set_key("written");
    for (int i = 0; i < 64; ++i) {
        auto& range = *txn.add_success()->mutable_request_range();
        range.set_key(zero);
        range.set_range_end(zero);
    }
    rpc::Status status;
    call<etcdpb::TxnResponse>(etcdpb::kTxn, txn, &status);
    EXPECT_EQ(status.code, rpc::StatusCode::kResourceExhausted) << status.message;
    EXPECT_NE(status.message.find("answer is too large"), std::string::npos) << status.message;
    EXPECT_EQ(store->stats().keys, 3U) << "nothing of it was done";
    EXPECT_EQ(put("a", "1"), 5);
}

TEST_F(EtcdServiceTest, ARefusedWatchTakesNoIdAndNegativeOnesAreTaken) {
    start();
    auto stream = open_watch();
    const auto refused = [&](const etcdpb::WatchRequest& request) {
        send(*stream, request);
        const auto response = next(*stream);
        EXPECT_TRUE(response.created() && response.canceled());
        EXPECT_EQ(response.watch_id(), -1);
        return response.cancel_reason();
    };
    EXPECT_EQ(refused(create("b", "a")), "mvcc: watcher range is empty");
    EXPECT_NE(refused(create(std::string(70'000, 'k'))).find("too long"), std::string::npos);
    EXPECT_EQ(created(*stream, create("a")), 0);
    EXPECT_EQ(created(*stream, create("a", "", 0, -7)), -7);
    EXPECT_EQ(refused(create("a", "", 0, -7)),
              "mvcc: duplicate watch ID provided on the WatchStream");
    EXPECT_EQ(created(*stream, create("a")), 1);
    EXPECT_EQ(created(*stream, create("a", "", -4)), 2) << "a cancelled one has its id";
    const auto gone = next(*stream);
    EXPECT_TRUE(gone.canceled());
    EXPECT_EQ(gone.compact_revision(), -1);
    EXPECT_EQ(created(*stream, create("a")), 3);
}

TEST_F(EtcdServiceTest, ProgressIsToldWhenTheWatchItWaitsForIsCancelled) {
    rpc::ServerOptions options;
    options.max_send_queue_bytes = 64 << 10;
    start(std::make_unique<store::MemoryBackend>(), options);
    auto stream = open_watch();
    created(*stream, create("a", "z", 0, 1));
    created(*stream, create("other", "", 0, 2));
    stream->call->pause();
    for (int i = 0; i < 400; ++i)
        ASSERT_TRUE(store->put({.key = "a", .value = std::string(5000, 'v')}));
    run_until([&] { return store->stats().behind == 1; });
    etcdpb::WatchRequest request;
    request.mutable_progress_request();
    send(*stream, request);
    request.mutable_cancel_request()->set_watch_id(1);
    send(*stream, request);
    run_until([&] { return store->stats().watchers == 1; });
    stream->call->resume();
    bool cancelled = false;
    for (;;) {
        const auto response = next(*stream);
        ASSERT_FALSE(stream->ended);
        cancelled = cancelled || response.canceled();
        if (response.watch_id() == -1) break;
    }
    EXPECT_TRUE(cancelled);
}

TEST_F(EtcdServiceTest, NotReadyIsUnavailable) {
    start();
    service->set_ready(false);
    rpc::Status status;
    etcdpb::RangeRequest request;
    request.set_key("a");
    call<etcdpb::RangeResponse>(etcdpb::kRange, request, &status);
    EXPECT_EQ(status, (rpc::Status{rpc::StatusCode::kUnavailable, "etcdserver: no leader"}));
    auto stream = open_watch();
    send(*stream, create("a"));
    run_until([&] { return stream->ended.has_value(); });
    EXPECT_EQ(stream->ended->code, rpc::StatusCode::kUnavailable);
    service->set_ready(true);
    call<etcdpb::RangeResponse>(etcdpb::kRange, request);
}

TEST_F(EtcdServiceTest, TooLargeRequestsAndUnknownMethods) {
    start();
    etcdpb::PutRequest request;
    request.set_key("a");
    request.set_value(std::string(1600 << 10, 'v'));
    rpc::Status status;
    call<etcdpb::PutResponse>(etcdpb::kPut, request, &status);
    EXPECT_EQ(status,
              (rpc::Status{rpc::StatusCode::kInvalidArgument, "etcdserver: request is too large"}));
    call<etcdpb::PutResponse>("/etcdserverpb.KV/Nothing", request, &status);
    EXPECT_EQ(status.code, rpc::StatusCode::kUnimplemented);
    call<etcdpb::PutResponse>("/etcdserverpb.Auth/UserAdd", request, &status);
    EXPECT_EQ(status, (rpc::Status{rpc::StatusCode::kFailedPrecondition,
                                   "etcdserver: authentication is not enabled"}));
}

TEST_F(EtcdServiceTest, LeasesEndByTheClockUnlessKeptAlive) {
    start();
    etcdpb::LeaseGrantRequest grant;
    grant.set_id(9);
    grant.set_ttl(60);
    EXPECT_EQ(call<etcdpb::LeaseGrantResponse>(etcdpb::kLeaseGrant, grant).ttl(), 60);
    ASSERT_TRUE(store->put({.key = "a", .value = "v", .lease = store::LeaseId{9}}));
    std::deque<etcdpb::LeaseKeepAliveResponse> answers;
    auto keep = channel->call(etcdpb::kLeaseKeepAlive, {},
                              {.on_headers = {},
                               .on_message =
                                   [&](std::string_view bytes) {
                                       answers.emplace_back();
                                       ASSERT_TRUE(answers.back().ParseFromArray(
                                           bytes.data(), static_cast<int>(bytes.size())));
                                   },
                               .on_writable = {},
                               .on_end = {}});
    const auto keep_alive = [&](std::int64_t id) {
        etcdpb::LeaseKeepAliveRequest request;
        request.set_id(id);
        EXPECT_EQ(keep->write(rpc::encode_frame(request)), rpc::Write::kQueued);
        answers.clear();
        run_until([&] { return !answers.empty(); });
        EXPECT_EQ(answers.front().id(), id);
        return answers.front().ttl();
    };
    clock.advance(50s);
    EXPECT_EQ(keep_alive(9), 60);
    EXPECT_EQ(keep_alive(10), 0) << "there is no such lease";
    clock.advance(59s);
    settle();
    EXPECT_EQ(store->stats().keys, 1U);
    clock.advance(2s);
    run_until([&] { return store->stats().keys == 0; });
    EXPECT_EQ(keep_alive(9), 0);
    keep->cancel();
}

TEST_F(EtcdServiceTest, GrantsDoNotPutOffTheEndOfALease) {
    start();
    etcdpb::LeaseGrantRequest grant;
    grant.set_id(9);
    grant.set_ttl(60);
    call<etcdpb::LeaseGrantResponse>(etcdpb::kLeaseGrant, grant);
    ASSERT_TRUE(store->put({.key = "a", .value = "v", .lease = store::LeaseId{9}}));
    clock.advance(61s);
    grant.set_id(0);
    run_until([&] {
        call<etcdpb::LeaseGrantResponse>(etcdpb::kLeaseGrant, grant);
        return store->stats().keys == 0;
    });
}

TEST_F(EtcdServiceTest, LeasesThatCannotEndAreTriedRarelyAndToldOnce) {
    CountingBackend::Disk disk;
    start(std::make_unique<CountingBackend>(disk));
    ASSERT_TRUE(store->lease_grant(store::LeaseId{9}, 60s, clock.now()));
    ASSERT_TRUE(store->put({.key = "a", .value = "v", .lease = store::LeaseId{9}}));
    disk.full = true;
    clock.advance(61s);
    run_until([&] { return disk.refused != 0; });
    // Within less than the second that is waited: at the pace of leases these would be ten.
    const auto until = std::chrono::steady_clock::now() + 500ms;
    while (std::chrono::steady_clock::now() < until) loop.run_one_for(10ms);
    EXPECT_LE(disk.refused, 2);
    EXPECT_EQ(logged.size(), 1U);
    disk.full = false;
    run_until([&] { return store->stats().keys == 0; });
    EXPECT_EQ(logged.size(), 2U);
}

TEST_F(EtcdServiceTest, HistoryIsTrimmedByItself) {
    start(std::make_unique<store::MemoryBackend>(), {}, {.history_to_keep = 100});
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(store->put({.key = "a", .value = "v"}));
    run_until([&] { return store->compact_revision() != 0; });
    EXPECT_EQ(store->compact_revision(), 901);
    EXPECT_EQ(service->stats().compactions, 1U);
    auto stream = open_watch();
    created(*stream, create("a", "", 902));
    EXPECT_EQ(next(*stream).events_size(), 100);
}

TEST_F(EtcdServiceTest, AReplacedMirrorCancelsWatches) {
    start();
    const std::vector<store::KeyValue> first{
        store::KeyValue::make("a", "1", {.create_revision = 50, .mod_revision = 50, .version = 1})};
    ASSERT_TRUE(store->reset_from_snapshot(100, first, false));
    auto stream = open_watch();
    created(*stream, create("a"));
    etcdpb::PutRequest request;
    request.set_key("a");
    rpc::Status status;
    call<etcdpb::PutResponse>(etcdpb::kPut, request, &status);
    EXPECT_EQ(status.code, rpc::StatusCode::kPermissionDenied) << "a mirror takes no writes";
    ASSERT_TRUE(store->apply_upstream(101, std::vector{store::KeyValue::make_tombstone("a", 101)}));
    EXPECT_EQ(next(*stream).events(0).type(), etcdpb::Event::DELETE);
    store->set_identity({.cluster_id = 70, .member_id = 80});
    ASSERT_TRUE(store->reset_from_snapshot(9, {}, false));
    const auto response = next(*stream);
    EXPECT_TRUE(response.canceled());
    EXPECT_EQ(response.compact_revision(), 10);
    EXPECT_EQ(response.header().cluster_id(), 70U);
}

}  // namespace
}  // namespace mesh::serve
