// mesh-proxy --etcd-config --data-dir, killed and started again: what was read of the etcd is
// served at once, marked stale, and gone on with where that is possible, without another list.
#include <boost/json/parse.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "etcd_writer.hpp"
#include "mesh_proxy_fixture.hpp"

namespace mesh {
namespace {

namespace fs = std::filesystem;
using test::Answer;
using test::ChildProcess;
using test::EtcdOptions;
using test::EtcdProcess;
using test::EtcdWriter;
using test::Words;
using namespace std::chrono_literals;

const std::string kState = "cilium/state/";

class WarmStartTest : public test::MeshProxyTest {
  protected:
    void SetUp() override {
        MeshProxyTest::SetUp();
        if (IsSkipped()) return;
        fixed_.client_port = test::free_port();
        fixed_.peer_port = test::free_port();
        fixed_.more = {"--unsafe-no-fsync"};
        etcd_ = std::make_unique<EtcdProcess>(folder_, fixed_);
        write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
        ASSERT_TRUE(until([&] { return healthy(); }));
        writer_ = std::make_unique<EtcdWriter>(etcd_->endpoint());
        writer_->put("cilium/.heartbeat", "now");
    }
    void start() {
        start_proxy(
            {"--etcd-config=" + folder_.file("etcd.yaml"), "--data-dir=" + folder_.file("kept")});
    }
    boost::json::object upstream() {
        boost::system::error_code ec;
        const auto document = boost::json::parse(status(), ec);
        if (ec || !document.is_object()) return {};
        auto out = document.as_object().at("upstream").as_object();
        out["revision"] = document.as_object().at("revision");
        return out;
    }
    std::int64_t number(const char* name) {
        const auto all = upstream();
        const auto* found = all.if_contains(name);
        return found != nullptr ? found->to_number<std::int64_t>() : -1;
    }
    bool is(const char* name, bool value) {
        const auto all = upstream();
        const auto* found = all.if_contains(name);
        return found != nullptr && found->as_bool() == value;
    }
    bool in_step() { return is("stale", false); }
    /// All that was put so far is served, and a restart would know of it.
    bool kept(std::int64_t revision) {
        return number("revision") >= revision && number("durable_revision") >= revision;
    }
    void start_and_keep(std::int64_t revision) {
        start();
        ASSERT_TRUE(until([&] { return kept(revision); })) << log();
    }
    void kill_proxy() { proxy_.stop(SIGKILL); }
    Answer get(const std::string& key, Words more = {}) {
        more.insert(more.begin(), {"get", key, "--print-value-only"});
        return ctl("remote", std::move(more));
    }
    bool served(const std::string& key, const std::string& value) {
        return get(key).text == value + "\n";
    }
    /// Exactly these, as etcdctl prints them; asked again should it get no connection in time.
    bool has_keys(const std::string& text) {
        return until([&] {
            return ctl("remote", {"get", kState, "--prefix", "--keys-only"}).text == text;
        });
    }
    std::int64_t count(const std::string& prefix) {
        const Answer answer = ctl("remote", {"get", prefix, "--prefix", "--limit=1", "-w", "json"});
        boost::system::error_code ec;
        const auto document = boost::json::parse(answer.text, ec);
        return ec ? -1 : document.at("count").to_number<std::int64_t>();
    }
    ChildProcess watch(const std::string& name, std::int64_t revision) {
        return ChildProcess(
            {"etcdctl", "--endpoints=https://" + remote_, "--cacert=" + folder_.file("ca.crt"),
             "--cert=" + folder_.file("remote.crt"), "--key=" + folder_.file("remote.key"),
             "--dial-timeout=20s", "watch", kState, "--prefix",
             "--rev=" + std::to_string(revision)},
            folder_.file(name), {{"ETCDCTL_API", "3"}});
    }
    std::string told(const std::string& name) const { return read_text(folder_.file(name)); }
    static std::string read_text(const std::string& path) { return test::read_text(path); }
    /// What etcd has sent to clients.
    double sent_bytes() {
        const auto [code, text] =
            test::run_command({"curl", "-s", etcd_->endpoint() + "/metrics"}, folder_);
        const std::string name = "\netcd_network_client_grpc_sent_bytes_total ";
        const auto at = text.find(name);
        return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size()));
    }
    /// A wiped etcd with the same name, ports and (unless changed) token: the same ids.
    void wipe_etcd() {
        etcd_->wipe();
        etcd_->start();
        ASSERT_TRUE(until([&] { return healthy(); }));
    }

    EtcdOptions fixed_;
    std::unique_ptr<EtcdWriter> writer_;
};

