// meshctl connectivity ...
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <csignal>
#include <cstdio>
#include <map>

#include "meshctl/commands.hpp"
#include "meshctl/connectivity_cases.hpp"
#include "meshctl/connectivity_checks.hpp"
#include "meshctl/connectivity_plan.hpp"
#include "meshctl/connectivity_probe.hpp"
#include "meshctl/connectivity_report.hpp"
#include "meshctl/connectivity_sandboxes.hpp"

namespace mesh::ctl {
namespace {

namespace json = boost::json;
using namespace connectivity;

constexpr std::chrono::seconds kProgressEvery{2};

volatile std::sig_atomic_t interrupted = 0;

struct TestOptions {
    std::string prefix = "conn";
    std::string ids = "201,202";
    std::string routing = "all";
    std::string only;
    int timeout = 5;  ///< seconds, of one request
    bool list = false, keep = false, reuse = false;
};

/// The cases to run, by routing mode; modes without any are left out.
using Selection = std::vector<std::pair<std::string, std::vector<Case>>>;

Result<Selection> select(const std::vector<std::string>& modes, const std::string& only) {
    Selection selection;
    for (const std::string& mode : modes) {
        MESH_TRY(std::vector<Case> cases, select_cases(mode, only));
        if (!cases.empty()) selection.emplace_back(mode, std::move(cases));
    }
    if (!selection.empty()) return selection;
    return invalid_argument(
        fmt::format("--only \"{}\": no case has a name like it; --list prints the names", only));
}

std::vector<std::string> modes_of(const std::string& routing) {
    if (routing == "both") return {"tunnel", "native"};
    if (routing == "all") return {"tunnel", "native", "encrypted", "encrypted-native"};
    return {routing};
}

void list_cases(const Context& context, const Selection& selection) {
    json::array documents;
    for (const auto& [mode, cases] : selection) {
        for (const Case& one : cases) {
            context.say(one.name(mode));
            documents.push_back(case_document(one, mode));
        }
    }
    context.answer(documents);
}

// From here on an end of any usual kind must still remove what was made.
void catch_signals() {
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        std::signal(number, [](int) { interrupted = 1; });
    }
    std::signal(SIGPIPE, SIG_IGN);
}

/// One run of the test.
class Runner {
  public:
    Runner(Context& context, const TestOptions& options, Plan plan)
        : context_(context),
          options_(options),
          plan_(std::move(plan)),
          sandboxes_(context, plan_, [] { return interrupted != 0; }) {}

    Result<void> run() {
        std::vector<std::string> modes = modes_of(options_.routing);
        if (options_.reuse) {
            MESH_TRY(const std::string mode, sandboxes_.routing_of_existing());
            const bool any = options_.routing == "both" || options_.routing == "all";
            if (!any && options_.routing != mode) {
                return invalid_argument(
                    fmt::format("--routing {}: the sandboxes have {}", options_.routing, mode));
            }
            modes = {mode};
        }
        MESH_TRY(const Selection selection, select(modes, options_.only));
        catch_signals();
        Result<void> outcome = run_modes(selection);
        std::vector<std::string> kept;
        if (options_.keep) {
            kept = sandboxes_.made();
            sandboxes_.keep();
        }
        Result<void> removed = sandboxes_.remove();
        say_kept(kept);
        MESH_CHECK(outcome);
        MESH_CHECK(removed);
        print(report_.summary());
        context_.answer(report_.document(kept));
        if (report_.failed() != 0) context_.exit_code = kExitFailed;
        return {};
    }

  private:
    Result<void> run_modes(const Selection& selection) {
        for (const auto& [mode, cases] : selection) {
            if (!options_.reuse) MESH_CHECK(sandboxes_.make(mode));
            MESH_CHECK(run_cases(mode, cases));
            // The next mode's sandboxes have the same names: those that failed are worth keeping.
            const bool last = mode == selection.back().first;
            if (last || (options_.keep && report_.failed() != 0)) return {};
            MESH_CHECK(sandboxes_.remove());
        }
        return {};
    }

    Result<void> run_cases(const std::string& mode, const std::vector<Case>& cases) {
        MESH_TRY(const Network network, sandboxes_.network());
        const sandbox::Environment environment = context_.environment();
        print(report_.begin(mode, cases, network));
        std::size_t done = 0;
        for (const Case& one : cases) {
            tell_progress(mode, done++, cases.size());
            const Check check = plan_check(one, network, std::chrono::seconds(options_.timeout));
            const auto result = run_probe(environment, check.origin, check.request);
            // Ctrl-C ends the probe as well: what it says then is nobody's fault.
            if (interrupted != 0) return Error(Errc::kCancelled, "interrupted");
            Outcome outcome;
            if (result) {
                outcome.reason = judge(check, *result).value_or("");
                const json::value* taken = result->if_contains("milliseconds");
                if (taken != nullptr && taken->is_double()) {
                    outcome.milliseconds = taken->get_double();
                }
            } else {
                outcome.reason = result.error().detail();
            }
            print(report_.add(one, network, outcome));
        }
        return {};
    }

    // On a terminal the rows themselves tell how far it is.
    void tell_progress(const std::string& mode, std::size_t done, std::size_t all) {
        if (!context_.json() && ::isatty(STDOUT_FILENO) == 1) return;
        const TimePoint now = context_.clock.now();
        if (now - told_ < kProgressEvery) return;
        told_ = now;
        context_.progress(fmt::format("{} routing: {} of {} cases, {} failed", mode, done, all,
                                      report_.failed()));
    }

