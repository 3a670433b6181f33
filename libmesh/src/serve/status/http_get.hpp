// The client side of the status server: one blocking GET over a Unix socket, for command lines.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

namespace mesh::serve {

struct HttpReply {
    unsigned status = 0;
    std::string content_type;
    std::string body;
};

/// GETs `target` from the HTTP server that listens on a Unix socket.
/// @param target path and query as sent, e.g. "/v1/status?verbose=1"; begins with "/"
/// @param timeout for all of it: connect, send, receive
/// @param max_body_bytes a larger answer is an error
/// @param body sent with the request, where a query would be too long
/// @return the reply, whatever its status
/// @errors kNotFound: no such socket file; kUnavailable: nobody listens or the connection broke;
///   kTimeout; kCapacity: answer too large; kCorrupt: not HTTP; kPermission: no right to the
///   socket; kInvalidArgument: bad target or a path too long for a socket
/// @thread any thread; blocks it
[[nodiscard]] Result<HttpReply> http_get(const std::filesystem::path& unix_socket,
                                         std::string_view target, std::chrono::milliseconds timeout,
                                         std::size_t max_body_bytes = 64 * 1024 * 1024,
                                         std::string_view body = {});

}  // namespace mesh::serve
