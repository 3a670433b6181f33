#include "mesh-echo/server.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <system_error>
#include <vector>

namespace mesh::echo {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kMaxHeader = 8192;
constexpr std::size_t kMaxBody = std::size_t{1} << 20;
constexpr std::size_t kMaxConnections = 4096;
constexpr std::chrono::minutes kIdleTimeout{2};
constexpr milliseconds kMaxDelay{60'000};
constexpr int kBacklog = 1024;

std::string text_of(const sockaddr_in6& address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
        ::inet_ntop(AF_INET, address.sin6_addr.s6_addr + 12, text, sizeof text);
        return fmt::format("{}:{}", text, ntohs(address.sin6_port));
    }
    ::inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(address.sin6_port));
}

bool equals_no_case(std::string_view a, std::string_view b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

struct Request {
    std::string method, path;
    std::size_t body = 0;  ///< bytes that follow the header
    bool keep_alive = true;
    milliseconds delay{0};
};

// The value of one header line, trimmed.
std::optional<std::string_view> header(std::string_view line, std::string_view name) {
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || !equals_no_case(line.substr(0, colon), name)) {
        return std::nullopt;
    }
    line.remove_prefix(colon + 1);
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    while (!line.empty() && line.back() == ' ') line.remove_suffix(1);
    return line;
}

milliseconds delay_of(std::string_view path) {
    const std::size_t at = path.find("delay=");
    if (path.find('?') == std::string_view::npos || at == std::string_view::npos) return {};
    std::int64_t value = 0;
    std::from_chars(path.data() + at + 6, path.data() + path.size(), value);
    return std::clamp(milliseconds(value), milliseconds(0), kMaxDelay);
}

// Parses a header without its final empty line; nullopt when it is not HTTP/1.
std::optional<Request> parse(std::string_view text) {
    Request request;
    const std::size_t end = std::min(text.find("\r\n"), text.size());
    const std::string_view first = text.substr(0, end);
    const std::size_t one = first.find(' ');
    const std::size_t two = first.rfind(' ');
    if (one == std::string_view::npos || two <= one) return std::nullopt;
    request.method = first.substr(0, one);
    request.path = first.substr(one + 1, two - one - 1);
    const std::string_view version = first.substr(two + 1);
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return std::nullopt;
    request.keep_alive = version == "HTTP/1.1";
    request.delay = delay_of(request.path);
    std::string_view rest = text.substr(std::min(end + 2, text.size()));
    while (!rest.empty()) {
        const std::size_t stop = std::min(rest.find("\r\n"), rest.size());
        const std::string_view line = rest.substr(0, stop);
        if (const auto value = header(line, "content-length")) {
            const auto [last, error] =
                std::from_chars(value->data(), value->data() + value->size(), request.body);
            if (error != std::errc() || last != value->data() + value->size()) return std::nullopt;
        }
        if (header(line, "transfer-encoding")) return std::nullopt;
        if (const auto value = header(line, "connection")) {
            request.keep_alive = request.keep_alive && !equals_no_case(*value, "close");
        }
        rest.remove_prefix(std::min(stop + 2, rest.size()));
    }
    return request;
}

struct Connection {
    std::string client, server;
    std::string in, out;
    std::optional<Request> request;  ///< being answered
    Clock::time_point answer_at{};
    Clock::time_point last_used{};
    std::size_t skip = 0;  ///< bytes of a body still to come
    bool close_after = false;
};

}  // namespace

class Server::Impl {
  public:
    Impl(Options options, Logger log) : options_(std::move(options)), log_(std::move(log)) {}
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;
    ~Impl() {
        for (const auto& [fd, connection] : connections_) ::close(fd);
        for (const int fd : {listener_, datagrams_, signals_}) {
            if (fd >= 0) ::close(fd);
        }
    }

    Result<void> listen() {
        MESH_TRY(listener_, open_socket(SOCK_STREAM, options_.port));
        if (::listen(listener_, kBacklog) != 0) return failure("listen");
        sockaddr_in6 address{};
        socklen_t size = sizeof address;
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = ntohs(address.sin6_port);
        if (!options_.udp) return {};
        MESH_TRY(datagrams_, open_socket(SOCK_DGRAM, port_));
        return {};
    }

    std::uint16_t port() const noexcept { return port_; }

    Result<void> run() {
        sigset_t mask;
        ::sigemptyset(&mask);
        ::sigaddset(&mask, SIGTERM);
        ::sigaddset(&mask, SIGINT);
        signals_ = ::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
        if (signals_ < 0) return failure("wait for signals");
        while (!finished()) {
            turn();
        }
        return {};
    }

