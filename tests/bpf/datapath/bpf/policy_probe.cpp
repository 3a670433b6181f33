#include "policy_probe.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ostream>

#include <stdexcept>
#include <system_error>

namespace mesh::test {
namespace {

constexpr std::chrono::seconds kPatience{30};

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
    [[nodiscard]] sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
};

Address address_of(const std::string& ip, std::uint16_t port) {
    Address result;
    auto* v4 = reinterpret_cast<sockaddr_in*>(&result.storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&result.storage);
    if (::inet_pton(AF_INET, ip.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        result.size = sizeof *v4;
    } else if (::inet_pton(AF_INET6, ip.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        result.size = sizeof *v6;
    } else {
        throw std::runtime_error("no address: " + ip);
    }
    return result;
}

std::uint16_t port_of(const Address& address) {
    return ntohs(address.storage.ss_family == AF_INET
                     ? reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port
                     : reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port);
}

std::string ip_of(const Address& address) {
    char text[INET6_ADDRSTRLEN] = {};
    const void* raw =
        address.storage.ss_family == AF_INET
            ? static_cast<const void*>(
                  &reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr)
            : static_cast<const void*>(
                  &reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr);
    ::inet_ntop(address.storage.ss_family, raw, text, sizeof text);
    return text;
}

[[noreturn]] void fail(const char* what) {
    throw std::system_error(errno, std::generic_category(), what);
}

/// Nothing of a connection that is closed comes later.
void set_abort(int fd) {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

std::ostream& operator<<(std::ostream& out, Fate fate) {
    switch (fate) {
        case Fate::kAnswered:
            return out << "answered";
        case Fate::kDenied:
            return out << "denied";
        case Fate::kLost:
            break;
    }
    return out << "lost";
}

Conversation::Conversation(Fabric& fabric, const Attempt& attempt)
    : fabric_(fabric), attempt_(attempt) {
    (void)fabric.node(1).events();
    (void)fabric.node(2).events();
    const int family = attempt.ip.find(':') == std::string::npos ? AF_INET : AF_INET6;
    const int type = attempt.type | SOCK_CLOEXEC | SOCK_NONBLOCK;
    attempt.server->run([&] {
        listener_ = ::socket(family, type, 0);
        const int on = 1;
        ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const std::uint16_t port = attempt.server_port != 0 ? attempt.server_port : attempt.port;
        Address any = address_of(family == AF_INET ? "0.0.0.0" : "::", port);
        if (::bind(listener_, any.raw(), any.size) != 0) fail("bind");
        if (attempt.type == SOCK_STREAM && ::listen(listener_, 4) != 0) fail("listen");
    });
    attempt.client->run([&] { client_ = ::socket(family, type, 0); });
}

Conversation::~Conversation() {
    for (const int fd : {client_, connection_}) {
        if (fd < 0) continue;
        set_abort(fd);
        ::close(fd);
    }
    ::close(listener_);
}

bool Conversation::take_events() {
    for (const int n : {1, 2}) {
        for (const auto& event : fabric_.node(n).events()) {
            if (event.kind != datapath::PodEvent::Kind::kPolicy) continue;
            if (event.source_port != client_port_ && event.destination_port != client_port_) {
                continue;
            }
            events_.push_back(event);
            denied_ = denied_ || event.verdict == datapath::PodEvent::Verdict::kDenied;
        }
    }
    return denied_;
}

bool Conversation::serve() {
    Address from;
    from.size = sizeof from.storage;
    char byte = 0;
    if (attempt_.type == SOCK_DGRAM) {
        if (::recvfrom(listener_, &byte, 1, 0, from.raw(), &from.size) != 1) return false;
        seen_ = ip_of(from);
        return ::sendto(listener_, &byte, 1, 0, from.raw(), from.size) == 1;
    }
    if (connection_ < 0) {
        connection_ = ::accept4(listener_, from.raw(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (connection_ < 0) return false;
        seen_ = ip_of(from);
    }
    if (::recv(connection_, &byte, 1, 0) != 1) return false;
    return ::send(connection_, &byte, 1, MSG_NOSIGNAL) == 1;
}

bool Conversation::is_connected() {
    pollfd wait{client_, POLLOUT, 0};
    if (::poll(&wait, 1, 0) != 1) return false;
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(client_, SOL_SOCKET, SO_ERROR, &error, &size);
    return error == 0 && (wait.revents & (POLLERR | POLLHUP)) == 0;
}

bool Conversation::is_answered() {
    serve();
    char byte = 0;
    return ::recv(client_, &byte, 1, 0) == 1;
}

Fate Conversation::wait(bool (Conversation::*is_done)()) {
    denied_ = false;
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < until) {
        if ((this->*is_done)()) {
            (void)take_events();
            return Fate::kAnswered;
        }
        if (take_events()) return Fate::kDenied;
        pollfd either[2] = {{client_, POLLIN, 0}, {listener_, POLLIN, 0}};
        ::poll(either, 2, 1);
    }
    return Fate::kLost;
}

Fate Conversation::open() {
    Address to = address_of(attempt_.ip, attempt_.port);
    Address own;
    own.size = sizeof own.storage;
    // The port is known before anything is sent.
    Address any = address_of(to.storage.ss_family == AF_INET ? "0.0.0.0" : "::", 0);
    if (::bind(client_, any.raw(), any.size) != 0) fail("bind");
    if (::getsockname(client_, own.raw(), &own.size) != 0) fail("getsockname");
    client_port_ = port_of(own);
    if (::connect(client_, to.raw(), to.size) != 0 && errno != EINPROGRESS) fail("connect");
    if (attempt_.type == SOCK_DGRAM) return exchange();
    const Fate fate = wait(&Conversation::is_connected);
    return fate == Fate::kAnswered ? exchange() : fate;
}

Fate Conversation::exchange() {
    if (::send(client_, "?", 1, MSG_NOSIGNAL) != 1) fail("send");
    return wait(&Conversation::is_answered);
}

Fate attempt(Fabric& fabric, const Attempt& attempt) {
    Conversation conversation(fabric, attempt);
    return conversation.open();
}

Fate attempt(Fabric& fabric, const FabricPod& from, const FabricPod& to, int family, int type,
             std::uint16_t port) {
    return attempt(fabric,
                   {&from.netns, &to.netns, family == AF_INET ? to.ip4 : to.ip6, port, type});
}

namespace {

datapath::PolicyRow row(std::uint32_t identity, bool egress, std::uint8_t protocol,
                        std::optional<std::uint16_t> port, std::uint32_t low) {
    datapath::PolicyRow made;
    made.key.identity = identity;
    made.key.egress = egress;
    made.key.protocol = protocol;
    made.key.length = static_cast<std::uint8_t>(protocol == 0 ? 0 : port ? 24 : 8);
    made.key.port = port.value_or(0);
    made.verdict.precedence = (0xffffffU << 8) | low;
    return made;
}

}  // namespace

datapath::PolicyRow allow(std::uint32_t identity, bool egress, std::uint8_t protocol,
                          std::optional<std::uint16_t> port) {
    return row(identity, egress, protocol, port, 1);
}

datapath::PolicyRow deny(std::uint32_t identity, bool egress, std::uint8_t protocol,
                         std::optional<std::uint16_t> port) {
    auto made = row(identity, egress, protocol, port, 255);
    made.verdict.deny = true;
    return made;
}

datapath::PolicyRow redirect(std::uint32_t identity, bool egress, std::uint8_t protocol,
                             std::uint16_t port, std::uint16_t proxy_port) {
    auto made = row(identity, egress, protocol, port, 2);
    made.verdict.proxy_port = proxy_port;
    return made;
}

datapath::PolicyRow open_way(bool egress) {
    return allow(0, egress);
}

}  // namespace mesh::test
