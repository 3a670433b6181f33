// Two clusters whose etcds are real and ask for certificates that are nowhere but in memory, and
// the options of a mesh of the first.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <mesh/mesh.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "etcd_process.hpp"
#include "model/codec.hpp"
#include "model/keys.hpp"
#include "model/policy_record.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "runtime/clock.hpp"
#include "sources/config/policy_documents.hpp"

namespace mesh {

using namespace std::chrono_literals;
using test::EtcdProcess;

/// A limit for what takes far less: a machine may be slow.
inline constexpr auto kLong = 60s;

/// Two clusters' etcds, filled as operators do, and a client's certificate.
class ApiTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "no etcd on this machine";
        const auto now = SystemClock().wall_now();
        const auto ca = pki::Authority::make("api test", 48h, now);
        ASSERT_TRUE(ca);
        ca_ = ca->certificate();
        const auto server = ca->issue(pki::server_request(), now);
        const auto client = ca->issue(pki::client_request("root"), now);
        ASSERT_TRUE(server && client);
        client_ = *client;
        write("ca.crt", ca_);
        write("server.crt", server->certificate);
        write("server.key", server->private_key);
        write("client.crt", client_.certificate);
        write("client.key", client_.private_key);
        test::EtcdOptions options;
        options.ca_file = folder_.file("ca.crt");
        options.cert_file = folder_.file("server.crt");
        options.key_file = folder_.file("server.key");
        options.name = "own";
        own_.emplace(folder_, options);
        options.name = "remote";
        remote_.emplace(folder_, options);
        fill();
    }
    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    void etcdctl(const EtcdProcess& etcd, std::vector<std::string> words) {
        std::vector<std::string> command{"etcdctl",
                                         "--endpoints=" + etcd.endpoint(),
                                         "--cacert=" + folder_.file("ca.crt"),
                                         "--cert=" + folder_.file("client.crt"),
                                         "--key=" + folder_.file("client.key"),
                                         "--dial-timeout=60s",
                                         "--command-timeout=60s"};
        command.insert(command.end(), words.begin(), words.end());
        const auto [code, output] = test::run_command(command, folder_, {{"ETCDCTL_API", "3"}});
        ASSERT_EQ(code, 0) << output << etcd.log();
    }
    void put(const EtcdProcess& etcd, const std::string& key, const std::string& value) {
        etcdctl(etcd, {"put", "--", key, value});
    }
    void put_ip(const EtcdProcess& etcd, const model::IpAddress& address, std::uint32_t identity) {
        model::IpIdentityPair pair;
        pair.ip = address;
        pair.host_ip = model::IpAddress::v4(192, 168, 0, 2);
        pair.id = model::IdentityId{identity};
        pair.k8s_namespace = "shop";
        pair.k8s_pod_name = "echo-1";
        put(etcd, model::ip_key(pair), model::encode(pair));
    }
    static model::LocalService echo(const model::IpAddress& backend) {
        model::LocalService service;
        service.namespace_ = "shop";
        service.name = "echo";
        service.type = "ClusterIP";
        service.cluster_ips = {model::IpAddress::v4(10, 11, 0, 10)};
        service.ports = {{.name = "http", .protocol = "TCP", .port = 80}};
        service.global = service.shared = true;
        model::LocalBackend local;
        local.address = backend;
        local.ports =
            std::vector<model::ServicePort>{{.name = "http", .protocol = "TCP", .port = 8080}};
        service.backends = {local};
        return service;
    }
    void put_echo(const model::IpAddress& backend) {
        put(*own_, model::local_service_key("shop", "echo"), model::encode(echo(backend)));
    }
    void fill() {
        put_echo(model::IpAddress::v4(10, 1, 0, 1));
        put_ip(*own_, model::IpAddress::v4(10, 1, 0, 1), 65'537);

        put(*remote_, std::string(model::kHeartbeatKey), "now");
        model::ClusterConfig config;
        config.id = model::ClusterId{2};
        put(*remote_, model::cluster_config_key("cluster2"), model::encode(config));
        model::Node node;
        node.name = "node-b";
        node.cluster = "cluster2";
        node.cluster_id = config.id;
        node.addresses.emplace().push_back({"InternalIP", "192.168.0.2"});
        put(*remote_, model::node_key("cluster2", "node-b"), model::encode(node));
        put_ip(*remote_, model::IpAddress::v4(10, 2, 0, 1), 131'073);
        model::Service service;
        service.cluster = "cluster2";
        service.cluster_id = config.id;
        service.namespace_ = "shop";
        service.name = "echo";
        service.include_external = service.shared = true;
        model::ServiceAddress backend;
        backend.address = model::IpAddress::v4(10, 2, 0, 1);
        backend.ports =
            std::vector<model::ServicePort>{{.name = "http", .protocol = "TCP", .port = 8080}};
        service.backends = {backend};
        put(*remote_, model::service_key("cluster2", "shop", "echo"), model::encode(service));
    }

    static std::string web_policy(const std::string& client) {
        return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
               "metadata: {name: web, namespace: shop}\nspec:\n"
               "  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n"
               "  - fromEndpoints:\n    - matchLabels: {app: " +
               client +
               "}\n      matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: "
               "Exists}]\n    toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]\n";
    }
    /// Pods with labels in both clusters, and a policy between them.
    void fill_policies() {
        const auto put_identity = [&](const EtcdProcess& etcd, std::uint32_t id,
                                      std::string_view app, std::string_view cluster) {
            model::Identity identity;
            identity.id = model::IdentityId{id};
            identity.labels = {{"k8s", "app", app},
                               {"k8s", "io.cilium.k8s.policy.cluster", cluster},
                               {"k8s", "io.kubernetes.pod.namespace", "shop"}};
            put(etcd, model::identity_key(identity.id), model::encode(identity));
        };
        put_identity(*own_, 65'537, "web", "cluster1");
        put_identity(*remote_, 131'073, "client", "cluster2");
        const auto parsed = sources::config::parse_policy_records(
            web_policy("client"), "shop.yaml", sources::config::PolicyFeatures::enforced());
        ASSERT_TRUE(parsed.errors.empty()) << parsed.errors.front();
        const auto& record = *parsed.records.at(0);
        put(*own_, model::local_policy_key(record.key), model::encode(record));
    }

    /// As Secret cilium-clustermesh has it: the paths are those of a pod that nobody runs here.
    [[nodiscard]] std::map<std::string, std::string> secret() const {
        const std::string at = "/var/lib/cilium/clustermesh/";
        return {
            {"cluster1", "endpoints: [https://the-own-one-is-not-a-remote:2379]\n"},
            {"cluster2", "endpoints: [\"" + remote_->endpoint() + "\"]\ntrusted-ca-file: " + at +
                             "ca.crt\ncert-file: " + at + "tls.crt\nkey-file: " + at + "tls.key\n"},
            {"ca.crt", ca_},
            {"tls.crt", client_.certificate},
            {"tls.key", client_.private_key}};
    }
    [[nodiscard]] MeshOptions options() {
        MeshOptions options;
        options.cluster_name = "cluster1";
        options.cluster_id = 1;
        options.node_name = "node-a";
        options.etcd = {{own_->endpoint()}, ca_, client_.certificate, client_.private_key};
        options.remote_files = secret();
        options.log = [this](LogSeverity, std::string_view subsystem, std::string_view text) {
            const std::lock_guard lock(mutex_);
            log_.append(subsystem).append(": ").append(text).append("\n");
        };
        return options;
    }
    [[nodiscard]] std::string log() {
        const std::lock_guard lock(mutex_);
        return log_;
    }
    [[nodiscard]] std::unique_ptr<Mesh> open() {
        auto mesh = Mesh::open(options());
        EXPECT_TRUE(mesh) << mesh.error().message();
        if (!mesh) return nullptr;
        EXPECT_TRUE((*mesh)->wait_ready(kLong)) << (*mesh)->status_json() << log();
        return *std::move(mesh);
    }

    test::TemporaryFolder folder_;
    std::mutex mutex_;
    std::string log_;
    std::string ca_;
    pki::KeyPair client_;
    std::optional<EtcdProcess> own_, remote_;
};

/// Reads until an event meets the condition. @return it, or nullopt
inline std::optional<Event> until(Subscription& subscription,
                                  const std::function<bool(const Event&)>& condition) {
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (std::chrono::steady_clock::now() < end) {
        const auto batch = subscription.next(1s);
        if (!batch) return std::nullopt;
        for (const Event& event : batch->events()) {
            if (condition(event)) return event;
        }
    }
    return std::nullopt;
}

}  // namespace mesh
