// mesh-operator: one per cluster. Reads Kubernetes manifests from a directory and keeps the
// cluster's etcd equal to them, for the cluster's own agents and for other clusters.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/daemon.hpp"
#include "common/flags.hpp"
#include "model/validate.hpp"
#include "publish/etcd_publisher.hpp"
#include "report.hpp"
#include "runtime/clock.hpp"
#include "runtime/task_group.hpp"
#include "serve/status/status_server.hpp"
#include "sources/config/directory_watcher.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "sources/config/manifests.hpp"
#include "sources/etcd/client.hpp"

namespace asio = boost::asio;

namespace mesh::operator_daemon {
namespace {

struct Flags {
    daemon::CommonFlags common;
    std::string cluster_name;
    std::uint32_t cluster_id = 0;
    std::uint32_t max_connected_clusters = 255;
    std::string etcd_config;
    std::string manifests;
    std::string status_socket;
    std::string labels;
    std::int64_t lease_ttl_seconds = 900;
    bool force = false;
};

void add_flags(CLI::App& app, Flags& flags) {
    app.add_option("--cluster-name", flags.cluster_name,
                   "Name of this cluster: 1 to 32 of a-z, 0-9 and -")
        ->required();
    app.add_option("--cluster-id", flags.cluster_id, "Id of this cluster, 1 to 255 (or 511)")
        ->required();
    app.add_option("--max-connected-clusters", flags.max_connected_clusters,
                   "255 or 511, equal in all clusters of the mesh")
        ->capture_default_str();
    app.add_option("--etcd-config", flags.etcd_config, "etcd client YAML of the cluster's etcd")
        ->required();
    app.add_option("--manifests", flags.manifests,
                   "Folder of Kubernetes manifests (*.yaml, *.yml, *.json): Service, "
                   "EndpointSlice, Pod, Node, Namespace, NetworkPolicy, CiliumNetworkPolicy, "
                   "CiliumClusterwideNetworkPolicy")
        ->required();
    // etcd grants no lease below its election timeout; above a day a dead cluster's keys would
    // outlive all use.
    app.add_option("--lease-ttl", flags.lease_ttl_seconds,
                   "Seconds that the keys stay in etcd when this program is gone")
        ->check(CLI::Range(10, 86400))
        ->capture_default_str();
    app.add_option("--status-socket", flags.status_socket,
                   "Unix socket for status (HTTP and JSON): /v1/status, /healthz, /metrics");
    app.add_option("--labels", flags.labels,
                   "Patterns of label keys, [source:][!]expression, added to those that decide "
                   "which labels of pods and namespaces make an identity: \"!k8s:tier\" drops, "
                   "\"k8s:app\" keeps, and then only what some pattern keeps stays");
    app.add_flag("--force", flags.force,
                 "Take over an etcd that holds the config of another cluster name or id");
}

/// What of the flags no single flag shows.
Result<void> check_flags(const Flags& flags) {
    if (flags.cluster_id == 0) {
        return invalid_argument(fmt::format("--cluster-id: expected 1..{}, got 0 (not in a mesh)",
                                            flags.max_connected_clusters));
    }
    return model::check_local_cluster(flags.cluster_name, model::ClusterId{flags.cluster_id},
                                      flags.max_connected_clusters);
}

class Operator {
  public:
    Operator(daemon::Daemon& daemon, const Clock& clock, const Flags& flags)
        : daemon_(daemon),
          clock_(clock),
          flags_(flags),
          cluster_{flags.cluster_name, model::ClusterId{flags.cluster_id},
                   flags.max_connected_clusters},
          manifests_(flags.manifests, clock),
          watcher_(daemon.executor(), flags.manifests, daemon.log().named("manifests")),
          tasks_(daemon.executor()) {}

