// Rows of an endpoint's policy map, as the compiler computes them (policy.md §8, §9).
#pragma once

#include <compare>
#include <cstdint>

#include "model/policy.hpp"

namespace mesh::compile {

/// Low byte of precedence; the higher one wins. @source policy.md §8
inline constexpr std::uint8_t kPrecedenceDeny = 255;
inline constexpr std::uint8_t kPrecedenceHostRedirect = 254;  ///< L7 rules that name the host
inline constexpr std::uint8_t kPrecedenceHostAllow = 253;     ///< the host goes past other L7 rules
inline constexpr std::uint8_t kPrecedenceMaxRedirect = 252;
inline constexpr std::uint8_t kPrecedenceAllow = 1;

/// What a packet is looked up with: bits of protocol and port that count.
struct PolicyMapKey {
    std::uint32_t identity = 0;  ///< of the peer; 0 = any
    model::policy::Direction direction = model::policy::Direction::kIngress;
    std::uint8_t protocol = 0;
    std::uint8_t length = 0;  ///< 0 = all, 8 = the protocol, 9..24 = and bits of the port
    std::uint16_t port = 0;   ///< host byte order; bits beyond `length` are zero
    friend auto operator<=>(const PolicyMapKey&, const PolicyMapKey&) = default;
};

struct PolicyMapValue {
    std::uint8_t precedence = 0;
    std::uint8_t auth = 0;  ///< model::policy::AuthType
    bool explicit_auth = false;
    std::uint16_t redirect = 0;  ///< number in EndpointPolicy::redirects(), from 1; 0 = none
    [[nodiscard]] constexpr bool deny() const noexcept { return precedence == kPrecedenceDeny; }
    friend auto operator<=>(const PolicyMapValue&, const PolicyMapValue&) = default;
};

/// An entry without its identity: what a set of identities has in common.
struct EntryShape {
    std::uint8_t protocol = 0;
    std::uint8_t length = 0;
    std::uint16_t port = 0;
    PolicyMapValue value;

    /// True if the other's packets are all among this one's.
    [[nodiscard]] constexpr bool covers(const EntryShape& other) const noexcept {
        if (length > other.length) return false;
        if (length == 0) return true;
        if (protocol != other.protocol) return false;
        const unsigned shift = 24U - length;  // of the port; 16 for all of them
        return (unsigned{port} >> shift) == (unsigned{other.port} >> shift);
    }
    friend auto operator<=>(const EntryShape&, const EntryShape&) = default;
};

}  // namespace mesh::compile
