#include "pki/certificates.hpp"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <limits>
#include <type_traits>

namespace mesh::pki {
namespace {

template <auto Free>
struct Deleter {
    template <class T>
    void operator()(T* p) const {
        Free(p);
    }
};
template <class T, auto Free>
using Owned = std::unique_ptr<T, Deleter<Free>>;
using Bio = Owned<BIO, BIO_free_all>;
using Key = Owned<EVP_PKEY, EVP_PKEY_free>;
using Certificate = Owned<X509, X509_free>;
using Number = Owned<BIGNUM, BN_free>;
using Extension = Owned<X509_EXTENSION, X509_EXTENSION_free>;
using List = Owned<X509_CRL, X509_CRL_free>;
using Time = Owned<ASN1_TIME, ASN1_TIME_free>;
using Integer = Owned<ASN1_INTEGER, ASN1_INTEGER_free>;
using Names = Owned<GENERAL_NAMES, GENERAL_NAMES_free>;
using Store = Owned<X509_STORE, X509_STORE_free>;
using StoreContext = Owned<X509_STORE_CTX, X509_STORE_CTX_free>;

constexpr auto kBackdated = std::chrono::minutes(5);

Error openssl_error(std::string_view what) {
    const unsigned long code = ERR_get_error();
    char text[256] = "no reason given";
    if (code != 0) ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    return internal(fmt::format("cannot {}: {}", what, text));
}

// PEM with a passphrase would make OpenSSL ask on the terminal.
int no_passphrase(char*, int, int, void*) {
    return 0;
}

Bio reader(std::string_view text) {
    const auto size =
        std::min(text.size(), static_cast<std::size_t>(std::numeric_limits<int>::max()));
    return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(size)));
}

std::string text_of(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return {data, static_cast<std::size_t>(std::max(0L, size))};
}

Result<Certificate> parse_certificate(std::string_view pem) {
    const Bio bio = reader(pem);
    Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, nullptr));
    ERR_clear_error();
    if (!certificate) return invalid_argument("certificate: expected PEM with BEGIN CERTIFICATE");
    return certificate;
}

Result<std::string> to_pem(X509* certificate) {
    const Bio bio(BIO_new(BIO_s_mem()));
    if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) {
        return openssl_error("encode a certificate");
    }
    return text_of(bio.get());
}

Result<std::string> to_pem(EVP_PKEY* key) {
    // Memory that OpenSSL clears when it is freed.
    const Bio bio(BIO_new(BIO_s_secmem()));
    if (!bio ||
        PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
        return openssl_error("encode a private key");
    }
    return text_of(bio.get());
}

WallTime time_of(const ASN1_TIME* time) {
    std::tm fields{};
    if (ASN1_TIME_to_tm(time, &fields) != 1) return {};
    return WallTime(std::chrono::seconds(::timegm(&fields)));
}

std::time_t seconds_of(WallTime time) {
    return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count();
}

std::string common_name_of(const X509_NAME* name) {
    const int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    if (index < 0) return {};
    unsigned char* utf8 = nullptr;
    const int size =
        ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
    if (size < 0) return {};
    std::string text(reinterpret_cast<const char*>(utf8), static_cast<std::size_t>(size));
    OPENSSL_free(utf8);
    return text;
}

Result<void> check_common_name(std::string_view name) {
    const bool printable =
        std::all_of(name.begin(), name.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
    if (name.empty() || name.size() > 64 || !printable) {
        return invalid_argument(fmt::format(
            "common name of {} bytes: expected 1 to 64 printable ASCII characters", name.size()));
    }
    return {};
}

Result<void> check_dns_name(std::string_view name) {
    std::string_view rest = name;
    if (rest.substr(0, 2) == "*.") rest.remove_prefix(2);
    bool ok = !rest.empty() && name.size() <= 253;
    std::size_t label = 0;
    for (const char c : rest) {
        const bool alphanumeric =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (c == '.') {
            ok = ok && label > 0;
            label = 0;
        } else {
            ok = ok && (alphanumeric || c == '-' || c == '_') && ++label <= 63;
        }
    }
    if (!ok || label == 0) {
        return invalid_argument(
            fmt::format("DNS name \"{}\": expected a host name or *.<domain>", name));
    }
    return {};
}

Result<void> set_common_name(X509_NAME* name, std::string_view text) {
    if (X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8,
                                   reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()), -1, 0) != 1) {
        return openssl_error("set a common name");
    }
    return {};
}

