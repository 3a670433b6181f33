#include "datapath/wireguard/keys.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>

#include "datapath/bpf/fd.hpp"
#include "model/base64.hpp"
#include "pki/files.hpp"

namespace mesh::datapath {
namespace {

constexpr std::size_t kTextSize = 44;

Error openssl_error(std::string_view what) {
    const unsigned long code = ERR_get_error();
    char text[256] = "no reason given";
    if (code != 0) ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    return internal(fmt::format("cannot {}: {}", what, text));
}

// A text that is wiped when it goes. Its capacity is taken at once: growing would leave a copy.
struct SecretText {
    SecretText() { text.reserve(128); }
    SecretText(const SecretText&) = delete;
    SecretText& operator=(const SecretText&) = delete;
    ~SecretText() { OPENSSL_cleanse(text.data(), text.capacity()); }
    std::string text;
};

Result<void> check_owner(const std::string& path, const struct stat& status) {
    if (!S_ISREG(status.st_mode)) {
        return Error(Errc::kCorrupt, fmt::format("private key {}: expected a regular file", path));
    }
    if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return Error(Errc::kPermission,
                     fmt::format("private key {}: its mode is {:04o}, expected 0600: group or "
                                 "others could use it; chmod it, or better make a new key",
                                 path, status.st_mode & 07777U));
    }
    if (status.st_uid != ::geteuid() && status.st_uid != 0) {
        return Error(Errc::kPermission, fmt::format("private key {}: it belongs to user {}, "
                                                    "expected user {} or root",
                                                    path, status.st_uid, ::geteuid()));
    }
    return {};
}

}  // namespace

WireguardPrivateKey::WireguardPrivateKey(const Bytes& bytes) noexcept : bytes_(bytes) {
    bytes_[0] &= 248;
    bytes_[31] = static_cast<std::uint8_t>((bytes_[31] & 127) | 64);
}

WireguardPrivateKey::~WireguardPrivateKey() {
    OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

bool operator==(const WireguardPrivateKey& a, const WireguardPrivateKey& b) noexcept {
    return CRYPTO_memcmp(a.bytes_.data(), b.bytes_.data(), a.bytes_.size()) == 0;
}

Result<WireguardPrivateKey> WireguardPrivateKey::make() {
    Bytes bytes{};
    if (RAND_priv_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
        return openssl_error("get random bytes for a private key");
    }
    WireguardPrivateKey key(bytes);
    OPENSSL_cleanse(bytes.data(), bytes.size());
    return key;
}

Result<WireguardPrivateKey> WireguardPrivateKey::parse(std::string_view base64) {
    SecretText decoded;
    Bytes bytes{};
    if (base64.size() != kTextSize || !model::decode_base64(base64, decoded.text) ||
        decoded.text.size() != bytes.size()) {
        return invalid_argument("expected 44 characters of base64, as wg genkey prints");
    }
    std::ranges::transform(decoded.text, bytes.begin(),
                           [](char c) { return static_cast<std::uint8_t>(c); });
    WireguardPrivateKey key(bytes);
    OPENSSL_cleanse(bytes.data(), bytes.size());
    return key;
}

Result<model::WireguardPublicKey> WireguardPrivateKey::public_key() const {
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
        EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, bytes_.data(), bytes_.size()),
        EVP_PKEY_free);
    model::WireguardPublicKey::Bytes bytes{};
    std::size_t size = bytes.size();
    if (key == nullptr || EVP_PKEY_get_raw_public_key(key.get(), bytes.data(), &size) != 1) {
        return openssl_error("derive an X25519 public key");
    }
    return model::WireguardPublicKey(bytes);
}

Result<WireguardPrivateKey> load_private_key(const std::string& path) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status {};
    if (!file || ::fstat(file.get(), &status) != 0) {
        const Errc code = errno == ENOENT   ? Errc::kNotFound
                          : errno == EACCES ? Errc::kPermission
                                            : Errc::kUnavailable;
        return Error(code, fmt::format("cannot open private key {}: {}", path,
                                       std::generic_category().message(errno)));
    }
    MESH_CHECK(check_owner(path, status));
    SecretText content;
    content.text.resize(kTextSize + 3);  // a line break, and one to see that there is more
    const ssize_t size = ::read(file.get(), content.text.data(), content.text.size());
    if (size < 0) {
        return unavailable(fmt::format("cannot read private key {}: {}", path,
                                       std::generic_category().message(errno)));
    }
    std::string_view line(content.text.data(), static_cast<std::size_t>(size));
    if (line.ends_with('\n')) line.remove_suffix(1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    auto key = WireguardPrivateKey::parse(line);
    if (!key) {
        return Error(Errc::kCorrupt, fmt::format("private key {}: {}", path, key.error().detail()));
    }
    return key;
}

Result<void> write_private_key(const std::string& path, const WireguardPrivateKey& key) {
    SecretText content;
    model::encode_base64({reinterpret_cast<const char*>(key.bytes().data()), key.bytes().size()},
                         content.text);
    content.text.push_back('\n');
    return pki::write_file(path, content.text, pki::FileMode::kPrivate);
}

Result<WireguardPrivateKey> load_or_make_private_key(const std::string& path) {
    auto loaded = load_private_key(path);
    if (loaded || loaded.error().code() != Errc::kNotFound) return loaded;
    MESH_TRY(const WireguardPrivateKey key, WireguardPrivateKey::make());
    MESH_CHECK(write_private_key(path, key));
    return key;
}

}  // namespace mesh::datapath
