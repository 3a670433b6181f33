// mesh-proxy --access-file as its users meet it: etcdctl with certificates (also of URIs) in front,
// a real etcd behind. A changed file ends what it forbids and nothing else; a bad one changes
// nothing; a denial is told once.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <thread>

#include "etcd_process.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"

namespace mesh {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;
using Words = std::vector<std::string>;

struct Answer {
    int code = 0;
    std::string text;
    [[nodiscard]] bool has(std::string_view part) const {
        return text.find(part) != std::string::npos;
    }
};

std::size_t count_of(std::string_view text, std::string_view part) {
    std::size_t count = 0;
    for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1))
        ++count;
    return count;
}

class AccessFileTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
        now_ = SystemClock().wall_now();
        ca_ = *pki::Authority::make("mesh ca", 48h, now_ - 24h);
        write("ca.crt", ca_->certificate());
        write("ca.key", ca_->private_key());
        issue("server", pki::server_request());
        for (const char* name : {"remote", "remote-cluster2", "remote-cluster3", "stranger"})
            issue(name, pki::client_request(name));
        issue("admin", pki::client_request("admin-cluster1"));
        issue("local", pki::client_request("local-cluster1"));
        remote_ = "127.0.0.1:" + std::to_string(test::free_port());
        local_ = "127.0.0.1:" + std::to_string(test::free_port());
    }

    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    void issue(const std::string& name, const pki::CertificateRequest& request) {
        const auto pair = ca_->issue(request, now_);
        ASSERT_TRUE(pair) << pair.error().message();
        write(name + ".crt", pair->certificate);
        write(name + ".key", pair->private_key);
    }
    /// A certificate with a URI and no common name of a role, as SPIFFE's are.
    void issue_uri(const std::string& name, const std::string& uri) {
        write("uri.ext", "subjectAltName=URI:" + uri + "\nextendedKeyUsage=clientAuth\n");
        const auto run = [&](Words words) {
            words.insert(words.begin(), "openssl");
            const auto [code, text] = test::run_command(words, folder_);
            ASSERT_EQ(code, 0) << text;
        };
        run({"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
             "/O=mesh", "-keyout", folder_.file(name + ".key"), "-out", folder_.file("uri.csr")});
        run({"x509", "-req", "-in", folder_.file("uri.csr"), "-CA", folder_.file("ca.crt"),
             "-CAkey", folder_.file("ca.key"), "-CAcreateserial", "-days", "1", "-extfile",
             folder_.file("uri.ext"), "-out", folder_.file(name + ".crt")});
    }

    void start(Words more) {
        Words command = {MESH_PROXY,
                         "--cluster-name=cluster1",
                         "--cluster-id=1",
                         "--loops=2",
                         "--listen-remote=" + remote_,
                         "--listen-local=" + local_,
                         "--tls-ca=" + folder_.file("ca.crt"),
                         "--tls-cert=" + folder_.file("server.crt"),
                         "--tls-key=" + folder_.file("server.key")};
        command.insert(command.end(), more.begin(), more.end());
        proxy_ = ChildProcess(command, folder_.file("proxy.log"));
    }
    /// In front of a real etcd with a few keys.
    void start_mirror(const std::string& access) {
        etcd_ = std::make_unique<test::EtcdProcess>(folder_, test::EtcdOptions{});
        ASSERT_TRUE(until([&] { return direct({"put", "cilium/.heartbeat", "now"}) == 0; }));
        for (const char* key :
             {"cilium/state/nodes/v1/cluster1/n1", "cilium/cache/x", "mesh/local/x"})
            ASSERT_EQ(direct({"put", key, "value"}), 0);
        write("access.yaml", access);
        write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
        start({"--etcd-config=" + folder_.file("etcd.yaml"),
               "--access-file=" + folder_.file("access.yaml")});
        ASSERT_TRUE(until([&] {
            return ctl("local", {"get", "mesh/local/x"}, local_).has("value");
        })) << log();
    }

    Words etcdctl(const std::string& who, const Words& words, std::string at) {
        if (at.empty()) at = remote_;
        Words command = {"etcdctl",
                         "--endpoints=https://" + at,
                         "--cacert=" + folder_.file("ca.crt"),
                         "--dial-timeout=5s",
                         "--command-timeout=10s",
                         "--cert=" + folder_.file(who + ".crt"),
                         "--key=" + folder_.file(who + ".key")};
        command.insert(command.end(), words.begin(), words.end());
        return command;
    }
    Answer ctl(const std::string& who, const Words& words, const std::string& at = {}) {
        const auto [code, text] =
            test::run_command(etcdctl(who, words, at), folder_, {{"ETCDCTL_API", "3"}});
        return {code, text};
    }
    int direct(Words words) {
        words.insert(words.begin(),
                     {"etcdctl", "--endpoints=" + etcd_->endpoint(), "--command-timeout=5s"});
        return test::run_command(words, folder_, {{"ETCDCTL_API", "3"}}).first;
    }
    /// etcdctl watch, and what it says.
    struct Watch {
        ChildProcess process;
        std::string output;
        [[nodiscard]] std::string text() const { return test::read_text(output); }
    };
    Watch watch(const std::string& who, const std::string& prefix) {
        const std::string output = folder_.file("watch-" + who);
        return {ChildProcess(etcdctl(who, {"watch", prefix, "--prefix"}, {}), output,
                             {{"ETCDCTL_API", "3"}}),
                output};
    }
    std::string log() const { return test::read_text(folder_.file("proxy.log")); }
    bool logged(std::string_view part) const { return log().find(part) != std::string::npos; }

    static bool until(const std::function<bool()>& condition) {
        const auto end = std::chrono::steady_clock::now() + 30s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() >= end) return false;
            std::this_thread::sleep_for(20ms);
        }
        return true;
    }

    test::TemporaryFolder folder_;
    WallTime now_{};
    std::optional<pki::Authority> ca_;
    std::string remote_, local_;
    std::unique_ptr<test::EtcdProcess> etcd_;
    ChildProcess proxy_;
};

