#include "sandbox/probe.hpp"

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "datapath/netlink/netns.hpp"

namespace mesh::sandbox {
namespace {

using Clock = std::chrono::steady_clock;

class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    [[nodiscard]] int get() const { return fd_; }

  private:
    int fd_;
};

bool wait_for(int fd, short events, Clock::time_point deadline) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{fd, events, 0};
    return left > 0 && ::poll(&entry, 1, static_cast<int>(left)) == 1;
}

int socket_in(const std::string& netns, int family) {
    const auto opened = datapath::Netns::open(netns);
    if (!opened) return -1;
    const auto scope = datapath::NetnsScope::enter(*opened);
    return scope ? ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
}

bool connect_to(int fd, const model::IpAddress& address, std::uint16_t port,
                Clock::time_point deadline) {
    sockaddr_storage storage{};
    socklen_t size = 0;
    if (address.is_v4()) {
        auto* to = reinterpret_cast<sockaddr_in*>(&storage);
        to->sin_family = AF_INET;
        to->sin_port = htons(port);
        to->sin_addr.s_addr = htonl(address.v4_number());
        size = sizeof *to;
    } else {
        auto* to = reinterpret_cast<sockaddr_in6*>(&storage);
        to->sin6_family = AF_INET6;
        to->sin6_port = htons(port);
        std::memcpy(&to->sin6_addr, address.bytes().data(), address.bytes().size());
        size = sizeof *to;
    }
    if (::connect(fd, reinterpret_cast<sockaddr*>(&storage), size) == 0) return true;
    if (errno != EINPROGRESS || !wait_for(fd, POLLOUT, deadline)) return false;
    int error = 0;
    socklen_t length = sizeof error;
    return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0;
}

bool gets_success(int fd, const std::string& path, Clock::time_point deadline) {
    const std::string request =
        fmt::format("GET {} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n", path);
    if (::send(fd, request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size())) {
        return false;
    }
    std::string reply;
    while (reply.size() < 12 && wait_for(fd, POLLIN, deadline)) {
        char buffer[64];
        const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        reply.append(buffer, static_cast<std::size_t>(n));
    }
    return reply.starts_with("HTTP/1.") && reply.size() >= 12 &&
           (reply[9] == '2' || reply[9] == '3');
}

}  // namespace

bool answers(const std::string& netns, const model::IpAddress& address, std::uint16_t port,
             const std::string& http_path, std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    const Descriptor fd(socket_in(netns, address.is_v4() ? AF_INET : AF_INET6));
    return fd.get() >= 0 && connect_to(fd.get(), address, port, deadline) &&
           (http_path.empty() || gets_success(fd.get(), http_path, deadline));
}

bool unix_socket_answers(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return false;
    std::memcpy(address.sun_path, path.data(), path.size());
    const Descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return fd.get() >= 0 &&
           ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace mesh::sandbox
