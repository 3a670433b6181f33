#include "named_server.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

namespace mesh::test {

NamedServer::NamedServer(const Netns& netns, std::string name, std::uint16_t port)
    : name_(std::move(name)) {
    netns.run([&] {
        for (const int family : {AF_INET, AF_INET6}) {
            for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
                const int fd = ::socket(family, type | SOCK_CLOEXEC, 0);
                const int on = 1;
                ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
                if (family == AF_INET6) {
                    ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
                }
                sockaddr_in v4{};
                v4.sin_family = AF_INET;
                v4.sin_port = htons(port);
                sockaddr_in6 v6{};
                v6.sin6_family = AF_INET6;
                v6.sin6_port = htons(port);
                const auto* at = family == AF_INET ? reinterpret_cast<sockaddr*>(&v4)
                                                   : reinterpret_cast<sockaddr*>(&v6);
                if (::bind(fd, at, family == AF_INET ? sizeof v4 : sizeof v6) != 0 ||
                    (type == SOCK_STREAM && ::listen(fd, 64) != 0)) {
                    throw std::runtime_error("cannot listen");
                }
                (type == SOCK_STREAM ? streams_ : datagrams_).push_back(fd);
            }
        }
    });
    if (::pipe(stop_) != 0) throw std::runtime_error("pipe");
    thread_ = std::thread([this] { serve(); });
}

NamedServer::~NamedServer() {
    ::close(stop_[1]);
    thread_.join();
    ::close(stop_[0]);
    for (const auto* list : {&streams_, &datagrams_, &connections_}) {
        for (const int fd : *list) ::close(fd);
    }
}

void NamedServer::answer(int fd, bool stream) {
    std::vector<char> buffer(70000);
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    const auto got =
        ::recvfrom(fd, buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
    if (got <= 0) {
        if (!stream) return;
        ::close(fd);
        std::erase(connections_, fd);
        return;
    }
    last_length_ = static_cast<std::size_t>(got);
    if (stream) {
        size = sizeof from;
        ::getpeername(fd, reinterpret_cast<sockaddr*>(&from), &size);
    }
    char text[INET6_ADDRSTRLEN] = {};
    const void* raw =
        from.ss_family == AF_INET
            ? static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(&from)->sin_addr)
            : static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(&from)->sin6_addr);
    ::inet_ntop(from.ss_family, raw, text, sizeof text);
    std::string reply = name_ + " " + text;
    // As large as what came, so that answers come in fragments, too.
    if (!stream && got > 1400) reply.resize(static_cast<std::size_t>(got), '.');
    (void)::sendto(fd, reply.data(), reply.size(), MSG_NOSIGNAL,
                   stream ? nullptr : reinterpret_cast<sockaddr*>(&from), stream ? 0 : size);
}

void NamedServer::serve() {
    for (;;) {
        std::vector<pollfd> all{{stop_[0], POLLIN, 0}};
        for (const auto* list : {&streams_, &datagrams_, &connections_}) {
            for (const int fd : *list) all.push_back({fd, POLLIN, 0});
        }
        if (::poll(all.data(), all.size(), -1) < 0) return;
        if (all.front().revents != 0) return;
        const std::size_t datagrams = 1 + streams_.size();
        const std::size_t connections = datagrams + datagrams_.size();
        for (std::size_t i = 1; i < all.size(); ++i) {
            if (all[i].revents == 0) continue;
            if (i < datagrams) {
                const int fd = ::accept4(all[i].fd, nullptr, nullptr, SOCK_CLOEXEC);
                if (fd >= 0) connections_.push_back(fd);
            } else {
                answer(all[i].fd, i >= connections);
            }
        }
    }
}

}  // namespace mesh::test
