// What the tests of pods and of services at tc send and take.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "echo_server.hpp"
#include "fabric.hpp"

namespace mesh::test {

/// A socket of a pod that waits for clients.
class Listener {
  public:
    Listener(const Netns& netns, int family, int type, std::uint16_t port) {
        netns.run([&] {
            fd_ = ::socket(family, type | SOCK_CLOEXEC, 0);
            const int on = 1;
            ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
            sockaddr_in6 any6{};
            any6.sin6_family = AF_INET6;
            any6.sin6_port = htons(port);
            sockaddr_in any4{};
            any4.sin_family = AF_INET;
            any4.sin_port = htons(port);
            const auto* at = family == AF_INET ? reinterpret_cast<sockaddr*>(&any4)
                                               : reinterpret_cast<sockaddr*>(&any6);
            const socklen_t size = family == AF_INET ? sizeof any4 : sizeof any6;
            if (::bind(fd_, at, size) != 0) throw std::runtime_error("bind");
            if (type == SOCK_STREAM && ::listen(fd_, 16) != 0) throw std::runtime_error("listen");
        });
    }
    ~Listener() { ::close(fd_); }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    /// Accepts a connection or takes a datagram: who sent it, "" after 2 s.
    std::string sender(std::size_t* length = nullptr) const {
        pollfd wait{fd_, POLLIN, 0};
        if (::poll(&wait, 1, 2000) != 1) return "";
        sockaddr_storage from{};
        socklen_t size = sizeof from;
        int type = 0;
        socklen_t type_size = sizeof type;
        ::getsockopt(fd_, SOL_SOCKET, SO_TYPE, &type, &type_size);
        if (type == SOCK_STREAM) {
            const int connection = ::accept(fd_, reinterpret_cast<sockaddr*>(&from), &size);
            if (connection < 0) return "";
            ::close(connection);
        } else {
            std::vector<char> buffer(70000);
            const auto got = ::recvfrom(fd_, buffer.data(), buffer.size(), 0,
                                        reinterpret_cast<sockaddr*>(&from), &size);
            if (got < 0) return "";
            if (length != nullptr) *length = static_cast<std::size_t>(got);
        }
        char text[INET6_ADDRSTRLEN] = {};
        const void* raw =
            from.ss_family == AF_INET
                ? static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(&from)->sin_addr)
                : static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(&from)->sin6_addr);
        ::inet_ntop(from.ss_family, raw, text, sizeof text);
        return text;
    }

    /// Sends a datagram; whether it was taken.
    bool send_to(const std::string& text, const std::string& ip4, std::uint16_t port) const {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(port);
        to.sin_addr.s_addr = htonl(address(ip4).v4_number());
        return ::sendto(fd_, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&to),
                        sizeof to) == static_cast<ssize_t>(text.size());
    }
    /// Sends the next datagram back to who sent it.
    bool echo() const {
        pollfd wait{fd_, POLLIN, 0};
        if (::poll(&wait, 1, 2000) != 1) return false;
        char buffer[256];
        sockaddr_storage from{};
        socklen_t size = sizeof from;
        const auto got =
            ::recvfrom(fd_, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
        return got > 0 && ::sendto(fd_, buffer, static_cast<std::size_t>(got), 0,
                                   reinterpret_cast<sockaddr*>(&from), size) == got;
    }
    /// The next datagram, "" after 2 s.
    std::string receive() const {
        pollfd wait{fd_, POLLIN, 0};
        if (::poll(&wait, 1, 2000) != 1) return "";
        char buffer[256];
        const auto got = ::recv(fd_, buffer, sizeof buffer, 0);
        return got > 0 ? std::string(buffer, static_cast<std::size_t>(got)) : "";
    }

    [[nodiscard]] int fd() const { return fd_; }

  private:
    int fd_ = -1;
};

/// "" if a connection or datagram from `from` arrives at `to` with the sender's own address.
inline std::string reaches(const FabricPod& from, const FabricPod& to, int family, int type) {
    const Listener listener(to.netns, family, type, 7000);
    const std::string& ip = family == AF_INET ? to.ip4 : to.ip6;
    const std::string& own = family == AF_INET ? from.ip4 : from.ip6;
    std::string outcome;
    from.netns.run([&] {
        const Socket socket(family, type);
        if (const int error = socket.connect(ip, 7000); error != 0) {
            outcome = "connect: " + std::generic_category().message(-error);
            return;
        }
        if (type == SOCK_DGRAM && socket.send("hello") != 0) {
            outcome = "send";
            return;
        }
        const std::string seen = listener.sender();
        if (seen != own) outcome = "arrived as \"" + seen + "\"";
    });
    return outcome;
}

inline int ping(const Netns& netns, const std::string& arguments) {
    int code = -1;
    netns.run([&] {
        const std::string command = "ping -n -c 1 -W 2 " + arguments + " >/dev/null 2>&1";
        code = std::system(command.c_str());
    });
    return WEXITSTATUS(code);
}

}  // namespace mesh::test
