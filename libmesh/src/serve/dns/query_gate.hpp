// What UDP and TCP have in common: a query is read, asked of the policy and counted; an answer is
// checked and learnt, and then delivered. Knows no sockets. Internal to this folder.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "serve/dns/dns_proxy.hpp"

namespace mesh::serve::dns {

class QueryGate;

/// A query that may be asked, until its end. Gives back its place when it is destroyed.
struct Exchange {
    Exchange(std::shared_ptr<QueryGate> its_gate, EndpointId its_endpoint);
    ~Exchange();
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    std::shared_ptr<QueryGate> gate;
    EndpointId endpoint;
    DnsQuestion question;
    Query query;
    Bytes wire;  ///< as it is sent on: with an id of its own
    std::uint16_t upstream_id = 0;
    TimePoint started;
    unsigned wrong_answers = 0;
};
using ExchangePtr = std::shared_ptr<Exchange>;

/// @thread the executor's thread
class QueryGate : public std::enable_shared_from_this<QueryGate> {
  public:
    /// What becomes of a message. Neither: nothing is to be done.
    struct Admission {
        Bytes reply;           ///< for the client, at once
        ExchangePtr exchange;  ///< to be sent on
    };
    /// Takes the answer for the client, with its id.
    using Deliver = std::function<void(Bytes answer)>;

    QueryGate(boost::asio::any_io_executor executor, const Clock& clock,
              const DnsProxyOptions& options, DnsProxyCallbacks callbacks);

    /// @param cut the message was longer than there was room for
    [[nodiscard]] Admission admit(BytesView message, bool cut, Transport transport,
                                  const PeerAddress& client, const PeerAddress& server);
    /// @return false if that is no answer to it: another one may come. Else `deliver` is called,
    ///         maybe later, but for when the proxy was stopped
    [[nodiscard]] bool take_answer(const ExchangePtr& exchange, Bytes answer, Deliver deliver);
    /// Another id for a query that was not sent on yet.
    void renew_id(Exchange& exchange);
    /// Ends a query without the server's answer. @return SERVFAIL
    [[nodiscard]] Bytes fail(const Exchange& exchange, DnsVerdict verdict, std::string reason);
    /// Nothing is delivered any more.
    void close() noexcept { closed_ = true; }
    [[nodiscard]] bool closed() const noexcept { return closed_; }

    DnsProxyCounters counters;
    const DnsProxyOptions& options() const noexcept { return options_; }
    [[nodiscard]] TimePoint now() const { return clock_.now(); }
    [[nodiscard]] const boost::asio::any_io_executor& executor() const noexcept {
        return executor_;
    }

  private:
    friend struct Exchange;
    struct Waiting;

    [[nodiscard]] std::uint16_t fresh_id();
    [[nodiscard]] bool has_room(EndpointId endpoint) const;
    Bytes refuse(BytesView message, const Query& query, const DnsQuestion& question,
                 const Decision& decision, std::string_view why);
    void tell_malformed(const DnsQuestion& question, std::string reason);
    void wait_until_learnt(const ExchangePtr& exchange, Answer answer, Bytes bytes,
                           Deliver deliver);
    void finish(const std::shared_ptr<Waiting>& waiting, bool late);
    void tell_answered(const Exchange& exchange, Answer answer);

    boost::asio::any_io_executor executor_;
    const Clock& clock_;
    DnsProxyOptions options_;
    DnsProxyCallbacks callbacks_;
    bool closed_ = false;
    std::unordered_map<EndpointId, std::size_t> outstanding_;
    std::array<std::uint8_t, 512> random_{};
    std::size_t random_left_ = 0;
};

}  // namespace mesh::serve::dns
