// Backends that say who they are, and plain socket calls for their clients.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "test_node.hpp"

namespace mesh::test {

/// Listens on port 8080 of all backends, TCP and UDP, both families, in the server's namespace.
/// A connection or datagram is answered with the backend's address.
class EchoServer {
  public:
    explicit EchoServer(const Network& network);
    ~EchoServer();
    EchoServer(const EchoServer&) = delete;
    EchoServer& operator=(const EchoServer&) = delete;

  private:
    struct Listener {
        int fd;
        bool stream;
        std::string name;
    };
    void serve();
    std::vector<Listener> listeners_;
    int stop_ = -1;
    std::thread thread_;
};

/// A socket of this process; closed with the object. Errors are negative errno values.
class Socket {
  public:
    /// @param family AF_INET or AF_INET6; @param type SOCK_STREAM or SOCK_DGRAM
    Socket(int family, int type, int protocol = 0);
    ~Socket();
    Socket(Socket&& other) noexcept;
    Socket& operator=(Socket&&) = delete;
    /// An IPv4 address on an AF_INET6 socket is given to the kernel as ::ffff:a.b.c.d.
    [[nodiscard]] int connect(std::string_view ip, std::uint16_t port) const;
    [[nodiscard]] int disconnect() const;
    [[nodiscard]] int send(std::string_view text) const;
    [[nodiscard]] int send_to(std::string_view text, std::string_view ip, std::uint16_t port) const;
    /// The text that came, within 2 s; "" and errno else.
    [[nodiscard]] std::string receive() const;
    /// Also who sent it, "ip port" as the application sees it.
    [[nodiscard]] std::string receive_from(std::string& sender) const;
    /// "ip port" of getpeername.
    [[nodiscard]] std::string peer() const;
    [[nodiscard]] int fd() const { return fd_; }

  private:
    int family_;
    int fd_;
};

}  // namespace mesh::test
