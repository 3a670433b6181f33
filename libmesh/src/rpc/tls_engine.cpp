#include "rpc/tls_engine.hpp"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "rpc/fetch_lines.hpp"
#include "rpc/tls_context.hpp"

namespace mesh::rpc::detail {

namespace {

/// Where OpenSSL reads ciphertext from and writes it to: the caller's memory, during a call.
struct Pipe {
    std::string_view in;
    std::string* out = nullptr;
};

int pipe_read(BIO* bio, char* to, std::size_t size, std::size_t* taken) {
    auto* pipe = static_cast<Pipe*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    if (pipe->in.empty()) {
        BIO_set_retry_read(bio);
        *taken = 0;
        return 0;
    }
    *taken = std::min(size, pipe->in.size());
    std::memcpy(to, pipe->in.data(), *taken);
    pipe->in.remove_prefix(*taken);
    return 1;
}

int pipe_write(BIO* bio, const char* from, std::size_t size, std::size_t* written) {
    auto* pipe = static_cast<Pipe*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    pipe->out->append(from, size);
    *written = size;
    return 1;
}

long pipe_control(BIO*, int command, long, void*) {
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

int pipe_create(BIO* bio) {
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD* pipe_method() {
    static BIO_METHOD* const method = [] {
        BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mesh pipe");
        if (m == nullptr) throw std::bad_alloc();
        BIO_meth_set_read_ex(m, pipe_read);
        BIO_meth_set_write_ex(m, pipe_write);
        BIO_meth_set_ctrl(m, pipe_control);
        BIO_meth_set_create(m, pipe_create);
        return m;
    }();
    return method;
}

bool is_ip(const std::string& text) {
    std::array<unsigned char, 16> scratch{};
    return inet_pton(AF_INET, text.c_str(), scratch.data()) == 1 ||
           inet_pton(AF_INET6, text.c_str(), scratch.data()) == 1;
}

std::string text_of(const ASN1_STRING* value) {
    unsigned char* utf8 = nullptr;
    const int length = ASN1_STRING_to_UTF8(&utf8, value);
    if (length < 0) return {};
    std::string text(reinterpret_cast<char*>(utf8), static_cast<std::size_t>(length));
    OPENSSL_free(utf8);
    // A name with a zero byte inside is made to deceive; it matches nothing.
    return text.find('\0') == std::string::npos ? text : std::string();
}

std::string ip_text(const ASN1_OCTET_STRING* value) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const int length = ASN1_STRING_length(value);
    const unsigned char* bytes = ASN1_STRING_get0_data(value);
    if (length == 4 && inet_ntop(AF_INET, bytes, text.data(), text.size()) != nullptr)
        return text.data();
    if (length == 16 && inet_ntop(AF_INET6, bytes, text.data(), text.size()) != nullptr)
        return text.data();
    return {};
}

void read_names(X509* certificate, Peer& peer) {
    const X509_NAME* subject = X509_get_subject_name(certificate);
    // The last one counts, as in most verifiers, and several are no reason to believe the first.
    int at = -1;
    for (int next = -1; (next = X509_NAME_get_index_by_NID(subject, NID_commonName, next)) >= 0;)
        at = next;
    if (at >= 0)
        peer.common_name = text_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    auto* names = static_cast<GENERAL_NAMES*>(
        X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
    if (names == nullptr) return;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
        const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
        std::string text;
        if (name->type == GEN_DNS && !(text = text_of(name->d.dNSName)).empty()) {
            peer.dns_names.push_back(std::move(text));
        } else if (name->type == GEN_IPADD && !(text = ip_text(name->d.iPAddress)).empty()) {
            peer.ip_addresses.push_back(std::move(text));
        } else if (name->type == GEN_URI &&
                   !(text = text_of(name->d.uniformResourceIdentifier)).empty()) {
            peer.uris.push_back(std::move(text));
        }
    }
    GENERAL_NAMES_free(names);
}

std::string listed(const Peer& peer) {
    std::string text;
    for (const auto* names : {&peer.dns_names, &peer.ip_addresses})
        for (const std::string& name : *names) text.append(text.empty() ? "" : ", ").append(name);
    return text.empty() ? "no name at all" : text;
}

/// What an alert of the other side says about our certificate, in words; null for other alerts.
const char* refused_by_peer(int reason) {
    switch (reason) {
        case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
            return "the other side requires a certificate, and none was given";
        case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
            return "the other side does not know the CA of our certificate";
        case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
            return "the other side refuses our certificate (or needs one)";
        case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
            return "the other side says that our certificate has expired";
        case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
            return "the other side says that our certificate is revoked";
        case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
        case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
            return "the other side refuses our certificate";
        default:
            return nullptr;
    }
}

}  // namespace

struct TlsEngine::State {
    std::shared_ptr<TlsContext> context;  // lives as long as the connection
    SSL* ssl = nullptr;
    Pipe pipe;
    Peer refused;
    TlsRole role = TlsRole::kServer;
    std::string name;
    std::string session_key;
    bool done = false;
    bool closed = false;
    bool failed = false;