// Values of extensions here are constants: text from outside must not reach this small language.
Result<void> add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
    X509V3_CTX context{};
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
    if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1) {
        return openssl_error("add a certificate extension");
    }
    return {};
}

bool push_name(GENERAL_NAMES* names, int type, ASN1_STRING* value) {
    GENERAL_NAME* name = value != nullptr ? GENERAL_NAME_new() : nullptr;
    if (name == nullptr) return false;
    GENERAL_NAME_set0_value(name, type, value);
    return sk_GENERAL_NAME_push(names, name) > 0;
}

ASN1_STRING* string_of(int type, const void* data, std::size_t size) {
    ASN1_STRING* string = ASN1_STRING_type_new(type);
    if (string != nullptr) ASN1_STRING_set(string, data, static_cast<int>(size));
    return string;
}

Result<void> add_alternative_names(X509* certificate, const CertificateRequest& request) {
    const Names names(GENERAL_NAMES_new());
    bool ok = names != nullptr;
    for (const std::string& dns : request.dns_names) {
        MESH_CHECK(check_dns_name(dns));
        ok = ok &&
             push_name(names.get(), GEN_DNS, string_of(V_ASN1_IA5STRING, dns.data(), dns.size()));
    }
    for (const model::IpAddress& ip : request.ip_addresses) {
        const std::size_t skip = ip.is_v4() ? 12 : 0;
        ok = ok && push_name(names.get(), GEN_IPADD,
                             string_of(V_ASN1_OCTET_STRING, ip.bytes().data() + skip,
                                       ip.bytes().size() - skip));
    }
    if (request.dns_names.empty() && request.ip_addresses.empty()) return {};
    if (!ok || X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0,
                                 X509V3_ADD_APPEND) != 1) {
        return openssl_error("add alternative names");
    }
    return {};
}

Result<Certificate> unsigned_certificate(std::string_view common_name, EVP_PKEY* key,
                                         WallTime not_before, WallTime not_after) {
    MESH_CHECK(check_common_name(common_name));
    Certificate certificate(X509_new());
    const Number serial(BN_new());
    // 159 bits: positive and at most 20 octets (RFC 5280 §4.1.2.2).
    if (!certificate || !serial ||
        BN_rand(serial.get(), 159, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) != 1 ||
        BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) == nullptr ||
        X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
        ASN1_TIME_set(X509_getm_notBefore(certificate.get()), seconds_of(not_before)) == nullptr ||
        ASN1_TIME_set(X509_getm_notAfter(certificate.get()), seconds_of(not_after)) == nullptr ||
        X509_set_pubkey(certificate.get(), key) != 1) {
        return openssl_error("make a certificate");
    }
    MESH_CHECK(set_common_name(X509_get_subject_name(certificate.get()), common_name));
    return certificate;
}

const char* extended_usage(Usage usage) {
    switch (usage) {
        case Usage::kClient:
            return "clientAuth";
        case Usage::kServer:
            return "serverAuth";
        case Usage::kClientAndServer:
            return "serverAuth,clientAuth";
    }
    return "clientAuth";
}

Result<void> add_revoked(X509_CRL* list, const std::string& serial, ASN1_TIME* since) {
    BIGNUM* raw = nullptr;
    const bool whole = !serial.empty() && serial.size() <= 64 &&
                       BN_hex2bn(&raw, serial.c_str()) == static_cast<int>(serial.size());
    const Number value(raw);
    if (!whole) {
        return invalid_argument(
            fmt::format("serial \"{}\": expected hexadecimal digits", serial.substr(0, 80)));
    }
    const Integer number(BN_to_ASN1_INTEGER(value.get(), nullptr));
    X509_REVOKED* entry = X509_REVOKED_new();
    if (!number || entry == nullptr || X509_REVOKED_set_serialNumber(entry, number.get()) != 1 ||
        X509_REVOKED_set_revocationDate(entry, since) != 1 ||
        X509_CRL_add0_revoked(list, entry) != 1) {
        X509_REVOKED_free(entry);
        return openssl_error("revoke a certificate");
    }
    return {};
}

