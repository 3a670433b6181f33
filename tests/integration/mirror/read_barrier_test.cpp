// Reads of a mirror that wait: for what the upstream has, or for a revision; and when they do not.
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"
#include "rpc/server.hpp"
#include "serve/etcd/access.hpp"
#include "serve/etcd/etcd_service.hpp"

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;

/// One Range and its answer.
struct Read {
    bool done = false;
    rpc::Status status;
    etcdpb::RangeResponse answer;
    bool stale = false;
    [[nodiscard]] std::string value() const {
        return answer.kvs_size() == 1 ? answer.kvs(0).value() : "";
    }
};

struct Kind {
    std::int64_t revision = 0;
    bool serializable = false;
};

class ReadBarrierTest : public testing::Test {
  protected:
    void start(EtcdServiceOptions options = {}) {
        store_ = *store::Store::open(std::make_unique<store::MemoryBackend>(), {}, clock_.now());
        put(100, "1");
        options.read_barrier = [this](OnReadMark then) { asked_.push_back(std::move(then)); };
        service_ = std::make_unique<EtcdService>(loop_.get_executor(), *store_, clock_,
                                                 std::move(options), Logger());
        server_ = std::make_unique<rpc::Server>(loop_.get_executor(), rpc::ServerOptions{}, clock_,
                                                Logger());
        service_->attach(*server_, "test", std::make_shared<AllowAll>());
        const auto port = server_->listen("127.0.0.1", 0);
        ASSERT_TRUE(port) << port.error().message();
        rpc::ChannelOptions to;
        to.host = "127.0.0.1";
        to.port = *port;
        channel_ = std::make_unique<rpc::Channel>(loop_.get_executor(), to, clock_, Logger());
        bool connected = false;
        channel_->connect([&](const Result<void>& done) { connected = done.has_value(); });
        ASSERT_TRUE(until([&] { return connected; }));
    }
    void TearDown() override {
        channel_.reset();
        server_->stop();
        until([&] { return server_->stats().connections == 0; });
        service_.reset();
        server_.reset();
    }
    bool until(const std::function<bool()>& condition) {
        const TimePoint end = clock_.now() + 30s;
        while (!condition()) {
            if (clock_.now() >= end) return false;
            loop_.run_for(2ms);
            loop_.restart();
        }
        return true;
    }
    /// What was sent is handled, and would be answered if it did not wait.
    void settle() {
        const auto probe = read({.revision = 0, .serializable = true});
        ASSERT_TRUE(until([&] { return probe->done; }));
    }
    void put(store::Revision revision, const std::string& value) {
        const auto kv = store::KeyValue::make(
            "k", value,
            {.create_revision = 100, .mod_revision = revision, .version = revision - 99});
        const auto done = store_->apply_upstream(revision, std::vector{kv});
        ASSERT_TRUE(done) << done.error().to_error().message();
    }
    std::shared_ptr<Read> read(Kind kind = {}) {
        etcdpb::RangeRequest request;
        request.set_key("k");
        request.set_revision(kind.revision);
        request.set_serializable(kind.serializable);
        auto out = std::make_shared<Read>();
        channel_->unary(
            etcdpb::kRange, rpc::encode_frame(request), {}, [out](const rpc::UnaryResult& result) {
                out->done = true;
                out->status = result.status;
                out->answer.ParseFromString(result.message);
                out->stale = rpc::find_metadata(result.trailers, "mesh-stale") == "true";
            });
        return out;
    }
    /// Answers the question that was asked first.
    void say(const ReadMark& mark) {
        ASSERT_FALSE(asked_.empty());
        auto then = std::move(asked_.front());
        asked_.erase(asked_.begin());
        then(mark);
    }

    SystemClock clock_;
    boost::asio::io_context loop_{1};
    std::unique_ptr<store::Store> store_;
    std::unique_ptr<EtcdService> service_;
    std::unique_ptr<rpc::Server> server_;
    std::unique_ptr<rpc::Channel> channel_;
    std::vector<OnReadMark> asked_;
};

