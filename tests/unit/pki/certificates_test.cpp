#include "pki/certificates.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "pki/files.hpp"

namespace mesh::pki {
namespace {

using model::IpAddress;
using std::chrono::hours;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class Certificates : public testing::Test {
  protected:
    void SetUp() override {
        std::string name = testing::TempDir() + "pki_XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }

    std::string path(const std::string& name) const { return directory_ + "/" + name; }

    // The openssl program as a second opinion; returns its exit status and output.
    std::pair<int, std::string> openssl(const std::string& arguments) const {
        const std::string out = path("out");
        const int status =
            std::system(("openssl " + arguments + " >" + out + " 2>&1 </dev/null").c_str());
        std::ifstream file(out);
        return {WEXITSTATUS(status), {std::istreambuf_iterator<char>(file), {}}};
    }

    SystemClock clock_;
    WallTime now_ = clock_.wall_now();
    std::string directory_;
};

TEST_F(Certificates, OpensslAcceptsTheServersAndRefusesAnothers) {
    const Authority ours = Authority::make("ours", hours(24), now_).value();
    const Authority other = Authority::make("ours", hours(24), now_).value();
    const KeyPair server =
        ours.issue(server_request({"ape.example.org"}, {IpAddress::v4(10, 0, 0, 1)}), now_).value();
    ASSERT_TRUE(write_file(path("ca"), ours.certificate(), FileMode::kPublic));
    ASSERT_TRUE(write_file(path("other"), other.certificate(), FileMode::kPublic));
    ASSERT_TRUE(write_file(path("crt"), server.certificate, FileMode::kPublic));
    ASSERT_TRUE(write_file(path("key"), server.private_key, FileMode::kPrivate));

    const std::string strict = " -x509_strict -purpose sslserver ";
    auto [ok, text] = openssl("verify -CAfile " + path("ca") + strict + path("crt"));
    EXPECT_EQ(ok, 0) << text;
    for (const char* name :
         {"clustermesh-apiserver.cilium.io", "cluster2.mesh.cilium.io", "ape.example.org"}) {
        auto [status, out] = openssl("verify -CAfile " + path("ca") + strict + "-verify_hostname " +
                                     name + " " + path("crt"));
        EXPECT_EQ(status, 0) << name << out;
    }
    for (const char* ip : {"127.0.0.1", "::1", "10.0.0.1"}) {
        auto [status, out] = openssl("verify -CAfile " + path("ca") + strict + "-verify_ip " + ip +
                                     " " + path("crt"));
        EXPECT_EQ(status, 0) << ip << out;
    }
    EXPECT_NE(openssl("verify -CAfile " + path("ca") + strict + "-verify_hostname evil.org " +
                      path("crt"))
                  .first,
              0);
    EXPECT_NE(openssl("verify -CAfile " + path("other") + strict + path("crt")).first, 0);
    EXPECT_EQ(openssl("pkey -check -noout -in " + path("key")).first, 0);
    EXPECT_THAT(openssl("x509 -noout -text -in " + path("crt")).second,
                testing::AllOf(HasSubstr("prime256v1"), HasSubstr("ecdsa-with-SHA256")));
}

TEST_F(Certificates, ClientCertificateServesAsClientOnly) {
    const Authority ca = Authority::make("ca", hours(24), now_).value();
    const KeyPair client = ca.issue(client_request(remote_common_name("cluster1")), now_).value();
    ASSERT_TRUE(write_file(path("ca"), ca.certificate(), FileMode::kPublic));
    ASSERT_TRUE(write_file(path("crt"), client.certificate, FileMode::kPublic));
    const std::string verify_with = "verify -x509_strict -CAfile " + path("ca") + " -purpose ";
    EXPECT_EQ(openssl(verify_with + "sslclient " + path("crt")).first, 0);
    EXPECT_NE(openssl(verify_with + "sslserver " + path("crt")).first, 0);
    EXPECT_TRUE(verify(client.certificate, ca.certificate(), Usage::kClient, now_));
    const auto refused = verify(client.certificate, ca.certificate(), Usage::kServer, now_);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kPermission);
    EXPECT_THAT(refused.error().detail(), HasSubstr("remote-cluster1"));
}

TEST_F(Certificates, InspectTellsWhatWasAskedFor) {
    const Authority ca = Authority::make("mesh CA", hours(48), now_).value();
    CertificateRequest request = client_request(admin_common_name("c1"));
    request.dns_names = {"a.b", "*.c.d"};
    request.ip_addresses = {IpAddress::v4(10, 0, 0, 1), IpAddress::parse("fd00::1").value()};
    request.usage = Usage::kClientAndServer;
    request.validity = hours(2);
    const CertificateInfo info = inspect(ca.issue(request, now_).value().certificate).value();
    EXPECT_EQ(info.common_name, "admin-c1");
    EXPECT_EQ(info.issuer_common_name, "mesh CA");
    EXPECT_EQ(info.dns_names, request.dns_names);
    EXPECT_EQ(info.ip_addresses, request.ip_addresses);
    EXPECT_TRUE(info.for_client);
    EXPECT_TRUE(info.for_server);
    EXPECT_FALSE(info.is_authority);
    EXPECT_FALSE(info.expired(now_ + hours(1)));
    EXPECT_TRUE(info.expired(now_ + hours(2)));
    EXPECT_LT(info.not_before, now_);
    EXPECT_EQ(info.serial.size(), 40U);
    const CertificateInfo authority = inspect(ca.certificate()).value();
    EXPECT_TRUE(authority.is_authority);
    EXPECT_FALSE(authority.for_client);
}

TEST_F(Certificates, SecondClusterInheritsTheAuthority) {
    const Authority first = Authority::make("ca", hours(24), now_).value();
    const Authority second =
        Authority::load({first.certificate(), first.private_key()}, now_).value();
    const KeyPair issued = second.issue(client_request("remote-c2"), now_).value();
    EXPECT_TRUE(verify(issued.certificate, first.certificate(), Usage::kClient, now_));
    EXPECT_EQ(first.certificate(), second.certificate());
}

TEST_F(Certificates, LoadRefusesWhatIsNoAuthority) {
    const Authority ca = Authority::make("ca", hours(24), now_).value();
    const Authority other = Authority::make("ca", hours(24), now_).value();
    const KeyPair leaf = ca.issue(client_request("leaf"), now_).value();
    const auto swapped = Authority::load({ca.certificate(), other.private_key()}, now_);
    ASSERT_FALSE(swapped);
    EXPECT_THAT(swapped.error().detail(), HasSubstr("does not belong"));
    EXPECT_FALSE(Authority::load(leaf, now_));
    EXPECT_FALSE(Authority::load({ca.certificate(), ca.private_key()}, now_ + hours(25)));
    EXPECT_FALSE(Authority::load({"", ca.private_key()}, now_));
    const auto garbled = Authority::load({ca.certificate(), "SECRETSECRET"}, now_);
    ASSERT_FALSE(garbled);
    EXPECT_THAT(garbled.error().detail(), Not(HasSubstr("SECRET")));
}

TEST_F(Certificates, ValidityIsCutAtTheAuthoritysEnd) {
    const Authority ca = Authority::make("ca", hours(24), now_).value();
    CertificateRequest request = client_request("x");
    request.validity = hours(10000);
    const KeyPair pair = ca.issue(request, now_).value();
    EXPECT_EQ(inspect(pair.certificate).value().not_after,
              inspect(ca.certificate()).value().not_after);
    const auto late = verify(pair.certificate, ca.certificate(), Usage::kClient, now_ + hours(25));
    ASSERT_FALSE(late);
    EXPECT_THAT(late.error().detail(), HasSubstr("expired"));
}

TEST_F(Certificates, BadRequestNamesTheField) {
    const Authority ca = Authority::make("ca", hours(24), now_).value();
    EXPECT_FALSE(ca.issue(client_request(""), now_));
    EXPECT_FALSE(ca.issue(client_request(std::string(65, 'a')), now_));
    EXPECT_FALSE(ca.issue(client_request("a\nb"), now_));
    CertificateRequest request = client_request("x");
    for (const char* bad : {"", "a..b", "*", "*.", "a,IP:1.2.3.4", "a*.b", ".a"}) {
        request.dns_names = {bad};
        const auto refused = ca.issue(request, now_);
        ASSERT_FALSE(refused) << bad;
        EXPECT_THAT(refused.error().detail(), HasSubstr("DNS name"));
    }
    EXPECT_FALSE(Authority::make("ca", hours(0), now_));
    EXPECT_FALSE(inspect("no pem"));
    EXPECT_FALSE(verify("no pem", ca.certificate(), Usage::kClient, now_));
    EXPECT_FALSE(verify(ca.certificate(), "", Usage::kClient, now_));
}

TEST_F(Certificates, OpensslTakesTheRevocationListAndRefusesWhatIsOnIt) {
    const Authority ours = Authority::make("ours", hours(24), now_).value();
    ASSERT_TRUE(write_file(path("ca"), ours.certificate(), FileMode::kPublic));
    std::vector<std::string> serials;
    for (const char* name : {"one", "two"}) {
        const KeyPair pair = ours.issue(client_request(name), now_).value();
        ASSERT_TRUE(write_file(path(name), pair.certificate, FileMode::kPublic));
        serials.push_back(inspect(pair.certificate).value().serial);
    }
    const std::string list = ours.revocation_list({serials[0]}, now_, hours(2)).value();
    ASSERT_TRUE(write_file(path("crl"), list, FileMode::kPublic));
    const std::string check =
        "verify -crl_check -CAfile " + path("ca") + " -CRLfile " + path("crl") + " ";
    auto [revoked, text] = openssl(check + path("one"));
    EXPECT_NE(revoked, 0);
    EXPECT_THAT(text, HasSubstr("revoked"));
    EXPECT_EQ(openssl(check + path("two")).first, 0);
    EXPECT_THAT(ours.revocation_list({"12xy"}, now_, hours(2)).error().message(),
                HasSubstr("serial \"12xy\": expected hexadecimal digits"));
}

TEST_F(Certificates, PrivateFileIsNeverReadableByOthers) {
    const mode_t old = ::umask(0);
    ASSERT_TRUE(write_file(path("key"), "one", FileMode::kPrivate));
    ASSERT_TRUE(write_file(path("key"), "two", FileMode::kPrivate));
    ::umask(old);
    struct stat status {};
    ASSERT_EQ(::stat(path("key").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
    EXPECT_EQ(read_file(path("key")).value(), "two");
}

TEST_F(Certificates, FailedWriteLeavesNothing) {
    std::filesystem::create_directory(path("taken"));
    std::ofstream(path("taken/x")) << "x";
    const auto failed = write_file(path("taken"), "x", FileMode::kPublic);
    ASSERT_FALSE(failed);
    EXPECT_THAT(failed.error().detail(), HasSubstr(path("taken")));
    EXPECT_FALSE(write_file(path("absent/x"), "x", FileMode::kPublic));
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
        names.push_back(entry.path().filename());
    }
    EXPECT_THAT(names, ElementsAre("taken"));
}

TEST_F(Certificates, StagingKeepsTheWatchedDirectoryClean) {
    std::filesystem::create_directory(path("watched"));
    ASSERT_TRUE(write_file(path("watched/c"), "x", FileMode::kPublic, directory_));
    EXPECT_EQ(read_file(path("watched/c")).value(), "x");
}

TEST_F(Certificates, ReadIsBounded) {
    ASSERT_TRUE(write_file(path("f"), std::string(100, 'x'), FileMode::kPublic));
    EXPECT_EQ(read_file(path("f"), 100).value().size(), 100U);
    EXPECT_EQ(read_file(path("f"), 99).error().code(), Errc::kCapacity);
    EXPECT_EQ(read_file(path("g")).error().code(), Errc::kNotFound);
    EXPECT_EQ(read_file(directory_).error().code(), Errc::kUnavailable);
}

}  // namespace
}  // namespace mesh::pki
