// The mesh's prefixes as groups of watched ranges, for metrics: few, however many ranges there are.
#pragma once

#include <span>
#include <string_view>

#include "state/store/ops.hpp"

namespace mesh::serve {

/// All groups, in the order in which they are told; the last one, "other", is what none holds.
/// @thread any thread
[[nodiscard]] std::span<const std::string_view> watch_groups();

/// The position in watch_groups() of the narrowest group that the range lies within.
/// @complexity O(groups). @thread any thread
[[nodiscard]] std::size_t watch_group_of(const store::KeyRange& range);

}  // namespace mesh::serve
