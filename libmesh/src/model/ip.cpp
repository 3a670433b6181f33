#include "model/ip.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "model/utf8.hpp"

namespace mesh::model {

namespace {

constexpr std::size_t kMaxShown = 64;

/// Four decimal numbers 0..255 without leading zeros, joined by dots.
bool parse_v4(std::string_view text, std::uint32_t& out) noexcept {
    std::uint32_t number = 0;
    std::uint32_t octet = 0;
    int octets = 0;
    int digits = 0;
    for (const char c : text) {
        if (c == '.') {
            if (digits == 0 || ++octets > 3) return false;
            number = (number << 8) | octet;
            octet = 0;
            digits = 0;
        } else if (c >= '0' && c <= '9') {
            if (digits != 0 && octet == 0) return false;
            octet = octet * 10 + static_cast<std::uint32_t>(c - '0');
            if (octet > 255) return false;
            ++digits;
        } else {
            return false;
        }
    }
    if (octets != 3 || digits == 0) return false;
    out = (number << 8) | octet;
    return true;
}

/// @return the end of at most three digits
char* write_octet(unsigned value, char* at) {
    if (value >= 100) *at++ = static_cast<char>('0' + value / 100);
    if (value >= 10) *at++ = static_cast<char>('0' + value / 10 % 10);
    *at++ = static_cast<char>('0' + value % 10);
    return at;
}

void append_group(unsigned value, std::string& out) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    bool started = false;
    for (int shift = 12; shift >= 0; shift -= 4) {
        const unsigned digit = (value >> shift) & 15;
        started = started || digit != 0 || shift == 0;
        if (started) out += kDigits[digit];
    }
}

}  // namespace

bool IpAddress::parse_into(std::string_view text, IpAddress& out) noexcept {
    if (text.find(':') == std::string_view::npos) {
        std::uint32_t number = 0;
        if (!parse_v4(text, number)) return false;
        out = v4(number);
        return true;
    }
    std::array<char, INET6_ADDRSTRLEN + 1> buffer{};
    if (text.size() >= buffer.size()) return false;
    if (std::memchr(text.data(), '\0', text.size()) != nullptr) return false;
    std::ranges::copy(text, buffer.begin());
    Bytes bytes{};
    if (inet_pton(AF_INET6, buffer.data(), bytes.data()) != 1) return false;
    out = IpAddress(bytes);
    return true;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
    IpAddress address;
    if (parse_into(text, address)) return address;
    return invalid_argument(
        fmt::format("\"{}\": expected an IPv4 or IPv6 address", printable(text, kMaxShown)));
}

std::string IpAddress::to_string() const {
    std::string text;
    append_to(text);
    return text;
}

void IpAddress::append_to(std::string& out) const {
    if (is_v4()) {
        std::array<char, 15> text;
        char* at = text.data();
        for (std::size_t i = 12; i < 16; ++i) {
            if (i != 12) *at++ = '.';
            at = write_octet(bytes_[i], at);
        }
        out.append(text.data(), at);
        return;
    }
    // glibc prints ::/96 addresses with a dotted tail, RFC 5952 §5 and Go do not: print by hand.
    std::array<std::uint16_t, 8> groups{};
    for (std::size_t i = 0; i < 8; ++i) {
        groups[i] = static_cast<std::uint16_t>((bytes_[2 * i] << 8) | bytes_[2 * i + 1]);
    }
    std::size_t best = 8;
    std::size_t best_length = 1;  // RFC 5952 §4.2.2: a single zero group is not shortened
    for (std::size_t i = 0; i < 8;) {
        std::size_t end = i;
        while (end < 8 && groups[end] == 0) ++end;
        if (end - i > best_length) {
            best = i;
            best_length = end - i;
        }
        i = std::max(end, i + 1);
    }
    for (std::size_t i = 0; i < 8;) {
        if (i == best) {
            out += "::";
            i += best_length;
            continue;
        }
        if (i != 0 && i != best + best_length) out += ':';
        append_group(groups[i], out);
        ++i;
    }
}

IpPrefix::IpPrefix(const IpAddress& address, std::uint8_t length)
    : length_(std::min<std::uint8_t>(length, address.is_v4() ? 32 : 128)) {
    IpAddress::Bytes bytes = address.bytes();
    const unsigned keep = length_ + (address.is_v4() ? 96U : 0U);
    for (unsigned i = 0; i < 16; ++i) {
        const unsigned from = i * 8;
        if (from >= keep) {
            bytes[i] = 0;
        } else if (keep - from < 8) {
            bytes[i] = static_cast<std::uint8_t>(bytes[i] & (0xff << (8 - (keep - from))));
        }
    }
    address_ = IpAddress(bytes);
}

Result<IpPrefix> IpPrefix::parse(std::string_view text) {
    const auto slash = text.find('/');
    MESH_TRY(const IpAddress address, IpAddress::parse(text.substr(0, slash)));
    const std::uint8_t limit = address.is_v4() ? 32 : 128;
    if (slash == std::string_view::npos) return IpPrefix(address, limit);
    const std::string_view digits = text.substr(slash + 1);
    unsigned length = 0;
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
    if (ec != std::errc{} || end != digits.data() + digits.size() || length > limit) {
        return invalid_argument(fmt::format("\"{}\": expected a prefix length of 0 to {}",
                                            printable(text, kMaxShown), limit));
    }
    return IpPrefix(address, static_cast<std::uint8_t>(length));
}

bool IpPrefix::contains(const IpAddress& address) const noexcept {
    return address.is_v4() == is_v4() && IpPrefix(address, length_).address_ == address_;
}

std::string IpPrefix::to_string() const {
    std::array<char, 4> length;
    length.front() = '/';
    char* const end = write_octet(length_, length.data() + 1);
    std::string text;
    address_.append_to(text);
    text.append(length.data(), end);
    return text;
}

}  // namespace mesh::model
