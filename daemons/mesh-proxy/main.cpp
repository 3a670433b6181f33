// mesh-proxy: in front of a cluster's etcd, or as that etcd (--embedded). Remote clusters read the
// mesh's prefixes here, over mutual TLS, and can do nothing else.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/daemon.hpp"
#include "common/flags.hpp"
#include "kvstore_mesh_report.hpp"
#include "model/validate.hpp"
#include "reflect/kvstore_mesh.hpp"
#include "rpc/server.hpp"
#include "serve/etcd/cluster_access.hpp"
#include "serve/etcd/etcd_service.hpp"
#include "serve/etcd/mirror.hpp"
#include "serve/status/status_server.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "sources/etcd/client.hpp"
#include "state/store/lmdb_backend.hpp"
#include "state/store/store.hpp"

namespace asio = boost::asio;

namespace {

struct Flags {
    mesh::daemon::CommonFlags common;
    std::string cluster_name;
    std::uint32_t cluster_id = 0;
    std::string etcd_config;
    bool embedded = false;
    std::string data_dir;
    std::string listen_remote = "0.0.0.0:2379";
    std::string listen_local;
    bool legacy_readers = false;
    std::string tls_ca, tls_cert, tls_key;
    std::string status_socket;
    int metrics_port = -1;
    bool kvstoremesh = false;
    std::string clustermesh_config, kvstoremesh_etcd_config;
    std::uint32_t max_connected_clusters = 255;
    double kvstoremesh_qps = 100;
    std::int64_t kvstoremesh_drain_grace = 180;
};

void add_kvstoremesh_flags(CLI::App& app, Flags& flags) {
    auto* kvstoremesh = app.add_flag(
        "--kvstoremesh", flags.kvstoremesh,
        "Reflect all remotes of --clustermesh-config below cilium/cache/ of the cluster's etcd");
    auto* remotes = app.add_option("--clustermesh-config", flags.clustermesh_config,
                                   "Folder of remotes, one file each (--kvstoremesh)");
    kvstoremesh->needs(remotes);
    remotes->needs(kvstoremesh);
    app.add_option("--kvstoremesh-etcd-config", flags.kvstoremesh_etcd_config,
                   "etcd client YAML by which the cache is written, as admin-CLUSTER (default: "
                   "--etcd-config; needed with --embedded)")
        ->needs(kvstoremesh);
    app.add_option("--max-connected-clusters", flags.max_connected_clusters,
                   "255 or 511, equal in all clusters of the mesh (--kvstoremesh)")
        ->needs(kvstoremesh)
        ->capture_default_str();
    app.add_option("--kvstoremesh-qps", flags.kvstoremesh_qps,
                   "Transactions per second to the cluster's etcd, once a remote is synced")
        ->needs(kvstoremesh)
        ->check(CLI::Range(1.0, 1e6))
        ->capture_default_str();
    app.add_option("--kvstoremesh-drain-grace", flags.kvstoremesh_drain_grace,
                   "Seconds between the end of a removed remote's config and that of its cache")
        ->needs(kvstoremesh)
        ->check(CLI::Range(0, 86400))
        ->capture_default_str();
}

void add_flags(CLI::App& app, Flags& flags) {
    app.add_option("--cluster-name", flags.cluster_name, "Name of this cluster")->required();
    app.add_option("--cluster-id", flags.cluster_id, "Id of this cluster, 1 to 511")
        ->required()
        ->check(CLI::Range(1, 511));
    auto* config = app.add_option("--etcd-config", flags.etcd_config,
                                  "etcd client YAML of the etcd that is mirrored");
    auto* embedded = app.add_flag("--embedded", flags.embedded,
                                  "Be the cluster's etcd: an own store instead of a mirror");
    config->excludes(embedded);
    app.add_option("--data-dir", flags.data_dir, "Where the own store is kept (--embedded)")
        ->needs(embedded);
    app.add_option("--listen-remote", flags.listen_remote,
                   "ADDRESS:PORT for remote clusters: certificates remote and remote-PEER, reads "
                   "of the mesh's prefixes only")
        ->capture_default_str();
    app.add_option("--listen-local", flags.listen_local,
                   "ADDRESS:PORT for this cluster's programs: local-CLUSTER reads, admin-CLUSTER "
                   "writes (--embedded)");
    app.add_flag("--legacy-readers", flags.legacy_readers,
                 "Let remotes of Cilium 1.12 to 1.15 take their init lock and lease: in memory, "
                 "per connection; they never reach the etcd");
    app.add_option("--tls-ca", flags.tls_ca, "CA that signed the clients' certificates")
        ->required();
    app.add_option("--tls-cert", flags.tls_cert, "Server certificate")->required();
    app.add_option("--tls-key", flags.tls_key, "Its private key")->required();
    app.add_option("--status-socket", flags.status_socket,
                   "Unix socket for status (HTTP and JSON): /v1/status, /metrics, /healthz");
    app.add_option("--metrics-port", flags.metrics_port,
                   "Serve the same on this port of 127.0.0.1 as well; 0 = any");
    add_kvstoremesh_flags(app, flags);
}

/// Changes that a client may have missed and still resume; beyond that it lists again.
constexpr std::size_t kHistory = 10'000;
constexpr std::size_t kMostWatches = 200'000;
/// Descriptors that are none of a listener's connections: the store, logs, the connection to the
/// upstream etcd, status.
constexpr std::size_t kOtherDescriptors = 100;

/// What remote clusters may use up: they only send Range and Watch requests, which are small, and
/// never the descriptors that the cluster's own programs need.
mesh::rpc::ServerOptions remote_limits(std::size_t descriptors) {
    mesh::rpc::ServerOptions o;
    o.max_connections = std::min<std::size_t>(10'000, descriptors / 4 * 3);
    o.max_connections_per_name = std::max<std::size_t>(o.max_connections / 2, 1);
    o.max_handshakes = std::min<std::size_t>(256, o.max_connections / 2);
    o.max_handshakes_per_address = std::max<std::size_t>(o.max_handshakes / 4, 1);
    o.max_concurrent_streams = 200;
    o.max_message_bytes = 64U << 10;
    o.max_buffered_bytes = 1U << 20;
    o.max_connection_queue_bytes = 16U << 20;
    return o;
}

/// The cluster's own programs also put: as much as etcd takes by default, and its overhead.
mesh::rpc::ServerOptions local_limits(std::size_t descriptors) {
    mesh::rpc::ServerOptions o;
    o.max_connections = std::min<std::size_t>(10'000, descriptors / 4);
    o.max_handshakes = std::min<std::size_t>(256, o.max_connections / 2);
    o.max_message_bytes = 2U << 20;
    return o;
}

struct HostPort {
    std::string host;
    std::uint16_t port = 0;
};

mesh::Result<HostPort> parse_listen(std::string_view flag, std::string_view text) {
    const auto colon = text.rfind(':');
    const auto bad = [&] {
        return mesh::invalid_argument(fmt::format(
            "{} \"{}\": expected ADDRESS:PORT, e.g. 0.0.0.0:2379 or [::]:2379", flag, text));
    };
    if (colon == std::string_view::npos) return bad();
    HostPort out;
    std::string_view host = text.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    out.host = host;
    const auto digits = text.substr(colon + 1);
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), out.port);
    if (out.host.empty() || ec != std::errc{} || end != digits.data() + digits.size()) return bad();
    return out;
}

/// The store and what feeds it: an upstream etcd, or nobody but its clients.
class Proxy {
  public:
    Proxy(mesh::daemon::Daemon& daemon, const mesh::Clock& clock, Flags flags)
        : daemon_(daemon), clock_(clock), flags_(std::move(flags)), log_(daemon.log()) {}

