// A workload registers itself: its own cluster sees it, and another one by the proxy, as long as it
// lives. Each cluster's etcd is real and asks for certificates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mesh/mesh.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <functional>
#include <map>
#include <mesh/mesh.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "etcd_process.hpp"
#include "model/codec.hpp"
#include "model/keys.hpp"
#include "pki/certificates.hpp"
#include "pki/files.hpp"
#include "runtime/clock.hpp"

namespace mesh {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;
using test::EtcdProcess;
using testing::HasSubstr;

/// A limit for what takes far less: a machine may be slow.
constexpr auto kLong = 60s;
/// A lease that does not end while a test runs.
constexpr auto kHour = 3600s;

constexpr const char* kService = R"(
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.11.0.10, ports: [{name: http, port: 80}]}
)";
constexpr const char* kPod = R"(
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop}
spec: {nodeName: n1}
status: {podIP: 192.0.2.8, phase: Running}
)";

bool until(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (!condition()) {
        if (std::chrono::steady_clock::now() >= end) return false;
        std::this_thread::sleep_for(20ms);
    }
    return true;
}

class PublishTest : public testing::Test {
  protected:
    void SetUp() override {
        if (!test::have_etcd()) GTEST_SKIP() << "no etcd on this machine";
        const auto now = SystemClock().wall_now();
        const auto ca = pki::Authority::make("publish test", 48h, now);
        ASSERT_TRUE(ca);
        ca_ = ca->certificate();
        write("ca.crt", ca_);
        const auto issue = [&](const std::string& name, const pki::CertificateRequest& request) {
            const auto pair = ca->issue(request, now);
            ASSERT_TRUE(pair);
            write(name + ".crt", pair->certificate);
            write(name + ".key", pair->private_key);
        };
        issue("server", pki::server_request());
        issue("root", pki::client_request("root"));
        issue("remote", pki::client_request("remote-cluster2"));
        issue("vm1", pki::client_request("vm1"));
        test::EtcdOptions options;
        options.ca_file = folder_.file("ca.crt");
        options.cert_file = folder_.file("server.crt");
        options.key_file = folder_.file("server.key");
        options.name = "own";
        own_.emplace(folder_, options);
        options.name = "other";
        other_.emplace(folder_, options);
        write("etcd.yaml", yaml(own_->endpoint(), "root"));
        std::filesystem::create_directory(folder_.file("manifests"));
        write("manifests/web.yaml", kService);
        start_operator();
        start_proxy();
        fill_other();
        own_mesh_ = open("cluster1", 1, *own_, {});
        other_mesh_ =
            open("cluster2", 2, *other_, {{"cluster1", yaml("https://" + proxy_at_, "remote")}});
    }
    void TearDown() override {
        own_mesh_.reset();
        other_mesh_.reset();
        if (!HasFailure()) return;
        for (const char* const name : {"operator.log", "proxy.log"}) {
            const std::string text = test::read_text(folder_.file(name));
            ADD_FAILURE() << name << "\n"
                          << text.substr(text.size() - std::min<std::size_t>(text.size(), 4000));
        }
    }

