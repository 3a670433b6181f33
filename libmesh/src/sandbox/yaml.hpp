// YAML documents as JSON values and back. A plain scalar becomes null, a boolean or a number by
// YAML 1.2's core schema; a quoted one stays a string, so that an annotation "true" stays text.
#pragma once

#include <boost/json/value.hpp>
#include <mesh/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::sandbox {

/// Parses all documents of a text; empty ones are left out.
/// @param file for errors
/// @errors kInvalidArgument "<file>:<line>: ..."; also for text over 4 MiB, nesting over 64 deep,
///   and a key that comes twice
[[nodiscard]] Result<std::vector<boost::json::value>> parse_yaml(std::string_view text,
                                                                 std::string_view file);

/// One document, ending with a newline. Every string is quoted.
[[nodiscard]] std::string to_yaml(const boost::json::value& value);

}  // namespace mesh::sandbox