    // Not fmt::print: when nobody reads any more, the sandboxes are still to be removed.
    void print(const std::string& text) {
        if (context_.json()) return;
        if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) interrupted = 1;
    }

    void say_kept(const std::vector<std::string>& kept) {
        if (kept.empty()) return;
        const std::string names = fmt::format("{}", fmt::join(kept, " "));
        std::fputs(fmt::format("kept: {0}; run cases in them with --reuse, remove them with: "
                               "meshctl sandbox delete {0}\n",
                               names)
                       .c_str(),
                   stderr);
    }

    Context& context_;
    const TestOptions& options_;
    Plan plan_;
    Sandboxes sandboxes_;
    Report report_;
    TimePoint told_{};
};

Result<void> run_test(Context& context, const TestOptions& options) {
    MESH_TRY(Plan plan, Plan::make(options.prefix, options.ids));
    if (options.list) {
        MESH_TRY(const Selection selection, select(modes_of(options.routing), options.only));
        list_cases(context, selection);
        return {};
    }
    Runner runner(context, options, std::move(plan));
    return runner.run();
}

void add_test(CLI::App& parent, Context& context) {
    auto options = std::make_shared<TestOptions>();
    CLI::App* command = parent.add_subcommand(
        "test",
        "Real requests between pods, nodes and services of two clusters that it makes itself: "
        "every answer must come from the right pod, which must have seen the right client address");
    command->add_option("--prefix", options->prefix,
                        "Its sandboxes are PREFIX-a, PREFIX-b and PREFIX-out (default conn)");
    command->add_option("--cluster-ids", options->ids, "Of the two clusters (default 201,202)");
    command
        ->add_option("--routing", options->routing,
                     "tunnel, native, both of these, encrypted (WireGuard around the tunnel, "
                     "strict), encrypted-native, or all (default): the whole matrix in one after "
                     "the other")
        ->check(
            CLI::IsMember({"tunnel", "native", "both", "encrypted", "encrypted-native", "all"}));
    command->add_option("--only", options->only, "Cases whose name this expression is found in")
        ->type_name("REGEX");
    command->add_option("--timeout", options->timeout, "Seconds for each request (default 5)")
        ->check(CLI::Range(1, 600));
    command->add_flag("--list", options->list, "Print the names of the cases, do nothing");
    auto* keep = command->add_flag(
        "--keep", options->keep,
        "Leave the sandboxes; of several modes the first that fails, else the last");
    command->add_flag("--reuse", options->reuse, "Run in sandboxes that --keep left; they stay")
        ->excludes(keep);
    add_output_flag(*command, context);
    command->footer(
        "Names are MODE/WHAT/FAMILY/PROTOCOL/FROM-TO, where a1 is cluster a's node 1 or a pod "
        "there.\n"
        "Exit codes: 0 all passed, 1 a case failed or the clusters could not be made, 2 wrong "
        "usage.\nWith -o json one document at the end, also when cases failed.\n"
        "Examples:\n"
        "  meshctl connectivity test\n"
        "  meshctl connectivity test --routing native --only 'other-cluster/ipv6'\n"
        "  meshctl connectivity test --list --only large\n"
        "  meshctl connectivity test --routing tunnel --keep\n"
        "  meshctl connectivity test --reuse --only 'pod-to-pod.*/a1-b2'");
    on_chosen(command, context, [=, &context] { return run_test(context, *options); });
}

// The process of one probe, in a pod or on a node: prints its result.
void add_probe(CLI::App& parent, Context& context) {
    static const std::map<std::string, Protocol> kinds{
        {"tcp", Protocol::kTcp}, {"udp", Protocol::kUdp}, {"icmp", Protocol::kIcmp}};
    auto request = std::make_shared<ProbeRequest>();
    auto kind = std::make_shared<std::string>();
    auto to = std::make_shared<std::string>();
    auto timeout = std::make_shared<std::int64_t>(5000);
    CLI::App* command = parent.add_subcommand("probe", "")->group("");
    command->add_option("--kind", *kind, "")->required()->check(CLI::IsMember(kinds));
    command->add_option("--to", *to, "")->required();
    command->add_option("--port", request->port, "");
    command->add_option("--size", request->size, "")->check(CLI::Range(0, 1 << 20));
    command->add_option("--count", request->count, "");
    command->add_option("--timeout", *timeout, "")->check(CLI::Range(1, 600'000));
    on_chosen(command, context, [=, &context]() -> Result<void> {
        request->protocol = kinds.at(*kind);
        MESH_TRY(request->to, model::IpAddress::parse(*to));
        request->timeout = std::chrono::milliseconds(*timeout);
        const json::object result = probe(*request);
        fmt::print("{}\n", json::serialize(result));
        if (result.contains("error")) context.exit_code = kExitFailed;
        return {};
    });
}

}  // namespace

void add_connectivity_commands(CLI::App& app, Context& context) {
    CLI::App* connectivity = app.add_subcommand(
        "connectivity", "Whether pods of connected clusters reach one another (needs root)");
    connectivity->require_subcommand(1);
    add_test(*connectivity, context);
    add_probe(*connectivity, context);
}

}  // namespace mesh::ctl
