// The TCP side of the DNS proxy: connections of clients, each with one to its server, queries in
// any number at once on both (RFC 7766). Internal to this folder.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "runtime/task_group.hpp"
#include "serve/dns/dns_socket.hpp"
#include "serve/dns/query_gate.hpp"

namespace mesh::serve::dns {

class TcpConnection;

/// @thread the executor's thread
class TcpFront : public std::enable_shared_from_this<TcpFront> {
  public:
    TcpFront(std::shared_ptr<QueryGate> gate, Logger log);

    void add_listener(Socket socket, std::uint16_t port);
    void start();
    [[nodiscard]] boost::asio::awaitable<void> async_stop();

  private:
    using Acceptor = boost::asio::ip::tcp::acceptor;
    static boost::asio::awaitable<void> accept_loop(std::shared_ptr<TcpFront> self,
                                                    Acceptor& acceptor);
    static boost::asio::awaitable<void> serve(std::shared_ptr<TcpFront> self,
                                              boost::asio::ip::tcp::socket socket);

    std::shared_ptr<QueryGate> gate_;
    Logger log_;
    std::uint16_t port_ = 0;
    std::vector<std::unique_ptr<Acceptor>> acceptors_;
    std::set<std::shared_ptr<TcpConnection>> connections_;
    std::map<model::IpAddress, std::size_t> by_client_;
    TaskGroup tasks_;
};

}  // namespace mesh::serve::dns
