// The load of the DNS benchmark, and the server behind what is measured, in one thread: keeps
// `window` queries under way to a forwarder, and answers what the forwarder asks with one address.
// Names are of a pool, so that no answer comes of a cache. The forwarder's own CPU time is read
// from /proc. One JSON line to stdout. scripts/bench starts the forwarders.
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "serve/dns/dns_message.hpp"
#include "serve/dns/dns_socket.hpp"

namespace {

using namespace mesh;
using namespace mesh::serve::dns;
using SteadyTime = std::chrono::steady_clock::time_point;
using std::chrono::duration;

struct Flags {
    std::uint16_t forwarder = 0, server = 0;
    std::uint32_t window = 100, names = 20'000;
    double seconds = 5, warm_up = 1;
    int pid = 0;
};

const model::IpAddress kHere = model::IpAddress::v4(127, 0, 0, 1);

void fail(const std::string& what) {
    std::fputs((what + "\n").c_str(), stderr);
    std::exit(1);
}

/// User + system CPU seconds of a process; 0 for none.
double cpu_seconds(int pid) {
    if (pid == 0) return 0;
    std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skip;
    for (int i = 0; i < 11; ++i) fields >> skip;
    double user = 0, system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

Bytes query_for(std::uint32_t number) {
    Bytes out{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    for (const std::string& label :
         {fmt::format("n{}", number), std::string("bench"), std::string("example")}) {
        out.push_back(static_cast<std::uint8_t>(label.size()));
        out.insert(out.end(), label.begin(), label.end());
    }
    for (const int byte : {0, 0, 1, 0, 1}) out.push_back(static_cast<std::uint8_t>(byte));
    return out;
}

/// Appends an address; whatever else the query has (OPT) is left out.
void make_answer_of(Bytes& message) {
    std::size_t end = kHeaderBytes;
    while (end < message.size() && message[end] != 0) end += message[end] + 1U;
    message.resize(std::min(end + 5, message.size()));
    message[2] = 0x81;
    message[3] = 0x80;
    message[7] = 1;
    message[11] = 0;
    for (const int byte : {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3}) {
        message.push_back(static_cast<std::uint8_t>(byte));
    }
}

class Load {
  public:
    explicit Load(const Flags& flags)
        : flags_(flags), reader_(2048), sent_(flags.window), forwarder_({kHere, flags.forwarder}) {
        for (std::uint32_t i = 0; i < flags.names; ++i) queries_.push_back(query_for(i));
        client_ = open({kHere, 0});
        server_ = open({kHere, flags.server});
    }

    void run() {
        const auto begin = std::chrono::steady_clock::now();
        const auto measured = begin + seconds(flags_.warm_up);
        const auto end = measured + seconds(flags_.seconds);
        for (std::uint32_t slot = 0; slot < flags_.window; ++slot) ask(slot);
        bool warm = false;
        double cpu = 0;
        for (auto now = begin; now < end; now = std::chrono::steady_clock::now()) {
            if (!warm && now >= measured) {
                warm = true;
                latencies_.clear();
                lost_ = 0;
                cpu = cpu_seconds(flags_.pid);
            }
            turn();
        }
        report(cpu_seconds(flags_.pid) - cpu);
    }

  private:
    static std::chrono::nanoseconds seconds(double number) {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(duration<double>(number));
    }
    static Socket open(const PeerAddress& at) {
        auto socket = open_listener({at, Transport::kUdp, false, 0});
        if (!socket) fail(socket.error().message());
        const int bytes = 4 << 20;
        ::setsockopt(socket->fd(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        return *std::move(socket);
    }

    void turn() {
        std::array<pollfd, 2> all{{{client_.fd(), POLLIN, 0}, {server_.fd(), POLLIN, 0}}};
        if (::poll(all.data(), all.size(), 100) <= 0) return ask_again();
        if (all[1].revents != 0) answer();
        if (all[0].revents != 0) take_answers();
        if (++turns_ % 1024 == 0) ask_again();
    }

    void answer() {
        for (const auto& datagram : reader_.read(server_.fd())) {
            Bytes message(datagram.bytes.begin(), datagram.bytes.end());
            if (message.size() < kHeaderBytes + 5) continue;
            make_answer_of(message);
            const RawAddress to(datagram.client);
            ::sendto(server_.fd(), message.data(), message.size(), 0, to.get(), to.size());
        }
    }

    void take_answers() {
        const auto now = std::chrono::steady_clock::now();
        for (const auto& datagram : reader_.read(client_.fd())) {
            if (datagram.bytes.size() < kHeaderBytes) continue;
            const std::uint32_t slot = id_of(datagram.bytes);
            if (slot >= flags_.window || !sent_[slot].waiting) continue;
            if ((datagram.bytes[3] & 0xf) != 0) fail("not answered with NOERROR");
            latencies_.push_back(
                static_cast<float>(duration<double>(now - sent_[slot].at).count()));
            sent_[slot].waiting = false;
            ask(slot);
        }
    }

    void ask(std::uint32_t slot) {
        Bytes& query = queries_[next_++ % queries_.size()];
        set_id(query, static_cast<std::uint16_t>(slot));
        sent_[slot] = {std::chrono::steady_clock::now(), true};
        ::sendto(client_.fd(), query.data(), query.size(), 0, forwarder_.get(), forwarder_.size());
    }

    /// What is under way for more than a second is lost.
    void ask_again() {
        const auto late = std::chrono::steady_clock::now() - std::chrono::seconds(1);
        for (std::uint32_t slot = 0; slot < flags_.window; ++slot) {
            if (!sent_[slot].waiting || sent_[slot].at > late) continue;
            ++lost_;
            ask(slot);
        }
    }

    void report(double cpu) {
        std::ranges::sort(latencies_);
        const auto rank = [&](double share) {
            if (latencies_.empty()) return 0.0;
            const auto at =
                static_cast<std::size_t>(static_cast<double>(latencies_.size()) * share);
            return 1e6 * static_cast<double>(latencies_[std::min(at, latencies_.size() - 1)]);
        };
        const auto count = static_cast<double>(latencies_.size());
        fmt::print(
            "{{\"queries_per_second\":{:.0f},\"queries_per_cpu_second\":{:.0f},"
            "\"p50_us\":{:.0f},\"p99_us\":{:.0f},\"lost\":{}}}\n",
            count / flags_.seconds, cpu > 0 ? count / cpu : 0, rank(0.5), rank(0.99), lost_);
    }

    struct Sent {
        SteadyTime at;
        bool waiting = false;
    };
    const Flags& flags_;
    DatagramReader reader_;
    std::vector<Sent> sent_;
    RawAddress forwarder_;
    std::vector<Bytes> queries_;
    Socket client_, server_;
    std::vector<float> latencies_;
    std::size_t next_ = 0;
    std::uint64_t lost_ = 0, turns_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    Flags flags;
    CLI::App app("queries through a DNS forwarder, and the server behind it");
    app.add_option("--forwarder", flags.forwarder, "its port; that of the server: without one")
        ->required();
    app.add_option("--server", flags.server, "port to answer the forwarder on")->required();
    app.add_option("--pid", flags.pid, "the forwarder's process");
    app.add_option("--window", flags.window, "queries under way")->check(CLI::Range(1U, 60'000U));
    app.add_option("--names", flags.names);
    app.add_option("--seconds", flags.seconds);
    app.add_option("--warm-up", flags.warm_up, "seconds before that");
    CLI11_PARSE(app, argc, argv);
    Load(flags).run();
    return 0;
}
