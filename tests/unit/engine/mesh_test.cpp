// mesh::Mesh from the outside: its options, and what many threads may do to it. Run under
// ThreadSanitizer too; nothing here needs an etcd that answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mesh/mesh.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace mesh;
using namespace std::chrono_literals;
using testing::HasSubstr;
namespace fs = std::filesystem;
namespace json = boost::json;

/// A port that takes connections and never says a word: the worst of peers.
class SilentServer {
  public:
    SilentServer() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof(address);
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        EXPECT_EQ(::bind(fd_, generic, length), 0);
        EXPECT_EQ(::listen(fd_, 64), 0);
        EXPECT_EQ(::getsockname(fd_, generic, &length), 0);
        port_ = ntohs(address.sin_port);
    }
    ~SilentServer() { ::close(fd_); }
    SilentServer(const SilentServer&) = delete;
    SilentServer& operator=(const SilentServer&) = delete;
    [[nodiscard]] std::string endpoint() const {
        return "http://127.0.0.1:" + std::to_string(port_);
    }

  private:
    int fd_;
    std::uint16_t port_ = 0;
};

class MeshTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "mesh-engine-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        directory_ = pattern;
        fs::create_directory(directory_ / "remotes");
        write("etcd.yaml", "endpoints: [\"" + silent_.endpoint() + "\"]\n");
        options_.cluster_name = "cluster1";
        options_.cluster_id = 1;
        options_.node_name = "node1";
        options_.etcd_config = (directory_ / "etcd.yaml").string();
        options_.clustermesh_config = (directory_ / "remotes").string();
    }
    void TearDown() override { fs::remove_all(directory_); }

    void write(const fs::path& name, const std::string& text) const {
        std::ofstream(directory_ / name) << text;
    }
    void add_remote(const std::string& name) const {
        write(fs::path("remotes") / name, "endpoints: [\"" + silent_.endpoint() + "\"]\n");
    }

    SilentServer silent_;
    fs::path directory_;
    MeshOptions options_;
};

struct BadOption {
    const char* named;  // what the error must name
    std::function<void(MeshOptions&)> spoil;
};

TEST_F(MeshTest, NamesTheOptionThatIsWrong) {
    const std::vector<BadOption> cases{
        {"cluster_name", [](MeshOptions& o) { o.cluster_name.clear(); }},
        {"cluster_name", [](MeshOptions& o) { o.cluster_name = "default"; }},
        {"cluster_name", [](MeshOptions& o) { o.cluster_name = "Not_a_name"; }},
        {"cluster_name", [](MeshOptions& o) { o.cluster_name = std::string(33, 'a'); }},
        {"cluster_id", [](MeshOptions& o) { o.cluster_id = 0; }},
        {"cluster_id", [](MeshOptions& o) { o.cluster_id = 256; }},
        {"max_connected_clusters", [](MeshOptions& o) { o.max_connected_clusters = 256; }},
        {"node_name", [](MeshOptions& o) { o.node_name.clear(); }},
        {"etcd_config", [](MeshOptions& o) { o.etcd_config.clear(); }},
        {"etcd_config", [](MeshOptions& o) { o.etcd_config = "/no/such/etcd.yaml"; }},
        {"sync_timeout", [](MeshOptions& o) { o.sync_timeout = 0s; }},
        {"sync_timeout", [](MeshOptions& o) { o.sync_timeout = std::chrono::seconds::max(); }},
    };
    for (const auto& bad : cases) {
        MeshOptions options = options_;
        bad.spoil(options);
        const auto mesh = Mesh::open(options);
        ASSERT_FALSE(mesh) << bad.named;
        EXPECT_THAT(mesh.error().message(), HasSubstr(bad.named));
    }
    options_.max_connected_clusters = 511;
    options_.cluster_id = 511;
    EXPECT_TRUE(Mesh::open(options_));
}