    asio::awaitable<mesh::Result<void>> run() {
        MESH_CO_CHECK(open());
        MESH_CO_CHECK(listen());
        MESH_CO_CHECK(open_kvstore_mesh());
        MESH_CO_CHECK(serve_status());
        if (mirror_) {
            mirror_->on_change([this] { on_mirror(); });
            mirror_->start();
        } else {
            daemon_.set_ready();
        }
        if (kvstore_mesh_) kvstore_mesh_->start();
        co_await daemon_.stop_requested();
        co_await stop();
        co_return mesh::Result<void>{};
    }

  private:
    mesh::Result<void> open() {
        if (auto ok = mesh::sources::config::check_cluster_name(flags_.cluster_name); !ok) {
            return ok.error().with_prefix("--cluster-name");
        }
        if (!flags_.embedded && flags_.etcd_config.empty()) {
            return mesh::invalid_argument(
                "expected --etcd-config FILE (mirror an etcd) or --embedded (be one)");
        }
        std::unique_ptr<mesh::store::Backend> backend;
        if (flags_.embedded && !flags_.data_dir.empty()) {
            auto opened = mesh::store::open_lmdb({.directory = flags_.data_dir});
            if (!opened) return opened.error().to_error();
            backend = *std::move(opened);
        } else {
            backend = std::make_unique<mesh::store::MemoryBackend>();
        }
        mesh::store::StoreOptions options;
        options.identity = {.cluster_id = rng_.next(), .member_id = rng_.next()};
        options.seed = rng_.next();
        auto store = mesh::store::Store::open(std::move(backend), options, clock_.now());
        if (!store) return store.error().to_error();
        store_ = *std::move(store);
        service_ = std::make_unique<mesh::serve::EtcdService>(
            daemon_.executor(), *store_, clock_,
            mesh::serve::EtcdServiceOptions{.name = flags_.cluster_name,
                                            .history_to_keep = kHistory,
                                            .max_watches = kMostWatches,
                                            // One peer cannot use up what all have.
                                            .max_watches_per_name = kMostWatches / 2},
            log_.named("etcd"));
        if (flags_.embedded) return {};
        service_->set_ready(false);
        MESH_TRY(const auto config, mesh::sources::config::read_etcd_yaml(flags_.etcd_config));
        MESH_TRY(client_, mesh::etcd::Client::make(
                              daemon_.executor(), mesh::sources::config::client_options(config),
                              clock_, mesh::Rng(rng_.next()), log_.named("upstream")));
        mirror_ = std::make_unique<mesh::serve::Mirror>(
            daemon_.executor(), *client_, *store_, clock_, mesh::Rng(rng_.next()),
            mesh::serve::MirrorOptions{}, log_.named("mirror"));
        return {};
    }

