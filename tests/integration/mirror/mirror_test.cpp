// What a mirror says of its freshness, and what it makes of an upstream whose history changed.
#include "serve/etcd/mirror.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>

#include "scripted_etcd.hpp"

namespace mesh::serve {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using test::ScriptedEtcd;

class MirrorTest : public testing::Test {
  protected:
    void start(MirrorOptions options = {}) {
        auto store = store::Store::open(std::make_unique<store::MemoryBackend>(), {}, clock_.now());
        ASSERT_TRUE(store);
        store_ = *std::move(store);
        etcd::ClientOptions client;
        client.endpoints = {upstream_->endpoint()};
        client.backoff_limit = 100ms;
        client_ = *etcd::Client::make(loop_.get_executor(), std::move(client), clock_, Rng(1), {});
        mirror_ = std::make_unique<Mirror>(loop_.get_executor(), *client_, *store_, clock_, Rng(2),
                                           std::move(options), Logger());
        mirror_->start();
    }
    void TearDown() override {
        bool done = false;
        asio::co_spawn(
            loop_,
            [&]() -> asio::awaitable<void> {
                co_await mirror_->async_stop();
                co_await client_->async_stop();
                done = true;
            },
            [](std::exception_ptr) {});
        EXPECT_TRUE(until([&] { return done; }));
    }
    bool until(const std::function<bool()>& condition) {
        const TimePoint end = clock_.now() + 30s;
        while (!condition()) {
            if (clock_.now() >= end) return false;
            loop_.run_for(5ms);
            loop_.restart();
        }
        return true;
    }
    [[nodiscard]] const MirrorStatus& status() const { return mirror_->status(); }

    SystemClock clock_;
    asio::io_context loop_{1};
    std::unique_ptr<ScriptedEtcd> upstream_ =
        std::make_unique<ScriptedEtcd>(loop_.get_executor(), clock_);
    std::unique_ptr<store::Store> store_;
    std::unique_ptr<etcd::Client> client_;
    std::unique_ptr<Mirror> mirror_;
};

TEST_F(MirrorTest, IsNotInStepBeforeItHasWhatTheUpstreamHadWhenTheWatchWasMade) {
    upstream_->put("cilium/state/a", "1");
    upstream_->answers_progress = false;
    // After the list, and before the watch; told later.
    upstream_->before_watch = [&] { upstream_->put("cilium/state/b", "1", true); };
    start();
    ASSERT_TRUE(until([&] { return client_->newest_header().revision == 3; }));
    EXPECT_EQ(status().lists, 1U);
    EXPECT_TRUE(status().stale) << "the watch has told nothing of revision 3";
    upstream_->put("cilium/state/c", "1");
    ASSERT_TRUE(until([&] { return !status().stale; }));
    EXPECT_EQ(status().position.revision, 4);
}

TEST_F(MirrorTest, AnUpstreamThatSaysThatNothingComesIsTakenAtItsWord) {
    upstream_->put("cilium/state/a", "1");
    // Of nothing that is mirrored, so that no event tells.
    upstream_->before_watch = [&] { upstream_->put("other", "1", true); };
    start();
    ASSERT_TRUE(until([&] { return !status().stale; }));
    EXPECT_EQ(client_->newest_header().revision, 3);
    EXPECT_EQ(status().position.revision, 2) << "no revision was promised";
}

TEST_F(MirrorTest, SilenceIsStalenessSinceTheUpstreamWasLastHeard) {
    upstream_->put("cilium/state/a", "1");
    start({.ask_interval = 50ms, .silence_limit = 500ms});
    ASSERT_TRUE(until([&] { return !status().stale; }));
    // The mirror asks: that is heard without any event.
    const TimePoint heard = client_->last_heard();
    ASSERT_TRUE(until([&] { return client_->last_heard() > heard; }));
    EXPECT_FALSE(status().stale);
    upstream_->answers_progress = false;
    ASSERT_TRUE(until([&] { return status().stale; }));
    EXPECT_EQ(status().stale_since, client_->last_heard());
    EXPECT_GE(clock_.now() - status().stale_since, 500ms);
    EXPECT_TRUE(client_->connected()) << "silent, not gone";
    upstream_->answers_progress = true;
    ASSERT_TRUE(until([&] { return !status().stale; }));
    EXPECT_EQ(status().lists, 1U);
}

TEST_F(MirrorTest, ALossCountsFromTheLastWord) {
    upstream_->put("cilium/state/a", "1");
    start();
    ASSERT_TRUE(until([&] { return !status().stale; }));
    const TimePoint heard = client_->last_heard();
    upstream_->stop();
    ASSERT_TRUE(until([&] { return status().stale; }));
    EXPECT_EQ(status().stale_since, heard);
    EXPECT_NE(status().last_failure, "");
}

}  // namespace
}  // namespace mesh::serve
