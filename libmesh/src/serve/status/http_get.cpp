#include "serve/status/http_get.hpp"

#include <fmt/format.h>
#include <sys/un.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <optional>

namespace mesh::serve {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

namespace {

Error error_of(const boost::system::error_code& ec, const std::filesystem::path& socket,
               std::string_view step) {
    const std::string text = fmt::format("{}: {}: {}", socket.native(), step, ec.message());
    if (ec == beast::error::timeout) return {Errc::kTimeout, text};
    if (ec == boost::system::errc::no_such_file_or_directory) return {Errc::kNotFound, text};
    if (ec == boost::system::errc::permission_denied) return {Errc::kPermission, text};
    if (ec == http::error::body_limit || ec == http::error::header_limit) {
        return {Errc::kCapacity, text};
    }
    const bool broken = ec == http::error::end_of_stream || ec == http::error::partial_message;
    const bool of_http =
        ec.category() == http::make_error_code(http::error::end_of_stream).category();
    return {of_http && !broken ? Errc::kCorrupt : Errc::kUnavailable, text};
}

}  // namespace

Result<HttpReply> http_get(const std::filesystem::path& unix_socket, std::string_view target,
                           std::chrono::milliseconds timeout, std::size_t max_body_bytes,
                           std::string_view body) {
    const bool bad_byte = std::ranges::any_of(target, [](char c) { return c <= ' ' || c == 0x7f; });
    if (!target.starts_with('/') || bad_byte) {
        return invalid_argument(
            fmt::format("target \"{}\": expected a path without blanks or controls", target));
    }
    if (unix_socket.native().size() >= sizeof(sockaddr_un{}.sun_path)) {
        return invalid_argument(
            fmt::format("{}: too long for a socket's path", unix_socket.native()));
    }
    asio::io_context context(1);
    beast::basic_stream<asio::local::stream_protocol> stream(context);
    // One deadline for all steps: a server that drips bytes gains no time by it.
    stream.expires_after(timeout);
    boost::system::error_code ec;
    const auto run = [&] {
        context.restart();
        context.run();
    };
    const auto keep = [&ec](const boost::system::error_code& result, auto&&...) { ec = result; };

    stream.async_connect(asio::local::stream_protocol::endpoint(unix_socket.native()), keep);
    run();
    if (ec) return error_of(ec, unix_socket, "connect");

    http::request<http::string_body> request(http::verb::get, {target.data(), target.size()}, 11);
    request.set(http::field::host, "localhost");
    request.set(http::field::connection, "close");
    if (!body.empty()) {
        request.body() = body;
        request.prepare_payload();
    }
    http::async_write(stream, request, keep);
    run();
    if (ec) return error_of(ec, unix_socket, "send");

    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.body_limit(max_body_bytes);
    http::async_read(stream, buffer, parser, keep);
    run();
    if (ec) return error_of(ec, unix_socket, "receive");

    auto response = parser.release();
    const auto type = response[http::field::content_type];
    return HttpReply{response.result_int(), std::string(type.data(), type.size()),
                     std::move(response.body())};
}

}  // namespace mesh::serve
