// mesh-proxy: in front of a cluster's etcd, or as that etcd (--embedded). Remote clusters read the
// mesh's prefixes here, over mutual TLS, and can do nothing else.
#include <CLI/CLI.hpp>
#include <utility>

#include "common/daemon.hpp"
#include "common/flags.hpp"
#include "flags.hpp"
#include "proxy.hpp"
#include "runtime/clock.hpp"

int main(int argc, char** argv) {
    mesh::proxy_daemon::Flags flags;
    CLI::App app(
        "mesh-proxy: shows a cluster's etcd to remote clusters, read-only; or is that etcd",
        "mesh-proxy");
    mesh::proxy_daemon::add_flags(app, flags);
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
    mesh::proxy_daemon::Proxy proxy(daemon, clock, std::move(flags));
    return daemon.run([&] { return proxy.run(); });
}
