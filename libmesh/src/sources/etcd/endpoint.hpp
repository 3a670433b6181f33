// An etcd endpoint as configuration files write it.
#pragma once

#include <mesh/error.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace mesh::etcd {

struct Endpoint {
    bool tls = false;
    std::string host;  ///< name or IP address, without brackets
    std::uint16_t port = 0;
    std::string text;  ///< as given, for people

    friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

/// "https://host:port", "http://host:port" or "host:port"; IPv6 in brackets; port 2379 by default.
/// @param default_tls what a text without a scheme means
/// @errors kInvalidArgument names the text and what was expected
[[nodiscard]] Result<Endpoint> parse_endpoint(std::string_view text, bool default_tls);

}  // namespace mesh::etcd
