#include "serve/dns/tcp_front.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "serve/dns/tcp_connection.hpp"

namespace mesh::serve::dns {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

PeerAddress remote_address(int fd) noexcept {
    RawAddress address;
    if (::getpeername(fd, address.get(), address.size_out()) != 0) return {};
    return address.peer();
}

}  // namespace

TcpFront::TcpFront(std::shared_ptr<QueryGate> gate, Logger log)
    : gate_(std::move(gate)),
      log_(std::move(log)),
      tasks_(gate_->executor(), [log = log_](std::string_view what) {
          log.error("DNS proxy: a connection ended by an exception: {}", what);
      }) {}

void TcpFront::add_listener(Socket socket, std::uint16_t port) {
    port_ = port;
    const bool v4 = local_address(socket.fd()).address.is_v4();
    acceptors_.push_back(std::make_unique<Acceptor>(gate_->executor(), v4 ? tcp::v4() : tcp::v6(),
                                                    socket.release()));
}

void TcpFront::start() {
    for (auto& acceptor : acceptors_) tasks_.spawn(accept_loop(shared_from_this(), *acceptor));
}

asio::awaitable<void> TcpFront::async_stop() {
    const auto self = shared_from_this();
    error_code ignored;
    for (auto& acceptor : acceptors_) acceptor->close(ignored);
    for (const auto& connection : connections_) connection->close();
    tasks_.cancel();
    co_await tasks_.join();
}

asio::awaitable<void> TcpFront::accept_loop(std::shared_ptr<TcpFront> self, Acceptor& acceptor) {
    while (acceptor.is_open()) {
        error_code ec;
        tcp::socket socket =
            co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, ec));
        if (ec == asio::error::operation_aborted || self->tasks_.cancelled()) co_return;
        if (ec) {
            // Out of descriptors, most likely: let others close some.
            self->log_.warn("DNS proxy: accept: {}", ec.message());
            asio::steady_timer pause(self->gate_->executor(), std::chrono::milliseconds(100));
            co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
            if (ec) co_return;
            continue;
        }
        self->tasks_.spawn(serve(self, std::move(socket)));
    }
}

asio::awaitable<void> TcpFront::serve(std::shared_ptr<TcpFront> self, tcp::socket socket) {
    const DnsProxyOptions& options = self->gate_->options();
    const PeerAddress client = remote_address(socket.native_handle());
    const PeerAddress local = local_address(socket.native_handle());
    const auto server = options.transparent ? std::optional(local) : options.fixed_server;
    // To the proxy itself, not to a server: to send it on would make a circle.
    if (!server || (options.transparent && server->port == self->port_)) co_return;
    std::uint64_t& now = self->gate_->counters.tcp_connections_now;
    if (now >= options.max_tcp_connections) co_return;
    const auto of_client = self->by_client_.try_emplace(client.address, 0).first;
    if (of_client->second >= options.max_tcp_connections_per_client) co_return;
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const auto connection = std::make_shared<TcpConnection>(self->gate_, self->tasks_,
                                                            std::move(socket), client, *server);
    ++now;
    ++of_client->second;
    self->connections_.insert(connection);
    co_await TcpConnection::run(connection);
    self->connections_.erase(connection);
    if (--of_client->second == 0) self->by_client_.erase(of_client);
    --now;
}

}  // namespace mesh::serve::dns
