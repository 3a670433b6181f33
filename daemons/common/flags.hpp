// The command line that every program shares, on CLI11: --help with examples, --version,
// --log-level,
// --log-format. A program makes a CLI::App, adds its own flags, calls add_common_flags() and
// parse_command_line(), and returns the exit code if it is given one.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/log.hpp"

namespace CLI {
class App;
}

namespace mesh::daemon {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;  ///< something outside failed
inline constexpr int kExitUsage = 2;    ///< bad flags or bad configuration: do not restart as is

enum class LogFormat : std::uint8_t { kText, kJson };

struct CommonFlags {
    LogLevel log_level = LogLevel::kInfo;
    LogFormat log_format = LogFormat::kText;
};

/// Adds --version (-V), --log-level debug|info|warn|error and --log-format text|json.
/// @param examples shown at the end of --help, one command a line
/// @param flags filled by parse_command_line(); must outlive the app
void add_common_flags(CLI::App& app, CommonFlags& flags, std::string_view examples);

/// Parses argv. Prints help and version to stdout, and one line about a bad flag to stderr. A lone
/// --describe, which --help does not show, prints describe_command_line().
/// @return nullopt to go on; kExitOk after --help or --version; kExitUsage after a bad flag
[[nodiscard]] std::optional<int> parse_command_line(CLI::App& app, int argc,
                                                    const char* const* argv);

}  // namespace mesh::daemon
