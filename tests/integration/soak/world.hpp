// The processes of the soak: an etcd, two mirrors of it and an embedded one, certificates, and the
// lines between them that can be cut.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>

#include "caller.hpp"
#include "etcd_process.hpp"
#include "line.hpp"
#include "pki/certificates.hpp"

namespace mesh::soak {

/// A mesh-proxy process and the lines to its listeners.
struct ProxyProcess {
    std::string name;
    std::vector<std::string> command;
    std::string log;
    std::uint16_t remote_port = 0, local_port = 0;
    std::unique_ptr<test::Line> remote, local;  ///< to the listeners
    std::unique_ptr<test::Line> upstream;       ///< from the proxy to etcd; null: embedded
    test::ChildProcess process;
    std::uint64_t peak_rss_kib = 0;

    void start() { process = test::ChildProcess(command, log); }
    void kill() { process.stop(SIGKILL); }
    /// Takes note of the memory it has now.
    void measure();
};

class World {
  public:
    /// @param mesh_proxy the program
    World(boost::asio::io_context& loop, const Clock& clock, std::string mesh_proxy);

    [[nodiscard]] std::shared_ptr<rpc::TlsCredentials> credentials(const std::string& name);
    /// Arguments of etcdctl for a certificate of credentials().
    [[nodiscard]] std::vector<std::string> etcdctl_arguments(const std::string& name);
    [[nodiscard]] Caller admin_of_etcd();
    [[nodiscard]] Caller admin_of_embedded();
    /// A line to etcd that is never cut.
    [[nodiscard]] std::uint16_t etcd_port() const noexcept { return etcd_port_; }

    boost::asio::io_context& loop;
    const Clock& clock;
    test::TemporaryFolder folder;
    std::unique_ptr<test::EtcdProcess> etcd;
    std::array<ProxyProcess, 2> mirrors;
    ProxyProcess embedded;
    [[nodiscard]] std::array<ProxyProcess*, 3> proxies() {
        return {&mirrors[0], &mirrors[1], &embedded};
    }

  private:
    void write(const std::string& name, const std::string& text);
    void issue(const std::string& name, const pki::CertificateRequest& request);
    void make_proxy(ProxyProcess& proxy, std::string name, int cluster);

    std::string mesh_proxy_;
    std::uint16_t etcd_port_ = 0;
    std::unique_ptr<pki::Authority> authority_;
    WallTime now_;
};

}  // namespace mesh::soak
