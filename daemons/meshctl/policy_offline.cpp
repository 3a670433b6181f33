#include "meshctl/policy_offline.hpp"

namespace mesh::ctl {

Result<std::unique_ptr<PolicyWorld>> make_world(const OfflineOptions& options,
                                                const std::vector<std::string>& paths) {
    using compile::Enforcement;
    compile::PolicyOptions policy;
    policy.cluster = options.cluster;
    policy.default_local_cluster = !options.all_clusters;
    policy.enforcement = options.enforcement == "always"  ? Enforcement::kAlways
                         : options.enforcement == "never" ? Enforcement::kNever
                                                          : Enforcement::kDefault;
    MESH_TRY(const auto inputs, read_inputs(paths));
    const PolicyFiles files = parse_policy_files(inputs);
    if (!files.errors.empty()) return invalid_argument(all_errors(files));
    auto world = std::make_unique<PolicyWorld>(std::move(policy));
    if (!options.identities.empty()) {
        MESH_TRY(const auto identities, read_inputs({options.identities}));
        for (const InputFile& file : identities) MESH_CHECK(world->add_identities(file));
    }
    MESH_CHECK(world->add_manifests(inputs));
    world->add_policies(files.policies);
    return world;
}

}  // namespace mesh::ctl
