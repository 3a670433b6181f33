// TLS as rpc/ needs it: files by name, re-read when they change, who the peer proved to be, and
// which certificates are revoked.
// No private key is ever logged or put in an error text; errors name files.
#pragma once

#include <mesh/error.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "runtime/clock.hpp"

namespace mesh::rpc {

/// Whether a server asks its clients for a certificate.
enum class ClientCertificate : std::uint8_t {
    kNone,      ///< not asked for
    kOptional,  ///< verified when one is given
    kRequired,  ///< no connection without a valid one
};

/// PEM files, by name, or PEM texts in their place (of a client): what has "-----BEGIN " in it is
/// the text, which never shows in an error or log. Chains are allowed in cert_file (leaf first) and
/// several CAs in ca_file.
struct TlsOptions {
    std::string
        ca_file;  ///< who may have signed the peer's certificate; client: empty = system's CAs
    std::string cert_file;  ///< own certificate; client: may be empty (then key_file too)
    std::string key_file;   ///< its private key, unencrypted
    /// Lists of revoked certificates (CRL), one or more; empty = nothing is revoked. A list counts
    /// for what the CA that signed it has issued; a CA without one has revoked nothing. One that is
    /// past its nextUpdate still counts, with a warning: what is revoked stays so, and the others
    /// are not locked out.
    std::string crl_file;
    /// Server only.
    ClientCertificate client_certificate = ClientCertificate::kRequired;
    /// Client only: the name or IP address the server's certificate must carry among its SANs;
    /// empty = the host of the endpoint.
    std::string server_name;
    /// Client only: accept any server. For tests and for etcd's insecure-skip-tls-verify.
    bool skip_verify = false;
    /// TLS 1.3 tickets: a client that comes back within the hour needs no new proof of its
    /// certificate, unless a file that decides about trust has changed since.
    bool resume_sessions = true;
};

/// Who is at the other end of a connection. Names are from the verified leaf certificate; all are
/// empty when there was none. @thread any thread (immutable after the handshake)
struct Peer {
    std::string address;  ///< "10.0.0.1:4711", "[::1]:4711"
    bool tls = false;
    bool verified = false;  ///< a certificate was given and its chain verified
    std::string common_name;
    std::vector<std::string> dns_names;
    std::vector<std::string> ip_addresses;
    std::vector<std::string> uris;
};

enum class TlsRole : std::uint8_t { kClient, kServer };

/// When what the files hold ends. Absent: there is none of it.
struct TlsExpiry {
    std::optional<WallTime> certificate;  ///< of cert_file's leaf
    std::optional<WallTime> ca;           ///< of the CA in ca_file that ends first
    std::optional<WallTime> crl;          ///< when the first list of crl_file is due to be renewed
};

namespace detail {
class TlsContext;
class RevocationLists;
}  // namespace detail

/// Credentials read from TlsOptions' files and kept until the files change: each new connection,
/// and refresh(), checks size, time and inode, and reads anew when one differs. When the new files
/// are unusable (one is half written, key and certificate do not match) the last good ones stay and
/// the reason is logged once per change; lists of revoked certificates and the other files are
/// judged apart. A list that has run out does not take the place of one that has not. A Server ends
/// connections that new files no longer let in; a client's go on.
/// @thread one thread (a loop's); give each loop its own
class TlsCredentials {
  public:
    /// Reads the files. @errors kInvalidArgument names the file and what was expected
    [[nodiscard]] static Result<std::shared_ptr<TlsCredentials>> load(TlsRole role,
                                                                      TlsOptions options,
                                                                      Logger logger);
    ~TlsCredentials();
    TlsCredentials(const TlsCredentials&) = delete;
    TlsCredentials& operator=(const TlsCredentials&) = delete;

    [[nodiscard]] TlsRole role() const noexcept;
    [[nodiscard]] const TlsOptions& options() const noexcept;
    /// How often changed files were taken over since load().
    [[nodiscard]] std::uint64_t reloads() const noexcept;
    /// Of the files in use.
    [[nodiscard]] TlsExpiry expiry() const;
    /// Looks for changed files.
    void refresh();

    /// Internal to rpc/: what a new connection uses, after looking for changed files.
    [[nodiscard]] std::shared_ptr<detail::TlsContext> context_for_new_connection();
    /// Internal to rpc/: the newest, as of the last look.
    [[nodiscard]] const std::shared_ptr<detail::TlsContext>& context() const noexcept;

  private:
    struct State;
    void read_files();
    void read_lists();
    void take_lists(std::shared_ptr<const detail::RevocationLists> lists);
    void warn_of_expired_lists();
    explicit TlsCredentials(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh::rpc