  private:
    Error failure(std::string_view what) const {
        return unavailable(fmt::format("cannot {} on port {}: {}", what, options_.port,
                                       std::generic_category().message(errno)));
    }

    // One socket for both families.
    Result<int> open_socket(int type, std::uint16_t port) const {
        const int fd = ::socket(AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) return failure("open a socket");
        const int on = 1;
        const int off = 0;
        ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        if (type == SOCK_STREAM) ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        address.sin6_port = htons(port);
        if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
            const Error error = failure("bind");
            ::close(fd);
            return error;
        }
        return fd;
    }

    bool finished() const {
        return stopping_ && listener_ < 0 &&
               (connections_.empty() || Clock::now() >= close_at_ + options_.shutdown_grace);
    }

    milliseconds until_next(Clock::time_point now) const {
        Clock::time_point next = now + std::chrono::seconds(1);
        if (stopping_ && listener_ >= 0) next = std::min(next, close_at_);
        for (const auto& [fd, connection] : connections_) {
            if (connection.request) next = std::min(next, connection.answer_at);
        }
        return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(next - now));
    }

    void turn() {
        std::vector<pollfd> watched{{signals_, POLLIN, 0}};
        if (listener_ >= 0 && connections_.size() < kMaxConnections) {
            watched.push_back({listener_, POLLIN, 0});
        }
        if (datagrams_ >= 0) watched.push_back({datagrams_, POLLIN, 0});
        for (const auto& [fd, connection] : connections_) {
            const short events = !connection.out.empty()          ? POLLOUT
                                 : connection.request.has_value() ? POLLRDHUP
                                                                  : POLLIN;
            watched.push_back({fd, events, 0});
        }
        const auto wait = until_next(Clock::now()).count();
        (void)::poll(watched.data(), watched.size(), static_cast<int>(wait));
        for (const pollfd& entry : watched) {
            if (entry.revents == 0) continue;
            if (entry.fd == signals_) {
                take_signal();
            } else if (entry.fd == listener_) {
                accept_all();
            } else if (entry.fd == datagrams_) {
                answer_datagrams();
            } else {
                serve(entry.fd, entry.revents);
            }
        }
        pass_time(Clock::now());
    }

    void take_signal() {
        signalfd_siginfo info{};
        if (::read(signals_, &info, sizeof info) != sizeof info || stopping_) return;
        log_.info("stopping: {} connections", connections_.size());
        stopping_ = true;
        close_at_ = Clock::now() + options_.shutdown_delay;
    }

    // What is due: delayed answers, the end of listening, idle connections.
    void pass_time(Clock::time_point now) {
        if (stopping_ && listener_ >= 0 && now >= close_at_) {
            // Connections whose handshake is done would be reset by close().
            accept_all();
            ::close(std::exchange(listener_, -1));
        }
        std::vector<int> idle;
        for (auto& [fd, connection] : connections_) {
            if (connection.request && now >= connection.answer_at) {
                answer(connection);
                if (!flush(fd, connection)) idle.push_back(fd);
            } else if (!connection.request && connection.out.empty()) {
                const bool untouched = connection.in.empty() && connection.skip == 0;
                const bool fresh = connection.last_used == Clock::time_point();
                if ((stopping_ && listener_ < 0 && untouched && !fresh) ||
                    now >= std::max(connection.last_used, opened_[fd]) + kIdleTimeout) {
                    idle.push_back(fd);
                }
            }
        }
        for (const int fd : idle) drop(fd);
    }

    void accept_all() {
        while (listener_ >= 0 && connections_.size() < kMaxConnections) {
            sockaddr_in6 peer{};
            socklen_t size = sizeof peer;
            const int fd = ::accept4(listener_, reinterpret_cast<sockaddr*>(&peer), &size,
                                     SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd < 0) return;
            const int on = 1;
            ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            sockaddr_in6 own{};
            size = sizeof own;
            ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size);
            Connection connection;
            connection.client = text_of(peer);
            connection.server = text_of(own);
            connections_[fd] = std::move(connection);
            opened_[fd] = Clock::now();
        }
    }

    void drop(int fd) {
        ::close(fd);
        connections_.erase(fd);
        opened_.erase(fd);
    }

    void serve(int fd, short events) {
        const auto found = connections_.find(fd);
        if (found == connections_.end()) return;
        Connection& connection = found->second;
        if ((events & (POLLERR | POLLNVAL)) != 0) return drop(fd);
        if (!connection.out.empty()) {
            if (!flush(fd, connection)) drop(fd);
            return;
        }
        if (connection.request) {
            // The client gave up on a delayed answer.
            if ((events & POLLHUP) != 0) drop(fd);
            return;
        }
        if (!receive(fd, connection)) drop(fd);
    }

    // @return false when the connection is over
    bool receive(int fd, Connection& connection) {
        char buffer[4096];
        const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        if (n == 0) return false;
        connection.last_used = Clock::now();
        // After the last answer, only the client's end is waited for.
        if (connection.close_after) return true;
        connection.in.append(buffer, static_cast<std::size_t>(n));
        return next_request(fd, connection);
    }

    bool next_request(int fd, Connection& connection) {
        const std::size_t skipped = std::min(connection.skip, connection.in.size());
        connection.in.erase(0, skipped);
        connection.skip -= skipped;
        const std::size_t end = connection.in.find("\r\n\r\n");
        if (end == std::string::npos) return connection.in.size() <= kMaxHeader;
        auto request = end <= kMaxHeader ? parse(std::string_view(connection.in).substr(0, end))
                                         : std::nullopt;
        connection.in.erase(0, end + 4);
        if (!request || request->body > kMaxBody) {
            connection.close_after = true;
            connection.out =
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return flush(fd, connection);
        }
        connection.skip = request->body;
        connection.answer_at = Clock::now() + request->delay;
        connection.request = std::move(request);
        if (connection.request->delay.count() > 0) return true;
        answer(connection);
        return flush(fd, connection);
    }

    std::string who(const std::string& client, const std::string& server, std::string_view path,
                    std::string_view protocol) const {
        return boost::json::serialize(boost::json::object{{"cluster", options_.cluster},
                                                          {"node", options_.node},
                                                          {"namespace", options_.namespace_},
                                                          {"pod", options_.pod},
                                                          {"client", client},
                                                          {"server", server},
                                                          {"path", path},
                                                          {"protocol", protocol}}) +
               "\n";
    }

    void answer(Connection& connection) {
        const Request& request = *connection.request;
        const bool known =
            request.method == "GET" || request.method == "HEAD" || request.method == "POST";
        const bool unhealthy = request.path == "/healthz" && stopping_;
        const std::string body = who(connection.client, connection.server, request.path, "TCP");
        connection.close_after = !request.keep_alive || stopping_;
        connection.out = fmt::format(
            "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{}",
            unhealthy ? "503 Service Unavailable"
            : known   ? "200 OK"
                      : "405 Method Not Allowed",
            body.size(), connection.close_after ? "Connection: close\r\n" : "",
            request.method == "HEAD" ? "" : body);
        connection.request.reset();
    }

    // @return false when the connection is over
    bool flush(int fd, Connection& connection) {
        while (!connection.out.empty()) {
            const ssize_t n =
                ::send(fd, connection.out.data(), connection.out.size(), MSG_NOSIGNAL);
            if (n < 0) return errno == EAGAIN || errno == EINTR;
            connection.out.erase(0, static_cast<std::size_t>(n));
        }
        connection.last_used = Clock::now();
        if (connection.close_after) {
            // Unread bytes of a body would turn close() into a reset that eats the answer.
            ::shutdown(fd, SHUT_WR);
            return std::exchange(connection.skip, 0) != 0;
        }
        return connection.in.empty() || next_request(fd, connection);
    }

    void answer_datagrams() {
        for (int i = 0; i < 64; ++i) {
            char buffer[2048];
            sockaddr_in6 peer{};
            socklen_t size = sizeof peer;
            const ssize_t n = ::recvfrom(datagrams_, buffer, sizeof buffer, 0,
                                         reinterpret_cast<sockaddr*>(&peer), &size);
            if (n < 0) return;
            const std::string body = who(text_of(peer), fmt::format(":{}", port_), "", "UDP");
            ::sendto(datagrams_, body.data(), body.size(), 0, reinterpret_cast<sockaddr*>(&peer),
                     size);
        }
    }

    Options options_;
    Logger log_;
    int listener_ = -1, datagrams_ = -1, signals_ = -1;
    std::uint16_t port_ = 0;
    bool stopping_ = false;
    Clock::time_point close_at_{};
    std::map<int, Connection> connections_;
    std::map<int, Clock::time_point> opened_;
};

Server::Server(Options options, Logger log)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(log))) {}
Server::~Server() = default;
Result<void> Server::listen() {
    return impl_->listen();
}
std::uint16_t Server::port() const noexcept {
    return impl_->port();
}
Result<void> Server::run() {
    return impl_->run();
}

}  // namespace mesh::echo
