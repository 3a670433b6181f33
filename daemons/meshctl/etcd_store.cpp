#include "meshctl/etcd_store.hpp"

#include <CLI/CLI.hpp>
#include <utility>

#include "sandbox/names.hpp"

namespace mesh::ctl {

void add_etcd_flags(CLI::App* command, EtcdFlags& flags, const std::string& right) {
    auto* cluster = command->add_option("--cluster", flags.cluster, "Name of the sandbox");
    command
        ->add_option("--etcd-config", flags.etcd_config,
                     "etcd client YAML of a cluster's own etcd, with the right to " + right)
        ->excludes(cluster);
}

Result<EtcdStore> find_etcd(Context& context, const EtcdFlags& flags) {
    EtcdStore store;
    if (!flags.etcd_config.empty()) {
        auto config = sources::config::read_etcd_yaml(flags.etcd_config);
        if (!config) return config.error().with_prefix("--etcd-config");
        store.config = *std::move(config);
        return store;
    }
    MESH_TRY(const std::string name, context.cluster(flags.cluster));
    const sandbox::Environment environment = context.environment();
    const std::string path = environment.paths(name).etc("admin-etcd.yaml");
    MESH_TRY(store.config, sources::config::read_etcd_yaml(path));
    MESH_TRY(const auto spec,
             sandbox::prepare_exec(environment, name, "", sandbox::node_name(1), {"meshctl"}));
    MESH_TRY(const auto netns, datapath::Netns::open(spec.netns));
    MESH_TRY(auto scope, datapath::NetnsScope::enter(netns));
    store.inside.emplace(std::move(scope));
    return store;
}

}  // namespace mesh::ctl
