// The load of the watch fan-out benchmark: W watch streams over C connections, events put one after
// another with at most `window` of them not yet seen by every watcher (so that each server runs at
// its own pace) or at a fixed rate, and what the server process costs, read from /proc. One JSON
// line to stdout. scripts/bench starts the servers and puts the lines side by side.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "load.hpp"
#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"

namespace asio = boost::asio;
namespace bench = mesh::bench;
using namespace std::chrono_literals;

namespace {

struct Options {
    std::string watch, put, ca, cert, key, put_cert, put_key;
    int streams = 1000;
    int connections = 10;
    int events = 500;
    int value_bytes = 300;
    int window = 4;
    int pid = 0;
    double rate = 0;
    double settle = 0;
    double seconds = 60;
};

asio::steady_timer::duration to_wait(double seconds) {
    return std::chrono::duration_cast<asio::steady_timer::duration>(
        std::chrono::duration<double>(seconds));
}

class Load {
  public:
    Load(asio::io_context& io, Options options)
        : io_(io), o_(std::move(options)), limit_(io), pace_(io) {}

    int run() {
        const auto tls = bench::credentials({o_.ca, o_.cert, o_.key});
        const auto put_tls = bench::credentials({o_.ca, o_.put_cert, o_.put_key});
        rss_before_ = rss();
        for (int i = 0; i <= o_.connections; ++i) {
            const bool putter = i == o_.connections;
            auto channel = std::make_unique<mesh::rpc::Channel>(
                io_.get_executor(),
                bench::channel_options(putter ? o_.put : o_.watch, putter ? put_tls : tls), clock_,
                mesh::Logger());
            channel->connect([this](mesh::Result<void> connected) {
                if (!connected) {
                    fail(connected.error().message());
                } else if (++connected_ == o_.connections + 1) {
                    settle([this] {
                        rss_connected_ = rss();
                        start_watches();
                    });
                }
            });
            channels_.push_back(std::move(channel));
        }
        limit_.expires_after(to_wait(o_.seconds));
        limit_.async_wait([this](boost::system::error_code ec) {
            if (!ec && !done_) finish();
        });
        io_.run();
        return code_;
    }

  private:
    double rss() const { return bench::memory_kib_of(o_.pid, "VmRSS:"); }

    /// Lets the server come to rest before its memory is read.
    template <class Next>
    void settle(Next next) {
        pace_.expires_after(to_wait(o_.settle));
        pace_.async_wait([next](boost::system::error_code ec) {
            if (!ec) next();
        });
    }

    int fail(const std::string& text) {
        if (code_ == 0) std::cerr << "fanout_client: " << text << "\n";
        code_ = 1;
        io_.stop();
        return 1;
    }

    void start_watches() {
        mesh::etcdpb::WatchRequest request;
        auto& create = *request.mutable_create_request();
        create.set_key("cilium/state/");
        create.set_range_end("cilium/state0");
        const auto frame = mesh::rpc::encode_frame(request);
        for (int i = 0; i < o_.streams; ++i) {
            auto& channel = *channels_[static_cast<std::size_t>(i % o_.connections)];
            mesh::rpc::CallEvents events;
            events.on_message = [this](std::string_view message) { on_watch(message); };
            events.on_end = [this](const mesh::rpc::Status& status, const mesh::rpc::Metadata&) {
                if (!done_) fail("a watch ended: " + status.message);
            };
            auto call = channel.call(mesh::etcdpb::kWatch, {}, std::move(events));
            if (call->write(frame) != mesh::rpc::Write::kQueued) {
                fail("cannot start a watch");
                return;
            }
            calls_.push_back(std::move(call));
        }
    }

    void on_watch(std::string_view message) {
        mesh::etcdpb::WatchResponse response;
        if (!response.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
            fail("a watch answer makes no sense");
            return;
        }
        if (response.created()) {
            if (++created_ == o_.streams) settle([this] { begin(); });
            return;
        }
        const auto now = std::chrono::steady_clock::now();
        for (const auto& event : response.events()) {
            std::size_t number = 0;
            const auto& value = event.kv().value();
            std::from_chars(value.data(), value.data() + value.size(), number);
            if (number >= begun_.size()) continue;
            latencies_.push_back(
                std::chrono::duration<float, std::micro>(now - begun_[number]).count());
            ++delivered_;
            if (++seen_[number] == o_.streams) {
                ++complete_;
                if (complete_ == o_.events) {
                    finish();
                } else if (o_.rate <= 0 && put_ < o_.events) {
                    put();
                }
            }
        }
    }

    void begin() {
        rss_idle_ = rss();
        cpu_begin_ = bench::cpu_seconds_of(o_.pid);
        begin_ = std::chrono::steady_clock::now();
        if (o_.events == 0) return finish();
        if (o_.rate > 0) return keep_pace();
        while (put_ < o_.window && put_ < o_.events) put();
    }

