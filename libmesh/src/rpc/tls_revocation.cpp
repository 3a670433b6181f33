#include "rpc/tls_revocation.hpp"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "rpc/tls_files.hpp"

namespace mesh::rpc::detail {

namespace {

// Chains of other CAs than this many are looked at anew each time.
constexpr std::size_t kMostIssuers = 256;

/// The list names its issuer's key, and that is another one: a CA of the same name.
bool names_another_key(X509_CRL* list, const X509* issuer) {
    auto* key = static_cast<AUTHORITY_KEYID*>(
        X509_CRL_get_ext_d2i(list, NID_authority_key_identifier, nullptr, nullptr));
    if (key == nullptr) return false;
    const ASN1_OCTET_STRING* own = X509_get0_subject_key_id(const_cast<X509*>(issuer));
    const bool another =
        key->keyid != nullptr && own != nullptr && ASN1_OCTET_STRING_cmp(key->keyid, own) != 0;
    AUTHORITY_KEYID_free(key);
    return another;
}

bool issued(X509_CRL* list, X509* issuer) {
    if (X509_NAME_cmp(X509_CRL_get_issuer(list), X509_get_subject_name(issuer)) != 0) return false;
    EVP_PKEY* key = X509_get0_pubkey(issuer);
    const bool good = key != nullptr && X509_CRL_verify(list, key) == 1;
    ERR_clear_error();
    return good;
}

bool has_foreign_critical(const X509_CRL* list) {
    for (int i = 0; i < X509_CRL_get_ext_count(list); ++i) {
        X509_EXTENSION* extension = X509_CRL_get_ext(list, i);
        const int nid = OBJ_obj2nid(X509_EXTENSION_get_object(extension));
        if (X509_EXTENSION_get_critical(extension) != 0 && nid != NID_issuing_distribution_point)
            return true;
    }
    return false;
}

}  // namespace

std::optional<WallTime> wall_time(const ASN1_TIME* time) noexcept {
    std::tm fields{};
    if (time == nullptr || ASN1_TIME_to_tm(time, &fields) != 1) return std::nullopt;
    return WallTime(std::chrono::seconds(::timegm(&fields)));
}

std::string name_text(const X509_NAME* name) {
    const Bio bio(BIO_new(BIO_s_mem()), &BIO_free);
    if (!bio || X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB) < 0)
        return "?";
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<std::size_t>(std::clamp(size, 0L, 300L))};
}

std::string digest_of(const X509* certificate) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    if (X509_digest(certificate, EVP_sha256(), bytes.data(), &size) != 1) return {};
    return {reinterpret_cast<const char*>(bytes.data()), size};
}

Result<std::shared_ptr<const RevocationLists>> RevocationLists::load(
    const std::string& file, const std::vector<X509*>& trusted) {
    ERR_clear_error();
    auto lists = std::make_shared<RevocationLists>();
    const std::string where = "crl-file " + shown(file);
    const Bio bio = open_pem(file);
    while (bio) {
        List list(PEM_read_bio_X509_CRL(bio.get(), nullptr, no_password, nullptr));
        if (!list) break;
        MESH_CHECK(lists->add(std::move(list), trusted, where));
    }
    // The end of the text is an error too, the only one that is to be expected.
    const unsigned long error = ERR_peek_last_error();
    const bool whole = ERR_GET_LIB(error) == ERR_LIB_PEM &&
                       ERR_GET_REASON(error) == PEM_R_NO_START_LINE && !lists->lists_.empty();
    if (!whole) return bad_file("crl-file", file, "PEM lists of revoked certificates (X509 CRL)");
    ERR_clear_error();
    return std::shared_ptr<const RevocationLists>(std::move(lists));
}

Result<void> RevocationLists::add(List list, const std::vector<X509*>& trusted,
                                  const std::string& where) {
    const X509_NAME* issuer = X509_CRL_get_issuer(list.get());
    const std::string text = where + ": the list of " + name_text(issuer);
    if (X509_CRL_get_ext_by_NID(list.get(), NID_delta_crl, -1) >= 0)
        return invalid_argument(text + " tells changes only: expected a full one");
    if (has_foreign_critical(list.get()))
        return invalid_argument(text + " has a critical extension that is not understood");
    bool named = false;
    bool good = false;
    for (X509* ca : trusted) {
        if (X509_NAME_cmp(issuer, X509_get_subject_name(ca)) != 0 ||
            names_another_key(list.get(), ca))
            continue;
        named = true;
        good = good || issued(list.get(), ca);
    }
    if (named && !good)
        return invalid_argument(text + ": expected the signature of that CA in ca-file");
    if (!named) foreign_.push_back(name_text(issuer));
    if (const auto next = wall_time(X509_CRL_get0_nextUpdate(list.get())))
        next_update_ = std::min(*next, next_update_.value_or(*next));
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    X509_CRL_digest(list.get(), EVP_sha256(), bytes.data(), &size);
    digest_.append(reinterpret_cast<const char*>(bytes.data()), size);
    lists_.push_back(std::move(list));
    return {};
}

const std::vector<X509_CRL*>& RevocationLists::of(X509* issuer) const {
    if (by_issuer_.size() > kMostIssuers) by_issuer_.clear();
    const auto [it, fresh] = by_issuer_.try_emplace(digest_of(issuer));
    if (fresh) {
        for (const List& list : lists_)
            if (issued(list.get(), issuer)) it->second.push_back(list.get());
    }
    return it->second;
}

const X509* RevocationLists::find_revoked(const STACK_OF(X509) * chain) const {
    for (int i = 0; i + 1 < sk_X509_num(chain); ++i) {
        X509* certificate = sk_X509_value(chain, i);
        for (X509_CRL* list : of(sk_X509_value(chain, i + 1))) {
            X509_REVOKED* entry = nullptr;
            // 2: taken off the list again.
            if (X509_CRL_get0_by_cert(list, &entry, certificate) == 1) return certificate;
        }
    }
    return nullptr;
}

}  // namespace mesh::rpc::detail
