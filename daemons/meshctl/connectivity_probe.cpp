#include "meshctl/connectivity_probe.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "sandbox/process.hpp"

namespace mesh::ctl::connectivity {
namespace {

namespace json = boost::json;

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// A path that makes mesh-echo's answer more than a packet as well; it takes 8 KiB of header.
constexpr std::size_t kLongPath = 5000;
constexpr milliseconds kSpare{10'000};  ///< for starting the process of a probe
constexpr std::size_t kIcmpHeader = 8;

class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    [[nodiscard]] int get() const { return fd_; }

  private:
    int fd_;
};

std::string place(const ProbeRequest& request) {
    const std::string host = request.to.to_string();
    if (request.protocol == Protocol::kIcmp) return host;
    return request.to.is_v4() ? fmt::format("{}:{}", host, request.port)
                              : fmt::format("[{}]:{}", host, request.port);
}

Error failure(std::string_view what, const ProbeRequest& request, int error) {
    return unavailable(
        fmt::format("{} {}: {}", what, place(request), std::generic_category().message(error)));
}

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t size = sizeof(sockaddr_storage);
    [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

SocketAddress address_of(const ProbeRequest& request) {
    SocketAddress out;
    if (request.to.is_v4()) {
        sockaddr_in v4{};
        v4.sin_family = AF_INET;
        v4.sin_port = htons(request.port);
        v4.sin_addr.s_addr = htonl(request.to.v4_number());
        std::memcpy(&out.storage, &v4, sizeof v4);
        out.size = sizeof v4;
    } else {
        sockaddr_in6 v6{};
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(request.port);
        std::memcpy(&v6.sin6_addr, request.to.bytes().data(), sizeof v6.sin6_addr);
        std::memcpy(&out.storage, &v6, sizeof v6);
        out.size = sizeof v6;
    }
    return out;
}

std::string text_of_address(const SocketAddress& address) {
    if (address.storage.ss_family == AF_INET) {
        sockaddr_in v4{};
        std::memcpy(&v4, &address.storage, sizeof v4);
        return model::IpAddress::v4(ntohl(v4.sin_addr.s_addr)).to_string();
    }
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address.storage, sizeof v6);
    model::IpAddress::Bytes bytes{};
    std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
    return model::IpAddress(bytes).to_string();
}

/// Waits until the socket can be used. @errors kTimeout
Result<void> wait_for(int fd, short events, Clock::time_point deadline, std::string_view what,
                      const ProbeRequest& request) {
    for (;;) {
        const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
        pollfd entry{fd, events, 0};
        const int ready = left.count() > 0 ? ::poll(&entry, 1, static_cast<int>(left.count())) : 0;
        if (ready > 0) return {};
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0) return failure(what, request, errno);
        return Error(Errc::kTimeout, fmt::format("{} {}: nothing within {} ms", what,
                                                 place(request), request.timeout.count()));
    }
}

Result<Descriptor> open_socket(const ProbeRequest& request, int type, int protocol) {
    const int family = request.to.is_v4() ? AF_INET : AF_INET6;
    const int fd = ::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    if (fd < 0) return failure("open a socket for", request, errno);
    return Descriptor(fd);
}

Result<json::object> parse_answer(std::string_view text, const ProbeRequest& request) {
    json::error_code error;
    const json::value value = json::parse(text, error);
    if (error || !value.is_object()) {
        return Error(Errc::kCorrupt,
                     fmt::format("answer of {}: expected mesh-echo's JSON, got \"{}\"",
                                 place(request), text.substr(0, 80)));
    }
    return value.get_object();
}

// --- TCP --------------------------------------------------------------------------------------

// With a body, a second request behind it: its answer proves that all of the body came through.
std::string http_request(std::uint32_t size) {
    if (size == 0) return "GET / HTTP/1.0\r\n\r\n";
    return fmt::format("POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: {}\r\n\r\n{}", size,
                       std::string(size, 'x')) +
           fmt::format("GET /{} HTTP/1.0\r\n\r\n", std::string(kLongPath, 'y'));
}

Result<void> connect_tcp(int fd, const ProbeRequest& request, Clock::time_point deadline) {
    SocketAddress to = address_of(request);
    if (::connect(fd, to.get(), to.size) == 0) return {};
    if (errno != EINPROGRESS) return failure("connect to", request, errno);
    MESH_CHECK(wait_for(fd, POLLOUT, deadline, "connect to", request));
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return failure("connect to", request, error);
    return {};
}

Result<void> send_all(int fd, std::string_view data, const ProbeRequest& request,
                      Clock::time_point deadline) {
    while (!data.empty()) {
        const ssize_t n = ::send(fd, data.data(), data.size(), MSG_NOSIGNAL);
        if (n >= 0) {
            data.remove_prefix(static_cast<std::size_t>(n));
        } else if (errno == EAGAIN) {
            MESH_CHECK(wait_for(fd, POLLOUT, deadline, "send to", request));
        } else if (errno != EINTR) {
            return failure("send to", request, errno);
        }
    }
    return {};
}

Result<std::string> receive_all(int fd, const ProbeRequest& request, Clock::time_point deadline) {
    std::string text;
    for (;;) {
        char buffer[8192];
        const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n == 0) return text;
        if (n > 0) {
            text.append(buffer, static_cast<std::size_t>(n));
        } else if (errno == EAGAIN) {
            MESH_CHECK(wait_for(fd, POLLIN, deadline, "answer of", request));
        } else if (errno != EINTR) {
            return failure("answer of", request, errno);
        }
    }
}