TEST_F(ReadBarrierTest, ALinearizableReadHasWhatTheUpstreamHadWhenItCame) {
    start();
    const auto newest = read();
    const auto serializable = read({.serializable = true});
    const auto page = read({.revision = 100});
    ASSERT_TRUE(until([&] { return serializable->done && page->done && asked_.size() == 1; }));
    EXPECT_EQ(serializable->value(), "1");
    EXPECT_EQ(page->value(), "1");
    EXPECT_FALSE(newest->done);
    // The loop's own store may come there after the mirror.
    say({.known = true, .revision = 105});
    settle();
    EXPECT_FALSE(newest->done);
    put(103, "2");
    settle();
    EXPECT_FALSE(newest->done);
    put(105, "3");
    ASSERT_TRUE(until([&] { return newest->done; }));
    EXPECT_EQ(newest->value(), "3");
    EXPECT_EQ(newest->answer.header().revision(), 105);
    EXPECT_FALSE(newest->stale);
    EXPECT_EQ(service_->stats().reads_unproven, 0U);
}

TEST_F(ReadBarrierTest, ATransactionThatReadsWaitsToo) {
    start();
    etcdpb::TxnRequest request;
    request.add_success()->mutable_request_range()->set_key("k");
    bool done = false;
    etcdpb::TxnResponse answer;
    channel_->unary(etcdpb::kTxn, rpc::encode_frame(request), {},
                    [&](const rpc::UnaryResult& result) {
                        done = true;
                        EXPECT_TRUE(result.status.ok()) << result.status.message;
                        answer.ParseFromString(result.message);
                    });
    ASSERT_TRUE(until([&] { return asked_.size() == 1; }));
    EXPECT_FALSE(done);
    put(101, "2");
    say({.known = true, .revision = 101});
    ASSERT_TRUE(until([&] { return done; }));
    EXPECT_EQ(answer.header().revision(), 101);
    EXPECT_EQ(answer.responses(0).response_range().kvs(0).value(), "2");
}

TEST_F(ReadBarrierTest, OneQuestionServesAllThatCameBeforeIt) {
    start();
    const auto first = read();
    ASSERT_TRUE(until([&] { return asked_.size() == 1; }));
    std::vector<std::shared_ptr<Read>> more;
    for (int i = 0; i < 100; ++i) more.push_back(read());
    settle();
    EXPECT_EQ(asked_.size(), 1U) << "one at a time";
    say({.known = true, .revision = 100});
    ASSERT_TRUE(until([&] { return first->done && asked_.size() == 1; }));
    settle();
    EXPECT_FALSE(more.front()->done) << "it came after the question that was answered";
    put(101, "2");
    say({.known = true, .revision = 101});
    ASSERT_TRUE(until([&] { return more.back()->done; }));
    for (const auto& each : more) EXPECT_EQ(each->value(), "2");
    EXPECT_TRUE(asked_.empty());
    EXPECT_EQ(service_->stats().barrier_questions, 2U);
    EXPECT_EQ(service_->stats().reads_waited, 101U);
}

TEST_F(ReadBarrierTest, OutOfReachTheCacheIsTheAnswerAndSaysSo) {
    start({.read_barrier_limit = 1h});
    const auto refused = read();
    ASSERT_TRUE(until([&] { return asked_.size() == 1; }));
    say({});
    ASSERT_TRUE(until([&] { return refused->done; }));
    EXPECT_TRUE(refused->status.ok()) << refused->status.message;
    EXPECT_EQ(refused->value(), "1");
    EXPECT_TRUE(refused->stale);
    EXPECT_EQ(service_->stats().reads_unproven, 1U);
    // Asked anew each time.
    const auto next = read();
    ASSERT_TRUE(until([&] { return asked_.size() == 1; }));
    say({.known = true, .revision = 100});
    ASSERT_TRUE(until([&] { return next->done; }));
    EXPECT_FALSE(next->stale);
}

