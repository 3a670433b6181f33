#include "model/json_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>

#include "model/base64.hpp"
#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::size_t kMaxNamedKey = 256;
constexpr std::size_t kMaxExcerpt = 40;

constexpr std::uint64_t repeat(std::uint8_t byte) noexcept {
    return std::uint64_t{0x0101010101010101} * byte;
}

/// The first byte that is a quote, a backslash, a control character or not ASCII; or `end`.
const char* find_special(const char* p, const char* end) noexcept {
    static_assert(std::endian::native == std::endian::little);
    while (end - p >= 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, p, 8);
        const std::uint64_t quote = word ^ repeat('"');
        const std::uint64_t slash = word ^ repeat('\\');
        const std::uint64_t found = ((word - repeat(0x20)) & ~word) |
                                    ((quote - repeat(1)) & ~quote) |
                                    ((slash - repeat(1)) & ~slash) | word;
        if (const std::uint64_t high = found & repeat(0x80); high != 0) {
            return p + std::countr_zero(high) / 8;
        }
        p += 8;
    }
    while (p != end && *p != '"' && *p != '\\' && static_cast<unsigned char>(*p) >= 0x20 &&
           static_cast<unsigned char>(*p) < 0x80) {
        ++p;
    }
    return p;
}

/// Go's foldName for names of ours, which are ASCII: the long s and the Kelvin sign fold, too.
bool equal_folded(std::string_view ascii, std::string_view name) noexcept {
    std::size_t at = 0;
    for (const char c : ascii) {
        const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
        if (at >= name.size()) return false;
        const char n = name[at];
        const char n_lower = n >= 'A' && n <= 'Z' ? static_cast<char>(n + 32) : n;
        if (n_lower == lower) {
            ++at;
        } else if (lower == 's' && name.substr(at, 2) == "\u017f") {
            at += 2;
        } else if (lower == 'k' && name.substr(at, 3) == "\u212a") {
            at += 3;
        } else {
            return false;
        }
    }
    return at == name.size();
}

bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

int hex_digit(char c) noexcept {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/// The value of \uXXXX at p, or -1 if there is none.
int unicode_escape(const char* p, const char* end) noexcept {
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') return -1;
    int value = 0;
    for (int i = 2; i < 6; ++i) {
        const int digit = hex_digit(p[i]);
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

}  // namespace

int find_field(std::span<const std::string_view> names, std::string_view name,
               std::size_t hint) noexcept {
    if (hint < names.size() && names[hint] == name) return static_cast<int>(hint);
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (names[i] == name) return static_cast<int>(i);
    }
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (equal_folded(names[i], name)) return static_cast<int>(i);
    }
    return -1;
}

// ---- errors ----

bool JsonReader::note(std::string text) {
    if (error_.empty()) error_ = std::move(text);
    return false;
}

std::string JsonReader::where() const {
    std::string text = printable(key_, kMaxNamedKey);
    if (path_size_ == 0) return text;
    text += ": field ";
    for (std::size_t i = 0; i < std::min(path_size_, kPathDepth); ++i) {
        if (path_[i].name.data() == nullptr) {
            text += fmt::format("[{}]", path_[i].index);
        } else {
            if (i != 0) text += '.';
            text += printable(path_[i].name, kMaxExcerpt);
        }
    }
    return text;
}

bool JsonReader::refuse(std::string_view expected, std::string_view got) {
    return note(
        fmt::format("{}: expected {}, got {}", where(), expected, printable(got, kMaxExcerpt)));
}

bool JsonReader::syntax_error(std::string_view expected) {
    const std::string got =
        at_ == end_
            ? "the end of the value"
            : fmt::format("'{}'", printable({at_, std::max<std::size_t>(utf8_length(at_, end_), 1)},
                                            kMaxExcerpt));
    return note(fmt::format("{}: not JSON: expected {} at byte {}, got {}", where(), expected,
                            at_ - begin_, got));
}

