// The mesh as an embedder sees it, with two clusters whose etcds are real and ask for certificates
// that are nowhere but in memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <mesh/mesh.h>
#include <boost/json/parse.hpp>
#include <condition_variable>
#include <filesystem>
#include <mesh/mesh.hpp>
#include <mutex>
#include <string>

#include "api_fixture.hpp"

namespace mesh {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(ApiTest, ReadsTheWholeMeshWithSecretsInMemoryOnly) {
    const auto mesh = open();
    ASSERT_TRUE(mesh);
    const auto ip = mesh->lookup("10.2.0.1");
    ASSERT_TRUE(ip) << ip.error().message();
    EXPECT_EQ(ip->prefix, "10.2.0.1/32");
    EXPECT_EQ(ip->cluster, "cluster2");
    EXPECT_EQ(ip->identity, 131'073U);
    EXPECT_EQ(ip->host, "192.168.0.2");
    EXPECT_EQ(ip->k8s_pod_name, "echo-1");
    EXPECT_EQ(mesh->lookup("10.2.0.9").error().code(), Errc::kNotFound);
    EXPECT_EQ(mesh->lookup("10.2.0").error().code(), Errc::kInvalidArgument);

    const auto backends = mesh->backends("shop/echo");
    ASSERT_TRUE(backends) << backends.error().message();
    ASSERT_EQ(backends->size(), 2U);
    EXPECT_EQ((*backends)[0].address, "10.1.0.1");
    EXPECT_EQ((*backends)[0].cluster, "cluster1");
    EXPECT_EQ((*backends)[1].address, "10.2.0.1");
    EXPECT_EQ((*backends)[1].cluster, "cluster2");
    EXPECT_TRUE((*backends)[1].selected);
    EXPECT_EQ(mesh->backends("shop/none").error().code(), Errc::kNotFound);
    for (const char* bad : {"", "/", "shop", "shop/", "/echo"}) {
        EXPECT_EQ(mesh->backends(bad).error().code(), Errc::kInvalidArgument) << bad;
    }

    const auto nodes = mesh->nodes();
    ASSERT_EQ(nodes.size(), 1U);
    EXPECT_EQ(nodes[0].name, "node-b");
    EXPECT_EQ(nodes[0].cluster_id, 2U);
    const auto clusters = mesh->clusters();
    ASSERT_EQ(clusters.size(), 2U);
    EXPECT_TRUE(clusters[0].own);
    EXPECT_EQ(clusters[0].id, 1U);
    EXPECT_EQ(clusters[0].services, 1U);
    EXPECT_EQ(clusters[1].name, "cluster2");
    EXPECT_EQ(clusters[1].state, "ready");
    EXPECT_TRUE(clusters[1].last_proof_of_life);
    EXPECT_EQ(clusters[1].ips, 1U);
    const auto records = mesh->ip_records();
    ASSERT_EQ(records.size(), 2U);
    EXPECT_EQ(records[0].identity, 65'537U);
    EXPECT_EQ(records[1].cluster_id, 2U);
    std::vector<IpRecord> some(1);
    std::size_t count = 0;
    EXPECT_FALSE(mesh->read_ip_records(some, count));
    EXPECT_EQ(count, 2U);
    some.resize(3);
    EXPECT_TRUE(mesh->read_ip_records(some, count));
    EXPECT_EQ(some[1], records[1]);
    EXPECT_THAT(mesh->status_json() + log(), testing::Not(HasSubstr("BEGIN")))
        << "secrets are never shown";
}

TEST_F(ApiTest, FollowsWhatChangesAndWhichRemotesAreAway) {
    auto mesh = open();
    ASSERT_TRUE(mesh);
    auto subscription = mesh->subscribe();
    ASSERT_TRUE(subscription);
    ASSERT_TRUE(until(*subscription,
                      [](const Event& event) { return event.kind == EventKind::kSnapshotEnd; }));
    put_ip(*remote_, model::IpAddress::v4(10, 2, 0, 2), 131'074);
    const auto added = until(*subscription, [](const Event& event) {
        const auto* ip = std::get_if<IpView>(&event.object);
        return ip != nullptr && ip->prefix == "10.2.0.2/32";
    });
    ASSERT_TRUE(added) << log();
    EXPECT_EQ(added->kind, EventKind::kUpsert);
    EXPECT_EQ(std::get<IpView>(added->object).identity, 131'074U);

    put_echo(model::IpAddress::v4(10, 1, 0, 7));
    const auto changed = until(*subscription, [](const Event& event) {
        const auto* service = std::get_if<ServiceView>(&event.object);
        return service != nullptr && service->frontends.at(0).backends.at(0).address == "10.1.0.7";
    });
    ASSERT_TRUE(changed) << log();
    EXPECT_EQ(std::get<ServiceView>(changed->object).frontends.at(0).backends.size(), 2U);

    remote_->kill();
    const auto stale = until(*subscription, [](const Event& event) {
        const auto* cluster = std::get_if<ClusterView>(&event.object);
        return cluster != nullptr && cluster->name == "cluster2" && cluster->state == "stale";
    });
    ASSERT_TRUE(stale) << log();
    EXPECT_FALSE(std::get<ClusterView>(stale->object).connected);
    EXPECT_TRUE(mesh->lookup("10.2.0.2")) << "what is known stays";

    // The subscription may outlive the mesh, and says so.
    mesh.reset();
    for (;;) {
        const auto batch = subscription->next(-1ms);
        if (batch) continue;
        EXPECT_EQ(batch.error().code(), Errc::kCancelled);
        break;
    }
}

TEST_F(ApiTest, ACallbackMayCloseTheMesh) {
    auto mesh = open();
    ASSERT_TRUE(mesh);
    std::mutex mutex;
    std::condition_variable changed;
    bool closed = false;
    auto subscription = mesh->subscribe({}, [&](const EventBatch&) {
        const std::lock_guard lock(mutex);
        if (closed) return;
        mesh.reset();
        closed = true;
        changed.notify_all();
    });
    ASSERT_TRUE(subscription);
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return closed; });
    EXPECT_EQ(mesh, nullptr);
}

/// A node that enforces nothing explains what the policies of its cluster say.
TEST_F(ApiTest, ExplainsPacketsByThePoliciesOfItsCluster) {
    fill_policies();
    const auto mesh = open();
    ASSERT_TRUE(mesh);
    PolicyTraceQuery query;
    query.source = "cluster2/shop/echo-1";
    query.destination = "10.1.0.1";
    query.dport = "80/TCP";
    const auto allowed = mesh->explain(query);
    ASSERT_TRUE(allowed) << allowed.error().message();
    EXPECT_EQ(allowed->verdict, "allowed");
    EXPECT_EQ(allowed->source.cluster, "cluster2");
    EXPECT_EQ(allowed->source.identity, 131'073U);
    EXPECT_THAT(allowed->source.labels, testing::Contains("k8s:app=client"));
    ASSERT_FALSE(allowed->source.facts.empty());
    EXPECT_EQ(allowed->source.facts.back().state, "ready");
    EXPECT_TRUE(allowed->source.facts.back().age);
    EXPECT_FALSE(allowed->egress.evaluated) << "up to the other cluster";
    EXPECT_THAT(allowed->egress.remark, HasSubstr("cluster2"));
    EXPECT_TRUE(allowed->ingress.evaluated && allowed->ingress.enforced);
    EXPECT_FALSE(allowed->ingress.installed) << "nothing is, on this node";
    ASSERT_EQ(allowed->ingress.decided.size(), 1U);
    const RuleView& rule = allowed->ingress.decided.front();
    EXPECT_EQ(rule.action, "allow");
    EXPECT_EQ(rule.place.name, "web");
    EXPECT_EQ(rule.place.kind, "CiliumNetworkPolicy");
    EXPECT_EQ(rule.place.source, "shop.yaml: document 1");
    EXPECT_GT(rule.place.line, 0U);

    query.dport = "81/TCP";
    const auto denied = mesh->explain(query);
    ASSERT_TRUE(denied) << denied.error().message();
    EXPECT_EQ(denied->verdict, "denied");
    EXPECT_EQ(denied->ingress.verdict, "default-denied");
    const auto document = mesh->policy_trace_json(query);
    ASSERT_TRUE(document);
    EXPECT_EQ(boost::json::parse(*document).at("verdict").as_string(), "denied");
    query.dport = "x";
    EXPECT_EQ(mesh->explain(query).error().code(), Errc::kInvalidArgument);
    query.dport = "80/TCP";
    query.source = "nobody";
    EXPECT_EQ(mesh->explain(query).error().code(), Errc::kNotFound);

    // What is known after the first question counts with the next.
    query.source = "10.2.0.1";
    etcdctl(*own_, {"del", "--prefix", "mesh/local/policies/v1/"});
    const auto end = std::chrono::steady_clock::now() + kLong;
    for (;;) {
        const auto open_now = mesh->explain(query);
        ASSERT_TRUE(open_now) << open_now.error().message();
        if (open_now->ingress.verdict == "not-enforced") break;
        ASSERT_LT(std::chrono::steady_clock::now(), end);
        ::poll(nullptr, 0, 5);
    }

    // And what would be with other ones.
    const auto diff = mesh->policy_diff_json(web_policy("somebody"), false);
    ASSERT_TRUE(diff) << diff.error().message();
    EXPECT_THAT(*diff, HasSubstr("\"shop/echo-1\""));
    EXPECT_EQ(mesh->policy_diff_json("kind: Nonsense", false).error().code(),
              Errc::kInvalidArgument);
}

TEST_F(ApiTest, ExplainsNothingBeforeItsClusterIsKnown) {
    MeshOptions options = this->options();
    options.etcd.endpoints = {"https://127.0.0.1:1"};
    const auto mesh = Mesh::open(std::move(options));
    ASSERT_TRUE(mesh);
    PolicyTraceQuery query;
    query.source = query.destination = "world";
    query.dport = "80";
    EXPECT_EQ((*mesh)->explain(query).error().code(), Errc::kUnavailable);
    EXPECT_EQ((*mesh)->policy_diff_json(web_policy("client"), true).error().code(),
              Errc::kUnavailable);
}

TEST_F(ApiTest, RemotesInMemoryComeChangeAndGo) {
    auto files = secret();
    MeshOptions options = this->options();
    options.remote_files = {};
    auto opened = Mesh::open(std::move(options));
    ASSERT_TRUE(opened) << opened.error().message();
    const auto mesh = *std::move(opened);
    auto subscription = mesh->subscribe({.objects = Objects::kClusters});
    ASSERT_TRUE(subscription);
    const auto until_cluster = [&](EventKind kind, const std::string& name,
                                   const std::string& state) {
        return until(*subscription, [&](const Event& event) {
            const auto* cluster = std::get_if<ClusterView>(&event.object);
            return event.kind == kind && cluster != nullptr && cluster->name == name &&
                   (state.empty() || cluster->state == state);
        });
    };
    ASSERT_TRUE(mesh->wait_ready(kLong)) << log();
    EXPECT_EQ(mesh->clusters().size(), 1U);
    ASSERT_TRUE(until_cluster(EventKind::kUpsert, "cluster1", "ready"));

    ASSERT_TRUE(mesh->set_remote_files(files));
    ASSERT_TRUE(until_cluster(EventKind::kUpsert, "cluster2", "ready")) << log();
    EXPECT_TRUE(mesh->lookup("10.2.0.1"));

    // Another remote disturbs nobody: no event of the one that there is, whose state would change.
    files["cluster3"] = "endpoints: [\"http://127.0.0.1:1\"]\n";
    ASSERT_TRUE(mesh->set_remote_files(files));
    for (;;) {
        const auto batch = subscription->next(kLong);
        ASSERT_TRUE(batch && !batch->empty());
        bool came = false;
        for (const Event& event : batch->events()) {
            const auto* cluster = std::get_if<ClusterView>(&event.object);
            ASSERT_NE(cluster, nullptr);
            EXPECT_EQ(cluster->name, "cluster3");
            came = came || cluster->name == "cluster3";
        }
        if (came) break;
    }
    EXPECT_EQ(mesh->clusters().size(), 3U);

    // A bad one changes nothing, whatever else is in the call.
    auto bad = files;
    bad.erase("cluster2");
    bad["cluster4"] = "endpoints: []\n";
    const auto refused = mesh->set_remote_files(bad);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(refused.error().message(), HasSubstr("remote_files: cluster4"));
    EXPECT_EQ(mesh->clusters().size(), 3U);
    EXPECT_TRUE(mesh->lookup("10.2.0.1"));

    // The same remote elsewhere: it connects anew, and the third has gone.
    files.erase("cluster3");
    files["cluster2"] = "endpoints: [\"http://127.0.0.1:1\"]\n";
    ASSERT_TRUE(mesh->set_remote_files(files));
    bool gone = false, cut = false;
    EXPECT_TRUE(until(*subscription, [&](const Event& event) {
        const auto* cluster = std::get_if<ClusterView>(&event.object);
        if (cluster == nullptr) return false;
        gone = gone || (cluster->name == "cluster3" && event.kind == EventKind::kDelete);
        cut = cut || (cluster->name == "cluster2" && !cluster->connected);
        return gone && cut;
    })) << log();
    EXPECT_TRUE(mesh->lookup("10.2.0.1")) << "what is known stays";
    ASSERT_TRUE(mesh->set_remote_files(secret()));
    EXPECT_TRUE(until_cluster(EventKind::kUpsert, "cluster2", "ready")) << log();
    ASSERT_TRUE(mesh->set_remote_files({}));
    EXPECT_TRUE(until_cluster(EventKind::kDelete, "cluster2", "")) << log();
    EXPECT_FALSE(mesh->lookup("10.2.0.1"));
}

/// A file of the folder goes before one in memory, which is there again when the other goes.
TEST_F(ApiTest, RemotesInMemoryBesideAFolder) {
    const std::string folder = folder_.file("remotes");
    std::filesystem::create_directory(folder);
    MeshOptions options = this->options();
    options.remote_files = {{"cluster2", "endpoints: [\"http://127.0.0.1:1\"]\n"}};
    options.clustermesh_config = folder;
    auto opened = Mesh::open(std::move(options));
    ASSERT_TRUE(opened) << opened.error().message();
    const auto mesh = *std::move(opened);
    write("remotes/cluster2", "endpoints: [\"" + remote_->endpoint() +
                                  "\"]\ntrusted-ca-file: " + folder_.file("ca.crt") +
                                  "\ncert-file: " + folder_.file("client.crt") +
                                  "\nkey-file: " + folder_.file("client.key") + "\n");
    ASSERT_TRUE(mesh->wait_ready(kLong)) << mesh->status_json() << log();
    EXPECT_TRUE(mesh->lookup("10.2.0.1"));
    // Other ones in memory are nothing to it.
    ASSERT_TRUE(mesh->set_remote_files({{"cluster2", "endpoints: [\"http://127.0.0.1:2\"]\n"}}));
    EXPECT_EQ(mesh->clusters().at(1).state, "ready");
    std::filesystem::remove(folder + "/cluster2");
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (mesh->clusters().at(1).connected && std::chrono::steady_clock::now() < end) {
        ::poll(nullptr, 0, 10);
    }
    EXPECT_FALSE(mesh->clusters().at(1).connected);
    EXPECT_THAT(mesh->status_json(), HasSubstr("127.0.0.1:2"));
}

TEST_F(ApiTest, NamesWhatIsWrongInMemoryAndNeverShowsIt) {
    const std::string secret_text = "x-very-secret-x";
    const auto refusal = [&](const std::function<void(MeshOptions&)>& spoil) {
        MeshOptions bad = options();
        spoil(bad);
        const auto mesh = Mesh::open(std::move(bad));
        const std::string text = mesh ? "opened" : mesh.error().message();
        EXPECT_THAT(text, testing::Not(HasSubstr(secret_text)));
        return text;
    };
    EXPECT_THAT(refusal([&](auto& o) { o.etcd.ca_pem = secret_text; }), HasSubstr("etcd.ca_pem"));
    EXPECT_THAT(refusal([&](auto& o) { o.etcd.key_pem = secret_text; }), HasSubstr("etcd.key_pem"));
    EXPECT_THAT(refusal([&](auto& o) { o.etcd.key_pem.clear(); }), HasSubstr("etcd.key_pem"));
    EXPECT_THAT(refusal([&](auto& o) { o.etcd.endpoints = {"nowhere"}; }), HasSubstr("endpoints"));
    EXPECT_THAT(refusal([&](auto& o) { o.etcd_config = "/also/given"; }), HasSubstr("etcd_config"));
    EXPECT_THAT(refusal([&](auto& o) { o.remote_files["tls.key"] = secret_text; }),
                HasSubstr("tls.key"));
    EXPECT_THAT(refusal([&](auto& o) { o.remote_files["cluster3"] = "endpoints: []"; }),
                HasSubstr("cluster3"));
    EXPECT_THAT(refusal([&](auto& o) { o.remote_files["Not_A_Name"] = "endpoints: []"; }),
                HasSubstr("Not_A_Name"));
}

/// The same by the C ABI.
class CApiTest : public ApiTest {
  protected:
    void SetUp() override {
        ApiTest::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        endpoint_ = own_->endpoint();
        files_ = secret();
        for (const auto& [name, data] : files_) {
            file_list_.push_back({name.c_str(), data.data(), data.size()});
        }
        const char* const endpoints[] = {endpoint_.c_str()};
        mesh_options options = MESH_OPTIONS_INIT;
        options.cluster_name = "cluster1";
        options.cluster_id = 1;
        options.node_name = "node-a";
        options.etcd_endpoints = endpoints;
        options.etcd_endpoints_count = 1;
        options.etcd_ca_pem = ca_.c_str();
        options.etcd_cert_pem = client_.certificate.c_str();
        options.etcd_key_pem = client_.private_key.c_str();
        options.remote_files = file_list_.data();
        options.remote_files_count = file_list_.size();
        ASSERT_EQ(mesh_open(&options, &mesh_, &error_), MESH_OK) << error_.message;
        ASSERT_EQ(mesh_wait_ready(mesh_, 60'000, &error_), MESH_OK) << error_.message;
    }
    void TearDown() override { EXPECT_EQ(mesh_close(mesh_), MESH_OK); }

    std::string endpoint_;
    std::map<std::string, std::string> files_;
    std::vector<mesh_file> file_list_;
    mesh_ctx* mesh_ = nullptr;
    mesh_error error_ = MESH_ERROR_INIT;
};

TEST_F(CApiTest, Reads) {
    mesh_batch* batch = nullptr;
    const mesh_event* const* events = nullptr;
    std::size_t count = 0;
    ASSERT_EQ(mesh_lookup(mesh_, "10.2.0.1", &batch, &error_), MESH_OK) << error_.message;
    ASSERT_EQ(mesh_batch_events(batch, &events, &count, &error_), MESH_OK);
    ASSERT_EQ(count, 1U);
    EXPECT_STREQ(events[0]->ip->cluster, "cluster2");
    EXPECT_EQ(events[0]->ip->identity, 131'073U);
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
    EXPECT_EQ(mesh_lookup(mesh_, "10.2.0.9", &batch, &error_), MESH_ERR_NOT_FOUND);
    EXPECT_EQ(batch, nullptr);
    EXPECT_EQ(error_.code, MESH_ERR_NOT_FOUND);
    EXPECT_THAT(error_.message, HasSubstr("10.2.0.9"));

    ASSERT_EQ(mesh_get_service(mesh_, "shop/echo", &batch, &error_), MESH_OK) << error_.message;
    EXPECT_STREQ(error_.message, "");
    ASSERT_EQ(mesh_batch_events(batch, &events, &count, nullptr), MESH_OK);
    ASSERT_EQ(events[0]->service->frontends_count, 1U);
    EXPECT_EQ(events[0]->service->frontends[0]->backends_count, 2U);
    EXPECT_STREQ(events[0]->service->frontends[0]->backends[1]->address, "10.2.0.1");
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);

    ASSERT_EQ(mesh_list(mesh_, MESH_OBJECT_ALL, &batch, &error_), MESH_OK) << error_.message;
    ASSERT_EQ(mesh_batch_events(batch, &events, &count, nullptr), MESH_OK);
    EXPECT_EQ(count, 6U) << "2 clusters, 1 node, 2 ips, 1 service";
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);

    mesh_ip_record records[2];
    EXPECT_EQ(mesh_read_ips(mesh_, nullptr, sizeof records[0], 0, &count, &error_),
              MESH_ERR_CAPACITY);
    EXPECT_EQ(count, 2U);
    ASSERT_EQ(mesh_read_ips(mesh_, records, sizeof records[0], 2, &count, &error_), MESH_OK);
    EXPECT_EQ(records[1].identity, 131'073U);
    struct Larger {
        mesh_ip_record known;
        std::uint64_t unknown = 7;
    } larger[2];
    ASSERT_EQ(mesh_read_ips(mesh_, larger, sizeof larger[0], 2, &count, &error_), MESH_OK);
    EXPECT_EQ(larger[1].known.identity, 131'073U);
    EXPECT_EQ(larger[1].unknown, 0U);

    char* text = nullptr;
    ASSERT_EQ(mesh_status_json(mesh_, &text, &error_), MESH_OK);
    EXPECT_TRUE(boost::json::parse(text).at("ready").as_bool());
    mesh_text_free(text);
}

TEST_F(CApiTest, ExplainsAndTakesOtherRemotes) {
    fill_policies();
    mesh_policy_query query = MESH_POLICY_QUERY_INIT;
    query.source = "cluster2/shop/echo-1";
    query.destination = "cluster1/shop/echo-1";
    query.dport = "80/TCP";
    query.http = "GET /";
    const char* const headers[] = {"X-Test: 1"};
    query.headers = headers;
    query.headers_count = 1;
    char* text = nullptr;
    const auto end = std::chrono::steady_clock::now() + kLong;
    for (;;) {
        const int code = mesh_explain_json(mesh_, &query, &text, &error_);
        if (code == MESH_OK) {
            const auto document = boost::json::parse(text);
            mesh_text_free(text);
            // The policy may come last of all.
            if (document.at("ingress").at("enforced").as_bool()) {
                EXPECT_EQ(document.at("verdict").as_string(), "allowed");
                break;
            }
        } else {
            ASSERT_EQ(code, MESH_ERR_NOT_FOUND)
                << "its identity has not come yet: " << error_.message;
        }
        ASSERT_LT(std::chrono::steady_clock::now(), end);
        ::poll(nullptr, 0, 5);
    }
    query.dport = "nonsense";
    EXPECT_EQ(mesh_explain_json(mesh_, &query, &text, &error_), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(text, nullptr);
    EXPECT_THAT(error_.message, HasSubstr("nonsense"));
    const std::string other = web_policy("somebody");
    ASSERT_EQ(mesh_policy_diff_json(mesh_, other.c_str(), 1, &text, &error_), MESH_OK)
        << error_.message;
    EXPECT_THAT(std::string(text), HasSubstr("shop/echo-1"));
    mesh_text_free(text);
    EXPECT_EQ(mesh_policy_diff_json(mesh_, "kind: Nonsense", 0, &text, &error_),
              MESH_ERR_INVALID_ARGUMENT);
    ASSERT_EQ(mesh_metrics_text(mesh_, &text, &error_), MESH_OK);
    EXPECT_THAT(std::string(text), HasSubstr("# TYPE"));
    mesh_text_free(text);

    const mesh_file bad{"cluster2", "endpoints: []", 13};
    EXPECT_EQ(mesh_set_remote_files(mesh_, &bad, 1, &error_), MESH_ERR_INVALID_ARGUMENT);
    EXPECT_THAT(error_.message, HasSubstr("cluster2"));
    mesh_batch* batch = nullptr;
    ASSERT_EQ(mesh_lookup(mesh_, "10.2.0.1", &batch, &error_), MESH_OK);
    EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
    ASSERT_EQ(mesh_set_remote_files(mesh_, nullptr, 0, &error_), MESH_OK) << error_.message;
    while (mesh_lookup(mesh_, "10.2.0.1", &batch, &error_) == MESH_OK) {
        EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
        ASSERT_LT(std::chrono::steady_clock::now(), end);
        ::poll(nullptr, 0, 5);
    }
    EXPECT_EQ(error_.code, MESH_ERR_NOT_FOUND);
}

TEST_F(CApiTest, FollowsByDescriptor) {
    mesh_subscription* subscription = nullptr;
    mesh_subscribe_options options = MESH_SUBSCRIBE_OPTIONS_INIT;
    options.objects = MESH_OBJECT_IP;
    ASSERT_EQ(mesh_subscribe(mesh_, &options, &subscription, &error_), MESH_OK) << error_.message;
    int fd = -1;
    ASSERT_EQ(mesh_subscription_fd(subscription, &fd, &error_), MESH_OK);
    const auto read = [&](std::size_t wanted) {
        pollfd item{fd, POLLIN, 0};
        EXPECT_EQ(::poll(&item, 1, 60'000), 1);
        mesh_batch* batch = nullptr;
        EXPECT_EQ(mesh_subscription_next(subscription, 0, &batch, &error_), MESH_OK)
            << error_.message;
        const mesh_event* const* events = nullptr;
        std::size_t count = 0;
        EXPECT_EQ(mesh_batch_events(batch, &events, &count, nullptr), MESH_OK);
        EXPECT_EQ(count, wanted);
        const std::uint32_t kind = count > 0 ? events[0]->kind : 0;
        EXPECT_EQ(mesh_batch_free(batch), MESH_OK);
        return kind;
    };
    EXPECT_EQ(read(4), MESH_EVENT_SNAPSHOT_BEGIN);
    mesh_batch* batch = nullptr;
    EXPECT_EQ(mesh_subscription_next(subscription, 0, &batch, &error_), MESH_ERR_TIMEOUT);
    etcdctl(*remote_, {"del", "cilium/state/ip/v1/default/10.2.0.1"});
    EXPECT_EQ(read(1), MESH_EVENT_DELETE);
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_OK);
    EXPECT_EQ(mesh_subscription_close(subscription), MESH_ERR_INVALID_ARGUMENT);
}

#ifdef MESH_EXAMPLES

/// The programs of examples/link, as somebody who copied them runs them.
class ExampleTest : public ApiTest {
  protected:
    void SetUp() override {
        ApiTest::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        write("etcd.yaml", yaml(*own_));
        std::filesystem::create_directory(folder_.file("remotes"));
        write("remotes/cluster2", yaml(*remote_));
    }
    [[nodiscard]] std::string yaml(const EtcdProcess& etcd) const {
        return "endpoints: [\"" + etcd.endpoint() +
               "\"]\ntrusted-ca-file: " + folder_.file("ca.crt") +
               "\ncert-file: " + folder_.file("client.crt") +
               "\nkey-file: " + folder_.file("client.key") + "\n";
    }
    [[nodiscard]] std::vector<std::string> command(const std::string& program) const {
        return {MESH_EXAMPLES "/example_" + program, "cluster1", "1", folder_.file("etcd.yaml"),
                folder_.file("remotes")};
    }
};

TEST_F(ExampleTest, LookupInC) {
    auto words = command("lookup");
    words.emplace_back("10.2.0.1");
    const auto found = test::run_command(words, folder_);
    EXPECT_EQ(found.second,
              "10.2.0.1/32 identity 131073 cluster cluster2 node 192.168.0.2 pod shop/echo-1\n");
    EXPECT_EQ(found.first, 0);
    words.emplace_back("10.9.9.9");
    const auto missed = test::run_command(words, folder_);
    EXPECT_THAT(missed.second, HasSubstr("not_found: ip 10.9.9.9"));
    EXPECT_EQ(missed.first, 1);
}

TEST_F(ExampleTest, AnAgentOfOnesOwn) {
    const std::string output = folder_.file("agent.out");
    test::ChildProcess agent(command("agent"), output);
    const auto until_printed = [&](const std::string& text) {
        const auto end = std::chrono::steady_clock::now() + kLong;
        while (std::chrono::steady_clock::now() < end) {
            if (test::read_text(output).find(text) != std::string::npos) return true;
            ::poll(nullptr, 0, 10);
        }
        return false;
    };
    EXPECT_TRUE(until_printed("following\n"));
    EXPECT_TRUE(
        until_printed("    10.11.0.10:80/TCP -> 10.1.0.1:8080@cluster1 10.2.0.1:8080@cluster2\n"))
        << test::read_text(output);
    put_echo(model::IpAddress::v4(10, 1, 0, 9));
    EXPECT_TRUE(until_printed("-> 10.1.0.9:8080@cluster1 10.2.0.1:8080@cluster2\n"));
    etcdctl(*own_, {"del", model::local_service_key("shop", "echo")});
    EXPECT_TRUE(until_printed("- shop/echo\n")) << test::read_text(output);
    EXPECT_EQ(agent.stop(SIGTERM), 0);
}

/// The program's io_context and the library's code are of two objects, each with Asio in it.
TEST_F(ExampleTest, OnTheProgramsOwnLoop) {
    const std::string output = folder_.file("own_loop.out");
    test::ChildProcess program(command("own_loop"), output);
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (test::read_text(output).find("1 services, 2 clusters, ready\n") == std::string::npos &&
           std::chrono::steady_clock::now() < end) {
        ::poll(nullptr, 0, 10);
    }
    EXPECT_THAT(test::read_text(output), HasSubstr("1 services, 2 clusters, ready\n"));
    EXPECT_EQ(program.stop(SIGTERM), 0);
    EXPECT_THAT(test::read_text(output), HasSubstr("closed\n"));
}

#endif

}  // namespace
}  // namespace mesh
