#include "model/wireguard_key.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/base64.hpp"

namespace mesh::model {

Result<WireguardPublicKey> WireguardPublicKey::parse(std::string_view text) {
    constexpr std::size_t kTextSize = 44;
    constexpr std::size_t kMostShown = 64;
    const auto refuse = [&](std::string_view why) {
        return invalid_argument(
            fmt::format("WireGuard public key \"{}\": {}", text.substr(0, kMostShown), why));
    };
    std::string decoded;
    WireguardPublicKey key;
    if (text.size() != kTextSize || !decode_base64(text, decoded) || decoded.size() != kSize) {
        return refuse("expected 44 characters of base64");
    }
    std::ranges::transform(decoded, key.bytes_.begin(),
                           [](char c) { return static_cast<std::uint8_t>(c); });
    if (key.to_string() != text) return refuse("expected base64 with the unused bits zero");
    if (key == WireguardPublicKey()) return refuse("expected a key, not zeros");
    return key;
}

std::string WireguardPublicKey::to_string() const {
    std::string text;
    encode_base64({reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}, text);
    return text;
}

}  // namespace mesh::model
