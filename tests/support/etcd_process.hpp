// A real etcd for a test: one member on free loopback ports, in a folder that vanishes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "child_process.hpp"

namespace mesh::test {

struct EtcdOptions {
    std::string name = "default";
    std::string ca_file, cert_file, key_file;  ///< TLS with client certificates when set
    std::uint16_t client_port = 0;
    std::uint16_t peer_port = 0;
    std::string initial_cluster;  ///< empty: alone
    std::string token = "mesh-test";
    std::vector<std::string> more;
};

class EtcdProcess {
  public:
    EtcdProcess(const TemporaryFolder& folder, EtcdOptions options) : options_(std::move(options)) {
        if (options_.client_port == 0) options_.client_port = free_port();
        if (options_.peer_port == 0) options_.peer_port = free_port();
        data_ = folder.file("etcd-" + options_.name + "-" + std::to_string(options_.client_port));
        log_ = data_ + ".log";
        start();
    }

    void start() {
        const bool tls = !options_.ca_file.empty();
        const std::string client = std::string(tls ? "https" : "http") +
                                   "://127.0.0.1:" + std::to_string(options_.client_port);
        const std::string peer = "http://127.0.0.1:" + std::to_string(options_.peer_port);
        std::vector<std::string> command = {
            "etcd",
            "--name=" + options_.name,
            "--data-dir=" + data_,
            "--listen-client-urls=" + client,
            "--advertise-client-urls=" + client,
            "--listen-peer-urls=" + peer,
            "--initial-advertise-peer-urls=" + peer,
            "--initial-cluster-token=" + options_.token,
            "--initial-cluster=" + (options_.initial_cluster.empty() ? options_.name + "=" + peer
                                                                     : options_.initial_cluster),
            "--heartbeat-interval=50",
            "--election-timeout=500"};
        if (tls) {
            command.insert(command.end(),
                           {"--cert-file=" + options_.cert_file, "--key-file=" + options_.key_file,
                            "--trusted-ca-file=" + options_.ca_file, "--client-cert-auth"});
        }
        command.insert(command.end(), options_.more.begin(), options_.more.end());
        process_ = ChildProcess(command, log_, {{"ETCD_UNSUPPORTED_ARCH", ""}});
        endpoint_ = client;
    }
    /// Kills it; the data stays for start().
    void kill() { process_.stop(SIGKILL); }
    /// Kills it and forgets its data.
    void wipe() {
        kill();
        std::filesystem::remove_all(data_);
    }
    void set_token(std::string token) { options_.token = std::move(token); }
    /// Stops it; it does nothing any more when this returns.
    void pause() const {
        process_.send(SIGSTOP);
        int status = 0;
        ::waitpid(process_.pid(), &status, WUNTRACED);
    }
    void resume() const { process_.send(SIGCONT); }
    [[nodiscard]] const std::string& endpoint() const noexcept { return endpoint_; }
    [[nodiscard]] std::string log() const { return read_text(log_); }

  private:
    EtcdOptions options_;
    std::string data_, log_, endpoint_;
    ChildProcess process_;
};

inline bool have_etcd() {
    return ::access("/usr/bin/etcd", X_OK) == 0 && ::access("/usr/bin/etcdctl", X_OK) == 0;
}

}  // namespace mesh::test
