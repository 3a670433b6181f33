// TLS without a socket: ciphertext in, plaintext out, and the other way. OpenSSL reads and writes
// the caller's buffers, so that an idle connection keeps none. Internal to rpc/.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "rpc/tls.hpp"

namespace mesh::rpc::detail {

/// @thread one thread
class TlsEngine {
  public:
    /// @param name client: what the server's certificate must carry (DNS name or IP address)
    /// @errors kInternal when OpenSSL has no memory
    [[nodiscard]] static Result<std::unique_ptr<TlsEngine>> make(TlsCredentials& credentials,
                                                                 std::string name);
    ~TlsEngine();
    TlsEngine(const TlsEngine&) = delete;
    TlsEngine& operator=(const TlsEngine&) = delete;

    /// Takes ciphertext; appends plaintext to `plain` and what TLS itself has to say to `out`. Call
    /// with nothing to begin a client's handshake.
    /// @errors kPermission for a certificate that was refused (by us or by the peer), else kCorrupt
    [[nodiscard]] Result<void> receive(std::string_view cipher, std::string& plain,
                                       std::string& out);
    /// Encrypts all of `plain` to `out`; only after the handshake.
    [[nodiscard]] Result<void> send(std::string_view plain, std::string& out);
    /// Appends close_notify.
    void close(std::string& out);
    [[nodiscard]] bool handshake_done() const noexcept;
    /// ALPN agreed on "h2".
    [[nodiscard]] bool h2_agreed() const noexcept;
    /// close_notify has arrived.
    [[nodiscard]] bool closed_by_peer() const noexcept;
    /// Fills tls, verified and the names.
    void describe_peer(Peer& peer) const;

  private:
    struct State;
    explicit TlsEngine(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh::rpc::detail