std::string_view JsonReader::value_excerpt() {
    const char* from = at_;
    // What cannot be passed over is a syntax error, which is the better thing to say.
    if (!skip()) return {};
    return {from, static_cast<std::size_t>(at_ - from)};
}

bool JsonReader::type_error(std::string_view expected) {
    skip_space();
    const std::string_view got = value_excerpt();
    return error_.empty() ? refuse(expected, got) : false;
}

// ---- structure ----

bool JsonReader::finish() {
    skip_space();
    return at_ == end_ ? true : syntax_error("the end of the value");
}

bool JsonReader::open(char bracket, std::string_view expected) {
    if (peek() != bracket) return type_error(expected);
    ++at_;
    if (++depth_ > kMaxDepth) return refuse("at most 10000 levels of nesting", "more");
    return true;
}

bool JsonReader::next_entry(char close, bool first, bool& done) {
    const char c = peek();
    if (c == close && first) {
        ++at_;
        done = true;
        return true;
    }
    if (first) return true;
    if (c == close) {
        ++at_;
        done = true;
        return true;
    }
    if (c != ',') return syntax_error(close == '}' ? "',' or '}'" : "',' or ']'");
    ++at_;
    return true;
}

bool JsonReader::entry_name(std::string_view& name, std::string_view& raw) {
    if (peek() != '"') return syntax_error("a name in double quotes");
    const char* from = at_ + 1;
    if (!scan_string(name, name_scratch_)) return false;
    raw = {from, static_cast<std::size_t>(at_ - 1 - from)};
    if (peek() != ':') return syntax_error("':'");
    ++at_;
    return true;
}

// ---- strings ----

bool JsonReader::scan_string(std::string_view& out, std::string& scratch) {
    const char* from = ++at_;  // past the opening quote
    for (;;) {
        at_ = find_special(at_, end_);
        if (at_ == end_) return syntax_error("a closing '\"'");
        if (*at_ == '"') break;
        if (*at_ == '\\') {
            if (!unescape(from, scratch)) return false;
            out = scratch;
            return true;
        }
        if (static_cast<unsigned char>(*at_) < 0x20) {
            return syntax_error("no control character in a string");
        }
        const std::size_t length = utf8_length(at_, end_);
        if (length == 0) {
            if (!unescape(from, scratch)) return false;
            out = scratch;
            return true;
        }
        at_ += length;
    }
    out = {from, static_cast<std::size_t>(at_ - from)};
    ++at_;
    return true;
}

bool JsonReader::unescape(const char* from, std::string& scratch) {
    scratch.assign(from, at_);
    for (;;) {
        const char* plain = at_;
        at_ = find_special(at_, end_);
        scratch.append(plain, at_);
        if (at_ == end_) return syntax_error("a closing '\"'");
        if (*at_ == '"') {
            ++at_;
            return true;
        }
        if (*at_ == '\\') {
            if (!unescape_one(at_, scratch)) return false;
        } else if (static_cast<unsigned char>(*at_) < 0x20) {
            return syntax_error("no control character in a string");
        } else if (const std::size_t length = utf8_length(at_, end_); length != 0) {
            scratch.append(at_, length);
            at_ += length;
        } else {
            scratch += kReplacement;
            ++at_;
        }
    }
}

