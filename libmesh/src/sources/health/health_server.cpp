#include "sources/health/health_server.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <list>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/task_group.hpp"
#include "sources/health/asio_address.hpp"

namespace mesh::sources::health {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

/// Connections at a time; the oldest goes first, so that none can be held for long by many others.
constexpr std::size_t kMostConnections = 64;
constexpr std::size_t kMostRequest = 4096;
constexpr std::string_view kAnswer =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n"
    "Connection: close\r\n\r\n{}\n";
/// Out of descriptors, say.
constexpr std::chrono::milliseconds kPause{100};

}  // namespace

class HealthServer::Impl : public std::enable_shared_from_this<Impl> {
  public:
    Impl(asio::any_io_executor executor, Logger log)
        : executor_(executor),
          log_(std::move(log)),
          tasks_(executor,
                 [this](std::string_view what) { log_.error("health server: {}", what); }) {}

    Result<void> listen(const model::IpAddress& address, std::uint16_t port) {
        if (acceptors_.contains(address)) return {};
        const tcp::endpoint endpoint(to_asio(address), port);
        const auto acceptor = std::make_shared<tcp::acceptor>(executor_);
        error_code ec;
        acceptor->open(endpoint.protocol(), ec);
        if (!ec) acceptor->set_option(tcp::acceptor::reuse_address(true), ec);
        if (!ec) acceptor->bind(endpoint, ec);
        if (!ec) acceptor->listen(asio::socket_base::max_listen_connections, ec);
        if (ec) {
            return unavailable(
                fmt::format("health port: {}:{}: {}", address.to_string(), port, ec.message()));
        }
        port_ = acceptor->local_endpoint(ec).port();
        acceptors_.emplace(address, acceptor);
        tasks_.spawn(accept(shared_from_this(), acceptor));
        return {};
    }
    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

    static asio::awaitable<void> stop(std::shared_ptr<Impl> self) {
        error_code ignored;
        for (auto& [address, acceptor] : self->acceptors_) acceptor->close(ignored);
        for (auto& socket : self->connections_) socket->close(ignored);
        self->tasks_.cancel();
        co_await self->tasks_.join();
        self->acceptors_.clear();
    }

  private:
    using Socket = std::shared_ptr<tcp::socket>;

    static asio::awaitable<void> accept(std::shared_ptr<Impl> self,
                                        std::shared_ptr<tcp::acceptor> acceptor) {
        while (acceptor->is_open()) {
            error_code ec;
            auto token = asio::redirect_error(asio::use_awaitable, ec);
            auto socket = std::make_shared<tcp::socket>(self->executor_);
            co_await acceptor->async_accept(*socket, token);
            if (ec == asio::error::operation_aborted || !acceptor->is_open()) break;
            if (ec) {
                asio::steady_timer pause(self->executor_, kPause);
                co_await pause.async_wait(token);
                continue;
            }
            if (self->connections_.size() >= kMostConnections) {
                self->connections_.front()->close(ec);
                self->connections_.pop_front();
            }
            self->connections_.push_back(socket);
            self->tasks_.spawn(answer(self, socket));
        }
    }

    /// Waits without a deadline: whoever comes after kMostConnections others ends it.
    static asio::awaitable<void> answer(std::shared_ptr<Impl> self, Socket socket) {
        error_code ec;
        auto token = asio::redirect_error(asio::use_awaitable, ec);
        std::array<char, 512> buffer{};
        std::string request;
        while (!ec && request.find("\r\n\r\n") == std::string::npos &&
               request.size() < kMostRequest) {
            const std::size_t size = co_await socket->async_read_some(asio::buffer(buffer), token);
            request.append(buffer.data(), size);
        }
        if (!ec) {
            const asio::const_buffer bytes(kAnswer.data(), kAnswer.size());
            co_await asio::async_write(*socket, bytes, token);
        }
        socket->shutdown(tcp::socket::shutdown_both, ec);
        socket->close(ec);
        self->connections_.remove(socket);
    }

    asio::any_io_executor executor_;
    Logger log_;
    std::map<model::IpAddress, std::shared_ptr<tcp::acceptor>> acceptors_;
    std::list<Socket> connections_;  ///< oldest first
    std::uint16_t port_ = 0;
    TaskGroup tasks_;
};

HealthServer::HealthServer(asio::any_io_executor executor, Logger log)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(log))) {}
HealthServer::~HealthServer() = default;
Result<void> HealthServer::listen(const model::IpAddress& address, std::uint16_t port) {
    return impl_->listen(address, port);
}
std::uint16_t HealthServer::port() const noexcept {
    return impl_->port();
}
asio::awaitable<void> HealthServer::async_stop() {
    return Impl::stop(impl_);
}

}  // namespace mesh::sources::health
