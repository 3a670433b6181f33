// The UDP side of the DNS proxy. Internal to this folder.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "serve/dns/dns_socket.hpp"
#include "serve/dns/query_gate.hpp"

namespace mesh::serve::dns {

/// @thread the executor's thread
class UdpFront : public std::enable_shared_from_this<UdpFront> {
  public:
    UdpFront(std::shared_ptr<QueryGate> gate, Logger log);

    /// @errors of SpoofingSender::open
    [[nodiscard]] Result<void> add_listener(Socket socket, std::uint16_t port);
    void start();
    void stop();

  private:
    struct Listener {
        Listener(const boost::asio::any_io_executor& executor, Socket socket, bool is_ipv6)
            : descriptor(executor, socket.release()), ipv6(is_ipv6) {}
        boost::asio::posix::stream_descriptor descriptor;
        bool ipv6;
        std::optional<SpoofingSender> sender;  ///< if transparent
    };
    struct Outstanding;
    using OutstandingPtr = std::shared_ptr<Outstanding>;

    void wait_for_queries(Listener& listener);
    void read_queries(Listener& listener);
    void take_query(Listener& listener, const DatagramReader::Datagram& datagram);
    void forward(Listener& listener, ExchangePtr exchange);
    void wait_for_answer(const OutstandingPtr& one);
    void read_answers(const OutstandingPtr& one);
    void give_up(const OutstandingPtr& one, DnsVerdict verdict, std::string reason);
    void end(Outstanding& one);
    void watch_deadlines();
    void reply(Listener& listener, const DnsQuestion& question, BytesView bytes);

    std::shared_ptr<QueryGate> gate_;
    Logger log_;
    std::uint16_t port_ = 0;
    std::vector<std::unique_ptr<Listener>> listeners_;
    DatagramReader reader_;
    Bytes answer_buffer_;
    std::list<OutstandingPtr> outstanding_;  ///< oldest first: all have the same time
    boost::asio::steady_timer timer_;
    bool timing_ = false;
    bool stopped_ = false;
};

}  // namespace mesh::serve::dns
