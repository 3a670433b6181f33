// The least that one event to each of N connections can cost: the same bytes sent on N sockets over
// loopback by bare system calls, to a process on another CPU that reads them and does nothing else.
// Plain and as TLS records, encrypted beforehand or here, one send() each or all of a round
// submitted to io_uring at once. CPU ns per send, medians of rounds in turn; one JSON line.
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "load.hpp"

namespace {

constexpr std::size_t kRecordHead = 5;
constexpr std::size_t kRecordTail = 17;  // content type and tag of TLS 1.3
constexpr std::uint64_t kRoundsUnderWay = 4;

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "send_floor: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) die("sched_setaffinity");
}

double cpu_ns() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// Connected pairs over loopback: (sender, reader).
std::vector<std::pair<int, int>> make_pairs(int count) {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (bind(listener, generic, length) != 0 || listen(listener, 128) != 0 ||
        getsockname(listener, generic, &length) != 0)
        die("listen");
    std::vector<std::pair<int, int>> pairs;
    for (int i = 0; i < count; ++i) {
        const int reader = socket(AF_INET, SOCK_STREAM, 0);
        if (reader < 0 || connect(reader, generic, length) != 0) die("connect");
        const int sender = accept(listener, nullptr, nullptr);
        const int on = 1;
        if (sender < 0 || setsockopt(sender, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
            die("accept");
        pairs.emplace_back(sender, reader);
    }
    close(listener);
    return pairs;
}

/// The other process: reads whatever comes, until it is killed.
[[noreturn]] void drain(const std::vector<std::pair<int, int>>& pairs,
                        std::atomic<std::uint64_t>& taken) {
    const int poller = epoll_create1(0);
    for (const auto& [sender, reader] : pairs) {
        close(sender);
        epoll_event wanted{};
        wanted.events = EPOLLIN;
        wanted.data.fd = reader;
        epoll_ctl(poller, EPOLL_CTL_ADD, reader, &wanted);
    }
    std::array<epoll_event, 128> ready{};
    std::vector<char> into(64U << 10);
    for (;;) {
        const int n = epoll_wait(poller, ready.data(), static_cast<int>(ready.size()), -1);
        for (int i = 0; i < n; ++i) {
            const auto got =
                read(ready[static_cast<std::size_t>(i)].data.fd, into.data(), into.size());
            if (got > 0) taken += static_cast<std::uint64_t>(got);
        }
    }
}

/// A submission queue without liburing: only what sends need.
class Ring {
  public:
    explicit Ring(unsigned entries) {
        io_uring_params p{};
        p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
        fd_ = static_cast<int>(syscall(SYS_io_uring_setup, entries, &p));
        if (fd_ < 0) return;
        auto* sq = map(p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
        auto* cq = map(p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
        sqes_ = reinterpret_cast<io_uring_sqe*>(
            map(p.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
        sq_tail_ = reinterpret_cast<unsigned*>(sq + p.sq_off.tail);
        sq_mask_ = *reinterpret_cast<unsigned*>(sq + p.sq_off.ring_mask);
        array_ = reinterpret_cast<unsigned*>(sq + p.sq_off.array);
        cq_head_ = reinterpret_cast<unsigned*>(cq + p.cq_off.head);
        cq_tail_ = reinterpret_cast<unsigned*>(cq + p.cq_off.tail);
        cq_mask_ = *reinterpret_cast<unsigned*>(cq + p.cq_off.ring_mask);
        cqes_ = reinterpret_cast<io_uring_cqe*>(cq + p.cq_off.cqes);
    }
    [[nodiscard]] bool usable() const { return fd_ >= 0; }

    void add_send(int socket, const char* data, std::size_t size) {
        const unsigned tail = *sq_tail_ + queued_;
        io_uring_sqe& entry = sqes_[tail & sq_mask_];
        std::memset(&entry, 0, sizeof(entry));
        entry.opcode = IORING_OP_SEND;
        entry.fd = socket;
        entry.addr = reinterpret_cast<std::uint64_t>(data);
        entry.len = static_cast<unsigned>(size);
        array_[tail & sq_mask_] = tail & sq_mask_;
        ++queued_;
    }

    /// Submits all and waits for their answers.
    void run() {
        __atomic_store_n(sq_tail_, *sq_tail_ + queued_, __ATOMIC_RELEASE);
        if (syscall(SYS_io_uring_enter, fd_, queued_, queued_, IORING_ENTER_GETEVENTS, nullptr, 0) <
            0)
            die("io_uring_enter");
        unsigned head = *cq_head_;
        const unsigned tail = __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE);
        for (; head != tail; ++head)
            if (cqes_[head & cq_mask_].res < 0) die("a send in io_uring");
        __atomic_store_n(cq_head_, head, __ATOMIC_RELEASE);
        queued_ = 0;
    }

  private:
    char* map(std::size_t size, std::uint64_t offset) const {
        void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_,
                        static_cast<off_t>(offset));
        if (at == MAP_FAILED) die("mmap of io_uring");
        return static_cast<char*>(at);
    }

    int fd_ = -1;
    unsigned queued_ = 0;
    unsigned *sq_tail_ = nullptr, *array_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
    unsigned sq_mask_ = 0, cq_mask_ = 0;
    io_uring_sqe* sqes_ = nullptr;
    io_uring_cqe* cqes_ = nullptr;
};

/// AES-256-GCM as each TLS connection does it, with a context of its own.
class Cipher {
  public:
    Cipher() : context_(EVP_CIPHER_CTX_new()) {
        const std::array<unsigned char, 32> key{};
        const std::array<unsigned char, 12> iv{};
        if (EVP_EncryptInit_ex(context_, EVP_aes_256_gcm(), nullptr, key.data(), iv.data()) != 1)
            die("AES");
    }
    void seal(const std::string& plain, std::string& record) {
        std::array<unsigned char, 12> iv{};
        int n = 0;
        auto* out = reinterpret_cast<unsigned char*>(record.data());
        EVP_EncryptInit_ex(context_, nullptr, nullptr, nullptr, iv.data());
        EVP_EncryptUpdate(context_, nullptr, &n, out, kRecordHead);
        EVP_EncryptUpdate(context_, out + kRecordHead, &n,
                          reinterpret_cast<const unsigned char*>(plain.data()),
                          static_cast<int>(plain.size()));
        EVP_EncryptFinal_ex(context_, out + kRecordHead + n, &n);
        EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_GCM_GET_TAG, 16,
                            out + record.size() - kRecordTail + 1);
    }

  private:
    EVP_CIPHER_CTX* context_;
};

}  // namespace

int main(int argc, char** argv) {
    int connections = 1000;
    int rounds = 300;
    int cpu = 0;
    int reader_cpu = 1;
    std::size_t bytes = 400;
    CLI::App app("bare sends on many sockets: the floor of a fan-out; prints one JSON line");
    app.add_option("--connections", connections, "sockets");
    app.add_option("--rounds", rounds, "times that each of them gets the bytes, each way");
    app.add_option("--bytes", bytes, "of one message with its HTTP/2 and gRPC framing");
    app.add_option("--cpu", cpu, "of the sender");
    app.add_option("--reader-cpu", reader_cpu, "of the process that reads");
    CLI11_PARSE(app, argc, argv);
    mesh::bench::raise_open_files();

    auto* taken = new (mmap(nullptr, sizeof(std::atomic<std::uint64_t>), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0)) std::atomic<std::uint64_t>(0);
    const auto pairs = make_pairs(connections);
    const pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        pin_to(reader_cpu);
        drain(pairs, *taken);
    }
    pin_to(cpu);
    for (const auto& [sender, reader] : pairs) close(reader);

    const std::string plain(bytes, 'x');
    std::string record(bytes + kRecordHead + kRecordTail, 'y');
    std::vector<Cipher> ciphers(pairs.size());
    Ring ring(4096);
    const auto send_all = [&](const std::string& what) {
        for (const auto& [sender, reader] : pairs)
            if (send(sender, what.data(), what.size(), MSG_NOSIGNAL) < 0) die("send");
    };
    std::map<std::string, std::function<std::size_t()>> ways = {
        {"plain_ns", [&] { return send_all(plain), plain.size(); }},
        {"tls_ns", [&] { return send_all(record), record.size(); }},
        {"tls_encrypted_here_ns",
         [&] {
             for (std::size_t i = 0; i < pairs.size(); ++i) {
                 ciphers[i].seal(plain, record);
                 if (send(pairs[i].first, record.data(), record.size(), MSG_NOSIGNAL) < 0)
                     die("send");
             }
             return record.size();
         }},
    };
    if (ring.usable()) {
        ways["tls_io_uring_ns"] = [&] {
            for (const auto& [sender, reader] : pairs)
                ring.add_send(sender, record.data(), record.size());
            ring.run();
            return record.size();
        };
    }
    std::map<std::string, std::vector<float>> samples;
    std::uint64_t sent = 0;
    for (int round = 0; round < rounds; ++round) {
        for (auto& [name, way] : ways) {
            const double begin = cpu_ns();
            const std::uint64_t size = way() * pairs.size();
            samples[name].push_back(
                static_cast<float>((cpu_ns() - begin) / static_cast<double>(pairs.size())));
            sent += size;
            while (taken->load() + kRoundsUnderWay * size < sent) usleep(50);
        }
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    std::printf("{\"connections\":%d,\"bytes\":%zu", connections, bytes);
    for (auto& [name, values] : samples)
        std::printf(",\"%s\":%.0f", name.c_str(), mesh::bench::quantile(values, 0.5));
    std::printf("}\n");
}
