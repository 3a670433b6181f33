// The DNS proxy alone in a process, for tests and benchmarks that speak to it with other programs:
// its port on the first line, then one line of JSON per query (unless --quiet). Ends by SIGTERM.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "serve/dns/dns_proxy.hpp"
#include "serve/dns/dns_rules.hpp"
#include "serve/dns/fqdn_cache.hpp"

namespace {

using namespace mesh;
using namespace mesh::serve::dns;
namespace asio = boost::asio;

struct Flags {
    std::vector<std::string> listen{"127.0.0.1"};
    std::uint16_t port = 0;
    std::string server;
    std::uint16_t server_port = 53;
    std::vector<std::string> allow;
    bool transparent = false, from_client = false, quiet = false;
    std::uint32_t upstream_mark = 0;
    unsigned learn_milliseconds = 0;
};

void print(const std::string& line) {
    std::fputs((line + "\n").c_str(), stdout);
    std::fflush(stdout);
}

Result<DnsProxyOptions> options_of(const Flags& flags) {
    DnsProxyOptions options;
    options.listen.clear();
    for (const auto& text : flags.listen) {
        MESH_TRY(const auto address, model::IpAddress::parse(text));
        options.listen.push_back({address, flags.port});
    }
    options.transparent = flags.transparent;
    options.from_client_address = flags.from_client;
    options.upstream_mark = flags.upstream_mark;
    if (!flags.server.empty()) {
        MESH_TRY(const auto address, model::IpAddress::parse(flags.server));
        options.fixed_server = PeerAddress{address, flags.server_port};
    }
    return options;
}

/// Names that are allowed, the cache, and a wait in the place of the datapath's.
DnsProxyCallbacks callbacks_of(asio::io_context& context, const Flags& flags, FqdnCache& cache,
                               const SystemClock& clock) {
    std::vector<model::policy::FqdnSelector> selectors;
    for (const auto& pattern : flags.allow) {
        selectors.push_back({{}, pattern});
        cache.add_selector(selectors.back());
    }
    const auto rules = std::make_shared<DnsRules>(selectors);
    DnsProxyCallbacks out;
    out.decide = [rules](const DnsQuestion& question) {
        return Decision{rules->allows(question.name), 1};
    };
    out.on_learnt = [&, wait = flags.learn_milliseconds](const Learnt& learnt,
                                                         std::function<void()> done) {
        static_cast<void>(
            cache.update(learnt.endpoint, learnt.name, learnt.addresses, learnt.ttl, clock.now()));
        if (wait == 0) return done();
        const auto timer = std::make_shared<asio::steady_timer>(context);
        timer->expires_after(std::chrono::milliseconds(wait));
        timer->async_wait([timer, done](const boost::system::error_code&) { done(); });
    };
    if (!flags.quiet) {
        out.on_event = [&](const DnsEvent& event) { print(to_json(event, clock.wall_now())); };
    }
    return out;
}

int run(const Flags& flags) {
    asio::io_context context(1);
    const SystemClock clock;
    FqdnCache cache;
    const auto options = options_of(flags);
    if (!options) {
        print(options.error().message());
        return 2;
    }
    const Logger log("dns", [](LogLevel, std::string_view, std::string_view text) {
        std::fputs((std::string(text) + "\n").c_str(), stderr);
    });
    DnsProxy proxy(context.get_executor(), clock, log, *options,
                   callbacks_of(context, flags, cache, clock));
    if (const auto started = proxy.start(); !started) {
        print(started.error().message());
        return 1;
    }
    print(fmt::format("{}", proxy.port()));
    asio::signal_set signals(context, SIGTERM, SIGINT);
    signals.async_wait([&](const boost::system::error_code& ec, int) {
        if (ec) return;
        asio::co_spawn(context, proxy.async_stop(),
                       [&](const std::exception_ptr&) { context.stop(); });
    });
    context.run();
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    Flags flags;
    CLI::App app("the DNS proxy alone, for tests");
    app.add_option("--listen", flags.listen);
    app.add_option("--port", flags.port);
    app.add_option("--server", flags.server, "address that queries are for, if not transparent");
    app.add_option("--server-port", flags.server_port);
    app.add_option("--allow", flags.allow, "patterns of names");
    app.add_flag("--transparent", flags.transparent);
    app.add_flag("--from-client", flags.from_client);
    app.add_flag("--quiet", flags.quiet);
    app.add_option("--upstream-mark", flags.upstream_mark);
    app.add_option("--learn-milliseconds", flags.learn_milliseconds);
    CLI11_PARSE(app, argc, argv);
    return run(flags);
}
