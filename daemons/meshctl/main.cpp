// meshctl: the command line of libmesh. Sandboxes, connections between clusters, status, services.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "common/flags.hpp"
#include "meshctl/commands.hpp"
#include "meshctl/workload_commands.hpp"

namespace mesh::ctl {

sandbox::Environment Context::environment() {
    sandbox::Environment environment;
    environment.root = root;
    std::error_code error;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    environment.programs = error ? "/usr/bin" : self.parent_path().string();
    environment.clock = &clock;
    environment.progress = [this](std::string_view text) { progress(text); };
    return environment;
}

Result<std::string> Context::cluster(const std::string& given) {
    if (!given.empty()) return given;
    MESH_TRY(const std::vector<sandbox::Summary> all, sandbox::list(environment()));
    if (all.size() == 1) return all.front().name;
    return invalid_argument(all.empty() ? "no sandbox here: expected --socket, or --cluster"
                                        : "several sandboxes here: expected --cluster");
}

void Context::say(std::string_view line) const {
    if (!json()) fmt::print("{}\n", line);
}

void Context::answer(const boost::json::value& document) const {
    if (json()) print_json(document);
}

void on_chosen(CLI::App* command, Context& context, std::function<Result<void>()> run) {
    command->callback([&context, run = std::move(run)] {
        if (auto done = run(); !done) context.exit_code = fail(done.error());
    });
}

void add_output_flag(CLI::App& command, Context& context) {
    command.add_option("-o,--output", context.output, "table (default), text to read; or json")
        ->check(CLI::IsMember({"table", "json"}))
        ->type_name("FORMAT");
}

}  // namespace mesh::ctl

int main(int argc, char** argv) {
    using namespace mesh;
    CLI::App app(
        "Clusters in one mesh: try them on this machine, connect them, see what they know.\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage or manifest, 3 not ready.\n"
        "With -o json standard output is one document, or empty when the command fails.",
        "meshctl");
    app.set_version_flag("-V,--version", "meshctl " MESH_VERSION, "Print the version and exit");
    app.require_subcommand(1);
    app.footer(
        "Examples:\n"
        "  meshctl sandbox create --name cluster1 --cluster-id 1 --pod-cidr 10.10.0.0/16 "
        "--service-cidr 10.11.0.0/16 --nodes 2\n"
        "  meshctl clustermesh connect --cluster cluster1 --to cluster2\n"
        "  meshctl status --cluster cluster1 --wait\n"
        "  meshctl service get shop/echo --cluster cluster1\n"
        "  meshctl monitor --cluster cluster1 --drops\n"
        "  meshctl connectivity test\n"
        "meshctl COMMAND --help tells more of each.");
    ctl::Context context;
    app.add_option("--root", context.root, "Folder of the sandboxes (default /run/libmesh/sandbox)")
        ->envname("MESH_SANDBOX_ROOT");
    ctl::add_sandbox_commands(app, context);
    ctl::add_mesh_commands(app, context);
    ctl::add_pod_commands(app, context);
    ctl::add_proxy_commands(app, context);
    ctl::add_encryption_commands(app, context);
    ctl::add_policy_commands(app, context);
    ctl::add_identity_commands(app, context);
    ctl::add_workload_commands(app, context);
    ctl::add_connectivity_commands(app, context);
    // What stands behind "--" is another program's command line, whatever it looks like.
    char** const end = argv + argc;
    char** const mark =
        std::find_if(argv, end, [](const char* word) { return std::string_view(word) == "--"; });
    if (mark != end) context.command.assign(mark + 1, end);
    const int own = static_cast<int>(mark - argv);
    if (const auto code = daemon::parse_command_line(app, own, argv)) return *code;
    return context.exit_code;
}
