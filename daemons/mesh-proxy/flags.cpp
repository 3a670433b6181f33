#include "flags.hpp"

namespace mesh::proxy_daemon {

namespace {

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

}  // namespace

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
    app.add_option("--data-dir", flags.data_dir,
                   "Where the own store is kept (--embedded), or what was read of the etcd: then a "
                   "restarted proxy serves at once, and goes on instead of reading all of it anew");
    app.add_option("--listen-remote", flags.listen_remote,
                   "ADDRESS:PORT for remote clusters, which read by role (--access-file)")
        ->capture_default_str();
    app.add_option("--listen-local", flags.listen_local,
                   "ADDRESS:PORT for this cluster's programs, which read and write (--embedded) by "
                   "role");
    app.add_flag("--legacy-readers", flags.legacy_readers,
                 "Let remotes of Cilium 1.12 to 1.15 take their init lock and lease: in memory, "
                 "per connection; they never reach the etcd");
    app.add_option("--access-file", flags.access_file,
                   "YAML of users and roles, read again when it changes and on SIGHUP; also "
                   "Cilium's (ConfigMap clustermesh-remote-users). Default: remote and remote-PEER "
                   "read the mesh's prefixes, local-CLUSTER reads all, admin-CLUSTER writes");
    app.add_option("--loops", flags.loops,
                   "Event loops that serve clients, each on a thread of its own with its own index "
                   "of the keys; 0 = one per core")
        ->check(CLI::Range(0, 256))
        ->capture_default_str();
    app.add_option("--tls-ca", flags.tls_ca, "CA that signed the clients' certificates")
        ->required();
    app.add_option("--tls-cert", flags.tls_cert, "Server certificate")->required();
    app.add_option("--tls-key", flags.tls_key, "Its private key")->required();
    app.add_option("--tls-crl", flags.tls_crl,
                   "Lists of revoked certificates (PEM): their sessions end within a second of the "
                   "file's change, and those of a CA that left --tls-ca");
    app.add_option("--max-connection-age", flags.max_connection_age,
                   "Seconds after which a client is told to connect anew, with 5 minutes for its "
                   "streams to end, so that clients spread over replicas again; 0 = never")
        ->check(CLI::Range(0, 30 * 86400))
        ->capture_default_str();
    app.add_option("--status-socket", flags.status_socket,
                   "Unix socket for status (HTTP and JSON): /v1/status, /v1/clients, /v1/watchers, "
                   "/metrics, /healthz, /readyz");
    app.add_option("--metrics-port", flags.metrics_port,
                   "Serve the same on this port of 127.0.0.1 as well; 0 = any");
    add_kvstoremesh_flags(app, flags);
}

}  // namespace mesh::proxy_daemon
