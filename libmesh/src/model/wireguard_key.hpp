// A WireGuard public key: what a node publishes in WireguardPubKey (spec wire.md §4), and what
// names a peer. Private keys never come near model/; see datapath/wireguard/keys.hpp.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

namespace mesh::model {

/// A Curve25519 public key. A default-made one is all zero, which is no key.
/// @thread any thread (a plain value)
class WireguardPublicKey {
  public:
    static constexpr std::size_t kSize = 32;
    using Bytes = std::array<std::uint8_t, kSize>;

    constexpr WireguardPublicKey() = default;
    explicit constexpr WireguardPublicKey(const Bytes& bytes) : bytes_(bytes) {}
    /// Parses the text form of wg(8): 44 characters of base64. Strict, so that a key has one text.
    /// @errors kInvalidArgument with the text and what was expected; so, too, for the zero key
    [[nodiscard]] static Result<WireguardPublicKey> parse(std::string_view text);

    [[nodiscard]] constexpr const Bytes& bytes() const noexcept { return bytes_; }
    /// Base64, as `wg pubkey` prints it.
    [[nodiscard]] std::string to_string() const;

    friend constexpr auto operator<=>(const WireguardPublicKey&,
                                      const WireguardPublicKey&) = default;

  private:
    Bytes bytes_{};
};

}  // namespace mesh::model
