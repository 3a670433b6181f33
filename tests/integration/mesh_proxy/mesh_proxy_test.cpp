// mesh-proxy as its users meet it: etcdctl with certificates in front, a real etcd (or its own
// store) behind. Each refusal is shown, and what the loss of etcd does to readers.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <optional>
#include <sstream>
#include <thread>

#include "etcd_process.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"

namespace mesh {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;
using test::EtcdOptions;
using test::EtcdProcess;
using Words = std::vector<std::string>;

struct Answer {
    int code = 0;
    std::string text;
    [[nodiscard]] bool has(std::string_view part) const {
        return text.find(part) != std::string::npos;
    }
};

class MeshProxyTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
        now_ = SystemClock().wall_now();
        ca_ = *pki::Authority::make("mesh ca", 48h, now_ - 24h);
        write("ca.crt", ca_->certificate());
        issue("server", pki::server_request());
        issue("remote", pki::client_request("remote"));
        issue("remote-cluster2", pki::client_request("remote-cluster2"));
        issue("admin", pki::client_request("admin-cluster1"));
        issue("local", pki::client_request("local-cluster1"));
        issue("stranger", pki::client_request("somebody"));
        remote_ = "127.0.0.1:" + std::to_string(test::free_port());
        local_ = "127.0.0.1:" + std::to_string(test::free_port());
    }

    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    void issue(const std::string& name, const pki::CertificateRequest& request,
               const pki::Authority* by = nullptr, std::optional<WallTime> at = {}) {
        const auto pair = (by != nullptr ? *by : *ca_).issue(request, at.value_or(now_));
        ASSERT_TRUE(pair) << pair.error().message();
        write(name + ".crt", pair->certificate);
        write(name + ".key", pair->private_key);
    }

    void start_proxy(Words more) {
        Words command = {MESH_PROXY,
                         "--cluster-name=cluster1",
                         "--cluster-id=1",
                         "--listen-remote=" + remote_,
                         "--listen-local=" + local_,
                         "--tls-ca=" + folder_.file("ca.crt"),
                         "--tls-cert=" + folder_.file("server.crt"),
                         "--tls-key=" + folder_.file("server.key"),
                         "--status-socket=" + folder_.file("proxy.sock")};
        command.insert(command.end(), more.begin(), more.end());
        command.insert(command.begin(), wrapper_.begin(), wrapper_.end());
        proxy_ = ChildProcess(command, folder_.file("proxy.log"));
    }
    void start_mirror() {
        etcd_ = std::make_unique<EtcdProcess>(folder_, EtcdOptions{});
        write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
        start_proxy({"--etcd-config=" + folder_.file("etcd.yaml")});
        ASSERT_TRUE(until([&] {
            return ctl("remote", {"get", "cilium/.heartbeat"}).code == 0;
        })) << log();
    }

    /// etcdctl at the remote listener (or `at`) with a certificate by name; "" = none.
    Answer ctl(const std::string& who, Words words, std::string at = {}) {
        if (at.empty()) at = remote_;
        Words command = {"etcdctl", "--endpoints=https://" + at,
                         "--cacert=" + folder_.file("ca.crt"), "--dial-timeout=1s",
                         "--command-timeout=3s"};
        if (!who.empty()) {
            command.push_back("--cert=" + folder_.file(who + ".crt"));
            command.push_back("--key=" + folder_.file(who + ".key"));
        }
        command.insert(command.end(), words.begin(), words.end());
        const auto [code, text] = test::run_command(command, folder_, {{"ETCDCTL_API", "3"}});
        return {code, text};
    }
    /// etcdctl at the real etcd.
    Answer direct(Words words) {
        words.insert(words.begin(),
                     {"etcdctl", "--endpoints=" + etcd_->endpoint(), "--command-timeout=3s"});
        const auto [code, text] = test::run_command(words, folder_, {{"ETCDCTL_API", "3"}});
        EXPECT_EQ(code, 0) << text;
        return {code, text};
    }
    std::string status() {
        return test::run_command({"curl", "-s", "--unix-socket", folder_.file("proxy.sock"),
                                  "http://proxy/v1/status"},
                                 folder_)
            .second;
    }
    std::string log() const { return test::read_text(folder_.file("proxy.log")); }

    static bool until(const std::function<bool()>& condition) {
        const auto end = std::chrono::steady_clock::now() + 30s;
        while (!condition()) {
            if (std::chrono::steady_clock::now() >= end) return false;
            std::this_thread::sleep_for(20ms);
        }
        return true;
    }

    void fill() {
        // First: of a change outside its prefixes a mirror learns the revision later, by progress.
        direct({"put", "other/key", "not of the mesh"});
        direct({"put", "cilium/.heartbeat", "now"});
        direct({"put", "cilium/state/nodes/v1/cluster1/n1", "node"});
        direct({"put", "cilium/state/ip/v1/default/10.10.0.1", "ip"});
        direct({"put", "cilium/cluster-config/cluster1", "config"});
        direct({"put", "cilium/cluster-config/cluster9", "another's"});
        direct({"put", "cilium/synced/cluster1/cilium/state/nodes/v1", "t"});
        direct({"put", "cilium/cache/nodes/v1/cluster9/n1", "cached"});
        direct({"put", "mesh/local/services/v1/default/web", "local"});
    }

    test::TemporaryFolder folder_;
    WallTime now_{};
    std::optional<pki::Authority> ca_;
    std::string remote_, local_;
    Words wrapper_;  // in front of the proxy's command
    std::unique_ptr<EtcdProcess> etcd_;
    ChildProcess proxy_;
};

