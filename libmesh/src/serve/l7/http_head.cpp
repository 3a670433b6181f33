#include "serve/l7/http_head.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

namespace mesh::serve::l7 {

namespace {

constexpr std::uint8_t kTokenBit = 1;
constexpr std::uint8_t kValueBit = 2;
constexpr std::uint8_t kTargetBit = 4;
constexpr std::uint8_t kHostBit = 8;
constexpr std::uint8_t kResolvedBit = 16;  // a path with it may be resolved by a server
constexpr std::size_t kMaxMethod = 32;

constexpr bool is_alnum(unsigned c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

constexpr std::array<std::uint8_t, 256> make_classes() {
    std::array<std::uint8_t, 256> out{};
    const auto mark = [&](std::string_view text, std::uint8_t bit) {
        for (const char c : text) {
            auto& of = out[static_cast<unsigned char>(c)];
            of = static_cast<std::uint8_t>(of | bit);
        }
    };
    for (unsigned c = 0; c < 256; ++c) {
        std::uint8_t bits = 0;
        if (is_alnum(c)) bits |= kTokenBit | kHostBit;
        if (c == '\t' || (c >= 0x20 && c != 0x7f)) bits |= kValueBit;
        if (c > 0x20 && c < 0x7f && c != '#') bits |= kTargetBit;
        out[c] = bits;
    }
    mark("!#$%&'*+-.^_`|~", kTokenBit);
    mark("-._~!$&'()*+,;=%:[]", kHostBit);
    mark("%;\\", kResolvedBit);
    return out;
}
constexpr std::array<std::uint8_t, 256> kClasses = make_classes();

constexpr std::uint8_t class_of(char c) noexcept {
    return kClasses[static_cast<unsigned char>(c)];
}

bool all_of_class(std::string_view text, std::uint8_t bit) noexcept {
    std::uint8_t all = bit;
    for (const char c : text) all = static_cast<std::uint8_t>(all & class_of(c));
    return all != 0;
}

constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
}

std::string_view trimmed(std::string_view text) noexcept {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
}

/// The next element of a comma-separated list.
std::string_view next_element(std::string_view& list) noexcept {
    const auto comma = list.find(',');
    const std::string_view element = trimmed(list.substr(0, comma));
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
    return element;
}

/// What the fields say about where a message ends, gathered in one pass.
struct Framing {
    unsigned hosts = 0, lengths = 0, encodings = 0;
    bool chunked = false;
    bool close = false, keep_alive = false, upgrade = false;
};

Problem read_length(std::string_view value, std::uint64_t& out) noexcept {
    // At most 18 digits: no overflow, and no body is longer than that.
    if (value.empty() || value.size() > 18) return Problem::kContentLength;
    std::uint64_t n = 0;
    for (const char c : value) {
        if (c < '0' || c > '9') return Problem::kContentLength;
        n = n * 10 + static_cast<std::uint64_t>(c - '0');
    }
    out = n;
    return Problem::kNone;
}

Problem read_connection(std::string_view value, Framing& framing) noexcept {
    while (!value.empty()) {
        const std::string_view option = next_element(value);
        if (iequals(option, "close")) {
            framing.close = true;
        } else if (iequals(option, "keep-alive")) {
            framing.keep_alive = true;
        } else if (iequals(option, "upgrade")) {
            framing.upgrade = true;
        } else if (iequals(option, "content-length") || iequals(option, "transfer-encoding") ||
                   iequals(option, "host")) {
            return Problem::kConnectionOption;
        } else if (!option.empty() && !is_token(option)) {
            return Problem::kFieldValue;
        }
    }
    return Problem::kNone;
}

/// Fields that both requests and responses have.
Problem note_common(const Field& field, Framing& framing, MessageHead& out) noexcept {
    switch (field.name.size()) {
        case 10:
            if (iequals(field.name, "connection")) return read_connection(field.value, framing);
            break;
        case 14:
            if (!iequals(field.name, "content-length")) break;
            if (++framing.lengths > 1) return Problem::kContentLength;
            return read_length(field.value, out.length);
        case 17:
            if (!iequals(field.name, "transfer-encoding")) break;
            if (++framing.encodings > 1 || !iequals(field.value, "chunked"))
                return Problem::kTransferEncoding;
            framing.chunked = true;
            break;
        default:
            break;
    }
    return Problem::kNone;
}

/// A line up to its CRLF, which is known to be there.
std::string_view next_line(std::string_view& rest) noexcept {
    const auto* end = static_cast<const char*>(std::memchr(rest.data(), '\n', rest.size()));
    const auto size = static_cast<std::size_t>(end - rest.data());
    const std::string_view line = rest.substr(0, size - 1);
    rest.remove_prefix(size + 1);
    return line;
}

template <class Note>
Problem parse_fields(std::string_view rest, const HeadLimits& limits, MessageHead& out,
                     const Note& note) {
    out.fields.clear();
    while (rest.size() > 2) {
        const std::string_view line = next_line(rest);
        if (line.front() == ' ' || line.front() == '\t') return Problem::kFolded;
        if (out.fields.size() >= limits.max_fields) return Problem::kTooLarge;
        std::size_t colon = 0;
        while (colon < line.size() && (class_of(line[colon]) & kTokenBit) != 0) ++colon;
        if (colon == 0 || colon == line.size() || line[colon] != ':') return Problem::kFieldName;
        const std::string_view value = line.substr(colon + 1);
        if (!all_of_class(value, kValueBit)) return Problem::kFieldValue;
        const Field& field = out.fields.emplace_back(Field{line.substr(0, colon), trimmed(value)});
        if (const Problem problem = note(field); problem != Problem::kNone) return problem;
    }
    return Problem::kNone;
}

Problem check_lengths(const Framing& framing, MessageHead& out) noexcept {
    if (framing.encodings > 0) {
        if (framing.lengths > 0) return Problem::kBothLengths;
        // HTTP/1.0 knows no transfer codings: a server of it may take the chunks for the body.
        if (out.http10) return Problem::kTransferEncoding;
        out.body = BodyKind::kChunked;
    } else if (framing.lengths > 0) {
        out.body = out.length > 0 ? BodyKind::kLength : BodyKind::kNone;
    }
    out.keep_alive = !framing.close && (!out.http10 || framing.keep_alive);
    return Problem::kNone;
}

/// Checks the path of a target, and finds out whether servers may resolve it.
Problem read_path(std::string_view path, RequestHead& out) noexcept {
    if (path.empty() || path.front() != '/') return Problem::kTarget;
    std::uint8_t all = kTargetBit;
    std::uint8_t any = 0;
    bool dots = false;
    std::size_t i = 0;
    for (; i < path.size() && path[i] != '?'; ++i) {
        const std::uint8_t bits = class_of(path[i]);
        all = static_cast<std::uint8_t>(all & bits);
        any = static_cast<std::uint8_t>(any | bits);
        dots |= path[i] == '/' && i + 1 < path.size() && (path[i + 1] == '/' || path[i + 1] == '.');
    }
    if (all == 0 || !all_of_class(path.substr(i), kTargetBit)) return Problem::kTarget;
    out.path = path;
    out.plain_path = !dots && (any & kResolvedBit) == 0;
    return Problem::kNone;
}

}  // namespace

std::string_view text_of(Problem problem) noexcept {
    switch (problem) {
        case Problem::kNone:
            return "";
        case Problem::kLineEnd:
            return "a line does not end with CR LF";
        case Problem::kRequestLine:
            return "not an HTTP request line";
        case Problem::kVersion:
            return "neither HTTP/1.0 nor HTTP/1.1";
        case Problem::kMethod:
            return "the method is no token";
        case Problem::kTarget:
            return "the target is no path and no http URL";
        case Problem::kFieldName:
            return "a header's name is no token";
        case Problem::kFieldValue:
            return "a header's value has a character that it may not have";
        case Problem::kFolded:
            return "a header goes on in a second line";
        case Problem::kHost:
            return "Host is missing, repeated, malformed, or not that of the target";
        case Problem::kContentLength:
            return "Content-Length is no number, or repeated";
        case Problem::kTransferEncoding:
            return "Transfer-Encoding is not \"chunked\"";
        case Problem::kBothLengths:
            return "Content-Length and Transfer-Encoding";
        case Problem::kConnectionOption:
            return "Connection names a header that may not be dropped";
        case Problem::kChunk:
            return "a chunk is malformed";
        case Problem::kTrailer:
            return "a trailer is malformed, or may not be one";
        case Problem::kTooLarge:
            return "the header is too large";
        case Problem::kStatusLine:
            return "not an HTTP status line";
        case Problem::kUnasked:
            return "a response that nothing asked for";
        case Problem::kTimeout:
            return "the request did not come in time";
        case Problem::kHttp2:
            return "HTTP/2 does not allow it";
    }
    return "";
}

unsigned status_of(Problem problem) noexcept {
    switch (problem) {
        case Problem::kVersion:
            return 505;
        case Problem::kTooLarge:
            return 431;
        case Problem::kTimeout:
            return 408;
        case Problem::kStatusLine:
        case Problem::kUnasked:
            return 502;
        default:
            return 400;
    }
}

bool is_token(std::string_view text) noexcept {
    return !text.empty() && all_of_class(text, kTokenBit);
}

bool is_field_value(std::string_view text) noexcept {
    return all_of_class(text, kValueBit);
}

bool iequals(std::string_view a, std::string_view b) noexcept {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (lower(a[i]) != lower(b[i])) return false;
    }
    return true;
}

