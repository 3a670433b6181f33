#include "runtime/task_group.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>

#include "runtime/backoff.hpp"

namespace asio = boost::asio;

namespace {

asio::awaitable<void> wait_for_ever(int& ended) {
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::hours(1));
    boost::system::error_code ec;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    ++ended;
}

asio::awaitable<void> fail() {
    throw std::runtime_error("broken");
    co_return;
}

TEST(TaskGroup, CancelsAndJoinsAll) {
    asio::io_context io;
    mesh::TaskGroup group(io.get_executor());
    int ended = 0;
    for (int i = 0; i < 3; ++i) group.spawn(wait_for_ever(ended));
    bool joined = false;
    asio::co_spawn(
        io,
        [](mesh::TaskGroup& g, bool& done) -> asio::awaitable<void> {
            g.cancel();
            co_await g.join();
            done = true;
        }(group, joined),
        [](std::exception_ptr) {});
    io.run();
    EXPECT_TRUE(joined);
    EXPECT_EQ(group.size(), 0U);
    group.spawn(wait_for_ever(ended));
    EXPECT_EQ(group.size(), 0U);
}

TEST(TaskGroup, ReportsWhatEscapesATask) {
    asio::io_context io;
    std::string what;
    mesh::TaskGroup group(io.get_executor(), [&](std::string_view text) { what = text; });
    group.spawn(fail());
    io.run();
    EXPECT_EQ(what, "broken");
}

asio::awaitable<void> wait_again_once_cancelled(int& ended) {
    co_await wait_for_ever(ended);
    co_await wait_for_ever(ended);
    ++ended;
}

asio::awaitable<void> fail_once_cancelled(int& ended) {
    co_await wait_for_ever(ended);
    throw std::runtime_error("broken");
}

asio::awaitable<void> cancel_and_join(mesh::TaskGroup& group) {
    group.cancel();
    co_await group.join();
}

TEST(TaskGroup, AwaitingAfterTheCancellationIsNoFailure) {
    asio::io_context io;
    std::string what;
    mesh::TaskGroup group(io.get_executor(), [&](std::string_view text) { what = text; });
    int ended = 0;
    group.spawn(wait_again_once_cancelled(ended));
    asio::co_spawn(io, cancel_and_join(group), [](std::exception_ptr) {});
    io.run();
    EXPECT_EQ(group.size(), 0U);
    EXPECT_EQ(ended, 1) << "Asio ended it at its second wait";
    EXPECT_EQ(what, "");
}

TEST(TaskGroup, OtherFailuresOfACancelledTaskAreReported) {
    asio::io_context io;
    std::string what;
    mesh::TaskGroup group(io.get_executor(), [&](std::string_view text) { what = text; });
    int ended = 0;
    group.spawn(fail_once_cancelled(ended));
    asio::co_spawn(io, cancel_and_join(group), [](std::exception_ptr) {});
    io.run();
    EXPECT_EQ(what, "broken");
}

asio::awaitable<void> abort_by_itself() {
    throw boost::system::system_error(asio::error::operation_aborted);
    co_return;
}

TEST(TaskGroup, ACancellationThatNobodyAskedForIsAFailure) {
    asio::io_context io;
    std::string what;
    mesh::TaskGroup group(io.get_executor(), [&](std::string_view text) { what = text; });
    group.spawn(abort_by_itself());
    io.run();
    EXPECT_NE(what, "");
}

TEST(Backoff, DoublesUpToTheLimitWithJitter) {
    using std::chrono::milliseconds;
    mesh::Rng rng(1);
    mesh::Backoff backoff(milliseconds(100), milliseconds(300));
    for (const int expected : {100, 200, 300, 300}) {
        const auto d = backoff.next(rng);
        EXPECT_GE(d, milliseconds(expected) / 2);
        EXPECT_LE(d, milliseconds(expected));
    }
    backoff.reset();
    EXPECT_LE(backoff.next(rng), milliseconds(100));
}

}  // namespace
