// Starts programs inside a node's or pod's namespace and cgroup.
#pragma once

#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <vector>

namespace mesh::sandbox {

/// A program to start.
struct ProcessSpec {
    std::vector<std::string> argv;         ///< argv[0] is looked up in PATH of `environment`
    std::vector<std::string> environment;  ///< "NAME=value"
    std::string netns;                     ///< name of the network namespace; "" = the caller's
    std::string cgroup;                    ///< path; "" = the caller's
    std::string working_directory = "/";
    std::string log_file;  ///< standard output and error, appended
    int keep_fd = -1;      ///< a descriptor that it inherits under the same number
};

/// A process, told apart from a later one of the same id by its start time.
struct ProcessId {
    int pid = 0;
    std::uint64_t start_time = 0;  ///< clock ticks since boot, /proc/<pid>/stat field 22
};

/// Starts it in a session of its own, with default signals and nothing else open.
/// @errors kNotFound: no such program, namespace or cgroup; kPermission; kUnavailable. Nothing runs
///   on then.
[[nodiscard]] Result<ProcessId> start_process(const ProcessSpec& spec);

/// Turns the calling process into the program, with its standard streams as they are; returns only
/// on failure.
[[nodiscard]] Error become_process(const ProcessSpec& spec);

/// Whether it runs still; a zombie does not.
[[nodiscard]] bool is_running(const ProcessId& process);
/// Signals it if it still is the same process. @return whether it was there
bool signal_process(const ProcessId& process, int signal);

/// The start time of a process, nullopt when it is gone.
[[nodiscard]] std::optional<std::uint64_t> start_time_of(int pid);

/// The last lines of a text file, at most `lines` and 4 KiB; "" when there are none.
[[nodiscard]] std::string last_lines(const std::string& path, std::size_t lines);

/// Whether a program of that name is found: as a path, or in the folders of PATH.
[[nodiscard]] std::optional<std::string> find_program(const std::string& name,
                                                      const std::string& path_variable);

}  // namespace mesh::sandbox
