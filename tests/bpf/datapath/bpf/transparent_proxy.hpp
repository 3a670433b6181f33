// A proxy as small as one can be: what a policy leads to it goes on to the server from the client's
// address, and what the server says goes back.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "datapath/policy.hpp"
#include "fabric.hpp"

namespace mesh::test {

class TransparentProxy {
  public:
    /// Listens in `node` at 127.0.0.1 and ::1, TCP and UDP.
    /// @param to_server kToServerOfIngress or kToServerOfEgress
    TransparentProxy(const Netns& node, std::uint16_t port, std::uint32_t mark,
                     datapath::ProxySocket to_server);
    ~TransparentProxy();
    TransparentProxy(const TransparentProxy&) = delete;
    TransparentProxy& operator=(const TransparentProxy&) = delete;

    /// "client server:port" of what came so far.
    [[nodiscard]] std::vector<std::string> seen() const;

  private:
    void listen(int family, int type, std::uint16_t port);
    void serve();
    void accept(int listener);
    void take(int listener);
    void relay(int client, int server) const;
    void note(const std::string& what);
    [[nodiscard]] int to_server(const sockaddr_storage& client, const sockaddr_storage& server,
                                int type) const;

    const Netns& node_;
    std::uint32_t mark_;
    std::uint32_t server_mark_;
    std::vector<int> listeners_;
    int stop_ = -1;
    mutable std::mutex mutex_;
    std::vector<std::string> seen_;
    std::vector<std::thread> connections_;
    std::thread thread_;
};

}  // namespace mesh::test
