#include "common/describe.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

namespace mesh::daemon {
namespace {

namespace json = boost::json;

json::object describe(const CLI::Option& option) {
    json::array names;
    for (const auto& name : option.get_snames()) names.emplace_back("-" + name);
    for (const auto& name : option.get_lnames()) names.emplace_back("--" + name);
    const bool takes_value = option.get_items_expected_max() > 0;
    json::object out{{"names", std::move(names)},
                     {"about", option.get_description()},
                     {"group", option.get_group()},
                     {"value", takes_value ? option.get_type_name() : std::string()},
                     {"default", option.get_default_str()},
                     {"required", option.get_required()},
                     {"env", option.get_envname()}};
    if (!option.nonpositional()) {
        out["name"] = option.get_name(true);
        out["many"] = option.get_items_expected_max() > 1;
    }
    return out;
}

json::object describe(const CLI::App& app) {
    json::array flags, positionals, commands;
    for (const CLI::Option* option : app.get_options()) {
        if (option->get_group().empty()) continue;
        (option->nonpositional() ? flags : positionals).emplace_back(describe(*option));
    }
    for (const CLI::App* command : app.get_subcommands(nullptr)) {
        if (!command->get_group().empty()) commands.emplace_back(describe(*command));
    }
    return {{"name", app.get_name()},
            {"about", app.get_description()},
            {"footer", app.get_footer()},
            {"flags", std::move(flags)},
            {"positionals", std::move(positionals)},
            {"commands", std::move(commands)}};
}

}  // namespace

std::string describe_command_line(const CLI::App& app) {
    json::object out = describe(app);
    out["version"] = MESH_VERSION;
    return json::serialize(out);
}

}  // namespace mesh::daemon