    void write(const std::string& name, const std::string& text) {
        ASSERT_TRUE(pki::write_file(folder_.file(name), text, pki::FileMode::kPrivate));
    }
    [[nodiscard]] std::string yaml(const std::string& endpoint, const std::string& who) const {
        return "endpoints: [\"" + endpoint + "\"]\ntrusted-ca-file: " + folder_.file("ca.crt") +
               "\ncert-file: " + folder_.file(who + ".crt") +
               "\nkey-file: " + folder_.file(who + ".key") + "\n";
    }
    void start_operator() {
        operator_ = ChildProcess({MESH_OPERATOR, "--cluster-name=cluster1", "--cluster-id=1",
                                  "--etcd-config=" + folder_.file("etcd.yaml"),
                                  "--manifests=" + folder_.file("manifests"), "--lease-ttl=600",
                                  "--status-socket=" + folder_.file("operator.sock")},
                                 folder_.file("operator.log"));
    }
    void start_proxy() {
        proxy_at_ = "127.0.0.1:" + std::to_string(test::free_port());
        proxy_ = ChildProcess(
            {MESH_PROXY, "--cluster-name=cluster1", "--cluster-id=1",
             "--etcd-config=" + folder_.file("etcd.yaml"), "--listen-remote=" + proxy_at_,
             "--tls-ca=" + folder_.file("ca.crt"), "--tls-cert=" + folder_.file("server.crt"),
             "--tls-key=" + folder_.file("server.key")},
            folder_.file("proxy.log"));
    }
    /// What the other cluster's operator would write.
    void fill_other() {
        model::LocalService service;
        service.namespace_ = "shop";
        service.name = "web";
        service.type = "ClusterIP";
        service.cluster_ips = {model::IpAddress::v4(10, 21, 0, 10)};
        service.ports = {{.name = "http", .protocol = "TCP", .port = 80}};
        service.global = service.shared = true;
        const auto key = model::local_service_key("shop", "web");
        ASSERT_EQ(etcdctl(*other_, {"put", "--", key, model::encode(service)}).first, 0);
    }
    std::pair<int, std::string> etcdctl(const EtcdProcess& etcd, std::vector<std::string> words) {
        std::vector<std::string> command{"etcdctl",
                                         "--endpoints=" + etcd.endpoint(),
                                         "--cacert=" + folder_.file("ca.crt"),
                                         "--cert=" + folder_.file("root.crt"),
                                         "--key=" + folder_.file("root.key"),
                                         "--dial-timeout=60s",
                                         "--command-timeout=60s"};
        command.insert(command.end(), words.begin(), words.end());
        return test::run_command(command, folder_, {{"ETCDCTL_API", "3"}});
    }
    /// A key's fields as etcdctl prints them; empty if there is none.
    std::map<std::string, std::string> look(const std::string& key) {
        const auto [code, text] = etcdctl(*own_, {"get", key, "-w", "fields"});
        EXPECT_EQ(code, 0) << text;
        std::map<std::string, std::string> fields;
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);) {
            const auto colon = line.find("\" : ");
            if (colon != std::string::npos)
                fields[line.substr(1, colon - 1)] = line.substr(colon + 4);
        }
        return fields.contains("Key") ? fields : std::map<std::string, std::string>();
    }

    std::unique_ptr<Mesh> open(const std::string& cluster, std::uint32_t id,
                               const EtcdProcess& etcd,
                               std::map<std::string, std::string> remotes) {
        MeshOptions options;
        options.cluster_name = cluster;
        options.cluster_id = id;
        options.node_name = "node-" + cluster;
        options.etcd = {{etcd.endpoint()},
                        ca_,
                        test::read_text(folder_.file("root.crt")),
                        test::read_text(folder_.file("root.key"))};
        options.remote_files = std::move(remotes);
        options.log = [this](LogSeverity, std::string_view subsystem, std::string_view text) {
            const std::lock_guard lock(mutex_);
            log_.append(subsystem).append(": ").append(text).append("\n");
        };
        auto mesh = Mesh::open(std::move(options));
        EXPECT_TRUE(mesh) << mesh.error().message();
        if (!mesh) return nullptr;
        EXPECT_TRUE((*mesh)->wait_ready(kLong)) << (*mesh)->status_json() << log();
        return *std::move(mesh);
    }
    [[nodiscard]] std::string log() {
        const std::lock_guard lock(mutex_);
        return log_;
    }

    static WorkloadOptions vm1() {
        WorkloadOptions options;
        options.name = "vm1";
        options.namespace_ = "shop";
        options.ips = {"192.0.2.7"};
        options.labels = {{"app", "web"}};
        options.backends = {{"shop/web", "http", 8080, "TCP"}};
        options.zone = "z1";
        options.lease_ttl = kHour;
        return options;
    }
    /// "address:port" of the service's backends, as a cluster sees them.
    static std::vector<std::string> backends(const Mesh& mesh) {
        std::vector<std::string> found;
        const auto all = mesh.backends("shop/web");
        if (!all) return found;
        for (const auto& one : *all) found.push_back(one.address + ":" + std::to_string(one.port));
        return found;
    }
    [[nodiscard]] bool both_see(const std::vector<std::string>& wanted) {
        return until(
            [&] { return backends(*own_mesh_) == wanted && backends(*other_mesh_) == wanted; });
    }
    /// The labels of an address' identity, as the other cluster knows them.
    [[nodiscard]] std::string labels_of(const std::string& address) const {
        const auto ip = other_mesh_->lookup(address);
        if (!ip) return {};
        for (const auto& identity : other_mesh_->identities()) {
            if (identity.id != ip->identity) continue;
            std::string text;
            for (const auto& label : identity.labels) text += label + ";";
            return text;
        }
        return {};
    }

    test::TemporaryFolder folder_;
    std::mutex mutex_;
    std::string log_, ca_, proxy_at_;
    std::optional<EtcdProcess> own_, other_;
    ChildProcess operator_, proxy_;
    std::unique_ptr<Mesh> own_mesh_, other_mesh_;
};