    mesh::Result<void> add_listener(std::string_view flag, std::string_view where,
                                    const std::string& name,
                                    std::shared_ptr<const mesh::serve::AccessPolicy> policy,
                                    mesh::rpc::ServerOptions options,
                                    std::unique_ptr<mesh::rpc::Server>& server) {
        MESH_TRY(const auto to, parse_listen(flag, where));
        options.tls = mesh::rpc::TlsOptions{
            .ca_file = flags_.tls_ca, .cert_file = flags_.tls_cert, .key_file = flags_.tls_key};
        options.tls->client_certificate = mesh::rpc::ClientCertificate::kRequired;
        server = std::make_unique<mesh::rpc::Server>(daemon_.executor(), std::move(options), clock_,
                                                     log_.named(name));
        service_->attach(*server, name, std::move(policy),
                         name == "remote" && flags_.legacy_readers);
        const auto port = server->listen(to.host, to.port);
        if (!port) return port.error().with_prefix(flag);
        log_.info("{} listener on {}:{}", name, to.host, *port);
        return {};
    }

    mesh::Result<void> listen() {
        const std::size_t all = mesh::daemon::most_descriptors();
        const std::size_t descriptors =
            std::max<std::size_t>(all, 2 * kOtherDescriptors) - kOtherDescriptors;
        MESH_CHECK(add_listener(
            "--listen-remote", flags_.listen_remote, "remote",
            std::make_shared<mesh::serve::RemoteAccess>(flags_.cluster_name, flags_.legacy_readers),
            remote_limits(descriptors), remote_));
        if (flags_.listen_local.empty()) return {};
        return add_listener(
            "--listen-local", flags_.listen_local, "local",
            std::make_shared<mesh::serve::LocalAccess>(flags_.cluster_name, flags_.embedded),
            local_limits(descriptors), local_);
    }