bool has_token(std::string_view list, std::string_view token) noexcept {
    while (!list.empty()) {
        if (iequals(next_element(list), token)) return true;
    }
    return false;
}

bool forbidden_in_trailer(std::string_view name) noexcept {
    static constexpr std::array<std::string_view, 11> kNames{
        "transfer-encoding", "content-length", "host",   "connection", "upgrade",      "te",
        "trailer",           "content-type",   "expect", "keep-alive", "authorization"};
    return std::ranges::any_of(kNames, [&](std::string_view n) { return iequals(n, name); });
}

bool is_authority(std::string_view text) noexcept {
    if (!all_of_class(text, kHostBit)) return false;
    std::string_view port;
    if (text.front() == '[') {
        const auto end = text.find(']');
        if (end == std::string_view::npos) return false;
        const std::string_view address = text.substr(1, end - 1);
        if (std::ranges::count(address, ':') < 2 ||
            address.find_first_not_of("0123456789abcdefABCDEF:.") != std::string_view::npos) {
            return false;
        }
        port = text.substr(end + 1);
        if (!port.empty() && port.front() != ':') return false;
    } else {
        if (text.find_first_of("[]") != std::string_view::npos) return false;
        const auto colon = text.find(':');
        if (colon == 0) return false;
        port = colon == std::string_view::npos ? std::string_view{} : text.substr(colon);
    }
    if (port.empty()) return true;
    port.remove_prefix(1);
    return port.size() <= 5 &&
           std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; });
}

