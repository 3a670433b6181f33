#include "echo_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace mesh::test {
namespace {

struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;
    [[nodiscard]] const sockaddr* get() const {
        return reinterpret_cast<const sockaddr*>(&storage);
    }
    [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

Address socket_address(int family, std::string_view ip, std::uint16_t port) {
    const auto parsed = address(ip);
    Address out;
    if (family == AF_INET) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        in.sin_addr.s_addr = htonl(parsed.v4_number());
        std::memcpy(&out.storage, &in, sizeof in);
        out.length = sizeof in;
    } else {
        sockaddr_in6 in{};
        in.sin6_family = AF_INET6;
        in.sin6_port = htons(port);
        std::memcpy(in.sin6_addr.s6_addr, parsed.bytes().data(), 16);
        std::memcpy(&out.storage, &in, sizeof in);
        out.length = sizeof in;
    }
    return out;
}

std::string text_of(const Address& from) {
    if (from.storage.ss_family == AF_INET) {
        sockaddr_in in{};
        std::memcpy(&in, &from.storage, sizeof in);
        return model::IpAddress::v4(ntohl(in.sin_addr.s_addr)).to_string() + " " +
               std::to_string(ntohs(in.sin_port));
    }
    sockaddr_in6 in{};
    std::memcpy(&in, &from.storage, sizeof in);
    model::IpAddress::Bytes bytes{};
    std::memcpy(bytes.data(), in.sin6_addr.s6_addr, 16);
    return model::IpAddress(bytes).to_string() + " " + std::to_string(ntohs(in.sin6_port));
}

}  // namespace

EchoServer::EchoServer(const Network& network) {
    network.server.run([&] {
        for (int n = 1; n <= 8; ++n) {
            for (const bool v6 : {false, true}) {
                for (const bool stream : {false, true}) {
                    const std::string ip =
                        backend(n, datapath::Protocol::kTcp, v6).address.to_string();
                    const int family = v6 ? AF_INET6 : AF_INET;
                    const int type = stream ? SOCK_STREAM : SOCK_DGRAM;
                    const int fd = ::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                    const Address at = socket_address(family, ip, 8080);
                    if (fd < 0 || ::bind(fd, at.get(), at.length) != 0 ||
                        (stream && ::listen(fd, 4096) != 0)) {
                        throw std::runtime_error("cannot listen on " + ip);
                    }
                    listeners_.push_back({fd, stream, ip});
                }
            }
        }
    });
    stop_ = ::eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this] { serve(); });
}

EchoServer::~EchoServer() {
    const std::uint64_t one = 1;
    if (::write(stop_, &one, sizeof one) != sizeof one) std::abort();
    thread_.join();
    for (const Listener& l : listeners_) ::close(l.fd);
    ::close(stop_);
}

void EchoServer::serve() {
    std::vector<pollfd> polled{{stop_, POLLIN, 0}};
    for (const Listener& l : listeners_) polled.push_back({l.fd, POLLIN, 0});
    while (::poll(polled.data(), polled.size(), -1) >= 0 && polled[0].revents == 0) {
        for (std::size_t i = 1; i < polled.size(); ++i) {
            if (polled[i].revents == 0) continue;
            const Listener& l = listeners_[i - 1];
            if (l.stream) {
                int fd = -1;
                while ((fd = ::accept4(l.fd, nullptr, nullptr, SOCK_CLOEXEC)) >= 0) {
                    (void)::send(fd, l.name.data(), l.name.size(), MSG_NOSIGNAL);
                    ::close(fd);
                }
                continue;
            }
            std::array<char, 256> data{};
            Address from;
            from.length = sizeof from.storage;
            while (::recvfrom(l.fd, data.data(), data.size(), 0, from.get(), &from.length) >= 0) {
                (void)::sendto(l.fd, l.name.data(), l.name.size(), 0, from.get(), from.length);
                from.length = sizeof from.storage;
            }
        }
    }
}

Socket::Socket(int family, int type, int protocol)
    : family_(family), fd_(::socket(family, type | SOCK_CLOEXEC, protocol)) {
    const timeval two_seconds{2, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &two_seconds, sizeof two_seconds);
}

Socket::Socket(Socket&& other) noexcept
    : family_(other.family_), fd_(std::exchange(other.fd_, -1)) {}

Socket::~Socket() {
    if (fd_ >= 0) ::close(fd_);
}

int Socket::connect(std::string_view ip, std::uint16_t port) const {
    const Address to = socket_address(family_, ip, port);
    return ::connect(fd_, to.get(), to.length) == 0 ? 0 : -errno;
}

int Socket::disconnect() const {
    sockaddr nobody{};
    nobody.sa_family = AF_UNSPEC;
    return ::connect(fd_, &nobody, sizeof nobody) == 0 ? 0 : -errno;
}

int Socket::send(std::string_view text) const {
    return ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) >= 0 ? 0 : -errno;
}

int Socket::send_to(std::string_view text, std::string_view ip, std::uint16_t port) const {
    const Address to = socket_address(family_, ip, port);
    return ::sendto(fd_, text.data(), text.size(), 0, to.get(), to.length) >= 0 ? 0 : -errno;
}

std::string Socket::receive() const {
    std::string sender;
    return receive_from(sender);
}

std::string Socket::receive_from(std::string& sender) const {
    std::array<char, 256> data{};
    Address from;
    from.length = sizeof from.storage;
    const ssize_t got = ::recvfrom(fd_, data.data(), data.size(), 0, from.get(), &from.length);
    if (got < 0) return "";
    sender = from.length > 0 ? text_of(from) : "";
    return {data.data(), static_cast<std::size_t>(got)};
}

std::string Socket::peer() const {
    Address from;
    from.length = sizeof from.storage;
    if (::getpeername(fd_, from.get(), &from.length) != 0) return "";
    return text_of(from);
}

}  // namespace mesh::test
