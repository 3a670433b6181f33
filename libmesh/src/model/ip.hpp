// IP addresses and prefixes as plain 16-byte values, with the text forms that the wire uses
// (spec wire.md §1: Go net.IP text; an IPv4-mapped IPv6 address is an IPv4 address).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mesh::model {

/// An IPv4 or IPv6 address, network byte order, IPv4 stored as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2).
/// A default-made address is "::". @thread any thread (a plain value)
class IpAddress {
  public:
    using Bytes = std::array<std::uint8_t, 16>;

    constexpr IpAddress() = default;
    explicit constexpr IpAddress(const Bytes& bytes) : bytes_(bytes) {}
    [[nodiscard]] static constexpr IpAddress v4(std::uint8_t a, std::uint8_t b, std::uint8_t c,
                                                std::uint8_t d) {
        return IpAddress(Bytes{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d});
    }
    /// From a host-order IPv4 number, e.g. 0x0a0a0001 for 10.10.0.1.
    [[nodiscard]] static constexpr IpAddress v4(std::uint32_t host_order) {
        return v4(static_cast<std::uint8_t>(host_order >> 24),
                  static_cast<std::uint8_t>(host_order >> 16),
                  static_cast<std::uint8_t>(host_order >> 8),
                  static_cast<std::uint8_t>(host_order));
    }

    /// Parses dotted quad (no leading zeros) or RFC 4291 text without zone, as Go's net.ParseIP.
    /// @errors kInvalidArgument with the text and what was expected
    [[nodiscard]] static Result<IpAddress> parse(std::string_view text);
    /// As parse, for hot paths: no error text. @return false, and `out` untouched, if it is none
    [[nodiscard]] static bool parse_into(std::string_view text, IpAddress& out) noexcept;

    [[nodiscard]] constexpr bool is_v4() const noexcept {
        for (std::size_t i = 0; i < 10; ++i) {
            if (bytes_[i] != 0) return false;
        }
        return bytes_[10] == 0xff && bytes_[11] == 0xff;
    }
    [[nodiscard]] constexpr const Bytes& bytes() const noexcept { return bytes_; }
    /// The IPv4 number in host order; only if is_v4().
    [[nodiscard]] constexpr std::uint32_t v4_number() const noexcept {
        return (std::uint32_t{bytes_[12]} << 24) | (std::uint32_t{bytes_[13]} << 16) |
               (std::uint32_t{bytes_[14]} << 8) | bytes_[15];
    }
    /// Dotted quad, or RFC 5952 text.
    [[nodiscard]] std::string to_string() const;
    /// Appends to_string()'s text.
    void append_to(std::string& out) const;

    friend constexpr auto operator<=>(const IpAddress&,
                                      const IpAddress&) = default;  // NOLINT(modernize-use-nullptr)

  private:
    Bytes bytes_{};
};

/// An address block: address with host bits zero, and a length in the family's own bits
/// (0..32 for IPv4, 0..128 for IPv6). @thread any thread (a plain value)
class IpPrefix {
  public:
    constexpr IpPrefix() = default;
    /// The block of `length` bits that holds `address`; host bits are cleared.
    /// @param length is clamped to the family's maximum
    IpPrefix(const IpAddress& address, std::uint8_t length);
    /// Parses "address/length" (host bits are cleared) or a bare address (full length).
    /// @errors kInvalidArgument
    [[nodiscard]] static Result<IpPrefix> parse(std::string_view text);

    [[nodiscard]] const IpAddress& address() const noexcept { return address_; }
    [[nodiscard]] std::uint8_t length() const noexcept { return length_; }
    [[nodiscard]] bool is_v4() const noexcept { return address_.is_v4(); }
    /// True for /32 of IPv4 and /128 of IPv6.
    [[nodiscard]] bool is_host() const noexcept { return length_ == (is_v4() ? 32 : 128); }
    [[nodiscard]] bool contains(const IpAddress& address) const noexcept;
    [[nodiscard]] bool contains(const IpPrefix& other) const noexcept {
        return other.length_ >= length_ && other.is_v4() == is_v4() && contains(other.address_);
    }
    /// "10.1.0.0/16".
    [[nodiscard]] std::string to_string() const;

    friend auto operator<=>(const IpPrefix&, const IpPrefix&) = default;

  private:
    IpAddress address_;
    std::uint8_t length_ = 0;
};

}  // namespace mesh::model

template <>
struct std::hash<mesh::model::IpAddress> {
    std::size_t operator()(const mesh::model::IpAddress& a) const noexcept {
        const auto& b = a.bytes();
        return std::hash<std::string_view>{}(
            std::string_view(reinterpret_cast<const char*>(b.data()), b.size()));
    }
};
template <>
struct std::hash<mesh::model::IpPrefix> {
    std::size_t operator()(const mesh::model::IpPrefix& p) const noexcept {
        return std::hash<mesh::model::IpAddress>{}(p.address()) * 131 + p.length();
    }
};
