// What the DNS proxy asks, and what it tells: questions, decisions, what was learnt, and one event
// per query for logs and the monitor.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "runtime/clock.hpp"
#include "serve/dns/dns_message.hpp"
#include "serve/dns/fqdn_cache.hpp"

namespace mesh::serve::dns {

enum class Transport : std::uint8_t { kUdp, kTcp };

struct PeerAddress {
    model::IpAddress address;
    std::uint16_t port = 0;
    /// "10.0.0.1:53", "[fd00::1]:53".
    [[nodiscard]] std::string to_string() const;
    friend auto operator<=>(const PeerAddress&, const PeerAddress&) = default;
};

struct DnsQuestion {
    Transport transport = Transport::kUdp;
    PeerAddress client;
    PeerAddress server;  ///< that the client sent it to
    std::string name;
    RecordType type = RecordType::kA;
};

struct Decision {
    bool allow = false;
    EndpointId endpoint = 0;  ///< whose question it is; 0 = nobody's
};
/// Whether a question may be asked: by the policy of the client's endpoint for that server, port
/// and name. Called on the proxy's executor; must not block.
using Decide = std::function<Decision(const DnsQuestion&)>;

/// Addresses of an allowed answer.
struct Learnt {
    EndpointId endpoint = 0;
    std::string name;
    std::vector<model::IpAddress> addresses;
    Duration ttl{};
};
/// The client gets the answer once `done` was called, from any thread: when what follows from it is
/// in force. @see DnsProxyOptions::max_answer_delay
using OnLearnt = std::function<void(const Learnt& learnt, std::function<void()> done)>;

enum class DnsVerdict : std::uint8_t {
    kAnswered,   ///< allowed, and the server's answer passed on
    kDenied,     ///< by policy
    kMalformed,  ///< no query that this proxy lets pass
    kOverload,   ///< a bound was met
    kTimeout,    ///< the server gave no answer
    kFailed,     ///< no way to the server, or the client went away
};
/// "answered", "denied", ...
[[nodiscard]] std::string_view to_string(DnsVerdict verdict) noexcept;

/// The end of one query.
struct DnsEvent {
    DnsVerdict verdict = DnsVerdict::kAnswered;
    EndpointId endpoint = 0;
    DnsQuestion question;              ///< of malformed ones: addresses only
    std::optional<ResponseCode> code;  ///< that the client got
    std::vector<model::IpAddress> addresses;
    std::uint32_t ttl = 0;  ///< seconds, with addresses
    Duration took{};
    std::string reason;  ///< where it was not answered
};
using OnDnsEvent = std::function<void(const DnsEvent&)>;

/// One line of an access log, without its end.
[[nodiscard]] std::string to_json(const DnsEvent& event, WallTime at);

}  // namespace mesh::serve::dns