HeadEnd find_head_end(std::string_view bytes, std::size_t& scanned) noexcept {
    // `scanned` is where the line begins that has no end yet.
    while (scanned < bytes.size()) {
        const auto* end = static_cast<const char*>(
            std::memchr(bytes.data() + scanned, '\n', bytes.size() - scanned));
        if (end == nullptr) break;
        const auto at = static_cast<std::size_t>(end - bytes.data());
        if (at == scanned || bytes[at - 1] != '\r') return {0, Problem::kLineEnd};
        if (at - 1 == scanned) return {at + 1, Problem::kNone};
        scanned = at + 1;
    }
    return {};
}

Problem read_target(std::string_view method, std::string_view target, std::string_view host,
                    RequestHead& out) {
    out.method = method;
    out.target = target;
    out.host = host;
    out.path = {};
    if (method.size() > kMaxMethod || !is_token(method)) return Problem::kMethod;
    if (!host.empty() && !is_authority(host)) return Problem::kHost;
    if (target == "*") {
        out.path = target;
        out.plain_path = true;
        return method == "OPTIONS" ? Problem::kNone : Problem::kTarget;
    }
    if (!target.empty() && target.front() == '/') return read_path(target, out);
    // CONNECT's form: nothing is tunnelled to where the client says.
    if (method == "CONNECT") {
        if (!is_authority(target)) return Problem::kTarget;
        out.path = target;
        return Problem::kNone;
    }
    constexpr std::string_view kScheme = "http://";
    if (!iequals(target.substr(0, kScheme.size()), kScheme)) return Problem::kTarget;
    const std::string_view rest = target.substr(kScheme.size());
    const auto slash = std::min(rest.find('/'), rest.size());
    const std::string_view authority = rest.substr(0, slash);
    if (authority.empty() || !is_authority(authority)) return Problem::kTarget;
    if (!iequals(authority, host)) return Problem::kHost;
    return read_path(rest.substr(slash), out);
}

