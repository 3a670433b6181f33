// mesh-proxy as its operators meet it: metrics that Prometheus takes, clients and watchers told by
// the proxy and by meshctl, readiness, and the words with a service manager.
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <boost/json.hpp>
#include <cstring>
#include <map>
#include <sstream>

#include "mesh_proxy_fixture.hpp"

namespace mesh {
namespace {

namespace json = boost::json;
using test::Answer;
using test::ChildProcess;
using test::Words;

class ProxyOperateTest : public test::MeshProxyTest {
  protected:
    std::string get(const std::string& path, bool code_only = false) {
        Words command = {"curl", "-s", "--unix-socket", folder_.file("proxy.sock"),
                         "http://proxy" + path};
        if (code_only) command.insert(command.end(), {"-o", "/dev/null", "-w", "%{http_code}"});
        return test::run_command(command, folder_).second;
    }
    json::object document(const std::string& path) {
        boost::system::error_code bad;
        const std::string text = get(path);
        json::value parsed = json::parse(text, bad);
        EXPECT_TRUE(!bad && parsed.is_object()) << path << ": " << text;
        return parsed.is_object() ? parsed.get_object() : json::object();
    }
    Answer meshctl(Words words) {
        words.insert(words.begin(), MESHCTL);
        words.push_back("--socket=" + folder_.file("proxy.sock"));
        const auto [code, text] = test::run_command(words, folder_);
        return {code, text};
    }
    /// Samples by "name{labels}".
    std::map<std::string, double> metrics() {
        std::map<std::string, double> out;
        std::istringstream lines(get("/metrics"));
        for (std::string line; std::getline(lines, line);) {
            if (line.empty() || line[0] == '#') continue;
            const auto space = line.rfind(' ');
            out[line.substr(0, space)] = std::stod(line.substr(space + 1));
        }
        return out;
    }
    ChildProcess watcher(const std::string& who, const std::string& at, Words what) {
        Words command = {"etcdctl",
                         "watch",
                         "--endpoints=https://" + at,
                         "--cacert=" + folder_.file("ca.crt"),
                         "--cert=" + folder_.file(who + ".crt"),
                         "--key=" + folder_.file(who + ".key")};
        command.insert(command.end(), what.begin(), what.end());
        return ChildProcess(command, folder_.file("watchers.out"), {{"ETCDCTL_API", "3"}});
    }
    void start_watchers() {
        watchers_.push_back(
            watcher("remote-cluster2", remote_, {"--prefix", "cilium/state/nodes/v1/"}));
        watchers_.push_back(
            watcher("remote-cluster2", remote_, {"--prefix", "cilium/state/nodes/v1/"}));
        watchers_.push_back(watcher("local", local_, {"cilium/.heartbeat"}));
        ASSERT_TRUE(until([&] { return document("/v1/watchers").at("watchers") == 3; })) << log();
    }

