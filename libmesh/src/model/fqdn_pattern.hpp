// Which DNS names a matchName or matchPattern selects; the one place that says so. Names are lower
// case, without a dot at the end.
//
// matchName: the name itself. matchPattern: '*' stands for any number of letters, digits, '-' and
// '_', thus never for a dot; "**." in front for one label or more; a lone "*" selects every name.
// @source policy.md §2
#pragma once

#include <string_view>

#include "model/policy.hpp"

namespace mesh::model::policy {

/// True if the pattern selects the name. @param pattern lower case, no dot at the end
/// @complexity O(|pattern| × |name|)
[[nodiscard]] bool matches_pattern(std::string_view pattern, std::string_view name) noexcept;
/// An empty selector selects every name: what a rule without L7 makes of those beside it.
[[nodiscard]] bool matches(const FqdnSelector& selector, std::string_view name) noexcept;

}  // namespace mesh::model::policy
