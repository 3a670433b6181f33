#include "model/ip.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace mesh::model {

Result<IpAddress> IpAddress::parse(std::string_view text) {
    std::array<char, INET6_ADDRSTRLEN + 1> buffer{};
    const auto bad = [&] {
        return invalid_argument(fmt::format("\"{}\": expected an IPv4 or IPv6 address", text));
    };
    if (text.empty() || text.size() >= buffer.size()) return bad();
    if (std::memchr(text.data(), '\0', text.size()) != nullptr) return bad();
    std::ranges::copy(text, buffer.begin());
    if (text.find(':') == std::string_view::npos) {
        in_addr v4_address{};
        if (inet_pton(AF_INET, buffer.data(), &v4_address) != 1) return bad();
        return v4(ntohl(v4_address.s_addr));
    }
    Bytes bytes{};
    if (inet_pton(AF_INET6, buffer.data(), bytes.data()) != 1) return bad();
    return IpAddress(bytes);
}

std::string IpAddress::to_string() const {
    if (is_v4()) {
        return fmt::format("{}.{}.{}.{}", bytes_[12], bytes_[13], bytes_[14], bytes_[15]);
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
    std::string text;
    for (std::size_t i = 0; i < 8;) {
        if (i == best) {
            text += "::";
            i += best_length;
            continue;
        }
        if (!text.empty() && text.back() != ':') text += ':';
        text += fmt::format("{:x}", groups[i]);
        ++i;
    }
    return text;
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
        return invalid_argument(fmt::format("\"{}\": expected a prefix length of 0 to {}", text, limit));
    }
    return IpPrefix(address, static_cast<std::uint8_t>(length));
}

bool IpPrefix::contains(const IpAddress& address) const noexcept {
    return address.is_v4() == is_v4() && IpPrefix(address, length_).address_ == address_;
}

std::string IpPrefix::to_string() const { return fmt::format("{}/{}", address_.to_string(), length_); }

}  // namespace mesh::model