const std::string kDenied = "permission denied";

TEST_F(MeshProxyTest, RemotesReadTheMeshAndNothingElse) {
    start_mirror();
    fill();
    ASSERT_TRUE(until([&] {
        return ctl("local", {"get", "mesh/local/", "--prefix"}, local_).has("local");
    })) << log();
    for (const std::string who : {"remote", "remote-cluster2"}) {
        // The very answer of etcd, revisions and all.
        for (const Words& words :
             {Words{"get", "cilium/state/", "--prefix", "-w", "fields"},
              Words{"get", "cilium/cluster-config/cluster1", "-w", "fields"},
              Words{"get", "cilium/synced/cluster1/", "--prefix", "-w", "fields"},
              Words{"get", "cilium/.heartbeat", "-w", "fields"}}) {
            const Answer ours = ctl(who, words);
            EXPECT_EQ(ours.code, 0) << ours.text;
            EXPECT_EQ(ours.text, direct(words).text);
        }
        for (const Words& words : {Words{"get", "mesh/local/", "--prefix"},
                                   Words{"get", "cilium/cache/", "--prefix"},
                                   Words{"get", "cilium/cluster-config/", "--prefix"},
                                   Words{"get", "cilium/cluster-config/cluster9"},
                                   Words{"get", "cilium/synced/cluster9/", "--prefix"},
                                   Words{"get", "", "--prefix"},
                                   Words{"get", "cilium/state/", "--from-key"},
                                   Words{"get", "cilium/stat", "--prefix"},
                                   Words{"get", "other/key"},
                                   Words{"put", "cilium/state/x", "y"},
                                   Words{"put", "cilium/.heartbeat", "y"},
                                   Words{"del", "cilium/state/", "--prefix"},
                                   Words{"lease", "grant", "60"},
                                   Words{"lease", "list"},
                                   Words{"lease", "revoke", "1"},
                                   Words{"lease", "timetolive", "1"},
                                   Words{"compaction", "2"},
                                   Words{"user", "list"},
                                   Words{"user", "add", "a:b"},
                                   Words{"role", "list"},
                                   Words{"auth", "enable"},
                                   Words{"member", "list"},
                                   Words{"member", "add", "x", "--peer-urls=http://127.0.0.1:1"},
                                   Words{"endpoint", "status"},
                                   Words{"endpoint", "hashkv"},
                                   Words{"alarm", "list"},
                                   Words{"defrag"},
                                   Words{"snapshot", "save", folder_.file("snapshot")},
                                   Words{"move-leader", "1"},
                                   Words{"lock", "cilium/state/lock"}}) {
            const Answer refused = ctl(who, words);
            std::string all;
            for (const auto& w : words) all += w + " ";
            EXPECT_NE(refused.code, 0) << all << refused.text;
            EXPECT_TRUE(refused.has(kDenied) || refused.has("PermissionDenied"))
                << all << ": " << refused.text;
        }
    }
    EXPECT_EQ(direct({"get", "cilium/state/", "--prefix", "--keys-only"}).text,
              "cilium/state/ip/v1/default/10.10.0.1\n\ncilium/state/nodes/v1/cluster1/n1\n\n");
}