bool JsonReader::unescape_one(const char*& p, std::string& out) {
    const char kind = end_ - p < 2 ? '\0' : p[1];
    switch (kind) {
        case '"':
        case '\\':
        case '/':
            out += kind;
            break;
        case 'b':
            out += '\b';
            break;
        case 'f':
            out += '\f';
            break;
        case 'n':
            out += '\n';
            break;
        case 'r':
            out += '\r';
            break;
        case 't':
            out += '\t';
            break;
        case 'u': {
            const int first = unicode_escape(p, end_);
            if (first < 0) return syntax_error("four hexadecimal digits after \\u");
            p += 6;
            if (first < 0xd800 || first > 0xdfff) {
                append_utf8(static_cast<std::uint32_t>(first), out);
                return true;
            }
            const int second = unicode_escape(p, end_);
            if (first < 0xdc00 && second >= 0xdc00 && second <= 0xdfff) {
                p += 6;
                append_utf8(static_cast<std::uint32_t>(0x10000 + ((first - 0xd800) << 10) +
                                                       (second - 0xdc00)),
                            out);
            } else {
                out += kReplacement;  // a lone surrogate
            }
            return true;
        }
        default:
            return syntax_error("an escape of JSON");
    }
    p += 2;
    return true;
}

bool JsonReader::read_view(std::string_view& out, std::string_view expected) {
    if (peek() != '"') return type_error(expected);
    return scan_string(out, value_scratch_);
}

bool JsonReader::read(std::string& out) {
    if (take_null()) return true;
    std::string_view view;
    if (!read_view(view)) return false;
    out.assign(view);
    return true;
}

bool JsonReader::read(Text& out) {
    if (take_null()) return true;
    std::string_view view;
    if (!read_view(view)) return false;
    out = Text(view);
    return true;
}

// ---- numbers and words ----

bool JsonReader::take_null() {
    if (peek() != 'n' || end_ - at_ < 4 || std::memcmp(at_, "null", 4) != 0) return false;
    at_ += 4;
    return true;
}

bool JsonReader::scan_word(std::string_view word) {
    const auto left = static_cast<std::size_t>(end_ - at_);
    if (left < word.size() || std::string_view(at_, word.size()) != word) {
        return syntax_error("a value");
    }
    at_ += word.size();
    return true;
}

bool JsonReader::read(bool& out) {
    const char c = peek();
    if (c == 't') {
        if (!scan_word("true")) return false;
        out = true;
        return true;
    }
    if (c == 'f') {
        if (!scan_word("false")) return false;
        out = false;
        return true;
    }
    return take_null() ? true : type_error("true or false");
}

bool JsonReader::scan_number(std::string_view& literal) {
    const char* from = at_;
    const auto digits = [&] {
        const char* start = at_;
        while (at_ != end_ && is_digit(*at_)) ++at_;
        return at_ != start;
    };
    if (at_ != end_ && *at_ == '-') ++at_;
    if (at_ != end_ && *at_ == '0') {
        ++at_;
    } else if (!digits()) {
        return syntax_error("a digit");
    }
    if (at_ != end_ && *at_ == '.') {
        ++at_;
        if (!digits()) return syntax_error("a digit");
    }
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
        ++at_;
        if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
        if (!digits()) return syntax_error("a digit");
    }
    literal = {from, static_cast<std::size_t>(at_ - from)};
    return true;
}

bool JsonReader::read_integer(std::uint32_t& out, std::uint32_t limit, bool& is_null) {
    const char c = peek();
    if (!is_digit(c)) {
        if (take_null()) {
            is_null = true;
            return true;
        }
        return type_error(fmt::format("an integer 0..{}", limit));
    }
    std::string_view literal;
    if (!scan_number(literal)) return false;
    const auto [stop, failure] =
        std::from_chars(literal.data(), literal.data() + literal.size(), out);
    if (failure != std::errc{} || stop != literal.data() + literal.size() || out > limit) {
        return refuse(fmt::format("an integer 0..{}", limit), literal);
    }
    return true;
}

bool JsonReader::read(std::int32_t& out) {
    constexpr std::string_view kExpected = "an integer -2147483648..2147483647";
    const char c = peek();
    if (c != '-' && !is_digit(c)) return take_null() ? true : type_error(kExpected);
    std::string_view literal;
    if (!scan_number(literal)) return false;
    std::int32_t value = 0;
    const auto [stop, failure] =
        std::from_chars(literal.data(), literal.data() + literal.size(), value);
    if (failure != std::errc{} || stop != literal.data() + literal.size()) {
        return refuse(kExpected, literal);
    }
    out = value;
    return true;
}