const std::string kDenied = "permission denied";
const Words kNodes = {"get", "cilium/state/nodes/", "--prefix"};

TEST_F(AccessFileTest, CiliumsUsersAndUrisAndADenialToldOnce) {
    issue_uri("monitor", "spiffe://mesh.example/monitoring/a");
    issue_uri("other", "spiffe://mesh.example/other");
    // The file of the ConfigMap, and the role of a URI.
    start_mirror(
        "users:\n- name: remote-cluster2\n  role: remote\n"
        "- uri: spiffe://mesh.example/monitoring/*\n  role: monitor\n"
        "roles:\n  monitor: {listeners: [remote], read: [cilium/.heartbeat]}\n");
    EXPECT_TRUE(ctl("remote-cluster2", kNodes).has("value")) << log();
    for (const char* who : {"remote", "remote-cluster3", "stranger", "other", "admin"})
        EXPECT_TRUE(ctl(who, kNodes).has(kDenied)) << who;
    EXPECT_TRUE(ctl("monitor", {"get", "cilium/.heartbeat"}).has("now")) << log();
    EXPECT_TRUE(ctl("monitor", kNodes).has(kDenied));
    EXPECT_TRUE(ctl("monitor", {"get", "cilium/.heartbeat"}, local_).has(kDenied));
    EXPECT_TRUE(ctl("admin", {"get", "cilium/cache/x"}, local_).has("value"));
    EXPECT_TRUE(
        ctl("admin", {"put", "cilium/cache/x", "secret"}, local_).has("write to that etcd"));

    for (int i = 0; i < 5; ++i)
        EXPECT_TRUE(ctl("remote-cluster2", {"get", "mesh/local/x"}).has(kDenied));
    EXPECT_TRUE(ctl("remote-cluster2", {"put", "cilium/state/x", "secret"}).has(kDenied));
    EXPECT_EQ(count_of(log(), "denied: \"remote-cluster2\" at 127.0.0.1"), 1U) << log();
    EXPECT_TRUE(
        logged("(listener remote): /etcdserverpb.KV/Range of \"mesh/local/x\": its role "
               "may not use such keys"))
        << log();
    EXPECT_TRUE(logged("denied: \"spiffe://mesh.example/other\" at 127.0.0.1")) << log();
    EXPECT_FALSE(logged("secret")) << log();
}