    std::vector<ChildProcess> watchers_;
};

TEST_F(ProxyOperateTest, ClientsAndWatchersAreTold) {
    start_mirror();
    fill();
    start_watchers();
    EXPECT_NE(ctl("remote-cluster2", {"put", "cilium/state/x", "y"}).code, 0);
    direct({"put", "cilium/state/nodes/v1/cluster1/n2", "event"});
    ASSERT_TRUE(until([&] { return metrics()["mesh_proxy_events_sent_total"] >= 2; })) << log();

    const json::array ranges = document("/v1/watchers").at("ranges").as_array();
    ASSERT_EQ(ranges.size(), 2U);
    EXPECT_EQ(ranges[0].at("range"), "cilium/state/nodes/v1/*");
    EXPECT_EQ(ranges[0].at("watchers"), 2);
    EXPECT_EQ(ranges[1].at("range"), "cilium/.heartbeat");
    const json::object cut = document("/v1/watchers?limit=1");
    EXPECT_EQ(cut.at("ranges").as_array().size(), 1U);
    EXPECT_EQ(cut.at("left_out"), 1);
    const json::object single = document("/v1/watchers?client=local-cluster1");
    ASSERT_EQ(single.at("watches").as_array().size(), 1U);
    EXPECT_EQ(single.at("watches").as_array()[0].at("range"), "cilium/.heartbeat");

    // Connections of one certificate and address stand in one row.
    json::array clients;
    ASSERT_TRUE(until([&] {  // those of etcdctl's puts and gets are gone
        clients = document("/v1/clients?sort=watchers").at("clients").as_array();
        return clients.size() == 2 && clients[0].at("connections") == 2;
    })) << json::serialize(clients);
    EXPECT_EQ(clients[0].at("name"), "remote-cluster2");
    EXPECT_EQ(clients[0].at("address"), "127.0.0.1");
    EXPECT_EQ(clients[0].at("listener"), "remote");
    EXPECT_EQ(clients[0].at("watchers"), 2);
    EXPECT_EQ(clients[0].at("denied"), 1);
    EXPECT_EQ(clients[0].at("sent_events"), 2);
    EXPECT_EQ(clients[1].at("name"), "local-cluster1");
    const json::object connections = document("/v1/clients?client=remote-cluster2");
    EXPECT_EQ(connections.at("connections").as_array().size(), 2U);

    for (const char* bad : {"/v1/clients?limit=x", "/v1/clients?sort=x", "/v1/watchers?limit=-1"})
        EXPECT_EQ(get(bad, true), "400") << bad;
    EXPECT_NE(get("/v1/clients?limit=x").find("expected a number of rows"), std::string::npos);

    const Answer table = meshctl({"proxy", "clients"});
    EXPECT_EQ(table.code, 0) << table.text;
    EXPECT_TRUE(table.has("remote-cluster2  127.0.0.1")) << table.text;
    const Answer few = meshctl({"proxy", "watchers", "--limit", "1"});
    EXPECT_TRUE(few.has("and 1 more ranges")) << few.text;
    const Answer status = meshctl({"proxy", "status"});
    EXPECT_EQ(status.code, 0) << status.text;
    EXPECT_TRUE(status.has("3 on 3 streams")) << status.text;
    EXPECT_TRUE(status.has("server certificate ends in")) << status.text;
    // No terminal: one table, no colours, no cursor moved.
    const Answer top = meshctl({"proxy", "top", "--interval", "0.1"});
    EXPECT_EQ(top.code, 0) << top.text;
    EXPECT_TRUE(top.has("EVENTS/S")) << top.text;
    EXPECT_FALSE(top.has("\033")) << top.text;
    const Answer as_json = meshctl({"proxy", "top", "--interval", "0.1", "-o", "json"});
    EXPECT_TRUE(json::parse(as_json.text).at("clients").is_array()) << as_json.text;
}

TEST_F(ProxyOperateTest, MetricsAreWhatPrometheusTakes) {
    start_mirror();
    fill();
    start_watchers();
    EXPECT_NE(ctl("remote-cluster2", {"put", "cilium/state/x", "y"}).code, 0);
    // Cut before its handshake.
    EXPECT_NE(ctl("", {"get", "cilium/.heartbeat"}).code, 0);
    ASSERT_TRUE(until([&] {
        return metrics()["mesh_proxy_handshake_failures_total{listener=\"remote\"}"] > 0;
    })) << log();
    auto now = metrics();
    EXPECT_EQ(now["mesh_proxy_watchers{prefix=\"cilium/state/nodes/v1/\"}"], 2);
    EXPECT_EQ(now["mesh_proxy_watchers{prefix=\"cilium/.heartbeat\"}"], 1);
    EXPECT_EQ(now["mesh_proxy_watchers{prefix=\"other\"}"], 0);
    EXPECT_EQ(now["mesh_proxy_watch_streams"], 3);
    EXPECT_EQ(now["mesh_proxy_connections{listener=\"local\"}"], 1);
    EXPECT_GT(now["mesh_proxy_sent_bytes_total{listener=\"remote\"}"], 0);
    EXPECT_GE(now["mesh_proxy_denied_total"], 1);
    EXPECT_GE(now["mesh_proxy_denials_total{client=\"remote-cluster2\",reason=\"method\"}"], 1);
    EXPECT_EQ(now["mesh_proxy_slow_watchers"], 0);
    EXPECT_EQ(now.count("mesh_proxy_queued_bytes"), 1U);
    EXPECT_EQ(now.count("mesh_proxy_upstream_lag_revisions"), 1U);
    EXPECT_EQ(now.count("mesh_proxy_throttled_requests_total"), 1U);
    // The server's certificate is for three years, cut at the end of the CA.
    const double left = now["mesh_proxy_tls_expiry_seconds{certificate=\"server\"}"];
    EXPECT_GT(left, 0);
    EXPECT_LT(left, 48 * 3600);
    EXPECT_GT(now["mesh_proxy_tls_expiry_seconds{certificate=\"ca\"}"], 0);

    if (test::run_command({"sh", "-c", "command -v promtool"}, folder_).first != 0) {
        std::fputs("SKIPPED: what promtool makes of the metrics, as there is none\n", stderr);
        return;
    }
    write("metrics", get("/metrics"));
    const auto [code, text] = test::run_command(
        {"sh", "-c", "promtool check metrics < " + folder_.file("metrics")}, folder_);
    EXPECT_EQ(code, 0) << text;
}

TEST_F(ProxyOperateTest, AMirrorIsReadyOnceItHasSomethingToServeAndStaysSo) {
    write("etcd.yaml",
          "endpoints:\n- http://127.0.0.1:" + std::to_string(test::free_port()) + "\n");
    start_proxy({"--etcd-config=" + folder_.file("etcd.yaml")});
    ASSERT_TRUE(until([&] { return get("/readyz", true) == "503"; })) << log();
    EXPECT_NE(get("/readyz").find("nothing to serve yet"), std::string::npos) << get("/readyz");
    EXPECT_EQ(meshctl({"proxy", "status"}).code, 3);
    proxy_.stop(SIGTERM);

    start_mirror();
    EXPECT_EQ(get("/readyz"), "ok\n");
    EXPECT_EQ(get("/healthz"), "ok\n");
    etcd_->kill();
    ASSERT_TRUE(until([&] { return get("/readyz") == "ok, stale\n"; })) << get("/readyz") << log();
    EXPECT_EQ(get("/readyz", true), "200");
    EXPECT_EQ(metrics()["mesh_proxy_stale"], 1);
    const Answer status = meshctl({"proxy", "status"});
    EXPECT_EQ(status.code, 3) << status.text;
    EXPECT_TRUE(status.has("stale for")) << status.text;
}

/// A service manager's end of NOTIFY_SOCKET.
class NotifySocket {
  public:
    explicit NotifySocket(const std::string& path)
        : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
        const timeval patience{30, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        bound_ = ::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    }
    ~NotifySocket() { ::close(fd_); }
    NotifySocket(const NotifySocket&) = delete;
    NotifySocket& operator=(const NotifySocket&) = delete;
    [[nodiscard]] bool bound() const { return bound_; }
    /// The next message; empty when none comes.
    std::string next() const {
        char text[512];
        const ssize_t n = ::recv(fd_, text, sizeof text, 0);
        return n < 0 ? "" : std::string(text, static_cast<std::size_t>(n));
    }

