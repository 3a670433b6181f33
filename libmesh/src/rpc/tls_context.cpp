#include "rpc/tls_context.hpp"

#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <limits>
#include <new>

#include "rpc/tls_files.hpp"

namespace mesh::rpc::detail {

namespace {

constexpr std::chrono::hours kSessionLife{1};
// Servers that a client remembers a session of.
constexpr std::size_t kMostSessions = 64;

constexpr std::array<unsigned char, 3> kAlpnH2 = {2, 'h', '2'};

int choose_alpn(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* in,
                unsigned in_length, void*) {
    unsigned char* chosen = nullptr;
    if (SSL_select_next_proto(&chosen, out_length, kAlpnH2.data(), kAlpnH2.size(), in, in_length) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

bool use_chain(SSL_CTX* ctx, const std::string& file) {
    if (!is_pem(file)) return SSL_CTX_use_certificate_chain_file(ctx, file.c_str()) == 1;
    const Bio bio = open_pem(file);
    const auto leaf = next_certificate(bio.get());
    if (!leaf || SSL_CTX_use_certificate(ctx, leaf.get()) != 1) return false;
    while (const auto issuer = next_certificate(bio.get())) {
        if (SSL_CTX_add1_chain_cert(ctx, issuer.get()) != 1) return false;
    }
    ERR_clear_error();  // the end of the text is an error to PEM_read_bio
    return true;
}

bool use_key(SSL_CTX* ctx, const std::string& file) {
    if (!is_pem(file)) {
        return SSL_CTX_use_PrivateKey_file(ctx, file.c_str(), SSL_FILETYPE_PEM) == 1;
    }
    const Bio bio = open_pem(file);
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
        PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr), &EVP_PKEY_free);
    return key && SSL_CTX_use_PrivateKey(ctx, key.get()) == 1;
}

bool trust(SSL_CTX* ctx, const std::string& file) {
    if (!is_pem(file)) return SSL_CTX_load_verify_locations(ctx, file.c_str(), nullptr) == 1;
    const Bio bio = open_pem(file);
    bool any = false;
    while (const auto ca = next_certificate(bio.get())) {
        if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), ca.get()) != 1) return false;
        any = true;
    }
    if (any) ERR_clear_error();
    return any;
}

std::optional<WallTime> end_of(const X509* certificate) {
    return certificate != nullptr ? wall_time(X509_get0_notAfter(certificate)) : std::nullopt;
}

std::time_t seconds_of(WallTime time) {
    return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count();
}

using Digest = std::array<unsigned char, 32>;

Digest seal(std::string_view text) {
    // One secret for all loops of the process, so that a ticket of one is good at another.
    static const Digest secret = [] {
        Digest bytes{};
        if (RAND_priv_bytes(bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
        return bytes;
    }();
    Digest out{};
    unsigned size = 0;
    HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data(), &size);
    return out;
}

// ---- a server's tickets: each carries the time at which the chain behind it ends ----

int seal_ticket(SSL* ssl, void*) {
    const STACK_OF(X509)* chain = SSL_get0_verified_chain(ssl);
    // A resumed session carries on with the end that it came with.
    if (chain == nullptr) return 1;
    std::int64_t end = std::numeric_limits<std::int64_t>::max();
    for (int i = 0; i < sk_X509_num(chain); ++i)
        if (const auto one = end_of(sk_X509_value(chain, i))) end = std::min(end, seconds_of(*one));
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &end, sizeof end);
}

SSL_TICKET_RETURN open_ticket(SSL* ssl, SSL_SESSION* session, const unsigned char*, std::size_t,
                              SSL_TICKET_STATUS status, void*) {
    switch (status) {
        case SSL_TICKET_FATAL_ERR_MALLOC:
        case SSL_TICKET_FATAL_ERR_OTHER:
            return SSL_TICKET_RETURN_ABORT;
        case SSL_TICKET_SUCCESS:
        case SSL_TICKET_SUCCESS_RENEW:
            break;
        default:
            return SSL_TICKET_RETURN_IGNORE_RENEW;
    }
    // TLS 1.2 gives no new secrets to a resumed session.
    if (SSL_version(ssl) < TLS1_3_VERSION) return SSL_TICKET_RETURN_IGNORE;
    if (SSL_SESSION_get0_peer(session) == nullptr) return SSL_TICKET_RETURN_USE_RENEW;
    void* data = nullptr;
    std::size_t size = 0;
    std::int64_t end = 0;
    if (SSL_SESSION_get0_ticket_appdata(session, &data, &size) != 1 || size != sizeof end)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    std::memcpy(&end, data, sizeof end);
    return seconds_of(SystemClock().wall_now()) < end ? SSL_TICKET_RETURN_USE_RENEW
                                                      : SSL_TICKET_RETURN_IGNORE_RENEW;
}

