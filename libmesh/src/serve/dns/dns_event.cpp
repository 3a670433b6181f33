#include "serve/dns/dns_event.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>

namespace mesh::serve::dns {

namespace json = boost::json;

std::string PeerAddress::to_string() const {
    const std::string text = address.to_string();
    return fmt::format(fmt::runtime(address.is_v4() ? "{}:{}" : "[{}]:{}"), text, port);
}

std::string_view to_string(DnsVerdict verdict) noexcept {
    switch (verdict) {
        case DnsVerdict::kAnswered:
            return "answered";
        case DnsVerdict::kDenied:
            return "denied";
        case DnsVerdict::kMalformed:
            return "malformed";
        case DnsVerdict::kOverload:
            return "overload";
        case DnsVerdict::kTimeout:
            return "timeout";
        case DnsVerdict::kFailed:
            return "failed";
    }
    return "unknown";
}

std::string to_json(const DnsEvent& event, WallTime at) {
    const auto milliseconds = std::chrono::floor<std::chrono::milliseconds>(at);
    const auto seconds = std::chrono::floor<std::chrono::seconds>(milliseconds);
    const DnsQuestion& question = event.question;
    json::object out;
    out["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                              fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)),
                              (milliseconds - seconds).count());
    out["type"] = "dns";
    out["verdict"] = to_string(event.verdict);
    out["endpoint"] = event.endpoint;
    out["protocol"] = question.transport == Transport::kUdp ? "UDP" : "TCP";
    out["client"] = question.client.to_string();
    out["server"] = question.server.to_string();
    if (event.verdict != DnsVerdict::kMalformed) {
        out["name"] = question.name.empty() ? "." : question.name;
        out["query_type"] = to_string(question.type);
    }
    if (event.code) out["rcode"] = to_string(*event.code);
    if (!event.addresses.empty()) {
        json::array addresses;
        for (const auto& address : event.addresses) addresses.emplace_back(address.to_string());
        out["addresses"] = std::move(addresses);
        out["ttl"] = event.ttl;
    }
    out["milliseconds"] = static_cast<double>(event.took.count()) / 1e6;
    if (!event.reason.empty()) out["reason"] = event.reason;
    return json::serialize(out);
}

}  // namespace mesh::serve::dns
