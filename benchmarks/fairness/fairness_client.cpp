// What light clients notice of a greedy one: each of some clients asks for a page of keys at a
// fixed rate, first alone, then beside a client that asks for a hundred times as much. One JSON
// line with the light ones' latencies, counted from when a request was due, to stdout.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
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

namespace {

using Time = std::chrono::steady_clock;

struct Options {
    std::string server, ca;
    std::vector<std::string> certs, keys;  // of the light clients
    std::string greedy_cert, greedy_key;
    double rate = 20;
    double factor = 100;
    int greedy_connections = 4;
    double seconds = 5;
};

mesh::rpc::Frame page() {
    mesh::etcdpb::RangeRequest request;
    request.set_key("cilium/state/");
    request.set_range_end("cilium/state0");
    request.set_limit(256);
    request.set_serializable(true);  // turns are measured, not how a mirror asks its upstream
    return mesh::rpc::encode_frame(request);
}

/// Asks at a rate on some connections, whether or not answers have come.
class Asker {
  public:
    Asker(asio::io_context& io, const mesh::Clock& clock, const Options& options,
          const bench::Files& files, int connections, double rate)
        : timer_(io),
          every_(std::chrono::duration_cast<Time::duration>(
              std::chrono::duration<double>(1.0 / rate))) {
        const auto tls = bench::credentials(files);
        for (int i = 0; i < connections; ++i)
            channels_.push_back(std::make_unique<mesh::rpc::Channel>(
                io.get_executor(), bench::channel_options(options.server, tls), clock,
                mesh::Logger()));
    }
    /// @param ready called once
    void connect(std::function<void(bool connected)> ready) {
        for (const auto& channel : channels_)
            channel->connect([this, ready](const mesh::Result<void>& connected) {
                if (!connected) {
                    std::cerr << "fairness_client: " << connected.error().message() << "\n";
                    return ready(false);
                }
                if (++connected_ == channels_.size()) ready(true);
            });
    }
    void start(Time::time_point at) {
        due_ = at;
        asks_ = true;
        next();
    }
    void stop() {
        asks_ = false;
        timer_.cancel();
    }
    std::vector<float> latencies_us;
    std::uint64_t failures = 0;

  private:
    void next() {
        timer_.expires_at(due_);
        timer_.async_wait([this](boost::system::error_code ec) {
            if (ec || !asks_) return;
            for (const auto now = Time::now(); due_ <= now; due_ += every_) ask();
            next();
        });
    }
    void ask() {
        auto& channel = *channels_[asked_++ % channels_.size()];
        channel.unary(mesh::etcdpb::kRange, request_, {},
                      [this, due = due_](const mesh::rpc::UnaryResult& result) {
                          if (!asks_) return;
                          if (!result.status.ok()) {
                              ++failures;
                              return;
                          }
                          const std::chrono::duration<float, std::micro> took = Time::now() - due;
                          latencies_us.push_back(took.count());
                      });
    }

    asio::steady_timer timer_;
    Time::duration every_;
    Time::time_point due_;
    bool asks_ = false;
    std::size_t asked_ = 0, connected_ = 0;
    const mesh::rpc::Frame request_ = page();
    std::vector<std::unique_ptr<mesh::rpc::Channel>> channels_;
};

struct Phase {
    double p50 = 0, p99 = 0;
    std::size_t answers = 0;
    std::uint64_t failures = 0;
};

Phase run_phase(asio::io_context& io, std::vector<std::unique_ptr<Asker>>& light, double seconds) {
    std::vector<float> all;
    Phase out;
    const auto begin = Time::now() + std::chrono::milliseconds(10);
    for (std::size_t i = 0; i < light.size(); ++i) {
        light[i]->latencies_us.clear();
        light[i]->failures = 0;
        light[i]->start(begin + i * std::chrono::milliseconds(3));
    }
    io.run_for(std::chrono::duration_cast<Time::duration>(std::chrono::duration<double>(seconds)));
    for (const auto& one : light) {
        one->stop();
        all.insert(all.end(), one->latencies_us.begin(), one->latencies_us.end());
        out.failures += one->failures;
    }
    out.answers = all.size();
    out.p50 = bench::quantile(all, 0.5);
    out.p99 = bench::quantile(all, 0.99);
    return out;
}

std::string json(const Phase& phase) {
    return fmt::format(R"({{"p50_us":{:.1f},"p99_us":{:.1f},"answers":{},"failures":{}}})",
                       phase.p50, phase.p99, phase.answers, phase.failures);
}

int run(const Options& o) {
    asio::io_context io(1);
    const mesh::SystemClock clock;
    std::vector<std::unique_ptr<Asker>> light;
    for (std::size_t i = 0; i < o.certs.size(); ++i)
        light.push_back(std::make_unique<Asker>(
            io, clock, o, bench::Files{o.ca, o.certs[i], o.keys[i]}, 1, o.rate));
    Asker greedy(io, clock, o, {o.ca, o.greedy_cert, o.greedy_key}, o.greedy_connections,
                 o.rate * o.factor);
    std::size_t ready = 0;
    bool failed = false;
    const auto on_ready = [&](bool connected) {
        failed = failed || !connected;
        if (failed || ++ready == light.size() + 1) io.stop();
    };
    for (const auto& one : light) one->connect(on_ready);
    greedy.connect(on_ready);
    io.run_for(std::chrono::seconds(30));
    if (failed || ready != light.size() + 1) return 1;
    io.restart();
    const Phase alone = run_phase(io, light, o.seconds);
    io.restart();
    greedy.start(Time::now());
    const Phase beside = run_phase(io, light, o.seconds);
    greedy.stop();
    fmt::print(
        R"({{"alone":{},"beside":{},"greedy_answers_per_second":{:.1f},"greedy_failures":{}}})"
        "\n",
        json(alone), json(beside), static_cast<double>(greedy.latencies_us.size()) / o.seconds,
        greedy.failures);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app("light clients beside a greedy one", "fairness_client");
    app.add_option("--server", o.server, "ADDRESS:PORT")->required();
    app.add_option("--tls-ca", o.ca)->required();
    app.add_option("--cert", o.certs, "Of a light client; again for each")->required();
    app.add_option("--key", o.keys)->required();
    app.add_option("--greedy-cert", o.greedy_cert)->required();
    app.add_option("--greedy-key", o.greedy_key)->required();
    app.add_option("--rate", o.rate, "Pages per second of a light client");
    app.add_option("--factor", o.factor, "Of the greedy one, times as many");
    app.add_option("--greedy-connections", o.greedy_connections);
    app.add_option("--seconds", o.seconds, "Of each phase");
    CLI11_PARSE(app, argc, argv);
    if (o.certs.size() != o.keys.size()) {
        std::cerr << "fairness_client: expected as many --key as --cert\n";
        return 2;
    }
    return run(o);
}