TEST_F(MeshProxyTest, TransactionsOfRemotesAreRefused) {
    start_mirror();
    fill();
    ASSERT_TRUE(until([&] {
        return ctl("remote", {"get", "cilium/state/", "--prefix"}).has("node");
    })) << log();
    const auto txn = [&](const std::string& who, const std::string& at, const std::string& script) {
        write("txn", script);
        Words command = {
            "sh", "-c",
            "etcdctl --endpoints=https://" + at + " --cacert=" + folder_.file("ca.crt") +
                " --cert=" + folder_.file(who + ".crt") + " --key=" + folder_.file(who + ".key") +
                " --command-timeout=3s txn < " + folder_.file("txn")};
        const auto [code, text] = test::run_command(command, folder_, {{"ETCDCTL_API", "3"}});
        return Answer{code, text};
    };
    const char* read =
        "mod(\"cilium/.heartbeat\") > \"0\"\n\nget cilium/state/nodes/v1/cluster1/n1\n\n\n";
    const char* empty = "\n\n\n\n";
    for (const char* script : {read, empty, "\nput cilium/state/x y\n\n\n",
                               "\n\ndel cilium/state/nodes/v1/cluster1/n1\n\n",
                               "\nget mesh/local/services/v1/default/web\n\n\n",
                               "mod(\"mesh/local/services/v1/default/web\") > \"0\"\n\n\n\n"}) {
        const Answer refused = txn("remote", remote_, script);
        EXPECT_NE(refused.code, 0) << script << refused.text;
        EXPECT_TRUE(refused.has(kDenied)) << script << refused.text;
    }
    // At the local listener its parts count.
    const Answer local = txn("local", local_, read);
    EXPECT_EQ(local.code, 0) << local.text;
    EXPECT_TRUE(local.has("node")) << local.text;
    EXPECT_TRUE(txn("local", local_, "\nput mesh/local/x y\n\n\n").has(kDenied));
}

