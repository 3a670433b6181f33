#include "serve/l7/sockets.hpp"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace mesh::serve::l7 {

namespace {

constexpr int kBacklog = 4096;

socklen_t to_sockaddr(const Endpoint& endpoint, sockaddr_storage& out) noexcept {
    out = {};
    if (endpoint.address.is_v4()) {
        auto& v4 = reinterpret_cast<sockaddr_in&>(out);
        v4.sin_family = AF_INET;
        v4.sin_port = htons(endpoint.port);
        v4.sin_addr.s_addr = htonl(endpoint.address.v4_number());
        return sizeof(sockaddr_in);
    }
    auto& v6 = reinterpret_cast<sockaddr_in6&>(out);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(endpoint.port);
    std::ranges::copy(endpoint.address.bytes(), std::begin(v6.sin6_addr.s6_addr));
    return sizeof(sockaddr_in6);
}

bool set_option(int socket, int level, int name, int value) noexcept {
    return ::setsockopt(socket, level, name, &value, sizeof(value)) == 0;
}

bool set_transparent(int socket, bool v4) noexcept {
    return v4 ? set_option(socket, SOL_IP, IP_TRANSPARENT, 1)
              : set_option(socket, SOL_IPV6, IPV6_TRANSPARENT, 1);
}

bool set_mark(int socket, std::uint32_t mark) noexcept {
    return mark == 0 || ::setsockopt(socket, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0;
}

Error failed(const Endpoint& endpoint, std::string_view step) {
    const int error = errno;
    return {error == EPERM || error == EACCES ? Errc::kPermission : Errc::kUnavailable,
            fmt::format("{}: {}: {}", to_text(endpoint), step, std::strerror(error))};
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    if (this != &other) {
        close();
        fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
}

void Descriptor::close() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

void Descriptor::reset_connection() noexcept {
    if (fd_ < 0) return;
    const linger at_once{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close();
}

Endpoint to_endpoint(const sockaddr_storage& address) noexcept {
    if (address.ss_family == AF_INET) {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
        return {model::IpAddress::v4(ntohl(v4.sin_addr.s_addr)), ntohs(v4.sin_port)};
    }
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    model::IpAddress::Bytes bytes{};
    std::ranges::copy(v6.sin6_addr.s6_addr, bytes.begin());
    return {model::IpAddress(bytes), ntohs(v6.sin6_port)};
}

std::string to_text(const Endpoint& endpoint) {
    const std::string address = endpoint.address.to_string();
    return endpoint.address.is_v4() ? fmt::format("{}:{}", address, endpoint.port)
                                    : fmt::format("[{}]:{}", address, endpoint.port);
}

Result<Descriptor> open_listener(const Endpoint& endpoint, bool transparent, std::uint32_t mark) {
    const bool v4 = endpoint.address.is_v4();
    Descriptor socket(
        ::socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return failed(endpoint, "socket");
    const int fd = socket.get();
    if (!set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)) return failed(endpoint, "SO_REUSEADDR");
    if (!v4 && !set_option(fd, SOL_IPV6, IPV6_V6ONLY, 1)) return failed(endpoint, "IPV6_V6ONLY");
    if (transparent && !set_transparent(fd, v4)) return failed(endpoint, "IP_TRANSPARENT");
    if (!set_mark(fd, mark)) return failed(endpoint, "SO_MARK");
    sockaddr_storage address;
    const socklen_t size = to_sockaddr(endpoint, address);
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0)
        return failed(endpoint, "bind");
    if (::listen(fd, kBacklog) != 0) return failed(endpoint, "listen");
    return socket;
}

Result<Endpoint> local_endpoint(int socket) {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0)
        return unavailable(fmt::format("getsockname: {}", std::strerror(errno)));
    return to_endpoint(address);
}

void set_no_delay(int socket) noexcept {
    set_option(socket, SOL_TCP, TCP_NODELAY, 1);
}

Result<Descriptor> begin_connect(const Endpoint& destination, const std::optional<Endpoint>& source,
                                 std::uint32_t mark) {
    const bool v4 = destination.address.is_v4();
    Descriptor socket(
        ::socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return failed(destination, "socket");
    const int fd = socket.get();
    set_no_delay(fd);
    if (!set_mark(fd, mark)) return failed(destination, "SO_MARK");
    sockaddr_storage address;
    if (source) {
        if (!set_transparent(fd, v4)) return failed(destination, "IP_TRANSPARENT");
        // The port is chosen at connect, when the destination is known: more connections than
        // ports.
        if (!set_option(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1))
            return failed(destination, "IP_BIND_ADDRESS_NO_PORT");
        const socklen_t size = to_sockaddr({source->address, 0}, address);
        if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0)
            return failed(*source, "bind");
    }
    const socklen_t size = to_sockaddr(destination, address);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0 &&
        errno != EINPROGRESS) {
        return failed(destination, "connect");
    }
    return socket;
}

int connect_error(int socket) noexcept {
    int error = 0;
    socklen_t size = sizeof(error);
    if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
    return error;
}

}  // namespace mesh::serve::l7
