// UTF-8 as encoding/json sees it: well-formed sequences (RFC 3629), and U+FFFD for all else; and
// how text that a peer sent is shown to people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mesh::model {

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// The length of the well-formed sequence at p, or 0 if it is ill-formed. @param p below end
[[nodiscard]] inline std::size_t utf8_length(const char* p, const char* end) noexcept {
    const auto at = [&](int i) { return static_cast<unsigned char>(p[i]); };
    const auto continued = [&](int i) { return (at(i) & 0xc0) == 0x80; };
    const unsigned lead = at(0);
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    if (lead < 0xe0) return end - p >= 2 && continued(1) ? 2 : 0;
    if (lead < 0xf0) {
        if (end - p < 3 || !continued(1) || !continued(2)) return 0;
        if (lead == 0xe0 && at(1) < 0xa0) return 0;   // overlong
        if (lead == 0xed && at(1) >= 0xa0) return 0;  // a surrogate
        return 3;
    }
    if (end - p < 4 || !continued(1) || !continued(2) || !continued(3)) return 0;
    if (lead == 0xf0 && at(1) < 0x90) return 0;
    if (lead == 0xf4 && at(1) >= 0x90) return 0;  // above U+10FFFF
    return 4;
}

/// @param code_point a Unicode scalar value
inline void append_utf8(std::uint32_t code_point, std::string& out) {
    const auto tail = [](std::uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3f)); };
    if (code_point < 0x80) {
        out += static_cast<char>(code_point);
    } else if (code_point < 0x800) {
        out += static_cast<char>(0xc0 | (code_point >> 6));
        out += tail(code_point);
    } else if (code_point < 0x10000) {
        out += static_cast<char>(0xe0 | (code_point >> 12));
        out += tail(code_point >> 6);
        out += tail(code_point);
    } else {
        out += static_cast<char>(0xf0 | (code_point >> 18));
        out += tail(code_point >> 12);
        out += tail(code_point >> 6);
        out += tail(code_point);
    }
}

/// Text of a peer, made fit for log lines and JSON documents: well-formed UTF-8 without control
/// characters (U+0000-U+001F, U+007F-U+009F), each of which becomes '?'; each ill-formed byte
/// becomes U+FFFD. Applied to its own result it changes nothing but the cut.
/// @param limit in bytes of the result; longer text is cut between two characters and gets "..."
///        at its end, on top of the limit
/// @complexity O(limit)
[[nodiscard]] inline std::string printable(std::string_view text, std::size_t limit) {
    std::string out;
    const char* p = text.data();
    const char* const end = p + text.size();
    while (p != end) {
        const std::size_t length = utf8_length(p, end);
        std::string_view piece = length == 0 ? kReplacement : std::string_view(p, length);
        const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(piece[i]); };
        const bool control = length == 1   ? byte(0) < 0x20 || byte(0) == 0x7f
                             : length == 2 ? byte(0) == 0xc2 && byte(1) < 0xa0
                                           : false;
        if (control) piece = "?";
        if (out.size() + piece.size() > limit) return out.append("...");
        out += piece;
        p += length == 0 ? 1 : length;
    }
    return out;
}

}  // namespace mesh::model
