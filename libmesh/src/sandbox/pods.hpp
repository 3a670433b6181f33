// The kubelet of a sandbox: a pod's wires, its process, its end. Internal to this folder.
#pragma once

#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "sandbox/internal.hpp"

namespace mesh::sandbox {

/// Takes addresses on the least loaded node (or spec.nodeName), records the pod as pending.
/// @errors kInvalidArgument: no such node; kCapacity
[[nodiscard]] Result<Pod*> admit_pod(const Environment& environment, Opened& sandbox,
                                     boost::json::object manifest, const std::string& owner);

/// Makes namespace and cgroup, starts the supervisor and through it the process, waits until the
/// readiness probe has passed. Each pod's phase and readiness say how it went; the state is saved.
/// @errors kUnavailable naming the first pod that failed, with its last log lines; the others run
[[nodiscard]] Result<void> start_pods(const Environment& environment, Opened& sandbox,
                                      const std::vector<Pod*>& pods);

/// Asks pods to stop, gives each its grace period, removes what they had; erases them from the
/// state.
[[nodiscard]] Result<void> stop_pods(const Environment& environment, Opened& sandbox,
                                     const std::vector<Pod*>& pods);

/// The program of a pod in its place.
[[nodiscard]] Result<ProcessSpec> pod_process(const Environment& environment, const State& state,
                                              const Names& names, const Pod& pod);

}  // namespace mesh::sandbox
