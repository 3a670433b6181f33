// A Line (line.hpp) with a loop and a thread of its own: for tests that wait for other programs.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "line.hpp"

namespace mesh::test {

/// @thread its owner's
class Relay {
  public:
    explicit Relay(std::uint16_t to) : line_(std::make_unique<Line>(loop_, to)) {
        port_ = line_->port();
        thread_ = std::thread([this] { loop_.run(); });
    }
    ~Relay() {
        cut();
        loop_.stop();
        thread_.join();
        line_.reset();
    }
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
    [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
    /// Ends all connections, and takes none until join().
    void cut() {
        on_loop([this] { line_->cut(); });
    }
    void join() {
        on_loop([this] { line_->join(); });
    }
    /// Ends all connections; new ones lead there.
    void move_to(std::uint16_t port) {
        on_loop([this, port] {
            line_->cut();
            line_->lead_to(port);
            line_->join();
        });
    }

  private:
    template <class Do>
    void on_loop(Do what) {
        std::promise<void> done;
        boost::asio::post(loop_, [&] {
            what();
            done.set_value();
        });
        done.get_future().wait();
    }

    boost::asio::io_context loop_{1};
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
        loop_.get_executor()};
    std::unique_ptr<Line> line_;
    std::uint16_t port_ = 0;
    std::thread thread_;
};

}  // namespace mesh::test
