// The embedded etcd server as a program, for tests: prints "listening <port>" and serves until
// killed. Usage: etcd_test_server [--data DIRECTORY] [--read-only PREFIX]
#include <fmt/format.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "rpc/server.hpp"
#include "runtime/clock.hpp"
#include "serve/etcd/etcd_service.hpp"
#include "state/store/lmdb_backend.hpp"

namespace {

using namespace mesh;

struct Arguments {
    std::string data;
    std::string read_only;
};

Result<std::unique_ptr<store::Store>> open_store(const Arguments& arguments, const Clock& clock) {
    std::unique_ptr<store::Backend> backend = std::make_unique<store::MemoryBackend>();
    if (!arguments.data.empty()) {
        auto opened = store::open_lmdb({.directory = arguments.data});
        if (!opened) return opened.error().to_error();
        backend = *std::move(opened);
    }
    Rng rng;
    store::StoreOptions options;
    options.identity = {.cluster_id = rng.next(), .member_id = rng.next()};
    options.seed = rng.next();
    auto store = store::Store::open(std::move(backend), options, clock.now());
    if (!store) return store.error().to_error();
    return *std::move(store);
}

std::shared_ptr<const serve::AccessPolicy> policy_of(const Arguments& arguments) {
    if (arguments.read_only.empty()) return std::make_shared<serve::AllowAll>();
    return std::make_shared<serve::ReadOnly>(
        std::vector<serve::ReadOnly::Prefix>{{.prefix = arguments.read_only, .exact = false}});
}

int run(const Arguments& arguments) {
    const Logger log("etcd", [](LogLevel, std::string_view subsystem, std::string_view text) {
        std::fprintf(stderr, "%.*s: %.*s\n", static_cast<int>(subsystem.size()), subsystem.data(),
                     static_cast<int>(text.size()), text.data());
    });
    boost::asio::io_context loop(1);
    const SystemClock clock;
    auto store = open_store(arguments, clock);
    if (!store) {
        std::fprintf(stderr, "%s\n", store.error().message().c_str());
        return 1;
    }
    rpc::Server server(loop.get_executor(), {}, clock, log);
    const auto port = server.listen("127.0.0.1", 0);
    if (!port) {
        std::fprintf(stderr, "%s\n", port.error().message().c_str());
        return 1;
    }
    serve::EtcdServiceOptions options;
    options.client_urls = {fmt::format("http://127.0.0.1:{}", *port)};
    options.peer_urls = {"http://127.0.0.1:1"};
    serve::EtcdService service(loop.get_executor(), **store, clock, options, log);
    service.attach(server, "test", policy_of(arguments));
    std::printf("listening %d\n", int{*port});
    std::fflush(stdout);
    boost::asio::signal_set signals(loop, SIGTERM, SIGINT);
    signals.async_wait([&](const boost::system::error_code&, int) {
        server.stop();
        loop.stop();
    });
    loop.run();
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view flag = argv[i];
        if (flag == "--data") arguments.data = argv[i + 1];
        if (flag == "--read-only") arguments.read_only = argv[i + 1];
    }
    return run(arguments);
}