Result<json::object> ask_tcp(const ProbeRequest& request) {
    const Clock::time_point deadline = Clock::now() + request.timeout;
    MESH_TRY(const Descriptor socket, open_socket(request, SOCK_STREAM, 0));
    MESH_CHECK(connect_tcp(socket.get(), request, deadline));
    SocketAddress peer;
    if (::getpeername(socket.get(), peer.get(), &peer.size) != 0) {
        return failure("connect to", request, errno);
    }
    MESH_CHECK(send_all(socket.get(), http_request(request.size), request, deadline));
    MESH_TRY(const std::string text, receive_all(socket.get(), request, deadline));
    const std::size_t header = text.rfind("\r\n\r\n");
    MESH_TRY(
        json::object answer,
        parse_answer(std::string_view(text).substr(header == std::string::npos ? 0 : header + 4),
                     request));
    answer.erase("path");
    answer["peer"] = text_of_address(peer);
    return answer;
}

// --- UDP --------------------------------------------------------------------------------------

Result<json::object> ask_udp(const ProbeRequest& request, bool connected) {
    const Clock::time_point deadline = Clock::now() + request.timeout;
    MESH_TRY(const Descriptor socket, open_socket(request, SOCK_DGRAM, 0));
    SocketAddress to = address_of(request);
    if (connected && ::connect(socket.get(), to.get(), to.size) != 0) {
        return failure("connect to", request, errno);
    }
    const std::string data(std::max<std::uint32_t>(request.size, 1), 'x');
    if (::sendto(socket.get(), data.data(), data.size(), 0, connected ? nullptr : to.get(),
                 connected ? 0 : to.size) < 0) {
        return failure("send to", request, errno);
    }
    for (;;) {
        MESH_CHECK(wait_for(socket.get(), POLLIN, deadline, "answer of", request));
        char buffer[16384];
        SocketAddress sender;
        const ssize_t n =
            ::recvfrom(socket.get(), buffer, sizeof buffer, 0, sender.get(), &sender.size);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return failure("answer of", request, errno);
        MESH_TRY(json::object answer, parse_answer({buffer, static_cast<std::size_t>(n)}, request));
        answer["peer"] = text_of_address(sender);
        return answer;
    }
}

// --- ICMP -------------------------------------------------------------------------------------

std::uint16_t checksum(const std::string& data) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < data.size(); ++i) {
        const auto byte = static_cast<std::uint8_t>(data[i]);
        sum += i % 2 == 0 ? std::uint32_t{byte} << 8 : std::uint32_t{byte};
    }
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

// An echo request or answer, without its checksum: type, code, 2 bytes of it, id, sequence, data.
std::string echo_message(std::uint8_t type, std::uint16_t id, std::uint16_t sequence,
                         std::uint32_t size) {
    std::string out(kIcmpHeader + size, '\0');
    const auto put = [&](std::size_t at, std::uint16_t value) {
        out[at] = static_cast<char>(value >> 8);
        out[at + 1] = static_cast<char>(value & 0xff);
    };
    out[0] = static_cast<char>(type);
    put(4, id);
    put(6, sequence);
    for (std::size_t i = kIcmpHeader; i < out.size(); ++i) out[i] = static_cast<char>(i * 7);
    return out;
}

bool is_answer(std::string_view packet, const std::string& expected) {
    return packet.size() == expected.size() && packet[0] == expected[0] &&
           packet[1] == expected[1] && packet.substr(4) == std::string_view(expected).substr(4);
}

