// meshctl policy import, delete: policies in a cluster's own etcd.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/json.hpp>
#include <optional>

#include "meshctl/commands.hpp"
#include "meshctl/etcd_store.hpp"
#include "meshctl/policy_command.hpp"
#include "meshctl/policy_files.hpp"
#include "publish/policy_import.hpp"
#include "sources/config/etcd_yaml.hpp"
#include "sources/etcd/client.hpp"

namespace mesh::ctl {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;
using publish::PolicyImport;
using publish::PolicyImportChange;

struct StoreOptions {
    EtcdFlags etcd;
    std::vector<std::string> files, names;
    bool dry_run = false;
};

asio::awaitable<void> run_import(etcd::Client& client, PolicyImport what,
                                 std::optional<Result<std::vector<PolicyImportChange>>>& out) {
    client.start();
    out.emplace(co_await publish::import_policies(client, std::move(what)));
    co_await client.async_stop();
}

Result<std::vector<PolicyImportChange>> import(Context& context, const StoreOptions& options,
                                               PolicyImport what) {
    MESH_TRY(const EtcdStore store, find_etcd(context, options.etcd));
    asio::io_context loop(1);
    MESH_TRY(const auto client,
             etcd::Client::make(loop.get_executor(), sources::config::client_options(store.config),
                                context.clock, Rng(), Logger()));
    std::optional<Result<std::vector<PolicyImportChange>>> changes;
    std::exception_ptr thrown;
    asio::co_spawn(loop, run_import(*client, std::move(what), changes),
                   [&thrown](std::exception_ptr error) { thrown = std::move(error); });
    loop.run();
    if (thrown || !changes) return Error(Errc::kInternal, "the import ended by an exception");
    return *std::move(changes);
}

void tell(const Context& context, const std::vector<PolicyImportChange>& changes, bool dry_run) {
    json::array all;
    for (const PolicyImportChange& change : changes) {
        context.say(fmt::format("{} {}{}", change.key.to_string(), to_string(change.what),
                                dry_run ? " (dry run)" : ""));
        all.push_back(json::object{{"kind", to_string(change.key.kind)},
                                   {"namespace", change.key.namespace_},
                                   {"name", change.key.name},
                                   {"change", to_string(change.what)},
                                   {"dry_run", dry_run}});
    }
    context.answer(all);
}

void add_store_options(CLI::App* command, StoreOptions& options, Context& context) {
    add_etcd_flags(command, options.etcd, "write");
    command->add_flag("--dry-run", options.dry_run, "Only tell what would change");
    add_output_flag(*command, context);
}

/// "KIND/NAMESPACE/NAME" or, of a CiliumNetworkPolicy, "NAMESPACE/NAME".
Result<model::policy::PolicyKey> parse_name(const std::string& text) {
    const std::string full =
        std::count(text.begin(), text.end(), '/') == 1 ? "CiliumNetworkPolicy/" + text : text;
    const std::string key = std::string(model::kLocalPoliciesPrefix) + full;
    const auto parsed = model::policy_key_of(model::parse_key(key));
    if (parsed) return *parsed;
    return invalid_argument(fmt::format(
        "\"{}\": expected NAMESPACE/NAME, or KIND/NAMESPACE/NAME with - for no namespace", text));
}

void add_import(CLI::App& parent, Context& context) {
    auto options = std::make_shared<StoreOptions>();
    CLI::App* command = parent.add_subcommand(
        "import",
        "Put policies into a cluster's own etcd, for all its agents; they stay until they are "
        "deleted.\nWhere mesh-operator publishes manifests, put them there instead.");
    add_files(*command, options->files)->required();
    add_store_options(command, *options, context);
    command->footer(
        "Examples:\n"
        "  meshctl policy import --cluster cluster1 -f policies/\n"
        "  meshctl policy import --etcd-config admin-etcd.yaml -f new.yaml --dry-run");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        MESH_TRY(const PolicyFiles files, good_policy_files(options->files));
        if (files.records.empty()) return invalid_argument("no network policy in the files");
        PolicyImport what{files.records, {}, options->dry_run};
        MESH_TRY(const auto changes, import(context, *options, std::move(what)));
        tell(context, changes, options->dry_run);
        return {};
    });
}

void add_delete(CLI::App& parent, Context& context) {
    auto options = std::make_shared<StoreOptions>();
    CLI::App* command =
        parent.add_subcommand("delete", "Take policies that were imported out of a cluster's etcd");
    add_files(*command, options->files);
    command->add_option("policies", options->names,
                        "NAMESPACE/NAME, or KIND/NAMESPACE/NAME with - for no namespace");
    add_store_options(command, *options, context);
    command->footer(
        "Examples:\n"
        "  meshctl policy delete --cluster cluster1 shop/web\n"
        "  meshctl policy delete --cluster cluster1 CiliumClusterwideNetworkPolicy/-/walls\n"
        "  meshctl policy delete --cluster cluster1 -f policies/ --dry-run");
    on_chosen(command, context, [=, &context]() -> Result<void> {
        if (options->files.empty() && options->names.empty()) {
            return invalid_argument("expected -f or policies to delete");
        }
        PolicyImport what{{}, {}, options->dry_run};
        if (!options->files.empty()) {
            MESH_TRY(const PolicyFiles files, good_policy_files(options->files));
            for (const auto& policy : files.policies) what.deletes.push_back(policy->key);
        }
        for (const std::string& name : options->names) {
            MESH_TRY(auto key, parse_name(name));
            what.deletes.push_back(std::move(key));
        }
        MESH_TRY(const auto changes, import(context, *options, std::move(what)));
        tell(context, changes, options->dry_run);
        return {};
    });
}

}  // namespace

void add_policy_store(CLI::App& parent, Context& context) {
    add_import(parent, context);
    add_delete(parent, context);
}

}  // namespace mesh::ctl
