#include "runtime/poll_loop.hpp"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <future>
#include <stdexcept>
#include <string>

namespace mesh {
namespace {

std::unique_ptr<PollLoop> make_loop(PollLoop::OnFailure on_failure = [](std::string_view) {}) {
    auto made = PollLoop::make(std::move(on_failure));
    EXPECT_TRUE(made);
    return *std::move(made);
}

struct Pair {
    std::array<int, 2> fds{};
    Pair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()), 0); }
    ~Pair() {
        for (const int fd : fds) ::close(fd);
    }
};

struct Reader final : PollLoop::Handler {
    explicit Reader(int socket) : fd(socket) {}
    void on_ready(std::uint32_t events) override {
        EXPECT_NE(events & EPOLLIN, 0U);
        std::array<char, 64> bytes{};
        const ssize_t n = ::read(fd, bytes.data(), bytes.size());
        got.append(bytes.data(), static_cast<std::size_t>(n > 0 ? n : 0));
        if (got.size() >= 3 && !told) {
            told = true;
            done.set_value(got);
        }
        if (fails) throw std::runtime_error("as told");
    }
    int fd;
    std::string got;
    bool told = false, fails = false;
    std::promise<std::string> done;
};

TEST(PollLoop, TellsWhatIsReady) {
    Pair pair;
    Reader reader(pair.fds[0]);
    const auto loop = make_loop();
    loop->run([&] { ASSERT_TRUE(loop->add(pair.fds[0], EPOLLIN, reader)); });
    ASSERT_EQ(::write(pair.fds[1], "abc", 3), 3);
    EXPECT_EQ(reader.done.get_future().get(), "abc");
    loop->run([&] { loop->remove(pair.fds[0]); });
}

TEST(PollLoop, GoesOnAfterAnException) {
    Pair pair;
    Reader reader(pair.fds[0]);
    reader.fails = true;
    std::promise<std::string> failure;
    const auto loop =
        make_loop([&](std::string_view what) { failure.set_value(std::string(what)); });
    loop->run([&] { ASSERT_TRUE(loop->add(pair.fds[0], EPOLLIN, reader)); });
    ASSERT_EQ(::write(pair.fds[1], "abc", 3), 3);
    EXPECT_EQ(failure.get_future().get(), "as told");
    bool ran = false;
    loop->run([&] {
        ran = true;
        loop->remove(pair.fds[0]);
    });
    EXPECT_TRUE(ran);
}

struct Alarm final : PollLoop::Timer {
    void on_timer() override { rang.set_value(); }
    std::promise<void> rang;
};

TEST(PollLoop, TimersRingInTheirOrderAndMove) {
    const auto loop = make_loop();
    struct Noted final : PollLoop::Timer {
        void on_timer() override { notes->push_back(this); }
        std::vector<Noted*>* notes = nullptr;
    };
    std::vector<Noted*> notes;
    Noted first, second, moved, cancelled;
    for (Noted* timer : {&first, &second, &moved, &cancelled}) timer->notes = &notes;
    Alarm last;
    loop->run([&] {
        const TimePoint now = loop->now();
        loop->set_timer(moved, now + PollLoop::kTick);
        loop->set_timer(cancelled, now + PollLoop::kTick);
        loop->set_timer(second, now + 4 * PollLoop::kTick);
        loop->set_timer(first, now + PollLoop::kTick);
        loop->set_timer(moved, now + 7 * PollLoop::kTick);
        loop->cancel_timer(cancelled);
        loop->set_timer(last, now + 10 * PollLoop::kTick);
    });
    last.rang.get_future().wait();
    loop->run([&] { EXPECT_EQ(notes, (std::vector<Noted*>{&first, &second, &moved})); });
}

TEST(PollLoop, FarTimersAreKeptAndMovedNearer) {
    const auto loop = make_loop();
    Alarm alarm;
    loop->run([&] {
        loop->set_timer(alarm, TimePoint::max());
        loop->set_timer(alarm, loop->now() + std::chrono::hours(1));
        loop->set_timer(alarm, loop->now() + PollLoop::kTick);
    });
    alarm.rang.get_future().wait();
}

TEST(PollLoop, DeferredCallsRunAtTheEndOfTheTurn) {
    const auto loop = make_loop();
    std::string order;
    loop->run([&] {
        loop->defer([&] { order.push_back('b'); });
        order.push_back('a');
    });
    loop->run([&] { order.push_back('c'); });
    EXPECT_EQ(order, "abc");
}

}  // namespace
}  // namespace mesh
