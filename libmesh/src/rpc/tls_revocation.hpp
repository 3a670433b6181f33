// Lists of revoked certificates (CRLs) and what they say about a verified chain. Internal to rpc/.
//
// A list counts for the certificates of the CA whose key signed it, and for no other: a CA without
// a list in the file has nothing revoked, so that an intermediate CA that publishes none locks
// nobody out. A list past its nextUpdate still counts: what is revoked stays revoked, and nobody is
// locked out because the next list is late.
#pragma once

#include <openssl/x509.h>

#include <map>
#include <memory>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/clock.hpp"

namespace mesh::rpc::detail {

/// @thread one thread
class RevocationLists {
  public:
    /// Reads PEM lists, from a file or out of the text itself.
    /// @param trusted the CAs of ca-file: a list that one of them seems to have issued must be
    ///                signed by it
    /// @errors kInvalidArgument names the file and what was expected
    [[nodiscard]] static Result<std::shared_ptr<const RevocationLists>> load(
        const std::string& file, const std::vector<X509*>& trusted);

    /// The certificate of a chain (leaf first, root last) that its issuer has revoked, or null.
    [[nodiscard]] const X509* find_revoked(const STACK_OF(X509) * chain) const;
    /// When the first of them should have been followed by a newer one.
    [[nodiscard]] std::optional<WallTime> next_update() const noexcept { return next_update_; }
    [[nodiscard]] bool expired(WallTime now) const noexcept {
        return next_update_ && now >= *next_update_;
    }
    /// Issuers, by name, that no CA of ca-file is; their lists count for CAs that peers send.
    [[nodiscard]] const std::vector<std::string>& foreign() const noexcept { return foreign_; }
    /// Tells one set of lists from another.
    [[nodiscard]] const std::string& digest() const noexcept { return digest_; }

  private:
    struct Free {
        void operator()(X509_CRL* list) const { X509_CRL_free(list); }
    };
    using List = std::unique_ptr<X509_CRL, Free>;

    [[nodiscard]] Result<void> add(List list, const std::vector<X509*>& trusted,
                                   const std::string& where);
    [[nodiscard]] const std::vector<X509_CRL*>& of(X509* issuer) const;

    std::vector<List> lists_;
    std::optional<WallTime> next_update_;
    std::vector<std::string> foreign_;
    std::string digest_;
    // By the digest of an issuer's certificate: signatures are checked once.
    mutable std::map<std::string, std::vector<X509_CRL*>> by_issuer_;
};

/// The time in UTC; nullopt when it is absent or malformed.
[[nodiscard]] std::optional<WallTime> wall_time(const ASN1_TIME* time) noexcept;
/// "CN = name, O = ...", for people.
[[nodiscard]] std::string name_text(const X509_NAME* name);
/// SHA-256 of the certificate.
[[nodiscard]] std::string digest_of(const X509* certificate);

}  // namespace mesh::rpc::detail
