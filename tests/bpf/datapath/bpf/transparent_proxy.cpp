#include "transparent_proxy.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/in6.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

namespace mesh::test {
namespace {

[[noreturn]] void fail(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
}

void set(int fd, int level, int option, int value) {
    if (::setsockopt(fd, level, option, &value, sizeof value) != 0) fail("setsockopt");
}

void make_transparent(int fd, int family, std::uint32_t mark) {
    if (family == AF_INET) {
        set(fd, SOL_IP, IP_TRANSPARENT, 1);
    } else {
        set(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);
        set(fd, SOL_IPV6, IPV6_V6ONLY, 1);
    }
    set(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark));
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

socklen_t size_of(const sockaddr_storage& address) {
    return address.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
}

std::string text_of(const sockaddr_storage& address, bool port) {
    char text[INET6_ADDRSTRLEN] = {};
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    const bool is_v4 = address.ss_family == AF_INET;
    const void* raw = is_v4 ? static_cast<const void*>(&v4->sin_addr) : &v6->sin6_addr;
    ::inet_ntop(address.ss_family, raw, text, sizeof text);
    if (!port) return text;
    return fmt::format("{}:{}", text, ntohs(is_v4 ? v4->sin_port : v6->sin6_port));
}

void forget_port(sockaddr_storage& address) {
    if (address.ss_family == AF_INET) {
        reinterpret_cast<sockaddr_in&>(address).sin_port = 0;
    } else {
        reinterpret_cast<sockaddr_in6&>(address).sin6_port = 0;
    }
}

}  // namespace

TransparentProxy::TransparentProxy(const Netns& node, std::uint16_t port, std::uint32_t mark,
                                   datapath::ProxySocket to_server)
    : node_(node),
      mark_(datapath::proxy_socket_mark(mark, datapath::ProxySocket::kListener)),
      server_mark_(datapath::proxy_socket_mark(mark, to_server)) {
    stop_ = ::eventfd(0, EFD_CLOEXEC);
    node.run([&] {
        for (const int family : {AF_INET, AF_INET6}) {
            for (const int type : {SOCK_STREAM, SOCK_DGRAM}) listen(family, type, port);
        }
    });
    thread_ = std::thread([this] { node_.run([this] { serve(); }); });
}

TransparentProxy::~TransparentProxy() {
    const std::uint64_t one = 1;
    (void)!::write(stop_, &one, sizeof one);
    thread_.join();
    for (std::thread& connection : connections_) connection.join();
    for (const int fd : listeners_) ::close(fd);
    ::close(stop_);
}

void TransparentProxy::listen(int family, int type, std::uint16_t port) {
    const int fd = ::socket(family, type | SOCK_CLOEXEC, 0);
    make_transparent(fd, family, mark_);
    sockaddr_storage at{};
    at.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) {
        auto& v4 = reinterpret_cast<sockaddr_in&>(at);
        v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        v4.sin_port = htons(port);
        if (type == SOCK_DGRAM) set(fd, SOL_IP, IP_RECVORIGDSTADDR, 1);
    } else {
        auto& v6 = reinterpret_cast<sockaddr_in6&>(at);
        v6.sin6_addr = IN6ADDR_LOOPBACK_INIT;
        v6.sin6_port = htons(port);
        if (type == SOCK_DGRAM) set(fd, SOL_IPV6, IPV6_RECVORIGDSTADDR, 1);
    }
    if (::bind(fd, reinterpret_cast<sockaddr*>(&at), size_of(at)) != 0) fail("bind");
    if (type == SOCK_STREAM && ::listen(fd, 16) != 0) fail("listen");
    listeners_.push_back(fd);
}

std::vector<std::string> TransparentProxy::seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
}

void TransparentProxy::note(const std::string& what) {
    const std::lock_guard lock(mutex_);
    seen_.push_back(what);
}

void TransparentProxy::serve() {
    for (;;) {
        std::vector<pollfd> waiting{{stop_, POLLIN, 0}};
        for (const int fd : listeners_) waiting.push_back({fd, POLLIN, 0});
        if (::poll(waiting.data(), waiting.size(), -1) < 0) continue;
        if (waiting.front().revents != 0) return;
        for (std::size_t i = 1; i < waiting.size(); ++i) {
            if (waiting[i].revents == 0) continue;
            int type = 0;
            socklen_t size = sizeof type;
            ::getsockopt(waiting[i].fd, SOL_SOCKET, SO_TYPE, &type, &size);
            if (type == SOCK_STREAM) {
                accept(waiting[i].fd);
            } else {
                take(waiting[i].fd);
            }
        }
    }
}

