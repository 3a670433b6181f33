// cgroup v2 folders: the nodes' attach points for BPF programs, and the way to find and end every
// process of a node or pod, however it was forked.
#pragma once

#include <chrono>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::sandbox {

/// Where cgroup v2 is mounted, as this process sees it.
/// @errors kNotFound with what to mount
[[nodiscard]] Result<std::string> cgroup_mount();

/// Makes the folder; it may exist. @errors kUnavailable, kPermission
[[nodiscard]] Result<void> make_cgroup(const std::string& path);

/// Moves the calling process there. @errors kNotFound, kPermission, kUnavailable
[[nodiscard]] Result<void> join_cgroup(const std::string& path);

/// Ids of all processes in the folder and below; empty when there is no such folder.
[[nodiscard]] std::vector<int> cgroup_processes(const std::string& path);

/// Signals each process in the folder and below, once.
void signal_cgroup(const std::string& path, int signal);

/// Waits until no process is left in the folder and below.
/// @return false when `timeout` passed first
[[nodiscard]] bool wait_cgroup_empty(const std::string& path, std::chrono::milliseconds timeout);

/// Ends every process below with SIGKILL, also such as are being forked, and removes the folders.
/// No such folder is success.
/// @errors kUnavailable when one cannot be removed
[[nodiscard]] Result<void> destroy_cgroup(const std::string& path);

}  // namespace mesh::sandbox
