#include "sources/etcd/endpoint.hpp"

#include <algorithm>
#include <charconv>

namespace mesh::etcd {

namespace {
constexpr std::uint16_t kDefaultPort = 2379;

Error wrong(std::string_view text, std::string_view expected) {
    return invalid_argument("endpoint \"" + std::string(text) + "\": expected " +
                            std::string(expected));
}
}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text, bool default_tls) {
    Endpoint endpoint;
    endpoint.text = text;
    endpoint.tls = default_tls;
    std::string_view rest = text;
    if (const auto at = rest.find("://"); at != std::string_view::npos) {
        const auto scheme = rest.substr(0, at);
        if (scheme != "http" && scheme != "https")
            return wrong(text, "https://<host>:<port> or http://<host>:<port>");
        endpoint.tls = scheme == "https";
        rest.remove_prefix(at + 3);
    }
    if (rest.ends_with('/')) rest.remove_suffix(1);
    std::string_view port;
    if (rest.starts_with('[')) {
        const auto end = rest.find(']');
        if (end == std::string_view::npos) return wrong(text, "a ']' behind the IPv6 address");
        endpoint.host = rest.substr(1, end - 1);
        rest.remove_prefix(end + 1);
        if (!rest.empty() && rest.front() != ':') return wrong(text, "':' and a port behind ']'");
        if (!rest.empty()) port = rest.substr(1);
        if (!rest.empty() && port.empty()) return wrong(text, "a port from 1 to 65535");
    } else {
        const auto colon = rest.find(':');
        if (colon != std::string_view::npos && rest.find(':', colon + 1) != std::string_view::npos)
            return wrong(text, "an IPv6 address in brackets");
        endpoint.host = rest.substr(0, colon);
        if (colon != std::string_view::npos) {
            port = rest.substr(colon + 1);
            if (port.empty()) return wrong(text, "a port from 1 to 65535");
        }
    }
    const bool clean = std::none_of(endpoint.host.begin(), endpoint.host.end(), [](char c) {
        return static_cast<unsigned char>(c) <= 0x20 || c == '/' || c == '@' || c == '?' ||
               c == '#' || c == 0x7f;
    });
    if (endpoint.host.empty() || !clean) return wrong(text, "a host name or IP address");
    endpoint.port = kDefaultPort;
    if (!port.empty()) {
        unsigned number = 0;
        const auto [at, failure] = std::from_chars(port.data(), port.data() + port.size(), number);
        if (failure != std::errc() || at != port.data() + port.size() || number < 1 ||
            number > 65535)
            return wrong(text, "a port from 1 to 65535");
        endpoint.port = static_cast<std::uint16_t>(number);
    }
    return endpoint;
}

}  // namespace mesh::etcd
