// Network policies among a sandbox's objects: kept and shown to mesh-operator as written.
#pragma once

#include <mesh/error.hpp>
#include <string_view>

namespace mesh::sandbox {

/// The apiVersion of a kind of policy; empty: no policy.
[[nodiscard]] std::string_view policy_api_version(std::string_view kind) noexcept;

/// Checks the policies among a manifest's documents as mesh-operator will.
/// @errors kInvalidArgument with the first mistake: file, document, line, path, what was expected
[[nodiscard]] Result<void> check_policies(std::string_view yaml, std::string_view file);

}  // namespace mesh::sandbox