    void keep_pace() {
        const std::chrono::duration<double> gone = std::chrono::steady_clock::now() - begin_;
        while (put_ < o_.events && put_ <= gone.count() * o_.rate) put();
        if (put_ == o_.events) return;
        pace_.expires_at(begin_ + to_wait(put_ / o_.rate));
        pace_.async_wait([this](boost::system::error_code ec) {
            if (!ec && !done_) keep_pace();
        });
    }

    void put() {
        mesh::etcdpb::PutRequest request;
        request.set_key("cilium/state/ip/v1/default/10.0.0." + std::to_string(put_ % 100));
        std::string value = std::to_string(put_) + " ";
        value.resize(static_cast<std::size_t>(o_.value_bytes), 'x');
        request.set_value(std::move(value));
        begun_.push_back(std::chrono::steady_clock::now());
        seen_.push_back(0);
        ++put_;
        channels_.back()->unary(mesh::etcdpb::kPut, mesh::rpc::encode_frame(request), {},
                                [this](const mesh::rpc::UnaryResult& result) {
                                    // At a fixed rate an overloaded server shows as events that
                                    // never came.
                                    if (!result.status.ok() && !done_ && o_.rate <= 0) {
                                        fail("put: " + result.status.message);
                                    }
                                });
    }

    void finish() {
        done_ = true;
        const double cpu = bench::cpu_seconds_of(o_.pid) - cpu_begin_;
        const double wall =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
        rusage own{};
        getrusage(RUSAGE_SELF, &own);
        std::printf(
            "{\"streams\":%d,\"connections\":%d,\"events\":%d,\"delivered\":%llu,\"complete\":%s,"
            "\"seconds\":%.3f,\"server_cpu_seconds\":%.3f,\"delivered_per_cpu_second\":%.0f,"
            "\"delivered_per_second\":%.0f,\"p50_us\":%.0f,\"p99_us\":%.0f,"
            "\"rss_kib_per_connection\":%.2f,\"rss_kib_per_watcher\":%.2f,"
            "\"rss_kib_per_stream\":%.2f,\"rss_kib_end\":%.0f,\"client_cpu_seconds\":%.3f}\n",
            o_.streams, o_.connections, o_.events, static_cast<unsigned long long>(delivered_),
            complete_ == o_.events ? "true" : "false", wall, cpu,
            cpu > 0 ? static_cast<double>(delivered_) / cpu : 0.0,
            static_cast<double>(delivered_) / wall, bench::quantile(latencies_, 0.5),
            bench::quantile(latencies_, 0.99), (rss_connected_ - rss_before_) / o_.connections,
            (rss_idle_ - rss_connected_) / o_.streams, (rss_idle_ - rss_before_) / o_.streams,
            rss(),
            static_cast<double>(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
                static_cast<double>(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6);
        for (auto& call : calls_) call->abandon();
        channels_.clear();
        limit_.cancel();
        pace_.cancel();
        io_.stop();
    }

    asio::io_context& io_;
    Options o_;
    mesh::SystemClock clock_;
    asio::steady_timer limit_, pace_;
    std::vector<std::unique_ptr<mesh::rpc::Channel>> channels_;
    std::vector<mesh::rpc::ClientCallPtr> calls_;
    std::vector<std::chrono::steady_clock::time_point> begun_;
    std::vector<int> seen_;
    std::vector<float> latencies_;
    std::chrono::steady_clock::time_point begin_;
    std::uint64_t delivered_ = 0;
    int connected_ = 0;
    int created_ = 0;
    int put_ = 0;
    int complete_ = 0;
    int code_ = 0;
    double rss_before_ = 0;
    double rss_connected_ = 0;
    double rss_idle_ = 0;
    double cpu_begin_ = 0;
    bool done_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("watch fan-out load: many watch streams, one writer; prints one JSON line");
    app.add_option("--read", options.watch, "HOST:PORT of the server that is watched")->required();
    app.add_option("--put", options.put, "HOST:PORT of the etcd that is written to")->required();
    app.add_option("--pid", options.pid, "process id of the server that is watched")->required();
    app.add_option("--streams", options.streams, "watch streams");
    app.add_option("--connections", options.connections, "connections they share");
    app.add_option("--events", options.events, "events to put");
    app.add_option("--value-bytes", options.value_bytes, "size of each value");
    app.add_option("--window", options.window, "events under way at most");
    app.add_option("--rate", options.rate, "puts per second, instead of a window");
    app.add_option("--settle", options.settle, "seconds before memory is read");
    app.add_option("--seconds", options.seconds, "give up after this long");
    app.add_option("--tls-ca", options.ca);
    app.add_option("--tls-cert", options.cert);
    app.add_option("--tls-key", options.key);
    app.add_option("--put-cert", options.put_cert, "certificate of the writer");
    app.add_option("--put-key", options.put_key);
    CLI11_PARSE(app, argc, argv);
    bench::raise_open_files();
    asio::io_context io(1);
    return Load(io, std::move(options)).run();
}