int TransparentProxy::to_server(const sockaddr_storage& client, const sockaddr_storage& server,
                                int type) const {
    const int fd = ::socket(server.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    make_transparent(fd, server.ss_family, server_mark_);
    sockaddr_storage from = client;
    forget_port(from);
    int error = 0;
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&from), size_of(from)) != 0 ||
        ::connect(fd, reinterpret_cast<const sockaddr*>(&server), size_of(server)) != 0) {
        error = errno;
    }
    if (error == EINPROGRESS) {
        pollfd either[2] = {{stop_, POLLIN, 0}, {fd, POLLOUT, 0}};
        socklen_t size = sizeof error;
        ::poll(either, 2, -1);
        ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (either[0].revents != 0) error = ECANCELED;
    }
    if (error == 0) return fd;
    ::close(fd);
    return -1;
}

void TransparentProxy::accept(int listener) {
    sockaddr_storage client{}, server{};
    socklen_t size = sizeof client;
    const int fd = ::accept4(listener, reinterpret_cast<sockaddr*>(&client), &size, SOCK_CLOEXEC);
    if (fd < 0) return;
    size = sizeof server;
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&server), &size);
    note(text_of(client, false) + " " + text_of(server, true));
    connections_.emplace_back([this, fd, client, server] {
        node_.run([&] {
            const int next = to_server(client, server, SOCK_STREAM);
            if (next >= 0) relay(fd, next);
            ::close(fd);
            ::close(next);
        });
    });
}

void TransparentProxy::relay(int client, int server) const {
    for (;;) {
        pollfd either[3] = {{stop_, POLLIN, 0}, {client, POLLIN, 0}, {server, POLLIN, 0}};
        if (::poll(either, 3, -1) < 0) continue;
        if (either[0].revents != 0) return;
        char buffer[4096];
        for (const auto& [from, to] : {std::pair(1, server), std::pair(2, client)}) {
            if (either[from].revents == 0) continue;
            const auto got = ::recv(either[from].fd, buffer, sizeof buffer, 0);
            if (got <= 0) return;
            if (::send(to, buffer, static_cast<std::size_t>(got), MSG_NOSIGNAL) != got) return;
        }
    }
}

void TransparentProxy::take(int listener) {
    char data[256];
    sockaddr_storage client{}, server{};
    alignas(cmsghdr) char control[256];
    iovec vector{data, sizeof data};
    msghdr message{};
    message.msg_name = &client;
    message.msg_namelen = sizeof client;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const auto got = ::recvmsg(listener, &message, 0);
    if (got < 0) return;
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_type == IP_ORIGDSTADDR || part->cmsg_type == IPV6_ORIGDSTADDR) {
            std::memcpy(&server, CMSG_DATA(part),
                        client.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
        }
    }
    note(text_of(client, false) + " " + text_of(server, true));
    connections_.emplace_back([this, client, server,
                               text = std::string(data, static_cast<std::size_t>(got))] {
        node_.run([&] {
            const int next = to_server(client, server, SOCK_DGRAM);
            if (next < 0) return;
            char answer[256];
            pollfd either[2] = {{stop_, POLLIN, 0}, {next, POLLIN, 0}};
            if (::send(next, text.data(), text.size(), 0) < 0 || ::poll(either, 2, -1) < 0 ||
                either[1].revents == 0) {
                ::close(next);
                return;
            }
            const auto length = ::recv(next, answer, sizeof answer, 0);
            ::close(next);
            if (length < 0) return;
            const int back = ::socket(server.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
            make_transparent(back, server.ss_family, mark_);
            if (::bind(back, reinterpret_cast<const sockaddr*>(&server), size_of(server)) == 0) {
                (void)::sendto(back, answer, static_cast<std::size_t>(length), 0,
                               reinterpret_cast<const sockaddr*>(&client), size_of(client));
            }
            ::close(back);
        });
    });
}

}  // namespace mesh::test