/// A client's session has come (with TLS 1.3, after the handshake).
int take_new_session(SSL* ssl, SSL_SESSION* session) {
    auto* context = static_cast<TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
    const auto* key =
        static_cast<const std::string*>(SSL_get_ex_data(ssl, TlsContext::session_key_index()));
    if (key == nullptr || SSL_version(ssl) < TLS1_3_VERSION) return 0;
    context->keep_session(*key, session);
    return 1;
}

}  // namespace

bool refuse_revoked(X509_STORE_CTX* store, const RevocationLists* lists) {
    if (lists == nullptr || X509_STORE_CTX_get_error_depth(store) != 0) return false;
    if (lists->find_revoked(X509_STORE_CTX_get0_chain(store)) == nullptr) return false;
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED);
    return true;
}

Result<std::shared_ptr<TlsContext>> TlsContext::make(TlsRole role, const TlsOptions& options) {
    ERR_clear_error();
    std::shared_ptr<TlsContext> context(new TlsContext(role, options));
    MESH_CHECK(context->load());
    return context;
}

TlsContext::~TlsContext() {
    for (auto& [key, session] : sessions_) SSL_SESSION_free(session);
    SSL_CTX_free(ssl_);
}

Result<void> TlsContext::load() {
    const bool server = role_ == TlsRole::kServer;
    if (server && options_.cert_file.empty())
        return invalid_argument("TLS: a server needs cert-file and key-file");
    ssl_ = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (ssl_ == nullptr) return internal("OpenSSL made no context: " + openssl_reason());
    SSL_CTX_set_min_proto_version(ssl_, TLS1_2_VERSION);
    // Those of TLS 1.2 that HTTP/2 does not forbid (RFC 9113, appendix A).
    SSL_CTX_set_cipher_list(ssl_, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set_options(
        ssl_, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ssl_, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_default_passwd_cb(ssl_, no_password);
    if (server) {
        SSL_CTX_set_alpn_select_cb(ssl_, choose_alpn, nullptr);
    } else {
        SSL_CTX_set_alpn_protos(ssl_, kAlpnH2.data(), kAlpnH2.size());
    }
    MESH_CHECK(load_own_pair());
    MESH_CHECK(load_trust());
    allow_resumption();
    return {};
}

Result<void> TlsContext::load_own_pair() {
    const TlsOptions& o = options_;
    if (o.cert_file.empty() != o.key_file.empty())
        return invalid_argument("TLS: cert-file and key-file must be given together");
    if (o.cert_file.empty()) return {};
    if (!use_chain(ssl_, o.cert_file))
        return bad_file("cert-file", o.cert_file, "a PEM certificate, chain behind it");
    if (!use_key(ssl_, o.key_file))
        return bad_file(
            "key-file", o.key_file,
            ("the PEM private key of " + shown(o.cert_file) + ", without a password").c_str());
    if (SSL_CTX_check_private_key(ssl_) != 1)
        return bad_file("key-file", o.key_file,
                        ("the private key of " + shown(o.cert_file)).c_str());
    return {};
}

Result<void> TlsContext::load_trust() {
    const TlsOptions& o = options_;
    if (!o.ca_file.empty()) {
        if (!trust(ssl_, o.ca_file))
            return bad_file("ca-file", o.ca_file, "PEM certificates of CAs");
        if (role_ == TlsRole::kServer && !is_pem(o.ca_file))
            SSL_CTX_set_client_CA_list(ssl_, SSL_load_client_CA_file(o.ca_file.c_str()));
    } else if (role_ == TlsRole::kClient && !o.skip_verify) {
        SSL_CTX_set_default_verify_paths(ssl_);
    }
    int mode = SSL_VERIFY_NONE;
    if (role_ == TlsRole::kClient && !o.skip_verify) mode = SSL_VERIFY_PEER;
    if (role_ == TlsRole::kServer && o.client_certificate != ClientCertificate::kNone) {
        if (o.ca_file.empty())
            return invalid_argument(
                "TLS: a server that asks for client certificates needs ca-file");
        mode = SSL_VERIFY_PEER;
        if (o.client_certificate == ClientCertificate::kRequired)
            mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    }
    SSL_CTX_set_verify(ssl_, mode, nullptr);
    std::vector<std::string> digests;
    for (const X509* ca : trusted()) digests.push_back(digest_of(ca));
    std::sort(digests.begin(), digests.end());
    trust_ = std::to_string(mode);
    for (const std::string& digest : digests) trust_ += digest;
    return {};
}

void TlsContext::allow_resumption() {
    SSL_CTX_set_app_data(ssl_, this);
    SSL_CTX_set_timeout(ssl_, std::chrono::seconds(kSessionLife).count());
    if (!options_.resume_sessions) {
        SSL_CTX_set_options(ssl_, SSL_OP_NO_TICKET);
        SSL_CTX_set_session_cache_mode(ssl_, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(ssl_, 0);
    } else if (role_ == TlsRole::kServer) {
        SSL_CTX_set_session_cache_mode(ssl_, SSL_SESS_CACHE_OFF);  // all is in the ticket
        SSL_CTX_set_num_tickets(ssl_, 1);
        SSL_CTX_set_session_ticket_cb(ssl_, seal_ticket, open_ticket, nullptr);
        roll_ticket_key(SystemClock().wall_now());
    } else {
        SSL_CTX_set_session_cache_mode(ssl_, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(ssl_, take_new_session);
    }
}

void TlsContext::roll_ticket_key(WallTime now) {
    if (role_ != TlsRole::kServer || !options_.resume_sessions) return;
    const std::int64_t hour = seconds_of(now) / 3600;
    if (hour == hour_) return;
    hour_ = hour;
    const std::string text =
        trust_ + (revocation_ ? revocation_->digest() : "") + std::to_string(hour);
    // 16 bytes name the key, 32 are for AES-256, 32 for the MAC.
    std::string keys;
    for (const char* part : {"name", "cipher", "mac"}) {
        const Digest one = seal(part + text);
        keys.append(reinterpret_cast<const char*>(one.data()), keys.empty() ? 16 : one.size());
    }
    SSL_CTX_set_tlsext_ticket_keys(ssl_, keys.data(), static_cast<long>(keys.size()));
    const Digest id = seal("context" + text);
    SSL_CTX_set_session_id_context(ssl_, id.data(), id.size());
}

void TlsContext::set_revocation(std::shared_ptr<const RevocationLists> lists) {
    revocation_ = std::move(lists);
    hour_ = -1;
    ++epoch_;
    roll_ticket_key(SystemClock().wall_now());
    for (auto& [key, session] : sessions_) SSL_SESSION_free(session);
    sessions_.clear();
}

std::vector<X509*> TlsContext::trusted() const {
    std::vector<X509*> found;
    if (options_.ca_file.empty()) return found;
    const auto* objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ssl_));
    for (int i = 0; i < sk_X509_OBJECT_num(objects); ++i)
        if (X509* ca = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i)); ca != nullptr)
            found.push_back(ca);
    return found;
}

