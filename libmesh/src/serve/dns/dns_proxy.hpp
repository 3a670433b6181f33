// The DNS policy proxy: pods' queries to any server come here, by UDP and TCP; each is asked of the
// policy, and refused or sent on to the server that it was for. Addresses of an answer are learnt
// first, and the client gets the answer, as the server gave it, when what follows from it is in
// force. Everything that is not understood is refused.
//
// Queries leave from a fresh socket with a fresh id; an answer has to come from the server, with
// that id and the question. Every table, buffer and wait has a bound.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"
#include "serve/dns/dns_event.hpp"

namespace mesh::serve::dns {

struct DnsProxyOptions {
    /// Listening addresses, of one port for all and for UDP and TCP; port 0 = one that is free on
    /// all of them.
    std::vector<PeerAddress> listen{{model::IpAddress::v4(0, 0, 0, 0), 0}, {model::IpAddress(), 0}};
    /// Takes packets for any server (redirected by TPROXY or sk_assign) and answers from its
    /// address. Needs CAP_NET_ADMIN and CAP_NET_RAW.
    bool transparent = true;
    /// Where all queries are for, if not transparent.
    std::optional<PeerAddress> fixed_server;
    /// Queries leave from the client's address, not the node's; answers to it have to be led to
    /// this process (a rule for packets that a transparent socket is there for).
    bool from_client_address = false;
    std::uint32_t listener_mark = 0;  ///< SO_MARK of listeners and answers; 0 = none
    std::uint32_t upstream_mark = 0;  ///< SO_MARK of queries

    /// What a denied query is answered with: kRefused or kNameError.
    /// @source --tofqdns-dns-reject-response-code
    ResponseCode reject_code = ResponseCode::kRefused;
    /// The longest that an answer waits for what was learnt to be in force; then it is passed on.
    /// @source --tofqdns-proxy-response-max-delay
    std::chrono::milliseconds max_answer_delay{100};
    std::chrono::milliseconds upstream_timeout{10'000};
    std::chrono::milliseconds tcp_idle_timeout{10'000};  ///< between queries of a connection

    std::size_t max_query_bytes = 4096;  ///< longer ones are malformed
    std::size_t max_outstanding = 4096;  ///< queries without their answer; beyond: SERVFAIL
    std::size_t max_outstanding_per_endpoint = 1024;
    std::size_t max_held_bytes = std::size_t{32} << 20;  ///< of answers that wait; beyond: SERVFAIL
    std::size_t max_tcp_connections = 1024;              ///< further ones are closed at once
    std::size_t max_tcp_connections_per_client = 128;    ///< by address
    std::size_t max_tcp_pipelined = 32;  ///< of a connection; further queries are not read yet
};

struct DnsProxyCallbacks {
    Decide decide;         ///< without it everything is denied
    OnLearnt on_learnt{};  ///< without it nothing is waited for
    OnDnsEvent on_event{};
};

/// Since start, but for what `now` ends.
struct DnsProxyCounters {
    std::uint64_t udp_queries = 0, tcp_queries = 0;
    std::uint64_t answered = 0, denied = 0, malformed = 0, overload = 0, timeouts = 0, failed = 0;
    std::uint64_t learnt = 0;         ///< answers with addresses
    std::uint64_t late_learnt = 0;    ///< of them, passed on before it was in force
    std::uint64_t wrong_answers = 0;  ///< ignored: another id, another question, malformed
    std::uint64_t unsent = 0;         ///< answers that the kernel did not take
    std::uint64_t outstanding_now = 0, tcp_connections_now = 0, held_bytes_now = 0;
};

/// co_await async_stop() before it is destroyed. @thread the executor's thread
class DnsProxy {
  public:
    DnsProxy(boost::asio::any_io_executor executor, const Clock& clock, Logger log,
             DnsProxyOptions options, DnsProxyCallbacks callbacks);
    ~DnsProxy();
    DnsProxy(const DnsProxy&) = delete;
    DnsProxy& operator=(const DnsProxy&) = delete;

    /// Opens the sockets and begins to answer. A family that the system lacks is left out, with a
    /// warning, as long as there is another one.
    /// @errors kInvalidArgument: options that contradict; kPermission; kConflict: the port is
    ///         taken; kUnavailable
    [[nodiscard]] Result<void> start();
    /// Queries on their way get no answer any more. Idempotent.
    [[nodiscard]] boost::asio::awaitable<void> async_stop();
    /// That all listeners have; 0 before start(). For the policy map's rows.
    [[nodiscard]] std::uint16_t port() const noexcept;
    [[nodiscard]] DnsProxyCounters counters() const noexcept;

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace mesh::serve::dns
