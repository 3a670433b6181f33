// A TCP line on loopback between a client and a server that can be cut and joined again.
#pragma once

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

namespace mesh::test {

/// @thread the loop's; outlives the loop's last run
class Line {
  public:
    Line(boost::asio::io_context& loop, std::uint16_t to)
        : loop_(loop), to_(to), acceptor_(loop, {boost::asio::ip::tcp::v4(), 0}) {
        accept();
    }
    std::uint16_t port() { return acceptor_.local_endpoint().port(); }
    void cut() {
        open_ = false;
        for (auto& weak : sockets_)
            if (auto s = weak.lock()) s->close();
        sockets_.clear();
    }
    void join() { open_ = true; }
    /// Carries nothing until it is called with false; the connections stand.
    void stall(bool stalled) { stalled_ = stalled; }
    void lead_to(std::uint16_t port) { to_ = port; }

  private:
    using Socket = std::shared_ptr<boost::asio::ip::tcp::socket>;
    void accept() {
        acceptor_.async_accept(
            [this](boost::system::error_code ec, boost::asio::ip::tcp::socket in) {
                if (ec) return;
                if (open_) {
                    auto a = std::make_shared<boost::asio::ip::tcp::socket>(std::move(in));
                    auto b = std::make_shared<boost::asio::ip::tcp::socket>(loop_);
                    boost::system::error_code failed;
                    b->connect({boost::asio::ip::make_address("127.0.0.1"), to_}, failed);
                    if (!failed) {
                        sockets_.push_back(a);
                        sockets_.push_back(b);
                        boost::asio::co_spawn(loop_, carry(this, a, b), [](std::exception_ptr) {});
                        boost::asio::co_spawn(loop_, carry(this, b, a), [](std::exception_ptr) {});
                    }
                }
                accept();
            });
    }
    static boost::asio::awaitable<void> carry(Line* line, Socket from, Socket to) {
        std::array<char, 16384> buffer{};
        boost::system::error_code ec;
        boost::asio::steady_timer wait(line->loop_);
        while (!ec) {
            while (line->stalled_ && from->is_open()) {
                wait.expires_after(std::chrono::milliseconds(20));
                co_await wait.async_wait(boost::asio::use_awaitable);
            }
            const std::size_t n = co_await from->async_read_some(
                boost::asio::buffer(buffer),
                boost::asio::redirect_error(boost::asio::use_awaitable, ec));
            if (!ec)
                co_await boost::asio::async_write(
                    *to, boost::asio::buffer(buffer.data(), n),
                    boost::asio::redirect_error(boost::asio::use_awaitable, ec));
        }
        from->close(ec);
        to->close(ec);
    }

    boost::asio::io_context& loop_;
    std::uint16_t to_;
    boost::asio::ip::tcp::acceptor acceptor_;
    std::vector<std::weak_ptr<boost::asio::ip::tcp::socket>> sockets_;
    bool open_ = true;
    bool stalled_ = false;
};

}  // namespace mesh::test