TlsExpiry TlsContext::expiry() const {
    TlsExpiry expiry;
    expiry.certificate = end_of(SSL_CTX_get0_certificate(ssl_));
    for (const X509* ca : trusted())
        if (const auto end = end_of(ca)) expiry.ca = std::min(*end, expiry.ca.value_or(*end));
    if (revocation_) expiry.crl = revocation_->next_update();
    return expiry;
}

Result<void> TlsContext::check(X509* leaf, STACK_OF(X509) * sent) const {
    const std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> store(
        X509_STORE_CTX_new(), &X509_STORE_CTX_free);
    if (!store || X509_STORE_CTX_init(store.get(), SSL_CTX_get_cert_store(ssl_), leaf, sent) != 1)
        return internal("OpenSSL has no memory to verify a certificate");
    X509_STORE_CTX_set_default(store.get(),
                               role_ == TlsRole::kServer ? "ssl_client" : "ssl_server");
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(store.get()), X509_V_FLAG_NO_CHECK_TIME);
    const bool good = X509_verify_cert(store.get()) == 1;
    ERR_clear_error();
    if (!good)
        return Error(Errc::kPermission,
                     std::string("it is trusted no more (") +
                         X509_verify_cert_error_string(X509_STORE_CTX_get_error(store.get())) +
                         ")");
    if (revocation_ && revocation_->find_revoked(X509_STORE_CTX_get0_chain(store.get())) != nullptr)
        return Error(Errc::kPermission, "it is revoked");
    return {};
}

std::string TlsContext::session_key(std::string_view server) const {
    return std::string(server) + '\n' + std::to_string(epoch_);
}

SSL_SESSION* TlsContext::take_session(const std::string& key) {
    const auto it = std::find_if(sessions_.begin(), sessions_.end(),
                                 [&](const auto& one) { return one.first == key; });
    if (it == sessions_.end()) return nullptr;
    SSL_SESSION* session = it->second;
    sessions_.erase(it);
    const std::int64_t now = seconds_of(SystemClock().wall_now());
    const auto end = end_of(SSL_SESSION_get0_peer(session));
    const std::int64_t life = std::min<std::int64_t>(SSL_SESSION_get_timeout(session),
                                                     std::chrono::seconds(kSessionLife).count());
    if (SSL_SESSION_is_resumable(session) == 1 && now < SSL_SESSION_get_time(session) + life &&
        (!end || now < seconds_of(*end)))
        return session;
    SSL_SESSION_free(session);
    return nullptr;
}

void TlsContext::keep_session(const std::string& key, SSL_SESSION* session) {
    if (SSL_SESSION* old = take_session(key)) SSL_SESSION_free(old);
    sessions_.emplace_front(key, session);
    if (sessions_.size() <= kMostSessions) return;
    SSL_SESSION_free(sessions_.back().second);
    sessions_.pop_back();
}

int TlsContext::session_key_index() {
    static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return index;
}

}  // namespace mesh::rpc::detail
