#include "runtime/serial_loop.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <exception>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runtime/loop_thread.hpp"

namespace {

using mesh::SerialLoop;
namespace asio = boost::asio;
using Socket = asio::local::stream_protocol::socket;

void fail(std::string_view what) {
    ADD_FAILURE() << what;
}

/// Waits until all that was posted before has run.
void settle(const SerialLoop& loop) {
    std::promise<void> done;
    asio::post(loop.executor(), [&] { done.set_value(); });
    done.get_future().wait();
}

TEST(SerialLoop, HandlersAndCallersOfManyThreadsOneAtATime) {
    asio::thread_pool pool(4);
    const SerialLoop loop(pool.executor(), pool, fail);
    int unguarded = 0;  // ThreadSanitizer sees a second writer
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int round = 0; round < 500; ++round) {
                asio::post(loop.executor(), [&] { ++unguarded; });
                int seen = -1;
                loop.run([&] { seen = ++unguarded; });
                EXPECT_GT(seen, 0);
            }
        });
    }
    for (auto& thread : threads) thread.join();
    settle(loop);
    loop.run([&] { EXPECT_EQ(unguarded, 4 * 2 * 500); });
}

TEST(SerialLoop, HandlersKeepTheirOrder) {
    asio::thread_pool pool(4);
    const SerialLoop loop(pool.executor(), pool, fail);
    std::vector<int> order;
    for (int i = 0; i < 1000; ++i) {
        asio::post(loop.executor(), [&order, i] { order.push_back(i); });
    }
    settle(loop);
    ASSERT_EQ(order.size(), 1000U);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(SerialLoop, ACallNeedsNobodyToRunTheExecutor) {
    asio::io_context io;
    const SerialLoop loop(io.get_executor(), io, fail);
    std::string order;
    asio::post(loop.executor(), [&] { order += "handler "; });
    EXPECT_FALSE(loop.on_loop());
    loop.run([&] {
        EXPECT_TRUE(loop.on_loop());
        // Posted is later, dispatched is now; as with any executor.
        asio::post(loop.executor(), [&] { order += "posted "; });
        asio::dispatch(loop.executor(), [&] { order += "dispatched "; });
        loop.run([&] { order += "inner "; });
        order += "outer ";
    });
    io.poll();
    EXPECT_EQ(order, "dispatched inner outer handler posted ");
    EXPECT_FALSE(io.stopped()) << "it is kept from having nothing to do";
}

TEST(SerialLoop, ACallFromTheOnlyThreadOfTheExecutor) {
    asio::io_context io;
    const SerialLoop loop(io.get_executor(), io, fail);
    bool asked = false;
    // A handler of the embedder's own, while handlers of the loop wait behind it.
    asio::post(io, [&] {
        asio::post(loop.executor(), [] {});
        EXPECT_FALSE(loop.on_loop());
        loop.run([&] { asked = true; });
    });
    asio::post(loop.executor(), [&] { EXPECT_TRUE(loop.on_loop()); });
    io.poll();
    EXPECT_TRUE(asked);
}

/// All threads of a pool ask at once, while handlers of the loop wait for one of them.
TEST(SerialLoop, CallsFromAllThreadsOfThePool) {
    asio::thread_pool pool(2);
    const SerialLoop loop(pool.executor(), pool, fail);
    std::atomic<int> asked{0};
    std::promise<void> all;
    int handled = 0;
    for (int i = 0; i < 500; ++i) {
        asio::post(loop.executor(), [&] { ++handled; });
        asio::post(pool, [&] {
            loop.run([] {});
            if (++asked == 500) all.set_value();
        });
    }
    all.get_future().wait();
    settle(loop);
    EXPECT_EQ(handled, 500);
}

asio::awaitable<void> echo(Socket& socket, const SerialLoop& loop, int& rounds) {
    for (int i = 0; i < 100; ++i) {
        char byte = 0;
        co_await asio::async_read(socket, asio::buffer(&byte, 1), asio::use_awaitable);
        EXPECT_TRUE(loop.on_loop());
        co_await asio::async_write(socket, asio::buffer(&byte, 1), asio::use_awaitable);
        EXPECT_TRUE(loop.on_loop());
        ++rounds;
    }
}

/// They are of another context than the executor.
TEST(SerialLoop, CoroutinesSocketsAndTimersStayOnTheLoop) {
    mesh::LoopThread thread(fail);
    asio::thread_pool pool(3);
    const SerialLoop loop(pool.executor(), asio::query(thread.executor(), asio::execution::context),
                          fail);
    Socket near(loop.executor()), far(loop.executor());
    asio::local::connect_pair(near, far);
    int rounds = 0;
    asio::steady_timer timer(loop.executor());
    std::promise<bool> ticked;
    std::promise<void> echoed;
    loop.run([&] {
        asio::co_spawn(loop.executor(), echo(near, loop, rounds),
                       [&](std::exception_ptr) { echoed.set_value(); });
        timer.expires_after(std::chrono::milliseconds(1));
        timer.async_wait([&](boost::system::error_code) { ticked.set_value(loop.on_loop()); });
    });
    for (int i = 0; i < 100; ++i) {
        char byte = 'x';
        asio::write(far, asio::buffer(&byte, 1));
        asio::read(far, asio::buffer(&byte, 1));
    }
    echoed.get_future().wait();
    EXPECT_TRUE(ticked.get_future().get());
    loop.run([&] { EXPECT_EQ(rounds, 100); });
}

TEST(SerialLoop, TellsExceptionsAndKeepsThemFromTheExecutor) {
    asio::io_context io;
    std::vector<std::string> told;
    const SerialLoop loop(io.get_executor(), io,
                          [&](std::string_view what) { told.emplace_back(what); });
    asio::post(loop.executor(), [] { throw std::runtime_error("broken"); });
    asio::post(loop.executor(), [] { throw 1; });
    io.poll();
    EXPECT_EQ(told, (std::vector<std::string>{"broken", "unknown exception"}));
    EXPECT_THROW(loop.run([] { throw std::bad_alloc(); }), std::bad_alloc);
    EXPECT_FALSE(loop.on_loop());
    loop.run([] {});
}

/// What a handler holds ends on the loop, as the handler does.
TEST(SerialLoop, WhatAHandlerHoldsEndsOnTheLoop) {
    asio::io_context io;
    const SerialLoop loop(io.get_executor(), io, fail);
    bool on_loop = false;
    {
        const std::shared_ptr<void> held(nullptr, [&](void*) { on_loop = loop.on_loop(); });
        asio::post(loop.executor(), [held] {});
    }
    io.poll();
    EXPECT_TRUE(on_loop);
}

TEST(SerialLoop, MovesToAnotherExecutorAndLeavesTheFirstAlone) {
    mesh::LoopThread thread(fail);
    std::string order;
    std::optional<SerialLoop::Turns> turns;
    {
        auto io = std::make_unique<asio::io_context>();
        SerialLoop loop(io->get_executor(),
                        asio::query(thread.executor(), asio::execution::context), fail);
        turns = loop.turns();
        asio::post(loop.executor(), [&] { order += "first "; });
        io->poll();
        // What waits there runs here; and it may be gone.
        asio::post(loop.executor(), [&] { order += "second "; });
        loop.run([&] { loop.move_to(thread.executor()); });
        io->run();
        io.reset();
        asio::post(loop.executor(), [&] { order += "third "; });
        settle(loop);
        EXPECT_EQ(order, "first second third ");
    }
    bool asked = false;
    turns->run([&] { asked = turns->on_loop(); });
    EXPECT_TRUE(asked);
}

}  // namespace
