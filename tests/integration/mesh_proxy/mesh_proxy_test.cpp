// mesh-proxy as its users meet it: etcdctl with certificates in front, a real etcd (or its own
// store) behind. Each refusal is shown, and what the loss of etcd does to readers.
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "line.hpp"
#include "mesh_proxy_fixture.hpp"
#include "model/codec.hpp"
#include "model/keys.hpp"
#include "sources/etcd/prefix_watcher.hpp"
#include "state/clusters/remote_cluster.hpp"

namespace mesh {
namespace {

using namespace std::chrono_literals;
using test::Answer;
using test::ChildProcess;
using test::EtcdOptions;
using test::EtcdProcess;
using test::MeshProxyTest;
using test::Words;

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
                                   Words{"get", "mesh/local/workloads/v1/", "--prefix"},
                                   Words{"get", "mesh/local/workload-status/v1/vm1"},
                                   Words{"put", "mesh/local/workloads/v1/vm1", "{}"},
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

TEST_F(MeshProxyTest, LegacyReadersLockInAShadow) {
    start_mirror({"--legacy-readers"});
    fill();
    ASSERT_TRUE(until([&] {
        return ctl("remote", {"get", "cilium/state/", "--prefix"}).has("node");
    })) << log();
    const std::string before = direct({"get", "", "--prefix", "-w", "fields"}).text;
    // etcdctl's lock is the session and the mutex that those readers use: grant, keepalive, txn.
    const std::string lock = "cilium/.initlock/5f3a";
    for (const std::string who : {"remote", "remote-cluster2"}) {
        const Answer locked = ctl(who, {"lock", lock, "echo", "it is mine"});
        EXPECT_EQ(locked.code, 0) << locked.text;
        EXPECT_TRUE(locked.has("it is mine")) << locked.text;
    }
    // Gone with its connection.
    EXPECT_TRUE(ctl("remote", {"put", lock + "/1", "x"}).has("OK"));
    EXPECT_EQ(ctl("remote", {"get", lock, "--prefix"}).text, "");
    for (const Words& words :
         {Words{"lock", "cilium/state/lock", "true"}, Words{"put", "cilium/state/x", "y"},
          Words{"put", "cilium/.initlock", "y"}, Words{"del", "cilium/.", "--prefix"},
          Words{"get", "cilium/.", "--prefix"}, Words{"compaction", "2"}}) {
        EXPECT_TRUE(ctl("remote", words).has(kDenied)) << words[0] << words[1];
    }
    EXPECT_NE(ctl("stranger", {"lock", lock, "true"}).code, 0);
    EXPECT_EQ(direct({"get", "", "--prefix", "-w", "fields"}).text, before);
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
    ASSERT_TRUE(until([&] { return healthy(); }));
    put_some(20);
    ASSERT_TRUE(until([&] { return status().find("\"stale\":false") != std::string::npos; }))
        << status();
    put_some(3);
    ASSERT_TRUE(until([&] { return body() == expected; })) << body() << "\nexpected\n" << expected;
    EXPECT_NE(status().find("\"lists\":1"), std::string::npos) << "resumed by watch: " << status();
    EXPECT_EQ(status().find("\"history_changes\":1"), std::string::npos);
}

TEST_F(MeshProxyTest, EtcdThatLostItsDataLeavesNoGhosts) {
    EtcdOptions fixed;
    fixed.client_port = test::free_port();
    fixed.peer_port = test::free_port();
    etcd_ = std::make_unique<EtcdProcess>(folder_, fixed);
    ASSERT_TRUE(until([&] { return healthy(); }));
    for (int i = 0; i < 6; ++i) direct({"put", "cilium/state/g/" + std::to_string(i), "old"});
    write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
    start_proxy({"--etcd-config=" + folder_.file("etcd.yaml")});
    const Words all = {"get", "cilium/state/", "--prefix"};
    ASSERT_TRUE(until([&] { return ctl("remote", all).has("g/5"); })) << log();
    // No event has come, only a list. While the proxy does not look, etcd becomes another one: of
    // the same ids, further than before, and with one key at the very revision of before.
    proxy_.send(SIGSTOP);
    etcd_->wipe();
    etcd_->start();
    ASSERT_TRUE(until([&] { return healthy(); }));
    direct({"put", "cilium/state/g/0", "new"});
    for (int i = 0; i < 10; ++i) direct({"put", "cilium/state/h", std::to_string(i)});
    proxy_.send(SIGCONT);
    ASSERT_TRUE(until([&] { return ctl("remote", all).has("cilium/state/h\n9"); })) << status();
    EXPECT_EQ(ctl("remote", all).text, "cilium/state/g/0\nnew\ncilium/state/h\n9\n");
    ASSERT_TRUE(until([&] { return status().find("\"stale\":false") != std::string::npos; }));
    EXPECT_NE(status().find("\"history_changes\":1"), std::string::npos) << status();
    Words fields = all;
    fields.insert(fields.end(), {"-w", "fields"});
    EXPECT_EQ(ctl("remote", fields).text, direct(fields).text);
}

TEST_F(MeshProxyTest, StalenessCountsFromTheLastWordOfEtcd) {
    start_mirror();
    fill();
    ASSERT_TRUE(until([&] { return status().find("\"stale\":false") != std::string::npos; }));
    etcd_->pause();
    ASSERT_TRUE(until([&] { return status().find("\"stale\":true") != std::string::npos; }))
        << status();
    const std::string told = status();
    const std::string field = "\"stale_seconds\":";
    const double seconds = std::stod(told.substr(told.find(field) + field.size()));
    // It was not noticed before etcd had been silent for this long (MirrorOptions).
    EXPECT_GE(seconds, std::chrono::duration<double>(15s).count()) << told;
    EXPECT_TRUE(ctl("remote", {"get", "cilium/state/", "--prefix"}).has("node"));
    etcd_->resume();
    EXPECT_TRUE(until([&] { return status().find("\"stale\":false") != std::string::npos; }))
        << status();
    EXPECT_NE(status().find("\"lists\":1"), std::string::npos) << status();
}

/// Two proxies before one etcd, of which the second can be cut from it; and readers of both.
class TwoProxiesTest : public MeshProxyTest {
  protected:
    void SetUp() override {
        MeshProxyTest::SetUp();
        if (IsSkipped()) return;
        EtcdOptions fixed;
        fixed.client_port = test::free_port();
        etcd_ = std::make_unique<EtcdProcess>(folder_, fixed);
        ASSERT_TRUE(until([&] { return healthy(); }));
        line_ = std::make_unique<test::Line>(loop_, fixed.client_port);
        second_ = "127.0.0.1:" + std::to_string(test::free_port());
        write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
        write("line.yaml",
              "endpoints:\n- http://127.0.0.1:" + std::to_string(line_->port()) + "\n");
        direct({"put", "cilium/.heartbeat", "now"});
        direct({"put", "cilium/cluster-config/cluster1", R"({"id":1,"capabilities":{}})"});
        put_node("n1");
        start_proxy({"--etcd-config=" + folder_.file("etcd.yaml")});
        ASSERT_TRUE(until([&] { return serves(remote_, "n1"); })) << log();
    }
    void TearDown() override {
        watcher_.reset();
        if (client_) finish(client_->async_stop());
        if (remote_cluster_) finish(remote_cluster_->stop());
    }
    void start_second() {
        proxy_b_ = make_proxy("second", second_, {"--etcd-config=" + folder_.file("line.yaml")});
        ASSERT_TRUE(turn_until([&] { return serves(second_, "n1"); }));
    }
    void put_node(const std::string& name) {
        model::Node node;
        node.name = name;
        node.cluster = "cluster1";
        node.cluster_id = model::ClusterId{1};
        direct({"put", model::node_key("cluster1", name), model::encode(node)});
    }
    bool serves(const std::string& proxy, const std::string& node) {
        return ctl("remote", {"get", model::node_key("cluster1", node)}, proxy).has(node);
    }
    /// As until(), with the loop of line and readers running.
    bool turn_until(const std::function<bool()>& condition) {
        return until([&] {
            loop_.run_for(20ms);
            loop_.restart();
            return condition();
        });
    }
    void finish(boost::asio::awaitable<void> last) {
        bool done = false;
        boost::asio::co_spawn(loop_, std::move(last), [&](std::exception_ptr) { done = true; });
        EXPECT_TRUE(turn_until([&] { return done; }));
    }
    Logger logger() {
        return {"reader",
                [this](LogLevel, std::string_view, std::string_view text) {
                    told_.append(text).append("\n");
                },
                LogLevel::kDebug};
    }

