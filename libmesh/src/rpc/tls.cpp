#include "rpc/tls.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace mesh::rpc {

namespace {

/// What tells one version of a file from another.
struct FileMark {
    dev_t device{};
    ino_t inode{};
    off_t size{};
    std::int64_t seconds{};
    std::int64_t nanoseconds{};
    int failure = 0;
    friend bool operator==(const FileMark&, const FileMark&) = default;
};

/// PEM text stands in place of a file's name.
bool is_pem(const std::string& text) {
    return text.find("-----BEGIN ") != std::string::npos;
}

/// For error texts and logs: secrets are never in them.
std::string shown(const std::string& file) {
    return is_pem(file) ? "(in memory)" : file;
}

FileMark mark_of(const std::string& path) {
    FileMark mark;
    if (path.empty() || is_pem(path)) return mark;
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
        mark.failure = errno;
        return mark;
    }
    mark.device = info.st_dev;
    mark.inode = info.st_ino;
    mark.size = info.st_size;
    mark.seconds = info.st_mtim.tv_sec;
    mark.nanoseconds = info.st_mtim.tv_nsec;
    return mark;
}

using FileMarks = std::array<FileMark, 3>;

FileMarks marks_of(const TlsOptions& o) {
    return {mark_of(o.ca_file), mark_of(o.cert_file), mark_of(o.key_file)};
}

/// OpenSSL's newest complaint, without file contents; clears its queue.
std::string openssl_reason() {
    const unsigned long code = ERR_peek_last_error();
    ERR_clear_error();
    const char* reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
    return reason != nullptr ? reason : "unknown cause";
}

Error bad_file(const char* field, const std::string& path, const char* expected) {
    const FileMark mark = mark_of(path);
    std::string cause = mark.failure != 0 ? std::strerror(mark.failure) : openssl_reason();
    ERR_clear_error();
    return invalid_argument(std::string(field) + " " + shown(path) + ": expected " + expected +
                            ": " + cause);
}

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

/// A key that asks for a password is refused, not asked about on a terminal.
int no_password(char*, int, int, void*) {
    return -1;
}

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

Bio memory_bio(const std::string& pem) {
    return {BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free};
}

/// The next certificate of a text, or null at its end.
std::unique_ptr<X509, decltype(&X509_free)> next_certificate(BIO* bio) {
    return {PEM_read_bio_X509(bio, nullptr, no_password, nullptr), &X509_free};
}

bool use_chain(SSL_CTX* ctx, const std::string& file) {
    if (!is_pem(file)) return SSL_CTX_use_certificate_chain_file(ctx, file.c_str()) == 1;
    const Bio bio = memory_bio(file);
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
    const Bio bio = memory_bio(file);
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
        PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr), &EVP_PKEY_free);
    return key && SSL_CTX_use_PrivateKey(ctx, key.get()) == 1;
}

bool trust(SSL_CTX* ctx, const std::string& file) {
    if (!is_pem(file)) return SSL_CTX_load_verify_locations(ctx, file.c_str(), nullptr) == 1;
    const Bio bio = memory_bio(file);
    bool any = false;
    while (const auto ca = next_certificate(bio.get())) {
        if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), ca.get()) != 1) return false;
        any = true;
    }
    if (any) ERR_clear_error();
    return any;
}

Result<void> load_own_pair(SSL_CTX* ctx, const TlsOptions& o) {
    if (o.cert_file.empty() != o.key_file.empty())
        return invalid_argument("TLS: cert-file and key-file must be given together");
    if (o.cert_file.empty()) return {};
    if (!use_chain(ctx, o.cert_file))
        return bad_file("cert-file", o.cert_file, "a PEM certificate, chain behind it");
    if (!use_key(ctx, o.key_file))
        return bad_file(
            "key-file", o.key_file,
            ("the PEM private key of " + shown(o.cert_file) + ", without a password").c_str());
    if (SSL_CTX_check_private_key(ctx) != 1)
        return bad_file("key-file", o.key_file,
                        ("the private key of " + shown(o.cert_file)).c_str());
    return {};
}

