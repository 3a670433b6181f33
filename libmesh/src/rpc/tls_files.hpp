// PEM texts, in files or in their place, and errors that name the file. Internal to rpc/.
#pragma once

#include <openssl/bio.h>
#include <openssl/x509.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <mesh/error.hpp>
#include <string>

namespace mesh::rpc::detail {

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

/// Of an empty name, or of PEM text in place of one: always the same.
[[nodiscard]] FileMark mark_of(const std::string& path);

/// PEM text stands in place of a file's name.
[[nodiscard]] bool is_pem(const std::string& text);
/// For error texts and logs: secrets are never in them.
[[nodiscard]] std::string shown(const std::string& file);
/// OpenSSL's newest complaint, without file contents; clears its queue.
[[nodiscard]] std::string openssl_reason();
/// "<field> <path>: expected <expected>: <cause>", kInvalidArgument; clears OpenSSL's queue.
[[nodiscard]] Error bad_file(const char* field, const std::string& path, const char* expected);
/// A key that asks for a password is refused, not asked about on a terminal.
int no_password(char*, int, int, void*);

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

/// The file, or the text itself; null when it cannot be opened.
[[nodiscard]] Bio open_pem(const std::string& file);
/// The next certificate of a text, or null at its end.
[[nodiscard]] Certificate next_certificate(BIO* bio);

}  // namespace mesh::rpc::detail
