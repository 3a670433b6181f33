// SipHash-1-3 (Aumasson, Bernstein, 2012), a short keyed hash: whoever does not know the key cannot
// choose strings that collide. Used by the hash tables that hold what remotes publish.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace mesh::state {

struct SipKey {
    std::uint64_t k0 = 0;
    std::uint64_t k1 = 0;
};

[[nodiscard]] inline std::uint64_t sip_hash(const SipKey& key, std::string_view text) noexcept {
    std::uint64_t v0 = key.k0 ^ 0x736f6d6570736575U;
    std::uint64_t v1 = key.k1 ^ 0x646f72616e646f6dU;
    std::uint64_t v2 = key.k0 ^ 0x6c7967656e657261U;
    std::uint64_t v3 = key.k1 ^ 0x7465646279746573U;
    const auto round = [&] {
        v0 += v1;
        v1 = std::rotl(v1, 13) ^ v0;
        v0 = std::rotl(v0, 32);
        v2 += v3;
        v3 = std::rotl(v3, 16) ^ v2;
        v0 += v3;
        v3 = std::rotl(v3, 21) ^ v0;
        v2 += v1;
        v1 = std::rotl(v1, 17) ^ v2;
        v2 = std::rotl(v2, 32);
    };
    const auto absorb = [&](std::uint64_t word) {
        v3 ^= word;
        round();
        v0 ^= word;
    };
    std::string_view rest = text;
    for (; rest.size() >= 8; rest.remove_prefix(8)) {
        std::uint64_t word = 0;
        std::memcpy(&word, rest.data(), 8);
        absorb(word);
    }
    std::uint64_t last = static_cast<std::uint64_t>(text.size()) << 56;
    for (std::size_t i = 0; i < rest.size(); ++i) {
        last |= static_cast<std::uint64_t>(static_cast<unsigned char>(rest[i])) << (8 * i);
    }
    absorb(last);
    v2 ^= 0xff;
    for (int i = 0; i < 3; ++i) round();
    return v0 ^ v1 ^ v2 ^ v3;
}

}  // namespace mesh::state
