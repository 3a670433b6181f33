#include "common/flags.hpp"

#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <string>

#include "common/describe.hpp"

namespace mesh::daemon {

void add_common_flags(CLI::App& app, CommonFlags& flags, std::string_view examples) {
    static const std::map<std::string, LogLevel> kLevels{{"debug", LogLevel::kDebug},
                                                         {"info", LogLevel::kInfo},
                                                         {"warn", LogLevel::kWarn},
                                                         {"error", LogLevel::kError}};
    static const std::map<std::string, LogFormat> kFormats{{"text", LogFormat::kText},
                                                           {"json", LogFormat::kJson}};
    const auto choice = [&app](const std::string& name, const auto& names, auto& target,
                               const std::string& about, const std::string& type) {
        app.add_option_function<std::string>(
               name, [&names, &target](const std::string& text) { target = names.at(text); }, about)
            ->check(CLI::IsMember(names))
            ->type_name(type);
    };
    choice("--log-level", kLevels, flags.log_level, "Least level that is logged (default info)",
           "debug|info|warn|error");
    choice("--log-format", kFormats, flags.log_format, "Lines of text or of JSON (default text)",
           "text|json");
    app.set_version_flag("-V,--version", app.get_name() + " " MESH_VERSION,
                         "Print the version and exit");
    if (!examples.empty()) app.footer("Examples:\n" + std::string(examples));
}

namespace {

const CLI::App& last_chosen(const CLI::App& app) {
    const CLI::App* at = &app;
    while (!at->get_subcommands().empty()) at = at->get_subcommands().back();
    return *at;
}

}  // namespace

std::optional<int> parse_command_line(CLI::App& app, int argc, const char* const* argv) {
    if (argc == 2 && std::string_view(argv[1]) == "--describe") {
        std::cout << describe_command_line(app) << '\n';
        return kExitOk;
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
        std::cout << app.help();
        return kExitOk;
    } catch (const CLI::CallForAllHelp&) {
        std::cout << app.help("", CLI::AppFormatMode::All);
        return kExitOk;
    } catch (const CLI::CallForVersion& version) {
        std::cout << version.what() << '\n';
        return kExitOk;
    } catch (const CLI::RequiredError& error) {
        // A word that is no command is what went wrong, rather than that there is none.
        const auto rest = last_chosen(app).remaining();
        const std::string what =
            rest.empty() ? error.what() : "unknown command or argument: " + rest.front();
        std::cerr << app.get_name() << ": " << what << "\nTry " << app.get_name() << " --help.\n";
        return kExitUsage;
    } catch (const CLI::ParseError& error) {
        std::cerr << app.get_name() << ": " << error.what() << "\nTry " << app.get_name()
                  << " --help.\n";
        return kExitUsage;
    }
    return std::nullopt;
}

}  // namespace mesh::daemon
