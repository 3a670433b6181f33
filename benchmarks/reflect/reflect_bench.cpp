// KVStoreMesh against the least that could write the same: one way per process, one JSON line to
// stdout; scripts/bench starts the etcds and puts the lines side by side.
//
//   reflect_bench write   --etcd URL --layout state|cache --clusters N --keys K [--loops L]
//        the peer: transactions of 128 puts, L loops side by side, each one after the other
//   reflect_bench reflect --etcd URL --remotes DIRECTORY
//        the product, until all of every remote is in the etcd
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "model/codec.hpp"
#include "model/keys.hpp"
#include "reflect/kvstore_mesh.hpp"
#include "sources/etcd/client.hpp"

namespace asio = boost::asio;

namespace {

using namespace mesh;

constexpr std::size_t kBatch = 128;
constexpr std::size_t kValueBytes = 300;

struct Options {
    std::string etcd, remotes, layout = "state";
    std::uint32_t clusters = 8, keys = 100'000, loops = 1;
};

double cpu_seconds() {
    rusage own{};
    getrusage(RUSAGE_SELF, &own);
    return static_cast<double>(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
           static_cast<double>(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
}

double peak_rss_mib() {
    std::ifstream in("/proc/self/status");
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
    }
    return 0;
}

using Clocks = std::chrono::steady_clock;

void report(Clocks::time_point begin, std::uint64_t keys) {
    std::cout << fmt::format(
        "{{\"seconds\":{:.3f},\"cpu_seconds\":{:.3f},\"peak_rss_mib\":{:.1f},\"keys\":{}}}\n",
        std::chrono::duration<double>(Clocks::now() - begin).count(), cpu_seconds(), peak_rss_mib(),
        keys);
}

std::string cluster_name(std::uint32_t i) {
    return fmt::format("remote{}", i);
}

std::string value_of(std::uint32_t cluster, std::uint32_t key) {
    std::string value = fmt::format("{{\"cluster\":{},\"key\":{},\"padding\":\"", cluster, key);
    value.resize(kValueBytes - 2, 'x');
    return value + "\"}";
}

/// Puts of cluster i: its keys, and for a source its cluster-config and canaries.
asio::awaitable<Result<void>> write_cluster(etcd::Client& client, const Options& o,
                                            std::uint32_t i) {
    const auto layout = o.layout == "cache" ? model::Layout::kCache : model::Layout::kState;
    etcd::Txn txn;
    for (std::uint32_t k = 0; k < o.keys; ++k) {
        txn.success.emplace_back(
            etcd::PutOp{model::service_key(cluster_name(i), "ns", fmt::format("svc-{}", k), layout),
                        value_of(i, k), 0});
        if (txn.success.size() < kBatch && k + 1 < o.keys) continue;
        etcd::Txn next = std::exchange(txn, {});
        const auto done = co_await client.async_txn(std::move(next));
        if (!done) co_return done.error();
    }
    if (layout == model::Layout::kCache) co_return Result<void>{};
    model::ClusterConfig config;
    config.id = model::ClusterId{i + 1};
    config.synced_canaries = true;
    config.max_connected_clusters = 255;
    txn.success.emplace_back(
        etcd::PutOp{model::cluster_config_key(cluster_name(i)), model::encode(config), 0});
    for (const model::Resource resource : model::kResources) {
        txn.success.emplace_back(
            etcd::PutOp{model::synced_key(cluster_name(i), resource), "now", 0});
    }
    const auto done = co_await client.async_txn(std::move(txn));
    if (!done) co_return done.error();
    co_return Result<void>{};
}

Result<std::unique_ptr<etcd::Client>> connect(asio::io_context& io, const Options& o,
                                              const Clock& clock) {
    etcd::ClientOptions options;
    options.endpoints = {o.etcd};
    options.request_timeout = std::chrono::minutes(1);
    return etcd::Client::make(io.get_executor(), std::move(options), clock, Rng(1), Logger());
}

int run_write(const Options& o) {
    asio::io_context io(1);
    const SystemClock clock;
    auto client = connect(io, o, clock);
    if (!client) {
        std::cerr << client.error().message() << "\n";
        return 1;
    }
    (*client)->start();
    const auto begin = Clocks::now();
    std::uint32_t next = 0, running = o.loops;
    int failed = 0;
    const auto loop = [&]() -> asio::awaitable<void> {
        while (next < o.clusters && failed == 0) {
            const std::uint32_t mine = next++;
            const Result<void> done = co_await write_cluster(**client, o, mine);
            if (done) continue;
            std::cerr << done.error().message() << "\n";
            failed = 1;
        }
        if (--running == 0) co_await (*client)->async_stop();
    };
    for (std::uint32_t i = 0; i < o.loops; ++i) asio::co_spawn(io, loop, asio::detached);
    io.run();
    if (failed == 0) report(begin, std::uint64_t{o.keys} * o.clusters);
    return failed;
}

int run_reflect(const Options& o) {
    asio::io_context io(1);
    const SystemClock clock;
    auto client = connect(io, o, clock);
    if (!client) {
        std::cerr << client.error().message() << "\n";
        return 1;
    }
    reflect::KvstoreMeshOptions options;
    options.local_name = "local";
    options.local_id = model::ClusterId{200};
    options.remotes_directory = o.remotes;
    const auto begin = Clocks::now();
    reflect::KvstoreMesh mesh(io.get_executor(), *std::move(client), std::move(options), clock,
                              Rng(2), Logger());
    int failed = 1;
    const auto watch = [&]() -> asio::awaitable<void> {
        mesh.start();
        asio::steady_timer timer(io);
        while (Clocks::now() - begin < std::chrono::minutes(10)) {
            const auto status = mesh.status();
            std::uint64_t keys = 0, synced = 0;
            for (const auto& remote : status.remotes) {
                synced += remote.synced ? 1 : 0;
                keys += remote.puts;
            }
            if (synced == o.clusters) {
                report(begin, keys);
                failed = 0;
                break;
            }
            timer.expires_after(std::chrono::milliseconds(20));
            co_await timer.async_wait(asio::use_awaitable);
        }
        co_await mesh.stop();
    };
    asio::co_spawn(io, watch, asio::detached);
    io.run();
    if (failed != 0) std::cerr << "not synced within 10 minutes\n";
    return failed;
}

}  // namespace

int main(int argc, char** argv) {
    Options o;
    CLI::App app("KVStoreMesh beside a bare loop of transactions", "reflect_bench");
    app.require_subcommand(1);
    auto* write_command = app.add_subcommand("write", "The peer: transactions of 128 puts");
    auto* reflect_command = app.add_subcommand("reflect", "The product");
    for (auto* command : {write_command, reflect_command}) {
        command->add_option("--etcd", o.etcd)->required();
        command->add_option("--clusters", o.clusters)->capture_default_str();
    }
    write_command->add_option("--layout", o.layout)->check(CLI::IsMember({"state", "cache"}));
    write_command->add_option("--keys", o.keys)->capture_default_str();
    write_command->add_option("--loops", o.loops)->check(CLI::Range(1, 100));
    reflect_command->add_option("--remotes", o.remotes)->required();
    CLI11_PARSE(app, argc, argv);
    return write_command->parsed() ? run_write(o) : run_reflect(o);
}
