// A server that says who it is, and whom it sees.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "test_node.hpp"

namespace mesh::test {

/// Listens on a port, TCP and UDP, both families. Each message of a connection, and each datagram,
/// is answered with "<name> <the sender's address>".
class NamedServer {
  public:
    NamedServer(const Netns& netns, std::string name, std::uint16_t port);
    ~NamedServer();
    NamedServer(const NamedServer&) = delete;
    NamedServer& operator=(const NamedServer&) = delete;
    /// Of the last datagram or message.
    [[nodiscard]] std::size_t last_length() const { return last_length_; }

  private:
    void serve();
    void answer(int fd, bool stream);

    std::string name_;
    std::vector<int> streams_, datagrams_;  // that listen
    std::vector<int> connections_;
    std::atomic<std::size_t> last_length_{0};
    int stop_[2] = {-1, -1};
    std::thread thread_;
};

}  // namespace mesh::test