    mesh::Result<void> open_kvstore_mesh() {
        if (!flags_.kvstoremesh) return {};
        const mesh::model::ClusterId id{flags_.cluster_id};
        MESH_CHECK(mesh::model::check_local_cluster(flags_.cluster_name, id,
                                                    flags_.max_connected_clusters));
        const bool own = !flags_.kvstoremesh_etcd_config.empty();
        if (!own && flags_.embedded) {
            return mesh::invalid_argument(
                "--kvstoremesh with --embedded: expected --kvstoremesh-etcd-config FILE, which "
                "names --listen-local's address and the certificate admin-CLUSTER");
        }
        MESH_TRY(const auto config, mesh::sources::config::read_etcd_yaml(
                                        own ? flags_.kvstoremesh_etcd_config : flags_.etcd_config));
        MESH_TRY(auto client, mesh::etcd::Client::make(
                                  daemon_.executor(), mesh::sources::config::client_options(config),
                                  clock_, mesh::Rng(rng_.next()), log_.named("cache")));
        mesh::reflect::KvstoreMeshOptions options;
        options.local_name = flags_.cluster_name;
        options.local_id = id;
        options.max_clusters = flags_.max_connected_clusters;
        options.remotes_directory = flags_.clustermesh_config;
        options.own.qps = flags_.kvstoremesh_qps;
        options.drain_grace = std::chrono::seconds(flags_.kvstoremesh_drain_grace);
        kvstore_mesh_ = std::make_unique<mesh::reflect::KvstoreMesh>(
            daemon_.executor(), std::move(client), std::move(options), clock_,
            mesh::Rng(rng_.next()), log_.named("kvstoremesh"));
        return {};
    }

    mesh::Result<void> serve_status() {
        mesh::serve::StatusServerOptions options;
        options.unix_socket = flags_.status_socket;
        if (flags_.metrics_port >= 0) {
            options.tcp_port = static_cast<std::uint16_t>(flags_.metrics_port);
        }
        status_ = std::make_unique<mesh::serve::StatusServer>(
            daemon_.executor(), log_.named("status"), std::move(options));
        status_->route("/v1/status", [this](const mesh::serve::StatusRequest&) {
            return mesh::serve::StatusResponse{.body = boost::json::serialize(document())};
        });
        status_->route("/metrics", [this](const mesh::serve::StatusRequest&) {
            return mesh::serve::StatusResponse{
                .content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics()};
        });
        status_->set_health([this]() -> mesh::Result<void> {
            if (mirror_ && !mirror_->status().serving) {
                return mesh::unavailable("nothing to serve yet: " + mirror_->status().last_failure);
            }
            if (kvstore_mesh_ && !kvstore_mesh_->ready()) {
                return mesh::unavailable("the remotes are not in the cache yet; see /v1/status");
            }
            return {};
        });
        return status_->start();
    }

    [[nodiscard]] double stale_seconds() const {
        if (!mirror_ || !mirror_->status().stale) return 0;
        return std::chrono::duration<double>(clock_.now() - mirror_->status().stale_since).count();
    }

    [[nodiscard]] boost::json::object document() const {
        const auto stats = store_->stats();
        boost::json::object out{
            {"cluster", flags_.cluster_name},
            {"id", flags_.cluster_id},
            {"mode", flags_.embedded ? "embedded" : "mirror"},
            {"revision", store_->revision()},
            {"etcd_cluster_id", fmt::format("{:x}", store_->identity().cluster_id)},
            {"etcd_member_id", fmt::format("{:x}", store_->identity().member_id)},
            {"keys", stats.keys},
            {"leases", stats.leases},
            {"watchers", stats.watchers},
            {"connections", connections()},
            {"denied", service_->stats().denied}};
        if (mirror_) {
            const auto& mirror = mirror_->status();
            out["upstream"] = boost::json::object{{"endpoint", mirror.endpoint},
                                                  {"serving", mirror.serving},
                                                  {"stale", mirror.stale},
                                                  {"stale_seconds", stale_seconds()},
                                                  {"lists", mirror.lists},
                                                  {"history_changes", mirror.history_changes},
                                                  {"events", mirror.events},
                                                  {"failures", mirror.failures},
                                                  {"last_failure", mirror.last_failure}};
        }
        if (kvstore_mesh_) {
            out["kvstoremesh"] = mesh::proxy_daemon::to_json(kvstore_mesh_->status());
        }
        return out;
    }

    [[nodiscard]] std::uint64_t connections() const {
        return remote_->stats().connections + (local_ ? local_->stats().connections : 0);
    }

