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
    /// @param name  client: what the server's certificate must carry (DNS name or IP address)
    /// @param where client: the endpoint, whose session before may be resumed
    /// @errors kInternal when OpenSSL has no memory
    [[nodiscard]] static Result<std::unique_ptr<TlsEngine>> make(TlsCredentials& credentials,
                                                                 std::string name,
                                                                 std::string_view where = {});
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
    /// Asks the CPU to load what send() will touch first: our part, and then OpenSSL's.
    void fetch() const noexcept;
    void fetch_library() const noexcept;
    /// Appends close_notify.
    void close(std::string& out);
    [[nodiscard]] bool handshake_done() const noexcept;
    /// ALPN agreed on "h2".
    [[nodiscard]] bool h2_agreed() const noexcept;
    /// close_notify has arrived.
    [[nodiscard]] bool closed_by_peer() const noexcept;
    /// The handshake took up a session from before.
    [[nodiscard]] bool resumed() const noexcept;
    /// Whether the peer would be let in by another version of the files. A peer without a verified
    /// certificate proved nothing that could have changed.
    /// @errors kPermission with the reason
    [[nodiscard]] Result<void> check_again(const TlsContext& context) const;
    /// The same for all connections that showed the same certificates; empty without one.
    [[nodiscard]] std::string peer_digest() const;
    /// Fills tls, verified and the names.
    void describe_peer(Peer& peer) const;

  private:
    struct State;
    static void resume(State& state, std::string_view where);
    explicit TlsEngine(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace mesh::rpc::detail
