// The HTTP policy proxy in a process of its own, for tests and benchmarks: one listener, one server
// behind it. Rules come from a JSON file, which is read again at SIGHUP:
//   {"rules": [{"method", "path", "host", "headers": [], "headerMatches": [{"name", "value",
//   "mismatch"}]}]}    "rules" absent: everything; null: no policy, nothing passes
// Says {"port": n} when it listens, and its counters at SIGUSR1. SIGTERM ends it.
#include <CLI/CLI.hpp>
#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>

#include "serve/l7/http_proxy.hpp"

using namespace mesh;
using namespace mesh::serve::l7;
namespace json = boost::json;

namespace {

std::string text_of(const json::object& object, std::string_view key) {
    const auto* value = object.if_contains(key);
    return value != nullptr ? std::string(value->as_string()) : std::string();
}

model::policy::HttpRule read_rule(const json::object& object) {
    using model::policy::HeaderMismatch;
    model::policy::HttpRule rule{
        text_of(object, "method"), text_of(object, "path"), text_of(object, "host"), {}, {}};
    if (const auto* headers = object.if_contains("headers"))
        for (const auto& header : headers->as_array())
            rule.headers.emplace_back(header.as_string());
    if (const auto* matches = object.if_contains("headerMatches")) {
        for (const auto& match : matches->as_array()) {
            const json::object& one = match.as_object();
            const std::string action = text_of(one, "mismatch");
            const auto kind = action == "LOG"       ? HeaderMismatch::kLog
                              : action == "ADD"     ? HeaderMismatch::kAdd
                              : action == "DELETE"  ? HeaderMismatch::kDelete
                              : action == "REPLACE" ? HeaderMismatch::kReplace
                                                    : HeaderMismatch::kDrop;
            rule.header_matches.push_back({text_of(one, "name"), text_of(one, "value"), kind});
        }
    }
    return rule;
}

class FilePolicy final : public PolicySource {
  public:
    explicit FilePolicy(std::string file) : file_(std::move(file)) { read(); }

    void read() {
        FlowPolicy made{nullptr, 1001, 1002, 0};
        std::vector<HttpPolicy::Source> sources{{nullptr, "everything"}};
        bool none = false;
        if (!file_.empty()) {
            std::ostringstream text;
            text << std::ifstream(file_).rdbuf();
            const json::value document = json::parse(text.str());
            if (const auto* rules = document.as_object().if_contains("rules")) {
                none = rules->is_null();
                auto l7 = std::make_shared<model::policy::L7Rules>();
                if (!none)
                    for (const auto& rule : rules->as_array())
                        l7->http.push_back(read_rule(rule.as_object()));
                sources = {{l7, "rules of " + file_}};
            }
        }
        if (!none) {
            auto policy = HttpPolicy::compile(sources);
            if (!policy) throw std::runtime_error(policy.error().message());
            made.policy = *policy;
        }
        const std::lock_guard lock(mutex_);
        policy_ = made;
        generation_.fetch_add(1);
    }
    std::uint64_t generation() const noexcept override { return generation_.load(); }
    FlowPolicy find(const Flow&) const override {
        const std::lock_guard lock(mutex_);
        return policy_;
    }

  private:
    const std::string file_;
    mutable std::mutex mutex_;  // guards policy_
    FlowPolicy policy_;
    std::atomic<std::uint64_t> generation_{0};
};

Endpoint endpoint_of(const std::string& text) {
    const auto colon = text.rfind(':');
    std::string host = text.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    auto address = model::IpAddress::parse(host);
    if (colon == std::string::npos || !address)
        throw CLI::ValidationError(text, "expected address:port");
    return {*address, static_cast<std::uint16_t>(std::stoul(text.substr(colon + 1)))};
}

void print(const HttpProxyStats& stats) {
    std::cout << json::serialize(json::object{{"connections", stats.connections},
                                              {"accepted", stats.accepted},
                                              {"refused_limit", stats.refused_limit},
                                              {"forwarded", stats.forwarded},
                                              {"denied", stats.denied},
                                              {"refused", stats.refused},
                                              {"errors", stats.errors}})
              << std::endl;
}

struct Flags {
    std::string listen = "127.0.0.1:0", upstream, rules;
    int header_ms = 10'000, body_ms = 60'000, idle_ms = 3'600'000, write_ms = 60'000,
        connect_ms = 5'000, grace_ms = 5'000;
    HttpProxyOptions options;
};

void add_flags(CLI::App& app, Flags& flags) {
    HttpProxyOptions& options = flags.options;
    app.add_option("--listen", flags.listen);
    app.add_option("--upstream", flags.upstream, "address:port; absent: where clients meant to go");
    app.add_flag("--transparent", options.transparent);
    app.add_option("--mark", options.mark);
    app.add_option("--rules", flags.rules);
    app.add_option("--loops", options.loops);
    app.add_option("--access-log", options.access_log.file);
    app.add_option("--access-log-bytes", options.access_log.max_bytes);
    app.add_option("--recent", options.access_log.recent);
    app.add_option("--max-connections", options.max_connections);
    app.add_option("--max-connections-per-client", options.max_connections_per_client);
    app.add_option("--max-header-bytes", options.limits.head.max_bytes);
    app.add_option("--max-streams", options.limits.max_streams);
    app.add_option("--reset-burst", options.limits.reset_burst);
    app.add_option("--header-ms", flags.header_ms);
    app.add_option("--body-ms", flags.body_ms);
    app.add_option("--idle-ms", flags.idle_ms);
    app.add_option("--write-ms", flags.write_ms);
    app.add_option("--connect-ms", flags.connect_ms);
    app.add_option("--grace-ms", flags.grace_ms);
}

int run(Flags& flags) {
    HttpProxyOptions& options = flags.options;
    const auto ms = [](int n) { return Duration(std::chrono::milliseconds(n)); };
    if (!flags.upstream.empty())
        options.resolve = [upstream = endpoint_of(flags.upstream)](const Endpoint&) {
            return upstream;
        };
    options.limits.header_timeout = ms(flags.header_ms);
    options.limits.body_timeout = ms(flags.body_ms);
    options.limits.idle_timeout = ms(flags.idle_ms);
    options.limits.write_timeout = ms(flags.write_ms);
    options.limits.connect_timeout = ms(flags.connect_ms);

    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);

    FilePolicy policy(flags.rules);
    const Logger log("l7", [](LogLevel, std::string_view subsystem, std::string_view text) {
        std::fprintf(stderr, "%.*s: %.*s\n", static_cast<int>(subsystem.size()), subsystem.data(),
                     static_cast<int>(text.size()), text.data());
    });
    HttpProxy proxy(options, policy, log);
    if (auto started = proxy.start(); !started) throw std::runtime_error(started.error().message());
    const auto listener =
        proxy.listen(endpoint_of(flags.listen), model::policy::Direction::kIngress);
    if (!listener) throw std::runtime_error(listener.error().message());
    std::cout << "{\"port\": " << listener->port << "}" << std::endl;
    for (int signal = 0; sigwait(&signals, &signal) == 0;) {
        if (signal == SIGHUP) {
            policy.read();
            std::cout << "{\"read\": true}" << std::endl;
        } else if (signal == SIGUSR1) {
            print(proxy.stats());
        } else {
            break;
        }
    }
    proxy.stop(ms(flags.grace_ms));
    print(proxy.stats());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("the HTTP policy proxy by itself");
    Flags flags;
    flags.options.transparent = false;
    add_flags(app, flags);
    CLI11_PARSE(app, argc, argv);
    try {
        return run(flags);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "l7_proxy: %s\n", e.what());
        return 1;
    }
}
