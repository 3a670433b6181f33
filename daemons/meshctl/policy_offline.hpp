// The world that files describe, for policy trace and policy diff.
#pragma once

#include <memory>
#include <mesh/error.hpp>
#include <string>
#include <vector>

#include "meshctl/policy_command.hpp"
#include "meshctl/policy_world.hpp"

namespace mesh::ctl {

/// @param paths of policies and of manifests
/// @errors kInvalidArgument tells all that is wrong with policies, or the first mistake of others
[[nodiscard]] Result<std::unique_ptr<PolicyWorld>> make_world(
    const OfflineOptions& options, const std::vector<std::string>& paths);

}  // namespace mesh::ctl