Problem parse_request(std::string_view head, const HeadLimits& limits, RequestHead& out) {
    if (head.size() > limits.max_bytes) return Problem::kTooLarge;
    std::string_view rest = head;
    const std::string_view line = next_line(rest);
    const auto first = line.find(' ');
    const auto last = line.rfind(' ');
    if (first == std::string_view::npos || first == last) return Problem::kRequestLine;
    const std::string_view version = line.substr(last + 1);
    if (version != "HTTP/1.1" && version != "HTTP/1.0")
        return version.starts_with("HTTP/") && version.size() == 8 ? Problem::kVersion
                                                                   : Problem::kRequestLine;
    out.http10 = version.back() == '0';
    out.body = BodyKind::kNone;
    out.length = 0;
    out.expects_continue = out.has_upgrade = out.asks_websocket = false;
    out.plain_path = true;
    Framing framing;
    std::string_view host;
    bool websocket = false;
    const Problem problem = parse_fields(rest, limits, out, [&](const Field& field) {
        switch (field.name.size()) {
            case 4:
                if (!iequals(field.name, "host")) break;
                host = field.value;
                if (++framing.hosts > 1) return Problem::kHost;
                break;
            case 6:
                if (iequals(field.name, "expect"))
                    out.expects_continue = iequals(field.value, "100-continue");
                break;
            case 7:
                if (!iequals(field.name, "upgrade")) break;
                websocket = !out.has_upgrade && iequals(field.value, "websocket");
                out.has_upgrade = true;
                break;
            default:
                return note_common(field, framing, out);
        }
        return Problem::kNone;
    });
    if (problem != Problem::kNone) return problem;
    if (framing.hosts == 0 && !out.http10) return Problem::kHost;
    out.asks_websocket = websocket && framing.upgrade && !out.http10;
    const Problem target =
        read_target(line.substr(0, first), line.substr(first + 1, last - first - 1), host, out);
    if (target != Problem::kNone) return target;
    return check_lengths(framing, out);
}

Problem parse_response(std::string_view head, const HeadLimits& limits, bool to_head,
                       ResponseHead& out) {
    if (head.size() > limits.max_bytes) return Problem::kTooLarge;
    std::string_view rest = head;
    const std::string_view line = next_line(rest);
    const auto digit = [&](std::size_t i) { return line[i] >= '0' && line[i] <= '9'; };
    if (line.size() < 12 || !(line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.0 ")) ||
        !digit(9) || !digit(10) || !digit(11) || line[9] == '0' ||
        (line.size() > 12 && line[12] != ' ') || !is_field_value(line)) {
        return Problem::kStatusLine;
    }
    out.http10 = line[7] == '0';
    out.status =
        static_cast<unsigned>((line[9] - '0') * 100 + (line[10] - '0') * 10 + line[11] - '0');
    out.body = BodyKind::kUntilClose;
    out.length = 0;
    Framing framing;
    const Problem problem = parse_fields(
        rest, limits, out, [&](const Field& field) { return note_common(field, framing, out); });
    if (problem != Problem::kNone) return problem;
    if (const Problem lengths = check_lengths(framing, out); lengths != Problem::kNone)
        return lengths;
    if (to_head || out.status < 200 || out.status == 204 || out.status == 304) {
        out.body = BodyKind::kNone;
    } else if (out.body == BodyKind::kUntilClose) {
        out.keep_alive = false;
    }
    return Problem::kNone;
}

}  // namespace mesh::serve::l7