void read_alternative_names(X509* certificate, CertificateInfo& info) {
    const Names names(static_cast<GENERAL_NAMES*>(
        X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
    for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
        int type = 0;
        const auto* value = static_cast<const ASN1_STRING*>(
            GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
        if (type != GEN_DNS && type != GEN_IPADD) continue;
        const unsigned char* data = ASN1_STRING_get0_data(value);
        const auto size = static_cast<std::size_t>(ASN1_STRING_length(value));
        if (type == GEN_DNS) {
            info.dns_names.emplace_back(reinterpret_cast<const char*>(data), size);
        } else if (size == 4) {
            info.ip_addresses.push_back(model::IpAddress::v4(data[0], data[1], data[2], data[3]));
        } else if (size == 16) {
            model::IpAddress::Bytes bytes{};
            std::copy_n(data, size, bytes.begin());
            info.ip_addresses.emplace_back(bytes);
        }
    }
}

}  // namespace

struct Authority::Impl {
    Certificate certificate;
    Key key;
    std::string certificate_pem;
    std::string private_key_pem;
};

Authority::Authority(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

const std::string& Authority::certificate() const noexcept {
    return impl_->certificate_pem;
}
const std::string& Authority::private_key() const noexcept {
    return impl_->private_key_pem;
}

Result<Authority> Authority::make(std::string_view common_name, std::chrono::hours validity,
                                  WallTime now) {
    if (validity < std::chrono::hours(1)) {
        return invalid_argument("validity of an authority: expected at least one hour");
    }
    auto impl = std::make_shared<Impl>();
    impl->key.reset(EVP_EC_gen("P-256"));
    if (!impl->key) return openssl_error("make an EC P-256 key");
    MESH_TRY(impl->certificate,
             unsigned_certificate(common_name, impl->key.get(), now - kBackdated, now + validity));
    X509* certificate = impl->certificate.get();
    if (X509_set_issuer_name(certificate, X509_get_subject_name(certificate)) != 1) {
        return openssl_error("set the issuer");
    }
    MESH_CHECK(add_extension(certificate, certificate, NID_basic_constraints,
                             "critical,CA:TRUE,pathlen:0"));
    MESH_CHECK(
        add_extension(certificate, certificate, NID_key_usage, "critical,keyCertSign,cRLSign"));
    MESH_CHECK(add_extension(certificate, certificate, NID_subject_key_identifier, "hash"));
    if (X509_sign(certificate, impl->key.get(), EVP_sha256()) == 0) {
        return openssl_error("sign the authority");
    }
    MESH_TRY(impl->certificate_pem, to_pem(certificate));
    MESH_TRY(impl->private_key_pem, to_pem(impl->key.get()));
    return Authority(std::move(impl));
}

Result<Authority> Authority::load(const KeyPair& pem, WallTime now) {
    auto impl = std::make_shared<Impl>();
    MESH_TRY(impl->certificate, parse_certificate(pem.certificate));
    const Bio bio = reader(pem.private_key);
    impl->key.reset(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
    ERR_clear_error();
    if (!impl->key) {
        return invalid_argument("private key: expected PEM with BEGIN PRIVATE KEY, no passphrase");
    }
    if (X509_check_private_key(impl->certificate.get(), impl->key.get()) != 1) {
        ERR_clear_error();
        return invalid_argument("private key: does not belong to the authority's certificate");
    }
    if (X509_check_ca(impl->certificate.get()) != 1) {
        return invalid_argument("certificate: is not that of an authority (CA:TRUE)");
    }
    if (now >= time_of(X509_get0_notAfter(impl->certificate.get())) ||
        now < time_of(X509_get0_notBefore(impl->certificate.get()))) {
        return invalid_argument("certificate: the authority is not valid now");
    }
    MESH_TRY(impl->certificate_pem, to_pem(impl->certificate.get()));
    MESH_TRY(impl->private_key_pem, to_pem(impl->key.get()));
    return Authority(std::move(impl));
}

Result<KeyPair> Authority::issue(const CertificateRequest& request, WallTime now) const {
    if (request.validity <= std::chrono::hours(0)) {
        return invalid_argument("validity: expected at least one hour");
    }
    const Key key(EVP_EC_gen("P-256"));
    if (!key) return openssl_error("make an EC P-256 key");
    X509* issuer = impl_->certificate.get();
    const WallTime not_before =
        std::max<WallTime>(now - kBackdated, time_of(X509_get0_notBefore(issuer)));
    const WallTime not_after =
        std::min<WallTime>(now + request.validity, time_of(X509_get0_notAfter(issuer)));
    MESH_TRY(const Certificate certificate,
             unsigned_certificate(request.common_name, key.get(), not_before, not_after));
    if (X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer)) != 1) {
        return openssl_error("set the issuer");
    }
    MESH_CHECK(
        add_extension(certificate.get(), issuer, NID_basic_constraints, "critical,CA:FALSE"));
    MESH_CHECK(
        add_extension(certificate.get(), issuer, NID_key_usage, "critical,digitalSignature"));
    MESH_CHECK(
        add_extension(certificate.get(), issuer, NID_ext_key_usage, extended_usage(request.usage)));
    MESH_CHECK(add_extension(certificate.get(), issuer, NID_subject_key_identifier, "hash"));
    MESH_CHECK(add_extension(certificate.get(), issuer, NID_authority_key_identifier, "keyid"));
    MESH_CHECK(add_alternative_names(certificate.get(), request));
    if (X509_sign(certificate.get(), impl_->key.get(), EVP_sha256()) == 0) {
        return openssl_error("sign a certificate");
    }
    KeyPair pair;
    MESH_TRY(pair.certificate, to_pem(certificate.get()));
    MESH_TRY(pair.private_key, to_pem(key.get()));
    return pair;
}

Result<std::string> Authority::revocation_list(const std::vector<std::string>& serials,
                                               WallTime now, std::chrono::hours validity) const {
    X509* issuer = impl_->certificate.get();
    const List list(X509_CRL_new());
    const Time from(ASN1_TIME_set(nullptr, seconds_of(now - kBackdated)));
    const Time next(ASN1_TIME_set(nullptr, seconds_of(now + validity)));
    const Integer number(ASN1_INTEGER_new());
    if (!list || !from || !next || !number || X509_CRL_set_version(list.get(), 1) != 1 ||
        X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(issuer)) != 1 ||
        X509_CRL_set1_lastUpdate(list.get(), from.get()) != 1 ||
        X509_CRL_set1_nextUpdate(list.get(), next.get()) != 1 ||
        ASN1_INTEGER_set_int64(number.get(), seconds_of(now)) != 1 ||
        X509_CRL_add1_ext_i2d(list.get(), NID_crl_number, number.get(), 0, X509V3_ADD_DEFAULT) !=
            1) {
        return openssl_error("make a revocation list");
    }
    for (const std::string& serial : serials)
        MESH_CHECK(add_revoked(list.get(), serial, from.get()));
    X509V3_CTX context{};
    X509V3_set_ctx(&context, issuer, nullptr, nullptr, list.get(), 0);
    const Extension key_id(
        X509V3_EXT_conf_nid(nullptr, &context, NID_authority_key_identifier, "keyid"));
    if (!key_id || X509_CRL_add_ext(list.get(), key_id.get(), -1) != 1 ||
        X509_CRL_sort(list.get()) != 1 ||
        X509_CRL_sign(list.get(), impl_->key.get(), EVP_sha256()) == 0) {
        return openssl_error("sign a revocation list");
    }
    const Bio bio(BIO_new(BIO_s_mem()));
    if (!bio || PEM_write_bio_X509_CRL(bio.get(), list.get()) != 1) {
        return openssl_error("encode a revocation list");
    }
    return text_of(bio.get());
}