TEST_F(MeshProxyTest, SizesOfRequestsAreBoundedByRole) {
    start_proxy({"--embedded", "--data-dir=" + folder_.file("store")});
    ASSERT_TRUE(until([&] {
        return ctl("admin", {"put", "cilium/.heartbeat", "now"}, local_).code == 0;
    })) << log();
    const auto put = [&](const std::string& who, const std::string& at, std::size_t size) {
        write("value", std::string(size, 'v'));
        Words command = {
            "sh", "-c",
            "etcdctl --endpoints=https://" + at + " --cacert=" + folder_.file("ca.crt") +
                " --cert=" + folder_.file(who + ".crt") + " --key=" + folder_.file(who + ".key") +
                " --command-timeout=5s put cilium/state/big < " + folder_.file("value")};
        const auto [code, text] = test::run_command(command, folder_, {{"ETCDCTL_API", "3"}});
        return Answer{code, text};
    };
    // Refused by role, not by size: nobody waits for the body.
    for (const std::size_t size : {10, 100'000, 1'000'000})
        EXPECT_TRUE(put("remote", remote_, size).has(kDenied)) << size;
    EXPECT_TRUE(put("stranger", local_, 1'000'000).has(kDenied));
    // As much as etcd takes.
    const Answer large = put("admin", local_, 1'500'000);
    EXPECT_EQ(large.code, 0) << large.text;
    const Answer larger = put("admin", local_, 1'600'000);
    EXPECT_TRUE(larger.has("request is too large")) << larger.text;
    const Answer back = ctl("remote", {"get", "cilium/state/big", "--print-value-only"});
    EXPECT_EQ(back.text.size(), 1'500'001U);
}

TEST_F(MeshProxyTest, IdleConnectionsOfRemotesLeaveTheLocalListenerItsPlace) {
    wrapper_ = {"sh", "-c", "ulimit -n 1024 && exec \"$@\"", "sh"};
    start_mirror();
    fill();
    const std::uint16_t port =
        static_cast<std::uint16_t>(std::stoi(remote_.substr(remote_.find(':') + 1)));
    std::vector<int> idle;
    for (int i = 0; i < 1300; ++i) {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ASSERT_GE(fd, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
        idle.push_back(fd);
    }
    for (int i = 0; i < 5; ++i) {
        const Answer local = ctl("local", {"get", "cilium/.heartbeat"}, local_);
        EXPECT_EQ(local.code, 0) << local.text << log();
    }
    // Nor do they keep other remotes away.
    EXPECT_TRUE(until([&] {
        return ctl("remote", {"get", "cilium/.heartbeat"}).code == 0;
    })) << log();
    EXPECT_EQ(log().find("accept failed"), std::string::npos) << log();
    for (const int fd : idle) ::close(fd);
}

TEST_F(MeshProxyTest, WithoutAGoodCertificateThereIsNoConnection) {
    start_mirror();
    const auto other = pki::Authority::make("other ca", 24h, now_);
    issue("other", pki::client_request("remote"), &*other);
    auto old = pki::client_request("remote");
    old.validity = 1h;
    issue("expired", old, nullptr, now_ - 12h);
    for (const std::string who : {"", "other", "expired"}) {
        for (const std::string& at : {remote_, local_}) {
            const Answer refused = ctl(who, {"get", "cilium/.heartbeat"}, at);
            EXPECT_NE(refused.code, 0) << who;
            EXPECT_FALSE(refused.has(kDenied)) << "it got as far as a call: " << refused.text;
        }
    }
    EXPECT_NE(log().find("the client gave no certificate"), std::string::npos) << log();
    EXPECT_NE(log().find("certificate has expired"), std::string::npos) << log();
    // A good certificate in the wrong place: a connection, and nothing on it.
    for (const std::string who : {"admin", "local", "stranger"})
        EXPECT_TRUE(ctl(who, {"get", "cilium/.heartbeat"}).has(kDenied)) << who;
    for (const std::string who : {"remote", "remote-cluster2", "stranger"})
        EXPECT_TRUE(ctl(who, {"get", "cilium/.heartbeat"}, local_).has(kDenied)) << who;
    EXPECT_EQ(log().find("PRIVATE KEY"), std::string::npos);
}

TEST_F(MeshProxyTest, LocalReadsAllAndWritersAreSentToEtcd) {
    start_mirror();
    fill();
    ASSERT_TRUE(until([&] {
        return ctl("local", {"get", "mesh/local/", "--prefix"}, local_).has("local");
    })) << log();
    EXPECT_TRUE(ctl("local", {"get", "cilium/cache/", "--prefix"}, local_).has("cached"));
    EXPECT_TRUE(ctl("admin", {"get", "cilium/cache/", "--prefix"}, local_).has("cached"));
    for (const Words& words :
         {Words{"put", "mesh/local/x", "y"}, Words{"del", "mesh/local/", "--prefix"},
          Words{"lease", "grant", "60"}, Words{"compaction", "2"}}) {
        EXPECT_TRUE(ctl("local", words, local_).has(kDenied));
        const Answer sent = ctl("admin", words, local_);
        EXPECT_NE(sent.code, 0);
        EXPECT_TRUE(sent.has("write to that etcd directly")) << sent.text;
    }
}

TEST_F(MeshProxyTest, LossOfEtcdIsSurvivedAndCaughtUpWithoutALostOrDoubledEvent) {
    start_mirror();
    fill();
    ASSERT_TRUE(until([&] {
        return ctl("remote", {"get", "cilium/state/", "--prefix"}).has("node");
    })) << log();
    const std::string seen = folder_.file("watch.out");
    ChildProcess watcher(
        {"etcdctl", "--endpoints=https://" + remote_, "--cacert=" + folder_.file("ca.crt"),
         "--cert=" + folder_.file("remote-cluster2.crt"),
         "--key=" + folder_.file("remote-cluster2.key"), "watch", "cilium/state/w/", "--prefix"},
        seen, {{"ETCDCTL_API", "3"}});
    int n = 0;
    std::string expected;
    const auto put_some = [&](int count) {
        for (int i = 0; i < count; ++i, ++n) {
            const std::string key = "cilium/state/w/" + std::to_string(n % 7);
            direct({"put", key, std::to_string(n)});
            expected += "PUT\n" + key + "\n" + std::to_string(n) + "\n";
        }
    };
    // The watch of etcdctl is open when its first event is there; events before are not its own.
    ASSERT_TRUE(until([&] {
        direct({"put", "cilium/state/w/open", "x"});
        return !test::read_text(seen).empty();
    })) << log();
    const auto body = [&] {
        std::string text = test::read_text(seen);
        const std::string open = "PUT\ncilium/state/w/open\nx\n";
        while (text.starts_with(open)) text.erase(0, open.size());
        return text;
    };
    put_some(5);
    ASSERT_TRUE(until([&] { return body() == expected; })) << body();

    etcd_->kill();
    ASSERT_TRUE(until([&] { return status().find("\"stale\":true") != std::string::npos; }))
        << status();
    const Answer still = ctl("remote", {"get", "cilium/state/w/", "--prefix"});
    EXPECT_EQ(still.code, 0) << still.text;
    EXPECT_TRUE(still.has("cilium/state/w/4\n4")) << still.text;
    EXPECT_NE(status().find("last_failure"), std::string::npos);
    EXPECT_EQ(status().find("\"endpoint\":\"http"), std::string::npos)
        << "connected to what is dead: " << status();

    etcd_->start();
    ASSERT_TRUE(until([&] {
        return test::run_command(
                   {"etcdctl", "--endpoints=" + etcd_->endpoint(), "endpoint", "health"}, folder_,
                   {{"ETCDCTL_API", "3"}})
                   .first == 0;
    }));
    put_some(20);
    ASSERT_TRUE(until([&] { return status().find("\"stale\":false") != std::string::npos; }))
        << status();
    put_some(3);
    ASSERT_TRUE(until([&] { return body() == expected; })) << body() << "\nexpected\n" << expected;
    EXPECT_NE(status().find("\"lists\":1"), std::string::npos) << "resumed by watch: " << status();
    EXPECT_EQ(status().find("\"history_changes\":1"), std::string::npos);
}

TEST_F(MeshProxyTest, EmbeddedTakesWritesOfTheAdminAndKeepsThemThroughAKill) {
    const Words own = {"--embedded", "--data-dir=" + folder_.file("data")};
    start_proxy(own);
    ASSERT_TRUE(until([&] {
        return ctl("admin", {"put", "cilium/state/x", "y"}, local_).code == 0;
    })) << log();
    EXPECT_EQ(ctl("admin", {"put", "mesh/local/x", "z"}, local_).code, 0);
    EXPECT_TRUE(ctl("remote", {"get", "cilium/state/", "--prefix"}).has("y"));
    EXPECT_TRUE(ctl("remote", {"put", "cilium/state/x", "evil"}).has(kDenied));
    EXPECT_TRUE(ctl("remote", {"get", "mesh/local/", "--prefix"}).has(kDenied));
    EXPECT_TRUE(ctl("local", {"put", "mesh/local/x", "evil"}, local_).has(kDenied));
    EXPECT_TRUE(ctl("local", {"get", "mesh/local/", "--prefix"}, local_).has("z"));
    EXPECT_TRUE(ctl("admin", {"lease", "grant", "60"}, local_).has("granted with TTL(60s)"));
    const Answer before = ctl("local", {"get", "", "--prefix", "-w", "fields"}, local_);
    proxy_.stop(SIGKILL);
    start_proxy(own);
    Answer after;
    ASSERT_TRUE(until([&] {
        return (after = ctl("local", {"get", "", "--prefix", "-w", "fields"}, local_)).code == 0;
    })) << log();
    const auto keys_of = [](const std::string& text) { return text.substr(text.find("\"Key\"")); };
    EXPECT_EQ(keys_of(after.text), keys_of(before.text));
}

TEST_F(MeshProxyTest, NewServerCertificateIsServedWithoutLosingAWatch) {
    start_mirror();
    fill();
    ASSERT_TRUE(until([&] {
        return ctl("remote", {"get", "cilium/state/", "--prefix"}).has("node");
    })) << log();
    const std::string seen = folder_.file("watch.out");
    ChildProcess watcher(
        {"etcdctl", "--endpoints=https://" + remote_, "--cacert=" + folder_.file("ca.crt"),
         "--cert=" + folder_.file("remote.crt"), "--key=" + folder_.file("remote.key"), "watch",
         "cilium/state/w/", "--prefix"},
        seen, {{"ETCDCTL_API", "3"}});
    ASSERT_TRUE(until([&] {
        direct({"put", "cilium/state/w/a", "1"});
        return !test::read_text(seen).empty();
    }));
    issue("server", pki::server_request({"renewed.example.com"}));
    const auto renewed = [&] {
        return test::run_command(
                   {"sh", "-c",
                    "openssl s_client -connect " + remote_ + " -CAfile " + folder_.file("ca.crt") +
                        " -cert " + folder_.file("remote.crt") + " -key " +
                        folder_.file("remote.key") +
                        " -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -ext "
                        "subjectAltName"},
                   folder_)
            .second;
    };
    EXPECT_NE(renewed().find("renewed.example.com"), std::string::npos) << renewed() << log();
    direct({"put", "cilium/state/w/after", "2"});
    EXPECT_TRUE(until([&] {
        return test::read_text(seen).find("cilium/state/w/after\n2") != std::string::npos;
    }));
}

}  // namespace
}  // namespace mesh
