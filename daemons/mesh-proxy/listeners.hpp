// Which listeners mesh-proxy has, by its flags, and what those who connect may use up.
#pragma once

#include <mesh/error.hpp>
#include <vector>

#include "flags.hpp"
#include "serving_loop.hpp"

namespace mesh::proxy_daemon {

/// The listener of remotes first, then that of the own cluster's programs, if any. Bounds are those
/// of the whole process. @errors kInvalidArgument names the flag
[[nodiscard]] Result<std::vector<ListenerPlan>> plan_listeners(const Flags& flags);

}  // namespace mesh::proxy_daemon
