// One end of a measurement between two pods; run in their network namespaces.
//
//   pod_traffic serve               port 9100 reads all, 9101 echoes, 9102 echoes once and closes
//   pod_traffic bulk HOST SECONDS   prints bytes per second sent
//   pod_traffic rr HOST SECONDS     prints the median time of a request of one byte and its answer
//   pod_traffic crr HOST SECONDS    the same with a connection for each
// Times are in nanoseconds. The median, since others on the machine interrupt some of the requests.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint16_t kBulk = 9100, kEcho = 9101, kOnce = 9102;
constexpr std::size_t kBlock = 1 << 20;

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "pod_traffic: %s: %s\n", what.c_str(), std::strerror(errno));
    std::exit(1);
}

void set_options(int s) {
    const int yes = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    // The default may be bbr, which without the fq qdisc is noisy.
    setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
}

// ---- server ----

int listen_on(std::uint16_t port) {
    const int s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int yes = 1, no = 0;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    set_options(s);
    sockaddr_in6 at{};
    at.sin6_family = AF_INET6;
    at.sin6_port = htons(port);
    if (bind(s, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 || listen(s, 1024) != 0) {
        die("listen");
    }
    return s;
}

void drain(int s) {
    std::vector<char> buffer(kBlock);
    while (read(s, buffer.data(), buffer.size()) > 0) {
    }
    close(s);
}

void echo(int s) {
    set_options(s);
    char byte = 0;
    while (read(s, &byte, 1) == 1 && write(s, &byte, 1) == 1) {
    }
    close(s);
}

void accept_all(int listener, void (*handle)(int), bool in_threads) {
    for (;;) {
        const int s = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (s < 0) continue;
        if (in_threads) {
            std::thread(handle, s).detach();
        } else {
            handle(s);
        }
    }
}

int serve() {
    std::thread(accept_all, listen_on(kBulk), drain, true).detach();
    std::thread(accept_all, listen_on(kEcho), echo, true).detach();
    const int once = listen_on(kOnce);
    std::puts("ready");
    std::fflush(stdout);
    // A client of it has one connection at a time.
    accept_all(once, echo, false);
    return 0;
}

// ---- client ----

sockaddr_storage address(const char* host, std::uint16_t port, socklen_t& length) {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &found) != 0) die(host);
    sockaddr_storage result{};
    std::memcpy(&result, found->ai_addr, found->ai_addrlen);
    length = found->ai_addrlen;
    freeaddrinfo(found);
    return result;
}

int connect_to(const sockaddr_storage& to, socklen_t length) {
    const int s = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    set_options(s);
    if (connect(s, reinterpret_cast<const sockaddr*>(&to), length) != 0) die("connect");
    return s;
}

void request(int s) {
    char byte = 'x';
    if (write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1) die("request");
}

double bulk(const char* host, double seconds) {
    socklen_t length = 0;
    const auto to = address(host, kBulk, length);
    const int s = connect_to(to, length);
    const std::vector<char> block(kBlock);
    std::uint64_t sent = 0;
    const auto begin = Clock::now();
    std::chrono::duration<double> passed{};
    while ((passed = Clock::now() - begin).count() < seconds) {
        const auto done = write(s, block.data(), block.size());
        if (done <= 0) die("write");
        sent += static_cast<std::uint64_t>(done);
    }
    close(s);
    return static_cast<double>(sent) / passed.count();
}

/// The median time of `one`, in nanoseconds.
template <class One>
double median_of(double seconds, One one) {
    std::vector<std::int64_t> ns;
    const auto begin = Clock::now();
    auto now = begin;
    while (std::chrono::duration<double>(now - begin).count() < seconds) {
        one();
        const auto after = Clock::now();
        ns.push_back((after - now).count());
        now = after;
    }
    const auto middle = ns.begin() + static_cast<std::ptrdiff_t>(ns.size() / 2);
    std::nth_element(ns.begin(), middle, ns.end());
    return static_cast<double>(*middle);
}

double rr(const char* host, double seconds) {
    socklen_t length = 0;
    const auto to = address(host, kEcho, length);
    const int s = connect_to(to, length);
    const double median = median_of(seconds, [s] { request(s); });
    close(s);
    return median;
}

double crr(const char* host, double seconds) {
    socklen_t length = 0;
    const auto to = address(host, kOnce, length);
    // A reset at close, so that no port is kept busy.
    const linger hard{1, 0};
    return median_of(seconds, [&] {
        const int s = connect_to(to, length);
        setsockopt(s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        request(s);
        close(s);
    });
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    if (argc == 2 && what == "serve") return serve();
    const auto run = what == "bulk" ? bulk : what == "rr" ? rr : what == "crr" ? crr : nullptr;
    if (argc != 4 || run == nullptr) {
        std::fprintf(
            stderr, "pod_traffic serve | bulk HOST SECONDS | rr HOST SECONDS | crr HOST SECONDS\n");
        return 2;
    }
    std::printf("%.1f\n", run(argv[2], std::atof(argv[3])));
    return 0;
}