TEST_F(ReadBarrierTest, SilenceIsWaitedForOnce) {
    start({.read_barrier_limit = 50ms});
    const auto first = read();
    ASSERT_TRUE(until([&] { return first->done; }));
    EXPECT_TRUE(first->stale);
    for (int i = 0; i < 10; ++i) {
        const auto more = read();
        ASSERT_TRUE(until([&] { return more->done; }));
        EXPECT_TRUE(more->stale);
    }
    EXPECT_EQ(asked_.size(), 1U) << "nobody else waits, nor asks";
    say({.known = true, .revision = 100});
    // In time again, when this machine is quick enough for the short limit.
    EXPECT_TRUE(until([&] {
        const auto after = read();
        if (!until([&] { return !asked_.empty() || after->done; })) return false;
        while (!asked_.empty()) say({.known = true, .revision = 100});
        return until([&] { return after->done; }) && !after->stale;
    }));
}

TEST_F(ReadBarrierTest, ARevisionAheadIsWaitedFor) {
    start({.read_barrier_limit = 1h, .future_revision_limit = 1h});
    const auto ahead = read({.revision = 110, .serializable = true});
    const auto further = read({.revision = 120});
    ASSERT_TRUE(until([&] { return asked_.size() == 1; })) << "which brings the mirror there";
    settle();
    EXPECT_FALSE(ahead->done);
    put(109, "2");
    put(111, "3");
    ASSERT_TRUE(until([&] { return ahead->done; }));
    EXPECT_EQ(ahead->value(), "2");
    EXPECT_FALSE(further->done);
    // The upstream has nothing of the kind either.
    say({.known = true, .revision = 111});
    if (!further->done) {
        ASSERT_TRUE(until([&] { return further->done || !asked_.empty(); }));
        if (!asked_.empty()) say({.known = true, .revision = 111});
    }
    ASSERT_TRUE(until([&] { return further->done; }));
    EXPECT_EQ(further->status.code, rpc::StatusCode::kOutOfRange);
    EXPECT_EQ(further->status.message, "etcdserver: mvcc: required revision is a future revision");
}

TEST_F(ReadBarrierTest, AWaitForARevisionHasAnEnd) {
    start({.future_revision_limit = 50ms});
    const auto ahead = read({.revision = 110});
    ASSERT_TRUE(until([&] { return ahead->done; }));
    EXPECT_EQ(ahead->status.code, rpc::StatusCode::kOutOfRange);
}

TEST_F(ReadBarrierTest, NoMoreThanSoManyWait) {
    start({.read_barrier_limit = 1h, .future_revision_limit = 1h, .max_waiting_reads = 3});
    std::vector<std::shared_ptr<Read>> reads;
    for (int i = 0; i < 5; ++i) reads.push_back(read({.revision = 110}));
    ASSERT_TRUE(until([&] { return reads[3]->done && reads[4]->done; }));
    EXPECT_EQ(reads[4]->status.code, rpc::StatusCode::kOutOfRange);
    EXPECT_FALSE(reads[2]->done);
    std::vector<std::shared_ptr<Read>> newest;
    for (int i = 0; i < 5; ++i) newest.push_back(read());
    ASSERT_TRUE(until([&] { return newest[3]->done && newest[4]->done; }));
    EXPECT_TRUE(newest[4]->stale) << "answered from what is there, and told so";
    EXPECT_FALSE(newest[2]->done);
    EXPECT_EQ(service_->stats().reads_crowded_out, 4U);
    put(110, "2");
    ASSERT_TRUE(until([&] { return reads[2]->done; }));
    EXPECT_EQ(reads[2]->value(), "2");
}

}  // namespace
}  // namespace mesh::serve
