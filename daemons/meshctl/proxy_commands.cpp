// meshctl proxy: who reads through a mesh-proxy, what they watch, what it costs.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <boost/json.hpp>
#include <chrono>
#include <thread>

#include "meshctl/agents.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/proxy_rates.hpp"
#include "meshctl/targets.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;

struct Asked {
    Target target;
    std::string client, sort;
    std::size_t limit = 50;
    double interval = 2;
    bool once = false;
};
using AskedPtr = std::shared_ptr<Asked>;

Result<json::object> ask_object(const AgentSocket& proxy, const std::string& path) {
    MESH_TRY(json::value answer, ask(proxy, path));
    if (!answer.is_object()) return Error(Errc::kCorrupt, path + ": no object");
    return std::move(answer.get_object());
}

double number_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    boost::system::error_code error;
    const double number = value == nullptr ? 0 : value->to_number<double>(error);
    return error ? 0 : number;
}

/// "812 B", "1.4 MiB".
std::string bytes_text(double bytes) {
    constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    for (; bytes >= 1024 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
    return unit == 0 ? fmt::format("{:.0f} B", bytes)
                     : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

/// "12s", "4m", "3h", "9d".
std::string age_text(double seconds) {
    if (seconds < 120) return fmt::format("{:.0f}s", seconds);
    if (seconds < 7200) return fmt::format("{:.0f}m", seconds / 60);
    if (seconds < 172800) return fmt::format("{:.0f}h", seconds / 3600);
    return fmt::format("{:.0f}d", seconds / 86400);
}

std::string upstream_text(const json::object& status) {
    const json::object& upstream = object_of(status, "upstream");
    if (upstream.empty()) return "none, embedded";
    if (!flag_of(upstream, "serving")) {
        return fmt::format("nothing to serve yet: {}", text_of(upstream, "last_failure"));
    }
    const std::string behind =
        fmt::format("{} revisions behind", integer_of(upstream, "lag_revisions"));
    if (!flag_of(upstream, "stale"))
        return fmt::format("in step, {}, {}", behind, text_of(upstream, "endpoint"));
    return fmt::format("stale for {}: {}", age_text(number_of(upstream, "stale_seconds")),
                       text_of(upstream, "last_failure"));
}

std::string tls_text(const json::object& status) {
    const json::object& tls = object_of(status, "tls");
    std::string out;
    for (const auto& [key, name] : {std::pair{"certificate_days", "server certificate"},
                                    std::pair{"ca_days", "CA"}, std::pair{"crl_days", "CRL"}}) {
        if (tls.if_contains(key) == nullptr) continue;
        out += fmt::format("{}{} ends in {:.0f} days", out.empty() ? "" : ", ", name,
                           number_of(tls, key));
    }
    return out;
}

void print_status(const json::object& status) {
    Table table({"WHAT", "NOW"});
    const auto add = [&table](std::string what, std::string now) {
        table.add({std::move(what), std::move(now)});
    };
    add("cluster", fmt::format("{} (id {}), {}", text_of(status, "cluster"),
                               integer_of(status, "id"), text_of(status, "mode")));
    add("upstream", upstream_text(status));
    add("revision", text_of(status, "revision"));
    add("keys", text_of(status, "keys"));
    add("event loops", std::to_string(list_of(status, "loops").size()));
    for (const auto& [name, listener] : object_of(status, "listeners")) {
        if (!listener.is_object()) continue;
        const json::object& of = listener.get_object();
        add(fmt::format("listener {}", std::string_view(name)),
            fmt::format("{} connections, {} taken, {} refused, {} handshakes failed",
                        integer_of(of, "connections"), integer_of(of, "accepted"),
                        integer_of(of, "refused"), integer_of(of, "handshake_failures")));
    }
    add("watchers",
        fmt::format("{} on {} streams, {} behind, {} slow", integer_of(status, "watchers"),
                    integer_of(status, "streams"), integer_of(status, "watchers_behind"),
                    integer_of(status, "watchers_slow")));
    add("queued", bytes_text(number_of(status, "queued_bytes")));
    add("events sent", text_of(status, "sent_events"));
    add("refused", fmt::format("{} calls by role or limit, {} requests throttled",
                               integer_of(status, "denied"), integer_of(status, "throttled")));
    if (const std::string error = text_of(status, "access_error"); !error.empty())
        add("access file", error + "; what was read last holds on");
    if (const std::string tls = tls_text(status); !tls.empty()) add("TLS", tls);
    table.print();
}

void print_left_out(const json::object& document, std::string_view what) {
    if (const std::int64_t more = integer_of(document, "left_out"); more > 0)
        fmt::print("and {} more {}; --limit 0 shows all\n", more, what);
}

std::string name_text(const json::object& row) {
    const std::string name = text_of(row, "name");
    return name.empty() ? "(no certificate)" : name;
}

void print_clients(const json::object& document) {
    Table table({"CLIENT", "ADDRESS", "LISTENER", "ROLE", "CONNECTIONS", "FOR", "STREAMS",
                 "WATCHERS", "SLOW", "QUEUED", "SENT", "EVENTS", "DENIED"});
    const json::array& clients =
        list_of(document, document.contains("clients") ? "clients" : "connections");
    for (const json::value& item : clients) {
        if (!item.is_object()) continue;
        const json::object& row = item.get_object();
        table.add(
            {name_text(row), text_of(row, "address"), text_of(row, "listener"),
             text_of(row, "role"), text_of(row, "connections"), age_text(number_of(row, "seconds")),
             text_of(row, "streams"), text_of(row, "watchers"), text_of(row, "slow"),
             bytes_text(number_of(row, "queued_bytes")), bytes_text(number_of(row, "sent_bytes")),
             text_of(row, "sent_events"), text_of(row, "denied")});
    }
    table.drop_empty_columns();
    table.print();
    print_left_out(document, document.contains("clients") ? "clients" : "connections");
}

void print_watchers(const json::object& document) {
    if (document.contains("ranges")) {
        Table table({"RANGE", "WATCHERS", "BEHIND", "SLOW"});
        for (const json::value& item : list_of(document, "ranges")) {
            if (!item.is_object()) continue;
            const json::object& row = item.get_object();
            table.add({text_of(row, "range"), text_of(row, "watchers"), text_of(row, "behind"),
                       text_of(row, "slow")});
        }
        table.print();
        print_left_out(document, "ranges");
        return;
    }
    Table table({"CLIENT", "ADDRESS", "LISTENER", "ID", "RANGE", "STATE", "EVENTS"});
    for (const json::value& item : list_of(document, "watches")) {
        if (!item.is_object()) continue;
        const json::object& row = item.get_object();
        const char* state = flag_of(row, "slow")     ? "slow"
                            : flag_of(row, "behind") ? "behind"
                                                     : "in step";
        table.add({name_text(row), text_of(row, "address"), text_of(row, "listener"),
                   text_of(row, "id"), text_of(row, "range"), state, text_of(row, "sent_events")});
    }
    table.print();
    print_left_out(document, "watches");
}

/// What `top` shows at a moment.
json::object top_document(json::object status, const json::object& before,
                          const json::object& clients, double seconds, std::size_t limit) {
    json::array rows = client_rates(before, clients, seconds, 0);
    double events = 0, bytes = 0;
    for (const json::value& row : rows) {
        events += number_of(row.get_object(), "events_per_second");
        bytes += number_of(row.get_object(), "bytes_per_second");
    }
    const std::size_t all = rows.size();
    if (limit != 0 && rows.size() > limit) rows.resize(limit);
    const std::size_t left_out = all - rows.size();
    return {{"seconds", seconds},         {"events_per_second", events},
            {"bytes_per_second", bytes},  {"status", std::move(status)},
            {"clients", std::move(rows)}, {"total", all},
            {"left_out", left_out}};
}

void print_top(const json::object& top) {
    const json::object& status = object_of(top, "status");
    fmt::print("{}, revision {}, upstream {}\n", text_of(status, "cluster"),
               text_of(status, "revision"), upstream_text(status));
    fmt::print("{} connections, {} watchers ({} slow), {:.0f} events/s, {}/s, {} queued\n\n",
               integer_of(status, "connections"), integer_of(status, "watchers"),
               integer_of(status, "watchers_slow"), number_of(top, "events_per_second"),
               bytes_text(number_of(top, "bytes_per_second")),
               bytes_text(number_of(status, "queued_bytes")));
    Table table({"CLIENT", "ADDRESS", "LISTENER", "CONNECTIONS", "WATCHERS", "SLOW", "EVENTS/S",
                 "SENT/S", "QUEUED", "DENIED"});
    for (const json::value& item : list_of(top, "clients")) {
        const json::object& row = item.get_object();
        table.add({name_text(row), text_of(row, "address"), text_of(row, "listener"),
                   text_of(row, "connections"), text_of(row, "watchers"), text_of(row, "slow"),
                   fmt::format("{:.1f}", number_of(row, "events_per_second")),
                   bytes_text(number_of(row, "bytes_per_second")) + "/s",
                   bytes_text(number_of(row, "queued_bytes")), text_of(row, "denied")});
    }
    table.drop_empty_columns();
    table.print();
    print_left_out(top, "clients");
}

Result<void> run_top(Context& context, const Asked& asked) {
    MESH_TRY(const AgentSocket proxy, find_proxy(context, asked.target));
    const bool refresh = !asked.once && !context.json() && ::isatty(STDOUT_FILENO) == 1;
    using Clock = std::chrono::steady_clock;
    const std::string path = "/v1/clients?limit=0";
    MESH_TRY(json::object before, ask_object(proxy, path));
    Clock::time_point at = Clock::now();
    do {
        std::this_thread::sleep_for(std::chrono::duration<double>(asked.interval));
        MESH_TRY(json::object status, ask_object(proxy, "/v1/status"));
        MESH_TRY(json::object clients, ask_object(proxy, path));
        const Clock::time_point now = Clock::now();
        const double seconds = std::chrono::duration<double>(now - at).count();
        const json::object top =
            top_document(std::move(status), before, clients, seconds, asked.limit);
        if (context.json()) {
            context.answer(top);
        } else {
            if (refresh) fmt::print("\033[H\033[2J");
            print_top(top);
            std::fflush(stdout);
        }
        before = std::move(clients);
        at = now;
    } while (refresh);
    return {};
}

CLI::App* add_command(CLI::App& parent, Context& context, const AskedPtr& asked,
                      const std::string& name, const std::string& what) {
    CLI::App* command = parent.add_subcommand(name, what);
    auto* cluster = command->add_option("--cluster", asked->target.cluster, "Name of the sandbox");
    command
        ->add_option("--socket", asked->target.socket,
                     "Status socket of the proxy (default /run/mesh-proxy/status.sock, or the "
                     "sandbox's)")
        ->excludes(cluster);
    add_output_flag(*command, context);
    return command;
}

void add_limit(CLI::App& command, const AskedPtr& asked) {
    command.add_option("--limit", asked->limit, "Most rows; 0 = all")->capture_default_str();
}

void add_listing(CLI::App& parent, Context& context, const std::string& name,
                 const std::string& what, const std::string& examples,
                 void (*print)(const json::object&)) {
    auto asked = std::make_shared<Asked>();
    CLI::App* command = add_command(parent, context, asked, name, what);
    command->add_option("--client", asked->client,
                        "One by one those of this client, by its certificate's name");
    add_limit(*command, asked);
    if (name == "clients") {
        command->add_option("--sort", asked->sort, "Highest first")
            ->check(CLI::IsMember(
                {"sent_events", "sent_bytes", "queued_bytes", "watchers", "streams", "slow"}));
    }
    command->footer(examples);
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const AgentSocket proxy, find_proxy(context, asked->target));
        std::string path = fmt::format("/v1/{}?limit={}", name, asked->limit);
        if (!asked->client.empty()) path += "&client=" + query_text(asked->client);
        if (!asked->sort.empty()) path += "&sort=" + asked->sort;
        MESH_TRY(const json::object document, ask_object(proxy, path));
        context.answer(document);
        if (!context.json()) print(document);
        return {};
    });
}

}  // namespace

