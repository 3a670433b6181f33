// The command line of mesh-proxy.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "common/flags.hpp"

namespace mesh::proxy_daemon {

struct Flags {
    daemon::CommonFlags common;
    std::string cluster_name;
    std::uint32_t cluster_id = 0;
    std::string etcd_config;
    bool embedded = false;
    std::string data_dir;
    std::string listen_remote = "0.0.0.0:2379";
    std::string listen_local;
    bool legacy_readers = false;
    std::string access_file;
    unsigned loops = 0;
    std::string tls_ca, tls_cert, tls_key, tls_crl;
    std::int64_t max_connection_age = 0;
    std::string status_socket;
    int metrics_port = -1;
    bool kvstoremesh = false;
    std::string clustermesh_config, kvstoremesh_etcd_config;
    std::uint32_t max_connected_clusters = 255;
    double kvstoremesh_qps = 100;
    std::int64_t kvstoremesh_drain_grace = 180;
};

/// All but the common ones.
void add_flags(CLI::App& app, Flags& flags);

}  // namespace mesh::proxy_daemon
