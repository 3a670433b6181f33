#include "model/base64.hpp"

#include <array>
#include <cstdint>

namespace mesh::model {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint8_t kNone = 0xff;

constexpr auto kValues = [] {
    std::array<std::uint8_t, 256> values{};
    values.fill(kNone);
    for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
        values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
    }
    return values;
}();

}  // namespace

bool decode_base64(std::string_view text, std::string& out) {
    std::uint32_t bits = 0;
    int characters = 0;  // of the present group of four
    int padding = 0;
    for (const char c : text) {
        if (c == '\r' || c == '\n') continue;
        if (c == '=') {
            // Padding stands for the third and fourth character of the last group.
            if (characters < 2 || ++padding + characters > 4) return false;
            continue;
        }
        const std::uint8_t value = kValues[static_cast<unsigned char>(c)];
        if (value == kNone || padding != 0) return false;
        bits = (bits << 6) | value;
        if (++characters == 4) {
            out += static_cast<char>(bits >> 16);
            out += static_cast<char>(bits >> 8);
            out += static_cast<char>(bits);
            characters = 0;
            bits = 0;
        }
    }
    if (characters == 0) return padding == 0;
    if (characters + padding != 4) return false;
    out += static_cast<char>(characters == 2 ? bits >> 4 : bits >> 10);
    if (characters == 3) out += static_cast<char>(bits >> 2);
    return true;
}

void encode_base64(std::string_view bytes, std::string& out) {
    const auto byte = [&](std::size_t i) -> std::uint32_t {
        return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0U;
    };
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const std::uint32_t bits = (byte(i) << 16) | (byte(i + 1) << 8) | byte(i + 2);
        out += kAlphabet[bits >> 18];
        out += kAlphabet[(bits >> 12) & 63];
        out += i + 1 < bytes.size() ? kAlphabet[(bits >> 6) & 63] : '=';
        out += i + 2 < bytes.size() ? kAlphabet[bits & 63] : '=';
    }
}

}  // namespace mesh::model