// ---- skipping ----

bool JsonReader::skip_scalar() {
    const char c = peek();
    std::string_view ignored;
    switch (c) {
        case '"':
            return scan_string(ignored, value_scratch_);
        case 't':
            return scan_word("true");
        case 'f':
            return scan_word("false");
        case 'n':
            return scan_word("null");
        default:
            if (c == '-' || is_digit(c)) return scan_number(ignored);
            return syntax_error("a value");
    }
}

bool JsonReader::skip() {
    // A stack of its own: recursion would let a remote choose our stack's depth.
    std::string open_brackets;
    bool first = false;  // just after an opening bracket
    for (;;) {
        const char c = peek();
        if (c == '{' || c == '[') {
            if (depth_ + open_brackets.size() + 1 > kMaxDepth) {
                return refuse("at most 10000 levels of nesting", "more");
            }
            ++at_;
            open_brackets += c == '{' ? '}' : ']';
            first = true;
        } else if (!skip_scalar()) {
            return false;
        }
        // Close what ends here, then stand before the next value.
        for (;;) {
            if (open_brackets.empty()) return true;
            const char close = open_brackets.back();
            bool done = false;
            if (!next_entry(close, first, done)) return false;
            first = false;
            if (!done) break;
            open_brackets.pop_back();
        }
        if (open_brackets.back() == '}') {
            std::string_view name;
            std::string_view raw;
            if (!entry_name(name, raw)) return false;
        }
    }
}

// ---- addresses, bytes, maps ----

bool JsonReader::read(std::optional<IpAddress>& out) {
    if (take_null()) {  // net.IP is a slice, which null empties
        out.reset();
        return true;
    }
    constexpr std::string_view kExpected = "an IPv4 or IPv6 address or \"\"";
    const char* from = at_;
    std::string_view text;
    if (!read_view(text, kExpected)) return false;
    if (text.empty()) {
        out.reset();
        return true;
    }
    IpAddress address;
    if (!IpAddress::parse_into(text, address)) {
        return refuse(kExpected, {from, static_cast<std::size_t>(at_ - from)});
    }
    out = address;
    return true;
}

bool JsonReader::read_bytes(std::optional<std::string>& out) {
    if (take_null()) {
        out.reset();
        return true;
    }
    if (peek() == '[') {
        std::string bytes;
        const bool ok = elements([&] {
            std::uint8_t byte = 0;
            if (!read(byte)) return false;
            bytes += static_cast<char>(byte);
            return true;
        });
        if (!ok) return false;
        out = std::move(bytes);
        return true;
    }
    const char* from = at_;
    std::string_view text;
    if (!read_view(text, "bytes in base64")) return false;
    std::string bytes;
    if (!decode_base64(text, bytes)) {
        return refuse("bytes in base64", {from, static_cast<std::size_t>(at_ - from)});
    }
    out = std::move(bytes);
    return true;
}

bool JsonReader::may_merge() {
    if (++merges_ <= kMaxMerges) return true;
    return refuse("no more than 64 repeated maps in a value", "more");
}

bool JsonReader::read(OptionalStringMap& out) {
    if (take_null()) {
        out.reset();
        return true;
    }
    pairs_.clear();
    if (out && !out->empty()) {
        if (!may_merge()) return false;
        pairs_.assign(out->begin(), out->end());
    }
    const bool ok = entries([&](std::string_view name) {
        pairs_.emplace_back(Text(name), Text());
        return read(pairs_.back().second);
    });
    if (!ok) return false;
    // An exact copy: the buffer's spare room stays here.
    out = StringMap::from_pairs(
        {std::make_move_iterator(pairs_.begin()), std::make_move_iterator(pairs_.end())});
    return true;
}

}  // namespace mesh::model