    boost::asio::io_context loop_{1};
    SystemClock clock_;
    std::unique_ptr<test::Line> line_;
    std::string second_, told_;
    ChildProcess proxy_b_;
    std::set<std::string> names_;  // of what was put
    int deletes_ = 0;
    int lists_ = 0;
    state::IdRegistry ids_;
    std::unique_ptr<etcd::Client> client_;
    std::unique_ptr<etcd::PrefixWatcher> watcher_;
    std::unique_ptr<state::RemoteCluster> remote_cluster_;
};

TEST_F(TwoProxiesTest, FailoverToAProxyThatIsCutFromEtcdDeletesNothing) {
    etcd::ClientOptions options;
    options.endpoints = {"https://" + remote_, "https://" + second_};
    options.ca_file = folder_.file("ca.crt");
    options.cert_file = folder_.file("remote.crt");
    options.key_file = folder_.file("remote.key");
    options.backoff_limit = 500ms;
    client_ =
        *etcd::Client::make(loop_.get_executor(), std::move(options), clock_, Rng(7), logger());
    etcd::PrefixWatcherEvents events;
    events.on_batch = [&](const etcd::Batch& batch) {
        for (const etcd::Change& change : batch.changes) {
            if (change.kind == etcd::Change::Kind::kDelete) ++deletes_;
            names_.insert(std::string(change.kv.key));
        }
    };
    events.on_list_done = [&](const etcd::Header&) { ++lists_; };
    client_->start();
    watcher_ = std::make_unique<etcd::PrefixWatcher>(
        *client_, clock_, Rng(3), etcd::PrefixWatcherOptions{.prefix = "cilium/state/"}, events);
    // Only the first one is there yet, so that is where the reader is.
    ASSERT_TRUE(turn_until(
        [&] { return watcher_->state() == etcd::PrefixWatcherEvents::State::kWatching; }));
    start_second();
    line_->cut();
    put_node("n2");
    put_node("n3");
    ASSERT_TRUE(turn_until([&] { return names_.size() == 3; })) << told_;
    ASSERT_TRUE(serves(second_, "n1"));
    ASSERT_FALSE(serves(second_, "n3")) << "cut off, and knows of what came since?";

    proxy_.stop(SIGKILL);
    ASSERT_TRUE(turn_until([&] { return told_.find("is behind") != std::string::npos; })) << told_;
    EXPECT_EQ(deletes_, 0) << told_;
    line_->join();
    put_node("n4");
    ASSERT_TRUE(turn_until([&] { return names_.size() == 4; })) << told_;
    EXPECT_EQ(deletes_, 0) << told_;
    EXPECT_EQ(lists_, 1) << "resumed at the second one";
}

TEST_F(TwoProxiesTest, ARemoteThatReconnectsToAProxyThatIsBehindKeepsAllAndWaits) {
    state::SessionOptions options;
    options.cluster = "cluster1";
    options.local_id = model::ClusterId{9};
    state::ClusterEvents events;
    events.on_batch = [&](state::ClusterBatch&& batch) {
        for (const auto& change : batch.changes) {
            if (const auto* put = std::get_if<state::NodeUpsert>(&change))
                names_.insert(put->node.name);
            if (std::holds_alternative<state::NodeDelete>(change)) ++deletes_;
        }
    };
    remote_cluster_ = std::make_unique<state::RemoteCluster>(loop_.get_executor(), options, ids_,
                                                             clock_, Rng(1), logger(), events);
    state::RemoteCluster& remote = *remote_cluster_;
    const auto config = [&](const std::string& endpoints) {
        return *sources::config::parse_remote_yaml(
            "endpoints: [" + endpoints + "]\ntrusted-ca-file: " + folder_.file("ca.crt") +
                "\ncert-file: " + folder_.file("remote.crt") +
                "\nkey-file: " + folder_.file("remote.key") + "\n",
            "cluster1", "cluster1");
    };
    const std::string first = "\"https://" + remote_ + "\"";
    const std::string second = "\"https://" + second_ + "\"";
    start_second();
    remote.configure(config(first));
    ASSERT_TRUE(turn_until([&] { return remote.status().ready; })) << told_;
    line_->cut();
    put_node("n2");
    ASSERT_TRUE(turn_until([&] { return names_.contains("n2"); })) << told_;
    ASSERT_FALSE(serves(second_, "n2"));

    // A client of its own, which has seen nothing yet.
    proxy_.stop(SIGKILL);
    remote.configure(config(first + ", " + second));
    ASSERT_TRUE(turn_until([&] {
        return remote.status().last_failure.find("is behind") != std::string::npos;
    })) << told_;
    EXPECT_EQ(remote.status().state, state::SessionState::kStale);
    EXPECT_FALSE(remote.status().connected);
    line_->join();
    ASSERT_TRUE(turn_until([&] { return remote.status().ready; })) << told_;
    EXPECT_EQ(deletes_, 0) << told_;
    put_node("n3");
    ASSERT_TRUE(turn_until([&] { return names_.contains("n3"); })) << told_;
    EXPECT_EQ(deletes_, 0) << told_;
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

TEST_F(MeshProxyTest, ARevokedCertificateEndsItsSessionsAndNoOthers) {
    write("crl.pem", *ca_->revocation_list({}, now_, 24h));
    start_proxy({"--embedded", "--data-dir=" + folder_.file("store"),
                 "--tls-crl=" + folder_.file("crl.pem")});
    int puts = 0;
    const auto put = [&] {
        return ctl("admin", {"put", "cilium/state/x", "v" + std::to_string(++puts)}, local_).code ==
               0;
    };
    ASSERT_TRUE(until(put)) << log();
    const auto watch = [&](const std::string& who) {
        return ChildProcess(
            {"etcdctl", "--endpoints=https://" + remote_, "--cacert=" + folder_.file("ca.crt"),
             "--cert=" + folder_.file(who + ".crt"), "--key=" + folder_.file(who + ".key"), "watch",
             "cilium/state/", "--prefix"},
            folder_.file(who + ".watch"), {{"ETCDCTL_API", "3"}});
    };
    const auto seen = [&](const std::string& who) {
        return test::read_text(folder_.file(who + ".watch"));
    };
    const ChildProcess bad = watch("remote");
    const ChildProcess good = watch("remote-cluster2");
    ASSERT_TRUE(until([&] {
        return put() && !seen("remote").empty() && !seen("remote-cluster2").empty();
    })) << log();

    const auto serial = pki::inspect(test::read_text(folder_.file("remote.crt")))->serial;
    write("crl.pem", *ca_->revocation_list({serial}, now_, 24h));
    ASSERT_TRUE(until([&] {
        return log().find("certificate of \"remote\": it is revoked: its connections end") !=
               std::string::npos;
    })) << log();
    EXPECT_NE(ctl("remote", {"get", "cilium/state/x"}).code, 0);
    const std::string last = "v" + std::to_string(puts + 1);
    ASSERT_TRUE(put());
    EXPECT_TRUE(until([&] { return seen("remote-cluster2").find(last) != std::string::npos; }));
    EXPECT_EQ(seen("remote").find(last), std::string::npos) << seen("remote");
    EXPECT_EQ(ctl("remote-cluster2", {"get", "cilium/state/x"}).code, 0);
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