/// Watches what the other cluster says of the service while things happen.
class Follower {
  public:
    explicit Follower(Mesh& mesh) {
        SubscribeOptions options;
        options.objects = Objects::kServices | Objects::kIps;
        auto subscription = mesh.subscribe(options, [this](const EventBatch& batch) {
            const std::lock_guard lock(mutex_);
            for (const Event& event : batch.events()) note(event);
        });
        EXPECT_TRUE(subscription);
        if (subscription) subscription_.emplace(*std::move(subscription));
    }
    /// Whether the backend or the ip was away at some time since it was first there.
    [[nodiscard]] bool flapped() {
        const std::lock_guard lock(mutex_);
        return flapped_;
    }

  private:
    void note(const Event& event) {
        if (const auto* ip = std::get_if<IpView>(&event.object)) {
            if (ip->prefix == "192.0.2.7/32" && event.kind == EventKind::kDelete) flapped_ = true;
            return;
        }
        const auto* service = std::get_if<ServiceView>(&event.object);
        if (service == nullptr || service->name != "web") return;
        bool here = false;
        for (const auto& frontend : service->frontends) {
            here = here || std::ranges::any_of(frontend.backends, [](const auto& backend) {
                       return backend.address == "192.0.2.7" && backend.selected;
                   });
        }
        if (seen_ && !here) flapped_ = true;
        seen_ = seen_ || here;
    }
    std::mutex mutex_;
    bool seen_ = false, flapped_ = false;
    std::optional<Subscription> subscription_;  // last: its callback uses the rest
};

TEST_F(PublishTest, IsSeenByAllClustersAndLeavesAtOnce) {
    auto published = own_mesh_->publish(vm1());
    ASSERT_TRUE(published) << published.error().message();
    Publication publication = *std::move(published);
    const auto done = publication.wait(kLong);
    ASSERT_TRUE(done) << done.error().message() << log();
    EXPECT_EQ(publication.state().state, PublicationState::kPublished);
    EXPECT_EQ(publication.state().reason, "");
    ASSERT_TRUE(both_see({"192.0.2.7:8080"})) << other_mesh_->services_json() << log();
    ASSERT_TRUE(until([&] { return !labels_of("192.0.2.7").empty(); }));
    EXPECT_THAT(labels_of("192.0.2.7"), HasSubstr("k8s:app=web;"));
    EXPECT_THAT(labels_of("192.0.2.7"), HasSubstr("k8s:io.kubernetes.pod.namespace=shop;"));
    EXPECT_EQ(other_mesh_->lookup("192.0.2.7")->k8s_pod_name, "vm1");
    EXPECT_EQ(other_mesh_->lookup("192.0.2.7")->host, "") << "nobody tunnels to it";

    const auto status = test::run_command(
        {"curl", "-s", "--unix-socket", folder_.file("operator.sock"), "http://o/v1/status"},
        folder_);
    const auto one = boost::json::parse(status.second).at("workloads").at(0);
    EXPECT_EQ(one.at("name").as_string(), "vm1");
    EXPECT_EQ(one.at("state").as_string(), "accepted");
    EXPECT_EQ(one.at("backends").at(0).at("service").as_string(), "shop/web");

    // Changed in place.
    Follower follower(*other_mesh_);
    auto changed = vm1();
    changed.labels["tier"] = "front";
    changed.backends[0].port = 9090;
    ASSERT_TRUE(publication.update(changed));
    ASSERT_TRUE(publication.wait(kLong));
    EXPECT_TRUE(both_see({"192.0.2.7:9090"}));
    EXPECT_TRUE(until([&] {
        return labels_of("192.0.2.7").find("k8s:tier=front;") != std::string::npos;
    })) << labels_of("192.0.2.7");
    EXPECT_FALSE(follower.flapped());

    // Its lease is an hour long.
    const auto closed = publication.close();
    EXPECT_TRUE(closed) << closed.error().message();
    EXPECT_EQ(publication.state().state, PublicationState::kClosed);
    EXPECT_TRUE(look("mesh/local/workloads/v1/vm1").empty());
    EXPECT_TRUE(both_see({}));
    EXPECT_TRUE(until([&] { return !other_mesh_->lookup("192.0.2.7"); }));
    EXPECT_TRUE(until([&] { return look("mesh/local/workload-status/v1/vm1").empty(); }));

    // The end of a mesh is the end of what it publishes.
    auto again = own_mesh_->publish(vm1());
    ASSERT_TRUE(again && again->wait(kLong));
    own_mesh_.reset();
    EXPECT_TRUE(look("mesh/local/workloads/v1/vm1").empty());
    EXPECT_EQ(again->state().state, PublicationState::kClosed);
    EXPECT_TRUE(until([&] { return backends(*other_mesh_).empty(); }));
}

