// Whether something answers: on a TCP port inside a namespace, on a Unix socket.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "model/ip.hpp"

namespace mesh::sandbox {

/// Whether a connection to the port is accepted, and with a path, whether a GET of it is answered
/// with 2xx or 3xx.
/// @param netns     name of the namespace to connect from
/// @param http_path "" = connect only
/// @param timeout   for all of it
[[nodiscard]] bool answers(const std::string& netns, const model::IpAddress& address,
                           std::uint16_t port, const std::string& http_path,
                           std::chrono::milliseconds timeout);

/// Whether somebody accepts connections on a Unix socket.
[[nodiscard]] bool unix_socket_answers(const std::string& path);

}  // namespace mesh::sandbox