Result<CertificateInfo> inspect(std::string_view certificate_pem) {
    MESH_TRY(const Certificate certificate, parse_certificate(certificate_pem));
    CertificateInfo info;
    info.common_name = common_name_of(X509_get_subject_name(certificate.get()));
    info.issuer_common_name = common_name_of(X509_get_issuer_name(certificate.get()));
    const Number serial(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate.get()), nullptr));
    if (char* hex = serial ? BN_bn2hex(serial.get()) : nullptr; hex != nullptr) {
        info.serial = hex;
        OPENSSL_free(hex);
    }
    info.not_before = time_of(X509_get0_notBefore(certificate.get()));
    info.not_after = time_of(X509_get0_notAfter(certificate.get()));
    info.is_authority = X509_check_ca(certificate.get()) == 1;
    const std::uint32_t usage = X509_get_extended_key_usage(certificate.get());
    info.for_client = !info.is_authority && (usage & XKU_SSL_CLIENT) != 0;
    info.for_server = !info.is_authority && (usage & XKU_SSL_SERVER) != 0;
    read_alternative_names(certificate.get(), info);
    ERR_clear_error();
    return info;
}

Result<void> verify(std::string_view certificate_pem, std::string_view authority_pem, Usage usage,
                    WallTime at) {
    MESH_TRY(const Certificate certificate, parse_certificate(certificate_pem));
    const Store store(X509_STORE_new());
    const StoreContext context(X509_STORE_CTX_new());
    if (!store || !context) return openssl_error("verify a certificate");
    const Bio bio = reader(authority_pem);
    int authorities = 0;
    while (Certificate authority{PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, nullptr)}) {
        if (X509_STORE_add_cert(store.get(), authority.get()) != 1) {
            return openssl_error("trust an authority");
        }
        ++authorities;
    }
    ERR_clear_error();
    if (authorities == 0) {
        return invalid_argument("authority: expected PEM with BEGIN CERTIFICATE");
    }
    if (X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr) != 1) {
        return openssl_error("verify a certificate");
    }
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(context.get()), seconds_of(at));
    if (usage != Usage::kServer) X509_STORE_CTX_set_purpose(context.get(), X509_PURPOSE_SSL_CLIENT);
    if (usage == Usage::kServer) X509_STORE_CTX_set_purpose(context.get(), X509_PURPOSE_SSL_SERVER);
    if (X509_verify_cert(context.get()) != 1) {
        const int reason = X509_STORE_CTX_get_error(context.get());
        ERR_clear_error();
        return Error(Errc::kPermission,
                     fmt::format("certificate of \"{}\": {}",
                                 common_name_of(X509_get_subject_name(certificate.get())),
                                 X509_verify_cert_error_string(reason)));
    }
    return {};
}

