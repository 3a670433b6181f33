// What a program's command line is, for who writes its man page and its shell completion: the
// hidden flag --describe prints it as JSON (packaging/README.md).
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace mesh::daemon {

/// The commands and flags of `app`, in the order of --help, hidden ones left out.
/// Of a command: name, about, footer, flags, positionals, commands (the same again). Of a flag:
/// names, about, group, value ("" if it takes none; else as --help shows it), default, required,
/// env.
/// @return a JSON object in one line, with the version of this build
[[nodiscard]] std::string describe_command_line(const CLI::App& app);

}  // namespace mesh::daemon
