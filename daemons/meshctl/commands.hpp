// The commands of meshctl. Each adds itself to the command line and, when chosen, leaves its exit
// code in the context.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "meshctl/output.hpp"
#include "runtime/clock.hpp"
#include "sandbox/sandbox.hpp"

namespace CLI {
class App;
}

namespace mesh::ctl {

/// What all commands share; outlives the parsing of the command line.
struct Context {
    SystemClock clock;
    Progress progress;
    std::string root = "/run/libmesh/sandbox";
    std::string output = "table";      ///< "table" or "json"
    std::vector<std::string> command;  ///< what stood behind "--"
    int exit_code = kExitOk;

    [[nodiscard]] bool json() const { return output == "json"; }
    /// Prints a line for people; nothing with -o json.
    void say(std::string_view line) const;
    /// Prints the command's result, with -o json only. Once and last, when nothing can fail any
    /// more: a command that fails leaves standard output empty.
    void answer(const boost::json::value& document) const;
    [[nodiscard]] sandbox::Environment environment();
    /// The sandbox meant by --cluster, or the only one there is.
    [[nodiscard]] Result<std::string> cluster(const std::string& given);
};

/// Adds -o json|table to a command.
void add_output_flag(CLI::App& command, Context& context);

/// Runs when its command was chosen; a failure becomes the exit code.
void on_chosen(CLI::App* command, Context& context, std::function<Result<void>()> run);

void add_sandbox_commands(CLI::App& app, Context& context);
/// ca, clustermesh, status, service.
void add_mesh_commands(CLI::App& app, Context& context);
/// monitor, endpoint.
void add_pod_commands(CLI::App& app, Context& context);
/// proxy.
void add_proxy_commands(CLI::App& app, Context& context);
/// encrypt.
void add_encryption_commands(CLI::App& app, Context& context);
/// policy.
void add_policy_commands(CLI::App& app, Context& context);
/// identity.
void add_identity_commands(CLI::App& app, Context& context);
/// connectivity.
void add_connectivity_commands(CLI::App& app, Context& context);

}  // namespace mesh::ctl
