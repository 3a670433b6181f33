// The parts of `meshctl policy`, a file each.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mesh::ctl {

struct Context;

/// Adds -f.
CLI::Option* add_files(CLI::App& command, std::vector<std::string>& paths);

void add_policy_trace(CLI::App& parent, Context& context);
void add_policy_diff(CLI::App& parent, Context& context);
/// import, delete.
void add_policy_store(CLI::App& parent, Context& context);

/// How policies are meant where no agent says it.
struct OfflineOptions {
    std::string cluster = "default";
    std::string identities;  ///< file
    std::string enforcement = "default";
    bool all_clusters = false;
};
void add_offline_options(CLI::App& command, OfflineOptions& options);

}  // namespace mesh::ctl
