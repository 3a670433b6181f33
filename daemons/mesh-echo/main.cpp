// mesh-echo: says which cluster, node and pod answered. For sandboxes, demos and tests.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <string>

#include "common/flags.hpp"
#include "common/log_sink.hpp"
#include "mesh-echo/server.hpp"

int main(int argc, char** argv) {
    using namespace mesh;
    // Before anything else: a SIGTERM must end the server cleanly from its first moment.
    sigset_t mask;
    ::sigemptyset(&mask);
    ::sigaddset(&mask, SIGTERM);
    ::sigaddset(&mask, SIGINT);
    ::sigprocmask(SIG_BLOCK, &mask, nullptr);

    CLI::App app(
        "Answers every HTTP request (and, with --udp, every datagram) with JSON that says "
        "which cluster, node and pod it was.",
        "mesh-echo");
    daemon::CommonFlags flags;
    echo::Options options;
    std::int64_t delay_ms = 0;
    daemon::add_common_flags(
        app, flags,
        "  mesh-echo --port 8080\n"
        "  mesh-echo --port 53 --udp --cluster cluster1 --pod dns-1\n"
        "  curl 'localhost:8080/?delay=500'   # answers half a second later\n");
    app.add_option("--port", options.port, "Port to listen on, all addresses (default 8080)");
    app.add_flag("--udp", options.udp, "Answer datagrams on the same port as well");
    app.add_option("--cluster", options.cluster, "Name to answer with")->envname("MESH_CLUSTER");
    app.add_option("--node", options.node, "Name to answer with")->envname("MESH_NODE");
    app.add_option("--namespace", options.namespace_, "Name to answer with")
        ->envname("MESH_NAMESPACE");
    app.add_option("--pod", options.pod, "Name to answer with")->envname("MESH_POD");
    app.add_option("--shutdown-delay", delay_ms,
                   "Milliseconds to take new connections for after SIGTERM (default 0)")
        ->check(CLI::Range(0, 600'000));
    if (const auto code = daemon::parse_command_line(app, argc, argv)) return *code;
    options.shutdown_delay = std::chrono::milliseconds(delay_ms);

    const Logger log = daemon::make_logger("echo", flags);
    echo::Server server(options, log);
    if (auto listening = server.listen(); !listening) {
        log.error("{}", listening.error().message());
        return daemon::kExitFailure;
    }
    log.info("listening on port {}{}", server.port(), options.udp ? ", TCP and UDP" : "");
    if (auto served = server.run(); !served) {
        log.error("{}", served.error().message());
        return daemon::kExitFailure;
    }
    return daemon::kExitOk;
}
