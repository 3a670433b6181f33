// soak --seconds 60 --seed 7: many readers of an etcd through two mirrors, and of an embedded one,
// while processes are killed and stopped, lines cut, readers stalled. At the end every reader knows
// what etcd has, and every watch was told every change once and in order.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <chrono>
#include <exception>
#include <random>

#include "soak.hpp"

int main(int argc, char** argv) {
    mesh::soak::SoakOptions options;
    options.seed = std::random_device{}();
    CLI::App app("soak: readers of mesh-proxy while everything around them breaks", "soak");
    app.add_option("--seconds", options.seconds, "How long things break")
        ->check(CLI::Range(1.0, 86400.0))
        ->capture_default_str();
    app.add_option("--seed", options.seed,
                   "Of what is chosen: who reads, what is written, what "
                   "breaks (default: another each time; it is printed)");
    app.add_option("--mesh-proxy", options.mesh_proxy,
                   "Another mesh-proxy than the one built here");
    CLI11_PARSE(app, argc, argv);
    if (!mesh::test::have_etcd()) {
        fmt::print("SKIPPED: needs etcd-server and etcd-client\n");
        return 77;
    }
    fmt::print("soak: {} s, --seed {}\n", options.seconds, options.seed);
    std::fflush(stdout);
    boost::asio::io_context loop(1);
    const mesh::SystemClock clock;
    bool good = false;
    mesh::soak::Soak soak(loop, clock, options);
    boost::asio::co_spawn(loop, soak.run(), [&](const std::exception_ptr& thrown, bool result) {
        good = !thrown && result;
        if (thrown) fmt::print("FAIL an exception ended the soak\n");
        loop.stop();
    });
    loop.run();
    return good ? 0 : 1;
}