void add_proxy_commands(CLI::App& app, Context& context) {
    CLI::App* proxy =
        app.add_subcommand("proxy", "Who reads through a mesh-proxy, and what it costs");
    proxy->require_subcommand(1);

    auto asked = std::make_shared<Asked>();
    CLI::App* status = add_command(*proxy, context, asked, "status",
                                   "What the proxy serves, to how many; exit code 3 while it has "
                                   "nothing to serve or is stale");
    status->footer("Examples:\n  meshctl proxy status --cluster cluster1");
    on_chosen(status, context, [=, &context]() -> Result<void> {
        MESH_TRY(const AgentSocket found, find_proxy(context, asked->target));
        MESH_TRY(const json::object document, ask_object(found, "/v1/status"));
        const json::object& upstream = object_of(document, "upstream");
        if (!upstream.empty() && (flag_of(upstream, "stale") || !flag_of(upstream, "serving")))
            context.exit_code = kExitNotReady;
        context.answer(document);
        if (!context.json()) print_status(document);
        return {};
    });
    add_listing(*proxy, context, "clients", "Clients, by their certificates' names and addresses",
                "Examples:\n"
                "  meshctl proxy clients --cluster cluster1 --sort queued_bytes\n"
                "  meshctl proxy clients --socket /run/mesh-proxy/status.sock --client "
                "remote-cluster2",
                print_clients);
    add_listing(*proxy, context, "watchers", "What is watched, and by how many",
                "Examples:\n"
                "  meshctl proxy watchers --cluster cluster1\n"
                "  meshctl proxy watchers --client remote-cluster2 -o json",
                print_watchers);

    auto look = std::make_shared<Asked>();
    look->limit = 20;
    CLI::App* top = add_command(*proxy, context, look, "top",
                                "The busiest clients, again and again on a terminal");
    add_limit(*top, look);
    top->add_option("--interval", look->interval, "Seconds between two looks")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    top->add_flag("--once", look->once, "One table, as where standard output is no terminal");
    top->footer(
        "Examples:\n  meshctl proxy top --cluster cluster1\n"
        "  meshctl proxy top --once --interval 10 -o json");
    on_chosen(top, context, [=, &context] { return run_top(context, *look); });
}

}  // namespace mesh::ctl