    ~State() { SSL_free(ssl); }

    Error failure() const {
        const unsigned long code = ERR_peek_last_error();
        ERR_clear_error();
        const int reason = ERR_GET_REASON(code);
        if (ERR_GET_LIB(code) == ERR_LIB_SSL) {
            if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
                return {Errc::kPermission, verify_failure()};
            if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
                return {Errc::kPermission, "TLS: the client gave no certificate"};
            if (const char* words = refused_by_peer(reason))
                return {Errc::kPermission, std::string("TLS: ") + words};
            if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST)
                return {Errc::kCorrupt, "TLS: the other side does not speak TLS"};
            if (reason == SSL_R_NO_APPLICATION_PROTOCOL)
                return {Errc::kCorrupt, "TLS: the other side does not offer HTTP/2 (ALPN h2)"};
        }
        const char* text = code != 0 ? ERR_reason_error_string(code) : nullptr;
        return {Errc::kCorrupt, std::string("TLS: ") + (text != nullptr ? text : "broken stream")};
    }

    std::string verify_failure() const {
        const long result = SSL_get_verify_result(ssl);
        std::string text = "TLS: the certificate of the other side is refused: ";
        text += X509_verify_cert_error_string(result);
        if (result == X509_V_ERR_HOSTNAME_MISMATCH || result == X509_V_ERR_IP_ADDRESS_MISMATCH) {
            text += ": expected " + name + ", it carries " + listed(refused);
        } else if (!refused.common_name.empty()) {
            text += " (certificate of " + refused.common_name + ")";
        }
        return text;
    }

