// The head of an HTTP/1.1 message, parsed in place and strictly: what two parsers could read in two
// ways is refused, since a request that the proxy and the server understand differently passes a
// policy that was not meant for it ("request smuggling"). Nothing is allocated but the fields'
// list.
//
// @source RFC 9112 (messages), RFC 9110 §5 (fields), RFC 3986 (targets)
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::serve::l7 {

/// Why a message was refused. @see text_of, status_of
enum class Problem : std::uint8_t {
    kNone,
    kLineEnd,           ///< CR or LF that is no line end, or a NUL
    kRequestLine,       ///< not "METHOD target HTTP/1.x"
    kVersion,           ///< of HTTP: neither 1.0 nor 1.1
    kMethod,            ///< no token, or too long
    kTarget,            ///< neither a path nor an http URL, or a character that is none of a URL
    kFieldName,         ///< no token, or something between it and the colon
    kFieldValue,        ///< a control character
    kFolded,            ///< a field's value goes on in a second line
    kHost,              ///< missing, twice, malformed, or not the one of the target
    kContentLength,     ///< no number, or twice
    kTransferEncoding,  ///< anything but "chunked" once
    kBothLengths,       ///< Content-Length and Transfer-Encoding
    kConnectionOption,  ///< Connection names a field that says where the message ends
    kChunk,             ///< a chunk's size, extension or end
    kTrailer,           ///< a field behind the body that is malformed or may not be there
    kTooLarge,          ///< header bytes or fields
    kStatusLine,        ///< of a response
    kUnasked,           ///< a response to no request, or an upgrade that was not asked for
    kTimeout,           ///< a request did not come in time
    kHttp2,             ///< what HTTP/2 does not allow
};
/// One sentence for people; static.
[[nodiscard]] std::string_view text_of(Problem problem) noexcept;
/// What a client is answered: 400, 408, 431, 505, or 502 for what a server said.
[[nodiscard]] unsigned status_of(Problem problem) noexcept;

/// Views into the bytes that were parsed.
struct Field {
    std::string_view name;
    std::string_view value;  ///< without white space around it
};

enum class BodyKind : std::uint8_t { kNone, kLength, kChunked, kUntilClose };

struct HeadLimits {
    std::size_t max_bytes = 64 << 10;
    std::size_t max_fields = 128;
};

struct MessageHead {
    std::vector<Field> fields;  ///< kept between messages: no allocation for each
    bool http10 = false;
    BodyKind body = BodyKind::kNone;
    std::uint64_t length = 0;  ///< of the body if it is kLength
    /// The sender keeps the connection open behind this message.
    bool keep_alive = true;
};

struct RequestHead : MessageHead {
    std::string_view method;
    std::string_view target;  ///< as sent
    std::string_view path;    ///< with the query; of the target
    std::string_view host;    ///< as sent; empty: none
    /// The path has nothing in it that servers may resolve: escapes, "//", dot segments, ";", "\".
    bool plain_path = true;
    bool expects_continue = false;
    bool has_upgrade = false;     ///< there is an Upgrade field
    bool asks_websocket = false;  ///< it is "websocket", and Connection has "upgrade"
};

struct ResponseHead : MessageHead {
    unsigned status = 0;
};

/// Looks for the end of a head, also over several reads of it.
struct HeadEnd {
    /// Bytes of the head with its empty line; 0 = not there yet.
    std::size_t size = 0;
    Problem problem = Problem::kNone;
};
/// @param scanned in and out: bytes that earlier calls have seen; 0 at first
[[nodiscard]] HeadEnd find_head_end(std::string_view bytes, std::size_t& scanned) noexcept;

/// @param head all of it with its empty line, see find_head_end
[[nodiscard]] Problem parse_request(std::string_view head, const HeadLimits& limits,
                                    RequestHead& out);
/// @param to_head the request was HEAD: no body, whatever the fields say
[[nodiscard]] Problem parse_response(std::string_view head, const HeadLimits& limits, bool to_head,
                                     ResponseHead& out);

/// Checks what both versions of HTTP have, and finds path and plain_path. Refuses CONNECT's form.
/// @param host of the Host field or of :authority
[[nodiscard]] Problem read_target(std::string_view method, std::string_view target,
                                  std::string_view host, RequestHead& out);

[[nodiscard]] bool is_token(std::string_view text) noexcept;
[[nodiscard]] bool is_field_value(std::string_view text) noexcept;
/// An authority without user information: a name, an address, a port.
[[nodiscard]] bool is_authority(std::string_view text) noexcept;
/// Equal but for the case of ASCII letters.
[[nodiscard]] bool iequals(std::string_view a, std::string_view b) noexcept;
/// True if a comma-separated list has the token, in any case.
[[nodiscard]] bool has_token(std::string_view list, std::string_view token) noexcept;
/// Fields that may not come behind a body, since they say how to read the message.
[[nodiscard]] bool forbidden_in_trailer(std::string_view name) noexcept;

}  // namespace mesh::serve::l7
