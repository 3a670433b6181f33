#include "datapath/wireguard/keys.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "datapath/wireguard/device.hpp"
#include "pki/files.hpp"

namespace mesh::datapath {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// RFC 7748 §6.1, Alice.
constexpr std::string_view kPrivate = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
constexpr std::string_view kPublic = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

class KeyFile : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "wgkey-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
        path_ = directory_ + "/wireguard.key";
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }
    void put(std::string_view text, mode_t mode = 0600) {
        std::ofstream(path_, std::ios::binary) << text;
        ::chmod(path_.c_str(), mode);
    }
    Error refused() {
        const auto key = load_private_key(path_);
        EXPECT_FALSE(key);
        return key ? Error() : key.error();
    }
    std::string directory_, path_;
};

TEST(WireguardPrivateKey, GivesThePublicKeyOfX25519) {
    const auto key = WireguardPrivateKey::parse(kPrivate);
    ASSERT_TRUE(key);
    EXPECT_EQ(key->public_key().value().to_string(), kPublic);
}

TEST(WireguardPrivateKey, IsNewEachTimeAndClamped) {
    const auto a = WireguardPrivateKey::make().value();
    const auto b = WireguardPrivateKey::make().value();
    EXPECT_FALSE(a == b);
    EXPECT_TRUE(a == WireguardPrivateKey(a));
    EXPECT_EQ(a.bytes()[0] & 7, 0);
    EXPECT_EQ(a.bytes()[31] & 0xc0, 0x40);
}

TEST(WireguardPrivateKey, IsWipedWhenItGoes) {
    alignas(WireguardPrivateKey) std::array<std::byte, sizeof(WireguardPrivateKey)> memory{};
    auto* key = new (memory.data()) WireguardPrivateKey(WireguardPrivateKey::Bytes{1, 2, 3});
    key->~WireguardPrivateKey();
    // Through volatile: the object is gone, its memory is ours.
    const volatile std::byte* bytes = memory.data();
    for (std::size_t i = 0; i < memory.size(); ++i) EXPECT_TRUE(bytes[i] == std::byte{0}) << i;
}

TEST(WireguardPrivateKey, NoErrorTellsTheText) {
    const std::string almost(kPrivate.substr(0, 43));
    const auto refused = WireguardPrivateKey::parse(almost);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().detail(), Not(HasSubstr(almost.substr(0, 8))));
}

TEST_F(KeyFile, IsMadeOnceAndLoadedAfterwards) {
    EXPECT_EQ(refused().code(), Errc::kNotFound);
    const auto made = load_or_make_private_key(path_).value();
    struct stat status {};
    ASSERT_EQ(::stat(path_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777U, 0600U);
    EXPECT_EQ(status.st_size, 45);
    EXPECT_TRUE(load_or_make_private_key(path_).value() == made);
    EXPECT_TRUE(load_private_key(path_).value() == made);
}

TEST_F(KeyFile, OfWgGenkeyIsRead) {
    for (const char* end : {"", "\n", "\r\n"}) {
        put(std::string(kPrivate) + end);
        const auto key = load_private_key(path_);
        ASSERT_TRUE(key) << key.error().message();
        EXPECT_EQ(key->public_key().value().to_string(), kPublic);
    }
}

TEST_F(KeyFile, ThatOthersCanUseIsRefusedAndNeverReplaced) {
    for (const mode_t mode : {0640U, 0604U, 0620U, 0602U, 0660U, 0644U, 0777U}) {
        put(kPrivate, mode);
        const Error error = refused();
        EXPECT_EQ(error.code(), Errc::kPermission) << mode;
        EXPECT_THAT(error.detail(),
                    AllOf(HasSubstr(path_), HasSubstr("expected 0600"), HasSubstr("mode is 0")));
        EXPECT_EQ(load_or_make_private_key(path_).error().code(), Errc::kPermission);
    }
    EXPECT_EQ(pki::read_file(path_).value(), kPrivate);
}

TEST_F(KeyFile, ThatHoldsNoKeyIsRefusedWithoutTellingWhat) {
    for (const std::string& bad :
         {std::string(), std::string("\n"), std::string(kPrivate.substr(1)),
          std::string(kPrivate) + "x", std::string(kPrivate) + "\n\n", std::string(5000, 'A'),
          "x" + std::string(kPrivate)}) {
        put(bad);
        const Error error = refused();
        EXPECT_EQ(error.code(), Errc::kCorrupt);
        EXPECT_THAT(error.detail(),
                    AllOf(HasSubstr(path_), HasSubstr("expected"), Not(HasSubstr("dwdtCnMY"))));
        EXPECT_EQ(load_or_make_private_key(path_).error().code(), Errc::kCorrupt);
        EXPECT_EQ(pki::read_file(path_).value(), bad);
    }
}

TEST_F(KeyFile, IsARegularFile) {
    EXPECT_EQ(load_private_key(directory_).error().code(), Errc::kCorrupt);
    ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    EXPECT_EQ(refused().code(), Errc::kCorrupt);  // and does not wait for a writer
}

TEST(WireguardDeviceName, IsTheNodesOwnAndFits) {
    const std::string name = wireguard_device_name("ape", "n1");
    EXPECT_EQ(name, "wg-0f0dd89c8309");
    EXPECT_EQ(name.size(), 15U);
    EXPECT_NE(name, wireguard_device_name("ape", "n2"));
    EXPECT_NE(name, wireguard_device_name("bee", "n1"));
    EXPECT_NE(wireguard_device_name("a", "bc"), wireguard_device_name("ab", "c"));
}

}  // namespace
}  // namespace mesh::datapath
