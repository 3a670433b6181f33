// The commands of `meshctl workload`.
#pragma once

#include "meshctl/commands.hpp"

namespace mesh::ctl {

/// workload.
void add_workload_commands(CLI::App& app, Context& context);

}  // namespace mesh::ctl
