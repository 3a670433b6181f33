#include "rpc/wire.hpp"

#include <nghttp2/nghttp2.h>

#include <array>
#include <charconv>

namespace mesh::rpc::detail {

namespace {
struct Unit {
    char letter;
    std::int64_t nanoseconds;
};
constexpr std::array<Unit, 6> kUnits = {{{'n', 1},
                                         {'u', 1'000},
                                         {'m', 1'000'000},
                                         {'S', 1'000'000'000},
                                         {'M', 60'000'000'000},
                                         {'H', 3'600'000'000'000}}};
constexpr std::int64_t kMaxTimeoutDigits = 99'999'999;

int hex_value(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}
}  // namespace

std::optional<Duration> parse_timeout(std::string_view text) noexcept {
    if (text.size() < 2 || text.size() > 9) return std::nullopt;
    std::int64_t number = 0;
    const char* end = text.data() + text.size() - 1;
    const auto [at, failure] = std::from_chars(text.data(), end, number);
    if (failure != std::errc() || at != end || number < 0) return std::nullopt;
    for (const Unit& unit : kUnits) {
        if (unit.letter != text.back()) continue;
        // 99,999,999 hours overflow the clock's 292 years; nobody waits for either.
        if (number > Duration::max().count() / unit.nanoseconds) return Duration::max();
        return Duration(number * unit.nanoseconds);
    }
    return std::nullopt;
}

std::string format_timeout(Duration timeout) {
    const std::int64_t total = timeout.count();
    if (total <= 0) return "0n";
    for (const Unit& unit : kUnits) {
        const std::int64_t number =
            total / unit.nanoseconds + (total % unit.nanoseconds != 0 ? 1 : 0);
        if (number <= kMaxTimeoutDigits) return std::to_string(number) + unit.letter;
    }
    return std::to_string(kMaxTimeoutDigits) + 'H';
}

std::string escape_message(std::string_view text) {
    static constexpr std::string_view kHex = "0123456789ABCDEF";
    std::string out;
    out.reserve(text.size());
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte <= 0x7e && c != '%') {
            out.push_back(c);
        } else {
            out.push_back('%');
            out.push_back(kHex[byte >> 4U]);
            out.push_back(kHex[byte & 0xfU]);
        }
    }
    return out;
}

std::string unescape_message(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size()) {
            const int high = hex_value(text[i + 1]);
            const int low = hex_value(text[i + 2]);
            if (high >= 0 && low >= 0) {
                out.push_back(static_cast<char>(high * 16 + low));
                i += 2;
                continue;
            }
        }
        out.push_back(text[i]);
    }
    return out;
}

std::optional<StatusCode> parse_status_code(std::string_view text) noexcept {
    unsigned number = 0;
    const auto [at, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || at != text.data() + text.size()) return std::nullopt;
    if (failure != std::errc() || number > 16) return StatusCode::kUnknown;
    return static_cast<StatusCode>(number);
}

StatusCode code_of_http_status(int http_status) noexcept {
    switch (http_status) {
        case 400:
            return StatusCode::kInternal;
        case 401:
            return StatusCode::kUnauthenticated;
        case 403:
            return StatusCode::kPermissionDenied;
        case 404:
            return StatusCode::kUnimplemented;
        case 429:
        case 502:
        case 503:
        case 504:
            return StatusCode::kUnavailable;
        default:
            return StatusCode::kUnknown;
    }
}

StatusCode code_of_reset(std::uint32_t http2_error) noexcept {
    switch (http2_error) {
        case NGHTTP2_REFUSED_STREAM:
            return StatusCode::kUnavailable;
        case NGHTTP2_CANCEL:
            return StatusCode::kCancelled;
        case NGHTTP2_ENHANCE_YOUR_CALM:
            return StatusCode::kResourceExhausted;
        case NGHTTP2_INADEQUATE_SECURITY:
            return StatusCode::kPermissionDenied;
        default:
            return StatusCode::kInternal;
    }
}

bool is_grpc_content_type(std::string_view value) noexcept {
    constexpr std::string_view kBase = "application/grpc";
    if (!value.starts_with(kBase)) return false;
    return value.size() == kBase.size() || value[kBase.size()] == '+' || value[kBase.size()] == ';';
}

bool is_custom_header(std::string_view name) noexcept {
    if (name.empty() || name.starts_with("grpc-") || name == "te" || name == "content-type" ||
        name == "connection" || name == "transfer-encoding" || name == "user-agent")
        return false;
    for (const char c : name) {
        const bool ok =
            (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
        if (!ok) return false;
    }
    return true;
}

}  // namespace mesh::rpc::detail