TEST_F(WarmStartTest, KilledItServesAtOnceAndGoesOnWithoutAList) {
    writer_->fill(kState + "many/", 2000, 500);
    writer_->put(kState + "a", "1");
    start();
    ASSERT_TRUE(until([&] { return in_step(); })) << log();
    const auto first = writer_->put(kState + "a", "2");
    writer_->put(kState + "b", "1");
    const auto last = writer_->del(kState + "b");
    ASSERT_TRUE(until([&] { return kept(last); })) << status();
    EXPECT_EQ(number("lists"), 1);

    // With no etcd at all.
    kill_proxy();
    etcd_->kill();
    start();
    ASSERT_TRUE(until([&] { return served(kState + "a", "2"); })) << log();
    EXPECT_TRUE(is("stale", true)) << status();
    EXPECT_TRUE(is("restored", true)) << status();
    EXPECT_TRUE(is("serving", true)) << status();
    EXPECT_EQ(number("lists"), 0);
    EXPECT_EQ(number("revision"), last);
    const auto [code, health] = test::run_command(
        {"curl", "-sf", "--unix-socket", folder_.file("proxy.sock"), "http://proxy/healthz"},
        folder_);
    EXPECT_EQ(code, 0) << "what is known is served: " << health;
    EXPECT_TRUE(until([&] { return count(kState + "many/") == 2000; }));
    // Watches resume where they were, also before the restart.
    const ChildProcess watcher = watch("resumed", first);
    const std::string changes =
        "PUT\n" + kState + "a\n2\nPUT\n" + kState + "b\n1\nDELETE\n" + kState + "b\n\n";
    EXPECT_TRUE(until([&] { return told("resumed") == changes; })) << told("resumed");
    const ChildProcess early = watch("early", 2);
    EXPECT_TRUE(until([&] { return told("early").find("compacted") != std::string::npos; }))
        << told("early");

    // It comes back, with news.
    etcd_->start();
    ASSERT_TRUE(until([&] { return healthy(); }));
    const double before = sent_bytes();
    writer_->put(kState + "c", "3");
    writer_->del(kState + "a");
    ASSERT_TRUE(until([&] { return in_step() && served(kState + "c", "3"); })) << log();
    ASSERT_TRUE(until([&] { return get(kState + "a").text.empty(); }));
    EXPECT_EQ(number("lists"), 0) << status();
    EXPECT_EQ(number("history_changes"), 0);
    EXPECT_LT(sent_bytes() - before, 200'000) << "of more than a million";
    EXPECT_TRUE(until([&] {
        return told("resumed").find("DELETE\n" + kState + "a") != std::string::npos;
    })) << told("resumed");
    // Once more, with etcd there all the time.
    ASSERT_TRUE(until([&] { return number("durable_revision") == number("revision"); }));
    kill_proxy();
    writer_->put(kState + "d", "4");
    start();
    ASSERT_TRUE(until([&] { return in_step() && served(kState + "d", "4"); })) << log();
    EXPECT_EQ(number("lists"), 0) << status();
}

TEST_F(WarmStartTest, WhatWasCompactedMeanwhileIsListedWithExactDeletes) {
    writer_->put(kState + "a", "1");
    writer_->put(kState + "b", "1");
    const auto last = writer_->put(kState + "c", "1");
    start_and_keep(last);
    kill_proxy();
    writer_->del(kState + "a");
    writer_->put(kState + "b", "2");
    const auto now = writer_->put("other/key", "1");
    direct({"compaction", std::to_string(now)});
    etcd_->kill();
    start();
    ASSERT_TRUE(until([&] { return served(kState + "a", "1"); })) << log();
    const ChildProcess watcher = watch("watch", last + 1);
    etcd_->start();
    ASSERT_TRUE(until([&] { return in_step(); })) << log();
    const std::string changes = "PUT\n" + kState + "b\n2\nDELETE\n" + kState + "a\n\n";
    EXPECT_TRUE(until([&] { return told("watch") == changes; })) << told("watch");
    EXPECT_EQ(number("lists"), 1);
    EXPECT_EQ(number("history_changes"), 0);
    EXPECT_TRUE(has_keys(kState + "b\n\n" + kState + "c\n\n"));
    // The list is kept, too.
    ASSERT_TRUE(until([&] { return kept(now); })) << status();
    kill_proxy();
    start();
    ASSERT_TRUE(until([&] { return in_step(); })) << log();
    EXPECT_EQ(number("lists"), 0);
    EXPECT_TRUE(has_keys(kState + "b\n\n" + kState + "c\n\n"));
}

TEST_F(WarmStartTest, AnotherEtcdBehindTheAddressReplacesAll) {
    writer_->put(kState + "a", "1");
    start_and_keep(writer_->put(kState + "b", "1"));
    kill_proxy();
    etcd_->set_token("another");
    wipe_etcd();
    writer_->fill(kState + "new/", 1, 10);
    for (int i = 0; i < 10; ++i) writer_->put(kState + "a", "new");
    start();
    ASSERT_TRUE(until([&] { return in_step(); })) << log();
    ASSERT_TRUE(until([&] { return served(kState + "a", "new"); }));
    EXPECT_EQ(number("history_changes"), 1) << status();
    EXPECT_EQ(number("lists"), 1);
    EXPECT_TRUE(has_keys(kState + "a\n\n" + kState + "new/0\n\n"));
}

TEST_F(WarmStartTest, AWipedEtcdOfTheSameIdsReplacesAllWhereverItsRevisionIs) {
    writer_->put(kState + "a", "1");
    start_and_keep(writer_->put(kState + "b", "1"));
    kill_proxy();
    wipe_etcd();
    // Beyond the revision that was seen.
    for (int i = 0; i < 10; ++i) writer_->put(kState + "x", std::to_string(i));
    start();
    ASSERT_TRUE(until([&] { return in_step(); })) << log();
    EXPECT_EQ(number("history_changes"), 1) << status();
    EXPECT_TRUE(has_keys(kState + "x\n\n"));
    const auto seen = number("revision");
    ASSERT_TRUE(until([&] { return kept(seen); })) << status();

    // Below it, as a restored backup would be. This takes as long as a server may be only behind.
    kill_proxy();
    wipe_etcd();
    writer_->put(kState + "y", "1");
    start();
    ASSERT_TRUE(until([&] { return served(kState + "x", "9"); })) << log();
    ASSERT_TRUE(until([&] { return in_step(); })) << log();
    EXPECT_EQ(number("history_changes"), 1) << status();
    EXPECT_TRUE(has_keys(kState + "y\n\n"));
}

TEST_F(WarmStartTest, DirectoriesOfAnotherKindAreRefusedAndDamagedOnesAreRebuilt) {
    start_and_keep(writer_->put(kState + "a", "1"));
    kill_proxy();
    // Both ways, with the file's name and what was expected.
    start_proxy({"--embedded", "--data-dir=" + folder_.file("kept")});
    EXPECT_EQ(proxy_.wait(), 1);
    EXPECT_NE(log().find("kept/data.mdb: is the cache of a mirrored etcd, expected an own store"),
              std::string::npos)
        << log();
    start_proxy({"--embedded", "--data-dir=" + folder_.file("own")});
    ASSERT_TRUE(until([&] { return ctl("remote", {"get", "cilium/.heartbeat"}).code == 0; }));
    kill_proxy();
    start_proxy(
        {"--etcd-config=" + folder_.file("etcd.yaml"), "--data-dir=" + folder_.file("own")});
    EXPECT_EQ(proxy_.wait(), 1);
    EXPECT_NE(log().find("own/data.mdb: is an own store"), std::string::npos) << log();

    const std::string file = folder_.file("kept") + "/data.mdb";
    std::ofstream(file, std::ios::binary | std::ios::trunc) << std::string(100'000, 'x');
    start();
    ASSERT_TRUE(until([&] { return in_step() && served(kState + "a", "1"); })) << log();
    EXPECT_EQ(number("lists"), 1);
    EXPECT_NE(log().find("damaged"), std::string::npos) << log();
    EXPECT_EQ(fs::file_size(file + ".damaged"), 100'000U);
}

TEST_F(WarmStartTest, AHundredThousandKeysAreThereWithoutAList) {
    constexpr int kKeys = 100'000;
    writer_->fill(kState + "nodes/v1/cluster1/", kKeys, 300, 32);
    const auto all = writer_->put(kState + "a", "1");
    const auto seconds_until = [&](const std::function<bool()>& condition) {
        const auto begin = std::chrono::steady_clock::now();
        EXPECT_TRUE(until(condition)) << log();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    start();
    const double cold = seconds_until([&] { return is("serving", true); });
    const double durable = seconds_until([&] { return kept(all); });
    kill_proxy();
    writer_->put(kState + "a", "2");
    const double before = sent_bytes();
    start();
    const double warm = seconds_until([&] { return is("serving", true); });
    const double resumed = seconds_until([&] { return served(kState + "a", "2") && in_step(); });
    EXPECT_EQ(number("lists"), 0);
    EXPECT_LT(sent_bytes() - before, 1'000'000) << "of 30 million";
    EXPECT_TRUE(until([&] { return count(kState) == kKeys + 1; }));
    std::printf(
        "%d keys: cold start %.2f s (durable %.2f s later), warm start %.2f s, in step "
        "%.2f s later\n",
        kKeys, cold, durable, warm, resumed);
}

}  // namespace
}  // namespace mesh