    [[nodiscard]] std::string metrics() const {
        std::string text;
        const auto gauge = [&](std::string_view name, std::string_view help, auto value,
                               std::string_view type = "gauge") {
            text +=
                fmt::format("# HELP {0} {1}\n# TYPE {0} {3}\n{0} {2}\n", name, help, value, type);
        };
        const auto stats = store_->stats();
        gauge("mesh_proxy_revision", "etcd revision that is served.", store_->revision());
        gauge("mesh_proxy_keys", "Keys that are served.", stats.keys);
        gauge("mesh_proxy_watchers", "Watches of all clients.", stats.watchers);
        gauge("mesh_proxy_watchers_behind", "Watches that are being caught up.", stats.behind);
        gauge("mesh_proxy_connections", "Client connections.", connections());
        gauge("mesh_proxy_denied_total", "Calls refused by role.", service_->stats().denied,
              "counter");
        gauge("mesh_proxy_events_sent_total", "Events handed to watches.",
              service_->stats().events_sent, "counter");
        if (mirror_) {
            gauge("mesh_proxy_serving", "1 once a complete list of the upstream was taken.",
                  mirror_->status().serving ? 1 : 0);
            gauge("mesh_proxy_stale", "1 while the upstream etcd is out of reach.",
                  mirror_->status().stale ? 1 : 0);
            gauge("mesh_proxy_stale_seconds", "How long it has been.", stale_seconds());
            gauge("mesh_proxy_upstream_lists_total", "Complete lists taken.",
                  mirror_->status().lists, "counter");
        }
        if (kvstore_mesh_) text += mesh::proxy_daemon::to_metrics(kvstore_mesh_->status());
        return text;
    }

    void on_mirror() {
        service_->set_raft_term(mirror_->status().position.raft_term);
        if (mirror_->status().serving && !announced_) {
            announced_ = true;
            service_->set_ready(true);
            daemon_.set_ready();
        }
    }

    asio::awaitable<void> stop() {
        co_await status_->async_stop();
        if (kvstore_mesh_) co_await kvstore_mesh_->stop();
        co_await remote_->async_drain(std::chrono::seconds(1));
        if (local_) co_await local_->async_drain(std::chrono::seconds(1));
        if (mirror_) {
            co_await mirror_->async_stop();
            co_await client_->async_stop();
        }
        remote_.reset();
        local_.reset();
        mirror_.reset();
        client_.reset();
        service_.reset();
    }

    mesh::daemon::Daemon& daemon_;
    const mesh::Clock& clock_;
    Flags flags_;
    mesh::Logger log_;
    mesh::Rng rng_;
    std::unique_ptr<mesh::store::Store> store_;
    std::unique_ptr<mesh::serve::EtcdService> service_;
    std::unique_ptr<mesh::etcd::Client> client_;
    std::unique_ptr<mesh::serve::Mirror> mirror_;
    std::unique_ptr<mesh::rpc::Server> remote_, local_;
    std::unique_ptr<mesh::serve::StatusServer> status_;
    std::unique_ptr<mesh::reflect::KvstoreMesh> kvstore_mesh_;
    bool announced_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Flags flags;
    CLI::App app(
        "mesh-proxy: shows a cluster's etcd to remote clusters, read-only; or is that etcd",
        "mesh-proxy");
    add_flags(app, flags);
    mesh::daemon::add_common_flags(
        app, flags.common,
        "mesh-proxy --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml --tls-ca ca.crt "
        "--tls-cert server.crt --tls-key server.key\n"
        "mesh-proxy --cluster-name cluster1 --cluster-id 1 --embedded --data-dir /var/lib/libmesh "
        "--listen-local 127.0.0.1:2378 --tls-ca ca.crt --tls-cert server.crt --tls-key server.key\n"
        "mesh-proxy --cluster-name cluster1 --cluster-id 1 --etcd-config etcd.yaml --kvstoremesh "
        "--clustermesh-config /etc/libmesh/remotes --tls-ca ca.crt --tls-cert server.crt --tls-key "
        "server.key");
    if (const auto code = mesh::daemon::parse_command_line(app, argc, argv)) return *code;
    const mesh::SystemClock clock;
    mesh::daemon::Daemon daemon("mesh-proxy", flags.common);
    Proxy proxy(daemon, clock, std::move(flags));
    return daemon.run([&] { return proxy.run(); });
}
