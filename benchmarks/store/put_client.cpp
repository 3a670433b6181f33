// Puts over the network: `window` of them under way at a time on one connection, to an etcd or to
// mesh-proxy --embedded. One JSON line to stdout; scripts/bench starts the servers.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/etcdpb/etcd.pb.h"
#include "model/etcdpb/methods.hpp"
#include "rpc/client.hpp"

namespace asio = boost::asio;

namespace {

struct Options {
    std::string to, ca, cert, key;
    int puts = 10'000;
    int window = 64;
    int value_bytes = 200;
};

class Load {
  public:
    Load(asio::io_context& io, Options options) : io_(io), o_(std::move(options)) {}

    int run() {
        mesh::rpc::ChannelOptions options;
        const auto colon = o_.to.rfind(':');
        options.host = o_.to.substr(0, colon);
        std::from_chars(o_.to.data() + colon + 1, o_.to.data() + o_.to.size(), options.port);
        if (!o_.ca.empty()) {
            auto tls = mesh::rpc::TlsCredentials::load(
                mesh::rpc::TlsRole::kClient,
                {.ca_file = o_.ca, .cert_file = o_.cert, .key_file = o_.key}, {});
            if (!tls) return fail(tls.error().message());
            options.tls = *tls;
        }
        channel_ = std::make_unique<mesh::rpc::Channel>(io_.get_executor(), std::move(options),
                                                        clock_, mesh::Logger());
        channel_->connect([this](mesh::Result<void> connected) {
            if (!connected) {
                fail(connected.error().message());
                return;
            }
            begin_ = std::chrono::steady_clock::now();
            while (sent_ < std::min(o_.window, o_.puts)) put();
        });
        io_.run();
        channel_.reset();
        return code_;
    }

  private:
    int fail(const std::string& text) {
        std::cerr << "put_client: " << text << "\n";
        code_ = 1;
        io_.stop();
        return 1;
    }

    void put() {
        mesh::etcdpb::PutRequest request;
        request.set_key("cilium/state/ip/v1/default/10.0." + std::to_string(sent_ / 250 % 250) +
                        "." + std::to_string(sent_ % 250));
        request.set_value(std::string(static_cast<std::size_t>(o_.value_bytes), 'v'));
        ++sent_;
        const auto begun = std::chrono::steady_clock::now();
        channel_->unary(mesh::etcdpb::kPut, mesh::rpc::encode_frame(request), {},
                        [this, begun](const mesh::rpc::UnaryResult& result) {
                            if (!result.status.ok()) {
                                fail("put: " + result.status.message);
                                return;
                            }
                            latencies_.push_back(std::chrono::duration<float, std::micro>(
                                                     std::chrono::steady_clock::now() - begun)
                                                     .count());
                            if (sent_ < o_.puts) {
                                put();
                            } else if (static_cast<int>(latencies_.size()) == o_.puts) {
                                finish();
                            }
                        });
    }

    void finish() {
        const double wall =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
        std::ranges::sort(latencies_);
        const auto at = [&](double q) {
            return static_cast<double>(latencies_[static_cast<std::size_t>(
                q * static_cast<double>(latencies_.size() - 1))]);
        };
        std::printf(
            "{\"puts\":%d,\"window\":%d,\"seconds\":%.3f,\"puts_per_second\":%.0f,"
            "\"p50_us\":%.0f,\"p99_us\":%.0f}\n",
            o_.puts, o_.window, wall, o_.puts / wall, at(0.5), at(0.99));
        io_.stop();
    }

    asio::io_context& io_;
    Options o_;
    mesh::SystemClock clock_;
    std::unique_ptr<mesh::rpc::Channel> channel_;
    std::vector<float> latencies_;
    std::chrono::steady_clock::time_point begin_;
    int sent_ = 0;
    int code_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app("puts over one connection, a window of them under way; prints one JSON line");
    app.add_option("--to", options.to, "HOST:PORT of an etcd, or of one that speaks like it")
        ->required();
    app.add_option("--puts", options.puts, "puts in all")->check(CLI::PositiveNumber);
    app.add_option("--window", options.window, "puts under way at most")
        ->check(CLI::PositiveNumber);
    app.add_option("--value-bytes", options.value_bytes, "size of each value")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--tls-ca", options.ca);
    app.add_option("--tls-cert", options.cert);
    app.add_option("--tls-key", options.key);
    CLI11_PARSE(app, argc, argv);
    asio::io_context io(1);
    return Load(io, std::move(options)).run();
}
