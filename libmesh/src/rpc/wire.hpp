// The text parts of gRPC over HTTP/2: timeouts, percent-escaped messages, statuses out of HTTP.
// Internal to rpc/. @source gRPC over HTTP/2 (PROTOCOL-HTTP2)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "rpc/status.hpp"
#include "runtime/clock.hpp"

namespace mesh::rpc::detail {

/// "100m" and the like: at most 8 digits and a unit of H M S m u n. @return nullopt when malformed
[[nodiscard]] std::optional<Duration> parse_timeout(std::string_view text) noexcept;
/// The shortest text that is not less than the duration; non-positive gives "0n".
[[nodiscard]] std::string format_timeout(Duration timeout);

/// grpc-message: bytes outside 0x20..0x7e, and '%', as %XX.
[[nodiscard]] std::string escape_message(std::string_view text);
/// The other way; escapes that are none stay as they are.
[[nodiscard]] std::string unescape_message(std::string_view text);

/// grpc-status: a decimal number. @return kUnknown for numbers that are no status, nullopt for no
/// number
[[nodiscard]] std::optional<StatusCode> parse_status_code(std::string_view text) noexcept;

/// What an HTTP status without grpc-status means.
[[nodiscard]] StatusCode code_of_http_status(int http_status) noexcept;
/// What a RST_STREAM code without grpc-status means.
[[nodiscard]] StatusCode code_of_reset(std::uint32_t http2_error) noexcept;

/// "application/grpc", or that with "+..." or ";..." behind it.
[[nodiscard]] bool is_grpc_content_type(std::string_view value) noexcept;

/// A name that a caller may put into metadata: lower case, digits, "-_.", and none that HTTP/2 or
/// gRPC owns.
[[nodiscard]] bool is_custom_header(std::string_view name) noexcept;

}  // namespace mesh::rpc::detail
