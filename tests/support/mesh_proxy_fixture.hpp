// A real etcd behind a real mesh-proxy with a CA and certificates of all roles, and etcdctl in
// front of it: the base of tests of mesh-proxy.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "etcd_process.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "runtime/clock.hpp"

namespace mesh::test {

using namespace std::chrono_literals;
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
        if (!have_etcd()) GTEST_SKIP() << "needs etcd-server and etcd-client";
        now_ = SystemClock().wall_now();
        ca_ = *pki::Authority::make("mesh ca", 48h, now_ - 24h);
        write("ca.crt", ca_->certificate());
        issue("server", pki::server_request());
        issue("remote", pki::client_request("remote"));
        issue("remote-cluster2", pki::client_request("remote-cluster2"));
        issue("admin", pki::client_request("admin-cluster1"));
        issue("local", pki::client_request("local-cluster1"));
        issue("stranger", pki::client_request("somebody"));
        remote_ = "127.0.0.1:" + std::to_string(free_port());
        local_ = "127.0.0.1:" + std::to_string(free_port());
    }

    /// What a sanitizer said of a program that was killed is in its log only.
    void TearDown() override {
        for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
            if (entry.path().extension() != ".log") continue;
            const std::string text = read_text(entry.path().string());
            for (const char* words : {"Sanitizer:", "runtime error:"}) {
                EXPECT_EQ(text.find(words), std::string::npos) << entry.path() << ":\n" << text;
            }
        }
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
        more.push_back("--listen-local=" + local_);
        proxy_ = make_proxy("proxy", remote_, std::move(more));
    }
    ChildProcess make_proxy(const std::string& name, const std::string& remote, Words more) {
        Words command = {MESH_PROXY,
                         "--cluster-name=cluster1",
                         "--cluster-id=1",
                         "--listen-remote=" + remote,
                         "--tls-ca=" + folder_.file("ca.crt"),
                         "--tls-cert=" + folder_.file("server.crt"),
                         "--tls-key=" + folder_.file("server.key"),
                         "--status-socket=" + folder_.file(name + ".sock")};
        command.insert(command.end(), more.begin(), more.end());
        command.insert(command.begin(), wrapper_.begin(), wrapper_.end());
        return ChildProcess(command, folder_.file(name + ".log"));
    }
    void start_mirror(Words more = {}) {
        etcd_ = std::make_unique<EtcdProcess>(folder_, EtcdOptions{});
        write("etcd.yaml", "endpoints:\n- " + etcd_->endpoint() + "\n");
        more.push_back("--etcd-config=" + folder_.file("etcd.yaml"));
        start_proxy(std::move(more));
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
        const auto [code, text] = run_command(command, folder_, {{"ETCDCTL_API", "3"}});
        return {code, text};
    }
    /// etcdctl at the real etcd.
    Answer direct(Words words) {
        words.insert(words.begin(),
                     {"etcdctl", "--endpoints=" + etcd_->endpoint(), "--command-timeout=3s"});
        const auto [code, text] = run_command(words, folder_, {{"ETCDCTL_API", "3"}});
        EXPECT_EQ(code, 0) << text;
        return {code, text};
    }
    std::string status() {
        return run_command({"curl", "-s", "--unix-socket", folder_.file("proxy.sock"),
                            "http://proxy/v1/status"},
                           folder_)
            .second;
    }
    std::string log() const { return read_text(folder_.file("proxy.log")); }
    bool healthy() {
        return run_command({"etcdctl", "--endpoints=" + etcd_->endpoint(), "endpoint", "health"},
                           folder_, {{"ETCDCTL_API", "3"}})
                   .first == 0;
    }

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

    TemporaryFolder folder_;
    WallTime now_{};
    std::optional<pki::Authority> ca_;
    std::string remote_, local_;
    Words wrapper_;  // in front of the proxy's command
    std::unique_ptr<EtcdProcess> etcd_;
    ChildProcess proxy_;
};

}  // namespace mesh::test