TEST_F(PublishTest, IsRefusedWithTheReason) {
    write("manifests/pod.yaml", kPod);
    ASSERT_TRUE(until([&] { return own_mesh_->lookup("192.0.2.8").has_value(); }));
    auto options = vm1();
    options.ips = {"192.0.2.7", "192.0.2.8"};
    auto publication = own_mesh_->publish(options);
    ASSERT_TRUE(publication);
    const auto refused = publication->wait(kLong);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kConflict) << refused.error().message();
    EXPECT_THAT(refused.error().detail(), HasSubstr("192.0.2.8 is that of Pod shop/web-0"));
    EXPECT_EQ(publication->state().state, PublicationState::kRefused);
    EXPECT_FALSE(own_mesh_->lookup("192.0.2.7")) << "nothing in part";

    // Another process with the name, and then another name with the address.
    const auto second = open("cluster1", 1, *own_, {});
    auto named = vm1();
    named.ips = {"192.0.2.9"};
    auto taken = second->publish(named);
    ASSERT_TRUE(taken);
    EXPECT_THAT(taken->wait(kLong).error().detail(), HasSubstr("another process has it"));
    EXPECT_TRUE(taken->close());

    // What stood against it goes.
    std::filesystem::remove(folder_.file("manifests/pod.yaml"));
    ASSERT_TRUE(until([&] { return publication->state().state == PublicationState::kPublished; }))
        << publication->state().reason;
    EXPECT_TRUE(both_see({"192.0.2.7:8080", "192.0.2.8:8080"}));
    named.name = "vm2";
    named.ips = {"192.0.2.8"};
    auto late = second->publish(named);
    ASSERT_TRUE(late);
    EXPECT_THAT(late->wait(kLong).error().detail(), HasSubstr("192.0.2.8 is that of workload vm1"));
    EXPECT_TRUE(publication->close());
    EXPECT_TRUE(until([&] { return late->state().state == PublicationState::kPublished; }))
        << late->state().reason;

    // The same host starts again before its former lease has ended: its record is taken over.
    const auto third = open("cluster1", 1, *own_, {});
    auto restarted = third->publish(named);
    ASSERT_TRUE(restarted);
    const auto over = restarted->wait(kLong);
    EXPECT_TRUE(over) << over.error().message();
    EXPECT_TRUE(until([&] { return late->state().state == PublicationState::kRefused; }));
    EXPECT_TRUE(late->close());
    EXPECT_EQ(restarted->state().state, PublicationState::kPublished);
    EXPECT_TRUE(both_see({"192.0.2.8:8080"}));
}

