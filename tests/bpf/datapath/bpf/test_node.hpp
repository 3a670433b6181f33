// A node for the tests: a child cgroup, a BPF filesystem of its own, a client's and a server's
// network namespace with a link between. main.cpp removes all of it, also after a crash.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "datapath/bpf/bpf_datapath.hpp"

namespace mesh::test {

/// What main() made before the tests ran.
struct Place {
    std::string cgroup;     ///< this process is in it
    std::string directory;  ///< scratch; bpffs is mounted below
    std::string program;    ///< this executable
};
[[nodiscard]] const Place& place();
void set_place(Place place);

/// A network namespace that lives as long as this object.
class Netns {
  public:
    Netns();
    ~Netns();
    Netns(const Netns&) = delete;
    Netns& operator=(const Netns&) = delete;
    [[nodiscard]] std::string path() const {
        return "/proc/" + std::to_string(holder_) + "/ns/net";
    }
    [[nodiscard]] pid_t holder() const { return holder_; }
    /// Runs it on a thread inside, and waits. Sockets made there stay there.
    void run(const std::function<void()>& function) const;
    /// Runs `ip <arguments>` inside; throws if it fails.
    void ip(const std::string& arguments) const;

  private:
    pid_t holder_ = -1;
};

/// Client and server namespaces. Backends are 10.10.0.1 ... 10.10.0.8 and fd10::1 ... fd10::8, on
/// the server's side; the client has routes to them, none to the services (10.11/16, fd11::/64).
class Network {
  public:
    Network();
    Netns client;
    Netns server;
};

/// Options with pins and cgroup of this test.
[[nodiscard]] datapath::BpfOptions node_options();

[[nodiscard]] model::IpAddress address(std::string_view text);
[[nodiscard]] datapath::ServiceFrontend frontend(std::string_view ip, std::uint16_t port,
                                                 datapath::Protocol proto);
/// Backend number n of that protocol and family, port 8080.
[[nodiscard]] datapath::Backend backend(int n, datapath::Protocol proto = datapath::Protocol::kTcp,
                                        bool v6 = false, std::uint16_t weight = 1);
[[nodiscard]] datapath::ServiceRow service(const datapath::ServiceFrontend& frontend,
                                           std::vector<datapath::Backend> backends,
                                           std::uint32_t affinity_seconds = 0);

/// Opens with node_options(); tears down at the end and checks that nothing is left.
class Node {
  public:
    Node();
    ~Node();
    [[nodiscard]] datapath::BpfDatapath& datapath() { return *datapath_; }
    datapath::ApplyStats upsert(std::vector<datapath::ServiceRow> rows);
    void remove(const datapath::ServiceFrontend& frontend);
    /// Closes it, as if the process ended; reopen() adopts.
    void close() { datapath_.reset(); }
    void reopen();

  private:
    std::unique_ptr<datapath::BpfDatapath> datapath_;
};

}  // namespace mesh::test
