// Explanations of compile/policy as the values of mesh/explain.hpp.
#pragma once

#include <mesh/explain.hpp>

#include "compile/policy/trace.hpp"

namespace mesh::engine {

[[nodiscard]] Explanation to_view(const compile::Trace& trace);

}  // namespace mesh::engine