TEST_F(MeshTest, NamesTheFieldOfTheEtcdConfigThatIsWrong) {
    write("etcd.yaml", "endpoints: []\n");
    const auto mesh = Mesh::open(options_);
    ASSERT_FALSE(mesh);
    EXPECT_EQ(mesh.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(mesh.error().message(), HasSubstr(options_.etcd_config));
    EXPECT_THAT(mesh.error().message(), HasSubstr("endpoints"));
}

TEST_F(MeshTest, AnswersWhileNoEtcdDoes) {
    add_remote("cluster2");
    const auto mesh = Mesh::open(options_);
    ASSERT_TRUE(mesh) << mesh.error().message();
    EXPECT_FALSE((*mesh)->ready());
    EXPECT_FALSE((*mesh)->wait_ready(50ms));
    EXPECT_FALSE((*mesh)->wait_ready(0ms));
    EXPECT_FALSE((*mesh)->wait_ready(-1ms));
    EXPECT_TRUE((*mesh)->services().empty());
    EXPECT_EQ((*mesh)->service("shop", "echo"), std::nullopt);
    EXPECT_EQ((*mesh)->service_json("shop", "echo"), std::nullopt);
    EXPECT_EQ((*mesh)->services_json(), "[]");
    EXPECT_THAT((*mesh)->metrics_text(), HasSubstr("mesh_cluster_ready{cluster=\"cluster2\"} 0"));
    const json::value status = json::parse((*mesh)->status_json());
    EXPECT_EQ(status.at("cluster").as_string(), "cluster1");
    EXPECT_FALSE(status.at("ready").as_bool());
    ASSERT_EQ(status.at("remotes").as_array().size(), 1U);
    EXPECT_EQ(status.at("remotes").at(0).at("name").as_string(), "cluster2");
}

TEST_F(MeshTest, EndsAtOnceWhateverItWasDoing) {
    add_remote("cluster2");
    for (int i = 0; i < 20; ++i) {
        const auto mesh = Mesh::open(options_);
        ASSERT_TRUE(mesh) << mesh.error().message();
        // Each round ends it a little later: before, while and after it connects.
        EXPECT_FALSE((*mesh)->wait_ready(std::chrono::milliseconds(i)));
    }
}

TEST_F(MeshTest, ManyThreadsAskWhileRemotesComeAndGo) {
    std::atomic<int> lines{0};
    options_.log = [&](LogSeverity, std::string_view, std::string_view text) {
        if (!text.empty()) ++lines;
    };
    auto opened = Mesh::open(options_);
    ASSERT_TRUE(opened) << opened.error().message();
    {
        const auto mesh = *std::move(opened);
        std::atomic<bool> stop{false};
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        const auto repeat = [&](std::function<bool()> ask) {
            threads.emplace_back([&, ask = std::move(ask)] {
                do {
                    if (!ask()) ++wrong;
                } while (!stop);
            });
        };
        for (int i = 0; i < 2; ++i) {
            repeat([&] { return json::parse(mesh->status_json()).is_object(); });
            repeat([&] { return mesh->services().empty() && mesh->services_json() == "[]"; });
            repeat([&] { return !mesh->ready() && !mesh->wait_ready(1ms); });
            repeat([&] { return !mesh->service("shop", "echo") && !mesh->metrics_text().empty(); });
        }
        for (int i = 0; i < 10; ++i) {
            add_remote("cluster2");
            write("remotes/cluster3", i % 2 == 0 ? "endpoints: []\n" : "not yaml: [");
            (void)mesh->wait_ready(20ms);
            fs::remove(directory_ / "remotes" / "cluster2");
        }
        stop = true;
        for (auto& thread : threads) thread.join();
        EXPECT_EQ(wrong, 0);
    }
    // The log's receiver may go once the mesh has.
    EXPECT_GT(lines, 0);
}

TEST_F(MeshTest, ManyMeshesOpenAndCloseSideBySide) {
    add_remote("cluster2");
    std::atomic<int> failed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
            MeshOptions own = options_;
            own.node_name += std::to_string(i);
            for (int round = 0; round < 5; ++round) {
                const auto mesh = Mesh::open(own);
                if (!mesh || (*mesh)->ready() ||
                    json::parse((*mesh)->status_json()).at("node").as_string() != own.node_name) {
                    ++failed;
                }
            }
        });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(failed, 0);
}

}  // namespace
