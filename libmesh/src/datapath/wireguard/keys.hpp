// The private key of a node: made, kept in a file that only its owner can read, loaded again. It is
// written to that file and to the node's WireGuard device and to nothing else: no text of it is in
// any error or log line, and the memory of each copy is wiped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <string>
#include <string_view>

#include "model/wireguard_key.hpp"

namespace mesh::datapath {

/// A Curve25519 private key, clamped (RFC 7748 §5) as WireGuard itself keeps it.
/// @thread any thread (a plain value)
class WireguardPrivateKey {
  public:
    using Bytes = std::array<std::uint8_t, 32>;

    /// From random bytes of OpenSSL. @errors kInternal when there is no randomness
    [[nodiscard]] static Result<WireguardPrivateKey> make();
    /// From 32 bytes, which are clamped.
    explicit WireguardPrivateKey(const Bytes& bytes) noexcept;
    /// Parses what `wg genkey` prints, without line break.
    /// @errors kInvalidArgument, without the text
    [[nodiscard]] static Result<WireguardPrivateKey> parse(std::string_view base64);

    WireguardPrivateKey(const WireguardPrivateKey&) = default;
    WireguardPrivateKey& operator=(const WireguardPrivateKey&) = default;
    ~WireguardPrivateKey();

    [[nodiscard]] const Bytes& bytes() const noexcept { return bytes_; }
    /// What peers know this node by.
    /// @errors kInternal with OpenSSL's words
    [[nodiscard]] Result<model::WireguardPublicKey> public_key() const;
    /// In constant time.
    friend bool operator==(const WireguardPrivateKey& a, const WireguardPrivateKey& b) noexcept;

  private:
    Bytes bytes_;
};

/// Loads a key from a file of one line of base64, as `wg genkey` writes it.
/// @errors kNotFound; kPermission if group or others may read or write it, or if it is neither the
///   caller's nor root's; kCorrupt if it holds no key; kUnavailable. All name the path
/// @thread any thread
[[nodiscard]] Result<WireguardPrivateKey> load_private_key(const std::string& path);

/// Writes the file whole or not at all, mode 0600. Its directory must exist.
/// @errors kUnavailable
/// @thread any thread
[[nodiscard]] Result<void> write_private_key(const std::string& path,
                                             const WireguardPrivateKey& key);

/// Loads the key, or makes and writes one when there is no such file. A file that cannot be used is
/// an error, never replaced: the mesh knows the node by it.
/// @errors as load_private_key() and write_private_key()
/// @thread one process per path
[[nodiscard]] Result<WireguardPrivateKey> load_or_make_private_key(const std::string& path);

}  // namespace mesh::datapath