    asio::awaitable<Result<void>> run() {
        MESH_CO_CHECK(check_flags(flags_));
        const auto config = sources::config::read_etcd_yaml(flags_.etcd_config);
        if (!config) co_return invalid_argument("--etcd-config: " + config.error().detail());
        MESH_CO_TRY(client_,
                    etcd::Client::make(daemon_.executor(), sources::config::client_options(*config),
                                       clock_, Rng(), daemon_.log().named("etcd")));
        publish::PublisherOptions options;
        options.cluster = cluster_;
        options.lease_ttl = std::chrono::seconds(flags_.lease_ttl_seconds);
        options.force = flags_.force;
        auto labels = publish::LabelFilter::parse(flags_.labels);
        if (!labels) co_return invalid_argument("--labels: " + labels.error().detail());
        options.labels = *std::move(labels);
        publisher_.emplace(daemon_.executor(), *client_, std::move(options), clock_, Rng(),
                           daemon_.log().named("publish"));
        serve::StatusServerOptions status;
        status.unix_socket = flags_.status_socket;
        serve::StatusServer server(daemon_.executor(), daemon_.log().named("status"),
                                   std::move(status));
        add_routes(server);
        MESH_CO_CHECK(server.start());

        daemon_.on_reload([this] { watcher_.poke(); });
        publisher_->on_ready([this] { daemon_.set_ready(); });
        publisher_->start();
        client_->start();
        tasks_.spawn(follow_manifests());
        tasks_.spawn(await_acceptance());
        co_await daemon_.stop_requested();

        tasks_.cancel();
        co_await publisher_->async_stop();
        co_await tasks_.join();
        co_await server.async_stop();
        co_return result_;
    }

  private:
    asio::awaitable<void> follow_manifests() {
        while (co_await watcher_.async_changed()) {
            auto update = manifests_.refresh();
            if (!update) {
                const std::string text = update.error().detail();
                if (text != directory_error_) daemon_.log().error("{}; its objects stay", text);
                directory_error_ = text;
                continue;
            }
            directory_error_.clear();
            for (const auto& text : update->errors) daemon_.log().error("{}", text);
            for (const auto& text : update->warnings) daemon_.log().warn("{}", text);
            publisher_->apply_policies(update->policies, manifests_.policies().unread());
            publisher_->apply(update->changes, manifests_.set().incomplete());
        }
    }

    asio::awaitable<void> await_acceptance() {
        auto accepted = co_await publisher_->async_accepted();
        if (accepted || accepted.error().code() == Errc::kCancelled) co_return;
        // To start again will not help: somebody has to decide.
        result_ = invalid_argument(accepted.error().detail());
        daemon_.request_stop();
    }

    void add_routes(serve::StatusServer& server) {
        server.route("/v1/status", [this](const serve::StatusRequest&) {
            return serve::StatusResponse{.body = to_json(report())};
        });
        server.route("/metrics", [this](const serve::StatusRequest&) {
            return serve::StatusResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                                         .body = to_metrics(report())};
        });
        server.set_health([this]() -> Result<void> {
            if (publisher_->status().ready) return {};
            return unavailable("not ready; see /v1/status");
        });
    }

    [[nodiscard]] Report report() const {
        return {cluster_,         publisher_->status(), &manifests_,
                flags_.manifests, directory_error_,     publisher_->workloads()};
    }

    daemon::Daemon& daemon_;
    const Clock& clock_;
    const Flags& flags_;
    publish::ClusterInfo cluster_;
    sources::config::ManifestDirectory manifests_;
    sources::config::DirectoryWatcher watcher_;
    std::unique_ptr<etcd::Client> client_;
    std::optional<publish::EtcdPublisher> publisher_;
    TaskGroup tasks_;
    std::string directory_error_;
    Result<void> result_{};
};

}  // namespace
}  // namespace mesh::operator_daemon

int main(int argc, char** argv) {
    using namespace mesh;
    operator_daemon::Flags flags;
    CLI::App app(
        "Publishes a cluster's Kubernetes objects, and the workloads that registered themselves\n"
        "(meshctl workload register), to its etcd, for the mesh",
        "mesh-operator");
    operator_daemon::add_flags(app, flags);
    daemon::add_common_flags(
        app, flags.common,
        "mesh-operator --cluster-name cluster1 --cluster-id 1 --etcd-config /etc/libmesh/etcd.yaml "
        "--manifests /etc/libmesh/manifests --status-socket /run/libmesh/operator.sock\n"
        "mesh-operator --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml "
        "--manifests . --lease-ttl 60 --log-level debug");
    if (const auto code = daemon::parse_command_line(app, argc, argv)) return *code;
    const SystemClock clock;
    daemon::Daemon daemon("mesh-operator", flags.common);
    // The pieces must outlive the loop's last turn.
    operator_daemon::Operator instance(daemon, clock, flags);
    return daemon.run([&] { return instance.run(); });
}