TEST_F(PublishTest, NothingFlapsWhenTheOthersRestart) {
    auto publication = own_mesh_->publish(vm1());
    ASSERT_TRUE(publication && publication->wait(kLong));
    ASSERT_TRUE(both_see({"192.0.2.7:8080"}));
    Follower follower(*other_mesh_);
    const auto ip_key = "cilium/state/ip/v1/default/192.0.2.7";
    const auto created = look(ip_key)["CreateRevision"];
    const auto answered = look("mesh/local/workload-status/v1/vm1")["ModRevision"];
    ASSERT_NE(created, "");

    operator_.stop(SIGKILL);
    start_operator();
    const auto ready = [&] {
        return test::run_command({"curl", "-s", "-f", "--unix-socket",
                                  folder_.file("operator.sock"), "http://o/healthz"},
                                 folder_)
                   .first == 0;
    };
    ASSERT_TRUE(until(ready));
    EXPECT_EQ(look(ip_key)["CreateRevision"], created);
    EXPECT_EQ(look("mesh/local/workload-status/v1/vm1")["ModRevision"], answered);

    own_->kill();
    own_->start();
    ASSERT_TRUE(until([&] { return etcdctl(*own_, {"endpoint", "health"}).first == 0; }));
    // A change that comes after it says that all have come back.
    auto changed = vm1();
    changed.backends[0].port = 9090;
    ASSERT_TRUE(publication->update(changed));
    ASSERT_TRUE(until([&] { return publication->wait(1s).has_value(); }))
        << publication->state().reason;
    EXPECT_TRUE(both_see({"192.0.2.7:9090"}));
    EXPECT_EQ(look(ip_key)["CreateRevision"], created);
    EXPECT_FALSE(follower.flapped());

    // A lost lease is another one's beginning.
    const auto lease = look("mesh/local/workloads/v1/vm1")["Lease"];
    std::ostringstream hex;
    hex << std::hex << std::stoll(lease);
    ASSERT_EQ(etcdctl(*own_, {"lease", "revoke", hex.str()}).first, 0);
    EXPECT_TRUE(until([&] {
        const auto now = look("mesh/local/workloads/v1/vm1");
        return now.contains("Lease") && now.at("Lease") != lease;
    }));
    EXPECT_TRUE(until([&] { return publication->wait(1s).has_value(); }));
    EXPECT_TRUE(both_see({"192.0.2.7:9090"}));

    // The operator is away: a new one waits for it.
    operator_.stop(SIGTERM);
    auto more = vm1();
    more.name = "vm2";
    more.ips = {"192.0.2.9"};
    auto waiting = own_mesh_->publish(more);
    ASSERT_TRUE(waiting);
    EXPECT_TRUE(until([&] {
        return waiting->state().reason == "the cluster's operator has not answered yet";
    })) << waiting->state().reason;
    EXPECT_EQ(waiting->wait(0s).error().code(), Errc::kTimeout);
    start_operator();
    EXPECT_TRUE(waiting->wait(kLong));
    EXPECT_TRUE(both_see({"192.0.2.7:9090", "192.0.2.9:8080"}));
}