Result<json::object> ask_icmp(const ProbeRequest& request, std::uint16_t sequence) {
    const bool v4 = request.to.is_v4();
    const Clock::time_point deadline = Clock::now() + request.timeout;
    MESH_TRY(const Descriptor socket,
             open_socket(request, SOCK_RAW, v4 ? int{IPPROTO_ICMP} : int{IPPROTO_ICMPV6}));
    const auto id = static_cast<std::uint16_t>(::getpid() & 0xffff);
    std::string message = echo_message(v4 ? 8 : 128, id, sequence, request.size);
    if (v4) {
        const std::uint16_t sum = checksum(message);
        message[2] = static_cast<char>(sum >> 8);
        message[3] = static_cast<char>(sum & 0xff);
    }
    ProbeRequest without_port = request;
    without_port.port = 0;
    SocketAddress to = address_of(without_port);
    // Connected, it gets packets of that address only.
    if (::connect(socket.get(), to.get(), to.size) != 0 ||
        ::send(socket.get(), message.data(), message.size(), 0) < 0) {
        return failure("send to", request, errno);
    }
    const std::string expected = echo_message(v4 ? 0 : 129, id, sequence, request.size);
    std::string buffer(std::size_t{70'000}, '\0');
    for (;;) {
        MESH_CHECK(wait_for(socket.get(), POLLIN, deadline, "answer of", request));
        const ssize_t n = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return failure("answer of", request, errno);
        std::string_view packet = std::string_view(buffer).substr(0, static_cast<std::size_t>(n));
        // An IPv4 raw socket gives the IP header as well.
        if (v4) packet.remove_prefix(std::min(packet.size(), (std::size_t(packet[0]) & 15) * 4));
        if (is_answer(packet, expected)) return json::object{{"peer", request.to.to_string()}};
    }
}

Result<json::object> ask_once(const ProbeRequest& request, std::uint32_t number) {
    switch (request.protocol) {
        case Protocol::kTcp:
            return ask_tcp(request);
        case Protocol::kUdp:
            return ask_udp(request, number % 2 == 1);
        case Protocol::kIcmp:
            break;
    }
    return ask_icmp(request, static_cast<std::uint16_t>(number));
}

// --- the process ------------------------------------------------------------------------------

// In the child: standard output is the pipe. Never returns.
[[noreturn]] void become_probe(const sandbox::ProcessSpec& spec, int output) {
    ::dup2(output, STDOUT_FILENO);
    const Error error = sandbox::become_process(spec);
    const std::string text = json::serialize(json::object{{"error", error.detail()}});
    (void)!::write(STDOUT_FILENO, text.data(), text.size());
    ::_exit(127);
}

Result<std::string> read_until_end(int fd, Clock::time_point deadline) {
    std::string text;
    for (;;) {
        const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
        pollfd entry{fd, POLLIN, 0};
        const int ready = left.count() > 0 ? ::poll(&entry, 1, static_cast<int>(left.count())) : 0;
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return Error(Errc::kTimeout, "the probe's process does not end");
        char buffer[8192];
        const ssize_t n = ::read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return text;
        text.append(buffer, static_cast<std::size_t>(n));
    }
}

}  // namespace

json::object probe(const ProbeRequest& request) {
    const Clock::time_point begin = Clock::now();
    json::object out;
    json::array answers;
    for (std::uint32_t number = 0; number < request.count; ++number) {
        auto answer = ask_once(request, number);
        if (!answer) {
            out["error"] = answer.error().detail();
            break;
        }
        answers.push_back(*std::move(answer));
    }
    out["answers"] = std::move(answers);
    out["milliseconds"] = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    return out;
}

std::vector<std::string> probe_command(const ProbeRequest& request) {
    return {"connectivity", "probe",
            "--kind",       std::string(to_string(request.protocol)),
            "--to",         request.to.to_string(),
            "--port",       std::to_string(request.port),
            "--size",       std::to_string(request.size),
            "--count",      std::to_string(request.count),
            "--timeout",    std::to_string(request.timeout.count())};
}

Result<json::object> run_probe(const sandbox::Environment& environment, const Origin& origin,
                               const ProbeRequest& request) {
    std::vector<std::string> command = probe_command(request);
    command.insert(command.begin(), environment.programs + "/meshctl");
    MESH_TRY(const sandbox::ProcessSpec spec,
             sandbox::prepare_exec(environment, origin.cluster, origin.pod, origin.node, command));
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0) return unavailable("no more descriptors");
    const Descriptor input(ends[0]);
    std::fflush(nullptr);
    pid_t child = -1;
    {
        const Descriptor output(ends[1]);
        child = ::fork();
        if (child == 0) become_probe(spec, output.get());
    }
    if (child < 0) return failure("start a probe of", request, errno);
    auto text =
        read_until_end(input.get(), Clock::now() + request.timeout * request.count + kSpare);
    if (!text) ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    if (!text) return std::move(text).error();
    json::error_code error;
    json::value value = json::parse(*text, error);
    if (error || !value.is_object()) {
        return Error(Errc::kCorrupt, fmt::format("probe of {}: expected JSON, it printed \"{}\"",
                                                 place(request), text->substr(0, 80)));
    }
    return value.get_object();
}

}  // namespace mesh::ctl::connectivity
