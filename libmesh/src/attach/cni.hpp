// A call of the CNI plugin mesh-cni, from what the runtime gives to what it gets.
//
// ADD: addresses, then the link, then the endpoint file, then the wait for the agent; DEL goes the
// other way. Nothing but these holds state, and each is found by the container's id and the
// device's name: after an ADD that was killed anywhere, DEL leaves nothing.
// @source CNI specification 1.0.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "attach/cni_config.hpp"
#include "attach/cni_result.hpp"
#include "runtime/clock.hpp"

namespace mesh::attach {

/// What the process ends with.
struct CniAnswer {
    int exit_code = 0;
    std::string output;  ///< for standard output; JSON and a line's end, or nothing
};

/// Serves one call in the calling thread's network namespace, which is the node's.
/// @param environment "NAME=value"
/// @param config what came on standard input
/// @thread any thread; blocks it. Delegated plugins die with it.
[[nodiscard]] CniAnswer run_cni(std::vector<std::string> environment, std::string_view config,
                                const Clock& clock);

}  // namespace mesh::attach
