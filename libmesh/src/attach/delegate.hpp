// Calls another CNI plugin, as the specification says of delegated ones: the same environment, the
// same network config on its standard input. @source CNI specification 1.0.0, section 4
#pragma once

#include <chrono>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "attach/cni_result.hpp"
#include "runtime/clock.hpp"

namespace mesh::attach {

/// A program that ended.
struct ProgramEnd {
    int exit_code = 0;   ///< 128 + number when a signal ended it
    std::string output;  ///< of its standard output
};

/// Runs a program to its end. It dies with the caller, so that nothing goes on after a call that
/// was given up; its standard error is the caller's.
/// @param environment "NAME=value"
/// @errors kNotFound, kPermission; kTimeout after the deadline, and it is then killed; kCapacity
///   when it says more than 1 MiB; kUnavailable
/// @thread any thread; blocks it. The program dies with that thread.
[[nodiscard]] Result<ProgramEnd> run_program(const std::string& path,
                                             const std::vector<std::string>& environment,
                                             std::string_view input, std::chrono::seconds timeout,
                                             const Clock& clock);

/// A call of a delegated plugin.
struct DelegateCall {
    std::string_view type;     ///< the plugin's name
    std::string_view command;  ///< "ADD", "DEL" or "CHECK"
    std::string_view path;     ///< CNI_PATH
    std::string_view config;   ///< the network config, as it came
};

/// @param environment of our own call; CNI_COMMAND becomes the call's
/// @return what it printed
/// @errors kBadEnvironment when no folder of CNI_PATH has it; else the plugin's own code and words
[[nodiscard]] CniResult<std::string> call_plugin(const DelegateCall& call,
                                                 const std::vector<std::string>& environment,
                                                 const Clock& clock);

}  // namespace mesh::attach