TEST_F(AccessFileTest, AChangedFileEndsWhatItForbidsAndNothingElse) {
    const std::string two = "- {name: remote-cluster2, role: remote}\n";
    const std::string three = "- {name: remote-cluster3, role: remote}\n";
    start_mirror("users:\n" + two + three);
    Watch stays = watch("remote-cluster2", "cilium/state/w");
    Watch goes = watch("remote-cluster3", "cilium/state/w");
    ASSERT_TRUE(until([&] {
        direct({"put", "cilium/state/w/open", "x"});
        return !stays.text().empty() && !goes.text().empty();
    })) << log();
    // Replaced, as editors do and as a ConfigMap is.
    write("new.yaml", "users:\n" + two);
    std::filesystem::rename(folder_.file("new.yaml"), folder_.file("access.yaml"));
    const std::string over = "watch is canceled by the server";
    ASSERT_TRUE(until([&] { return goes.text().find(over) != std::string::npos; })) << log();
    EXPECT_NE(goes.text().find("watch was canceled (etcdserver: permission denied)"),
              std::string::npos)
        << goes.text();
    EXPECT_TRUE(ctl("remote-cluster3", kNodes).has(kDenied));
    EXPECT_TRUE(logged("has lost the right to a call that ran")) << log();
    ASSERT_TRUE(until([&] {
        direct({"put", "cilium/state/w/last", "x"});
        return stays.text().find("cilium/state/w/last") != std::string::npos;
    })) << stays.text();
    EXPECT_EQ(stays.text().find("cancel"), std::string::npos) << stays.text();
    EXPECT_EQ(goes.text().find("cilium/state/w/last"), std::string::npos);

    // A role that may still watch, and less than before: that watch ends, its stream does not.
    write("new.yaml", "users:\n" + two +
                          "roles:\n  remote: {read: [cilium/.heartbeat, cilium/state/nodes/*]}\n");
    std::filesystem::rename(folder_.file("new.yaml"), folder_.file("access.yaml"));
    ASSERT_TRUE(until([&] { return stays.text().find(over) != std::string::npos; })) << log();
    EXPECT_TRUE(ctl("remote-cluster2", kNodes).has("value"));
}

TEST_F(AccessFileTest, ABadFileLeavesWhatWasReadLast) {
    start_mirror("users:\n- {name: remote-cluster2, role: remote}\n");
    write("access.yaml", "users:\n- {name: stranger, role: remote}\n- {name: x, role: boss}\n");
    ASSERT_TRUE(until([&] { return logged("what was read last holds on"); })) << log();
    EXPECT_TRUE(logged(folder_.file("access.yaml") +
                       ": line 3: users[1].role: expected one of the roles admin, local, none, "
                       "remote, got \"boss\""))
        << log();
    EXPECT_TRUE(ctl("remote-cluster2", kNodes).has("value"));
    EXPECT_TRUE(ctl("stranger", kNodes).has(kDenied));
    // Told once, and again when somebody asks for it.
    proxy_.send(SIGHUP);
    ASSERT_TRUE(until([&] { return count_of(log(), "users[1].role") == 2; })) << log();
    std::filesystem::remove(folder_.file("access.yaml"));
    ASSERT_TRUE(until([&] { return logged("access.yaml: No such file"); })) << log();
    EXPECT_TRUE(ctl("remote-cluster2", kNodes).has("value"));
    write("access.yaml", "users:\n- {name: stranger, role: remote}\n");
    ASSERT_TRUE(until([&] { return ctl("stranger", kNodes).has("value"); })) << log();
    EXPECT_TRUE(ctl("remote-cluster2", kNodes).has(kDenied));
}

TEST_F(AccessFileTest, WritersOfAnOwnStore) {
    write("access.yaml",
          "users:\n- {name: stranger, role: writer}\n- {name: \"admin-{cluster}\", role: none}\n"
          "roles:\n  writer: {listeners: [local], read: [own/*], write: [own/*]}\n");
    start({"--embedded", "--access-file=" + folder_.file("access.yaml")});
    ASSERT_TRUE(until([&] {
        return ctl("stranger", {"put", "own/x", "mine"}, local_).code == 0;
    })) << log();
    EXPECT_TRUE(ctl("stranger", {"get", "own/", "--prefix"}, local_).has("mine"));
    for (const Words& words : {Words{"put", "other/x", "y"}, Words{"del", "", "--prefix"},
                               Words{"get", "ow", "--prefix"}, Words{"compaction", "2"},
                               Words{"lock", "own/lock", "true"}})
        EXPECT_TRUE(ctl("stranger", words, local_).has(kDenied)) << words[0] << words[1];
    EXPECT_TRUE(ctl("stranger", {"get", "own/x"}).has(kDenied)) << "not on this listener";
    EXPECT_TRUE(ctl("admin", {"get", "own/x"}, local_).has(kDenied));
}

TEST_F(AccessFileTest, AtStartAMistakeIsTheEnd) {
    write("access.yaml", "users:\n- {nam: x, role: remote}\n");
    start({"--embedded", "--access-file=" + folder_.file("access.yaml")});
    EXPECT_EQ(proxy_.wait(), 2);
    EXPECT_TRUE(logged("line 2: users[0].nam: expected no such field")) << log();
    start({"--embedded", "--access-file=" + folder_.file("nothing.yaml")});
    EXPECT_NE(proxy_.wait(), 0);
    EXPECT_TRUE(logged("nothing.yaml: No such file")) << log();
    start({"--embedded", std::string("--access-file=") + ACCESS_EXAMPLE});
    EXPECT_TRUE(until([&] { return ctl("local", {"get", "a"}, local_).code == 0; })) << log();
}

}  // namespace
}  // namespace mesh