  private:
    int fd_;
    bool bound_ = false;
};

TEST_F(ProxyOperateTest, AServiceManagerIsToldOfReadinessReloadAndTheEnd) {
    const NotifySocket manager(folder_.file("notify"));
    ASSERT_TRUE(manager.bound());
    wrapper_ = {"env", "NOTIFY_SOCKET=" + folder_.file("notify")};
    start_proxy({"--embedded", "--log-format=json"});
    EXPECT_EQ(manager.next(), "READY=1") << log();
    proxy_.send(SIGHUP);
    EXPECT_TRUE(manager.next().starts_with("RELOADING=1\nMONOTONIC_USEC=")) << log();
    EXPECT_EQ(manager.next(), "READY=1") << log();
    EXPECT_TRUE(ctl("remote", {"put", "cilium/state/x", "y"}).has("permission denied"));
    proxy_.send(SIGTERM);
    EXPECT_EQ(manager.next(), "STOPPING=1") << log();
    EXPECT_EQ(proxy_.wait(), 0) << log();
    // Each line of the log is one JSON object; that of a refusal says whose, and what.
    std::istringstream lines(log());
    std::string line;
    int denials = 0;
    while (std::getline(lines, line)) {
        boost::system::error_code bad;
        const json::value entry = json::parse(line, bad);
        ASSERT_TRUE(!bad && entry.is_object()) << line;
        for (const char* key : {"time", "level", "subsystem", "message"})
            EXPECT_TRUE(entry.get_object().contains(key)) << line;
        if (!entry.get_object().contains("client")) continue;
        ++denials;
        EXPECT_EQ(entry.at("client"), "remote");
        EXPECT_EQ(entry.at("method"), "/etcdserverpb.KV/Put");
        EXPECT_EQ(entry.at("listener"), "remote");
    }
    EXPECT_EQ(denials, 1) << log();
}

}  // namespace
}  // namespace mesh
