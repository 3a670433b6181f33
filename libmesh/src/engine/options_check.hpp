// What a MeshOptions may say, before anything is opened.
#pragma once

#include <mesh/error.hpp>
#include <mesh/mesh.hpp>

namespace mesh::engine {

/// @errors kInvalidArgument: the option that is wrong, and what was expected
[[nodiscard]] Result<void> check_options(const MeshOptions& options);

}  // namespace mesh::engine