std::string admin_common_name(std::string_view cluster) {
    return fmt::format("admin-{}", cluster);
}
std::string local_common_name(std::string_view cluster) {
    return fmt::format("local-{}", cluster);
}
std::string remote_common_name(std::string_view cluster) {
    return fmt::format("remote-{}", cluster);
}

CertificateRequest client_request(std::string common_name) {
    CertificateRequest request;
    request.common_name = std::move(common_name);
    request.usage = Usage::kClient;
    return request;
}

CertificateRequest server_request(const std::vector<std::string>& extra_dns,
                                  const std::vector<model::IpAddress>& extra_ips) {
    CertificateRequest request;
    request.common_name = kServerCommonName;
    // Client as well: etcd's own gateway connects to its listener with the server's pair.
    request.usage = Usage::kClientAndServer;
    request.dns_names = {std::string(kServerCommonName), fmt::format("*.{}", kMeshDomain)};
    request.dns_names.insert(request.dns_names.end(), extra_dns.begin(), extra_dns.end());
    model::IpAddress::Bytes loopback{};
    loopback[15] = 1;
    request.ip_addresses = {model::IpAddress::v4(127, 0, 0, 1), model::IpAddress(loopback)};
    request.ip_addresses.insert(request.ip_addresses.end(), extra_ips.begin(), extra_ips.end());
    return request;
}

}  // namespace mesh::pki