    /// Refuses what is revoked. OpenSSL forgets a certificate that it refuses, so its names are
    /// kept here.
    static int judge(int ok, X509_STORE_CTX* store) {
        auto* ssl = static_cast<SSL*>(
            X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
        auto* state = static_cast<State*>(SSL_get_app_data(ssl));
        if (ok == 1 && refuse_revoked(store, state->context->revocation().get())) ok = 0;
        // A ticket carries the peer's own certificate only. Without those that it sent to lead to
        // a CA of ours, nobody could check it again when the CAs change.
        if (ok == 1 && X509_STORE_CTX_get_num_untrusted(store) > 1) SSL_set_num_tickets(ssl, 0);
        if (ok == 1) return ok;
        X509* certificate = X509_STORE_CTX_get0_cert(store);
        state->refused = {};
        if (certificate != nullptr) read_names(certificate, state->refused);
        return ok;
    }
};

Result<std::unique_ptr<TlsEngine>> TlsEngine::make(TlsCredentials& credentials, std::string name,
                                                   std::string_view where) {
    auto state = std::make_unique<State>();
    state->context = credentials.context_for_new_connection();
    state->role = credentials.role();
    state->name = std::move(name);
    state->ssl = SSL_new(state->context->ssl());
    BIO* bio = state->ssl != nullptr ? BIO_new(pipe_method()) : nullptr;
    if (bio == nullptr) return internal("OpenSSL has no memory for a connection");
    BIO_set_data(bio, &state->pipe);
    SSL_set_bio(state->ssl, bio, bio);
    SSL_set_app_data(state->ssl, state.get());
    SSL_set_verify(state->ssl, SSL_get_verify_mode(state->ssl), &State::judge);
    if (state->role == TlsRole::kServer) {
        SSL_set_accept_state(state->ssl);
    } else {
        SSL_set_connect_state(state->ssl);
        const bool verify = !credentials.options().skip_verify;
        if (is_ip(state->name)) {
            // Without it any server of the CA would do.
            if (verify &&
                X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(state->ssl), state->name.c_str()) != 1)
                return invalid_argument("\"" + state->name + "\" cannot be a server's address");
        } else {
            SSL_set_tlsext_host_name(state->ssl, state->name.c_str());
            SSL_set_hostflags(state->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                              X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
            if (verify && SSL_set1_host(state->ssl, state->name.c_str()) != 1)
                return invalid_argument("\"" + state->name + "\" cannot be a server's name");
        }
        if (credentials.options().resume_sessions && !where.empty()) resume(*state, where);
    }
    return std::unique_ptr<TlsEngine>(new TlsEngine(std::move(state)));
}

void TlsEngine::resume(State& state, std::string_view where) {
    state.session_key = state.context->session_key(std::string(where) + ' ' + state.name);
    SSL_set_ex_data(state.ssl, TlsContext::session_key_index(), &state.session_key);
    SSL_SESSION* session = state.context->take_session(state.session_key);
    if (session == nullptr) return;
    SSL_set_session(state.ssl, session);
    SSL_SESSION_free(session);
}

TlsEngine::TlsEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsEngine::~TlsEngine() = default;

Result<void> TlsEngine::receive(std::string_view cipher, std::string& plain, std::string& out) {
    State& s = *state_;
    if (s.failed) return Error(Errc::kCorrupt, "TLS: used after a failure");
    ERR_clear_error();
    s.pipe.in = cipher;
    s.pipe.out = &out;
    // Of a record's size, and not set to zero, which for small messages would be most of the work.
    std::array<char, 16384> record;
    for (;;) {
        int result = 0;
        if (!s.done) {
            result = SSL_do_handshake(s.ssl);
            if (result == 1) {
                s.done = true;
                continue;
            }
        } else {
            std::size_t got = 0;
            result = SSL_read_ex(s.ssl, record.data(), record.size(), &got);
            if (result == 1) {
                plain.append(record.data(), got);
                continue;
            }
        }
        const int why = SSL_get_error(s.ssl, result);
        if (why == SSL_ERROR_WANT_READ) return {};
        if (why == SSL_ERROR_ZERO_RETURN) {
            s.closed = true;
            return {};
        }
        s.failed = true;
        return s.failure();
    }
}

Result<void> TlsEngine::send(std::string_view plain, std::string& out) {
    State& s = *state_;
    if (s.failed) return Error(Errc::kCorrupt, "TLS: used after a failure");
    if (plain.empty()) return {};
    ERR_clear_error();
    s.pipe.out = &out;
    std::size_t written = 0;
    if (SSL_write_ex(s.ssl, plain.data(), plain.size(), &written) != 1 || written != plain.size()) {
        s.failed = true;
        return s.failure();
    }
    return {};
}

void TlsEngine::fetch() const noexcept {
    fetch_lines(state_.get(), sizeof(State));
}

void TlsEngine::fetch_library() const noexcept {
    // About what a small write touches of it.
    constexpr std::size_t kSslBytes = 4096;
    fetch_lines(state_->ssl, kSslBytes);
}

void TlsEngine::close(std::string& out) {
    if (state_->failed || !state_->done) return;
    state_->pipe.out = &out;
    SSL_shutdown(state_->ssl);
    ERR_clear_error();
}

bool TlsEngine::handshake_done() const noexcept {
    return state_->done;
}
bool TlsEngine::closed_by_peer() const noexcept {
    return state_->closed;
}

bool TlsEngine::h2_agreed() const noexcept {
    const unsigned char* chosen = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(state_->ssl, &chosen, &length);
    return length == 2 && std::memcmp(chosen, "h2", 2) == 0;
}

bool TlsEngine::resumed() const noexcept {
    return SSL_session_reused(state_->ssl) == 1;
}

Result<void> TlsEngine::check_again(const TlsContext& context) const {
    X509* leaf = SSL_get0_peer_certificate(state_->ssl);
    if (leaf == nullptr || SSL_get_verify_mode(state_->ssl) == SSL_VERIFY_NONE) return {};
    return context.check(leaf, SSL_get_peer_cert_chain(state_->ssl));
}

std::string TlsEngine::peer_digest() const {
    const X509* leaf = SSL_get0_peer_certificate(state_->ssl);
    if (leaf == nullptr) return {};
    std::string digest = digest_of(leaf);
    const STACK_OF(X509)* sent = SSL_get_peer_cert_chain(state_->ssl);
    for (int i = 0; i < sk_X509_num(sent); ++i) digest += digest_of(sk_X509_value(sent, i));
    return digest;
}

void TlsEngine::describe_peer(Peer& peer) const {
    peer.tls = true;
    X509* certificate = SSL_get1_peer_certificate(state_->ssl);
    if (certificate == nullptr) return;
    const bool checked = SSL_get_verify_mode(state_->ssl) != SSL_VERIFY_NONE;
    peer.verified = checked && SSL_get_verify_result(state_->ssl) == X509_V_OK;
    // Names out of an unverified certificate would be the peer's word only.
    if (peer.verified) read_names(certificate, peer);
    X509_free(certificate);
}

}  // namespace mesh::rpc::detail
