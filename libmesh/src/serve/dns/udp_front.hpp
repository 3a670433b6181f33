// The UDP side of the DNS proxy. Internal to this folder.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
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
    /// @errors kCapacity: no more descriptors
    [[nodiscard]] Result<void> start();
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
    /// @return why not; empty if it is
    [[nodiscard]] std::string watch(const OutstandingPtr& one);
    void wait_for_answers();
    void read_answers();
    void read_answer(const OutstandingPtr& one);
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
    /// One epoll for all sockets to servers, each of which lives for one query: a system call each.
    boost::asio::posix::stream_descriptor answers_;
    std::list<OutstandingPtr> outstanding_;  ///< oldest first: all have the same time
    std::unordered_map<std::uint64_t, OutstandingPtr> by_number_;
    std::uint64_t last_number_ = 0;
    boost::asio::steady_timer timer_;
    bool timing_ = false;
    bool stopped_ = false;
};

}  // namespace mesh::serve::dns
