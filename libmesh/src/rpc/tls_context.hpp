// What TlsOptions' files hold, ready for connections: OpenSSL's context, the lists of revoked
// certificates, and what makes a resumed session as good as a new one. Internal to rpc/.
//
// Resumption never goes around the check of a certificate. A server's tickets are sealed with a key
// derived from a secret of this process, the hour, and all that decides whom it trusts (CAs, lists,
// whether a certificate is required): after any change of these, tickets from before are worth
// nothing, and the full handshake decides. A ticket also ends with the first certificate of the
// chain that it stands for. A client's sessions are kept with the context, and go with it.
#pragma once

#include <openssl/ssl.h>

#include <list>
#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpc/tls.hpp"
#include "rpc/tls_revocation.hpp"

namespace mesh::rpc::detail {

/// One version of the files. Connections keep the one that they began with.
/// @thread one thread
class TlsContext {
  public:
    /// Reads all but the lists. @errors kInvalidArgument names the file and what was expected
    [[nodiscard]] static Result<std::shared_ptr<TlsContext>> make(TlsRole role,
                                                                  const TlsOptions& options);
    ~TlsContext();
    TlsContext(const TlsContext&) = delete;
    TlsContext& operator=(const TlsContext&) = delete;

    [[nodiscard]] SSL_CTX* ssl() const noexcept { return ssl_; }
    /// The CAs of ca-file; the context's own.
    [[nodiscard]] std::vector<X509*> trusted() const;
    [[nodiscard]] TlsExpiry expiry() const;
    /// Null: nothing is revoked.
    [[nodiscard]] const std::shared_ptr<const RevocationLists>& revocation() const noexcept {
        return revocation_;
    }
    void set_revocation(std::shared_ptr<const RevocationLists> lists);
    /// The key of the hour, for new tickets and for those that come back.
    void roll_ticket_key(WallTime now);

    /// Whether a peer that another version let in would be let in by this one. Its certificates'
    /// ends are not looked at: they end no session.
    /// @param sent what the peer sent behind its certificate; may be null
    /// @errors kPermission with the reason
    [[nodiscard]] Result<void> check(X509* leaf, STACK_OF(X509) * sent) const;

    /// Client: names what may be resumed with a server: nothing from before set_revocation().
    [[nodiscard]] std::string session_key(std::string_view server) const;
    /// Client: the newest session with a server, which is then forgotten (RFC 8446, C.4), or null.
    [[nodiscard]] SSL_SESSION* take_session(const std::string& key);
    /// Takes the reference.
    void keep_session(const std::string& key, SSL_SESSION* session);
    /// Where an SSL keeps a pointer to the key (std::string) of its sessions.
    [[nodiscard]] static int session_key_index();

  private:
    TlsContext(TlsRole role, const TlsOptions& options) : role_(role), options_(options) {}
    [[nodiscard]] Result<void> load();
    [[nodiscard]] Result<void> load_own_pair();
    [[nodiscard]] Result<void> load_trust();
    void allow_resumption();

    TlsRole role_;
    TlsOptions options_;
    SSL_CTX* ssl_ = nullptr;
    std::shared_ptr<const RevocationLists> revocation_;
    std::string trust_;       // digest of all that decides whom this trusts
    std::int64_t hour_ = -1;  // of the ticket key
    int epoch_ = 0;           // of the lists
    std::list<std::pair<std::string, SSL_SESSION*>> sessions_;  // the newest first
};

/// For a verify callback: true when the chain that was just verified holds a revoked certificate;
/// the error is set in `store`.
[[nodiscard]] bool refuse_revoked(X509_STORE_CTX* store, const RevocationLists* lists);

}  // namespace mesh::rpc::detail
