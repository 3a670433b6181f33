#include "rpc/server.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <set>
#include <utility>
#include <vector>

#include "rpc/connection.hpp"
#include "rpc/server_session.hpp"

namespace mesh::rpc {

namespace asio = boost::asio;
using boost::system::error_code;
using detail::Connection;

class Server::Impl : public std::enable_shared_from_this<Server::Impl> {
  public:
    Impl(asio::any_io_executor loop, ServerOptions options, const Clock& clock, Logger logger)
        : loop_(std::move(loop)),
          core_(std::make_shared<detail::ServerCore>(
              detail::ServerCore{std::move(options), clock, std::move(logger), {}, {}, {}, {}})),
          buffers_(std::make_shared<detail::LoopBuffers>()),
          drained_(loop_) {}

    Result<std::uint16_t> listen(std::string_view address, std::uint16_t port) {
        if (core_->options.tls && !credentials_) {
            MESH_TRY(credentials_,
                     TlsCredentials::load(TlsRole::kServer, *core_->options.tls, core_->logger));
        }
        error_code ec;
        const auto ip = asio::ip::make_address(std::string(address), ec);
        const std::string where = std::string(address) + ":" + std::to_string(port);
        if (ec) return invalid_argument("listen address " + where + ": expected an IP address");
        const asio::ip::tcp::endpoint endpoint(ip, port);
        auto acceptor = std::make_shared<asio::ip::tcp::acceptor>(loop_);
        acceptor->open(endpoint.protocol(), ec);
        if (!ec) acceptor->set_option(asio::socket_base::reuse_address(true), ec);
        if (!ec && core_->options.reuse_port) {
            using ReusePort = asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>;
            acceptor->set_option(ReusePort(true), ec);
        }
        if (!ec) acceptor->bind(endpoint, ec);
        if (!ec) acceptor->listen(asio::socket_base::max_listen_connections, ec);
        if (ec) return unavailable("cannot listen on " + where + ": " + ec.message());
        const std::uint16_t bound = acceptor->local_endpoint(ec).port();
        acceptors_.push_back(acceptor);
        accept(acceptor);
        return bound;
    }

    void accept(const std::shared_ptr<asio::ip::tcp::acceptor>& acceptor) {
        acceptor->async_accept([self = shared_from_this(), acceptor](const error_code& ec,
                                                                     asio::ip::tcp::socket socket) {
            if (self->stopped_ || !acceptor->is_open()) return;
            if (ec) {
                // Out of descriptors or memory: connections end, so wait a little and go on.
                self->core_->logger.warn("accept failed: {}", ec.message());
                auto timer = std::make_shared<asio::steady_timer>(self->loop_,
                                                                  std::chrono::milliseconds(100));
                timer->async_wait([self, acceptor, timer](const error_code&) {
                    if (!self->stopped_ && acceptor->is_open()) self->accept(acceptor);
                });
                return;
            }
            self->take(std::move(socket));
            self->accept(acceptor);
        });
    }

    void take(asio::ip::tcp::socket socket) {
        ServerStats& stats = core_->stats;
        if (connections_.size() >= core_->options.max_connections) {
            ++stats.refused_limit;
            return;
        }
        ++stats.accepted;
        std::unique_ptr<detail::TlsEngine> tls;
        if (credentials_) {
            auto made = detail::TlsEngine::make(*credentials_, {});
            if (!made) {
                core_->logger.error("{}", made.error().message());
                return;
            }
            tls = *std::move(made);
        }
        auto connection = std::make_shared<Connection>(std::move(socket), std::move(tls),
                                                       core_->clock, buffers_, io_);
        connection->make_session = [core = core_](std::shared_ptr<const Peer> peer) {
            return std::make_unique<detail::ServerSession>(core, std::move(peer));
        };
        connection->on_closed =
            [this, weak = std::weak_ptr<Connection>(connection)](const Error& reason) {
                const auto closed = weak.lock();
                if (!closed) return;
                if (!closed->was_ready()) {
                    ++core_->stats.handshake_failures;
                    core_->logger.info("{}: connection refused: {}", closed->peer().address,
                                       reason.detail());
                }
                connections_.erase(closed);
                if (connections_.empty()) drained_.cancel();
            };
        connections_.insert(connection);
        connection->start(core_->options.handshake_timeout);
    }

    void close_acceptors() {
        error_code ignored;
        for (auto& acceptor : acceptors_) acceptor->close(ignored);
        acceptors_.clear();
    }

    void stop() {
        if (stopped_) return;
        stopped_ = true;
        close_acceptors();
        const auto connections = std::exchange(connections_, {});
        for (const auto& connection : connections)
            connection->close({StatusCode::kUnavailable, "the server is stopping"});
        drained_.cancel();
    }

    static asio::awaitable<void> drain(std::shared_ptr<Impl> self, Duration grace) {
        self->close_acceptors();
        const auto connections = self->connections_;
        for (const auto& connection : connections) {
            if (connection->session() != nullptr) {
                connection->session()->go_away();
            } else {
                connection->close({});
                self->connections_.erase(connection);
            }
        }
        self->drained_.expires_after(grace);
        if (!self->connections_.empty() && !self->stopped_) {
            error_code ignored;
            co_await self->drained_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
        self->stop();
    }

    ServerStats stats() const {
        ServerStats s = core_->stats;
        s.connections = connections_.size();
        s.messages_received = core_->counters.messages_received;
        s.messages_sent = core_->counters.messages_sent;
        s.bytes_received = io_.bytes_received;
        s.bytes_sent = io_.bytes_sent;
        s.socket_writes = io_.socket_writes;
        s.tls_reloads = credentials_ ? credentials_->reloads() : 0;
        return s;
    }

    asio::any_io_executor loop_;
    std::shared_ptr<detail::ServerCore> core_;
    std::shared_ptr<detail::LoopBuffers> buffers_;
    detail::IoCounters io_;
    std::shared_ptr<TlsCredentials> credentials_;
    std::vector<std::shared_ptr<asio::ip::tcp::acceptor>> acceptors_;
    std::set<std::shared_ptr<Connection>> connections_;
    asio::steady_timer drained_;
    bool stopped_ = false;
};

Server::Server(asio::any_io_executor loop, ServerOptions options, const Clock& clock, Logger logger)
    : impl_(std::make_shared<Impl>(std::move(loop), std::move(options), clock, std::move(logger))) {
}

Server::~Server() {
    impl_->stop();
}

void Server::handle(std::string_view path, StreamHandler handler) {
    impl_->core_->routes.insert_or_assign(std::string(path), detail::Route{std::move(handler), {}});
}

void Server::handle_unary(std::string_view path, UnaryHandler handler) {
    impl_->core_->routes.insert_or_assign(std::string(path), detail::Route{{}, std::move(handler)});
}

void Server::handle_unknown(StreamHandler handler) {
    impl_->core_->unknown = std::move(handler);
}

Result<std::uint16_t> Server::listen(std::string_view address, std::uint16_t port) {
    return impl_->listen(address, port);
}

asio::awaitable<void> Server::async_drain(Duration grace) {
    return Impl::drain(impl_, grace);
}
void Server::stop() {
    impl_->stop();
}
ServerStats Server::stats() const {
    return impl_->stats();
}

}  // namespace mesh::rpc
