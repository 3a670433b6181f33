#include "runtime/waker.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

namespace mesh {

namespace asio = boost::asio;

void Waker::wake() {
    woken_ = true;
    timer_.cancel();
}

void Waker::stop() {
    stopped_ = true;
    timer_.cancel();
}

asio::awaitable<void> Waker::sleep(std::optional<TimePoint> until) {
    while (!stopped_ && !woken_) {
        if (until && *until <= clock_.now()) break;
        timer_.expires_at(until ? asio::steady_timer::time_point(*until)
                                : asio::steady_timer::time_point::max());
        boost::system::error_code ignored;
        co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    woken_ = false;
}

asio::awaitable<void> Waker::pause(Duration how_long) {
    const TimePoint until = clock_.now() + how_long;
    while (!stopped_ && clock_.now() < until) {
        timer_.expires_at(asio::steady_timer::time_point(until));
        boost::system::error_code ignored;
        co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
}

}  // namespace mesh
