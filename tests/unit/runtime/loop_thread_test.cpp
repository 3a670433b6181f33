#include "runtime/loop_thread.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using mesh::LoopThread;
namespace asio = boost::asio;

TEST(LoopThread, GoesOnAfterAnExceptionAndTellsIt) {
    std::vector<std::string> told;
    const LoopThread loop([&](std::string_view what) { told.emplace_back(what); });
    std::promise<void> done;
    asio::post(loop.executor(), [] { throw std::runtime_error("broken"); });
    asio::post(loop.executor(), [] { throw 1; });
    asio::post(loop.executor(), [&] { done.set_value(); });
    done.get_future().wait();
    EXPECT_EQ(told, (std::vector<std::string>{"broken", "unknown exception"}));
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
            timer->async_wait([timer, kept](boost::system::error_code) {});
        }
        EXPECT_EQ(kept.use_count(), 1);
    }
}

TEST(LoopThread, MayBeStoppedBeforeItsEnd) {
    LoopThread loop([](std::string_view what) { ADD_FAILURE() << what; });
    loop.stop();
    asio::post(loop.executor(), [] { ADD_FAILURE() << "after the end"; });
    loop.stop();
}

}  // namespace
