#include "model/json_writer.hpp"

#include <array>
#include <charconv>

#include "model/base64.hpp"
#include "model/utf8.hpp"

namespace mesh::model {
namespace {

/// Bytes that stand for themselves in a string.
constexpr auto kPlain = [] {
    std::array<bool, 256> plain{};
    for (std::size_t c = 0x20; c < 0x80; ++c) plain[c] = true;
    for (const char c : {'"', '\\', '<', '>', '&'}) plain[static_cast<unsigned char>(c)] = false;
    return plain;
}();

void escape_ascii(char c, std::string& out) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    switch (c) {
        case '"':
            out += "\\\"";
            return;
        case '\\':
            out += "\\\\";
            return;
        case '\b':
            out += "\\b";
            return;
        case '\f':
            out += "\\f";
            return;
        case '\n':
            out += "\\n";
            return;
        case '\r':
            out += "\\r";
            return;
        case '\t':
            out += "\\t";
            return;
        default:
            break;
    }
    out += "\\u00";
    out += kDigits[static_cast<unsigned char>(c) >> 4];
    out += kDigits[static_cast<unsigned char>(c) & 15];
}

}  // namespace

void JsonWriter::string(std::string_view text) {
    out_ += '"';
    const char* p = text.data();
    const char* const end = p + text.size();
    while (p != end) {
        const char* from = p;
        while (p != end && kPlain[static_cast<unsigned char>(*p)]) ++p;
        out_.append(from, p);
        if (p == end) break;
        if (static_cast<unsigned char>(*p) < 0x80) {
            escape_ascii(*p++, out_);
            continue;
        }
        const std::size_t length = utf8_length(p, end);
        const std::string_view sequence(p, std::max<std::size_t>(length, 1));
        if (length == 0) {
            out_ += "\\ufffd";
        } else if (sequence == "\u2028") {
            out_ += "\\u2028";
        } else if (sequence == "\u2029") {
            out_ += "\\u2029";
        } else {
            out_ += sequence;
        }
        p += sequence.size();
    }
    out_ += '"';
}

void JsonWriter::number(std::int64_t value) {
    std::array<char, 24> buffer{};
    const auto [end, failure] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
    out_.append(buffer.data(), end);
}

void JsonWriter::address(const std::optional<IpAddress>& address) {
    out_ += '"';
    if (address) address->append_to(out_);
    out_ += '"';
}

void JsonWriter::bytes(const std::optional<std::string>& bytes) {
    if (!bytes) {
        raw("null");
        return;
    }
    out_ += '"';
    encode_base64(*bytes, out_);
    out_ += '"';
}

void JsonWriter::map(const OptionalStringMap& entries) {
    if (entries) {
        map(*entries);
    } else {
        raw("null");
    }
}

void JsonWriter::map(const StringMap& entries) {
    out_ += '{';
    bool first = true;
    for (const auto& [key, value] : entries) {
        if (!first) out_ += ',';
        first = false;
        string(key);
        out_ += ':';
        string(value);
    }
    out_ += '}';
}

}  // namespace mesh::model