TEST_F(PublishTest, ByTheCAbi) {
    const std::string endpoint = own_->endpoint();
    const std::string cert = test::read_text(folder_.file("root.crt"));
    const std::string key = test::read_text(folder_.file("root.key"));
    const char* const endpoints[] = {endpoint.c_str()};
    mesh_options options = MESH_OPTIONS_INIT;
    options.cluster_name = "cluster1";
    options.cluster_id = 1;
    options.node_name = "node-c";
    options.etcd_endpoints = endpoints;
    options.etcd_endpoints_count = 1;
    options.etcd_ca_pem = ca_.c_str();
    options.etcd_cert_pem = cert.c_str();
    options.etcd_key_pem = key.c_str();
    mesh_error error = MESH_ERROR_INIT;
    mesh_ctx* mesh = nullptr;
    ASSERT_EQ(mesh_open(&options, &mesh, &error), MESH_OK) << error.message;

    const char* const ips[] = {"192.0.2.7"};
    const mesh_pair label{"app", "web"};
    mesh_workload_backend backend{"shop/web", "http", nullptr, 8080, 0};
    mesh_workload_options workload = MESH_WORKLOAD_OPTIONS_INIT;
    workload.name = "vm1";
    workload.namespace_ = "shop";
    workload.ips = ips;
    workload.ips_count = 1;
    workload.labels = &label;
    workload.labels_count = 1;
    workload.backends = &backend;
    workload.backends_count = 1;
    workload.lease_ttl_seconds = 3600;
    mesh_publication* publication = nullptr;
    ASSERT_EQ(mesh_publish(mesh, &workload, &publication, &error), MESH_OK) << error.message;
    ASSERT_EQ(mesh_publication_wait(publication, 60'000, &error), MESH_OK) << error.message;
    std::uint32_t state = 0;
    char* reason = nullptr;
    ASSERT_EQ(mesh_publication_state(publication, &state, &reason, &error), MESH_OK);
    EXPECT_EQ(state, MESH_PUBLICATION_PUBLISHED);
    EXPECT_STREQ(reason, "");
    mesh_text_free(reason);
    EXPECT_TRUE(both_see({"192.0.2.7:8080"}));
    backend.service = "shop/none";
    ASSERT_EQ(mesh_publication_update(publication, &workload, &error), MESH_OK) << error.message;
    ASSERT_EQ(mesh_publication_wait(publication, 60'000, &error), MESH_OK) << error.message;
    ASSERT_EQ(mesh_publication_state(publication, &state, &reason, &error), MESH_OK);
    EXPECT_THAT(reason, HasSubstr("waits for Service shop/none"));
    mesh_text_free(reason);
    EXPECT_TRUE(both_see({}));
    EXPECT_EQ(mesh_publication_close(publication), MESH_OK);
    EXPECT_TRUE(look("mesh/local/workloads/v1/vm1").empty());
    EXPECT_EQ(mesh_close(mesh), MESH_OK);
}

TEST_F(PublishTest, AProgramThatIsKilledIsGoneWithItsLease) {
    const auto registered = [&](const std::string& lease_ttl, const std::string& output) {
        return ChildProcess(
            {MESHCTL, "workload", "register", "--name=vm1", "--namespace=shop", "--ip=192.0.2.7",
             "--label=app=web", "--zone=z1", "--backend=shop/web:http:8080/TCP",
             "--lease-ttl=" + lease_ttl, "--etcd-config=" + folder_.file("etcd.yaml"),
             "--cluster-name=cluster1", "--cluster-id=1"},
            folder_.file(output));
    };
    const auto told = [&](const std::string& output, const std::string& text) {
        return until(
            [&] { return test::read_text(folder_.file(output)).find(text) != std::string::npos; });
    };
    auto killed = registered("2", "killed.out");
    ASSERT_TRUE(told("killed.out", "workload vm1: published\n"))
        << test::read_text(folder_.file("killed.out"));
    EXPECT_TRUE(both_see({"192.0.2.7:8080"}));
    killed.stop(SIGKILL);
    EXPECT_TRUE(both_see({})) << "etcd ended the lease";

    // One that is asked to end leaves at once: its lease would last for an hour.
    auto asked = registered("3600", "asked.out");
    ASSERT_TRUE(told("asked.out", "workload vm1: published\n"))
        << test::read_text(folder_.file("asked.out"));
    ASSERT_TRUE(both_see({"192.0.2.7:8080"}));
    const auto list = [&](std::vector<std::string> more) {
        more.insert(more.begin(),
                    {MESHCTL, "workload", "list", "--etcd-config=" + folder_.file("etcd.yaml")});
        const auto [code, text] = test::run_command(more, folder_);
        EXPECT_EQ(code, 0) << text;
        return text;
    };
    EXPECT_EQ(list({}),
              "NAME  NAMESPACE  STATE     ADDRESSES  SERVICES                LABELS\n"
              "vm1   shop       accepted  192.0.2.7  shop/web:http:8080/TCP  app=web\n");
    const auto one = boost::json::parse(list({"-o", "json"})).at(0);
    EXPECT_EQ(one.at("state").as_string(), "accepted");
    EXPECT_EQ(one.at("backends").at(0).at("port").to_number<int>(), 8080);
    EXPECT_EQ(asked.stop(SIGTERM), 0) << test::read_text(folder_.file("asked.out"));
    EXPECT_TRUE(told("asked.out", "workload vm1: left\n"));
    EXPECT_TRUE(look("mesh/local/workloads/v1/vm1").empty());
    EXPECT_TRUE(both_see({}));
    EXPECT_EQ(list({}), "no workload has registered itself\n");

    // What is wrong is said before anything is written.
    const auto refused = [&](std::vector<std::string> words) {
        words.insert(words.begin(), {MESHCTL, "workload", "register", "--name=vm1",
                                     "--etcd-config=" + folder_.file("etcd.yaml")});
        const auto [code, text] = test::run_command(words, folder_);
        EXPECT_EQ(code, 2) << text;
        return text;
    };
    EXPECT_THAT(refused({"--ip=127.0.0.1"}), HasSubstr("ips: expected an address"));
    EXPECT_THAT(refused({"--ip=192.0.2.7", "--backend=shop/web"}),
                HasSubstr("--backend: expected"));
    EXPECT_THAT(refused({"--ip=192.0.2.7", "--label=app"}), HasSubstr("--label: expected"));
    EXPECT_THAT(refused({"--ip=192.0.2.7", "--cluster-name=cluster9"}),
                HasSubstr("expected the etcd of cluster cluster9"));
    EXPECT_THAT(refused({"--ip=192.0.2.7", "--cluster-name=cluster1", "--cluster-id=9"}),
                HasSubstr("with id 9, got 1"));
    write("manifests/pod.yaml", kPod);
    ASSERT_TRUE(until([&] { return own_mesh_->lookup("192.0.2.8").has_value(); }));
    const auto late =
        test::run_command({MESHCTL, "workload", "register", "--name=vm1", "--ip=192.0.2.8",
                           "--timeout=1", "--etcd-config=" + folder_.file("etcd.yaml")},
                          folder_);
    EXPECT_EQ(late.first, 3) << late.second;
}

TEST_F(PublishTest, AUserThatMayWriteItsOwnKeyIsEnough) {
    const std::vector<std::vector<std::string>> steps = {
        {"user", "add", "root", "--no-password"},
        {"user", "grant-role", "root", "root"},
        {"role", "add", "vm1"},
        {"role", "grant-permission", "vm1", "readwrite", "mesh/local/workloads/v1/vm1"},
        {"role", "grant-permission", "vm1", "read", "mesh/local/workload-status/v1/vm1"},
        {"user", "add", "vm1", "--no-password"},
        {"user", "grant-role", "vm1", "vm1"},
        {"auth", "enable"}};
    for (const auto& step : steps) {
        const auto [code, text] = etcdctl(*own_, step);
        ASSERT_EQ(code, 0) << text;
    }
    write("vm1.yaml", yaml(own_->endpoint(), "vm1"));
    const auto command = [&](const std::string& name) {
        return std::vector<std::string>{MESHCTL,
                                        "workload",
                                        "register",
                                        "--name=" + name,
                                        "--namespace=shop",
                                        "--ip=192.0.2.7",
                                        "--backend=shop/web:http:8080",
                                        "--lease-ttl=3600",
                                        "--etcd-config=" + folder_.file("vm1.yaml")};
    };
    ChildProcess vm1(command("vm1"), folder_.file("vm1.out"));
    EXPECT_TRUE(both_see({"192.0.2.7:8080"})) << test::read_text(folder_.file("vm1.out"));
    EXPECT_EQ(vm1.stop(SIGTERM), 0) << test::read_text(folder_.file("vm1.out"));
    EXPECT_TRUE(both_see({})) << "it may revoke its lease";
    ChildProcess vm2(command("vm2"), folder_.file("vm2.out"));
    EXPECT_TRUE(until([&] {
        return test::read_text(folder_.file("vm2.out")).find("refused: ") != std::string::npos;
    })) << test::read_text(folder_.file("vm2.out"));
    EXPECT_THAT(test::read_text(folder_.file("vm2.out")), HasSubstr("permission"));
}

}  // namespace
}  // namespace mesh