Result<void> load_trust(SSL_CTX* ctx, TlsRole role, const TlsOptions& o) {
    if (!o.ca_file.empty()) {
        if (!trust(ctx, o.ca_file))
            return bad_file("ca-file", o.ca_file, "PEM certificates of CAs");
        if (role == TlsRole::kServer && !is_pem(o.ca_file))
            SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(o.ca_file.c_str()));
    } else if (role == TlsRole::kClient && !o.skip_verify) {
        SSL_CTX_set_default_verify_paths(ctx);
    }
    int mode = SSL_VERIFY_NONE;
    if (role == TlsRole::kClient && !o.skip_verify) mode = SSL_VERIFY_PEER;
    if (role == TlsRole::kServer && o.client_certificate != ClientCertificate::kNone) {
        if (o.ca_file.empty())
            return invalid_argument(
                "TLS: a server that asks for client certificates needs ca-file");
        mode = SSL_VERIFY_PEER;
        if (o.client_certificate == ClientCertificate::kRequired)
            mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    }
    SSL_CTX_set_verify(ctx, mode, nullptr);
    return {};
}

std::optional<WallTime> end_of(const X509* certificate) {
    std::tm fields{};
    if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &fields) != 1)
        return std::nullopt;
    return WallTime(std::chrono::seconds(::timegm(&fields)));
}

TlsExpiry expiry_of(SSL_CTX* ctx, const TlsOptions& o) {
    TlsExpiry expiry;
    expiry.certificate = end_of(SSL_CTX_get0_certificate(ctx));
    if (o.ca_file.empty()) return expiry;
    const auto* objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    for (int i = 0; i < sk_X509_OBJECT_num(objects); ++i) {
        const auto end = end_of(X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i)));
        if (end) expiry.ca = std::min(*end, expiry.ca.value_or(*end));
    }
    return expiry;
}

Result<std::shared_ptr<void>> make_context(TlsRole role, const TlsOptions& o) {
    ERR_clear_error();
    if (role == TlsRole::kServer && o.cert_file.empty())
        return invalid_argument("TLS: a server needs cert-file and key-file");
    SSL_CTX* ctx =
        SSL_CTX_new(role == TlsRole::kServer ? TLS_server_method() : TLS_client_method());
    if (ctx == nullptr) return internal("OpenSSL made no context: " + openssl_reason());
    std::shared_ptr<void> owner(ctx, [](void* p) { SSL_CTX_free(static_cast<SSL_CTX*>(p)); });
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    // Those of TLS 1.2 that HTTP/2 does not forbid (RFC 9113, appendix A).
    SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    if (role == TlsRole::kServer) {
        SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, nullptr);
    } else {
        SSL_CTX_set_alpn_protos(ctx, kAlpnH2.data(), kAlpnH2.size());
    }
    MESH_CHECK(load_own_pair(ctx, o));
    MESH_CHECK(load_trust(ctx, role, o));
    return owner;
}

}  // namespace

struct TlsCredentials::State {
    TlsRole role;
    TlsOptions options;
    Logger logger;
    std::shared_ptr<void> context;
    FileMarks marks;  // of the files that `context` came from, or that were refused last
    std::uint64_t reloads = 0;
};

Result<std::shared_ptr<TlsCredentials>> TlsCredentials::load(TlsRole role, TlsOptions options,
                                                             Logger logger) {
    // Marks before contents: a change in between is then seen as one.
    const FileMarks marks = marks_of(options);
    MESH_TRY(auto context, make_context(role, options));
    auto state = std::make_unique<State>(
        State{role, std::move(options), std::move(logger), std::move(context), marks, 0});
    return std::shared_ptr<TlsCredentials>(new TlsCredentials(std::move(state)));
}

TlsCredentials::TlsCredentials(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsCredentials::~TlsCredentials() = default;
TlsRole TlsCredentials::role() const noexcept {
    return state_->role;
}
const TlsOptions& TlsCredentials::options() const noexcept {
    return state_->options;
}
std::uint64_t TlsCredentials::reloads() const noexcept {
    return state_->reloads;
}

TlsExpiry TlsCredentials::expiry() const noexcept {
    return expiry_of(static_cast<SSL_CTX*>(state_->context.get()), state_->options);
}

std::shared_ptr<void> TlsCredentials::context_for_new_connection() {
    const FileMarks marks = marks_of(state_->options);
    if (marks == state_->marks) return state_->context;
    state_->marks = marks;
    auto fresh = make_context(state_->role, state_->options);
    if (fresh) {
        state_->context = *std::move(fresh);
        ++state_->reloads;
        state_->logger.info(
            "TLS files changed; new connections use them (certificate {})",
            state_->options.cert_file.empty() ? "none" : shown(state_->options.cert_file));
    } else {
        state_->logger.warn("TLS files changed but are unusable, the old ones stay in use: {}",
                            fresh.error().detail());
    }
    return state_->context;
}

}  // namespace mesh::rpc
