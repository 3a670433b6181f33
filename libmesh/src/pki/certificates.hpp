// A small certificate authority: makes a CA, issues certificates from it, tells what is in one.
// Keys are EC P-256, signatures ECDSA with SHA-256. Private keys are values here and are written
// only by pki/files.hpp with FileMode::kPrivate; nothing in this module logs.
#pragma once

#include <chrono>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "runtime/clock.hpp"

namespace mesh::pki {

/// What the holder may do: prove itself as a TLS client, as a TLS server, or both (an etcd member
/// is a client of its own API as well).
enum class Usage : std::uint8_t { kClient, kServer, kClientAndServer };

/// A certificate and the private key to it, both PEM. The key is a secret: hold it shortly, write
/// it with FileMode::kPrivate, never log it.
struct KeyPair {
    std::string certificate;
    std::string private_key;
};

/// What a certificate shall say.
struct CertificateRequest {
    std::string common_name;             ///< 1..64 printable ASCII characters
    std::vector<std::string> dns_names;  ///< host names; "*.<domain>" for one label
    std::vector<model::IpAddress> ip_addresses;
    Usage usage = Usage::kClient;
    std::chrono::hours validity{24 * 1095};  ///< cut at the authority's own end
};

/// What a certificate says.
struct CertificateInfo {
    std::string common_name;
    std::string issuer_common_name;
    std::string serial;  ///< hexadecimal
    std::vector<std::string> dns_names;
    std::vector<model::IpAddress> ip_addresses;
    WallTime not_before{};
    WallTime not_after{};
    bool is_authority = false;
    bool for_client = false;
    bool for_server = false;

    [[nodiscard]] bool expired(WallTime at) const { return at >= not_after; }
};

/// A certificate authority, held in memory. Cheap to copy.
/// @thread any thread; immutable
class Authority {
  public:
    /// Makes a self-signed one with a new key.
    /// @param common_name as CertificateRequest::common_name
    /// @param validity    at least one hour; it begins five minutes before `now`, so that a machine
    ///                    whose clock is a little behind takes it
    /// @errors kInvalidArgument, kInternal when OpenSSL fails
    [[nodiscard]] static Result<Authority> make(std::string_view common_name,
                                                std::chrono::hours validity, WallTime now);

    /// Takes up an existing one, e.g. the one that a second cluster inherits from the first.
    /// @errors kInvalidArgument when a part is not PEM, the certificate is none of an authority, is
    ///         out of its validity at `now`, or the key is another's; never with the key's text
    [[nodiscard]] static Result<Authority> load(const KeyPair& pem, WallTime now);

    /// Issues a certificate with a new key and a random serial.
    /// @errors kInvalidArgument names the field, kInternal when OpenSSL fails
    [[nodiscard]] Result<KeyPair> issue(const CertificateRequest& request, WallTime now) const;

    /// The list (CRL) of those of its certificates that are no longer to be taken.
    /// @param serials hexadecimal, as CertificateInfo::serial
    /// @param validity until the next list is due; the list begins five minutes before `now`
    /// @return PEM
    /// @errors kInvalidArgument names the serial, kInternal when OpenSSL fails
    [[nodiscard]] Result<std::string> revocation_list(const std::vector<std::string>& serials,
                                                      WallTime now,
                                                      std::chrono::hours validity) const;

    [[nodiscard]] const std::string& certificate() const noexcept;  ///< PEM
    [[nodiscard]] const std::string& private_key() const noexcept;  ///< PEM; a secret

  private:
    struct Impl;
    explicit Authority(std::shared_ptr<const Impl> impl);
    std::shared_ptr<const Impl> impl_;
};

/// Reads the first certificate of a PEM text.
/// @errors kInvalidArgument when there is none
/// @thread any thread
[[nodiscard]] Result<CertificateInfo> inspect(std::string_view certificate_pem);

/// Whether a peer that trusts `authority_pem` (one or more certificates) takes this certificate.
/// @errors kPermission with OpenSSL's reason (expired, another issuer, ...), kInvalidArgument when
/// a
///         text is not PEM
/// @thread any thread
[[nodiscard]] Result<void> verify(std::string_view certificate_pem, std::string_view authority_pem,
                                  Usage usage, WallTime at);

// The certificates of a cluster, as its etcd and proxies tell roles apart (protocol.md §10).
inline constexpr std::string_view kServerCommonName = "clustermesh-apiserver.cilium.io";
inline constexpr std::string_view kMeshDomain = "mesh.cilium.io";

[[nodiscard]] std::string admin_common_name(std::string_view cluster);   ///< "admin-<cluster>"
[[nodiscard]] std::string local_common_name(std::string_view cluster);   ///< "local-<cluster>"
[[nodiscard]] std::string remote_common_name(std::string_view cluster);  ///< "remote-<cluster>"

/// A client's request with one of the names above. @source protocol.md §10
[[nodiscard]] CertificateRequest client_request(std::string common_name);

/// The server's: CN and SAN kServerCommonName, *.mesh.cilium.io, 127.0.0.1, ::1 and what is added.
/// @param extra_dns  further host names
/// @param extra_ips  further addresses, e.g. the node's
/// @source protocol.md §10
[[nodiscard]] CertificateRequest server_request(
    const std::vector<std::string>& extra_dns = {},
    const std::vector<model::IpAddress>& extra_ips = {});

}  // namespace mesh::pki
