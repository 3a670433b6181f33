#include "runtime/loop_thread.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using mesh::LoopThread;
namespace asio = boost::asio;

TEST(LoopThread, RunsCallsOfManyThreadsOneAtATime) {
    const LoopThread loop([](std::string_view what) { ADD_FAILURE() << what; });
    int unguarded = 0;  // on the loop only; ThreadSanitizer sees a second writer
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] {
            for (int round = 0; round < 500; ++round) {
                int seen = -1;
                loop.run([&] { seen = ++unguarded; });
                EXPECT_GT(seen, 0);
            }
        });
    }
    for (auto& thread : threads) thread.join();
    loop.run([&] { EXPECT_EQ(unguarded, 8 * 500); });
}

TEST(LoopThread, RunsAtOnceWhenAlreadyOnTheLoop) {
    const LoopThread loop([](std::string_view what) { ADD_FAILURE() << what; });
    EXPECT_FALSE(loop.on_loop());
    std::string order;
    loop.run([&] {
        EXPECT_TRUE(loop.on_loop());
        loop.run([&] { order += "inner "; });
        order += "outer";
    });
    EXPECT_EQ(order, "inner outer");
}

TEST(LoopThread, GoesOnAfterAnExceptionAndTellsIt) {
    std::vector<std::string> told;
    const LoopThread loop([&](std::string_view what) { told.emplace_back(what); });
    asio::post(loop.executor(), [] { throw std::runtime_error("broken"); });
    asio::post(loop.executor(), [] { throw 1; });
    loop.run([] {});
    EXPECT_EQ(told, (std::vector<std::string>{"broken", "unknown exception"}));
}

TEST(LoopThread, HandsTheCallersExceptionBack) {
    const LoopThread loop([](std::string_view what) { ADD_FAILURE() << what; });
    EXPECT_THROW(loop.run([] { throw std::bad_alloc(); }), std::bad_alloc);
    loop.run([] {});
}

TEST(LoopThread, MayBeDestroyedByItsOwnHandler) {
    const auto kept = std::make_shared<int>(7);
    auto loop = std::make_unique<LoopThread>([](std::string_view what) { ADD_FAILURE() << what; });
    std::atomic<bool> posted{false}, destroyed{false};
    asio::post(loop->executor(), [&, kept] {
        // The loop must outlive every call on its executor, that to post() included.
        while (!posted) std::this_thread::yield();
        asio::post(loop->executor(), [kept] { ADD_FAILURE() << "after the end"; });
        loop.reset();
        destroyed = true;
    });
    posted = true;
    // The thread drops what waited, and ends.
    while (!destroyed || kept.use_count() > 1) std::this_thread::yield();
    EXPECT_EQ(loop, nullptr);
}

TEST(LoopThread, EndsAtOnceAndDropsWhatWaits) {
    for (int round = 0; round < 50; ++round) {
        const auto kept = std::make_shared<int>(round);
        {
            const LoopThread loop([](std::string_view what) { ADD_FAILURE() << what; });
            const auto timer =
                std::make_shared<asio::steady_timer>(loop.executor(), std::chrono::hours(1));
            loop.run([&] { timer->async_wait([timer, kept](boost::system::error_code) {}); });
        }
        EXPECT_EQ(kept.use_count(), 1);
    }
}

}  // namespace
