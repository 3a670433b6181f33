#include "world.hpp"

#include <fmt/format.h>

#include <fstream>
#include <stdexcept>

#include "pki/files.hpp"

namespace mesh::soak {

namespace {

template <class T>
T must(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message());
    return *std::move(result);
}

}  // namespace

void ProxyProcess::measure() {
    std::ifstream in(fmt::format("/proc/{}/status", process.pid()));
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with("VmRSS:"))
            peak_rss_kib = std::max<std::uint64_t>(peak_rss_kib, std::stoull(line.substr(6)));
    }
}

World::World(boost::asio::io_context& io, const Clock& time, std::string mesh_proxy)
    : loop(io), clock(time), mesh_proxy_(std::move(mesh_proxy)), now_(time.wall_now()) {
    using std::chrono::hours;
    authority_ = std::make_unique<pki::Authority>(
        must(pki::Authority::make("soak ca", hours(48), now_ - hours(1))));
    write("ca.crt", authority_->certificate());
    issue("server", pki::server_request());
    for (const char* name : {"remote", "remote-cluster2", "remote-cluster3", "local-cluster1",
                             "admin-cluster1", "local-cluster9", "admin-cluster9", "etcd-root"}) {
        issue(name, pki::client_request(name));
    }
    test::EtcdOptions options;
    options.client_port = etcd_port_ = test::free_port();
    options.ca_file = folder.file("ca.crt");
    options.cert_file = folder.file("server.crt");
    options.key_file = folder.file("server.key");
    etcd = std::make_unique<test::EtcdProcess>(folder, options);
    for (std::size_t i = 0; i < mirrors.size(); ++i) {
        mirrors[i].upstream = std::make_unique<test::Line>(loop, etcd_port_);
        make_proxy(mirrors[i], fmt::format("mirror{}", i + 1), 1);
        const std::string yaml = mirrors[i].name + ".yaml";
        write(yaml, fmt::format("endpoints:\n- https://127.0.0.1:{}\ntrusted-ca-file: {}\n"
                                "cert-file: {}\nkey-file: {}\n",
                                mirrors[i].upstream->port(), folder.file("ca.crt"),
                                folder.file("etcd-root.crt"), folder.file("etcd-root.key")));
        mirrors[i].command.push_back("--etcd-config=" + folder.file(yaml));
        // One of them keeps what it has over a restart.
        if (i == 1) mirrors[i].command.push_back("--data-dir=" + folder.file("mirror-cache"));
        mirrors[i].start();
    }
    make_proxy(embedded, "embedded", 9);
    embedded.command.push_back("--embedded");
    embedded.command.push_back("--data-dir=" + folder.file("store"));
    embedded.start();
}

void World::write(const std::string& name, const std::string& text) {
    must(pki::write_file(folder.file(name), text, pki::FileMode::kPrivate));
}

void World::issue(const std::string& name, const pki::CertificateRequest& request) {
    const auto pair = must(authority_->issue(request, now_));
    write(name + ".crt", pair.certificate);
    write(name + ".key", pair.private_key);
}

void World::make_proxy(ProxyProcess& proxy, std::string name, int cluster) {
    proxy.name = std::move(name);
    proxy.log = folder.file(proxy.name + ".log");
    proxy.remote_port = test::free_port();
    proxy.local_port = test::free_port();
    proxy.remote = std::make_unique<test::Line>(loop, proxy.remote_port);
    proxy.local = std::make_unique<test::Line>(loop, proxy.local_port);
    proxy.command = {mesh_proxy_,
                     fmt::format("--cluster-name=cluster{}", cluster),
                     fmt::format("--cluster-id={}", cluster),
                     fmt::format("--listen-remote=127.0.0.1:{}", proxy.remote_port),
                     fmt::format("--listen-local=127.0.0.1:{}", proxy.local_port),
                     "--tls-ca=" + folder.file("ca.crt"),
                     "--tls-cert=" + folder.file("server.crt"),
                     "--tls-key=" + folder.file("server.key"),
                     "--status-socket=" + folder.file(proxy.name + ".sock")};
}

std::shared_ptr<rpc::TlsCredentials> World::credentials(const std::string& name) {
    return must(rpc::TlsCredentials::load(rpc::TlsRole::kClient,
                                          {.ca_file = folder.file("ca.crt"),
                                           .cert_file = folder.file(name + ".crt"),
                                           .key_file = folder.file(name + ".key")},
                                          Logger()));
}

std::vector<std::string> World::etcdctl_arguments(const std::string& name) {
    return {"--cacert=" + folder.file("ca.crt"), "--cert=" + folder.file(name + ".crt"),
            "--key=" + folder.file(name + ".key")};
}

Caller World::admin_of_etcd() {
    return {loop.get_executor(), clock, etcd_port_, credentials("etcd-root")};
}

Caller World::admin_of_embedded() {
    return {loop.get_executor(), clock, embedded.local_port, credentials("admin-cluster9")};
}

}  // namespace mesh::soak
